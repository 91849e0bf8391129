//! Texts whose vectors are wanted: calls of the same thread, beside its sequences.

use realm_core::refusal::Refusal;

use super::{Embedding, TextCall, Worker};

impl Worker {
    /// Takes a call into care; gives what the scheduler is to have of it.
    pub(super) fn arrive_with_texts(
        &mut self,
        (call, embedding): (TextCall, Embedding),
    ) -> TextCall {
        self.news.arrived += 1;
        self.calls.insert(call.id(), embedding);
        call
    }

    pub(super) fn submit_texts(&mut self, texts: (TextCall, Embedding)) {
        let call = self.arrive_with_texts(texts);
        let id = call.id();
        if let Err(refusal) = self.scheduler.submit_texts(call) {
            self.fail(id, refusal);
        }
    }

    /// Gives every call the vectors of its texts that were computed.
    pub(super) fn take_vectors(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        for (output, (span, &text)) in batch.spans.iter().zip(&batch.texts).enumerate() {
            let id = span.sequence;
            let Some((call, executor)) = self.calls.get_mut(&id).zip(self.executor.as_ref()) else {
                continue;
            };
            match call.put(text, executor.vector(output)) {
                Ok(false) => {}
                Ok(true) => {
                    self.scheduler.end(id);
                    self.answer(id, None);
                }
                Err(_) => {
                    tracing::warn!("a forward pass gave a vector that has no direction");
                    self.fail(id, Refusal::Internal);
                }
            }
        }
        self.batch = batch;
    }
}
