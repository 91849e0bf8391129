mod adapters;
mod books;
mod kept;
mod pace;
mod room;
mod texts;
mod windows;

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use proptest::prelude::*;
use realm_core::desired::{Priority, Sha256};
use realm_kernels::backend::KvType;

use super::{charges::REFIT_STEPS, pace::STEP_TARGET, *};
use crate::kv::{Layout, Namespace, Secret};

const BLOCK: usize = 4;

fn scheduler(blocks: u32, limits: Limits) -> Scheduler {
    windowed(blocks, None, limits)
}

/// As [`scheduler`], of a model whose layers all attend so many tokens.
fn windowed(blocks: u32, window: Option<usize>, limits: Limits) -> Scheduler {
    scheduler_of(blocks, Layout::of_one_kind(BLOCK, window), limits)
}

/// As [`scheduler`], of a model with a cache of so many blocks of all layers.
fn scheduler_of(blocks: u32, layout: Layout, limits: Limits) -> Scheduler {
    let namespace = Namespace::new(Secret([7; 32]), Sha256([1; 32]), KvType::F16);
    let blocks = u32::try_from(layout.in_bands(blocks as usize)).unwrap();
    Scheduler::new(limits, BlockPool::new(blocks, layout, namespace), Prices::MEASURED)
}

/// Of layers of one kind or the other, or of both.
fn layout() -> impl Strategy<Value = Layout> {
    let bands = prop_oneof![Just((1, 0)), Just((0, 1)), (1..3_usize, 1..4_usize)];
    (bands, 1..24_usize).prop_map(|((whole, windowed), window)| Layout {
        block_tokens: BLOCK,
        whole,
        windowed,
        window,
    })
}

const LIMITS: Limits = Limits { context: 64, batch_tokens: 16, running: 4, queued: 100 };

fn tenant(n: usize) -> TenantName {
    TenantName::new("default", &format!("t{n}")).unwrap()
}

const fn terms(weight: u32) -> Terms {
    Terms { weight, priority: Priority::Normal }
}

fn submission(id: u64, n: usize, prompt: usize, tokens_max: u32) -> Submission {
    Submission {
        id: SequenceId(id),
        tenant: tenant(n),
        public: None,
        adapter: None,
        terms: terms(1),
        kv_blocks_max: 100_000,
        context_max: 100_000,
        // Each prompt its own, so that only what a test repeats is found in the cache.
        prompt: (0..).map(|i| u32::try_from(id).unwrap() * 1000 + i).take(prompt).collect(),
        resumed: 0,
        tokens_max: Some(tokens_max),
        deadline: None,
    }
}

/// One step in which every wanted row gives a token; returns who got one and who finished.
fn step(scheduler: &mut Scheduler, batch: &mut Batch) -> (Vec<SequenceId>, Vec<SequenceId>) {
    assert_eq!(scheduler.plan_batch(Instant::now(), batch), []);
    check_batch(scheduler, batch);
    scheduler.commit();
    let mut got = Vec::new();
    let mut finished = Vec::new();
    for &row in &batch.outputs {
        let span = batch.spans.iter().find(|s| s.first_row + s.count == row as usize + 1).unwrap();
        got.push(span.sequence);
        if scheduler.advance(span.sequence, 7).is_some() {
            scheduler.end(span.sequence).unwrap();
            finished.push(span.sequence);
        }
    }
    (got, finished)
}

/// A step before which no sequence has started for as long as it takes one to be preempted.
fn patient_step(
    scheduler: &mut Scheduler,
    batch: &mut Batch,
) -> (Vec<SequenceId>, Vec<SequenceId>) {
    scheduler.steps_without_start = PATIENCE_STEPS;
    step(scheduler, batch)
}

fn check_batch(scheduler: &Scheduler, batch: &Batch) {
    assert!(batch.tokens.len() <= scheduler.limits.batch_tokens);
    assert!(batch.spans.len() <= scheduler.limits.running);
    check_seen(scheduler, batch);
    let bands = scheduler.pool().layout().bands();
    let slots: HashSet<u32> = (0..bands).flat_map(|band| batch.slots(band)).copied().collect();
    assert_eq!(slots.len(), bands * batch.tokens.len(), "two rows of a step share a slot");
    for span in &batch.spans {
        assert!(span.blocks * BLOCK >= span.past + span.count);
        for band in 0..bands {
            let own = scheduler.running[&span.sequence].table.bands().nth(band).unwrap();
            assert_eq!(batch.tables[span.table(band)], own[..span.blocks]);
        }
    }
}

