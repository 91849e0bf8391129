//! Whether the Lease is ours to take or to renew. Pure: time is an argument.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Given, record::Record};

/// Generations that a Lease keeps in reserve above the newest one given out. It is written anew
/// every two seconds, in which a fleet that plans every 100 ms uses twenty.
const GENERATIONS_RESERVED: u64 = 1 << 20;

/// What to do about the Lease now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Somebody else holds it.
    Wait,
    /// Write `record`, and lead from `first_generation` on if that goes well.
    Write { record: Record, first_generation: u64 },
}

/// One contender and what it last saw.
#[derive(Debug)]
pub(super) struct Candidate {
    identity: String,
    duration: Duration,
    seen: Option<Seen>,
    /// Of the term that is held.
    first_generation: Option<u64>,
}

/// A record, and since when it has been as it is, on our own clock.
#[derive(Debug)]
struct Seen {
    record: Record,
    since: Instant,
}

impl Candidate {
    pub(super) const fn new(identity: String, duration: Duration) -> Self {
        Self { identity, duration, seen: None, first_generation: None }
    }

    /// Takes in what the API server holds now.
    pub(super) fn observe(&mut self, found: Option<Record>, now: Instant) {
        let Some(record) = found else {
            self.seen = None;
            return;
        };
        if self.seen.as_ref().is_none_or(|seen| seen.record != record) {
            self.seen = Some(Seen { record, since: now });
        }
    }

    /// Ends the term that is held. What it has given out may be more than the Lease says, and the
    /// next one starts beyond its reserve even where nobody led in between.
    pub(super) const fn end_term(&mut self) {
        self.first_generation = None;
    }

    /// What to do, by what this term has given out.
    pub(super) fn step(&mut self, given: Given, clock: Timestamp, now: Instant) -> Step {
        let held = self.seen.as_ref().map(|seen| &seen.record);
        let is_ours = held.is_some_and(|record| record.holder.as_ref() == Some(&self.identity));
        let is_held = self.seen.as_ref().is_some_and(|seen| seen.is_held(now));
        if is_held && !is_ours {
            self.first_generation = None;
            return Step::Wait;
        }
        let reserved = held.map_or(0, |record| record.generations);
        // A process that finds its own name in the Lease may be a new one under an old name: what
        // an earlier one gave out is unknown to it, so it starts a term of its own.
        let continued = self.first_generation.filter(|_| is_ours);
        let first_generation = continued.unwrap_or_else(|| reserved.saturating_add(1));
        self.first_generation = Some(first_generation);
        let newest = given.generation.max(first_generation);
        let record = Record {
            holder: Some(self.identity.clone()),
            duration: self.duration,
            acquired: held.filter(|_| is_ours).and_then(|record| record.acquired).or(Some(clock)),
            renewed: Some(clock),
            transitions: held
                .map_or(0, |record| record.transitions.saturating_add(i32::from(!is_ours))),
            generations: reserved.max(newest.saturating_add(GENERATIONS_RESERVED)),
            // Until this term has planned, what the last one knew is all there is to know.
            doors: match given.doors {
                0 => held.map_or(0, |record| record.doors),
                doors => doors,
            },
            version: held.and_then(|record| record.version.clone()),
        };
        Step::Write { record, first_generation }
    }
}

