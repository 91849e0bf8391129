//! Steps of texts, beside each other and beside those of sequences.

use super::*;

fn call(id: u64, n: usize, lens: &[usize]) -> TextCall {
    weighted(id, (n, 1), lens)
}

fn weighted(id: u64, (n, weight): (usize, u32), lens: &[usize]) -> TextCall {
    let texts = lens.iter().map(|&len| vec![u32::try_from(id).unwrap(); len]).collect();
    TextCall::new(SequenceId(id), (tenant(n), terms(weight)), texts, None)
}

/// One step of texts: whose they are, and which of each call.
fn texts(scheduler: &mut Scheduler, batch: &mut Batch) -> Vec<(u64, usize)> {
    assert_eq!(scheduler.plan_batch(Instant::now(), batch), []);
    assert_eq!(batch.texts.len(), batch.spans.len(), "a step of texts");
    assert!(batch.outputs.is_empty());
    let mut slots = batch.slots(0).to_vec();
    slots.dedup();
    assert!(slots.is_sorted() && slots.len() == batch.tokens.len(), "each row has its own slot");
    batch.spans.iter().zip(&batch.texts).map(|(span, &text)| (span.sequence.0, text)).collect()
}

#[test]
fn texts_fill_a_step_and_one_that_is_longer_has_a_step_for_itself() {
    let mut scheduler = scheduler(0, LIMITS);
    let mut batch = Batch::default();
    scheduler.submit_texts(call(1, 0, &[7, 9, 1, 50, 2, 3])).unwrap();
    assert_eq!(texts(&mut scheduler, &mut batch), [(1, 0), (1, 1)]);
    assert_eq!(texts(&mut scheduler, &mut batch), [(1, 2)]);
    assert_eq!(texts(&mut scheduler, &mut batch), [(1, 3)]);
    assert_eq!(batch.tokens.len(), 50);
    assert_eq!(texts(&mut scheduler, &mut batch), [(1, 4), (1, 5)]);
    assert!(scheduler.is_idle());
    assert_eq!((scheduler.totals().prompt, scheduler.pool().used()), (72, 0));
}

#[test]
fn a_tenant_with_many_texts_does_not_keep_another_waiting() {
    let mut scheduler = scheduler(0, LIMITS);
    let mut batch = Batch::default();
    scheduler.submit_texts(call(1, 0, &[16; 50])).unwrap();
    for _ in 0..5 {
        texts(&mut scheduler, &mut batch);
    }
    scheduler.submit_texts(call(2, 1, &[8, 8])).unwrap();
    let own =
        texts(&mut scheduler, &mut batch).into_iter().chain(texts(&mut scheduler, &mut batch));
    assert_eq!(own.filter(|(id, _)| *id == 2).count(), 2);
}

#[test]
fn a_call_is_kept_back_by_others_until_it_begins_and_never_behind_one_of_its_own() {
    let mut scheduler = scheduler(0, LIMITS);
    let mut batch = Batch::default();
    let kept_back = |scheduler: &Scheduler, n| {
        scheduler.kept_back(&tenant(n), None).map(|it| (it.id.0, it.by_others))
    };
    scheduler.submit_texts(call(1, 0, &[16; 9])).unwrap();
    assert_eq!(kept_back(&scheduler, 0), Some((1, false)), "nobody else is there");
    texts(&mut scheduler, &mut batch);
    assert_eq!(kept_back(&scheduler, 0), None, "it has begun");
    scheduler.submit_texts(call(2, 1, &[16; 9])).unwrap();
    assert_eq!(kept_back(&scheduler, 1), Some((2, true)));
    scheduler.submit_texts(call(3, 0, &[16; 9])).unwrap();
    assert_eq!(kept_back(&scheduler, 0), Some((3, false)), "it comes behind its own tenant's");
    while kept_back(&scheduler, 1).is_some() {
        texts(&mut scheduler, &mut batch);
    }
}