/// What the rows of a step see and write lies in blocks that their sequence holds.
fn check_seen(scheduler: &Scheduler, batch: &Batch) {
    let layout = scheduler.pool().layout();
    for span in &batch.spans {
        let Running { sequence, table, .. } = &scheduler.running[&span.sequence];
        for band in 0..layout.bands() {
            let gone = table.gone(band);
            assert!(gone <= layout.gone_in(band, span.past), "{gone} blocks are gone of {span:?}");
        }
        let most = layout.held_max(sequence.tokens.len(), scheduler.limits.batch_tokens);
        assert!(table.held_count() <= most as u64);
    }
}

fn run_to_end(scheduler: &mut Scheduler) -> HashMap<SequenceId, usize> {
    let mut batch = Batch::default();
    let mut tokens = HashMap::new();
    for _ in 0..10_000 {
        if scheduler.is_idle() {
            return tokens;
        }
        for id in step(scheduler, &mut batch).0 {
            *tokens.entry(id).or_default() += 1;
        }
        assert!(!batch.is_empty(), "work is waiting and nothing was planned");
    }
    panic!("the work never ends");
}

#[test]
fn a_long_prompt_is_computed_in_chunks_while_others_decode() {
    let mut scheduler = scheduler(64, LIMITS);
    let mut batch = Batch::default();
    scheduler.submit(submission(1, 0, 3, 20)).unwrap();
    assert_eq!(step(&mut scheduler, &mut batch).0, [SequenceId(1)]);
    scheduler.submit(submission(2, 1, 40, 5)).unwrap();
    for rows in [16, 16] {
        assert_eq!(step(&mut scheduler, &mut batch).0, [SequenceId(1)]);
        assert_eq!(batch.tokens.len(), rows);
    }
    let both = [SequenceId(1), SequenceId(2)];
    assert_eq!(step(&mut scheduler, &mut batch).0, both);
    assert_eq!(batch.tokens.len(), 1 + 40 - 15 - 15);
    assert_eq!(step(&mut scheduler, &mut batch).0, both);
}

#[test]
fn a_tenant_with_many_long_prompts_does_not_keep_another_waiting() {
    let mut scheduler = scheduler(64, LIMITS);
    let mut batch = Batch::default();
    for id in 0..8 {
        scheduler.submit(submission(id, 0, 50, 5)).unwrap();
    }
    for _ in 0..3 {
        step(&mut scheduler, &mut batch);
    }
    scheduler.submit(submission(100, 1, 10, 5)).unwrap();
    let (got, _) = step(&mut scheduler, &mut batch);
    assert!(got.contains(&SequenceId(100)), "{got:?}");
}

/// Seconds that the rows of a prompt cost.
fn cost_of(span: &crate::batch::Rows) -> f64 {
    Prices::MEASURED.cost(Service::prefill(span.count, span.past), 4096).as_secs_f64()
}

#[test]
fn the_time_of_a_hook_is_its_tenants() {
    let mut scheduler = scheduler(24, LIMITS);
    scheduler.submit(submission(1, 0, 8, 5)).unwrap();
    scheduler.submit(submission(2, 1, 8, 5)).unwrap();
    let had = |scheduler: &Scheduler, n| scheduler.share.served(&tenant(n)).unwrap().1;
    let before = [had(&scheduler, 0), had(&scheduler, 1)];
    // One of the two threads, for a second.
    scheduler.charge_hook(&tenant(0), Duration::from_secs(1));
    let half = terms(1).divide(Cost::from_millis(500));
    assert_eq!([had(&scheduler, 0), had(&scheduler, 1)], [before[0] + half, before[1]]);
    scheduler.charge_hook(&tenant(7), Duration::from_secs(1));
}

