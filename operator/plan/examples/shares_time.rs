//! How long it takes to share out limits against the size of a cluster, for whoever changes that.
//!
//! `cargo run --release -p realm-plan --example shares_time` prints, for a few sizes, the time of
//! the turn that divides, and of all turns until every door has answered, where a few answer
//! between two turns. Every tenant uses something at every door, at one of them the most.
//! Then it prints how long it takes to hear from all doors which limits refuse calls, where each of
//! them refuses those of every tenant by every limit: the first time, and when nothing is new.

#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use realm_plan::{
    Name,
    reached::{EachReached, Reached},
    shares::{PARTS, Shares, Slices, Spends, Use},
};

/// How many doors answer between two turns, where a turn comes every tenth of a second.
const AT_ONCE: usize = 10;

fn main() {
    println!("tenants doors | divides | answers  (ms in 5 s)");
    for (tenants, doors) in [(10, 3), (100, 20), (1000, 20), (1000, 100)] {
        measure(tenants, doors);
    }
    println!("tenants doors |  refused |   again  (ms for all doors)");
    for (tenants, doors) in [(100, 20), (1000, 100)] {
        measure_reached(tenants, doors);
    }
}

fn measure_reached(tenants: usize, doors: usize) {
    let mut reached = Reached::default();
    let names = (0..tenants).filter_map(|n| Name::new("default", &format!("t{n}")).ok());
    let all: BTreeMap<Name, EachReached> = names.map(|name| (name, [true; 6])).collect();
    let said = |_| Arc::new(Spends { reached: Some(all.clone()), ..Spends::default() });
    let mut hear = || {
        let said: Vec<_> = (0..doors).map(said).collect();
        let mut took = 0.0;
        for (door, spends) in said.iter().enumerate() {
            let name = format!("n{door:03}");
            timed(&mut took, || reached.says(&name, spends, Duration::ZERO));
        }
        took
    };
    let (first, again) = (hear(), hear());
    println!("{tenants:7} {doors:5} | {first:8.2} | {again:8.2}");
}

/// Doors, and what each has said last that it holds.
struct Town {
    shares: Shares,
    doors: Vec<(String, u64)>,
    tenants: usize,
    round: usize,
}

fn measure(tenants: usize, doors: usize) {
    let names = (0..doors).map(|door| (format!("n{door:03}"), 0));
    let mut town = Town { shares: Shares::new(1), doors: names.collect(), tenants, round: 0 };
    for (name, _) in &town.doors {
        town.shares.holds(name, Arc::new(Slices::default()));
        town.shares.spends(name, Arc::new(Spends::default()));
    }
    let mut last = (0.0, 0.0);
    // The first rounds come from an even division; the last is as all others are.
    for round in 0..4 {
        town.round = round;
        last = town.divide();
    }
    let (divides, answers) = last;
    println!("{tenants:7} {doors:5} | {divides:7.2} | {answers:7.2}");
}

impl Town {
    /// Milliseconds of the turn that divides, and of all turns until all have answered.
    fn divide(&mut self) -> (f64, f64) {
        for door in 0..self.doors.len() {
            self.say(door);
        }
        let (mut divides, mut answers) = (0.0, 0.0);
        let mut waiting = timed(&mut divides, || self.turn());
        while !waiting.is_empty() {
            let mut next = Vec::new();
            for some in waiting.chunks(AT_ONCE) {
                self.take(some);
                next.extend(timed(&mut answers, || self.turn()));
            }
            waiting = next;
        }
        (divides, answers)
    }

    fn take(&mut self, some: &[(String, Arc<Slices>)]) {
        for (name, slices) in some {
            let Some(door) = self.doors.iter().position(|(door, _)| door == name) else { continue };
            self.doors[door].1 = slices.epoch;
            self.say(door);
        }
    }

    /// A door says what tenants use at it, at another one the most in each round.
    fn say(&mut self, door: usize) {
        let (name, epoch) = &self.doors[door];
        let of_tenant = |tenant: usize| {
            let is_most = (tenant + self.round) % 7 == door % 7;
            let used = [if is_most { PARTS / 4 } else { PARTS / 1000 }; 4];
            let name = Name::new("default", &format!("t{tenant}")).ok()?;
            Some((name, Use { used, is_short: [is_most; 4], calls_over: 0 }))
        };
        let tenants = (0..self.tenants).filter_map(of_tenant).collect();
        self.shares.spends(name, Arc::new(Spends { epoch: *epoch, tenants, reached: None }));
    }

    /// What there is to send, with who enforces which limits, as the operator asks in every turn.
    fn turn(&mut self) -> Vec<(String, Arc<Slices>)> {
        let now = Duration::from_secs(10).saturating_mul(u32::try_from(self.round).unwrap_or(0));
        let count = u32::try_from(self.doors.len()).unwrap_or(u32::MAX);
        let left = self.shares.turn(count, now);
        if left.is_some() {
            std::hint::black_box(self.shares.applied());
        }
        left.unwrap_or_default()
    }
}

/// Adds the milliseconds that `what` takes.
fn timed<T>(sum: &mut f64, what: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let done = what();
    *sum += start.elapsed().as_secs_f64() * 1000.0;
    done
}
