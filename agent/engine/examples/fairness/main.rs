//! What shares come to under loads that would break them, beside first come first served and
//! virtual token counters, for whoever changes the scheduler.
//!
//! `cargo run --release -p realm-engine --example fairness -- FOLDER` writes `fairness.csv` and
//! `fairness.svg` there and prints the tables of tests/results/fairness.md. It simulates hours in a
//! minute or two, on a clock of its own: every run on every machine says the same.

#![expect(clippy::print_stdout, reason = "a program that prints")]

mod chart;

use std::{fmt::Write as _, fs, io, path::Path};

use chart::Line;
use realm_core::desired::Priority;
use realm_engine::simulation::{Arrivals, Crowd, Had, Order, Outcome, jain, percentile, run};

const ORDERS: [(Order, &str); 3] = [
    (Order::Arrival, "first come first served"),
    (Order::TokenCounters, "token counters"),
    (Order::Shares, "shares"),
];

const SEED: u64 = 1;

fn main() -> io::Result<()> {
    let folder = std::env::args().nth(1).unwrap_or_else(|| ".".to_owned());
    let mut csv = "scenario,order,figure,value\n".to_owned();
    let uneven = uneven_load(&mut csv);
    weights(&mut csv);
    flood(&mut csv);
    let waits = ten_thousand(&mut csv);
    let folder = Path::new(&folder);
    fs::write(folder.join("fairness.csv"), csv)?;
    fs::write(folder.join("fairness.svg"), chart::draw(&uneven, &waits))
}

/// Tenants that chat: a question of some lines, an answer of a paragraph.
fn crowd(tenants: u32, weight: u32, calls: u32) -> Crowd {
    Crowd {
        tenants,
        weight,
        priority: Priority::Normal,
        arrivals: Arrivals::Kept { calls, pause_s: 0.0 },
        prompt: (64, 256),
        answer: (32, 128),
    }
}

fn note(csv: &mut String, (scenario, order, figure): (&str, &str, &str), value: f64) {
    // What nobody got has no time.
    if value.is_nan() {
        return;
    }
    // Writing to a string cannot fail.
    let _ = writeln!(csv, "{scenario},{order},{figure},{value:.4}");
}

fn p(times: &[f64], percent: u32) -> f64 {
    percentile(times.iter().copied(), percent)
}

/// One client that keeps 32 calls in flight against 64 of another tenant that do.
fn uneven_load(csv: &mut String) -> Vec<Line> {
    println!(
        "\n| 1 client against 64 | Jain index | cost, 1 : 64 | tokens a second |\n|---|---|---|---|"
    );
    let mut lines = Vec::new();
    for (order, name) in ORDERS {
        let outcome = run(&[crowd(1, 100, 32), crowd(1, 100, 64 * 32)], order, (30.0, 630.0), SEED);
        let index = jain(outcome.costs());
        let [one, many] = [&outcome.tenants[0], &outcome.tenants[1]].map(|had| had.cost_s);
        let speed = outcome.tokens_per_second();
        println!("| {name} | {index:.4} | {one:.0} s : {many:.0} s | {speed:.0} |");
        note(csv, ("1 against 64", name, "jain"), index);
        note(csv, ("1 against 64", name, "cost_one_s"), one);
        note(csv, ("1 against 64", name, "cost_many_s"), many);
        note(csv, ("1 against 64", name, "tokens_per_second"), speed);
        lines.push(difference(name, &outcome));
    }
    lines
}

/// By how much the many are ahead of the one, over time.
fn difference(name: &'static str, outcome: &Outcome) -> Line {
    let points = outcome.curve.iter().map(|(at, costs)| (*at, costs[1] - costs[0]));
    Line { name, points: points.collect() }
}

/// Three tenants that always have calls waiting: one reads documents, one chats, one writes.
fn weights(csv: &mut String) {
    println!("\n| weights 1 : 2 : 4 | parts of the cost | furthest off |\n|---|---|---|");
    let reads = Crowd { prompt: (512, 2048), answer: (16, 64), ..crowd(1, 1, 128) };
    let writes = Crowd { prompt: (32, 64), answer: (256, 512), ..crowd(1, 4, 128) };
    for (order, name) in ORDERS {
        let crowds = [reads.clone(), crowd(1, 2, 128), writes.clone()];
        let outcome = run(&crowds, order, (30.0, 1830.0), SEED);
        let all: f64 = outcome.costs().sum();
        let parts: Vec<f64> = outcome.costs().map(|cost| 7.0 * cost / all).collect();
        let off =
            parts.iter().zip([1.0, 2.0, 4.0]).map(|(part, weight)| (part / weight - 1.0).abs());
        let off = off.fold(0.0, f64::max);
        println!(
            "| {name} | {:.2} : {:.2} : {:.2} | {:.1}% |",
            parts[0],
            parts[1],
            parts[2],
            100.0 * off
        );
        note(csv, ("weights 1:2:4", name, "furthest_off"), off);
    }
}

