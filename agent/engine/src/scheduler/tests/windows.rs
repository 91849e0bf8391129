//! Models whose layers attend a window, all of them or some.

use super::*;

#[test]
fn a_sequence_longer_than_all_blocks_runs_to_its_end_behind_a_window() {
    let limits = Limits { context: 100_000, ..LIMITS };
    // A window of two blocks, a step of four, one for what begins within a block, and none to spare.
    let blocks = 2 + 4 + 1;
    let mut scheduler = windowed(blocks, Some(2 * BLOCK), limits);
    scheduler.submit(submission(1, 0, 500, 500)).unwrap();
    assert_eq!(run_to_end(&mut scheduler)[&SequenceId(1)], 500);
    // With a block less no more is promised than what they hold.
    let mut scheduler = windowed(blocks - 1, Some(2 * BLOCK), limits);
    let refusal = scheduler.submit(submission(1, 0, 500, 500)).unwrap_err();
    let tokens_max = (blocks as usize - 1) * BLOCK;
    assert_eq!(refusal, Refusal::TooLong { tokens: 500, tokens_max });
}

#[test]
fn a_quota_of_a_windows_blocks_is_enough_for_any_length() {
    let limits = Limits { context: 100_000, ..LIMITS };
    let mut scheduler = windowed(64, Some(8), limits);
    let quota = 7;
    for (id, n) in [(1, 0), (2, 1), (3, 0)] {
        let wanted = Submission { kv_blocks_max: quota, ..submission(id, n, 200, 100) };
        scheduler.submit(wanted).unwrap();
    }
    let mut batch = Batch::default();
    while !scheduler.is_idle() {
        step(&mut scheduler, &mut batch);
        assert!(scheduler.held().values().all(|&held| held <= quota as usize));
    }
}

#[test]
fn what_is_preempted_behind_a_window_goes_on_from_what_is_left_of_it() {
    let limits = Limits { context: 100_000, running: 2, ..LIMITS };
    let mut scheduler = windowed(16, Some(8), limits);
    let mut batch = Batch::default();
    scheduler.submit(submission(1, 0, 100, 50)).unwrap();
    while step(&mut scheduler, &mut batch).0.is_empty() {}
    scheduler.preempt(SequenceId(1));
    step(&mut scheduler, &mut batch);
    // The last full block before the next token, and not the whole prompt once more.
    assert_eq!(batch.spans[0].past, 100);
    run_to_end(&mut scheduler);
}

/// As of Gemma 3: of six bands of layers five have a window.
const MIXED: Layout = Layout { block_tokens: BLOCK, whole: 1, windowed: 5, window: 2 * BLOCK };

#[test]
fn a_long_answer_holds_all_its_blocks_in_one_band_and_a_windows_in_the_others() {
    let limits = Limits { context: 100_000, ..LIMITS };
    let mut scheduler = scheduler_of(100, MIXED, limits);
    let mut batch = Batch::default();
    scheduler.submit(submission(1, 0, 200, 200)).unwrap();
    let (mut most, mut last) = (0, 0);
    while !scheduler.is_idle() {
        assert_eq!(scheduler.plan_batch(Instant::now(), &mut batch), []);
        last = scheduler.pool().used();
        most = most.max(last);
        check_batch(&scheduler, &batch);
        scheduler.commit();
        for (id, _) in batch.finished().collect::<Vec<_>>() {
            if scheduler.advance(id, 7).is_some() {
                scheduler.end(id).unwrap();
            }
        }
    }
    // Fifty blocks of a prompt, and of a window and a step seven in each of the other bands at most.
    assert!((50 + 5 * 6..=100 + 5 * 7).contains(&most), "{most}");
    // At the end a hundred, and in each of the others those of a window that begins within a block.
    assert_eq!(last, 100 + 5 * 3);
}

#[test]
fn quotas_and_caches_are_counted_in_blocks_of_all_layers() {
    let limits = Limits { context: 100_000, ..LIMITS };
    // A prompt of 200 tokens takes 50 + 5 * 7 of 6 * 15 blocks of one band.
    let ask = |blocks, quota, tokens_max| {
        let mut scheduler = scheduler_of(blocks, MIXED, limits);
        let wanted = submission(1, 0, 200, tokens_max);
        scheduler.submit(Submission { kv_blocks_max: quota, ..wanted })?;
        Ok(run_to_end(&mut scheduler)[&SequenceId(1)])
    };
    // Five blocks more in the one band are twenty tokens.
    for (blocks, quota) in [(15, 100), (100, 15)] {
        assert_eq!(ask(blocks, quota, 100), Ok(20));
    }
    let tokens_max = (14 * 6 - 5 * 7) * BLOCK;
    for (blocks, quota) in [(14, 100), (100, 14)] {
        assert_eq!(ask(blocks, quota, 100), Err(Refusal::TooLong { tokens: 200, tokens_max }));
    }
}

#[test]
fn a_tenant_whose_quota_one_sequence_fills_runs_the_next_when_it_has_ended() {
    let limits = Limits { context: 100_000, ..LIMITS };
    let mut scheduler = scheduler_of(100, MIXED, limits);
    let quota = 15;
    for (id, n) in [(1, 0), (2, 1), (3, 0)] {
        let wanted = Submission { kv_blocks_max: quota, ..submission(id, n, 180, 40) };
        scheduler.submit(wanted).unwrap();
    }
    let mut batch = Batch::default();
    while !scheduler.is_idle() {
        step(&mut scheduler, &mut batch);
        assert!(scheduler.held().values().all(|&held| held <= 6 * quota as usize));
    }
}

#[test]
fn what_is_preempted_with_layers_of_both_kinds_goes_on_from_where_it_was() {
    let limits = Limits { context: 100_000, running: 2, ..LIMITS };
    let mut scheduler = scheduler_of(60, MIXED, limits);
    let mut batch = Batch::default();
    scheduler.submit(submission(1, 0, 100, 50)).unwrap();
    while step(&mut scheduler, &mut batch).0.is_empty() {}
    scheduler.preempt(SequenceId(1));
    step(&mut scheduler, &mut batch);
    assert_eq!(batch.spans[0].past, 100);
    run_to_end(&mut scheduler);
}
