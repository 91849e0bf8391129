//! Which door has what part of each tenant's limits, by what tenants use where.
//!
//! Every door spends by [`Slices`] that are leased to it. [`divide`] says which it should have;
//! what goes out is what it may have now. A larger slice waits until others have said that theirs
//! are smaller, so that at every moment what all doors may spend by, what they hold and what they
//! have been sent and not answered, is at most the whole of each limit. Messages may be lost,
//! agents and operators start anew: a door that cannot be reached keeps what it may hold until
//! whoever has a clock says that it is lost, and as long as one has yet to say what it holds,
//! nobody is given more.
//!
//! Pure state. Each call into it costs what is new; [`Shares::turn`] looks at tenants that use
//! anything, every few seconds.

mod along;
mod applied;
mod divide;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use crate::{name::Name, reached::EachReached};
use along::{Along, AlongDoor};
pub use applied::Applied;
use divide::{Claim, divide};

/// Parts of a whole limit, as agents count them.
pub const PARTS: u32 = 1 << 20;

/// What each limit that doors share out has: requests, input tokens and output tokens of a minute,
/// and calls at once.
pub type Each<T> = [T; 4];

/// The place of the limit on calls: what was let in goes on whatever becomes of the slice.
const CALLS: usize = 3;

/// From one division to the next: several times what it takes until all doors have theirs, and
/// short against the minute in which a bucket fills.
const DIVIDE_EVERY: Duration = Duration::from_secs(5);

/// How long those that have answered wait for those that have not: what a hundred doors give back
/// is looked through once or twice, and not each time that one of them speaks.
const GATHER: Duration = Duration::from_secs(1);

/// How long a tenant has used nothing anywhere when its limits are shared out evenly again.
const IDLE_AFTER: Duration = Duration::from_mins(2);

/// How far ahead of the epochs given out one may be that a door says it holds, as with generations.
const LEAP_MAX: u64 = 1 << 32;

/// One door's slices of every tenant's limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slices {
    /// Only grows; 0 where nobody has leased any.
    pub epoch: u64,
    /// Of the limits of tenants that are not below.
    pub share: u32,
    pub tenants: BTreeMap<Name, Each<u32>>,
}

/// What tenants use at one door, measured when it spent by these slices already.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spends {
    pub epoch: u64,
    pub tenants: BTreeMap<Name, Use>,
    /// Of tenants of whom any limit refused calls there in the last minute; `None` of an agent of a
    /// release that does not tell it.
    pub reached: Option<BTreeMap<Name, EachReached>>,
}

/// What one tenant uses at a door.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Use {
    /// Parts of each limit, at the pace of the last seconds.
    pub used: Each<u32>,
    /// Whether calls were refused that a larger slice would have let in.
    pub is_short: Each<bool>,
    /// Parts that calls in hand take of their limit where that is more than the slice.
    pub calls_over: u32,
}

/// All doors, what they hold, and what they should.
#[derive(Clone, Debug)]
pub struct Shares {
    next_epoch: u64,
    doors: BTreeMap<String, Door>,
    /// Of how many doors there may be.
    count: u32,
    /// How many doors the last leader knew that may not have come back yet.
    recalled: u32,
    /// Tenants whose limits are not shared out evenly.
    wanted: BTreeMap<Name, Wanted>,
    divided_at: Option<Duration>,
    /// When it was last looked which slices to leave.
    left_at: Option<Duration>,
    /// How often limits of some tenant were divided anew, until somebody counts it.
    divisions: u64,
    /// Whether anything is new since the last turn.
    is_new: bool,
    /// Whether other doors share than at the last turn, or what they do not share is another part.
    is_moved: bool,
}

#[derive(Clone, Debug, Default)]
struct Door {
    kind: Kind,
    is_connected: bool,
    /// What it said that it holds when it came, until it has said what is used of it.
    stated: Option<Arc<Slices>>,
    spends: Arc<Spends>,
}

