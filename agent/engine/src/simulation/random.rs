//! Numbers that look random and are the same each time (splitmix64).

#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 to 1, never 1.
    fn part(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A whole number between the two, both of which may come.
    pub(super) fn between(&mut self, (least, most): (u32, u32)) -> u32 {
        let span = u64::from(most.saturating_sub(least)) + 1;
        u32::try_from(self.next() % span).map_or(most, |more| least.saturating_add(more))
    }

    /// A time whose mean is `mean`, as between events that know nothing of each other.
    pub(super) fn pause(&mut self, mean: f64) -> f64 {
        -mean * (1.0 - self.part()).ln()
    }
}
