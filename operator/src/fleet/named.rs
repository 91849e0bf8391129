//! Which Secrets are named by what is wanted: no others are read.
//!
//! An object that names a Secret nobody has looked at yet waits until somebody has, in the form
//! that names it: a plan must not read "not looked at" as "not there". What the object was before
//! serves meanwhile. It waits for so long and no longer, whatever becomes of the Secret and however
//! often the object changes: what else its form says, such as that it is suspended, is not to wait
//! for what whoever may change it chooses to name, and nor is anybody else.
//! Time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use realm_plan::{Demand, Kind, Name};
use tokio::{sync::watch, time::Instant};

use super::handle;

/// How long an object waits: a Secret is looked at within milliseconds, unless the API server has
/// much else to do.
const LOOK_WAIT: Duration = Duration::from_secs(5);

/// How long a new leader's first plan waits for all of them, from when it knows who names any: as
/// long as it waits for agents. A plan without a Secret that is only slow to come shuts doors.
const FIRST_LOOK_WAIT: Duration = Duration::from_secs(45);

type Object = (Kind, Name);

/// A form of an object that is wanted.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) demand: Box<Demand>,
    pub(super) generation: i64,
}

/// A form that waits, and since when its object has not been planned in a newer one.
#[derive(Debug)]
struct Waiting {
    form: Form,
    since: Instant,
}

/// Whether there has been a first plan, for which everybody who names a Secret waits together.
#[derive(Debug, PartialEq, Eq)]
enum First {
    /// Kinds that name Secrets and whose objects are not all known yet.
    Unsynced(BTreeSet<Kind>),
    Waits {
        until: Instant,
    },
    Begun,
}

/// Who names which Secrets, and who waits for them.
#[derive(Debug)]
pub(super) struct Named {
    /// What each object names, in the form that is planned.
    planned: BTreeMap<Object, Vec<Name>>,
    waiting: BTreeMap<Object, Waiting>,
    looked_at: BTreeSet<Name>,
    first: First,
    is_changed: bool,
    told: watch::Sender<Arc<BTreeSet<Name>>>,
}

impl Named {
    pub(super) fn new() -> Self {
        Self {
            planned: BTreeMap::new(),
            waiting: BTreeMap::new(),
            looked_at: BTreeSet::new(),
            first: First::Unsynced(BTreeSet::from([Kind::Model, Kind::Tenant])),
            is_changed: false,
            told: watch::Sender::default(),
        }
    }