#[derive(Clone, Debug, Default)]
enum Kind {
    /// It has yet to say what it holds.
    #[default]
    Unheard,
    /// Of an older release: it takes an even part.
    Even,
    Sliced {
        held: Arc<Slices>,
        /// The last that were left for it. Newer than what it holds while it has not answered.
        left: Option<Arc<Slices>>,
    },
}

/// What doors should have of one tenant's limits.
#[derive(Clone, Debug, Default)]
struct Wanted {
    /// By the doors that can be given other slices.
    parts: BTreeMap<String, Each<u32>>,
    /// Since when nothing is used anywhere.
    idle_since: Option<Duration>,
}

/// Parts that each of so many doors has where nobody uses more than another.
const fn even(doors: u32) -> u32 {
    match PARTS.checked_div(doors) {
        Some(even) => even,
        None => PARTS,
    }
}

impl Door {
    /// What was left for it that it has not answered.
    fn unanswered(&self) -> Option<&Arc<Slices>> {
        match &self.kind {
            Kind::Sliced { held, left } => left.as_ref().filter(|left| held.epoch < left.epoch),
            Kind::Unheard | Kind::Even => None,
        }
    }

    /// Whether it may have been there under another leader.
    fn was_leased(&self) -> bool {
        match &self.kind {
            Kind::Unheard => false,
            Kind::Even => true,
            Kind::Sliced { held, .. } => held.epoch > 0 || held.share > 0,
        }
    }

    /// What it holds, if other slices can be left for it now.
    fn open(&self) -> Option<&Arc<Slices>> {
        match &self.kind {
            Kind::Sliced { held, .. } if self.is_connected && self.stated.is_none() => {
                self.unanswered().is_none().then_some(held)
            }
            _ => None,
        }
    }

    /// Whether other slices can be left for it, now or when it has answered.
    const fn is_movable(&self) -> bool {
        matches!(self.kind, Kind::Sliced { .. }) && self.is_connected
    }

    /// The most that it may spend of every tenant's limits that has no slices of its own.
    fn share(&self, even: u32) -> u32 {
        match &self.kind {
            Kind::Unheard => 0,
            Kind::Even => even,
            Kind::Sliced { held, .. } => {
                held.share.max(self.unanswered().map_or(0, |left| left.share))
            }
        }
    }
}

fn most(a: Each<u32>, b: Each<u32>) -> Each<u32> {
    std::array::from_fn(|limit| a[limit].max(b[limit]))
}

impl Shares {
    /// No doors yet. The first slices have `first_epoch`: one more than any door has seen.
    pub const fn new(first_epoch: u64) -> Self {
        Self {
            next_epoch: first_epoch,
            doors: BTreeMap::new(),
            count: 0,
            recalled: 0,
            wanted: BTreeMap::new(),
            divided_at: None,
            left_at: None,
            divisions: 0,
            is_new: true,
            is_moved: true,
        }
    }

    /// Remembers how many doors the last leader knew; 0 once those that did not come back are said
    /// to be lost. A new one is none of them, and so makes up for none.
    pub fn recall(&mut self, doors: u32) {
        self.is_new |= self.recalled != doors;
        self.recalled = doors;
    }

    /// Takes what a door says it holds, when it has come. It counts when it has said what is used
    /// of it; until then what it may have held before does.
    pub fn holds(&mut self, node: &str, slices: Arc<Slices>) {
        let epoch = slices.epoch;
        if self.next_epoch <= epoch && epoch - self.next_epoch <= LEAP_MAX {
            self.next_epoch = epoch.saturating_add(1);
        }
        let door = self.doors.entry(node.to_owned()).or_default();
        door.is_connected = true;
        door.stated = Some(slices);
        self.is_moved = true;
    }

