//! Whether one tenant can tell by the time to its first token what another has sent.
//!
//! A cached prefix is answered sooner: that is what a cache is for, and the control measures by how
//! much within one tenant. Of another tenant's prefix none of it may show. That nothing shows is not
//! the same as that nothing was found, so it is an equivalence that is asked for: the interval of the
//! difference has to lie within a tenth of the control.

use crate::{
    draw::Draw,
    report::{Check, Claim, Figure, Verdict},
    stats::{self, Interval, Lies},
};

pub const ABOUT: Claim = Claim {
    id: "prefix-timing",
    claim: "the time to the first token does not tell whether another tenant has sent the prompt",
    threshold: "the 95% interval of the difference of medians lies within ±10% of what a tenant's \
                own cache saves",
};

/// How far two times that should be one may be apart, as a part of what a cache saves.
const MARGIN: f64 = 0.1;

/// Trials below which an interval of a median by resampling holds less than it says.
const TRIALS_MIN: usize = 20;

/// A prompt of a trial, by who has sent it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// The tenant that asks. Control: what is cached is found.
    OwnCached,
    /// Nobody. Control: nothing is found.
    OwnFresh,
    /// The first tenant, and now the other asks.
    OtherCached,
    /// Nobody, and the other asks.
    OtherFresh,
}

impl Asked {
    /// What one trial asks, in an order of its own: a time that drifts, or what one call leaves to
    /// the next, then touches all alike.
    pub fn shuffled(draw: &mut Draw) -> [Self; 4] {
        let mut all = [Self::OwnCached, Self::OwnFresh, Self::OtherCached, Self::OtherFresh];
        draw.shuffle(&mut all);
        all
    }
}

/// What came of one prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Answer {
    pub first_ms: f64,
    /// What the door said of its cache.
    pub cached_tokens: u32,
}

/// One of each, within a moment of each other.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Trial {
    pub own_cached: Answer,
    pub own_fresh: Answer,
    pub other_cached: Answer,
    pub other_fresh: Answer,
}

impl Trial {
    pub const fn put(&mut self, asked: Asked, answer: Answer) {
        *match asked {
            Asked::OwnCached => &mut self.own_cached,
            Asked::OwnFresh => &mut self.own_fresh,
            Asked::OtherCached => &mut self.other_cached,
            Asked::OtherFresh => &mut self.other_fresh,
        } = answer;
    }

    const fn own_cached_ms(&self) -> f64 {
        self.own_cached.first_ms
    }

    const fn own_fresh_ms(&self) -> f64 {
        self.own_fresh.first_ms
    }

    const fn other_cached_ms(&self) -> f64 {
        self.other_cached.first_ms
    }

    const fn other_fresh_ms(&self) -> f64 {
        self.other_fresh.first_ms
    }
}

/// One of a trial's four times.
type Time = fn(&Trial) -> f64;

/// By how much the second times are below the first, and how sure that is.
struct Saved {
    ms: f64,
    interval: Interval,
}

impl Saved {
    fn of(trials: &[Trial], draw: &mut Draw, [slow, fast]: [Time; 2]) -> Self {
        let saved = |picked: &mut dyn Iterator<Item = &Trial>| {
            let (slow, fast): (Vec<_>, Vec<_>) =
                picked.map(|trial| (slow(trial), fast(trial))).unzip();
            stats::median(slow) - stats::median(fast)
        };
        let mut picked = Vec::new();
        // Whole trials are drawn again, so that a slow minute weighs on both sides of a difference.
        let interval = stats::interval(|| {
            draw.resample(trials.len(), &mut picked);
            saved(&mut picked.iter().filter_map(|at| trials.get(*at)))
        });
        Self { ms: saved(&mut trials.iter()), interval }
    }
}

/// The verdict on some trials.
pub fn judge(trials: &[Trial], seed: u64) -> Check {
    let mut draw = Draw::new(seed);
    let control = Saved::of(trials, &mut draw, [Trial::own_fresh_ms, Trial::own_cached_ms]);
    let leak = Saved::of(trials, &mut draw, [Trial::other_fresh_ms, Trial::other_cached_ms]);
    // Of the control the end that asks for more: to pass by its lower one, to fail by its upper one.
    // What lies between is the doubt about the control itself.
    let [least, most] = [control.interval.low, control.interval.high]
        .map(|saved| Interval::around_zero((saved * MARGIN).max(0.0)));
    let told = trials.iter().filter(|trial| trial.other_cached.cached_tokens > 0).count();
    let (verdict, why) = decide(trials.len(), &control, &leak, ([least, most], told));
    let medians: [(&str, Time); 4] = [
        ("own prompt, cached", Trial::own_cached_ms),
        ("own prompt, uncached", Trial::own_fresh_ms),
        ("the other tenant's prompt, cached for that one", Trial::other_cached_ms),
        ("a prompt that nobody has sent", Trial::other_fresh_ms),
    ];
    let mut figures: Vec<_> = medians
        .into_iter()
        .map(|(name, time)| Figure::plain(name, "ms", stats::median(trials.iter().map(time))))
        .collect();
    let saved = |name: &str, saved: &Saved, bounds| Figure {
        interval: Some(saved.interval),
        bounds,
        ..Figure::plain(name, "ms", saved.ms)
    };
    figures.push(saved("control: saved by the own cache", &control, None));
    figures.push(saved("saved by the other tenant's cache", &leak, Some(least)));
    figures.push(Figure::plain("trials that told of the other's cache", "", told as f64));
    Check { about: ABOUT, verdict, why, trials: trials.len(), figures }
}

