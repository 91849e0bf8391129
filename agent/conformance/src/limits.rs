//! Whether a stream keeps to what it may have, and costs what came.

use crate::report::{Check, Claim, Figure, Verdict};

pub const ABOUT: Claim = Claim {
    id: "stream-limits",
    claim: "a stream has no more tokens than its call may have and its tenant has left, and its \
            tenant is charged for those that came",
    threshold: "never more than one token over, or beside, counted token by token",
};

/// Tokens by which a stream may be over its limit, or its charge beside what came.
const OVER_MAX: i64 = 1;

/// Tokens that a cut stream may have lacked of what its tenant was told to have left: a piece of an
/// answer that comes from another node goes whole or not at all.
const SHORT_MAX: u32 = 64;

/// Of the stream that was to spend a minute.
const OVER_LEFT: &str = "tokens over what a tenant had left";

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

/// What a stream is cut with that comes to what its tenant has left.
pub const CUT: &str = "too_many_tokens";

/// A stream that asked for more than its tenant had left.
#[derive(Clone, Debug, PartialEq)]
pub struct Spent {
    /// What the tenant was told that it had left before.
    pub left: u32,
    /// What time may have earned between that and the stream's end, at most.
    pub earned_max: f64,
    pub came: u32,
    /// How it ended: served, or refused with a code and the time to wait.
    pub ended: Result<(), (String, Option<f64>)>,
}

impl Spent {
    /// Tokens that came beyond what there were. Of what was left only whole ones were told.
    fn over(&self) -> i64 {
        let over = f64::from(self.came) - f64::from(self.left) - self.earned_max;
        #[expect(clippy::cast_possible_truncation, reason = "it is a few thousand tokens")]
        let over = over.ceil() as i64;
        over
    }

    fn fault(&self) -> Option<String> {
        match &self.ended {
            Err((code, _)) if code != CUT => Some(format!("a spent minute ended in `{code}`")),
            Err((code, None)) => Some(format!("`{code}` without a time to wait")),
            Err((code, Some(wait_ms))) if *wait_ms <= 0.0 => Some(format!("`{code}` told no wait")),
            Err((code, Some(_))) if self.came.saturating_add(SHORT_MAX) < self.left => {
                Some(format!("`{code}` after {} of {} tokens", self.came, self.left))
            }
            Err((_, Some(_))) | Ok(()) => None,
        }
    }
}

/// The verdict on some streams, and on one that was to spend a minute, where there is one.
pub fn judge(streams: &[Streamed], spent: Option<&Spent>) -> Check {
    let most = |of: fn(&Streamed) -> i64| streams.iter().map(of).max().unwrap_or(0);
    let measured = [
        ("tokens over the limit of a call", most(Streamed::over)),
        ("tokens told beside those that came", most(Streamed::beside)),
        ("tokens charged beyond those told", most(Streamed::overcharged)),
        (OVER_LEFT, spent.map_or(0, Spent::over)),
    ];
    let faults: Vec<_> = measured.iter().filter(|(_, tokens)| *tokens > OVER_MAX).collect();
    let (verdict, why) = if let Some(fault) = spent.and_then(Spent::fault) {
        (Verdict::Fail, fault)
    } else if streams.is_empty() {
        (Verdict::Inconclusive, "nothing was streamed".to_owned())
    } else if !faults.is_empty() {
        let faults: Vec<_> =
            faults.iter().map(|(name, tokens)| format!("{tokens} {name}")).collect();
        (Verdict::Fail, faults.join("; "))
    } else if streams.iter().all(|stream| stream.came < stream.tokens_max) {
        // Nothing came to its limit, so no limit was tried.
        (Verdict::Inconclusive, "every answer ended by itself".to_owned())
    } else {
        let cut = match spent.map(|spent| &spent.ended) {
            Some(Err(_)) => "one was cut when its tenant had nothing left",
            Some(Ok(())) => "none came to the end of what its tenant had left",
            None => "no tenant with low limits was named: --limited-key-file",
        };
        (Verdict::Pass, format!("streams end at their limits and are charged as they came; {cut}"))
    };
    // What was not tried has no figure.
    let tried = measured.iter().filter(|(name, _)| spent.is_some() || *name != OVER_LEFT);
    let figures = tried.map(|(name, tokens)| Figure::plain(*name, "", *tokens as f64)).collect();
    let trials = streams.len() + usize::from(spent.is_some());
    Check { about: ABOUT, verdict, why, trials, figures }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(streamed: Streamed) -> Verdict {
        let exact = Streamed { tokens_max: 64, came: 64, told: 64, left: Some([1_000, 936]) };
        judge(&[exact, streamed], None).verdict
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
        assert_eq!(judge(&[short], None).verdict, Verdict::Inconclusive);
        assert_eq!(judge(&[], None).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn a_spent_minute_ends_a_stream_within_a_token_and_says_when_to_come_again() {
        let exact = Streamed { tokens_max: 64, came: 64, told: 64, left: Some([1_000, 936]) };
        let cut = |code: &str, wait_ms| Err((code.to_owned(), wait_ms));
        let spent = Spent { left: 50, earned_max: 2.5, came: 52, ended: cut(CUT, Some(700.0)) };
        let check = |spent: Spent| judge(&[exact], Some(&spent)).verdict;
        assert_eq!(check(spent.clone()), Verdict::Pass);
        assert_eq!(check(Spent { came: 53, ..spent.clone() }), Verdict::Pass);
        assert_eq!(check(Spent { came: 54, ..spent.clone() }), Verdict::Fail);
        assert_eq!(check(Spent { ended: cut(CUT, None), ..spent.clone() }), Verdict::Fail);
        assert_eq!(check(Spent { ended: cut("internal", None), ..spent.clone() }), Verdict::Fail);
        // One that comes in pieces may lack one of them, and no more than that.
        assert_eq!(check(Spent { left: 50 + SHORT_MAX, came: 50, ..spent.clone() }), Verdict::Pass);
        assert_eq!(check(Spent { left: 51 + SHORT_MAX, came: 50, ..spent.clone() }), Verdict::Fail);
        assert_eq!(check(Spent { came: 20, ended: Ok(()), ..spent.clone() }), Verdict::Pass);
        assert_eq!(check(Spent { came: 60, ended: Ok(()), ..spent }), Verdict::Fail);
    }
}
