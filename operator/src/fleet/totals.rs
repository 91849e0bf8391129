//! What each tenant has used, over all nodes and all that has been. Pure: time is an argument.
//!
//! Agents tell what they have counted, in epochs within which numbers only grow ([`TenantUse`]). An
//! account keeps the last numbers of each node, and the sum of the epochs before: so what is heard
//! twice counts once. Both are in the tenant's status, written at once, and whoever leads next goes
//! on from there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use realm_crds::tenant::{NodeUse, Totals as Told};
use realm_plan::Name;
use tokio::time::Instant;

use crate::link::{
    registry::NodeView,
    supply::{TenantUse, Used},
};

/// The least pause between two tellings of one tenant's totals: a status is read by people, who see
/// minutes, and metrics tell the seconds.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// What each tenant adds to that pause, so that totals alone are ten writes a second at most,
/// however many tenants there are.
const TOLD_EVERY_PER_TENANT: Duration = Duration::from_millis(100);

/// Every tenant's account.
#[derive(Debug, Default)]
pub(super) struct Totals {
    accounts: BTreeMap<Name, Account>,
    /// What each node said last.
    heard: BTreeMap<String, Arc<[TenantUse]>>,
    /// Whether what was recalled has been held against the nodes that there are.
    is_swept: bool,
}

#[derive(Debug, Default)]
struct Account {
    /// Of epochs that have ended.
    ended: Used,
    /// By name of the node: its epoch, and what was used in it.
    nodes: BTreeMap<String, (u64, Used)>,
    told: Option<Arc<Told>>,
    /// When that was; `None` where it was another leader, or nobody.
    told_at: Option<Instant>,
    is_new: bool,
}

impl Account {
    fn hear(&mut self, node: &str, epoch: u64, used: Used) {
        let last = self.nodes.get(node).copied();
        let now = match last {
            // What comes late takes nothing back.
            Some((known, before)) if known == epoch => most(before, used),
            Some((_, before)) => {
                self.ended = sum(self.ended, before);
                used
            }
            None => used,
        };
        if last != Some((epoch, now)) {
            self.nodes.insert(node.to_owned(), (epoch, now));
            self.is_new = true;
        }
    }

    /// Counts no more for a node that is not part of the cluster.
    fn leave(&mut self, node: &str) {
        if let Some((_, last)) = self.nodes.remove(node) {
            self.ended = sum(self.ended, last);
            self.is_new = true;
        }
    }

    fn tell(&mut self, now: Instant) {
        let all = self.nodes.values().fold(self.ended, |all, (_, used)| sum(all, *used));
        let of_node = |(node, (epoch, used)): (&String, &(u64, Used))| {
            let Used {
                prompt_tokens,
                cached_tokens,
                generated_tokens,
                device_ms,
                kv_block_ms,
                program_fuel,
            } = *used;
            NodeUse {
                node: node.clone(),
                epoch: *epoch,
                prompt_tokens,
                cached_tokens,
                generated_tokens,
                device_ms,
                kv_block_ms,
                program_fuel,
            }
        };
        self.told = Some(Arc::new(Told {
            prompt_tokens: all.prompt_tokens,
            cached_tokens: all.cached_tokens,
            generated_tokens: all.generated_tokens,
            device_ms: all.device_ms,
            kv_block_ms: all.kv_block_ms,
            program_fuel: all.program_fuel,
            nodes: self.nodes.iter().map(of_node).collect(),
        }));
        (self.told_at, self.is_new) = (Some(now), false);
    }
}

impl Totals {
    /// Goes on from what the status of a tenant says.
    pub(super) fn recall(&mut self, tenant: Name, told: Told) {
        let mut account = Account::default();
        let mut all = used_of(&told);
        for of_node in &told.nodes {
            let used = used_of_node(of_node);
            all = difference(all, used);
            account.nodes.insert(of_node.node.clone(), (of_node.epoch, used));
        }
        account.ended = all;
        account.told = Some(Arc::new(told));
        self.accounts.insert(tenant, account);
    }

    pub(super) fn forget(&mut self, tenant: &Name) {
        self.accounts.remove(tenant);
    }

