//! The one owner of all demands and all reports: what is wanted meets what there is.
//!
//! Objects come in as [`Command`]s, nodes through the [`Registry`]. An object waits until somebody
//! has looked at the Secrets that it names ([`named`]). Whatever comes within [`GATHER`] is taken
//! together ([`intake`]), planned once, left for the agents and told to whoever writes status as a
//! [`Snapshot`] ([`standing`]). Nothing else plans. What part of tenants' limits each door may spend
//! is settled in the same turns ([`slicing`]), as is which of these limits refuse calls
//! ([`refusing`]).

pub(crate) mod ages;
mod answers;
pub mod handle;
mod intake;
mod named;
mod refusing;
mod said;
mod slicing;
pub mod standing;
mod totals;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use realm_plan::{
    Demand, Fleet, Kind, Name, NodePlan, Reason,
    desired::Desired,
    validate::{self, Site},
};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use self::{
    ages::Ages,
    answers::Answers,
    handle::{Command, Content, Handle, Look},
    intake::Nodes,
    named::{Form, Named},
    refusing::Refusing,
    said::Said,
    slicing::Slicing,
    standing::Snapshot,
    totals::Totals,
};
use crate::{
    lease::Term,
    link::registry::{NodeView, Registry, TooManyNodes},
    metrics::FleetMetrics,
};

/// How long changes are gathered before they are planned: short against the second in which a
/// change should be everywhere, long enough that a thousand objects at once are one plan.
const GATHER: Duration = Duration::from_millis(50);

/// Commands that wait for the loop: a burst of one `kubectl apply`. Whoever finds no room waits.
const COMMANDS_BUFFERED_MAX: usize = 1024;

/// The longest wait for a key to expire: the clock that it expires by may be set meanwhile.
const EXPIRY_LOOK_MAX: Duration = Duration::from_hours(1);

/// The loop, ready to run.
pub struct FleetLoop {
    fleet: Fleet,
    registry: Registry,
    term: Term,
    nodes: Nodes,
    named: Named,
    said: Said,
    slicing: Slicing,
    refusing: Refusing,
    answers: Answers,
    ages: Ages,
    totals: Totals,
    /// When to look at the keys again: the next one expires.
    keys_due: Option<Instant>,
    /// The generation of the spec that each object's newest demand came from.
    observed: BTreeMap<(Kind, Name), i64>,
    credentials: BTreeMap<Name, Arc<[u8]>>,
    /// Secrets that open sources with something else since the last turn.
    reopened: BTreeSet<Name>,
    commands: mpsc::Receiver<Command>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    metrics: FleetMetrics,
    /// The moment that the fleet's times count from.
    started: Instant,
}

impl FleetLoop {
    /// A loop for one term of leading, and the handle that others reach it by.
    pub fn new(term: Term, registry: Registry, metrics: FleetMetrics) -> (Self, Handle) {
        let (sender, commands) = mpsc::channel(COMMANDS_BUFFERED_MAX);
        let (snapshot, seen) = watch::channel(Arc::default());
        let started = Instant::now();
        let mut planned = Fleet::new(Site::Cluster, term.first_generation);
        planned.recall_doors(term.doors);
        let slicing = Slicing::new(term.first_generation, started);
        let named = Named::new();
        let handle = Handle::new(sender, seen, named.subscribe());
        let fleet = Self {
            fleet: planned,
            registry,
            term,
            nodes: Nodes::new(started),
            named,
            said: Said::default(),
            slicing,
            refusing: Refusing::new(started),
            answers: Answers::default(),
            ages: Ages::default(),
            totals: Totals::default(),
            keys_due: None,
            observed: BTreeMap::new(),
            credentials: BTreeMap::new(),
            reopened: BTreeSet::new(),
            commands,
            snapshot,
            metrics,
            started,
        };
        (fleet, handle)
    }

    /// Plans for as long as anybody holds a handle.
    pub async fn run(mut self) {
        while self.wait().await {
            let until = Instant::now() + GATHER;
            while let Some(command) = self.next_before(until).await {
                self.take(command);
            }
            self.know_secrets(Instant::now());
            self.named.tell();
            self.turn();
        }
    }

    /// Waits for something to do; `false` when nobody can want anything any more.
    async fn wait(&mut self) -> bool {
        let due = self.due();
        tokio::select! {
            command = self.commands.recv() => match command {
                Some(command) => self.take(command),
                None => return false,
            },
            () = self.registry.changed() => {}
            () = sleep_or_forever(due) => {}
        }
        true
    }

    async fn next_before(&mut self, until: Instant) -> Option<Command> {
        tokio::select! {
            biased; // Time is up even while commands keep coming.
            () = sleep_until(until) => None,
            command = self.commands.recv() => command,
        }
    }

