//! Chance from a seed, so that a run can be done again.

/// A generator of 64 bits a step (SplitMix64): even, quick, and as long as any run.
#[derive(Clone, Debug)]
pub struct Draw(u64);

impl Draw {
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn step(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `count`; 0 where there is none. Counts here are so small beside 2⁶⁴ that no
    /// number is noticeably likelier than another.
    pub fn below(&mut self, count: usize) -> usize {
        let scaled = (u128::from(self.step()) * count as u128) >> 64;
        usize::try_from(scaled).unwrap_or(0)
    }

    /// Another generator, for what draws beside this one.
    pub const fn fork(&mut self) -> Self {
        Self(self.step())
    }

    /// Puts `items` into one of all orders.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }

    /// Fills `picked` with places of `count` things, each as likely as any other each time.
    pub(crate) fn resample(&mut self, count: usize, picked: &mut Vec<usize>) {
        picked.clear();
        picked.extend((0..count).map(|_| self.below(count)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_draw_is_below_its_count_and_the_same_for_the_same_seed(
            seed: u64, count in 1_usize..10_000
        ) {
            let (mut one, mut two) = (Draw::new(seed), Draw::new(seed));
            for _ in 0..100 {
                let drawn = one.below(count);
                prop_assert!(drawn < count);
                prop_assert_eq!(drawn, two.below(count));
            }
        }

        #[test]
        fn a_shuffle_loses_and_doubles_nothing(seed: u64, count in 0_usize..100) {
            let mut items: Vec<_> = (0..count).collect();
            Draw::new(seed).shuffle(&mut items);
            items.sort_unstable();
            prop_assert!(items.into_iter().eq(0..count));
        }
    }

    #[test]
    fn every_order_comes_up_as_often_as_any_other() {
        let (mut draw, mut counts) = (Draw::new(7), [0_u32; 4]);
        for _ in 0..4_000 {
            let mut items = [0, 1, 2, 3];
            draw.shuffle(&mut items);
            counts[items[0]] += 1;
        }
        assert!(counts.iter().all(|count| (850..1_150).contains(count)), "{counts:?}");
    }
}
