//! What the order of service promises, on loads that would break it.

use realm_core::desired::Priority;

use super::*;
use crate::scheduler::Cost;

/// Calls of a chat: a question of some lines, an answer of a paragraph.
const CHAT: ((u32, u32), (u32, u32)) = ((64, 256), (32, 128));

fn crowd(tenants: u32, weight: u32, calls: u32) -> Crowd {
    Crowd {
        tenants,
        weight,
        priority: Priority::Normal,
        arrivals: Arrivals::Kept { calls, pause_s: 0.0 },
        prompt: CHAT.0,
        answer: CHAT.1,
    }
}

fn shares(crowds: &[Crowd]) -> Outcome {
    run(crowds, Order::Shares, (20.0, 220.0), 1)
}

/// A client that keeps 32 calls in flight against 64 that do.
#[test]
fn one_client_has_as_much_as_the_sixty_four_of_another_tenant() {
    let outcome = shares(&[crowd(1, 100, 32), crowd(1, 100, 64 * 32)]);
    let index = jain(outcome.costs());
    assert!(index >= 0.99, "{index}: {:?}", outcome.costs().collect::<Vec<_>>());
}

#[test]
fn weights_of_one_two_and_four_are_honoured_to_two_in_a_hundred() {
    let reads = Crowd { prompt: (512, 2048), answer: (16, 64), ..crowd(1, 1, 128) };
    let writes = Crowd { prompt: (32, 64), answer: (256, 512), ..crowd(1, 4, 128) };
    let crowds = [reads, crowd(1, 2, 128), writes];
    let outcome = run(&crowds, Order::Shares, (20.0, 620.0), 1);
    let all: f64 = outcome.costs().sum();
    for (cost, weight) in outcome.costs().zip([1.0, 2.0, 4.0]) {
        let off = cost / (all * weight / 7.0) - 1.0;
        assert!(off.abs() <= 0.02, "weight {weight} is off by {off}");
    }
}

/// The 95th percentile of a tenant's times to a first token, and between tokens.
fn p95(had: &Had) -> (f64, f64) {
    let of = |times: &[f64]| percentile(times.iter().copied(), 95);
    (of(&had.first_s), of(&had.gaps_s))
}

#[test]
fn a_flood_costs_a_neighbour_no_more_than_a_quarter_of_its_latency_at_a_fair_share() {
    let victim = || Crowd { arrivals: Arrivals::Kept { calls: 8, pause_s: 1.0 }, ..crowd(1, 1, 0) };
    let fair = shares(&[victim(), crowd(1, 1, 56)]);
    let chats = crowd(1, 1, 64 * 56);
    let documents = Crowd { prompt: (1024, 4096), ..crowd(1, 1, 1024) };
    let fair = p95(&fair.tenants[0]);
    for flood in [chats, documents] {
        let flooded = p95(&shares(&[victim(), flood]).tenants[0]);
        assert!(flooded.0 <= 1.25 * fair.0, "to the first token: {flooded:?} for {fair:?}");
        assert!(flooded.1 <= 1.25 * fair.1, "between tokens: {flooded:?} for {fair:?}");
    }
}

/// Two calls at once, beside a neighbour that keeps two as well or one that keeps sixteen, as
/// `realm conformance tenancy` asks.
#[test]
fn who_keeps_two_calls_hardly_feels_that_another_keeps_sixteen() {
    let keeps = |calls| Crowd { prompt: (110, 150), answer: (32, 32), ..crowd(1, 1, calls) };
    let fair = p95(&shares(&[keeps(2), keeps(2)]).tenants[0]);
    let flooded = p95(&shares(&[keeps(2), keeps(16)]).tenants[0]);
    assert!(flooded.0 <= 1.1 * fair.0, "to the first token: {flooded:?} for {fair:?}");
    assert!(flooded.1 <= 1.1 * fair.1, "between tokens: {flooded:?} for {fair:?}");
}

#[test]
fn who_comes_and_goes_has_its_first_token_as_soon_beside_a_flood() {
    let kept = |calls, pause_s| Arrivals::Kept { calls, pause_s };
    let comes = |arrivals| Crowd { arrivals, answer: (32, 32), ..crowd(1, 1, 0) };
    let first = |neighbour| {
        let outcome = shares(&[comes(kept(2, 0.5)), comes(neighbour)]);
        p95(&outcome.tenants[0]).0
    };
    let (fair, flooded) = (first(kept(2, 0.5)), first(kept(64, 0.0)));
    assert!(flooded <= 1.1 * fair, "{flooded} s for {fair} s");
}