#[test]
fn prompts_are_served_by_weight() {
    let limits = Limits { running: 2, batch_tokens: 128, context: 4096, queued: 10 };
    let mut scheduler = scheduler(4096, limits);
    let mut batch = Batch::default();
    for (n, weight) in [(0, 1), (1, 3)] {
        let prompt = submission(n, usize::try_from(n).unwrap(), 4000, 5);
        scheduler.submit(Submission { terms: terms(weight), ..prompt }).unwrap();
    }
    let mut costs = HashMap::<SequenceId, f64>::new();
    for _ in 0..16 {
        step(&mut scheduler, &mut batch);
        for span in &batch.spans {
            *costs.entry(span.sequence).or_default() += cost_of(span);
        }
    }
    let (light, heavy) = (costs[&SequenceId(0)], costs[&SequenceId(1)]);
    let turn = Prices::MEASURED.cost(Service::prefill(PREFILL_QUANTUM, 2000), 4096).as_secs_f64();
    assert!((heavy - 3.0 * light).abs() <= 4.0 * turn, "{light} and {heavy}");
}

#[test]
fn who_comes_late_shares_from_then_on_and_makes_up_for_no_more_than_its_credit() {
    let limits = Limits { running: 2, batch_tokens: 128, context: 4096, queued: 10 };
    let mut scheduler = scheduler(4096, limits);
    let mut batch = Batch::default();
    scheduler.submit(submission(1, 0, 4000, 2)).unwrap();
    for _ in 0..10 {
        step(&mut scheduler, &mut batch);
    }
    scheduler.submit(submission(2, 1, 4000, 2)).unwrap();
    let (mut rows, mut costs) = ([0, 0], [0.0, 0.0]);
    for _ in 0..10 {
        step(&mut scheduler, &mut batch);
        for span in &batch.spans {
            let at = usize::try_from(span.sequence.0).unwrap() - 1;
            rows[at] += span.count;
            costs[at] += cost_of(span);
        }
    }
    let turn = Prices::MEASURED.cost(Service::prefill(PREFILL_QUANTUM, 2000), 4096).as_secs_f64();
    let credit = share::CREDIT_MAX.as_secs_f64();
    assert!((costs[0] + credit - costs[1]).abs() <= 2.0 * turn, "{costs:?}");
    assert!(rows[1] > rows[0], "a row with less before it costs less: {rows:?}");
}

#[test]
fn a_sequence_whose_prefix_is_cached_starts_before_older_ones_of_its_tenant() {
    let mut scheduler = scheduler(256, Limits { running: 1, ..LIMITS });
    let mut batch = Batch::default();
    scheduler.submit(submission(1, 0, 20, 1)).unwrap();
    run_to_end(&mut scheduler);
    // While another tenant's runs, three come, of which the last begins as the first did.
    scheduler.submit(submission(9, 1, 4, 3)).unwrap();
    step(&mut scheduler, &mut batch);
    for id in [2, 3] {
        scheduler.submit(submission(id, 0, 20, 1)).unwrap();
    }
    scheduler.submit(Submission { id: SequenceId(4), ..submission(1, 0, 20, 1) }).unwrap();
    let mut order = Vec::new();
    while !scheduler.is_idle() {
        order.extend(step(&mut scheduler, &mut batch).1);
    }
    assert_eq!(order, [9, 4, 2, 3].map(SequenceId));
}

/// The sequence with nothing in the cache, and many that come after it and begin alike.
#[test]
fn no_sequence_is_overtaken_for_ever() {
    let mut scheduler = scheduler(256, Limits { running: 1, ..LIMITS });
    let mut batch = Batch::default();
    let alike = |id| Submission { id: SequenceId(id), ..submission(1, 0, 20, 1) };
    scheduler.submit(alike(1)).unwrap();
    run_to_end(&mut scheduler);
    scheduler.submit(alike(2)).unwrap();
    scheduler.submit(submission(3, 0, 20, 1)).unwrap();
    let mut before = 0;
    for id in 4.. {
        scheduler.submit(alike(id)).unwrap();
        let (_, finished) = step(&mut scheduler, &mut batch);
        if finished.contains(&SequenceId(3)) {
            break;
        }
        before += finished.len();
        assert!(id < 100, "it waits for ever");
    }
    let most = usize::try_from(account::OVERTAKEN_MAX).unwrap();
    assert!((2..=most + 2).contains(&before), "{before}");
}

