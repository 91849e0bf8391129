//! What adapters cost, and whom.

use std::collections::BTreeMap;

use super::*;
use crate::{
    adapter::{Adapted, AdapterId, AdapterWork},
    scheduler::pace::SHORT_TARGET,
};

const PAIRS: u64 = 210;

fn adapted(adapter: u64, submission: Submission) -> Submission {
    let work = AdapterWork { kops: 100, pairs: PAIRS };
    let adapter = Adapted { id: AdapterId(adapter), sha256: Sha256([9; 32]), work };
    Submission { adapter: Some(adapter), ..submission }
}

proptest! {
    #[test]
    fn a_step_pays_each_of_its_adapters_once_and_costs_what_its_sequences_do(
        submissions in prop::collection::vec(
            (0..4_usize, 1..50_usize, 1..20_u32, prop::option::of(0..3_u64)),
            1..40,
        ),
        blocks in 16..64_u32,
    ) {
        let mut scheduler = scheduler(blocks, LIMITS);
        for (id, (n, prompt, tokens_max, adapter)) in (0..).zip(submissions) {
            let plain = submission(id, n, prompt, tokens_max);
            let like = match adapter {
                Some(adapter) => adapted(adapter, plain),
                None => plain,
            };
            scheduler.submit(like).unwrap();
        }
        let mut batch = Batch::default();
        while !scheduler.is_idle() {
            scheduler.steps_without_start = PATIENCE_STEPS;
            scheduler.plan_batch(Instant::now(), &mut batch);
            let in_step: HashSet<_> = batch.spans.iter().filter_map(|span| span.adapter).collect();
            prop_assert_eq!(scheduler.step().adapter_pairs, PAIRS * in_step.len() as u64);
            let mut all = Cost::default();
            scheduler.costs().iter().for_each(|(_, cost)| all += *cost);
            let mut expected = scheduler.prices.cost(scheduler.step(), 1);
            expected += scheduler.prices.step;
            prop_assert_eq!(scheduler.planned(), expected);
            // Of what is shared, each has a whole number of picoseconds.
            let rounded = 2 * batch.spans.len() as u64;
            prop_assert!(expected.picoseconds() - all.picoseconds() <= rounded);
            scheduler.commit();
            for (id, _) in batch.finished().collect::<Vec<_>>() {
                if scheduler.advance(id, 7).is_some() {
                    scheduler.end(id).unwrap();
                }
            }
        }
    }
}

#[test]
fn who_has_many_adapters_pays_for_them_and_who_shares_one_a_part() {
    let limits = Limits { context: 512, batch_tokens: 64, running: 16, queued: 100 };
    let mut scheduler = scheduler(256, limits);
    scheduler.prices.adapter_pair = Cost::from_secs_f64(1e-6);
    let mut batch = Batch::default();
    // Of the first tenant each with one of its own, of the second all with one, of the third none.
    for id in 0..12 {
        let n = id % 3;
        let plain = submission(id, usize::try_from(n).unwrap(), 2, 400);
        scheduler
            .submit(match n {
                0 => adapted(id, plain),
                1 => adapted(1, plain),
                _ => plain,
            })
            .unwrap();
    }
    (0..8).for_each(|_| drop(step(&mut scheduler, &mut batch)));
    assert_eq!(batch.spans.len(), 12);
    assert_eq!(scheduler.step().adapter_pairs, 5 * PAIRS);
    let mut of: BTreeMap<u64, Cost> = BTreeMap::new();
    for (id, cost) in scheduler.costs() {
        *of.entry(id.0 % 3).or_default() += *cost;
    }
    let beyond = |n: u64| of[&n].without(of[&2]).as_secs_f64() * 1e6;
    let rows = scheduler.prices.adapter_kop.as_secs_f64() * 1e6 * 400.0;
    let each = PAIRS as f64;
    assert!((beyond(0) - 4.0 * each - rows).abs() < 1.0, "{}", beyond(0));
    assert!((beyond(1) - each - rows).abs() < 1.0, "{}", beyond(1));
}

#[test]
fn adapters_of_who_reads_sixty_answers_fit_the_steps_in_which_another_reads_two() {
    let limits = Limits { context: 512, batch_tokens: 64, running: 62, queued: 100 };
    let mut scheduler = scheduler(2048, limits);
    scheduler.prices = Prices { decode_token: Cost::from_secs_f64(1e-4), ..Prices::MEASURED };
    // Five milliseconds each, of which a step has time for four.
    scheduler.prices.adapter_pair = Cost::from_secs_f64(5e-3 / PAIRS as f64);
    let mut batch = Batch::default();
    for id in 0..62 {
        let plain = submission(id, usize::from(id >= 2), 4, 400);
        let like = if id < 2 { plain } else { adapted(id % 15, plain) };
        scheduler.submit(like).unwrap();
    }
    while scheduler.queued() > 0 || scheduler.running.values().any(|running| running.left() > 1) {
        step(&mut scheduler, &mut batch);
    }
    let mut had = HashMap::<SequenceId, u32>::new();
    for _ in 0..60 {
        step(&mut scheduler, &mut batch);
        let mut cost = scheduler.prices.cost(scheduler.step(), scheduler.pool.in_all_layers());
        cost += scheduler.prices.step;
        assert!(cost <= SHORT_TARGET, "{cost:?}");
        batch.spans.iter().for_each(|span| *had.entry(span.sequence).or_default() += 1);
        let few = batch.spans.iter().filter(|span| span.sequence.0 < 2).count();
        assert!(few == 2 && batch.spans.len() > 12, "{few} of {}", batch.spans.len());
    }
    let of_many = had.iter().filter(|(id, _)| id.0 >= 2).map(|(_, had)| *had);
    let (least, most) = (of_many.clone().min().unwrap(), of_many.max().unwrap());
    assert!(had.len() == 62 && most <= 2 * least, "{least} to {most}");
}