    /// The Secrets that are named, and each time that they become others.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<BTreeSet<Name>>> {
        self.told.subscribe()
    }

    /// Gives the form back to be planned, unless it has to wait. It takes the place of any other
    /// that waits, and its time.
    pub(super) fn admit(&mut self, form: Form, now: Instant) -> Option<Form> {
        let object = handle::object_of(&form.demand);
        let before = self.waiting.remove(&object);
        self.is_changed |= before.is_some();
        if self.is_looked_at(&form) {
            self.plan(object, &form);
            return Some(form);
        }
        let since = before.map_or(now, |before| before.since);
        self.waiting.insert(object, Waiting { form, since });
        self.is_changed = true;
        None
    }

    fn is_looked_at(&self, form: &Form) -> bool {
        form.demand.secrets().iter().all(|name| self.looked_at.contains(name))
    }

    fn plan(&mut self, object: Object, form: &Form) {
        let secrets = form.demand.secrets();
        let before = if secrets.is_empty() {
            self.planned.remove(&object).unwrap_or_default()
        } else {
            self.planned.insert(object, secrets.to_vec()).unwrap_or_default()
        };
        self.is_changed |= before != secrets;
    }

    /// Nobody waits any more to be planned in a form that is not the newest.
    pub(super) fn refuse(&mut self, object: &Object) {
        self.is_changed |= self.waiting.remove(object).is_some();
    }

    pub(super) fn remove(&mut self, object: &Object) {
        self.refuse(object);
        self.is_changed |= self.planned.remove(object).is_some();
    }

    /// Takes in that somebody has looked at a Secret. Gives those that waited for this alone.
    pub(super) fn look(&mut self, name: &Name) -> Vec<Form> {
        self.looked_at.insert(name.clone());
        let ready = self.waiting.iter().filter(|(_, Waiting { form, .. })| {
            form.demand.secrets().contains(name) && self.is_looked_at(form)
        });
        let ready: Vec<Object> = ready.map(|(object, _)| object.clone()).collect();
        ready.into_iter().filter_map(|object| self.let_go(object)).collect()
    }

    /// Gives those that have waited for long enough, and the Secrets that nobody has looked at: to
    /// be planned without what these hold.
    pub(super) fn overdue(&mut self, now: Instant) -> (Vec<Form>, BTreeSet<Name>) {
        let is_over = |waiting: &Waiting| self.ends(waiting).is_some_and(|at| at <= now);
        let over = self.waiting.iter().filter(|(_, waiting)| is_over(waiting));
        let over: Vec<Object> = over.map(|(object, _)| object.clone()).collect();
        let forms: Vec<Form> = over.into_iter().filter_map(|object| self.let_go(object)).collect();
        let named = forms.iter().flat_map(|form| form.demand.secrets());
        let unseen: BTreeSet<Name> =
            named.filter(|name| !self.looked_at.contains(*name)).cloned().collect();
        self.looked_at.extend(unseen.iter().cloned());
        (forms, unseen)
    }

    fn let_go(&mut self, object: Object) -> Option<Form> {
        let Waiting { form, .. } = self.waiting.remove(&object)?;
        self.plan(object, &form);
        Some(form)
    }

    /// When a form has waited for long enough.
    fn ends(&self, waiting: &Waiting) -> Option<Instant> {
        match self.first {
            First::Unsynced(_) => None,
            First::Waits { until } => Some(until),
            First::Begun => Some(waiting.since + LOOK_WAIT),
        }
    }

    /// When the next form has waited for long enough.
    pub(super) fn due(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|waiting| self.ends(waiting)).min()
    }

    /// Takes in that nobody looks at a Secret any more. Gives whether nobody names it either: what
    /// was named anew meanwhile is looked at anew, and stays what it is until then.
    pub(super) fn forget(&mut self, name: &Name) -> bool {
        let is_named = self.names().any(|named| named == name);
        if !is_named {
            self.looked_at.remove(name);
        }
        !is_named
    }

    /// Takes in that every object of a kind has been told of.
    pub(super) fn synced(&mut self, kind: Kind, now: Instant) {
        if let First::Unsynced(kinds) = &mut self.first {
            kinds.remove(&kind);
            if kinds.is_empty() {
                self.first = First::Waits { until: now + FIRST_LOOK_WAIT };
            }
        }
    }

    /// Whether everything that was named at the start has been looked at, or waited for. Once it is
    /// so it stays so.
    pub(super) fn is_whole(&mut self) -> bool {
        if matches!(self.first, First::Waits { .. }) && self.waiting.is_empty() {
            self.first = First::Begun;
        }
        self.first == First::Begun
    }

    /// Objects that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Object> {
        self.waiting.keys()
    }

    fn names(&self) -> impl Iterator<Item = &Name> {
        let waiting = self.waiting.values().flat_map(|waiting| waiting.form.demand.secrets());
        self.planned.values().flatten().chain(waiting)
    }

    /// Tells which Secrets are named, if these are others than before.
    pub(super) fn tell(&mut self) {
        if std::mem::take(&mut self.is_changed) {
            let names: BTreeSet<Name> = self.names().cloned().collect();
            self.told.send_if_modified(|told| {
                let is_new = **told != names;
                *told = Arc::new(names);
                is_new
            });
        }
    }
}

#[cfg(test)]
mod tests;