fn engine(batch_tokens: usize, running: usize) -> Scheduler {
    scheduler(4096, Limits { running, batch_tokens, context: 8192, queued: 1000 })
}

/// Sequences that only decode, of the tenants 0, 1, …, `each` of each.
fn decoding(scheduler: &mut Scheduler, batch: &mut Batch, tenants: usize, each: usize) {
    for n in 0..tenants * each {
        scheduler.submit(submission(1000 + n as u64, n / each, 4, 5_000)).unwrap();
    }
    while scheduler.queued() > 0 || batch.tokens.len() != tenants * each {
        step(scheduler, batch);
    }
}

#[test]
fn a_step_in_which_somebody_decodes_keeps_to_the_target() {
    let mut scheduler = engine(512, 8);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, 1, 4);
    scheduler.submit(submission(1, 1, 4_000, 5)).unwrap();
    for _ in 0..10 {
        step(&mut scheduler, &mut batch);
        let mut cost = Prices::MEASURED.cost(scheduler.step(), 4096);
        cost += Prices::MEASURED.step;
        assert!(cost <= STEP_TARGET, "{cost:?}");
        assert!(cost.as_secs_f64() > 0.9 * STEP_TARGET.as_secs_f64(), "{cost:?} is too short");
    }
}

#[test]
fn prompts_have_half_as_much_of_a_step_as_answers_where_those_take_longer_than_the_target() {
    let mut scheduler = engine(512, 256);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, 1, 200);
    scheduler.submit(submission(1, 1, 4_000, 5)).unwrap();
    // It has had as much as the other one.
    scheduler.share.charge(&tenant(1), share::CREDIT_MAX);
    step(&mut scheduler, &mut batch);
    let decodes = Prices::MEASURED.cost(Service { decode_tokens: 200, ..Service::default() }, 4096);
    assert!(decodes > STEP_TARGET);
    let prompt = Service { decode_tokens: 0, ..scheduler.step() };
    let prompt = Prices::MEASURED.cost(prompt, 4096).as_secs_f64();
    let part = prompt / decodes.as_secs_f64();
    assert!((0.45..0.6).contains(&part), "{prompt} s beside {decodes:?}");
}

/// The tenant of weight 1 has decoded more than its part while the other's prompts lacked time.
#[test]
fn who_has_had_far_more_than_its_part_waits_for_a_prompt_that_lacks_time() {
    let mut scheduler = engine(512, 64);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, 1, 56);
    let documents = |id| Submission { terms: terms(2), ..submission(id, 1, 4_000, 1) };
    for id in 1..=4 {
        scheduler.submit(documents(id)).unwrap();
    }
    let most = Cost::from_millis(500 + 100);
    while scheduler.queued() > 0 {
        step(&mut scheduler, &mut batch);
        assert!(!scheduler.share.is_ahead(&tenant(0), &tenant(1), most));
    }
}

/// Somebody comes with a document, and has its credit before them.
#[test]
fn answers_that_wait_for_a_prompt_come_by_turns_and_not_for_long() {
    let mut scheduler = engine(512, 64);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, 2, 8);
    (0..200).for_each(|_| drop(step(&mut scheduler, &mut batch)));
    scheduler.submit(submission(1, 2, 2_000, 1)).unwrap();
    let mut last = HashMap::<SequenceId, u32>::new();
    let (mut steps, mut short) = (0, 0);
    while scheduler.queued() > 0 || scheduler.running_of(&tenant(2)) > 0 {
        let (got, _) = step(&mut scheduler, &mut batch);
        steps += 1;
        for id in got.iter().filter(|id| id.0 >= 1000) {
            let waited = steps - last.insert(*id, steps).unwrap_or(0);
            assert!(waited <= 8, "{id:?} waited {waited} steps");
        }
        assert!(got.len() >= 2, "one of each tenant at least");
        short += u32::from(got.len() < 16);
    }
    assert!(short > 0 && short < steps / 4, "{short} of {steps} steps");
}

