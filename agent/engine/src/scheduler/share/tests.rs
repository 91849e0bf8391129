//! Properties of shares, over whatever parties come, wait, rest and cost.

use proptest::prelude::*;

use super::*;

fn cost(microseconds: u64) -> Cost {
    Cost::from_secs_f64(microseconds as f64 * 1e-6)
}

const fn terms(weight: u32) -> Terms {
    Terms { weight, priority: Priority::Normal }
}

/// The most that one turn costs here, in microseconds.
const TURN_MAX: u64 = 1_000;

/// Turns of that cost that somebody has before the others when it comes.
const CREDIT_TURNS: usize = 250;

/// Gives the first in order one turn of that cost; says who had it.
fn serve(share: &mut Share<u32>, microseconds: u64) -> Option<u32> {
    let name = *share.next(None)?.party();
    share.charge(&name, cost(microseconds));
    Some(name)
}

fn enter(share: &mut Share<u32>, name: u32, terms: Terms) {
    share.enter(&name, terms);
    share.wait(&name);
}

/// What each had of turns of these costs, while all of `weights` waited, in microseconds.
fn had(weights: &[u32], costs: &[u64]) -> Vec<u64> {
    let mut share = Share::default();
    for (name, &weight) in (0..).zip(weights) {
        enter(&mut share, name, terms(weight));
    }
    let mut had = vec![0; weights.len()];
    for &cost in costs {
        let name = serve(&mut share, cost).unwrap();
        had[name as usize] += cost;
    }
    had
}

fn costs(turns: impl Into<prop::collection::SizeRange>) -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(1..=TURN_MAX, turns)
}

