//! Grammars that were compiled before.
//!
//! They are kept by tenant as well as by content. Shared between tenants they would give no answer
//! away, but who asked for what: a schema that compiles in no time is one that somebody else uses.

use std::sync::Arc;

use realm_core::{constraint::Constraint, name::TenantName};
use realm_grammar::Grammar;

use crate::turns::Limits;

/// Grammars that are kept: four tenants may have all that each may, and more of them share. At nine
/// mebibytes for the largest these take 288 MiB at worst, and those of one tenant 72 MiB; one that
/// people write takes half a mebibyte.
const GRAMMARS_MAX: Limits = Limits { all: 32, of_tenant: 8 };

/// Compiled grammars, those that were used last.
#[derive(Default)]
pub(super) struct Cache {
    /// The one that was used last is the last.
    entries: Vec<Entry>,
}

struct Entry {
    tenant: TenantName,
    constraint: Constraint,
    grammar: Arc<Grammar>,
}

impl Cache {
    /// What the tenant has had compiled of this constraint, if it is still there.
    pub(super) fn get(
        &mut self,
        tenant: &TenantName,
        constraint: &Constraint,
    ) -> Option<Arc<Grammar>> {
        let is_it = |entry: &Entry| entry.tenant == *tenant && entry.constraint == *constraint;
        let entry = self.entries.remove(self.entries.iter().position(is_it)?);
        let grammar = entry.grammar.clone();
        self.entries.push(entry);
        Some(grammar)
    }

    /// Keeps a grammar; where there is no room in place of the tenant's oldest, or of the oldest one
    /// of the tenant that has most.
    pub(super) fn keep(
        &mut self,
        tenant: &TenantName,
        constraint: Constraint,
        grammar: Arc<Grammar>,
    ) {
        self.entries.retain(|entry| entry.tenant != *tenant || entry.constraint != constraint);
        self.entries.push(Entry { tenant: tenant.clone(), constraint, grammar });
        let count = |tenant: &TenantName| self.of(tenant).count();
        let loses = if count(tenant) > GRAMMARS_MAX.of_tenant {
            Some(tenant)
        } else if self.entries.len() > GRAMMARS_MAX.all {
            // The first of equals is the one whose turn was longest ago.
            let most = self.entries.iter().rev().max_by_key(|entry| count(&entry.tenant));
            most.map(|most| &most.tenant)
        } else {
            None
        };
        if let Some(at) = loses.and_then(|tenant| self.of(tenant).next()) {
            self.entries.remove(at);
        }
    }

    /// Drops what a tenant has that is gone.
    pub(super) fn forget(&mut self, tenant: &TenantName) {
        self.entries.retain(|entry| entry.tenant != *tenant);
    }

    /// Where the tenant's grammars are, the oldest first.
    fn of(&self, tenant: &TenantName) -> impl Iterator<Item = usize> {
        let entries = self.entries.iter().enumerate();
        entries.filter(move |(_, entry)| entry.tenant == *tenant).map(|(at, _)| at)
    }
}

#[cfg(test)]
mod tests {
    use realm_grammar::Vocabulary;

    use super::*;

    fn tenant(name: &str) -> TenantName {
        TenantName::new("default", name).unwrap()
    }

    fn regex(number: usize) -> Constraint {
        Constraint::Regex(format!("a{{{}}}", number + 1))
    }

    #[test]
    fn a_tenant_that_floods_loses_its_own_grammars_and_sees_no_other() {
        let vocabulary = Vocabulary::new([&b"a"[..], b""].into_iter(), &[1]).unwrap();
        let grammar = |number| Arc::new(vocabulary.compile(&regex(number)).unwrap());
        let mut cache = Cache::default();
        cache.keep(&tenant("a"), regex(0), grammar(0));
        let last = GRAMMARS_MAX.of_tenant;
        for number in 0..=last {
            cache.keep(&tenant("b"), regex(number), grammar(number));
        }
        assert_eq!(cache.entries.len(), 1 + GRAMMARS_MAX.of_tenant);
        assert!(cache.get(&tenant("a"), &regex(0)).is_some(), "its own");
        assert!(cache.get(&tenant("a"), &regex(last)).is_none(), "another tenant's");
        assert!(cache.get(&tenant("b"), &regex(0)).is_none(), "the oldest");
        assert!(cache.get(&tenant("b"), &regex(last)).is_some());

        cache.forget(&tenant("b"));
        assert_eq!(cache.entries.len(), 1);
    }

    #[test]
    fn what_was_used_last_stays() {
        let vocabulary = Vocabulary::new([&b"a"[..], b""].into_iter(), &[1]).unwrap();
        let grammar = Arc::new(vocabulary.compile(&regex(0)).unwrap());
        let mut cache = Cache::default();
        for number in 0..GRAMMARS_MAX.of_tenant {
            cache.keep(&tenant("a"), regex(number), grammar.clone());
        }
        assert!(cache.get(&tenant("a"), &regex(0)).is_some());
        cache.keep(&tenant("a"), regex(GRAMMARS_MAX.of_tenant), grammar);
        assert!(cache.get(&tenant("a"), &regex(0)).is_some());
        assert!(cache.get(&tenant("a"), &regex(1)).is_none());
    }

    #[test]
    fn where_there_is_no_room_the_tenant_that_has_most_loses_its_oldest() {
        let vocabulary = Vocabulary::new([&b"a"[..], b""].into_iter(), &[1]).unwrap();
        let grammar = Arc::new(vocabulary.compile(&regex(0)).unwrap());
        let mut cache = Cache::default();
        cache.keep(&tenant("few"), regex(0), grammar.clone());
        for name in ["b", "c", "d", "e"] {
            for number in 0..GRAMMARS_MAX.of_tenant {
                cache.keep(&tenant(name), regex(number), grammar.clone());
            }
        }
        assert_eq!(cache.entries.len(), GRAMMARS_MAX.all);
        assert!(cache.get(&tenant("few"), &regex(0)).is_some());
        assert!(cache.get(&tenant("b"), &regex(0)).is_none());
        assert!(cache.get(&tenant("b"), &regex(1)).is_some());
    }
}
