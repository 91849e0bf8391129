//! Which versions of the link an end speaks, and which one two ends do.

use std::fmt;

/// Since this version an agent answers a state that its ledger took.
pub const ACCEPTED_SINCE: u32 = 2;

/// Since this version an agent reads how a step of a pipeline chooses its tokens.
pub const CHOICE_SINCE: u32 = 3;

/// Since this version an agent tells what tenants have used.
pub const USES_SINCE: u32 = 4;
/// Since this version doors spend by slices of limits.
pub const SLICES_SINCE: u32 = 4;

/// The versions that one end speaks, both ends of the range included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Versions {
    oldest: u32,
    newest: u32,
}

impl Versions {
    /// Those of this program.
    pub const OURS: Self = Self { oldest: 1, newest: SLICES_SINCE };

    /// What an end says of itself. One that was there before there were versions says nothing,
    /// and that is the first.
    pub fn said(oldest: u32, newest: u32) -> Self {
        Self { oldest: oldest.max(1), newest: newest.max(1) }
    }

    pub const fn oldest(self) -> u32 {
        self.oldest
    }

    pub const fn newest(self) -> u32 {
        self.newest
    }

    /// The newest version that both ends speak. Both find the same one.
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (self.oldest.max(other.oldest) <= newest).then_some(newest)
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { oldest, newest } = self;
        if oldest == newest { write!(f, "{newest}") } else { write!(f, "{oldest} to {newest}") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_find_the_newest_version_that_both_speak() {
        for (a, b, common) in [
            ((1, 2), (1, 2), Some(2)),
            ((1, 1), (1, 2), Some(1)),
            ((2, 5), (1, 3), Some(3)),
            // Too old for one, too new for the other.
            ((3, 4), (1, 2), None),
            // Says nonsense.
            ((2, 1), (1, 2), None),
        ] {
            let (a, b) = (Versions::said(a.0, a.1), Versions::said(b.0, b.1));
            assert_eq!((a.common(b), b.common(a)), (common, common), "{a} and {b}");
        }
    }

    #[test]
    fn whoever_says_no_version_speaks_the_first() {
        let silent = Versions::said(0, 0);
        assert_eq!((silent, silent.to_string().as_str()), (Versions::said(1, 1), "1"));
        assert_eq!(Versions::OURS.to_string(), "1 to 4");
        assert_eq!(Versions::OURS.common(silent), Some(1));
    }
}