/// Whoever decodes beside it waits for no more than for a step of short prompts.
#[test]
fn a_step_far_into_a_long_prompt_has_fewer_rows() {
    let limits = Limits { running: 2, batch_tokens: 256, context: 8192, queued: 10 };
    let mut scheduler = scheduler(4096, limits);
    let mut batch = Batch::default();
    scheduler.submit(submission(1, 0, 8000, 5)).unwrap();
    let most = Prices::MEASURED.cost(Service::prefill(256, PREFILL_PAST), 4096);
    let mut rows = Vec::new();
    while scheduler.queued() > 0 || scheduler.totals().generated == 0 {
        step(&mut scheduler, &mut batch);
        let cost = Prices::MEASURED.cost(scheduler.step(), 4096);
        assert!(cost <= most, "{cost:?} of {most:?}");
        rows.push(batch.tokens.len());
    }
    rows.pop();
    assert_eq!(rows.first(), Some(&256));
    assert!(rows.last().is_some_and(|rows| (PREFILL_MIN..128).contains(rows)), "{rows:?}");
}

#[test]
fn a_tenant_that_its_own_quota_keeps_waiting_is_owed_nothing_for_that_time() {
    let limits = Limits { running: 3, batch_tokens: 128, context: 8192, queued: 10 };
    let mut scheduler = scheduler(4096, limits);
    let mut batch = Batch::default();
    for id in [10, 11] {
        let of_small_quota = Submission { kv_blocks_max: 510, ..submission(id, 1, 2_000, 30) };
        scheduler.submit(of_small_quota).unwrap();
    }
    scheduler.submit(submission(1, 0, 8000, 2)).unwrap();
    while !scheduler.running.contains_key(&SequenceId(11)) {
        step(&mut scheduler, &mut batch);
    }
    let mut rows = HashMap::<SequenceId, usize>::new();
    for _ in 0..12 {
        step(&mut scheduler, &mut batch);
        for span in &batch.spans {
            *rows.entry(span.sequence).or_default() += span.count;
        }
    }
    let other = rows.get(&SequenceId(1)).copied().unwrap_or(0);
    let own = rows.get(&SequenceId(11)).copied().unwrap_or(0);
    // Beyond the little that whoever is there may be behind.
    let credit = share::CREDIT_MAX.fits(Prices::MEASURED.prefill_token);
    assert!(own > credit && other >= (own - credit) / 2, "the other one has less: {rows:?}");
}

#[test]
fn prices_follow_the_steps_that_were_measured() {
    let mut scheduler = scheduler(64, LIMITS);
    let mut batch = Batch::default();
    scheduler.submit(submission(1, 0, 4, 50)).unwrap();
    for _ in 0..REFIT_STEPS {
        scheduler.plan_batch(Instant::now(), &mut batch);
        if scheduler.is_idle() {
            scheduler.submit(submission(1, 0, 4, 50)).unwrap();
            scheduler.plan_batch(Instant::now(), &mut batch);
        }
        scheduler.observe(Duration::from_micros(50));
        scheduler.commit();
        if scheduler.advance(SequenceId(1), 7).is_some() {
            scheduler.end(SequenceId(1));
        }
    }
    let Prices { step, decode_token, .. } = scheduler.prices;
    let one = step.as_secs_f64() + decode_token.as_secs_f64();
    assert!((one / 50e-6 - 1.0).abs() < 0.2, "{one}");
}

#[test]
fn a_prompt_that_context_quota_or_cache_cannot_hold_is_refused() {
    let mut scheduler = scheduler(10, LIMITS);
    let too_long = |tokens, tokens_max| Err(Refusal::TooLong { tokens, tokens_max });
    assert_eq!(scheduler.submit(submission(1, 0, 64, 1)), too_long(64, 40));
    let quota = Submission { kv_blocks_max: 2, ..submission(1, 0, 8, 1) };
    assert_eq!(scheduler.submit(quota), too_long(8, 8));
    let rights = Submission { context_max: 5, ..submission(1, 0, 5, 1) };
    assert_eq!(scheduler.submit(rights), too_long(5, 5));
    assert!(matches!(scheduler.submit(submission(1, 0, 0, 1)), Err(Refusal::Invalid(_))));
    assert!(matches!(scheduler.submit(submission(1, 0, 1, 0)), Err(Refusal::Invalid(_))));
    assert!(scheduler.is_idle());
}