    /// When time alone changes something: a model has been idle, a node is lost, an object is
    /// young no more, or a key expires.
    fn due(&self) -> Option<Instant> {
        let planned = self.fleet.due().map(|due| self.started + due);
        let nodes = self.nodes.due(Instant::now());
        let nodes = nodes.into_iter().chain(self.slicing.due()).chain(self.refusing.due());
        let told = self.ages.due().into_iter().chain(self.keys_due).chain(self.totals.due());
        planned.into_iter().chain(nodes).chain(self.named.due()).chain(told).min()
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Apply { demand, generation } => {
                if let Some(form) = self.named.admit(Form { demand, generation }, Instant::now()) {
                    self.apply(form);
                }
            }
            Command::Refuse { kind, name, problems, generation } => {
                self.named.refuse(&(kind, name.clone()));
                self.observe((kind, name.clone()), generation);
                self.fleet.refuse(kind, name, problems);
            }
            Command::Remove { kind, name } => self.remove(kind, &name),
            Command::Retain { kind, names } => {
                let known = self.observed.keys().chain(self.named.waiting());
                let gone: Vec<Name> = known
                    .filter(|(known, name)| *known == kind && !names.contains(name))
                    .map(|(_, n)| n.clone())
                    .collect();
                for name in gone {
                    self.remove(kind, &name);
                }
            }
            Command::Look { name, look } => self.look(&name, look),
            Command::Synced(kind) => {
                self.fleet.synced(kind);
                self.named.synced(kind, Instant::now());
            }
            Command::Recall { node, models } => {
                self.nodes.recall(&node);
                self.fleet.recall(&node, models);
            }
            Command::Totals { tenant, told } => self.totals.recall(tenant, told),
            Command::Claimed { model, claimed } => self.fleet.recall_claimed(&model, claimed),
            Command::Expect => self.nodes.expect(),
            Command::Told { kind, name } => self.ages.recall((kind, name)),
            Command::Labels { node, labels } => {
                if labels.is_none() {
                    self.registry.dismiss(&node);
                    // One that its agent may yet come back to goes when it is lost.
                    if !self.nodes.is_known(&node) {
                        self.totals.leave(&node);
                    }
                }
                self.nodes.label(node, labels);
            }
            Command::Labelled => self.fleet.labelled(),
        }
    }

    fn apply(&mut self, Form { demand, generation }: Form) {
        self.observe(handle::object_of(&demand), generation);
        self.fleet.apply(*demand);
    }

    fn observe(&mut self, object: (Kind, Name), generation: i64) {
        self.ages.see(object.clone(), Instant::now());
        if self.observed.insert(object.clone(), generation) != Some(generation) {
            self.answers.expect(object);
        }
    }

    fn remove(&mut self, kind: Kind, name: &Name) {
        let object = (kind, name.clone());
        if self.observed.remove(&object).is_some() {
            // Whoever was told of it may hold it until it has answered that it is to go.
            self.answers.expect(object.clone());
        }
        self.named.remove(&object);
        if kind == Kind::Tenant {
            self.totals.forget(name);
        }
        self.ages.forget(&object);
        self.fleet.remove(kind, name);
    }

    fn look(&mut self, name: &Name, look: Look) {
        match look {
            Look::Found(Content { secret, opening, place: _ }) => {
                self.fleet.apply(Demand::Secret(secret));
                self.open(name, opening);
            }
            Look::Withheld(secret) => {
                self.fleet.apply(Demand::Secret(secret));
                self.open(name, None);
            }
            Look::Absent => self.forget(name),
            Look::Unnamed => {
                if self.named.forget(name) {
                    self.forget(name);
                }
                return;
            }
        }
        for form in self.named.look(name) {
            self.apply(form);
        }
    }

    fn forget(&mut self, secret: &Name) {
        self.fleet.remove(Kind::Secret, secret);
        self.open(secret, None);
    }

    /// Keeps what a Secret opens sources with.
    fn open(&mut self, secret: &Name, with: Option<Vec<u8>>) {
        let new = with.map(Arc::<[u8]>::from);
        if self.credentials.get(secret) == new.as_ref() {
            return;
        }
        self.reopened.insert(secret.clone());
        match new {
            Some(new) => drop(self.credentials.insert(secret.clone(), new)),
            None => drop(self.credentials.remove(secret)),
        }
    }

    /// Lets those go who have waited for Secrets for long enough. All are known once nobody who was
    /// there at the start waits for one.
    fn know_secrets(&mut self, now: Instant) {
        let (forms, unseen) = self.named.overdue(now);
        for name in unseen {
            tracing::warn!(secret = %name, "planned without it: nobody could read it in time");
            let message = "the operator has not been able to read it yet".to_owned();
            let secret = validate::withheld(name, Reason::SecretNotReadable, message);
            self.fleet.apply(Demand::Secret(secret));
        }
        for form in forms {
            self.apply(form);
        }
        if self.named.is_whole() {
            self.fleet.synced(Kind::Secret);
        }
    }

    /// One turn: takes in what nodes say, plans, and tells everybody.
    fn turn(&mut self) {
        let began = Instant::now();
        let views = self.registry.snapshot();
        for lost in self.nodes.take(&mut self.fleet, &views, began) {
            tracing::info!(node = lost, "lost; its models go elsewhere");
            if !self.nodes.is_in_cluster(&lost) {
                self.totals.leave(&lost);
            }
            self.registry.forget(&lost);
        }
        let plans = self.fleet.plan(began - self.started);
        self.metrics.planned(began.elapsed(), plans.len());
        // Before anybody is told, so that the Lease is behind the agents for as short as can be.
        self.term.given.send_modify(|given| given.doors = self.fleet.doors());
        self.answers
            .tell(plans.iter().map(|plan| (plan.node.clone(), plan.desired.generation)).collect());
        self.slice(&views);
        self.publish(plans);
        self.reopen(&views);
        self.said.update(&views, |node| self.nodes.is_known(node), began);
        let awaits = self.nodes.awaits_recalled();
        self.refusing.hear(&views, |node| self.nodes.is_known(node), awaits, began);
        self.answers.hear(|node, generation| self.nodes.answer(node, generation));
        self.ages.pass(began);
        // Before every tenant has been read nobody knows what their statuses say.
        if self.fleet.is_synced() {
            let nodes = &self.nodes;
            self.totals.sweep(|node| nodes.is_in_cluster(node) || nodes.is_known(node));
            let observed = &self.observed;
            let is_tenant = |name: &Name| observed.contains_key(&(Kind::Tenant, name.clone()));
            self.totals.hear(&views, is_tenant);
            self.totals.tell(began);
        }
        // Who is awaited is known once every object has been read, and not before.
        let is_settled = self.fleet.is_synced() && self.nodes.is_settled(began);
        let unix_seconds = unix_seconds();
        self.keys_due = self.fleet.next_expiry(unix_seconds).map(|expiry| {
            let left = Duration::from_secs(expiry.saturating_sub(unix_seconds));
            began + left.min(EXPIRY_LOOK_MAX)
        });
        let next = standing::snapshot(
            &self.fleet,
            &self.observed,
            (&self.said, &self.slicing, &self.refusing),
            (&self.answers, &self.ages, &self.totals),
            unix_seconds,
            is_settled,
        );
        self.snapshot.send_if_modified(|last| {
            let next = next.sharing(last);
            let is_new = next != **last;
            *last = Arc::new(next);
            is_new
        });
    }

    /// Leaves each door what it may spend, which comes before what it should hold: a new door knows
    /// tenants by no state that it was told without.
    fn slice(&mut self, views: &BTreeMap<String, NodeView>) {
        // Before the first plan nobody knows how many doors there are.
        if !self.fleet.is_synced() {
            return;
        }
        let (nodes, doors) = (&self.nodes, (self.fleet.doors(), self.fleet.doors_recalled()));
        let out = (&self.registry, &self.metrics);
        self.slicing.turn(views, |node| nodes.is_known(node), doors, out);
        // The next leader begins above both.
        let newest = self.slicing.newest();
        self.term.given.send_modify(|given| given.generation = given.generation.max(newest));
    }

    /// Leaves each node what it should hold, and what opens its sources.
    fn publish(&mut self, plans: Vec<NodePlan>) {
        let newest = plans.iter().map(|plan| plan.desired.generation).max();
        let nodes = plans.len();
        for NodePlan { node, desired } in plans {
            self.nodes.tell(&node, desired.generation);
            self.term.given.send_modify(|given| {
                given.generation = given.generation.max(desired.generation);
            });
            let left = self
                .leave_credentials(&node, &desired)
                .and_then(|()| self.registry.set_desired(&node, Arc::new(desired)));
            if let Err(error) = left {
                tracing::error!(node, %error, "a node gets no state");
            }
        }
        if let Some(generation) = newest {
            tracing::debug!(generation, nodes, "published");
        }
    }

    /// Leaves what opens the sources to nodes whose state is the same, where that is something
    /// else now.
    fn reopen(&mut self, views: &BTreeMap<String, NodeView>) {
        let reopened = std::mem::take(&mut self.reopened);
        if reopened.is_empty() {
            return;
        }
        for node in views.keys() {
            let Some(desired) = self.fleet.desired(node) else { continue };
            let mut secrets = desired.models.iter().filter_map(|model| model.secret.as_ref());
            if secrets.any(|secret| reopened.contains(secret))
                && let Err(error) = self.leave_credentials(node, desired)
            {
                tracing::error!(node, %error, "a node gets no credentials");
            }
        }
    }

    fn leave_credentials(&self, node: &str, desired: &Desired) -> Result<(), TooManyNodes> {
        let credentials = intake::credentials(desired, &self.credentials);
        self.registry.set_credentials(node, Arc::new(credentials))
    }
}

/// Seconds of the Unix epoch, which is what keys expire by. A clock before it has none expired.
fn unix_seconds() -> u64 {
    u64::try_from(Timestamp::now().as_second()).unwrap_or(0)
}

async fn sleep_or_forever(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
