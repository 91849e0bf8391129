//! Quantiles, and how sure they are: intervals by resampling, which ask nothing of how times are
//! spread.

use serde::Serialize;

/// Resamples behind an interval: its ends then rest on the fifty outermost at each side, and move
/// by a few hundredths of its width from seed to seed.
const RESAMPLES: usize = 2_000;

/// The ends of a 95% interval, as parts of the resamples.
const TAILS: [f64; 2] = [0.025, 0.975];

/// Where a figure lies with 95% confidence.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub low: f64,
    pub high: f64,
}

/// How an interval lies to a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lies {
    Within,
    Outside,
    Across,
}

impl Interval {
    /// All from `-margin` to `margin`.
    pub const fn around_zero(margin: f64) -> Self {
        Self { low: -margin, high: margin }
    }

    /// How this interval lies to `region`. One that is not known lies across it.
    pub fn lies(&self, region: &Self) -> Lies {
        if self.low >= region.low && self.high <= region.high {
            Lies::Within
        } else if self.low > region.high || self.high < region.low {
            Lies::Outside
        } else {
            Lies::Across
        }
    }
}

/// The value below which a part of `values` lies, between two of them where it falls there; no
/// number where there are none. Leaves them in another order.
pub fn quantile(values: &mut [f64], part: f64) -> f64 {
    let Some(last) = values.len().checked_sub(1) else { return f64::NAN };
    let place = part.clamp(0.0, 1.0) * last as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a place is between 0 and the last, and rounded down on purpose"
    )]
    let below = (place as usize).min(last);
    let (_, low, above) = values.select_nth_unstable_by(below, f64::total_cmp);
    let low = *low;
    let next = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    low + (place - below as f64) * (next - low)
}

/// The middle of some numbers.
pub fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    quantile(&mut values.into_iter().collect::<Vec<_>>(), 0.5)
}

/// The interval of a figure that `resampled` reckons from another resample each time.
pub fn interval(resampled: impl FnMut() -> f64) -> Interval {
    let mut figures: Vec<_> = std::iter::repeat_with(resampled).take(RESAMPLES).collect();
    let [low, high] = TAILS.map(|part| quantile(&mut figures, part));
    Interval { low, high }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::draw::Draw;

    #[test]
    fn a_quantile_is_a_value_or_between_two() {
        assert!((median([3.0, 1.0, 2.0]) - 2.0).abs() < f64::EPSILON);
        assert!((median([4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < f64::EPSILON);
        let mut hundred: Vec<_> = (0..=100).rev().map(f64::from).collect();
        assert!((quantile(&mut hundred, 0.95) - 95.0).abs() < 1e-9);
        assert!(median([]).is_nan());
    }

    #[test]
    fn an_interval_that_is_not_known_lies_across() {
        let region = Interval::around_zero(1.0);
        let lies = |low, high| Interval { low, high }.lies(&region);
        assert_eq!(lies(-0.5, 1.0), Lies::Within);
        assert_eq!(lies(1.1, 3.0), Lies::Outside);
        assert_eq!(lies(-3.0, -1.1), Lies::Outside);
        assert_eq!(lies(0.5, 1.5), Lies::Across);
        assert_eq!(lies(f64::NAN, f64::NAN), Lies::Across);
    }

    proptest! {
        #[test]
        fn a_quantile_lies_among_its_values_and_grows_with_its_part(
            values in prop::collection::vec(-1e6_f64..1e6, 1..50),
            (one, two) in (0.0_f64..=1.0, 0.0_f64..=1.0),
        ) {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let at = |part| quantile(&mut values.clone(), part);
            let (low, high) = (at(one.min(two)), at(one.max(two)));
            prop_assert!(sorted[0] <= low && low <= high && high <= sorted[sorted.len() - 1]);
        }
    }

    /// Of a hundred intervals of a median some five miss it; by far more would be a fault.
    #[test]
    fn an_interval_holds_the_truth_as_often_as_it_says() {
        let mut draw = Draw::new(3);
        let mut picked = Vec::new();
        let held = (0..100).filter(|_| {
            // Uniform below 1000, so the median is 500.
            let drawn: Vec<_> = (0..60).map(|_| draw.below(1_000) as f64).collect();
            let interval = interval(|| {
                draw.resample(drawn.len(), &mut picked);
                median(picked.iter().map(|at| drawn[*at]))
            });
            interval.low <= 500.0 && 500.0 <= interval.high
        });
        let held = held.count();
        assert!((88..=100).contains(&held), "{held} of 100");
    }
}