#[test]
fn a_resumed_answer_goes_on_at_its_place_and_ends_where_the_whole_would() {
    let mut scheduler = scheduler(64, LIMITS);
    let resumed = |resumed| Submission { resumed, ..submission(1, 0, 14, 6) };
    assert_eq!(scheduler.submit(resumed(4)), Ok(None));
    let mut batch = Batch::default();
    assert_eq!(scheduler.plan_batch(Instant::now(), &mut batch), []);
    assert_eq!((batch.tokens.len(), scheduler.position(SequenceId(1))), (14, 4));
    scheduler.commit();
    assert_eq!(scheduler.advance(SequenceId(1), 7), None);
    assert_eq!(scheduler.advance(SequenceId(1), 7), Some(Finish::Length));
    let usage = Usage { prompt_tokens: 14, cached_tokens: 0, completion_tokens: 2 };
    assert_eq!(scheduler.end(SequenceId(1)), Some(usage));

    assert_eq!(scheduler.submit(resumed(6)), Ok(Some(Finish::Length)));
    assert!(matches!(scheduler.submit(resumed(7)), Err(Refusal::Invalid(_))));
    assert!(matches!(scheduler.submit(resumed(14)), Err(Refusal::Invalid(_))));
    let of_context = Submission { context_max: 14, ..resumed(4) };
    assert_eq!(scheduler.submit(of_context), Ok(Some(Finish::Length)));
    assert!(scheduler.is_idle());
}

#[test]
fn a_resumed_answer_that_is_longer_than_limits_are_by_now_has_come_to_its_end() {
    let mut scheduler = scheduler(64, LIMITS);
    let resumed = Submission { resumed: 4, ..submission(1, 0, 14, 6) };
    for context_max in [11, 13] {
        let beyond_context = Submission { context_max, ..resumed.clone() };
        assert_eq!(scheduler.submit(beyond_context), Ok(Some(Finish::Length)));
    }
    let beyond_quota = Submission { kv_blocks_max: 3, ..resumed.clone() };
    assert_eq!(scheduler.submit(beyond_quota), Ok(Some(Finish::Length)));
    let no_prompt = Submission { context_max: 10, ..resumed };
    let too_long = Refusal::TooLong { tokens: 10, tokens_max: 10 };
    assert_eq!(scheduler.submit(no_prompt), Err(too_long));
    assert!(scheduler.is_idle());
}

#[test]
fn an_answer_ends_where_the_context_does() {
    let mut scheduler = scheduler(64, LIMITS);
    let open_ended = Submission { tokens_max: None, ..submission(1, 0, 10, 1) };
    scheduler.submit(open_ended).unwrap();
    assert_eq!(run_to_end(&mut scheduler)[&SequenceId(1)], 64 - 10);
}

#[test]
fn a_full_queue_and_a_drain_refuse_and_what_is_there_finishes() {
    let mut scheduler = scheduler(64, Limits { queued: 2, ..LIMITS });
    scheduler.submit(submission(1, 0, 4, 2)).unwrap();
    scheduler.submit(submission(2, 0, 4, 2)).unwrap();
    let busy = Refusal::Busy { retry_after_ms: BUSY_RETRY_MS };
    assert_eq!(scheduler.submit(submission(3, 0, 4, 2)), Err(busy));
    scheduler.drain();
    assert_eq!(scheduler.submit(submission(4, 1, 4, 2)), Err(Refusal::Draining));
    assert_eq!(run_to_end(&mut scheduler).len(), 2);
}

