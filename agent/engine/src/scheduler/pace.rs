//! How long a step takes in which somebody waits for the next token of an answer.

use realm_core::name::TenantName;

use super::{
    PREFILL_PAST, Scheduler,
    cost::{Cost, Service},
    sequence::{Running, Sequence},
};
use crate::batch::SequenceId;

/// How long a step may take in which anybody decodes, unless decoding itself takes more than half
/// of it: whoever reads an answer waits for each token as long as the step takes that it comes of,
/// and few read more than ten in a second.
pub(super) const STEP_TARGET: Cost = Cost::from_millis(100);
/// How much more than its part a tenant may have had before its answers wait a step for a prompt
/// that lacked time in the last one. So the target costs shares nothing that lasts. Never two steps
/// in a row, however far ahead it is: a pause of one is not felt.
pub(super) const LEAD_MAX: Cost = Cost::from_millis(250);

impl Scheduler {
    /// Adds to `decoding` the sequences that get their next token in the step: all that lack nothing
    /// else, but for those whose tenants have had far more than `owed`. Gives how many those are.
    pub(super) fn who_decodes(
        &self,
        owed: Option<&TenantName>,
        decoding: &mut Vec<SequenceId>,
    ) -> usize {
        let ready = self.running.values().filter(|running| running.left() == 1);
        let is_ahead = |sequence: &Sequence| {
            let tenant = &sequence.owner.tenant;
            owed.is_some_and(|owed| self.share.is_ahead(tenant, owed, LEAD_MAX))
        };
        let mut waiting = 0;
        for Running { sequence, .. } in ready {
            if is_ahead(sequence) {
                waiting += 1;
            } else {
                decoding.push(sequence.id);
            }
        }
        waiting
    }

    /// What prompts may cost in a step that has so many rows left for them: what is left of the
    /// target, or as much as all the rest where that is more.
    pub(super) fn time_for_prompts(&self, rows: usize) -> Cost {
        let total = self.pool.in_all_layers();
        let most = self.prices.cost(Service::prefill(rows, PREFILL_PAST), total);
        let mut decodes = Service::default();
        for running in self.running.values() {
            decodes += running.service;
        }
        if decodes == Service::default() {
            return most;
        }
        let mut others = self.prices.cost(decodes, total);
        others += self.prices.step;
        most.min(STEP_TARGET.without(others).max(others))
    }
}