    /// Takes what is used at a door. It answers what was left for it under the same epoch.
    pub fn spends(&mut self, node: &str, spends: Arc<Spends>) {
        let Some(door) = self.doors.get_mut(node) else { return };
        if let Some(stated) = door.stated.take_if(|stated| stated.epoch <= spends.epoch) {
            let before = std::mem::take(&mut door.kind);
            let left = match before {
                // It may yet take what it was left before it lost what it held.
                Kind::Sliced { held, left } => left.or(Some(held)),
                Kind::Unheard | Kind::Even => None,
            };
            door.kind = Kind::Sliced { held: stated, left };
            self.is_moved = true;
        }
        if let Kind::Sliced { held, left: Some(left) } = &mut door.kind
            && held.epoch < left.epoch
            && left.epoch == spends.epoch
        {
            *held = left.clone();
            self.is_new = true;
        }
        let is_over = |spends: &Spends| spends.tenants.values().any(|it| it.calls_over > 0);
        if is_over(&door.spends) || is_over(&spends) {
            self.is_new = true;
            self.is_moved |= !door.is_movable();
        }
        door.spends = spends;
    }

    /// Notes that a door is of an older release.
    pub fn older(&mut self, node: &str) {
        let door = Door { kind: Kind::Even, is_connected: true, ..Door::default() };
        self.doors.insert(node.to_owned(), door);
        self.is_moved = true;
    }

    /// Notes that nobody can reach a door for now.
    pub fn away(&mut self, node: &str) {
        if let Some(door) = self.doors.get_mut(node) {
            door.is_connected = false;
            door.stated = None;
            self.is_moved = true;
        }
    }

    /// Forgets doors that are lost.
    pub fn retain(&mut self, is_known: impl Fn(&str) -> bool) {
        let before = self.doors.len();
        self.doors.retain(|node, _| is_known(node));
        self.is_moved |= self.doors.len() != before;
    }

    /// Which slices to leave for which doors, of `count` that there are or may be; `None` where
    /// nothing has been said since the last turn, or others are waited for that are about to
    /// answer, and it is not time to divide either. `now` is the time since any moment that the
    /// owner has chosen once.
    pub fn turn(&mut self, count: u32, now: Duration) -> Option<Vec<(String, Arc<Slices>)>> {
        let is_due = self.division_due().is_some_and(|due| due <= now);
        let is_first = self.divided_at.is_none();
        self.is_moved |= self.count != count || is_first;
        let is_early = self.gathered_at().is_some_and(|gathered| now < gathered);
        if !is_due && (is_early || !(self.is_new || self.is_moved)) {
            return None;
        }
        self.count = count;
        self.is_new = false;
        if std::mem::take(&mut self.is_moved) || is_due {
            self.divide(now, is_due || is_first);
        }
        self.left_at = Some(now);
        Some(self.leave())
    }

    /// When time alone may change the division, or what is left for whom.
    pub fn due(&self) -> Option<Duration> {
        let is_new = self.is_new || self.is_moved;
        let gathered = self.gathered_at().filter(|_| is_new);
        self.division_due().into_iter().chain(gathered).min()
    }

    fn division_due(&self) -> Option<Duration> {
        let is_used = self.doors.values().any(|door| !door.spends.tenants.is_empty());
        let divided_at = self.divided_at.filter(|_| is_used || !self.wanted.is_empty());
        divided_at.map(|at| at.saturating_add(DIVIDE_EVERY))
    }

    /// Until when those that can answer are waited for.
    fn gathered_at(&self) -> Option<Duration> {
        let is_awaited = |door: &Door| door.is_connected && door.unanswered().is_some();
        let left_at = self.left_at.filter(|_| self.doors.values().any(is_awaited));
        left_at.map(|at| at.saturating_add(GATHER))
    }

    /// How often some tenant's limits were divided anew since this was asked last.
    pub const fn take_divisions(&mut self) -> u64 {
        std::mem::replace(&mut self.divisions, 0)
    }

    /// Tenants whose limits are not shared out evenly.
    pub fn tenants(&self) -> usize {
        self.wanted.len()
    }

    /// The newest epoch that has been given out, or that a door has named.
    pub const fn newest(&self) -> u64 {
        self.next_epoch.saturating_sub(1)
    }