#[test]
fn tenants_get_texts_computed_by_their_weights() {
    let mut scheduler = scheduler(0, LIMITS);
    let mut batch = Batch::default();
    scheduler.submit_texts(weighted(1, (0, 3), &[4; 400])).unwrap();
    scheduler.submit_texts(weighted(2, (1, 1), &[4; 400])).unwrap();
    let mut of = [0, 0];
    for _ in 0..50 {
        for (id, _) in texts(&mut scheduler, &mut batch) {
            of[usize::try_from(id).unwrap() - 1] += 1;
        }
    }
    assert_eq!(of, [150, 50]);
}

#[test]
fn texts_and_sequences_have_every_other_step() {
    let mut scheduler = scheduler(64, LIMITS);
    let mut batch = Batch::default();
    scheduler.submit(submission(1, 0, 3, 4)).unwrap();
    scheduler.submit_texts(call(2, 0, &[16; 6])).unwrap();
    for text in 0..4 {
        assert_eq!(texts(&mut scheduler, &mut batch), [(2, text)]);
        assert_eq!(step(&mut scheduler, &mut batch).0, [SequenceId(1)]);
    }
    // Nobody else is there any more.
    for text in 4..6 {
        assert_eq!(texts(&mut scheduler, &mut batch), [(2, text)]);
    }
    assert!(scheduler.is_idle());
}

#[test]
fn a_call_that_is_ended_or_too_late_is_computed_no_further() {
    let mut scheduler = scheduler(0, LIMITS);
    let mut batch = Batch::default();
    let now = Instant::now();
    let deadline = Some(Deadline { at: now, ms: 5 });
    let late = TextCall::new(SequenceId(1), (tenant(0), terms(1)), vec![vec![1]], deadline);
    scheduler.submit_texts(late).unwrap();
    let refusal = Refusal::DeadlineExceeded { deadline_ms: 5 };
    assert_eq!(scheduler.plan_batch(now, &mut batch), [(SequenceId(1), refusal)]);
    assert!(batch.is_empty() && scheduler.is_idle());
    scheduler.submit_texts(call(2, 0, &[16, 16])).unwrap();
    texts(&mut scheduler, &mut batch);
    assert_eq!(scheduler.end(SequenceId(2)), None);
    assert!(scheduler.is_idle());
}

#[test]
fn calls_wait_in_the_same_queue_as_sequences() {
    let mut scheduler = scheduler(64, Limits { queued: 2, ..LIMITS });
    scheduler.submit(submission(1, 0, 3, 1)).unwrap();
    scheduler.submit_texts(call(2, 0, &[1])).unwrap();
    let busy = scheduler.submit_texts(call(3, 1, &[1]));
    assert!(matches!(busy, Err(Refusal::Busy { .. })));
    scheduler.drain();
    assert_eq!(scheduler.submit_texts(call(4, 1, &[1])), Err(Refusal::Draining));
}

proptest! {
    /// Whatever is called for, every text is computed once and in the order of its call, no step has
    /// more than it may, and nobody waits while there is room.
    #[test]
    fn every_text_is_computed_once(
        calls in proptest::collection::vec(
            (0_usize..4, 1_u32..5, proptest::collection::vec(1_usize..40, 1..12)),
            1..12,
        ),
    ) {
        let mut scheduler = scheduler(0, LIMITS);
        let mut batch = Batch::default();
        for (id, (n, weight, lens)) in (0..).zip(&calls) {
            scheduler.submit_texts(weighted(id, (*n, *weight), lens)).unwrap();
        }
        let mut next = vec![0; calls.len()];
        while !scheduler.is_idle() {
            let planned = texts(&mut scheduler, &mut batch);
            prop_assert!(!planned.is_empty());
            prop_assert!(batch.tokens.len() <= LIMITS.batch_tokens || planned.len() == 1);
            for (id, text) in planned {
                let next = &mut next[usize::try_from(id).unwrap()];
                prop_assert_eq!(text, *next);
                *next += 1;
            }
        }
        let all: Vec<usize> = calls.iter().map(|(_, _, lens)| lens.len()).collect();
        prop_assert_eq!(next, all);
    }
}