    /// Ends the epochs of a node that is not part of the cluster any more.
    pub(super) fn leave(&mut self, node: &str) {
        self.heard.remove(node);
        self.accounts.values_mut().for_each(|account| account.leave(node));
    }

    /// Ends the epochs of nodes that went while nobody led. Once: all that go later are named.
    pub(super) fn sweep(&mut self, is_there: impl Fn(&str) -> bool) {
        if std::mem::replace(&mut self.is_swept, true) {
            return;
        }
        for account in self.accounts.values_mut() {
            let gone = account.nodes.keys().filter(|node| !is_there(node)).cloned();
            for node in gone.collect::<Vec<_>>() {
                account.leave(&node);
            }
        }
    }

    /// Takes in what is new of what nodes say of `tenants`.
    pub(super) fn hear(
        &mut self,
        views: &BTreeMap<String, NodeView>,
        is_tenant: impl Fn(&Name) -> bool,
    ) {
        for (node, view) in views {
            // The last of one that has just gone, and nothing of one that is not counted any more.
            let is_counted = view.is_connected || self.heard.contains_key(node);
            let Some(uses) = view.uses.as_ref().filter(|_| is_counted) else { continue };
            let last = self.heard.insert(node.clone(), uses.clone());
            if last.is_some_and(|last| Arc::ptr_eq(&last, uses)) {
                continue;
            }
            for TenantUse { tenant, epoch, used } in uses.iter() {
                if is_tenant(tenant) {
                    self.accounts.entry(tenant.clone()).or_default().hear(node, *epoch, *used);
                }
            }
        }
    }

    /// Tells anew of those whose time has come.
    pub(super) fn tell(&mut self, now: Instant) {
        let pause = self.pause();
        for account in self.accounts.values_mut() {
            let is_due = account.told_at.is_none_or(|told_at| told_at + pause <= now);
            if account.is_new && is_due {
                account.tell(now);
            }
        }
    }

    /// When there is something to tell.
    pub(super) fn due(&self) -> Option<Instant> {
        let pause = self.pause();
        let new = self.accounts.values().filter(|account| account.is_new);
        new.filter_map(|account| Some(account.told_at? + pause)).min()
    }

    /// What the status of a tenant is to say; `None` where it has used nothing.
    pub(super) fn of(&self, tenant: &Name) -> Option<Arc<Told>> {
        self.accounts.get(tenant)?.told.clone()
    }

    fn pause(&self) -> Duration {
        let tenants = u32::try_from(self.accounts.len()).unwrap_or(u32::MAX);
        TOLD_EVERY.max(TOLD_EVERY_PER_TENANT.saturating_mul(tenants))
    }
}

fn each(a: Used, b: Used, of: impl Fn(u64, u64) -> u64) -> Used {
    Used {
        prompt_tokens: of(a.prompt_tokens, b.prompt_tokens),
        cached_tokens: of(a.cached_tokens, b.cached_tokens),
        generated_tokens: of(a.generated_tokens, b.generated_tokens),
        device_ms: of(a.device_ms, b.device_ms),
        kv_block_ms: of(a.kv_block_ms, b.kv_block_ms),
        program_fuel: of(a.program_fuel, b.program_fuel),
    }
}

fn sum(a: Used, b: Used) -> Used {
    each(a, b, u64::saturating_add)
}

fn most(a: Used, b: Used) -> Used {
    each(a, b, u64::max)
}

fn difference(a: Used, b: Used) -> Used {
    each(a, b, u64::saturating_sub)
}

const fn used_of(told: &Told) -> Used {
    Used {
        prompt_tokens: told.prompt_tokens,
        cached_tokens: told.cached_tokens,
        generated_tokens: told.generated_tokens,
        device_ms: told.device_ms,
        kv_block_ms: told.kv_block_ms,
        program_fuel: told.program_fuel,
    }
}

const fn used_of_node(of_node: &NodeUse) -> Used {
    Used {
        prompt_tokens: of_node.prompt_tokens,
        cached_tokens: of_node.cached_tokens,
        generated_tokens: of_node.generated_tokens,
        device_ms: of_node.device_ms,
        kv_block_ms: of_node.kv_block_ms,
        program_fuel: of_node.program_fuel,
    }
}

#[cfg(test)]
mod tests;
