//! Verdicts with the figures that they rest on.

use serde::Serialize;

use crate::stats::Interval;

/// What became of a claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    Fail,
    /// It was measured, and what was measured says neither.
    Inconclusive,
    /// It was not measured. Never a pass.
    Skipped,
}

impl Verdict {
    pub const fn word(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "FAIL",
            Self::Inconclusive => "inconclusive",
            Self::Skipped => "skipped",
        }
    }
}

/// A claim about an endpoint, and when it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Claim {
    pub id: &'static str,
    pub claim: &'static str,
    pub threshold: &'static str,
}

/// A number that was measured, or made of such.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Figure {
    pub name: String,
    pub unit: &'static str,
    pub value: f64,
    /// With 95% confidence, where the verdict hangs on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
    /// What it has to lie in, where the verdict hangs on it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bounds: Option<Interval>,
}

impl Figure {
    pub fn plain(name: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { name: name.into(), unit, value, interval: None, bounds: None }
    }
}

/// A claim, what became of it, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Check {
    #[serde(flatten)]
    pub about: Claim,
    pub verdict: Verdict,
    pub why: String,
    /// How often it was tried.
    pub trials: usize,
    pub figures: Vec<Figure>,
}

impl Check {
    /// One that could not be measured, or not to its end.
    pub fn without_figures(about: Claim, verdict: Verdict, why: impl Into<String>) -> Self {
        Self { about, verdict, why: why.into(), trials: 0, figures: Vec::new() }
    }
}

/// Everything that one run found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Report {
    pub url: String,
    /// As the door calls them.
    pub tenants: [String; 2],
    /// With which a run can be drawn again.
    pub seed: u64,
    pub verdict: Verdict,
    pub checks: Vec<Check>,
}

/// What checks come to together: a failure whatever the others say, a pass only where something
/// passed and nothing is in doubt.
pub fn overall(checks: &[Check]) -> Verdict {
    let any = |verdict| checks.iter().any(|check| check.verdict == verdict);
    if any(Verdict::Fail) {
        Verdict::Fail
    } else if any(Verdict::Inconclusive) {
        Verdict::Inconclusive
    } else if any(Verdict::Pass) {
        Verdict::Pass
    } else {
        Verdict::Skipped
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Verdict::{Fail, Inconclusive, Pass, Skipped},
        *,
    };

    #[test]
    fn what_was_not_measured_passes_nothing_and_a_failure_outweighs_all() {
        let of = |verdicts: &[Verdict]| {
            let about = Claim { id: "c", claim: "", threshold: "" };
            let check = |verdict: &Verdict| Check::without_figures(about, *verdict, "");
            overall(&verdicts.iter().map(check).collect::<Vec<_>>())
        };
        assert_eq!(of(&[]), Skipped);
        assert_eq!(of(&[Skipped]), Skipped);
        assert_eq!(of(&[Skipped, Pass]), Pass);
        assert_eq!(of(&[Pass, Inconclusive, Skipped]), Inconclusive);
        assert_eq!(of(&[Pass, Inconclusive, Fail]), Fail);
    }
}
