//! What is wanted of one kind: the API server's events as commands to the fleet. Pure.

use std::collections::{BTreeMap, BTreeSet};

use kube::runtime::watcher::Event;
use realm_plan::Name;

use super::Served;
use crate::fleet::handle::Command;

/// Which form of an object: that of another object of the same name is another one.
type Form = (Option<String>, i64);

/// What the fleet has been told of one kind.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    told: BTreeMap<Name, Form>,
    /// What the list that is being read has had so far.
    listed: BTreeSet<Name>,
    /// Whether every object that there was has been read once.
    is_synced: bool,
}

impl Wanted {
    /// What the fleet is to be told, in this order, after an event.
    pub(super) fn hear<K: Served>(&mut self, event: &Event<K>) -> Vec<Command> {
        match event {
            Event::Init => {
                self.listed.clear();
                Vec::new()
            }
            Event::InitApply(object) => {
                self.listed.extend(Name::of(object.meta()));
                // Later statuses are this operator's own and tell it nothing.
                let recalled = if self.is_synced { Vec::new() } else { recalled(object) };
                recalled.into_iter().chain(self.want(object)).collect()
            }
            Event::InitDone => self.finish::<K>(),
            Event::Apply(object) => self.want(object).into_iter().collect(),
            Event::Delete(object) => self.forget(object).into_iter().collect(),
        }
    }

    /// A form of an object that the fleet does not know. A status that was written makes none.
    fn want<K: Served>(&mut self, object: &K) -> Option<Command> {
        if object.meta().deletion_timestamp.is_some() {
            return self.forget(object);
        }
        // The definition's rules let no object in that has no name.
        let name = Name::of(object.meta()).ok()?;
        let generation = super::generation(object);
        let form = (object.meta().uid.clone(), generation);
        if self.told.get(&name) == Some(&form) {
            return None;
        }
        self.told.insert(name.clone(), form);
        Some(match object.validate() {
            Ok(demand) => Command::Apply { demand: Box::new(demand), generation },
            Err(problems) => Command::Refuse { kind: K::KIND, name, problems, generation },
        })
    }

    fn forget<K: Served>(&mut self, object: &K) -> Option<Command> {
        let name = Name::of(object.meta()).ok()?;
        self.told.remove(&name)?;
        Some(Command::Remove { kind: K::KIND, name })
    }

    /// A whole list has been read. What it did not have went while nobody watched.
    fn finish<K: Served>(&mut self) -> Vec<Command> {
        let names = std::mem::take(&mut self.listed);
        self.told.retain(|name, _| names.contains(name));
        let mut commands = vec![Command::Retain { kind: K::KIND, names }];
        if !self.is_synced {
            self.is_synced = true;
            commands.push(Command::Synced(K::KIND));
        }
        commands
    }
}

/// What an object's status says of the time before this leader.
fn recalled<K: Served>(object: &K) -> Vec<Command> {
    // What a deleted object was is nothing that another one of its name is.
    let is_deleted = object.meta().deletion_timestamp.is_some();
    let recalled = object.recalled().into_iter();
    let of_itself = |it: &Command| matches!(it, Command::Claimed { .. } | Command::Totals { .. });
    let recalled = recalled.filter(|it| !(is_deleted && of_itself(it)));
    let was_told = !is_deleted && !object.status().map_or(&[][..], K::conditions).is_empty();
    let name = Name::of(object.meta()).ok().filter(|_| was_told);
    let told = name.map(|name| Command::Told { kind: K::KIND, name });
    let expected = object.was_held().then_some(Command::Expect);
    recalled.chain(expected).chain(told).collect()
}

#[cfg(test)]
mod tests;
