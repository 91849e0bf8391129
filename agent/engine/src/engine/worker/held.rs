//! Logits that came before what decides about their token.

/// Logits of one sequence that wait; empty if there are none. Kept, so that waiting allocates once
/// for a sequence.
#[derive(Debug, Default)]
pub(super) struct Held(Vec<f32>);

impl Held {
    /// Keeps logits until there is what they lack.
    pub(super) fn hold(&mut self, logits: &[f32]) {
        self.0.clear();
        self.0.extend_from_slice(logits);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Logits that were waiting, to be given back by [`Held::reuse`].
    pub(super) fn take(&mut self) -> Option<Vec<f32>> {
        (!self.0.is_empty()).then(|| std::mem::take(&mut self.0))
    }

    pub(super) fn reuse(&mut self, mut logits: Vec<f32>) {
        logits.clear();
        self.0 = logits;
    }
}
