//! Answers of several tenants in one step, and prompts of who reads answers in others' steps.

use super::*;
use crate::scheduler::{
    pace::{Company, GONE_FOR, SHORT_TARGET},
    share::CREDIT_MAX,
};

/// Sequences that only decode, so many of each tenant.
fn decoding(scheduler: &mut Scheduler, batch: &mut Batch, each: &[(usize, Terms)]) {
    let mut ids = 1000..;
    for (n, (count, terms)) in each.iter().enumerate() {
        for id in ids.by_ref().take(*count) {
            let submission = Submission { terms: *terms, ..submission(id, n, 4, 5_000) };
            scheduler.submit(submission).unwrap();
        }
    }
    while scheduler.queued() > 0 || scheduler.running.values().any(|running| running.left() > 1) {
        step(scheduler, batch);
    }
}

/// One step: what it takes, and how many rows each of the first three tenants has of it.
fn rows(scheduler: &mut Scheduler, batch: &mut Batch) -> (Cost, [usize; 3]) {
    step(scheduler, batch);
    let mut cost = scheduler.prices.cost(scheduler.step(), scheduler.pool.in_all_layers());
    cost += scheduler.prices.step;
    let mut rows = [0; 3];
    for span in &batch.spans {
        rows[tenant_of(scheduler, span.sequence)] += span.count;
    }
    (cost, rows)
}

fn tenant_of(scheduler: &Scheduler, id: SequenceId) -> usize {
    let of = &scheduler.running.get(&id).unwrap().sequence.owner.tenant;
    (0..3).find(|n| tenant(*n) == *of).unwrap()
}

#[test]
fn answers_of_one_tenant_alone_are_all_in_each_step() {
    let mut scheduler = engine(64, 64);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, &[(60, terms(1))]);
    let (cost, [rows, ..]) = rows(&mut scheduler, &mut batch);
    assert!(rows == 60 && cost > SHORT_TARGET, "{rows} in {cost:?}");
}

#[test]
fn who_reads_two_answers_does_not_wait_for_all_of_another_that_reads_sixty() {
    let mut scheduler = engine(64, 64);
    scheduler.prices.decode_token = Cost::from_millis(2);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, &[(2, terms(1)), (60, terms(1))]);
    let mut had = HashMap::<SequenceId, u32>::new();
    for _ in 0..60 {
        let (cost, [few, many, _]) = rows(&mut scheduler, &mut batch);
        batch.spans.iter().for_each(|span| *had.entry(span.sequence).or_default() += 1);
        assert!(few == 2 && cost <= SHORT_TARGET, "{few} in {cost:?}");
        assert!(many > 6, "there is time for more than {many}");
    }
    let of_many = had.iter().filter(|(id, _)| id.0 >= 1002).map(|(_, had)| *had);
    let (least, most) = (of_many.clone().min().unwrap(), of_many.max().unwrap());
    assert!(had.len() == 62 && least > 0 && most - least <= 1, "{least} to {most}");
}

/// One that reads two answers and has a prompt, beside one that reads fourteen and has had more.
#[test]
fn answers_of_who_floods_leave_the_others_prompt_its_time_and_are_all_there_again_behind_it() {
    let mut scheduler = engine(512, 64);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, &[(2, terms(1)), (14, terms(1))]);
    scheduler.share.charge(&tenant(1), Cost::from_millis(500));
    assert_eq!(rows(&mut scheduler, &mut batch).1, [2, 14, 0]);
    scheduler.submit(submission(1, 0, 200, 5)).unwrap();
    let (cost, [own, others, _]) = rows(&mut scheduler, &mut batch);
    assert!(others == 1 && own > 80 && cost <= STEP_TARGET, "{own} beside {others} in {cost:?}");
    while scheduler.running.values().any(|running| running.left() > 1) {
        step(&mut scheduler, &mut batch);
    }
    assert_eq!(rows(&mut scheduler, &mut batch).1, [3, 14, 0]);
}