    /// Says what doors should have of the limits of tenants that use them, at most every few
    /// seconds; of one whose doors come and go, at once.
    fn divide(&mut self, now: Duration, is_due: bool) {
        let even = even(self.count);
        let Self { doors, wanted, .. } = self;
        let (movable, fixed): (Vec<_>, Vec<_>) =
            doors.iter().partition(|(_, door)| door.is_movable());
        let mut tenants: BTreeSet<&Name> = wanted.keys().collect();
        if is_due {
            self.divided_at = Some(now);
            for (_, door) in &movable {
                along::join(&mut tenants, door.spends.tenants.keys());
            }
        }
        let tenants: Vec<Name> = tenants.into_iter().cloned().collect();
        let mut fixed: Vec<_> = fixed.into_iter().map(|(_, door)| door.along(even)).collect();
        let mut sharing: Vec<_> =
            movable.iter().map(|(node, door)| (*node, door.along(even))).collect();
        for tenant in tenants {
            let taken = along::sum_of_parts(fixed.iter_mut(), &tenant);
            let budget = taken.map(|taken| PARTS.saturating_sub(taken));
            let last = wanted.get(&tenant);
            let is_stale = last.is_some_and(|last| !last.is_of(&movable, budget));
            let claims = claims(&tenant, &mut sharing, last);
            let is_idle = claims.iter().flatten().all(Claim::is_idle);
            if !is_stale && (!is_due || (is_idle && last.is_none())) {
                continue;
            }
            let idle_since = is_idle.then(|| last.and_then(|last| last.idle_since).unwrap_or(now));
            if idle_since.is_some_and(|since| IDLE_AFTER <= now.saturating_sub(since)) {
                wanted.remove(&tenant);
                continue;
            }
            let next = divided(&claims, budget, even);
            if is_stale || is_better(&claims, &next) {
                let nodes = movable.iter().map(|(node, _)| (*node).clone());
                let parts = nodes.zip(next).collect();
                wanted.insert(tenant, Wanted { parts, idle_since });
                self.divisions = self.divisions.saturating_add(1);
            } else if let Some(last) = wanted.get_mut(&tenant) {
                last.idle_since = idle_since;
            }
        }
    }

