//! Steps of texts to embed: each text is computed whole, and holds nothing before or after its step.
//!
//! A step is filled from the tenant that has been served least, text by text, as long as the next one
//! fits. One that is longer than a step of sequences has one for itself: it cannot be cut, for its
//! tokens attend each other.

use std::collections::VecDeque;

use realm_core::{engine::Usage, name::TenantName, refusal::Refusal};

use super::{Scheduler, account::Account, sequence::Deadline};
use crate::batch::{Batch, SequenceId, TEXTS_MAX};

/// Texts that someone wants embedded, in the order of the call.
#[derive(Clone, Debug)]
pub(crate) struct TextCall {
    id: SequenceId,
    tenant: TenantName,
    weight: u32,
    /// What is not computed yet.
    left: VecDeque<Vec<u32>>,
    texts: usize,
    tokens: usize,
    deadline: Option<Deadline>,
}

impl TextCall {
    /// Texts of at least one token each.
    pub(crate) fn new(
        id: SequenceId,
        (tenant, weight): (TenantName, u32),
        texts: Vec<Vec<u32>>,
        deadline: Option<Deadline>,
    ) -> Self {
        let tokens = texts.iter().map(Vec::len).sum();
        let weight = weight.max(1);
        Self { id, tenant, weight, texts: texts.len(), left: texts.into(), tokens, deadline }
    }

    pub(crate) const fn id(&self) -> SequenceId {
        self.id
    }

    pub(super) const fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }
}

impl Scheduler {
    /// Queues a call's texts.
    pub(crate) fn submit_texts(&mut self, call: TextCall) -> Result<(), Refusal> {
        self.check_room()?;
        self.wake(&call.tenant, call.weight).calls.push_back(call);
        Ok(())
    }

    /// Texts have every other step while there are sequences, and each step while there are none.
    pub(super) fn is_turn_of_texts(&self) -> bool {
        let has_texts = self.accounts.values().any(|account| !account.calls.is_empty());
        has_texts && !(self.had_texts && self.accounts.values().any(Account::is_active))
    }

    pub(super) fn fill_with_texts(&mut self, batch: &mut Batch) {
        batch.clear();
        while batch.spans.len() < TEXTS_MAX {
            let left = self.limits.batch_tokens.saturating_sub(batch.tokens.len());
            let fits = |len: usize| batch.is_empty() || len <= left;
            let next = self.accounts.values_mut().filter_map(|account| {
                let len = account.calls.front()?.left.front()?.len();
                fits(len).then_some(account)
            });
            let Some(account) = next.min_by_key(|account| account.served) else { return };
            let Some(call) = account.calls.front_mut() else { return };
            let Some(tokens) = call.left.pop_front() else { return };
            let at = call.texts - call.left.len() - 1;
            batch.push_text(call.id, at, &tokens);
            if at == 0 {
                let prompt_tokens = u32::try_from(call.tokens).unwrap_or(u32::MAX);
                self.started.push((call.id, Usage { prompt_tokens, ..Usage::default() }));
                self.totals.prompt += call.tokens as u64;
            }
            if call.left.is_empty() {
                account.calls.pop_front();
            }
            account.charge(tokens.len());
        }
    }
}
