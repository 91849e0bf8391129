use proptest::prelude::*;
use realm_core::books::Way;

use super::*;

fn generation(sampling: Sampling) -> Generation {
    Generation {
        prompt: vec![1],
        shared_tokens: 0,
        sampling,
        bias: Vec::new(),
        tokens_max: Some(10),
        stop: Vec::new(),
        constraint: None,
        deadline: None,
        resume: None,
        way: Way::Direct,
        milestones: None,
    }
}

fn sampler_of(generation: &Generation) -> Sampler {
    Sampler::new(generation, 7, 1000).unwrap()
}

fn sampler(sampling: Sampling) -> Sampler {
    sampler_of(&generation(sampling))
}

fn pick(sampler: &Sampler, logits: &[f32], position: usize) -> Option<u32> {
    sampler.pick(&mut logits.to_vec(), (None, None), position, &mut Scratch::default()).ok()
}

fn drawn_by(sampler: &Sampler, logits: &[f32]) -> Vec<u32> {
    let mut ids: Vec<u32> = (0..2000).map(|at| pick(sampler, logits, at).unwrap()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

fn drawn(sampling: Sampling, logits: &[f32]) -> Vec<u32> {
    drawn_by(&sampler(sampling), logits)
}

fn soft() -> Sampling {
    Sampling { temperature: 1.0, ..Sampling::default() }
}

#[test]
fn greedy_takes_the_largest_and_the_lowest_id_of_equals() {
    let greedy = sampler(Sampling::default());
    assert_eq!(pick(&greedy, &[1.0, 3.0, f32::NAN, 3.0], 0), Some(1));
    assert_eq!(pick(&greedy, &[f32::NAN, f32::NAN], 0), None);
    assert_eq!(pick(&greedy, &[f32::INFINITY, 0.0], 0), None);
}

#[test]
fn each_limit_keeps_only_the_likeliest() {
    let logits = [0.0, 2.0, 1.0, 2.0, -9.0];
    assert_eq!(drawn(Sampling { top_k: 2, ..soft() }, &logits), [1, 3]);
    assert_eq!(drawn(Sampling { top_k: 1, ..soft() }, &logits), [1]);
    assert_eq!(drawn(Sampling { min_p: 0.3, ..soft() }, &logits), [1, 2, 3]);
    assert_eq!(drawn(Sampling { top_p: 0.7, ..soft() }, &logits), [1, 3]);
    assert_eq!(drawn(Sampling { temperature: 0.01, ..soft() }, &logits), [1, 3]);
}

#[test]
fn typical_tokens_are_kept_and_the_likeliest_is_not_always_one() {
    // Two fifths, and sixty hundredths: what is expected to be told is nearer to the latter.
    let mut logits = vec![0.01_f32.ln(); 60];
    logits.push(0.4_f32.ln());
    let ids = drawn(Sampling { typical_p: 0.3, ..soft() }, &logits);
    assert!(!ids.contains(&60), "{ids:?}");
    assert_eq!(drawn(Sampling { typical_p: 0.25, ..soft() }, &[0.0; 10]), [0, 1, 2]);
}

#[test]
fn draws_follow_the_probabilities() {
    let logits = [0.0_f32, 3.0_f32.ln()];
    let sampler = sampler(soft());
    let ones = (0..20_000).filter(|&p| pick(&sampler, &logits, p) == Some(1)).count();
    // Three in four, give or take five standard deviations of sqrt(20000 * 3/16).
    assert!((14_700..15_300).contains(&ones), "{ones}");
}

#[test]
fn the_same_seed_and_position_draw_the_same_token() {
    let logits: Vec<f32> = (0..1000_u16).map(|i| f32::from(i % 17)).collect();
    let ids = |seed| {
        let sampler = sampler(Sampling { seed: Some(seed), ..soft() });
        (0..64).map(|p| pick(&sampler, &logits, p)).collect::<Vec<_>>()
    };
    assert_eq!(ids(1), ids(1));
    assert_ne!(ids(1), ids(2));
}

#[test]
fn a_nucleus_larger_than_the_first_sort_is_kept_whole() {
    let sampler = sampler(Sampling { top_p: 0.5, ..soft() });
    let mut choice = Choice::default();
    sampler.choose(&[0.0; 1000], Scale::new(0.0, 1.0), &mut choice);
    assert_eq!(choice.candidates.len(), 500);
}

#[test]
fn choosing_again_takes_no_more_memory() {
    let peaked: Vec<f32> = (0..1000_u16).map(|i| -f32::from(i)).collect();
    for top_k in [0, 3] {
        let sampling = Sampling { top_k, top_p: 0.9, logprobs: Some(3), ..soft() };
        let (sampler, mut scratch) = (sampler(sampling), Scratch::default());
        let mut room_after = |mut logits: Vec<f32>, at| {
            sampler.pick(&mut logits, (None, None), at, &mut scratch).unwrap();
            let Scratch { told, choice, .. } = &scratch;
            (told.capacity(), choice.candidates.capacity(), choice.largest.capacity())
        };
        let first = room_after(peaked.clone(), 0);
        assert!((1..50).all(|at| room_after(vec![0.0; 1000], at) == first));
    }
}

#[test]
fn where_the_likely_ones_are_too_few_all_are_listed() {
    let logits: Vec<f32> = std::iter::once(0.0).chain((0..3000).map(|_| -10.0)).collect();
    let (mut choice, scale) = (Choice::default(), Scale::new(0.0, 1.0));
    sampler(Sampling { top_p: 0.95, ..soft() }).choose(&logits, scale, &mut choice);
    let each = (-10.0_f64).exp();
    let enough = 0.95 * (1.0 + 3000.0 * each);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let fewest = 1 + ((enough - 1.0) / each).ceil() as usize;
    assert_eq!((choice.candidates.len(), choice.rest), (fewest, 0.0));
}

#[test]
fn what_is_masked_is_never_drawn() {
    let allowed = |id: u32| id % 7 == 3;
    let logit =
        |id: u16| if allowed(id.into()) { -f32::from(id) / 100.0 } else { f32::NEG_INFINITY };
    let logits: Vec<f32> = (0..4000).map(logit).collect();
    for sampling in [soft(), Sampling { top_p: 0.9, ..soft() }, Sampling { top_k: 50, ..soft() }] {
        assert!(drawn(sampling, &logits).into_iter().all(allowed));
        let (mut choice, scale) = (Choice::default(), Scale::new(logits[3], 1.0));
        sampler(sampling).choose(&logits, scale, &mut choice);
        for at in [0.0, 0.5, 1.0 - f64::EPSILON, 1.0] {
            assert!(choice.draw(&logits, scale, at).is_none_or(allowed));
        }
    }
}

#[test]
fn what_is_told_is_of_the_logits_as_they_came() {
    let sampling = Sampling { logprobs: Some(2), ..Sampling::default() };
    let sampler = sampler_of(&Generation { bias: vec![(2, 9.0)], ..generation(sampling) });
    let (mut logits, mut scratch) = ([3.0, 2.0, 1.0], Scratch::default());
    let id = sampler.pick(&mut logits, (None, None), 0, &mut scratch).unwrap();
    assert_eq!(id, 2);
    let told = sampler.logprobs(id, &scratch).unwrap();
    assert_eq!(told, logprobs::of(&[3.0, 2.0, 1.0], 2, 2));
}

#[test]
fn who_leaves_no_token_is_named() {
    let (greedy, mut scratch) = (sampler(Sampling::default()), Scratch::default());
    let mut pick = |logits: &mut [f32], steer: &Steer| {
        greedy.pick(logits, (None, Some(steer)), 0, &mut scratch)
    };
    let (none, first) = (Steer::Only(Vec::new()), Steer::Only(vec![0]));
    assert_eq!(pick(&mut [1.0, 2.0], &first), Ok(0));
    assert_eq!(pick(&mut [1.0, 2.0], &none), Err(NoToken::OfHook));
    assert_eq!(pick(&mut [f32::NAN, f32::NAN], &none), Err(NoToken::OfLogits));
    assert_eq!(pick(&mut [f32::INFINITY, 2.0], &Steer::Only(vec![1])), Ok(1));
}

#[test]
fn penalties_count_the_answer_and_repetition_counts_the_prompt_too() {
    let logits = [2.0, 1.9, 1.8, -1.0];
    let first = |sampling, answer: &[u32]| {
        let mut sampler = sampler(sampling);
        for &id in answer {
            sampler.remember(id);
        }
        pick(&sampler, &logits, 0).unwrap()
    };
    let greedy = Sampling::default();
    let presence = Sampling { presence_penalty: 0.15, ..greedy };
    assert_eq!(first(presence, &[]), 0);
    assert_eq!(first(presence, &[0]), 1);
    assert_eq!(first(presence, &[0, 0, 1]), 0, "it counts once: 1.85, 1.75, 1.8");
    let frequency = Sampling { frequency_penalty: 0.15, ..greedy };
    assert_eq!(first(frequency, &[0, 0, 1]), 2, "it counts each: 1.7, 1.75, 1.8");
    let repetition = Sampling { repetition_penalty: 1.2, ..greedy };
    assert_eq!(first(repetition, &[0]), 2, "token 1 is in the prompt: 1.67, 1.58, 1.8");
}

#[test]
fn a_bias_bans_a_token_or_leaves_nothing_else() {
    let logits = [3.0, 2.0, 1.0];
    let with = |bias| sampler_of(&Generation { bias, ..generation(soft()) });
    assert_eq!(drawn_by(&with(vec![(0, -100.0)]), &logits), [1, 2]);
    assert_eq!(drawn_by(&with(vec![(2, 100.0)]), &logits), [2]);
}

#[test]
fn settings_out_of_range_are_refused() {
    let nan = f32::NAN;
    for bad in [
        Sampling { temperature: -1.0, ..soft() },
        Sampling { temperature: nan, ..soft() },
        Sampling { top_p: 0.0, ..soft() },
        Sampling { top_p: 1.1, ..soft() },
        Sampling { min_p: nan, ..soft() },
        Sampling { typical_p: 0.0, ..soft() },
        Sampling { repetition_penalty: 0.0, ..soft() },
        Sampling { frequency_penalty: 2.1, ..soft() },
        Sampling { presence_penalty: nan, ..soft() },
        Sampling { logprobs: Some(21), ..soft() },
    ] {
        let refused = Sampler::new(&generation(bad), 0, 1000);
        assert!(matches!(refused, Err(Refusal::Invalid(_))), "{bad:?}");
    }
    for bias in [vec![(1000, 1.0)], vec![(0, 101.0)], vec![(0, nan)], vec![(0, 1.0); 1025]] {
        let refused = Sampler::new(&Generation { bias, ..generation(soft()) }, 0, 1000);
        assert!(matches!(refused, Err(Refusal::Invalid(_))));
    }
}

/// The ids that may be drawn, each by itself, and how much of all they weigh together.
fn looked_at_one_by_one(sampling: Sampling, logits: &[f32]) -> (Vec<u32>, f64) {
    let scale = Scale::new(logits[argmax(logits).unwrap() as usize], sampling.temperature);
    let mut all: Vec<_> = (0_u32..).zip(logits).map(|(id, l)| (id, scale.weight(*l))).collect();
    all.retain(|(_, weight)| *weight > 0.0 && *weight >= f64::from(sampling.min_p));
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if sampling.top_k > 0 {
        all.truncate(sampling.top_k as usize);
    }
    let weight = |of: &[(u32, f64)]| of.iter().map(|(_, weight)| weight).sum::<f64>();
    // All of it is all of it, though a sum may not show the least likely ones.
    if sampling.top_p < 1.0 {
        let enough = f64::from(sampling.top_p) * weight(&all);
        let fewest = (1..all.len()).find(|count| weight(&all[..*count]) >= enough);
        all.truncate(fewest.unwrap_or(all.len()));
    }
    let weighs = weight(&all);
    (all.into_iter().map(|(id, _)| id).collect(), weighs)
}

fn some_logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec(prop_oneof![20 => -20.0_f32..20.0, 1 => Just(f32::NAN)], 2..60)
}

fn some_sampling() -> impl Strategy<Value = Sampling> {
    let shares = (0.05_f32..=1.0, 0.0_f32..=1.0, 0.05_f32..=1.0);
    let penalties = (0.5_f32..2.0, -2.0_f32..=2.0, -2.0_f32..=2.0);
    (0.0_f32..3.0, 0_u32..10, shares, penalties, any::<u64>()).prop_map(
        |(temperature, top_k, shares, penalties, seed)| Sampling {
            temperature,
            top_k,
            top_p: shares.0,
            min_p: shares.1,
            typical_p: shares.2,
            repetition_penalty: penalties.0,
            frequency_penalty: penalties.1,
            presence_penalty: penalties.2,
            logprobs: None,
            seed: Some(seed),
        },
    )
}

proptest! {
    /// Some tokens that are likely, far more that are not, and some that can hardly be drawn.
    #[test]
    fn what_may_be_drawn_is_what_it_would_be_if_each_token_were_looked_at(
        likely in prop::collection::vec(-4.0_f32..0.0, 1..40),
        others in prop::collection::vec(-40.0_f32..-6.0, 0..1500),
        (temperature, top_k, top_p, min_p) in
            (0.3_f32..2.0, 0_u32..30, 0.05_f32..=1.0, prop_oneof![Just(0.0), 0.001_f32..0.5]),
        (has_k, has_p) in any::<(bool, bool)>(),
    ) {
        let logits: Vec<f32> = likely.into_iter().chain(others).collect();
        let top_k = if has_k { top_k } else { 0 };
        let top_p = if has_p { top_p } else { 1.0 };
        let sampling = Sampling { temperature, top_k, top_p, min_p, ..soft() };
        let (mut expected, weighs) = looked_at_one_by_one(sampling, &logits);
        let mut choice = Choice::default();
        let scale = Scale::new(logits[argmax(&logits).unwrap() as usize], temperature);
        sampler(sampling).choose(&logits, scale, &mut choice);
        prop_assert!((choice.total() / weighs - 1.0).abs() < 1e-4);
        let mut listed: Vec<u32> = choice.candidates.iter().map(|c| c.id).collect();
        listed.sort_unstable();
        expected.sort_unstable();
        if choice.rest > 0.0 {
            expected.retain(|id| logits[*id as usize] >= choice.floor);
        }
        prop_assert_eq!(listed, expected);
    }

    /// Where the list ends, the draw goes on among the others.
    #[test]
    fn what_is_not_listed_is_drawn_as_often_as_it_is_likely(others in 100_usize..3000) {
        let logits: Vec<f32> = std::iter::once(0.0).chain((0..others).map(|_| -10.0)).collect();
        let (mut choice, scale) = (Choice::default(), Scale::new(0.0, 1.0));
        sampler(soft()).choose(&logits, scale, &mut choice);
        prop_assert_eq!(choice.candidates.len(), 1);
        let share = 1.0 / (1.0 + others as f64 * (-10.0_f64).exp());
        prop_assert_eq!(choice.draw(&logits, scale, share - 1e-5), Some(0));
        prop_assert_eq!(choice.draw(&logits, scale, share + 1e-5), Some(1));
        let last = choice.draw(&logits, scale, 1.0 - 1e-9);
        prop_assert!(last.is_none_or(|id| id as usize > others - 2), "{:?} of {}", last, others);
    }

    #[test]
    fn any_settings_choose_a_token_that_has_a_number(
        logits in some_logits(),
        sampling in some_sampling(),
        answer in prop::collection::vec(0_u32..60, 0..20),
    ) {
        let mut sampler = sampler(sampling);
        for &id in &answer {
            sampler.remember(id);
        }
        let chosen = pick(&sampler, &logits, 3);
        prop_assert_eq!(chosen.is_some(), logits.iter().any(|logit| !logit.is_nan()));
        prop_assert!(chosen.is_none_or(|id| !logits[id as usize].is_nan()));
        prop_assert_eq!(chosen, pick(&sampler, &logits, 3));
    }

    #[test]
    fn a_penalty_never_lifts_a_token_that_came_before(
        logits in prop::collection::vec(-20.0_f32..20.0, 5),
        by in (1.0_f32..5.0, 0.0_f32..2.0, 0.0_f32..2.0),
        answer in prop::collection::vec(0_u32..5, 0..20),
    ) {
        let sampling = Sampling {
            repetition_penalty: by.0,
            frequency_penalty: by.1,
            presence_penalty: by.2,
            ..soft()
        };
        let Some(mut adjustment) = Adjustment::new(&generation(sampling), 5).unwrap() else {
            return Ok(());
        };
        for &id in &answer {
            adjustment.remember(id);
        }
        let mut adjusted = logits.clone();
        adjustment.apply(&mut adjusted);
        for (id, (before, after)) in (0..).zip(logits.iter().zip(&adjusted)) {
            prop_assert!(after <= before);
            if !answer.contains(&id) && id != 1 {
                prop_assert_eq!(after.to_bits(), before.to_bits(), "it never came");
            }
        }
    }

    #[test]
    fn logprobs_are_logarithms_of_shares_that_sum_to_one(logits in some_logits(), count in 0_u32..=20) {
        let told = logprobs::of(&logits, 1, count as usize);
        let numbers = logits.iter().filter(|logit| !logit.is_nan()).count();
        prop_assert_eq!(told.top.len(), numbers.min(count as usize));
        prop_assert!(told.top.is_sorted_by(|a, b| a.1 >= b.1));
        let sum: f64 = told.top.iter().map(|&(_, own)| f64::from(own).exp()).sum();
        prop_assert!(sum <= 1.0 + 1e-4);
        if numbers == told.top.len() && numbers > 0 {
            prop_assert!((sum - 1.0).abs() < 1e-4, "{}", sum);
        }
        let own = told.top.iter().find(|&&(id, _)| id == 1);
        prop_assert!(own.is_none_or(|&(_, own)| own.to_bits() == told.own.to_bits()));
    }
}

proptest! {
    /// Few different numbers, so that there are equals in other lanes and other blocks.
    #[test]
    fn the_largest_is_the_first_of_those_that_none_exceeds(
        numbers in prop::collection::vec(-4_i8..4, 0..2000),
        at in prop::collection::vec((0_usize..2000, 0_usize..3), 0..4),
    ) {
        let mut logits: Vec<f32> = numbers.iter().map(|number| f32::from(*number)).collect();
        for (place, odd) in at {
            if let Some(logit) = logits.get_mut(place) {
                *logit = [f32::NAN, f32::NEG_INFINITY, f32::MAX][odd];
            }
        }
        let of = |id: usize| logits[id];
        let is_largest = |id: &usize| {
            of(*id).is_finite() && logits.iter().all(|logit| logit.is_nan() || *logit <= of(*id))
        };
        let first = (0..logits.len()).find(is_largest);
        prop_assert_eq!(argmax(&logits), first.map(|id| u32::try_from(id).unwrap()));
    }
}
