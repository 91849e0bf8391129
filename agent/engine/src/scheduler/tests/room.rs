//! Who gives way to whom.

use super::*;

#[test]
fn a_higher_class_starts_at_once_and_a_lower_one_gives_way_whatever_it_holds() {
    let mut scheduler = scheduler(64, Limits { running: 1, ..LIMITS });
    let mut batch = Batch::default();
    let of = |id, n, priority| Submission {
        terms: Terms { weight: 1, priority },
        ..submission(id, n, 4, 5)
    };
    scheduler.submit(of(1, 0, Priority::Low)).unwrap();
    step(&mut scheduler, &mut batch);
    for (id, n, priority, runs) in [
        (2, 1, Priority::High, 2),
        // Neither its own class nor a lower one moves it.
        (3, 2, Priority::High, 2),
        (4, 3, Priority::Normal, 2),
    ] {
        scheduler.submit(of(id, n, priority)).unwrap();
        patient_step(&mut scheduler, &mut batch);
        assert_eq!(scheduler.running.keys().copied().collect::<Vec<_>>(), [SequenceId(runs)]);
    }
    let mut order = Vec::new();
    while !scheduler.is_idle() {
        order.extend(step(&mut scheduler, &mut batch).1);
    }
    assert_eq!(order, [2, 3, 4, 1].map(SequenceId));
}

/// More tenants than places: a share of them is less than one, which is no reason to wait.
#[test]
fn a_tenant_with_nothing_gets_a_place_of_whoever_has_two() {
    let mut scheduler = scheduler(64, LIMITS);
    let mut batch = Batch::default();
    for id in 0..4 {
        scheduler.submit(submission(id, 0, 4, 50)).unwrap();
    }
    step(&mut scheduler, &mut batch);
    for n in 1..6 {
        scheduler.submit(submission(10 + n as u64, n, 4, 50)).unwrap();
    }
    for _ in 0..8 {
        patient_step(&mut scheduler, &mut batch);
    }
    let running: Vec<u64> = scheduler.running.keys().map(|id| id.0).collect();
    assert_eq!(running, [0, 11, 12, 13], "and nobody gives up the only one it has");
}

#[test]
fn nobody_is_preempted_before_places_have_had_the_time_to_come_free() {
    let mut scheduler = scheduler(64, LIMITS);
    let mut batch = Batch::default();
    for id in 0..4 {
        scheduler.submit(submission(id, 0, 4, 50)).unwrap();
    }
    step(&mut scheduler, &mut batch);
    scheduler.submit(submission(10, 1, 4, 50)).unwrap();
    let steps = (1..=10).find(|_| step(&mut scheduler, &mut batch).0.contains(&SequenceId(10)));
    assert_eq!(steps, Some(PATIENCE_STEPS));
}

#[test]
fn a_tenant_that_fills_every_place_gives_way_to_one_below_its_share() {
    let mut scheduler = scheduler(64, LIMITS);
    let mut batch = Batch::default();
    for id in 0..4 {
        scheduler.submit(submission(id, 0, 4, 50)).unwrap();
    }
    step(&mut scheduler, &mut batch);
    assert_eq!(scheduler.running(), 4);
    scheduler.submit(submission(10, 1, 4, 50)).unwrap();
    assert!(patient_step(&mut scheduler, &mut batch).0.contains(&SequenceId(10)));
    // The newest of the full tenant waits, and no one else was disturbed.
    assert_eq!(scheduler.queued(), 1);
    assert_eq!(scheduler.accounts[&tenant(0)].waiting[0].id, SequenceId(3));
}

