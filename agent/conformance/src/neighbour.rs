//! Whether one tenant's flood is felt in another's streams.

use crate::{
    draw::Draw,
    report::{Check, Claim, Figure, Verdict},
    stats::{self, Interval, Lies},
};

pub const ABOUT: Claim = Claim {
    id: "noisy-neighbour",
    claim: "a tenant's streams are hardly slower beside a neighbour that floods than beside one \
            that asks for as much as they do",
    threshold: "p95 of the time to the first token and between tokens at most 1.25 times, by their \
                95% intervals",
};

/// How much slower they may be.
const SLOWER: f64 = 1.25;

/// Streams of each kind below which a p95 is nothing but the slowest one.
const STREAMS_MIN: usize = 20;

/// The part of streams that fare no worse.
const MOST: f64 = 0.95;

/// Who floods asks for so many times as much as its share.
pub const FLOOD_FACTOR: usize = 8;

/// What a neighbour asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// As many calls at once as the tenant that is watched.
    Fair,
    Floods,
}

impl Neighbour {
    /// One of each, in an order of its own.
    pub fn shuffled(draw: &mut Draw) -> [Self; 2] {
        let mut both = [Self::Fair, Self::Floods];
        draw.shuffle(&mut both);
        both
    }

    /// Calls that it keeps in flight beside `watched` of the other.
    pub const fn calls(self, watched: usize) -> usize {
        match self {
            Self::Fair => watched,
            Self::Floods => watched.saturating_mul(FLOOD_FACTOR),
        }
    }
}

/// The times of one stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stream {
    pub first_ms: f64,
    pub gaps_ms: Vec<f64>,
}

/// Which of a stream's times are looked at.
type Times = fn(&Stream) -> &[f64];

fn first(stream: &Stream) -> &[f64] {
    std::slice::from_ref(&stream.first_ms)
}

fn gaps(stream: &Stream) -> &[f64] {
    &stream.gaps_ms
}

/// The verdict on streams beside either kind of neighbour.
pub fn judge(fair: &[Stream], flooded: &[Stream], seed: u64) -> Check {
    let mut draw = Draw::new(seed);
    let kinds: [(&str, Times); 2] = [("to the first token", first), ("between tokens", gaps)];
    let bounds = Interval { low: 0.0, high: SLOWER };
    let (mut figures, mut ratios) = (Vec::new(), Vec::new());
    for (name, times) in kinds {
        for (beside, streams) in [("fair", fair), ("flooding", flooded)] {
            let ms = p95(&mut streams.iter(), times);
            figures.push(Figure::plain(
                format!("p95 {name} beside a {beside} neighbour"),
                "ms",
                ms,
            ));
        }
        let interval = slower(fair, flooded, times, &mut draw);
        let value = p95(&mut flooded.iter(), times) / p95(&mut fair.iter(), times);
        let name = format!("{name}, beside a flooding neighbour to beside a fair one");
        figures.push(Figure {
            interval: Some(interval),
            bounds: Some(bounds),
            ..Figure::plain(name, "", value)
        });
        ratios.push(interval.lies(&bounds));
    }
    let fewest = fair.len().min(flooded.len());
    let (verdict, why) = decide(fewest, &ratios);
    Check { about: ABOUT, verdict, why, trials: fair.len() + flooded.len(), figures }
}

fn decide(fewest: usize, ratios: &[Lies]) -> (Verdict, String) {
    if fewest < STREAMS_MIN {
        let why = format!("{fewest} streams of a kind; {STREAMS_MIN} are the fewest");
        (Verdict::Inconclusive, why)
    } else if ratios.contains(&Lies::Outside) {
        (Verdict::Fail, "the flood slows the other tenant's streams".to_owned())
    } else if ratios.contains(&Lies::Across) {
        (Verdict::Inconclusive, "the times vary too much for so few streams".to_owned())
    } else {
        (Verdict::Pass, "the flood is hardly felt".to_owned())
    }
}

fn p95(streams: &mut dyn Iterator<Item = &Stream>, times: Times) -> f64 {
    let mut all: Vec<_> = streams.flat_map(|stream| times(stream).iter().copied()).collect();
    stats::quantile(&mut all, MOST)
}

/// How much slower, with 95% confidence. Whole streams are drawn again: the gaps of one belong
/// together.
fn slower(fair: &[Stream], flooded: &[Stream], times: Times, draw: &mut Draw) -> Interval {
    let mut picked = Vec::new();
    stats::interval(|| {
        let [beside_fair, beside_flood] = [fair, flooded].map(|streams| {
            draw.resample(streams.len(), &mut picked);
            p95(&mut picked.iter().filter_map(|at| streams.get(*at)), times)
        });
        beside_flood / beside_fair
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn streams(count: usize, first_ms: f64, gap_ms: f64, draw: &mut Draw) -> Vec<Stream> {
        let mut about = |ms: f64| ms * (1.0 + 0.2 * draw.below(1_000) as f64 / 1_000.0);
        let stream = |_| Stream {
            first_ms: about(first_ms),
            gaps_ms: (0..8).map(|_| about(gap_ms)).collect(),
        };
        (0..count).map(stream).collect()
    }

    fn check(slower_first: f64, slower_gaps: f64, seed: u64) -> Verdict {
        let mut draw = Draw::new(seed);
        let fair = streams(60, 100.0, 20.0, &mut draw);
        let flooded = streams(60, 100.0 * slower_first, 20.0 * slower_gaps, &mut draw);
        judge(&fair, &flooded, seed).verdict
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(6))]

        #[test]
        fn a_flood_that_is_hardly_felt_passes_and_one_that_is_felt_fails(seed: u64) {
            prop_assert_eq!(check(1.0, 1.0, seed), Verdict::Pass);
            prop_assert_eq!(check(1.5, 1.0, seed), Verdict::Fail);
            prop_assert_eq!(check(1.0, 1.5, seed), Verdict::Fail);
        }
    }

    #[test]
    fn a_ratio_at_the_bound_says_neither() {
        assert_eq!(check(1.25, 1.0, 4), Verdict::Inconclusive);
    }

    #[test]
    fn few_streams_say_nothing() {
        let few = streams(19, 100.0, 20.0, &mut Draw::new(1));
        assert_eq!(judge(&few, &few, 1).verdict, Verdict::Inconclusive);
        assert_eq!(judge(&[], &[], 1).verdict, Verdict::Inconclusive);
    }
}
