//! What is known of the Secrets of one namespace that somebody names. Pure: time is an argument.
//!
//! A Secret is read when it is first named, when the watch says that it is another one, and when it
//! could not be read before. What is read is kept as far as there is room. One for which there is
//! none takes no room from another: what somebody names or lets grow shuts nobody else's doors.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use realm_plan::{Name, Reason, validate};
use tokio::time::Instant;

use super::read::{Found, Read, ReadError};
use crate::fleet::handle::Look;

/// Bytes of Secrets kept of one namespace: sixteen thousand keys of 128 bytes, or two Secrets as
/// large as Kubernetes lets them be. An operator of fifty namespaces, each of which is full, holds
/// a hundred megabytes.
const NAMESPACE_BYTES_MAX: usize = 2 << 20;

/// Refusals in a row after which a Secret is one that may not be read. An API server that starts
/// refuses everybody for a moment, before it knows any Role; with the pauses between these it has
/// had seven seconds, and a wrong answer would shut the doors to whoever has a key in it.
const REFUSALS_MAX: u32 = 4;

/// The pause after a first failure, doubled with each one that follows, up to the second.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The Secrets of one namespace that somebody names.
#[derive(Debug, Default)]
pub(super) struct Known {
    by_name: BTreeMap<Name, Entry>,
    /// Those that the list which is being read has shown.
    listed: BTreeSet<Name>,
    reads: u64,
}

#[derive(Debug, Default)]
struct Entry {
    /// When it is to be read, if nothing that is known answers for it.
    due: Option<Instant>,
    /// Which read is under way.
    reading: Option<u64>,
    failures: u32,
    /// How many of the last failures in a row were refusals.
    refusals: u32,
    last: Last,
}

/// What the last look gave.
#[derive(Debug, Default)]
enum Last {
    #[default]
    Nothing,
    Absent,
    Refused,
    Found {
        version: String,
        bytes: usize,
        is_kept: bool,
    },
}

/// One Secret to be read, and by which read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Task {
    pub(super) name: Name,
    pub(super) read: u64,
}

/// What the fleet is to be told.
pub(super) type Looks = Vec<(Name, Look)>;

impl Known {
    /// Takes in which Secrets are named now.
    pub(super) fn name(&mut self, named: &BTreeSet<Name>, now: Instant) -> Looks {
        let unnamed: Vec<Name> =
            self.by_name.keys().filter(|name| !named.contains(*name)).cloned().collect();
        for name in &unnamed {
            self.by_name.remove(name);
        }
        for name in named {
            let due = Some(now);
            self.by_name.entry(name.clone()).or_insert_with(|| Entry { due, ..Entry::default() });
        }
        self.make_room(now);
        unnamed.into_iter().map(|name| (name, Look::Unnamed)).collect()
    }

    /// A list begins.
    pub(super) fn list(&mut self) {
        self.listed.clear();
    }

    /// The list that is being read shows a Secret.
    pub(super) fn see(&mut self, name: &Name, version: Option<&str>, now: Instant) {
        if self.by_name.contains_key(name) {
            self.listed.insert(name.clone());
        }
        self.change(name, version, now);
    }

    /// The list is whole: what it has not shown is not there any more, and what could not be read
    /// may be readable now.
    pub(super) fn listed(&mut self, now: Instant) {
        let listed = std::mem::take(&mut self.listed);
        for (name, entry) in &mut self.by_name {
            let is_gone = matches!(entry.last, Last::Found { .. }) && !listed.contains(name);
            if is_gone || entry.failures > 0 {
                entry.due = Some(now);
            }
        }
    }

    /// A Secret has that version from now on, or is gone.
    pub(super) fn change(&mut self, name: &Name, new: Option<&str>, now: Instant) {
        let Some(entry) = self.by_name.get_mut(name) else { return };
        let is_same = match &entry.last {
            Last::Found { version, .. } => new == Some(version),
            Last::Nothing | Last::Absent | Last::Refused => false,
        };
        if !is_same {
            entry.due = Some(now);
        }
    }