/// Rounds of two calls at once and three more behind each, beside a neighbour that keeps two or one
/// that keeps sixteen, every other of them long, as `realm conformance tenancy` asks; by an engine as
/// fast as was measured, and by a faster one.
#[test]
fn who_comes_in_rounds_has_its_first_tokens_hardly_later_beside_a_flood() {
    let short = (110, 150);
    let comes = |arrivals, prompt| Crowd { arrivals, prompt, answer: (32, 32), ..crowd(1, 1, 0) };
    let rounds = || comes(Arrivals::Rounds { calls: 2, more: 3, pause_s: 0.4 }, short);
    let keeps = |calls, prompt| comes(Arrivals::Kept { calls, pause_s: 0.0 }, prompt);
    for prices in [Prices::MEASURED, faster(0.6)] {
        let first = |neighbour| {
            let crowds = [rounds(), neighbour];
            let outcome = run_at(prices, &crowds, Order::Shares, (20.0, 220.0), 1);
            p95(&outcome.tenants[0]).0
        };
        let fair = first(keeps(2, short));
        for flood in [keeps(16, short), keeps(16, (110, 1_100)), keeps(16, (1_000, 1_200))] {
            let flooded = first(flood);
            assert!(flooded <= 1.15 * fair, "{flooded} s for {fair} s");
        }
    }
}

/// An engine whose tokens take a part of what was measured.
fn faster(part: f64) -> Prices {
    let faster = |cost: Cost| Cost::from_secs_f64(cost.as_secs_f64() * part);
    let Prices { prefill_token, decode_token, .. } = Prices::MEASURED;
    let (prefill_token, decode_token) = (faster(prefill_token), faster(decode_token));
    Prices { prefill_token, decode_token, ..Prices::MEASURED }
}

/// Steps are long enough for a prompt to be computed well, and short enough to read along.
#[test]
fn who_reads_an_answer_does_not_wait_for_the_documents_of_others() {
    let reader = || Crowd { arrivals: Arrivals::Kept { calls: 8, pause_s: 1.0 }, ..crowd(1, 1, 0) };
    let documents = Crowd { prompt: (1024, 4096), ..crowd(1, 1, 1024) };
    let gaps = &shares(&[reader(), documents]).tenants[0].gaps_s;
    let p99 = percentile(gaps.iter().copied(), 99);
    assert!(p99 <= 0.11, "{p99} s between tokens");
}

#[test]
fn nothing_is_left_undone_for_the_sake_of_shares() {
    let crowds = [crowd(1, 100, 32), crowd(1, 100, 64 * 32)];
    let first_come = run(&crowds, Order::Arrival, (20.0, 120.0), 1);
    let shares = run(&crowds, Order::Shares, (20.0, 120.0), 1);
    let part = shares.tokens_per_second() / first_come.tokens_per_second();
    assert!(part >= 0.95, "{part}");
}

#[test]
fn a_higher_class_is_served_as_if_the_lower_one_were_not_there() {
    let high = || Crowd { priority: Priority::High, ..crowd(1, 1, 8) };
    let alone = run(&[high()], Order::Shares, (5.0, 65.0), 1);
    let beside = run(&[high(), crowd(1, 10_000, 500)], Order::Shares, (5.0, 65.0), 1);
    // It shares its steps with the others' rows, and waits for nothing else.
    let step_s = Prices::MEASURED.cost(Service::prefill(BATCH_TOKENS, 256), 1).as_secs_f64();
    let (alone, beside) = (p95(&alone.tenants[0]), p95(&beside.tenants[0]));
    assert!(beside.0 <= alone.0 + 2.0 * step_s, "{beside:?} for {alone:?}");
}

#[test]
fn a_thousand_tenants_in_bursts_are_served_soon_beside_some_that_never_stop() {
    let bursts =
        Crowd { arrivals: Arrivals::Bursts { calls: 4, every_s: 1600.0 }, ..crowd(1000, 100, 0) };
    let first = |order| {
        let outcome = run(&[bursts.clone(), crowd(20, 100, 64)], order, (30.0, 180.0), 1);
        let many = outcome.tenants.iter().take(1000).flat_map(|had| had.first_s.iter().copied());
        percentile(many, 95)
    };
    let (shares, counters) = (first(Order::Shares), first(Order::TokenCounters));
    assert!(shares <= 1.25 * counters, "{shares} s where token counters take {counters}");
    assert!(first(Order::Arrival) > 4.0 * shares, "{shares} s");
}

#[test]
fn the_same_seed_gives_the_same_outcome() {
    let costs = || -> Vec<u64> {
        let outcome = run(&[crowd(3, 1, 30)], Order::Shares, (0.0, 20.0), 7);
        outcome.costs().map(f64::to_bits).collect()
    };
    assert_eq!(costs(), costs());
}