/// A tenant with eight people who chat, beside another one that has its share and no more, that
/// floods with chats, and that floods with documents.
fn flood(csv: &mut String) {
    println!(
        "\n| the neighbour | order | first token, p50 / p95 | between tokens, p50 / p95 |\n|---|---|---|---|"
    );
    let victim = || Crowd { arrivals: Arrivals::Kept { calls: 8, pause_s: 1.0 }, ..crowd(1, 1, 0) };
    let chats = |calls| crowd(1, 1, calls);
    let documents = Crowd { prompt: (1024, 4096), ..chats(1024) };
    let neighbours = [
        ("has its share", chats(56)),
        ("floods with chats", chats(64 * 56)),
        ("floods with documents", documents),
    ];
    for (neighbour, crowd) in neighbours {
        for (order, name) in ORDERS {
            let outcome = run(&[victim(), crowd.clone()], order, (30.0, 630.0), SEED);
            let Had { first_s, gaps_s, .. } = &outcome.tenants[0];
            if first_s.is_empty() {
                println!("| {neighbour} | {name} | none came in ten minutes | |");
            } else {
                println!(
                    "| {neighbour} | {name} | {:.2} s / {:.2} s | {:.0} ms / {:.0} ms |",
                    p(first_s, 50),
                    p(first_s, 95),
                    1e3 * p(gaps_s, 50),
                    1e3 * p(gaps_s, 95),
                );
            }
            note(csv, (neighbour, name, "first_token_p50_s"), p(first_s, 50));
            note(csv, (neighbour, name, "first_token_p95_s"), p(first_s, 95));
            note(csv, (neighbour, name, "between_tokens_p50_s"), p(gaps_s, 50));
            note(csv, (neighbour, name, "between_tokens_p95_s"), p(gaps_s, 95));
        }
    }
}

/// Ten thousand tenants that send bursts now and then, and twenty that never stop.
fn ten_thousand(csv: &mut String) -> Vec<Line> {
    const MANY: usize = 10_000;
    println!(
        "\n| 10,000 in bursts, 20 without end | first token of the 10,000, p50 / p95 / p99 | of the 20, p50 | tokens a second |\n|---|---|---|---|"
    );
    let bursts = Crowd {
        tenants: 10_000,
        // Four calls at a time and 16,000 seconds between them: half of what the engine can do.
        arrivals: Arrivals::Bursts { calls: 4, every_s: 16_000.0 },
        ..crowd(1, 100, 0)
    };
    let mut lines = Vec::new();
    for (order, name) in ORDERS {
        let crowds = [bursts.clone(), crowd(20, 100, 64)];
        let outcome = run(&crowds, order, (120.0, 3720.0), SEED);
        let (many, few) = outcome.tenants.split_at(MANY.min(outcome.tenants.len()));
        let first = |of: &[Had]| -> Vec<f64> {
            of.iter().flat_map(|had| had.first_s.iter().copied()).collect()
        };
        let (many, few) = (first(many), first(few));
        let speed = outcome.tokens_per_second();
        println!(
            "| {name} | {:.2} s / {:.2} s / {:.2} s | {:.1} s | {speed:.0} |",
            p(&many, 50),
            p(&many, 95),
            p(&many, 99),
            p(&few, 50),
        );
        for percent in [50, 95, 99] {
            let figure = format!("first_token_of_many_p{percent}_s");
            note(csv, ("10,000 in bursts", name, &figure), p(&many, percent));
        }
        note(csv, ("10,000 in bursts", name, "first_token_of_few_p50_s"), p(&few, 50));
        note(csv, ("10,000 in bursts", name, "tokens_per_second"), speed);
        let points = (1..=100).map(|percent| (p(&many, percent), f64::from(percent)));
        lines.push(Line { name, points: points.collect() });
    }
    lines
}