    /// The next Secret to be read now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Task> {
        let is_due = |entry: &Entry| entry.reading.is_none() && entry.due.is_some_and(|d| d <= now);
        let (name, entry) = self.by_name.iter_mut().find(|(_, entry)| is_due(entry))?;
        self.reads = self.reads.wrapping_add(1);
        (entry.due, entry.reading) = (None, Some(self.reads));
        Some(Task { name: name.clone(), read: self.reads })
    }

    /// When the next one is to be read.
    pub(super) fn due(&self) -> Option<Instant> {
        let idle = self.by_name.values().filter(|entry| entry.reading.is_none());
        idle.filter_map(|entry| entry.due).min()
    }

    /// Takes in what a read gave.
    pub(super) fn take(&mut self, task: &Task, read: Read, now: Instant) -> Looks {
        let Some(entry) = self.by_name.get_mut(&task.name) else { return Looks::new() };
        if entry.reading != Some(task.read) {
            // It was named anew meanwhile, and is read anew.
            return Looks::new();
        }
        entry.reading = None;
        match read {
            Read::Absent => {
                (entry.failures, entry.refusals, entry.last) = (0, 0, Last::Absent);
                self.make_room(now);
                vec![(task.name.clone(), Look::Absent)]
            }
            Read::Found(found) => self.keep(&task.name, found, now),
            Read::Failed(error) => {
                let look = entry.fail(&task.name, &error, now);
                look.map(|look| (task.name.clone(), look)).into_iter().collect()
            }
        }
    }

    fn keep(&mut self, name: &Name, found: Found, now: Instant) -> Looks {
        let Found { version, bytes, content } = found;
        let others = self.by_name.iter().filter(|(other, _)| *other != name);
        let others: usize = others.map(|(_, entry)| entry.kept_bytes()).sum();
        let Some(entry) = self.by_name.get_mut(name) else { return Looks::new() };
        let is_kept = others.saturating_add(bytes) <= NAMESPACE_BYTES_MAX;
        (entry.failures, entry.refusals) = (0, 0);
        entry.last = Last::Found { version, bytes, is_kept };
        self.make_room(now);
        let look = if is_kept { Look::Found(content) } else { too_large(name, bytes, others) };
        vec![(name.clone(), look)]
    }

    /// Has what now has room read again, the first by name before the others.
    fn make_room(&mut self, now: Instant) {
        let mut total: usize = self.by_name.values().map(Entry::kept_bytes).sum();
        for entry in self.by_name.values_mut() {
            let Last::Found { bytes, is_kept: false, .. } = entry.last else { continue };
            let with = total.saturating_add(bytes);
            if with <= NAMESPACE_BYTES_MAX {
                total = with;
                if entry.reading.is_none() {
                    entry.due.get_or_insert(now);
                }
            }
        }
    }
}

impl Entry {
    const fn kept_bytes(&self) -> usize {
        match self.last {
            Last::Found { bytes, is_kept: true, .. } => bytes,
            _ => 0,
        }
    }

    /// What is known stays what is known; where nothing is, it is said at last that nothing will be.
    fn fail(&mut self, name: &Name, error: &ReadError, now: Instant) -> Option<Look> {
        let pause = PAUSE_MIN.saturating_mul(1 << self.failures.min(8)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1);
        self.due.get_or_insert(now + pause);
        let is_refused = matches!(error, ReadError::Refused);
        self.refusals = if is_refused { self.refusals.saturating_add(1) } else { 0 };
        match self.last {
            Last::Nothing if self.refusals >= REFUSALS_MAX => {
                self.last = Last::Refused;
                let namespace = name.namespace();
                let message = format!("the operator may not read it in namespace `{namespace}`");
                Some(withheld(name, Reason::SecretNotReadable, message))
            }
            _ => None,
        }
    }
}

fn too_large(name: &Name, bytes: usize, total: usize) -> Look {
    let message = format!(
        "it has {bytes} bytes, and others of the namespace that are named have {total}; \
         {NAMESPACE_BYTES_MAX} are the most"
    );
    withheld(name, Reason::SecretTooLarge, message)
}

/// A look at a Secret of which nothing is kept.
pub(super) fn withheld(name: &Name, reason: Reason, message: String) -> Look {
    Look::Withheld(validate::withheld(name.clone(), reason, message))
}

#[cfg(test)]
mod tests;
