//! Prefixes that are kept, and who pays for them.

use super::*;
use crate::kv::Owner;

pub(super) fn keep(id: u64, n: usize, tokens: Vec<u32>) -> Keep {
    let owner = Owner::alone(&tenant(n));
    Keep { id: SequenceId(id), owner, terms: terms(1), tokens, kept_tokens: 0 }
}

/// A scheduler of two tenants in which the first keeps half of the cache, computed and unused.
fn half_kept(now: Instant) -> Scheduler {
    let mut scheduler = scheduler(24, LIMITS);
    let wanted = submission(1, 0, 48, 1);
    scheduler.keep(keep(1000, 0, wanted.prompt.clone()), now);
    scheduler.submit(wanted).unwrap();
    run_to_end(&mut scheduler);
    assert_eq!((scheduler.pool().used(), scheduler.pool().paid()), (0, 12));
    scheduler
}

/// Whether the first tenant has had more than the second.
fn is_ahead(scheduler: &Scheduler) -> bool {
    scheduler.share.is_ahead(&tenant(0), &tenant(1), Cost::from_secs_f64(0.25))
}

#[test]
fn what_is_kept_is_charged_for_while_others_wait() {
    let mut now = Instant::now();
    let mut scheduler = half_kept(now);
    let mut batch = Batch::default();
    // More than one step's work, so that the second tenant waits for the next.
    scheduler.submit(submission(2, 1, 50, 5)).unwrap();
    scheduler.submit(submission(3, 0, 50, 5)).unwrap();
    let had = |scheduler: &Scheduler| scheduler.share.served(&tenant(0)).unwrap().1;
    scheduler.plan_batch(now, &mut batch);
    let before = had(&scheduler);
    now += Duration::from_secs(1);
    scheduler.plan_batch(now, &mut batch);
    // All of it but a block that the second tenant needs for its prompt.
    let eleven = terms(1).divide(Cost::from_millis(458));
    assert!(had(&scheduler) - before >= eleven, "its part of the cache for a second");
}

#[test]
fn what_was_kept_while_nobody_waited_is_no_debt() {
    let mut now = Instant::now();
    let mut scheduler = half_kept(now);
    let mut batch = Batch::default();
    now += Duration::from_hours(1);
    // As the thread does when it wakes up.
    scheduler.charge_blocks(now);
    let held: u64 = scheduler.held_blocks().iter().map(|(_, block_ns)| *block_ns).sum();
    assert!(held >= 12 * 3_599_000_000_000, "it is booked: {held}");
    scheduler.submit(submission(2, 1, 50, 5)).unwrap();
    scheduler.submit(submission(3, 0, 50, 5)).unwrap();
    scheduler.plan_batch(now, &mut batch);
    assert!(!is_ahead(&scheduler));
}

#[test]
fn who_keeps_nothing_more_is_forgotten() {
    let now = Instant::now();
    let mut scheduler = half_kept(now);
    assert!(scheduler.is_idle() && scheduler.accounts.len() == 1);
    scheduler.let_go(SequenceId(1000), now);
    scheduler.let_go(SequenceId(1000), now);
    assert_eq!(
        (scheduler.accounts.len(), scheduler.kept.len(), scheduler.pool().paid()),
        (0, 0, 0)
    );
    assert_eq!(scheduler.pool().idle_of(&tenant(0)), 12, "it is cached still");
}