#[test]
fn a_tenant_that_fills_every_block_gives_way_to_one_below_its_share() {
    let mut scheduler = scheduler(16, LIMITS);
    let mut batch = Batch::default();
    for id in 0..2 {
        scheduler.submit(submission(id, 0, 30, 2)).unwrap();
    }
    for _ in 0..2 {
        step(&mut scheduler, &mut batch);
    }
    assert_eq!(scheduler.held()[&tenant(0)], 16);
    scheduler.submit(submission(10, 1, 8, 2)).unwrap();
    patient_step(&mut scheduler, &mut batch);
    assert!(scheduler.running.contains_key(&SequenceId(10)));
    // The first has had one of its two tokens already, in the step that let it in.
    let tokens = run_to_end(&mut scheduler);
    assert_eq!(tokens, [(SequenceId(1), 2), (SequenceId(10), 1)].into());
    assert_eq!(scheduler.pool().used(), 0);
}

/// What all of a tenant's answers begin with is nobody's any more only when the last of them is gone.
#[test]
fn a_tenant_whose_sequences_share_all_but_their_ends_gives_way_as_well() {
    let mut scheduler = scheduler(26, LIMITS);
    let mut batch = Batch::default();
    let same = |id| Submission { prompt: (0..45).collect(), ..submission(id, 0, 45, 8) };
    scheduler.submit(same(0)).unwrap();
    for _ in 0..4 {
        step(&mut scheduler, &mut batch);
    }
    for id in [1, 2] {
        scheduler.submit(same(id)).unwrap();
        step(&mut scheduler, &mut batch);
    }
    assert_eq!(scheduler.running(), 3);
    assert_eq!(scheduler.pool().used(), 11 + 3, "each has one block of its own");
    let urgent = Terms { weight: 1, priority: Priority::High };
    scheduler.submit(Submission { terms: urgent, ..submission(10, 1, 61, 2) }).unwrap();
    patient_step(&mut scheduler, &mut batch);
    assert!(scheduler.running.contains_key(&SequenceId(10)));
    assert_eq!(run_to_end(&mut scheduler).len(), 4);
}

#[test]
fn nobody_gives_way_to_a_tenant_whose_own_quota_keeps_it_waiting() {
    let mut scheduler = scheduler(16, LIMITS);
    let mut batch = Batch::default();
    let of_small_quota = |id| Submission { kv_blocks_max: 4, ..submission(id, 1, 9, 3) };
    scheduler.submit(of_small_quota(10)).unwrap();
    step(&mut scheduler, &mut batch);
    scheduler.submit(submission(1, 0, 50, 2)).unwrap();
    step(&mut scheduler, &mut batch);
    assert_eq!(scheduler.pool().available(), 0);
    let own = &tenant(1);
    assert!(!scheduler.waits_for_own_blocks(own), "nothing of it waits");
    // Three blocks more would be within its share of eight, but not within its quota.
    scheduler.submit(of_small_quota(11)).unwrap();
    assert!(scheduler.waits_for_own_blocks(own));
    let kept_back = scheduler.kept_back(own, None);
    assert_eq!(kept_back, Some(KeptBack { id: SequenceId(11), by_others: false }));
    scheduler.steps_without_start = PATIENCE_STEPS;
    scheduler.make_room();
    let running: Vec<SequenceId> = scheduler.running.keys().copied().collect();
    assert_eq!(running, [SequenceId(1), SequenceId(10)]);
    assert_eq!(run_to_end(&mut scheduler).len(), 3);
    assert!(!scheduler.waits_for_own_blocks(own));
}

