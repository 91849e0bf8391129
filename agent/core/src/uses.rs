//! What tenants have used on one node since its agent started, over all loads of its models. Pure.
//!
//! Numbers only grow within an epoch, and each row has its own: whoever adds up what rows say adds
//! what is new since it last looked, and all of a row whose epoch it does not know.

use std::collections::BTreeMap;

use crate::{
    books::{Books, Used},
    name::TenantName,
};

/// What one tenant has used here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantUse {
    pub tenant: TenantName,
    /// Another one each time that counting begins anew, on whatever node.
    pub epoch: u64,
    pub used: Used,
    /// Fuel that the tenant's programs have burnt.
    pub fuel: u64,
}

/// What is counted, tenant by tenant.
#[derive(Debug)]
pub struct Uses {
    next_epoch: u64,
    rows: BTreeMap<TenantName, Row>,
}

#[derive(Debug)]
struct Row {
    epoch: u64,
    /// Of engines that count no more.
    ended: Used,
    fuel: Counter,
}

/// A number that grows over counters that begin anew.
#[derive(Debug, Default)]
struct Counter {
    sum: u64,
    last: u64,
}

impl Counter {
    fn see(&mut self, now: u64) {
        let more = now.checked_sub(self.last).unwrap_or(now);
        self.sum = self.sum.saturating_add(more);
        self.last = now;
    }
}

impl Uses {
    /// Nothing yet. The epochs that rows get begin with `first_epoch`, which no other agent has.
    pub const fn new(first_epoch: u64) -> Self {
        Self { next_epoch: first_epoch, rows: BTreeMap::new() }
    }

    /// Takes over what an engine has counted that counts no more.
    pub fn end(&mut self, books: &Books) {
        for (tenant, of_tenant) in books.tenants() {
            self.row(tenant).ended += of_tenant.sum();
        }
    }

    /// What everybody has used, with what the engines in `open` have counted and the programs have
    /// burnt since they came.
    pub fn look(&mut self, open: &[Books], fuel: &BTreeMap<TenantName, u64>) -> Vec<TenantUse> {
        let mut using = BTreeMap::<TenantName, Used>::new();
        for (tenant, of_tenant) in open.iter().flat_map(Books::tenants) {
            *using.entry(tenant.clone()).or_default() += of_tenant.sum();
        }
        for (tenant, row) in &mut self.rows {
            // What is not there any more begins anew when it comes again.
            row.fuel.see(fuel.get(tenant).copied().unwrap_or(0));
        }
        let burning = fuel.iter().filter(|(_, fuel)| **fuel > 0).map(|(tenant, _)| tenant);
        for tenant in using.keys().chain(burning) {
            if !self.rows.contains_key(tenant) {
                self.row(tenant).fuel.see(fuel.get(tenant).copied().unwrap_or(0));
            }
        }
        let of_row = |(tenant, row): (&TenantName, &Row)| {
            let mut used = row.ended;
            used += using.get(tenant).copied().unwrap_or_default();
            TenantUse { tenant: tenant.clone(), epoch: row.epoch, used, fuel: row.fuel.sum }
        };
        self.rows.iter().map(of_row).collect()
    }

    /// Forgets a tenant that is gone. One of its name that comes later counts anew.
    pub fn forget(&mut self, tenant: &TenantName) {
        self.rows.remove(tenant);
    }

    fn row(&mut self, tenant: &TenantName) -> &mut Row {
        let Self { next_epoch, rows } = self;
        rows.entry(tenant.clone()).or_insert_with(|| {
            let epoch = *next_epoch;
            *next_epoch = next_epoch.wrapping_add(1);
            Row { epoch, ended: Used::default(), fuel: Counter::default() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::books::Way;

    fn tenant(name: &str) -> TenantName {
        TenantName::new("default", name).unwrap()
    }

    fn books(name: &str, generated_tokens: u64) -> Books {
        let mut books = Books::default();
        let used = Used { generated_tokens, ..Used::default() };
        books.add(&tenant(name), &Way::Direct, used);
        books
    }

    fn tokens(uses: &[TenantUse]) -> Vec<(&str, u64, u64)> {
        uses.iter().map(|it| (it.tenant.name(), it.epoch, it.used.generated_tokens)).collect()
    }

    #[test]
    fn a_load_that_ends_takes_nothing_away_and_the_next_one_adds_to_it() {
        let mut uses = Uses::new(7);
        assert_eq!(tokens(&uses.look(&[books("a", 3)], &BTreeMap::new())), [("a", 7, 3)]);
        uses.end(&books("a", 5));
        assert_eq!(tokens(&uses.look(&[], &BTreeMap::new())), [("a", 7, 5)]);
        let open = [books("a", 2), books("b", 1)];
        assert_eq!(tokens(&uses.look(&open, &BTreeMap::new())), [("a", 7, 7), ("b", 8, 1)]);
    }

    #[test]
    fn fuel_goes_on_over_programs_that_count_anew() {
        let mut uses = Uses::new(0);
        let mut fuel = |seen: Option<u64>| -> u64 {
            let seen = seen.map(|fuel| (tenant("a"), fuel)).into_iter().collect();
            uses.look(&[], &seen).iter().map(|it| it.fuel).sum()
        };
        let seen = [Some(0), Some(5), Some(2), None, Some(4)];
        assert_eq!(seen.map(&mut fuel), [0, 5, 7, 7, 11]);
    }

    #[test]
    fn who_comes_again_counts_anew_in_another_epoch() {
        let mut uses = Uses::new(0);
        uses.look(&[books("a", 3)], &BTreeMap::new());
        uses.forget(&tenant("a"));
        assert_eq!(tokens(&uses.look(&[], &BTreeMap::new())), []);
        assert_eq!(tokens(&uses.look(&[books("a", 1)], &BTreeMap::new())), [("a", 1, 1)]);
    }
}