/// Two answers of one tenant in each step, and an answer and prompts of another that has had more.
#[test]
fn prompts_of_who_has_more_calls_fit_a_short_step_and_those_of_others_a_whole_one() {
    for (prompts, least, most) in [(1, 54, 60), (2, 20, 25)] {
        let mut scheduler = engine(512, 64);
        let mut batch = Batch::default();
        decoding(&mut scheduler, &mut batch, &[(2, terms(1)), (1, terms(1))]);
        scheduler.share.charge(&tenant(1), Cost::from_millis(300));
        for id in 0..prompts {
            scheduler.submit(submission(id, 1, 2_000, 5)).unwrap();
        }
        for _ in 0..3 {
            let (cost, [own, ..]) = rows(&mut scheduler, &mut batch);
            let is_within = (Cost::from_millis(least)..=Cost::from_millis(most)).contains(&cost);
            assert!(own == 2 && is_within, "{prompts} prompts: {own} rows beside them in {cost:?}");
        }
    }
}

/// Whoever comes waits for the step that is under way, of which nothing can be taken back.
#[test]
fn steps_of_one_tenant_are_short_as_long_as_another_may_come_again() {
    for (answers, least, most) in [(0, 250, 400), (8, 55, 60)] {
        let mut scheduler = engine(512, 64);
        let mut batch = Batch::default();
        decoding(&mut scheduler, &mut batch, &[(answers, terms(1)), (1, terms(1))]);
        scheduler.submit(submission(1, 0, 6_000, 5)).unwrap();
        step(&mut scheduler, &mut batch);
        scheduler.end(SequenceId(1000 + answers as u64)).unwrap();
        for _ in 0..3 {
            let (cost, [own, ..]) = rows(&mut scheduler, &mut batch);
            assert!(own > answers && cost <= SHORT_TARGET, "{own} rows in {cost:?}");
        }
        scheduler.plan_batch(Instant::now() + GONE_FOR, &mut batch);
        let is_within = Cost::from_millis(least)..=Cost::from_millis(most);
        assert!(is_within.contains(&scheduler.planned()), "{:?}", scheduler.planned());
    }
}

#[test]
fn where_weights_take_long_to_read_a_short_step_is_as_long_as_four_times_that() {
    let mut scheduler = engine(512, 64);
    scheduler.prices.step = Cost::from_millis(40);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, &[(0, terms(1)), (1, terms(1))]);
    scheduler.submit(submission(1, 0, 6_000, 5)).unwrap();
    step(&mut scheduler, &mut batch);
    scheduler.end(SequenceId(1000)).unwrap();
    let (cost, _) = rows(&mut scheduler, &mut batch);
    let is_within = Cost::from_millis(155)..=Cost::from_millis(160);
    assert!(is_within.contains(&cost), "{cost:?}");
}

#[test]
fn company_is_expected_of_a_tenants_own_class_and_higher_ones_and_not_for_long() {
    use Priority::{High, Low, Normal};
    let now = Instant::now();
    for (beside, alone, is_expected) in [
        (&[Normal, Normal][..], Normal, true),
        (&[Normal, High], Normal, true),
        (&[High, Normal], Normal, true),
        (&[Normal, Low], Normal, false),
        (&[Low, Normal], Low, true),
        (&[Low, High, Normal], Normal, true),
        (&[Low, High, Normal], High, false),
        (&[Normal], Normal, false),
        (&[], Normal, false),
    ] {
        let mut company = Company::default();
        company.note(beside.iter().copied(), now);
        assert!(beside.len() < 2 || !company.is_expected(), "they are there");
        let last = now + GONE_FOR.saturating_sub(Duration::from_millis(1));
        company.note([alone].into_iter(), last);
        assert_eq!(company.is_expected(), is_expected, "{alone:?} after {beside:?}");
        company.note([alone].into_iter(), now + GONE_FOR);
        assert!(!company.is_expected(), "{alone:?} after {beside:?}, later");
    }
}

