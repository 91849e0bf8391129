//! Which Secrets are named by what is wanted: no others are read.
//!
//! An object that names a Secret nobody has looked at yet waits until somebody has, in the form
//! that names it: a plan must not read "not looked at" as "not there". What the object was before
//! serves meanwhile.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use realm_plan::{Demand, Kind, Name};
use tokio::sync::watch;

use super::handle;

type Object = (Kind, Name);

/// A form of an object that is wanted.
#[derive(Debug)]
pub(super) struct Form {
    pub(super) demand: Box<Demand>,
    pub(super) generation: i64,
}

/// Who names which Secrets, and who waits for them.
#[derive(Debug)]
pub(super) struct Named {
    /// What each object names, in the form that is planned.
    planned: BTreeMap<Object, Vec<Name>>,
    waiting: BTreeMap<Object, Form>,
    looked_at: BTreeSet<Name>,
    /// Kinds that name Secrets and whose objects are not all known yet.
    unsynced: BTreeSet<Kind>,
    is_changed: bool,
    told: watch::Sender<Arc<BTreeSet<Name>>>,
}

impl Named {
    pub(super) fn new() -> Self {
        Self {
            planned: BTreeMap::new(),
            waiting: BTreeMap::new(),
            looked_at: BTreeSet::new(),
            unsynced: BTreeSet::from([Kind::Model, Kind::Tenant]),
            is_changed: false,
            told: watch::Sender::default(),
        }
    }

    /// The Secrets that are named, and each time that they become others.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<BTreeSet<Name>>> {
        self.told.subscribe()
    }

    /// Gives the form back to be planned, unless it has to wait. It takes the place of any other
    /// that waits.
    pub(super) fn admit(&mut self, form: Form) -> Option<Form> {
        let object = handle::object_of(&form.demand);
        self.is_changed |= self.waiting.remove(&object).is_some();
        if form.demand.secrets().iter().all(|name| self.looked_at.contains(name)) {
            self.plan(object, &form);
            return Some(form);
        }
        self.waiting.insert(object, form);
        self.is_changed = true;
        None
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
        let waits = |form: &Form| form.demand.secrets().contains(name);
        let is_ready = |form: &Form| {
            form.demand.secrets().iter().all(|secret| self.looked_at.contains(secret))
        };
        let ready: Vec<Object> = self
            .waiting
            .iter()
            .filter(|(_, form)| waits(form) && is_ready(form))
            .map(|(object, _)| object.clone())
            .collect();
        let mut forms = Vec::new();
        for object in ready {
            if let Some(form) = self.waiting.remove(&object) {
                self.plan(object, &form);
                forms.push(form);
            }
        }
        forms
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
    pub(super) fn synced(&mut self, kind: Kind) {
        self.unsynced.remove(&kind);
    }

    /// Whether everything that is named has been looked at.
    pub(super) fn is_whole(&self) -> bool {
        self.unsynced.is_empty() && self.waiting.is_empty()
    }

    /// Objects that wait.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Object> {
        self.waiting.keys()
    }

    fn names(&self) -> impl Iterator<Item = &Name> {
        let waiting = self.waiting.values().flat_map(|form| form.demand.secrets());
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