#[test]
fn a_deadline_ends_running_and_waiting_sequences_and_frees_their_blocks() {
    let mut scheduler = scheduler(64, Limits { running: 1, ..LIMITS });
    let mut batch = Batch::default();
    let start = Instant::now();
    let deadline = Some(Deadline { at: start + Duration::from_secs(1), ms: 1000 });
    scheduler.submit(Submission { deadline, ..submission(1, 0, 4, 50) }).unwrap();
    scheduler.submit(Submission { deadline, ..submission(2, 0, 4, 50) }).unwrap();
    assert_eq!(scheduler.plan_batch(start, &mut batch), []);
    scheduler.commit();
    let ended = scheduler.plan_batch(start + Duration::from_secs(1), &mut batch);
    let refusal = Refusal::DeadlineExceeded { deadline_ms: 1000 };
    assert_eq!(ended, [(SequenceId(1), refusal.clone()), (SequenceId(2), refusal)]);
    assert!(batch.is_empty() && scheduler.is_idle());
    assert_eq!(scheduler.pool().used(), 0);
}

#[test]
fn cached_tokens_are_counted_once_and_only_for_their_owner() {
    let mut scheduler = scheduler(64, LIMITS);
    let mut usage = |id: u64, n: usize| {
        let prompt = submission(1, n, 10, 1);
        scheduler.submit(Submission { id: SequenceId(id), ..prompt }).unwrap();
        let mut batch = Batch::default();
        scheduler.plan_batch(Instant::now(), &mut batch);
        scheduler.commit();
        scheduler.advance(SequenceId(id), 1).unwrap();
        scheduler.end(SequenceId(id)).unwrap()
    };
    assert_eq!(usage(1, 0), Usage { prompt_tokens: 10, cached_tokens: 0, completion_tokens: 1 });
    assert_eq!(usage(2, 0), Usage { prompt_tokens: 10, cached_tokens: 8, completion_tokens: 1 });
    assert_eq!(usage(3, 1), Usage { prompt_tokens: 10, cached_tokens: 0, completion_tokens: 1 });
}

#[derive(Clone, Debug)]
enum Act {
    Submit { tenant: usize, prompt: usize, tokens_max: u32, weight: u32, quota: u32 },
    Step,
    Cancel { which: usize },
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        (0..3_usize, 1..40_usize, 1..30_u32, 1..4_u32, 4..20_u32).prop_map(
            |(tenant, prompt, tokens_max, weight, quota)| Act::Submit {
                tenant,
                prompt,
                tokens_max,
                weight,
                quota
            }
        ),
        Just(Act::Step),
        Just(Act::Step),
        any::<usize>().prop_map(|which| Act::Cancel { which }),
    ]
}

proptest! {
    #[test]
    fn blocks_are_conserved_and_all_work_ends(
        acts in prop::collection::vec(act(), 0..120),
        layout in layout(),
    ) {
        let mut scheduler = scheduler_of(18, layout, LIMITS);
        let mut batch = Batch::default();
        let mut live: Vec<SequenceId> = Vec::new();
        for (id, act) in (0..).zip(acts) {
            match act {
                Act::Submit { tenant: n, prompt, tokens_max, weight, quota } => {
                    let wanted = submission(id % 5, n, prompt, tokens_max);
                    let id = SequenceId(id);
                    let wanted = Submission { id, terms: terms(weight), kv_blocks_max: quota, ..wanted };
                    if scheduler.submit(wanted).is_ok() {
                        live.push(id);
                    }
                }
                Act::Step => {
                    let before: Vec<SequenceId> = scheduler.running.keys().copied().collect();
                    scheduler.steps_without_start = PATIENCE_STEPS;
                    scheduler.make_room();
                    let preempted = before.iter().any(|id| !scheduler.running.contains_key(id));
                    let started = scheduler.running.keys().any(|id| !before.contains(id));
                    prop_assert!(started || !preempted, "preempted for nothing");
                    let (_, finished) = step(&mut scheduler, &mut batch);
                    live.retain(|id| !finished.contains(id));
                    prop_assert!(scheduler.is_idle() || !batch.is_empty());
                }
                Act::Cancel { which } if !live.is_empty() => {
                    let id = live.swap_remove(which % live.len());
                    prop_assert!(scheduler.end(id).is_some());
                }
                Act::Cancel { .. } => {}
            }
            prop_assert_eq!(scheduler.running() + scheduler.queued(), live.len());
            let held: usize = scheduler.held().values().sum();
            prop_assert_eq!(scheduler.pool().used(), held);
        }
        run_to_end(&mut scheduler);
        prop_assert_eq!(scheduler.pool().used(), 0);
    }
}
