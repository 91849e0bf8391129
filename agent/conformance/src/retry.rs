//! Whether a tenant that has spent its minute is told the right time to wait.

use crate::report::{Check, Claim, Figure, Verdict};

pub const ABOUT: Claim = Claim {
    id: "retry-after",
    claim: "a call beyond a tenant's limits is refused with the time after which it is served",
    threshold: "halfway it is refused with what is left of that time, and at its end it is served",
};

/// What refusals of limits per minute are called.
pub const CODES: [&str; 2] = ["too_many_requests", "too_many_tokens"];

/// What a wait may be beside the truth: the wire has whole milliseconds, on both sides.
pub const ROUNDING_MS: f64 = 5.0;

/// A refusal, and what came of waiting as long as it said.
#[derive(Clone, Debug, PartialEq)]
pub struct Waited {
    pub code: String,
    /// Nothing where the refusal did not say.
    pub told_ms: Option<f64>,
    /// A call before the time was over. There is none where nothing was told.
    pub early: Option<Early>,
    /// Whether the call at its end was served, and the refusal if not.
    pub late: Option<Result<(), String>>,
}

/// A call too early.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Early {
    /// Between the two refusals, as seen from outside of the door: at least, and at most.
    pub elapsed_ms: [f64; 2],
    /// What was told now; nothing where it was served.
    pub told_ms: Option<f64>,
}

impl Waited {
    fn fault(&self) -> Option<String> {
        let Self { code, told_ms, early, late } = self;
        if !CODES.contains(&code.as_str()) {
            return Some(format!("refused with `{code}`"));
        }
        let Some(told_ms) = told_ms.filter(|told_ms| *told_ms > 0.0) else {
            return Some(format!("`{code}` without a time to wait"));
        };
        if let Some(Early { elapsed_ms: [least, most], told_ms: again }) = early {
            let (low, high) = (told_ms - most - ROUNDING_MS, told_ms - least + ROUNDING_MS);
            match again {
                None if low > 0.0 => {
                    return Some(format!(
                        "told to wait {told_ms:.0} ms, and served by {most:.0} ms"
                    ));
                }
                Some(again) if !(low..=high).contains(again) => {
                    return Some(format!(
                        "told to wait {again:.0} ms, where {low:.0} to {high:.0} ms were left"
                    ));
                }
                None | Some(_) => {}
            }
        }
        match late {
            Some(Err(code)) => {
                Some(format!("refused with `{code}` after the {told_ms:.0} ms it was told to wait"))
            }
            Some(Ok(())) | None => None,
        }
    }
}

/// The verdict on some refusals.
pub fn judge(waits: &[Waited]) -> Check {
    let faults: Vec<_> = waits.iter().filter_map(Waited::fault).collect();
    let is_whole = waits.iter().all(|waited| waited.early.is_some() && waited.late.is_some());
    let (verdict, why) = match (faults.is_empty(), is_whole && !waits.is_empty()) {
        (false, _) => (Verdict::Fail, faults.join("; ")),
        (true, false) => (Verdict::Inconclusive, "no wait was tried to its end".to_owned()),
        (true, true) => (Verdict::Pass, "every wait was as long as told".to_owned()),
    };
    let longest = waits.iter().filter_map(|waited| waited.told_ms).fold(0.0, f64::max);
    let figures = vec![Figure::plain("longest wait told", "ms", longest)];
    Check { about: ABOUT, verdict, why, trials: waits.len(), figures }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Waited)) -> Verdict {
        let mut waited = Waited {
            code: "too_many_requests".to_owned(),
            told_ms: Some(1_000.0),
            early: Some(Early { elapsed_ms: [500.0, 520.0], told_ms: Some(490.0) }),
            late: Some(Ok(())),
        };
        change(&mut waited);
        judge(&[waited]).verdict
    }

    #[test]
    fn a_wait_that_is_as_told_passes() {
        assert_eq!(check(|_| ()), Verdict::Pass);
        assert_eq!(check(|waited| waited.code = "too_many_tokens".to_owned()), Verdict::Pass);
    }

    #[test]
    fn a_wait_that_is_too_long_too_short_or_not_told_fails() {
        let early = |told_ms| Some(Early { elapsed_ms: [500.0, 520.0], told_ms });
        assert_eq!(check(|waited| waited.told_ms = None), Verdict::Fail);
        assert_eq!(check(|waited| waited.told_ms = Some(0.0)), Verdict::Fail);
        assert_eq!(check(|waited| waited.early = early(None)), Verdict::Fail, "it was served");
        assert_eq!(check(|waited| waited.early = early(Some(1_000.0))), Verdict::Fail);
        assert_eq!(check(|waited| waited.early = early(Some(1.0))), Verdict::Fail);
        let late = Some(Err("too_many_requests".to_owned()));
        assert_eq!(check(|waited| waited.late = late), Verdict::Fail);
        assert_eq!(check(|waited| waited.code = "busy".to_owned()), Verdict::Fail);
    }

    #[test]
    fn a_wait_that_was_not_tried_to_its_end_says_nothing() {
        assert_eq!(check(|waited| waited.late = None), Verdict::Inconclusive);
        assert_eq!(judge(&[]).verdict, Verdict::Inconclusive);
    }
}