#[test]
fn where_weights_are_read_for_many_anyway_all_are_in_each_step() {
    let mut scheduler = engine(64, 64);
    scheduler.prices.decode_token = Cost::from_secs_f64(20e-6);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, &[(1, terms(1)), (60, terms(1))]);
    assert_eq!(rows(&mut scheduler, &mut batch).1, [1, 60, 0]);
}

#[test]
fn long_steps_grow_by_a_quarter_at_most_beyond_equal_parts() {
    let mut scheduler = engine(64, 64);
    scheduler.prices.decode_token = Cost::from_millis(8);
    scheduler.prices.step = Cost::from_millis(25);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, &[(4, terms(1)), (56, terms(1))]);
    let (cost, [few, many, _]) = rows(&mut scheduler, &mut batch);
    // A step and eight rows are 89 ms, a quarter more 111.
    assert!(cost <= Cost::from_millis(112), "{cost:?}");
    assert_eq!((few, many), (4, 6));
}

#[test]
fn rows_are_divided_by_weight_and_a_higher_class_has_its_first() {
    let mut scheduler = engine(64, 64);
    scheduler.prices.decode_token = Cost::from_millis(8);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, &[(20, terms(1)), (20, terms(2)), (4, terms(1))]);
    let mut had = [0; 3];
    for _ in 0..40 {
        let (_, rows) = rows(&mut scheduler, &mut batch);
        assert!(rows.iter().all(|rows| *rows > 0), "each has one at least: {rows:?}");
        had.iter_mut().zip(rows).for_each(|(had, rows)| *had += rows);
    }
    let [one, two, least] = had;
    assert!(two.abs_diff(2 * one) <= two / 20, "{one}, {two}, {least}");

    let mut scheduler = engine(64, 64);
    scheduler.prices.decode_token = Cost::from_millis(8);
    let high = Terms { weight: 1, priority: Priority::High };
    decoding(&mut scheduler, &mut batch, &[(20, terms(1)), (20, high), (20, high)]);
    let (_, [low, high, other]) = rows(&mut scheduler, &mut batch);
    assert!((high, other) == (20, 20) && (1..20).contains(&low), "{low}, {high}, {other}");
}

#[test]
fn who_reads_in_others_steps_has_its_next_prompt_before_theirs_and_not_for_long() {
    let mut scheduler = engine(256, 64);
    let mut batch = Batch::default();
    decoding(&mut scheduler, &mut batch, &[(1, terms(1)), (40, terms(1))]);
    for id in 2000..2200 {
        scheduler.submit(submission(id, 1, 2_000, 1)).unwrap();
    }
    // Most of each step is the other's.
    (0..100).for_each(|_| drop(step(&mut scheduler, &mut batch)));
    scheduler.submit(submission(1, 0, 100, 1)).unwrap();
    scheduler.submit(submission(2, 0, 7_000, 1)).unwrap();
    let is_own = |id: &SequenceId| [1, 2, 1000].contains(&id.0);
    let prompts_of_others = |batch: &Batch| {
        let spans = batch.spans.iter().filter(|span| !is_own(&span.sequence) && span.count > 1);
        spans.map(|span| span.count).sum::<usize>()
    };
    let mut before = 0;
    while !scheduler.running.contains_key(&SequenceId(2)) {
        step(&mut scheduler, &mut batch);
        before += prompts_of_others(&batch);
    }
    assert!(before <= PREFILL_QUANTUM, "{before} rows of others go before it");
    // What it was behind is soon had, and from then on they have as much of the engine.
    let (mut own, mut others) = (Cost::default(), Cost::default());
    while scheduler.running.contains_key(&SequenceId(2)) {
        step(&mut scheduler, &mut batch);
        for (id, cost) in scheduler.costs() {
            if is_own(id) {
                own += *cost;
            } else {
                others += *cost;
            }
        }
    }
    let beyond = own.without(CREDIT_MAX).as_secs_f64();
    // Blocks that are held count as well.
    assert!(others.as_secs_f64() > 0.85 * beyond, "{others:?} beside {own:?}");
}