impl Seen {
    /// Whether somebody holds it: it names a holder and has changed within its duration.
    fn is_held(&self, now: Instant) -> bool {
        self.record.holder.is_some() && now < self.since + self.record.duration
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DURATION: Duration = Duration::from_secs(15);

    fn candidate(identity: &str) -> Candidate {
        Candidate::new(identity.to_owned(), DURATION)
    }

    fn clock() -> Timestamp {
        Timestamp::from_second(1_700_000_000).unwrap()
    }

    /// The API server, as far as one Lease goes.
    #[derive(Default)]
    struct Server {
        record: Option<Record>,
        version: u64,
    }

    impl Server {
        /// Writes as the API server does: not over what has changed since it was read.
        fn write(&mut self, record: Record) -> Option<Record> {
            let current = self.record.as_ref().and_then(|record| record.version.clone());
            if record.version != current {
                return None;
            }
            self.version += 1;
            let written = Record { version: Some(self.version.to_string()), ..record };
            self.record = Some(written.clone());
            Some(written)
        }

        /// One attempt; gives the first generation of the term that is held after it.
        fn attempt(&mut self, candidate: &mut Candidate, newest: u64, now: Instant) -> Option<u64> {
            candidate.observe(self.record.clone(), now);
            let given = Given { generation: newest, doors: 0 };
            match candidate.step(given, clock(), now) {
                Step::Wait => None,
                Step::Write { record, first_generation } => {
                    let written = self.write(record)?;
                    candidate.observe(Some(written), now);
                    Some(first_generation)
                }
            }
        }
    }

    #[test]
    fn whoever_comes_second_waits_until_the_lease_has_not_changed_for_its_duration() {
        let (mut server, now) = (Server::default(), Instant::now());
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        assert!(server.attempt(&mut a, 0, now).is_some());
        assert!(server.attempt(&mut b, 0, now).is_none());
        let renewed = now + Duration::from_secs(10);
        assert!(server.attempt(&mut a, 0, renewed).is_some());
        // The renewal is seen late, and its duration counts from then.
        assert!(server.attempt(&mut b, 0, renewed + Duration::from_secs(6)).is_none());
        assert!(server.attempt(&mut b, 0, renewed + Duration::from_secs(20)).is_none());
        assert!(server.attempt(&mut b, 0, renewed + Duration::from_secs(21)).is_some());
        assert_eq!(server.record.as_ref().unwrap().transitions, 1);
        assert!(server.attempt(&mut a, 0, renewed + Duration::from_secs(22)).is_none());
    }

    #[test]
    fn the_clock_of_another_machine_decides_nothing() {
        let (mut server, now) = (Server::default(), Instant::now());
        let mut a = candidate("a");
        server.attempt(&mut a, 0, now);
        let future = Timestamp::from_second(9_000_000_000).unwrap();
        if let Some(record) = &mut server.record {
            record.renewed = Some(future);
        }
        let mut b = candidate("b");
        assert!(server.attempt(&mut b, 0, now).is_none());
        assert!(server.attempt(&mut b, 0, now + DURATION).is_some());
    }

    #[test]
    fn whoever_leads_again_without_anybody_in_between_starts_a_new_term() {
        let (mut server, now) = (Server::default(), Instant::now());
        let mut a = candidate("a");
        let first = server.attempt(&mut a, 0, now).unwrap();
        assert_eq!(server.attempt(&mut a, 0, now), Some(first), "the same term goes on");
        a.end_term();
        let second = server.attempt(&mut a, 0, now).unwrap();
        assert!(second > first + GENERATIONS_RESERVED - 1, "{second} is not beyond the reserve");
    }

    #[test]
    fn a_lease_that_was_given_back_is_taken_at_once() {
        let (mut server, now) = (Server::default(), Instant::now());
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        server.attempt(&mut a, 0, now);
        let held = server.record.clone().unwrap();
        assert!(held.released("b", clock()).is_none());
        server.write(held.released("a", clock()).unwrap()).unwrap();
        assert!(server.attempt(&mut b, 0, now).is_some());
    }

    #[test]
    fn of_two_who_write_at_once_one_leads() {
        let (mut server, now) = (Server::default(), Instant::now());
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        a.observe(None, now);
        b.observe(None, now);
        let (Step::Write { record, .. }, Step::Write { record: late, .. }) =
            (a.step(Given::default(), clock(), now), b.step(Given::default(), clock(), now))
        else {
            panic!("both may")
        };
        assert!(server.write(record).is_some());
        assert!(server.write(late).is_none());
    }

    #[test]
    fn the_doors_of_a_term_are_known_to_the_next() {
        let (mut server, now) = (Server::default(), Instant::now());
        let doors = |server: &mut Server, candidate: &mut Candidate, doors: u32, now: Instant| {
            candidate.observe(server.record.clone(), now);
            let given = Given { generation: 0, doors };
            let Step::Write { record, .. } = candidate.step(given, clock(), now) else { panic!() };
            server.write(record).unwrap().doors
        };
        let (mut a, mut b) = (candidate("a"), candidate("b"));
        assert_eq!(doors(&mut server, &mut a, 0, now), 0);
        assert_eq!(doors(&mut server, &mut a, 3, now), 3);
        b.observe(server.record.clone(), now);
        let later = now + DURATION;
        assert_eq!(doors(&mut server, &mut b, 0, later), 3, "it has not planned yet");
        assert_eq!(doors(&mut server, &mut b, 2, later), 2);
    }

    proptest! {
        /// Terms of any operators, however they come, go and restart under their old names, never
        /// share a generation, and later ones have higher ones.
        #[test]
        fn generations_only_grow_over_all_terms(
            turns in prop::collection::vec((0_usize..3, 0_u64..20, 1_u64..40, any::<bool>()), 1..60),
        ) {
            let (mut server, mut now, mut highest) = (Server::default(), Instant::now(), 0);
            let mut candidates = [candidate("a"), candidate("b"), candidate("c")];
            let mut terms = [None::<(u64, u64)>; 3];
            for (who, used, seconds, restarts) in turns {
                now += Duration::from_secs(seconds);
                if restarts {
                    let identity = candidates[who].identity.clone();
                    (candidates[who], terms[who]) = (candidate(&identity), None);
                }
                let newest = terms[who].map_or(0, |(_, newest)| newest);
                let first = server.attempt(&mut candidates[who], newest, now);
                terms[who] = match (first, terms[who]) {
                    (None, _) => None,
                    (Some(first), Some((old, newest))) if first == old => Some((first, newest)),
                    (Some(first), _) => {
                        prop_assert!(first > highest, "{first} after {highest}");
                        Some((first, first - 1))
                    }
                };
                if let Some((_, newest)) = &mut terms[who] {
                    *newest += used;
                    prop_assert!(*newest <= server.record.as_ref().unwrap().generations);
                    highest = highest.max(*newest);
                }
            }
        }
    }
}
