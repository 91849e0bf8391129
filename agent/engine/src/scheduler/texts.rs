//! Steps of texts to embed: each text is computed whole, and holds nothing before or after its step.
//!
//! A step is filled from the tenant that has had least for its weight, text by text, as long as the
//! next one fits. One that is longer than a step of sequences has one for itself: it cannot be cut, for its
//! tokens attend each other.

use std::collections::VecDeque;

use realm_core::{engine::Usage, name::TenantName, refusal::Refusal};

use super::{
    Scheduler,
    account::Account,
    cost::Service,
    sequence::Deadline,
    share::{Terms, Turn},
};
use crate::batch::{Batch, SequenceId, TEXTS_MAX};

/// Texts that someone wants embedded, in the order of the call.
#[derive(Clone, Debug)]
pub(crate) struct TextCall {
    id: SequenceId,
    tenant: TenantName,
    terms: Terms,
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
        (tenant, terms): (TenantName, Terms),
        texts: Vec<Vec<u32>>,
        deadline: Option<Deadline>,
    ) -> Self {
        let tokens = texts.iter().map(Vec::len).sum();
        Self { id, tenant, terms, texts: texts.len(), left: texts.into(), tokens, deadline }
    }

    pub(crate) const fn id(&self) -> SequenceId {
        self.id
    }

    /// Whether any of its texts has had a step.
    pub(super) fn has_begun(&self) -> bool {
        self.left.len() < self.texts
    }

    pub(super) const fn deadline(&self) -> Option<Deadline> {
        self.deadline
    }
}

impl Scheduler {
    /// Queues a call's texts.
    pub(crate) fn submit_texts(&mut self, call: TextCall) -> Result<(), Refusal> {
        self.check_room()?;
        let tenant = call.tenant.clone();
        self.account(&tenant, call.terms).calls.push_back(call);
        self.note(&tenant);
        Ok(())
    }

    /// Texts have every other step while there are sequences, and each step while there are none.
    pub(super) fn is_turn_of_texts(&self) -> bool {
        let has_texts = self.accounts.values().any(|account| !account.calls.is_empty());
        has_texts && !(self.had_texts && self.accounts.values().any(Account::is_active))
    }

    pub(super) fn fill_with_texts(&mut self, batch: &mut Batch) {
        batch.clear();
        let mut after: Option<Turn<TenantName>> = None;
        while batch.spans.len() < TEXTS_MAX {
            let Some(turn) = self.share.next(after.as_ref()).cloned() else { return };
            let left = self.limits.batch_tokens.saturating_sub(batch.tokens.len());
            let account = self.accounts.get_mut(turn.party());
            let call = account.and_then(|account| account.calls.front_mut());
            let fits = |text: &Vec<u32>| batch.is_empty() || text.len() <= left;
            let Some((call, tokens)) = call.and_then(|call| {
                let tokens = call.left.pop_front_if(|text| fits(text))?;
                Some((call, tokens))
            }) else {
                after = Some(turn);
                continue;
            };
            let at = call.texts - call.left.len() - 1;
            batch.push_text(call.id, at, &tokens);
            if at == 0 {
                let prompt_tokens = u32::try_from(call.tokens).unwrap_or(u32::MAX);
                self.started.push((call.id, Usage { prompt_tokens, ..Usage::default() }));
                self.totals.prompt += call.tokens as u64;
            }
            let done = call.left.is_empty().then_some(call.id);
            let service = Service::prefill(tokens.len(), 0);
            let cost = self.prices.cost(service, self.pool.in_all_layers());
            self.share.charge(turn.party(), cost);
            self.costs.push((call.id, cost));
            if let Some(id) = done {
                self.finish_call(turn.party(), id);
            }
        }
    }

    fn finish_call(&mut self, tenant: &TenantName, id: SequenceId) {
        if let Some(account) = self.accounts.get_mut(tenant) {
            account.drop_call(id);
        }
        self.note(tenant);
    }
}
