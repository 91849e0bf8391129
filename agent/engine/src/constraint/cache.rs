//! Grammars that were compiled before.
//!
//! They are kept by tenant as well as by content. Shared between tenants they would give no answer
//! away, but who asked for what: a schema that compiles in no time is one that somebody else uses.

use std::sync::Arc;

use realm_core::{constraint::Constraint, name::TenantName};
use realm_grammar::Grammar;

/// Grammars that are kept: four for each of sixteen busy tenants.
const GRAMMARS_MAX: usize = 64;

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

    /// Keeps a grammar, in place of the oldest one of the tenant that has most.
    pub(super) fn keep(
        &mut self,
        tenant: &TenantName,
        constraint: Constraint,
        grammar: Arc<Grammar>,
    ) {
        self.entries.retain(|entry| entry.tenant != *tenant || entry.constraint != constraint);
        self.entries.push(Entry { tenant: tenant.clone(), constraint, grammar });
        if self.entries.len() > GRAMMARS_MAX {
            let count = |tenant: &TenantName| self.of(tenant).count();
            // The first of equals is the one whose turn was longest ago.
            let most = self.entries.iter().rev().max_by_key(|entry| count(&entry.tenant));
            let oldest = most.and_then(|most| self.of(&most.tenant).next());
            if let Some(at) = oldest {
                self.entries.remove(at);
            }
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
        for number in 0..GRAMMARS_MAX + 10 {
            cache.keep(&tenant("b"), regex(number), grammar(number));
        }
        assert_eq!(cache.entries.len(), GRAMMARS_MAX);
        assert!(cache.get(&tenant("a"), &regex(0)).is_some(), "its own");
        assert!(cache.get(&tenant("a"), &regex(GRAMMARS_MAX)).is_none(), "another tenant's");
        assert!(cache.get(&tenant("b"), &regex(0)).is_none(), "the oldest");
        assert!(cache.get(&tenant("b"), &regex(GRAMMARS_MAX)).is_some());

        cache.forget(&tenant("b"));
        assert_eq!(cache.entries.len(), 1);
    }

    #[test]
    fn what_was_used_last_stays() {
        let vocabulary = Vocabulary::new([&b"a"[..], b""].into_iter(), &[1]).unwrap();
        let grammar = Arc::new(vocabulary.compile(&regex(0)).unwrap());
        let mut cache = Cache::default();
        for number in 0..GRAMMARS_MAX {
            cache.keep(&tenant("a"), regex(number), grammar.clone());
        }
        assert!(cache.get(&tenant("a"), &regex(0)).is_some());
        cache.keep(&tenant("a"), regex(GRAMMARS_MAX), grammar);
        assert!(cache.get(&tenant("a"), &regex(0)).is_some());
        assert!(cache.get(&tenant("a"), &regex(1)).is_none());
    }
}