proptest! {
    #[test]
    fn every_turn_is_somebodys_and_is_counted_once(
        weights in prop::collection::vec(1_u32..10_000, 1..20), costs in costs(0..300),
    ) {
        let had = had(&weights, &costs);
        prop_assert_eq!(had.iter().sum::<u64>(), costs.iter().sum::<u64>());
    }

    /// The classic bound: nobody is ahead of another by more than one turn, at any moment.
    #[test]
    fn two_that_wait_with_equal_weights_differ_by_one_turn_at_most(costs in costs(1..300)) {
        for end in 1..=costs.len() {
            let had = had(&[100, 100], &costs[..end]);
            prop_assert!(had[0].abs_diff(had[1]) <= TURN_MAX, "{:?}", had);
        }
    }

    #[test]
    fn weights_are_honoured_to_one_turn(
        weights in prop::collection::vec(1_u32..1_000, 2..10), costs in costs(1..600),
    ) {
        let had = had(&weights, &costs);
        let parts = had.iter().zip(&weights).map(|(&had, &weight)| had as f64 / f64::from(weight));
        let parts: Vec<f64> = parts.collect();
        let turn = |i: usize| TURN_MAX as f64 / f64::from(weights[i]);
        for (i, a) in parts.iter().enumerate() {
            for (j, b) in parts.iter().enumerate() {
                // Whoever is ahead had its last turn when it was not.
                prop_assert!(a - b <= turn(i) + 1e-3, "{i} has {a}, {j} has {b}");
            }
        }
    }

    /// Nobody who waits is passed over for longer than it takes the others to come level.
    #[test]
    fn nobody_starves(
        weights in prop::collection::vec(1_u32..100, 2..20), before in costs(0..200),
        late in 1_u32..100,
    ) {
        let mut share = Share::default();
        for (name, &weight) in (0..).zip(&weights) {
            enter(&mut share, name, terms(weight));
        }
        for cost in before {
            serve(&mut share, cost);
        }
        let new = u32::try_from(weights.len()).unwrap();
        enter(&mut share, new, terms(late));
        // Each has its turn before anybody has passed the newcomer twice: in one turn by its weight
        // the lightest comes to where all others come in as many as they weigh more.
        let turns: u32 = weights.iter().map(|weight| 2 + weight).sum();
        let turn = (0..turns).position(|_| serve(&mut share, TURN_MAX) == Some(new));
        prop_assert!(turn.is_some());
    }

    /// However long somebody wanted nothing, it has its credit before the others when it comes back
    /// and is level with them from then on.
    #[test]
    fn idleness_banks_no_more_than_the_credit(before in costs(0..50), while_away in costs(50..300)) {
        let mut share = Share::default();
        enter(&mut share, 0, terms(1));
        enter(&mut share, 1, terms(1));
        enter(&mut share, 2, terms(1));
        for cost in before {
            serve(&mut share, cost);
        }
        share.leave(&0);
        for cost in while_away {
            serve(&mut share, cost);
        }
        enter(&mut share, 0, terms(1));
        let first = (0..1_000).take_while(|_| serve(&mut share, TURN_MAX) == Some(0)).count();
        prop_assert!(first <= CREDIT_TURNS + 1, "{first} turns");
        let mut had = [0, 0, 0];
        for _ in 0..30 {
            let name = serve(&mut share, TURN_MAX).unwrap();
            had[name as usize] += 1;
            prop_assert!(had[0] <= had[1].min(had[2]) + 2, "{had:?}");
            prop_assert!(had[1].max(had[2]) <= had[0] + 2, "{had:?}");
        }
    }

    /// Leaving and coming again after each turn gets nobody more than staying.
    #[test]
    fn nobody_gains_by_leaving_and_coming_again(costs in costs(20..300)) {
        let mut share = Share::default();
        let mut had = [0, 0];
        enter(&mut share, 0, terms(1));
        enter(&mut share, 1, terms(1));
        for cost in costs {
            let name = serve(&mut share, cost).unwrap();
            had[name as usize] += cost;
            if name == 0 {
                share.leave(&0);
                enter(&mut share, 0, terms(1));
            }
        }
        prop_assert!(had[0] <= had[1] + TURN_MAX, "{had:?}");
    }

    #[test]
    fn a_higher_class_has_every_turn_while_it_waits(costs in costs(1..100)) {
        let mut share = Share::default();
        enter(&mut share, 0, Terms { weight: 10_000, priority: Priority::Normal });
        enter(&mut share, 1, Terms { weight: 1, priority: Priority::High });
        enter(&mut share, 2, Terms { weight: 10_000, priority: Priority::Low });
        for cost in costs {
            prop_assert_eq!(serve(&mut share, cost), Some(1));
        }
        share.rest(&1);
        prop_assert_eq!(serve(&mut share, 1), Some(0));
        share.leave(&0);
        prop_assert_eq!(serve(&mut share, 1), Some(2));
    }

    #[test]
    fn what_is_taken_back_was_never_charged(costs in costs(1..50), back in 1..=TURN_MAX) {
        let served = |with_refund: bool| {
            let mut share = Share::default();
            enter(&mut share, 0, terms(3));
            enter(&mut share, 1, terms(7));
            let mut order = Vec::new();
            for &microseconds in &costs {
                if with_refund {
                    share.charge(&0, cost(back));
                    share.refund(&0, cost(back));
                }
                order.push(serve(&mut share, microseconds));
            }
            order
        };
        prop_assert_eq!(served(true), served(false));
    }
}

#[test]
fn what_was_spent_while_nobody_waited_is_nobodys_debt() {
    let mut share = Share::default();
    for name in [0, 1] {
        enter(&mut share, name, terms(1));
        share.rest(&name);
    }
    // An hour of an idle machine.
    share.charge(&0, cost(3_600_000_000));
    enter(&mut share, 1, terms(1));
    share.rest(&1);
    enter(&mut share, 0, terms(1));
    enter(&mut share, 1, terms(1));
    let behind = (0..1_000).take_while(|_| serve(&mut share, TURN_MAX) == Some(1)).count();
    assert!(behind as u64 * TURN_MAX <= 2 * TURN_MAX + 250_000, "{behind} turns before the other");
    assert_ne!(serve(&mut share, TURN_MAX), serve(&mut share, TURN_MAX), "they take turns");
}

#[test]
fn who_has_had_less_goes_first_for_a_little_whether_it_was_there_or_comes() {
    for stays in [true, false] {
        let mut share = Share::default();
        enter(&mut share, 0, terms(1));
        enter(&mut share, 1, terms(1));
        share.rest(&1);
        if !stays {
            share.leave(&1);
        }
        share.charge(&0, cost(3_600_000_000));
        enter(&mut share, 1, terms(1));
        let first = (0..1_000).take_while(|_| serve(&mut share, TURN_MAX) == Some(1)).count();
        assert!((CREDIT_TURNS..=CREDIT_TURNS + 1).contains(&first), "{first} turns");
    }
}

