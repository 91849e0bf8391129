//! Whether a stream keeps to what it may have, and costs what came.

use crate::report::{Check, Claim, Figure, Verdict};

pub const ABOUT: Claim = Claim {
    id: "stream-limits",
    claim: "a stream has no more tokens than its call may have, and its tenant is charged for those \
            that came",
    threshold: "never more than one token over, or beside, counted token by token",
};

/// Tokens by which a stream may be over its limit, or its charge beside what came.
const OVER_MAX: i64 = 1;

/// What streams are asked to have at most: one, around the sizes of batches and of blocks of a
/// cache, and some that are neither.
pub const TOKENS: [u32; 8] = [1, 2, 3, 15, 17, 31, 33, 64];

/// One stream to its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streamed {
    pub tokens_max: u32,
    /// Tokens that came, by their ids.
    pub came: u32,
    /// Tokens that its end says were made.
    pub told: u32,
    /// What the tenant had left for answers when the stream before this one ended, and when this
    /// one did; time adds to it meanwhile.
    pub left: Option<[u32; 2]>,
}

impl Streamed {
    fn over(&self) -> i64 {
        i64::from(self.came.max(self.told)) - i64::from(self.tokens_max)
    }

    /// How far what came and what is told are apart. The token that ends an answer has no text, and
    /// may be told and not come.
    fn beside(&self) -> i64 {
        i64::from(self.came).abs_diff(i64::from(self.told)).try_into().unwrap_or(i64::MAX)
    }

    /// Tokens that the tenant was charged beyond those told.
    fn overcharged(&self) -> i64 {
        let charged = self.left.map_or(0, |[before, after]| i64::from(before) - i64::from(after));
        charged - i64::from(self.told)
    }
}

/// The verdict on some streams.
pub fn judge(streams: &[Streamed]) -> Check {
    let most = |of: fn(&Streamed) -> i64| streams.iter().map(of).max().unwrap_or(0);
    let measured = [
        ("tokens over the limit of a call", most(Streamed::over)),
        ("tokens told beside those that came", most(Streamed::beside)),
        ("tokens charged beyond those told", most(Streamed::overcharged)),
    ];
    let faults: Vec<_> = measured.iter().filter(|(_, tokens)| *tokens > OVER_MAX).collect();
    let (verdict, why) = if streams.is_empty() {
        (Verdict::Inconclusive, "nothing was streamed".to_owned())
    } else if !faults.is_empty() {
        let faults: Vec<_> =
            faults.iter().map(|(name, tokens)| format!("{tokens} {name}")).collect();
        (Verdict::Fail, faults.join("; "))
    } else if streams.iter().all(|stream| stream.came < stream.tokens_max) {
        // Nothing came to its limit, so no limit was tried.
        (Verdict::Inconclusive, "every answer ended by itself".to_owned())
    } else {
        (Verdict::Pass, "streams end at their limits and are charged as they came".to_owned())
    };
    let figures = measured.map(|(name, tokens)| Figure::plain(name, "", tokens as f64));
    Check { about: ABOUT, verdict, why, trials: streams.len(), figures: figures.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(streamed: Streamed) -> Verdict {
        let exact = Streamed { tokens_max: 64, came: 64, told: 64, left: Some([1_000, 936]) };
        judge(&[exact, streamed]).verdict
    }

    #[test]
    fn one_token_over_or_beside_passes_and_two_fail() {
        let near = Streamed { tokens_max: 16, came: 16, told: 16, left: Some([100, 84]) };
        assert_eq!(check(near), Verdict::Pass);
        assert_eq!(check(Streamed { came: 17, told: 17, ..near }), Verdict::Pass);
        assert_eq!(check(Streamed { came: 18, told: 18, left: None, ..near }), Verdict::Fail);
        assert_eq!(check(Streamed { came: 15, ..near }), Verdict::Pass);
        assert_eq!(check(Streamed { came: 14, ..near }), Verdict::Fail);
        assert_eq!(check(Streamed { left: Some([100, 83]), ..near }), Verdict::Pass);
        assert_eq!(check(Streamed { left: Some([100, 82]), ..near }), Verdict::Fail);
    }

    #[test]
    fn what_time_has_earned_meanwhile_is_no_fault() {
        let earned = Streamed { tokens_max: 16, came: 16, told: 16, left: Some([100, 100]) };
        assert_eq!(check(earned), Verdict::Pass);
    }

    #[test]
    fn answers_that_end_by_themselves_try_no_limit() {
        let short = Streamed { tokens_max: 16, came: 3, told: 4, left: None };
        assert_eq!(judge(&[short]).verdict, Verdict::Inconclusive);
        assert_eq!(judge(&[]).verdict, Verdict::Inconclusive);
    }
}