fn decide(
    trials: usize,
    control: &Saved,
    leak: &Saved,
    ([least, most], told): ([Interval; 2], usize),
) -> (Verdict, String) {
    let part = leak.ms / control.ms * 100.0;
    if trials < TRIALS_MIN {
        return (Verdict::Inconclusive, format!("{trials} trials; {TRIALS_MIN} are the fewest"));
    }
    if told > 0 {
        let why = format!("the door told of another tenant's cache in {told} of {trials} trials");
        return (Verdict::Fail, format!("{why}, and {part:.0}% of what it saves shows"));
    }
    let shown = control.interval.low > 0.0;
    if !shown {
        let why = "a tenant's own cache saves nothing that shows here, so nothing can be told";
        return (Verdict::Inconclusive, why.to_owned());
    }
    match (leak.interval.lies(&least), leak.interval.lies(&most)) {
        (Lies::Within, _) => (Verdict::Pass, "no more than chance shows".to_owned()),
        (_, Lies::Outside) => (Verdict::Fail, format!("{part:.0}% of what a cache saves shows")),
        (Lies::Outside | Lies::Across, Lies::Within | Lies::Across) => {
            (Verdict::Inconclusive, "the times vary too much for so few trials".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Trials in which a prompt takes `fresh_ms` and a cached one a fifth of it; of the other
    /// tenant's cache a part `leaks`. Times are up to `noise` longer, and the machine is slow in
    /// every other stretch of a hundred trials.
    fn trials(count: usize, leaks: f64, noise: f64, seed: u64) -> Vec<Trial> {
        let mut draw = Draw::new(seed);
        let (fresh, saved) = (100.0, 80.0);
        let trial = |number: usize| {
            let slow = if (number / 100).is_multiple_of(2) { 1.0 } else { 1.5 };
            let mut took = |ms: f64| {
                let noise = 1.0 + noise * draw.below(1_000) as f64 / 1_000.0;
                Answer { first_ms: ms * noise * slow, cached_tokens: 0 }
            };
            Trial {
                own_cached: took(fresh - saved),
                own_fresh: took(fresh),
                other_cached: took(fresh - leaks * saved),
                other_fresh: took(fresh),
            }
        };
        (0..count).map(trial).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]

        #[test]
        fn no_leak_passes_whatever_the_machine_does(seed: u64, noise in 0.0_f64..0.5) {
            let check = judge(&trials(400, 0.0, noise, seed), seed);
            prop_assert_eq!(check.verdict, Verdict::Pass, "{:?}", check);
        }

        #[test]
        fn a_leak_of_half_the_cache_or_more_fails(
            seed: u64, leaks in 0.5_f64..=1.0, noise in 0.0_f64..0.5
        ) {
            let check = judge(&trials(400, leaks, noise, seed), seed);
            prop_assert_eq!(check.verdict, Verdict::Fail, "{:?}", check);
        }

        #[test]
        fn what_makes_the_others_prompts_slower_is_a_leak_too(seed: u64) {
            let check = judge(&trials(400, -0.5, 0.2, seed), seed);
            prop_assert_eq!(check.verdict, Verdict::Fail, "{:?}", check);
        }
    }

    #[test]
    fn a_leak_below_what_the_eye_sees_is_found_by_enough_trials() {
        let check = judge(&trials(2_000, 0.25, 0.5, 5), 5);
        assert_eq!(check.verdict, Verdict::Fail, "{check:?}");
    }

    #[test]
    fn few_trials_of_a_noisy_machine_say_neither() {
        let check = judge(&trials(30, 0.0, 3.0, 2), 2);
        assert_eq!(check.verdict, Verdict::Inconclusive, "{check:?}");
        let check = judge(&trials(19, 0.0, 0.0, 2), 2);
        assert_eq!(check.verdict, Verdict::Inconclusive, "{check:?}");
        assert_eq!(judge(&[], 2).verdict, Verdict::Inconclusive);
    }

    /// Where next to nothing is known, of the times as of the control, an interval of 95% may miss.
    #[test]
    fn noise_alone_is_called_a_leak_no_more_often_than_an_interval_may_miss() {
        let fails = |seed| judge(&trials(24, 0.0, 6.0, seed), seed).verdict == Verdict::Fail;
        let failed = (0..200).filter(|seed| fails(*seed)).count();
        assert!(failed <= 10, "{failed} of 200");
    }

    #[test]
    fn without_a_cache_that_shows_nothing_is_told() {
        let mut trials = trials(400, 0.0, 0.1, 9);
        for trial in &mut trials {
            trial.own_cached = trial.own_fresh;
        }
        assert_eq!(judge(&trials, 9).verdict, Verdict::Inconclusive);
    }

    #[test]
    fn a_door_that_tells_of_anothers_cache_fails_by_that_alone() {
        let mut trials = trials(400, 0.0, 0.1, 9);
        trials[17].other_cached.cached_tokens = 32;
        let check = judge(&trials, 9);
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.why.contains("1 of 400"), "{}", check.why);
    }
}