/// It is forgotten when its credit would be the same as a stranger's, and not before.
#[test]
fn nobody_gets_a_new_credit_by_being_forgotten() {
    let mut share = Share::default();
    enter(&mut share, 0, terms(1));
    share.charge(&0, cost(3_600_000_000));
    let mut had = 0;
    for _ in 0..20 {
        enter(&mut share, 1, terms(1));
        while serve(&mut share, TURN_MAX) == Some(1) {
            had += 1;
        }
        share.leave(&1);
        share.sweep();
    }
    assert!(had <= CREDIT_TURNS + 2 * 20, "{had} turns");
}

#[test]
fn a_debt_to_others_that_wait_is_remembered_and_a_paid_one_is_forgotten() {
    let mut share = Share::default();
    enter(&mut share, 0, terms(1));
    enter(&mut share, 1, terms(1));
    share.charge(&0, cost(10 * TURN_MAX));
    share.leave(&0);
    share.sweep();
    assert!(share.parties.contains_key(&0));
    for _ in 0..12 + CREDIT_TURNS {
        assert_eq!(serve(&mut share, TURN_MAX), Some(1));
    }
    share.rest(&1);
    share.sweep();
    assert!(!share.parties.contains_key(&0));
}

#[test]
fn a_party_that_changes_its_class_begins_as_one_that_comes() {
    let mut share = Share::default();
    let high = Terms { weight: 1, priority: Priority::High };
    enter(&mut share, 0, terms(1));
    enter(&mut share, 1, high);
    share.charge(&1, cost(3_600_000_000));
    share.rest(&1);
    share.wait(&1);
    share.enter(&0, high);
    let first = (0..1_000).take_while(|_| serve(&mut share, TURN_MAX) == Some(0)).count();
    assert!((CREDIT_TURNS..=CREDIT_TURNS + 1).contains(&first), "{first} turns");
    let mut had = [0, 0];
    for _ in 0..10 {
        had[serve(&mut share, TURN_MAX).unwrap() as usize] += 1;
    }
    assert_eq!(had, [5, 5]);
}

#[test]
fn ten_thousand_that_come_and_go_are_not_remembered() {
    let mut share = Share::default();
    enter(&mut share, 0, terms(1));
    for name in 1..10_000 {
        enter(&mut share, name, terms(1));
        share.charge(&name, cost(TURN_MAX));
        share.leave(&name);
        share.charge(&0, cost(2 * TURN_MAX));
    }
    assert!(share.parties.len() <= 2 * SWEEP_MIN, "{}", share.parties.len());
}

#[test]
fn who_is_ahead_is_so_by_weight_and_whatever_it_has_had_of_a_higher_class() {
    let mut share = Share::default();
    enter(&mut share, 1, terms(4));
    enter(&mut share, 2, terms(1));
    share.charge(&1, cost(100));
    assert!(share.is_ahead(&1, &2, cost(99)));
    assert!(!share.is_ahead(&1, &2, cost(100)));
    // A part of 25 for each unit of weight.
    share.charge(&2, cost(24));
    assert!(share.is_ahead(&1, &2, cost(3)) && !share.is_ahead(&1, &2, cost(4)));
    assert!(!share.is_ahead(&2, &1, cost(0)));
    enter(&mut share, 3, Terms { weight: 1, priority: Priority::High });
    share.charge(&3, cost(1_000));
    assert!(share.is_ahead(&2, &3, cost(5_000)) && !share.is_ahead(&3, &2, cost(0)));
    assert!(!share.is_ahead(&1, &4, cost(0)));
}

/// What was had while nobody waited was spare: whoever begins to wait makes up for no more of it than
/// its credit.
#[test]
fn what_was_had_while_nobody_waited_is_owed_to_nobody() {
    let mut share = Share::default();
    share.enter(&1, terms(1));
    share.charge(&1, cost(1_000_000));
    enter(&mut share, 2, terms(1));
    assert!(!share.is_ahead(&1, &2, CREDIT_MAX));
}