    /// Leaves each door that has answered what it should have, as far as others have let go of it.
    fn leave(&mut self) -> Vec<(String, Arc<Slices>)> {
        let even = even(self.count);
        let is_whole = self.is_whole();
        let free = |held: u32| if is_whole { PARTS.saturating_sub(held) } else { 0 };
        let mut open: BTreeMap<&String, Slices> = self
            .doors
            .iter()
            .filter_map(|(node, door)| door.open().map(|_| (node, Slices::default())))
            .collect();
        let held = self.doors.values().map(|door| door.share(even));
        let mut left = free(held.fold(0, u32::saturating_add));
        for (node, slices) in &mut open {
            let now = self.doors.get(*node).and_then(Door::open).map_or(0, |held| held.share);
            slices.share = step(now, even, &mut left);
        }
        let mut along: Vec<(&String, AlongDoor<'_>)> =
            self.doors.iter().map(|(node, door)| (node, door.along(even))).collect();
        for tenant in self.named() {
            let may = along::sum_of_parts(along.iter_mut().map(|(_, door)| door), tenant);
            let mut left = may.map(free);
            let mut wanted = self.wanted.get(tenant).map(|wanted| Along::new(&wanted.parts));
            let mut doors = along.iter_mut();
            for (node, slices) in &mut open {
                let Some((_, door)) = doors.find(|(door, _)| door == node) else { continue };
                let now = door.held(tenant);
                let wanted = wanted.as_mut().and_then(|wanted| wanted.get(node).copied());
                let wanted = wanted.unwrap_or([even; 4]);
                let next: Each<u32> =
                    std::array::from_fn(|limit| step(now[limit], wanted[limit], &mut left[limit]));
                if next != [slices.share; 4] {
                    slices.tenants.insert(tenant.clone(), next);
                }
            }
        }
        let open = open.into_iter().map(|(node, slices)| (node.clone(), slices)).collect();
        self.publish(open)
    }

    /// Whether all doors have said what they hold. Whoever has yet to may hold anything.
    fn is_whole(&self) -> bool {
        let heard = self.doors.values().filter(|door| !matches!(door.kind, Kind::Unheard)).count();
        let back = self.doors.values().filter(|door| door.was_leased()).count();
        let is_many = |doors: usize, least| u32::try_from(doors).map_or(true, |it| least <= it);
        is_many(heard, self.count) && is_many(back, self.recalled)
    }

    /// Every tenant of which some door has slices of its own, or should have.
    fn named(&self) -> BTreeSet<&Name> {
        let mut named: BTreeSet<&Name> = self.wanted.keys().collect();
        for door in self.doors.values() {
            let held = match &door.kind {
                Kind::Sliced { held, .. } => Some(held),
                Kind::Unheard | Kind::Even => None,
            };
            for slices in held.into_iter().chain(door.unanswered()) {
                along::join(&mut named, slices.tenants.keys());
            }
        }
        named
    }

    /// Gives the next epoch to what is not as the doors have it.
    fn publish(&mut self, open: BTreeMap<String, Slices>) -> Vec<(String, Arc<Slices>)> {
        let epoch = self.next_epoch;
        let mut changed = Vec::new();
        for (node, slices) in open {
            let Some(door) = self.doors.get_mut(&node) else { continue };
            let Kind::Sliced { held, left } = &mut door.kind else { continue };
            let is_same = held.share == slices.share && held.tenants == slices.tenants;
            // Without a lease it would go by the number of doors in its next state, and one that
            // names another than it is thought to hold may hold anything.
            if is_same && held.epoch > 0 && held.epoch == door.spends.epoch {
                continue;
            }
            let slices = Arc::new(Slices { epoch, ..slices });
            *left = Some(slices.clone());
            changed.push((node, slices));
        }
        if !changed.is_empty() {
            self.next_epoch = epoch.saturating_add(1);
        }
        changed
    }
}

impl Wanted {
    /// Whether it is how doors share these budgets.
    fn is_of(&self, doors: &[(&String, &Door)], budget: Each<u32>) -> bool {
        let sums = self.parts.values().fold([0_u32; 4], |all, parts| {
            std::array::from_fn(|limit| all[limit].saturating_add(parts[limit]))
        });
        self.parts.keys().eq(doors.iter().map(|(node, _)| *node)) && sums == budget
    }
}

/// What each door has and wants of each limit of a tenant.
fn claims(
    tenant: &Name,
    doors: &mut [(&String, AlongDoor<'_>)],
    last: Option<&Wanted>,
) -> Vec<Each<Claim>> {
    let mut last = last.map(|last| Along::new(&last.parts));
    let of_door = |(node, door): &mut (&String, AlongDoor<'_>)| {
        let has = last.as_mut().and_then(|last| last.get(node).copied());
        let has = has.unwrap_or_else(|| door.held(tenant));
        let Use { used, is_short, calls_over: _ } = door.uses(tenant);
        std::array::from_fn(|limit| Claim {
            has: has[limit],
            used: used[limit],
            is_short: is_short[limit],
        })
    };
    doors.iter_mut().map(of_door).collect()
}

/// What each door should have of each limit.
fn divided(claims: &[Each<Claim>], budget: Each<u32>, even: u32) -> Vec<Each<u32>> {
    let mut doors = vec![[0; 4]; claims.len()];
    for (limit, budget) in budget.into_iter().enumerate() {
        let of_limit: Vec<Claim> = claims.iter().map(|claims| claims[limit]).collect();
        for (door, parts) in doors.iter_mut().zip(divide(&of_limit, budget, even)) {
            door[limit] = parts;
        }
    }
    doors
}

/// Whether a door that lacks something would have clearly more of it: what changes little is left
/// as it is.
fn is_better(claims: &[Each<Claim>], next: &[Each<u32>]) -> bool {
    let mut pairs = claims.iter().flatten().zip(next.iter().flatten());
    pairs.any(|(claim, next)| claim.lacks() && claim.has.saturating_add(claim.has / 8) < *next)
}

/// From what a door has to what it should have, a raise as far as there is anything `left`.
fn step(now: u32, wanted: u32, left: &mut u32) -> u32 {
    if wanted <= now {
        return wanted;
    }
    let given = (wanted - now).min(*left);
    *left -= given;
    now + given
}

#[cfg(test)]
mod tests;