#[test]
fn who_waits_does_so_behind_those_that_run_and_are_of_no_lower_class() {
    let mut scheduler = scheduler(64, Limits { running: 2, ..LIMITS });
    let mut batch = Batch::default();
    let of = |id, n, priority| Submission {
        terms: Terms { weight: 1, priority },
        ..submission(id, n, 9, 3)
    };
    for id in [0, 1, 2] {
        scheduler.submit(of(id, 0, Priority::Normal)).unwrap();
    }
    // Until all of the first two's prompts are computed.
    while scheduler.running() < 2 || scheduler.has_own_prompt(&tenant(0)) {
        step(&mut scheduler, &mut batch);
    }
    let kept_back = |scheduler: &Scheduler, n| {
        scheduler.kept_back(&tenant(n), None).map(|it| (it.id.0, it.by_others))
    };
    assert_eq!(kept_back(&scheduler, 0), Some((2, false)), "nobody else is there");
    for (id, n, priority) in [(3, 1, Priority::Normal), (4, 2, Priority::Low)] {
        scheduler.submit(of(id, n, priority)).unwrap();
    }
    assert_eq!(kept_back(&scheduler, 0), Some((2, false)), "all places are its own");
    assert_eq!(kept_back(&scheduler, 1), Some((3, true)));
    assert_eq!(kept_back(&scheduler, 2), Some((4, true)));
    scheduler.submit(of(5, 3, Priority::High)).unwrap();
    assert_eq!(kept_back(&scheduler, 3), Some((5, false)), "it comes before all that run");
    assert_eq!(run_to_end(&mut scheduler).len(), 6);
    assert_eq!(kept_back(&scheduler, 2), None);
}

#[test]
fn what_waits_behind_its_own_tenants_prompt_is_not_kept_back_by_others() {
    let mut scheduler = scheduler(64, LIMITS);
    let mut batch = Batch::default();
    scheduler.submit(submission(0, 0, 9, 30)).unwrap();
    scheduler.submit(submission(1, 1, 60, 3)).unwrap();
    step(&mut scheduler, &mut batch);
    scheduler.submit(submission(2, 1, 9, 3)).unwrap();
    assert!(scheduler.has_own_prompt(&tenant(1)));
    let behind_own = Some(KeptBack { id: SequenceId(2), by_others: false });
    assert_eq!(scheduler.kept_back(&tenant(1), None), behind_own);
}

#[test]
fn one_that_waits_is_followed_until_it_runs_and_then_the_newest() {
    let mut scheduler = scheduler(64, Limits { running: 1, ..LIMITS });
    let mut batch = Batch::default();
    scheduler.submit(submission(0, 0, 4, 5)).unwrap();
    step(&mut scheduler, &mut batch);
    for id in [1, 2] {
        scheduler.submit(submission(id, 1, 4, 5)).unwrap();
    }
    let follow = |scheduler: &Scheduler, id: Option<u64>| {
        scheduler.kept_back(&tenant(1), id.map(SequenceId)).map(|it| it.id.0)
    };
    assert_eq!(follow(&scheduler, None), Some(2));
    scheduler.submit(submission(3, 1, 4, 5)).unwrap();
    assert_eq!(follow(&scheduler, Some(2)), Some(2));
    assert_eq!(follow(&scheduler, Some(0)), Some(3), "it is not one of them");
}

#[test]
fn nobody_gives_up_a_place_to_a_tenant_that_then_lacks_blocks() {
    let mut scheduler = scheduler(16, Limits { running: 2, ..LIMITS });
    let mut batch = Batch::default();
    for id in [1, 2] {
        scheduler.submit(submission(id, 0, 5, 30)).unwrap();
    }
    step(&mut scheduler, &mut batch);
    // A place would be within its share; all but one of the blocks are not, and giving up a place
    // does not free that many.
    scheduler.submit(submission(10, 1, 59, 2)).unwrap();
    scheduler.steps_without_start = PATIENCE_STEPS;
    scheduler.make_room();
    let running: Vec<SequenceId> = scheduler.running.keys().copied().collect();
    assert_eq!(running, [SequenceId(1), SequenceId(2)]);
}

#[test]
fn sequences_that_outgrow_the_cache_are_preempted_and_all_finish() {
    let mut scheduler = scheduler(12, Limits { running: 3, ..LIMITS });
    for id in 0..3 {
        let n = usize::try_from(id).unwrap();
        scheduler.submit(submission(id, n, 10, 30)).unwrap();
    }
    let tokens = run_to_end(&mut scheduler);
    assert_eq!(tokens, (0..3).map(|id| (SequenceId(id), 30)).collect());
    assert_eq!(scheduler.totals().prompt, 30);
    assert_eq!(scheduler.totals().generated, 90);
}
