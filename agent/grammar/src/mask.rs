//! A set of tokens.

/// The tokens that may come next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    /// One bit for each token, the lowest first.
    words: Vec<u32>,
}

impl Mask {
    pub(crate) const fn new(words: Vec<u32>) -> Self {
        Self { words }
    }

    /// The mask of those tokens, of a vocabulary of `len`.
    pub fn of(ids: impl IntoIterator<Item = u32>, len: usize) -> Self {
        let mut words = vec![0; len.div_ceil(32)];
        for id in ids {
            if let Some(word) = words.get_mut(id as usize / 32) {
                *word |= 1 << (id % 32);
            }
        }
        Self { words }
    }

    pub fn allows(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|word| word >> (id % 32) & 1 == 1)
    }

    /// Makes everything that is not in the mask impossible.
    pub fn apply(&self, logits: &mut [f32]) {
        let words = self.words.iter().copied().chain(std::iter::repeat(0));
        for (logits, word) in logits.chunks_mut(32).zip(words) {
            match word {
                u32::MAX => {}
                0 => logits.fill(f32::NEG_INFINITY),
                word => keep(logits, word),
            }
        }
    }
}

/// Keeps the logits whose bits are set.
fn keep(logits: &mut [f32], word: u32) {
    for (bit, logit) in (0..32).zip(logits) {
        if word >> bit & 1 == 0 {
            *logit = f32::NEG_INFINITY;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_not_in_a_mask_is_impossible_and_the_rest_is_as_it_was(
            ids in prop::collection::vec(0..100_u32, 0..40),
            full in any::<bool>(),
            len in 1..100_usize,
        ) {
            let ids = if full { (0..100).collect() } else { ids };
            let mask = Mask::of(ids.iter().copied().filter(|&id| (id as usize) < len), len);
            let mut logits = vec![0.5; len];
            mask.apply(&mut logits);
            for (id, logit) in (0_u32..).zip(logits) {
                prop_assert_eq!(mask.allows(id), ids.contains(&id));
                prop_assert_eq!(logit.is_finite(), ids.contains(&id));
            }
        }
    }
}
