use std::{cell::RefCell, future::pending, time::Duration};

use jiff::Timestamp;
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

use super::*;
use crate::lease::{
    Given, LEASE_DURATION,
    candidate::{Candidate, Step},
    record::Record,
};

const SECOND: Duration = Duration::from_secs(1);

const HELD: Held = Held { first_generation: 1, doors: 0 };

#[tokio::test(start_paused = true)]
async fn a_lease_that_was_taken_by_a_slow_write_is_led_by_no_longer_than_any() {
    let began = Instant::now();
    let won = win(async || {
        sleep(SECOND * 9).await;
        Ok(Some(HELD))
    })
    .await;
    assert_eq!(won.began, began);
    let error = keep(won.began, async || pending().await).await;
    assert!(matches!(error, LeaseError::TimedOut { .. }), "{error}");
    assert_eq!(began.elapsed(), RENEW_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn a_try_that_is_not_answered_is_given_up_and_the_next_one_may_win() {
    let mut tries = 0;
    let began = Instant::now();
    let winning = win(async || {
        tries += 1;
        if tries == 1 { pending().await } else { Ok(Some(HELD)) }
    });
    let won = timeout(SECOND * 60, winning).await.expect("the first try is given up");
    assert_eq!(won.began, began + RENEW_DEADLINE);
}

#[tokio::test(start_paused = true)]
async fn an_answer_after_the_deadline_takes_nothing() {
    let mut tries = 0;
    let won = win(async || {
        tries += 1;
        if tries == 1 {
            // As of a process that was stopped: the answer and the deadline are there together.
            tokio::time::advance(RENEW_DEADLINE).await;
        }
        Ok(Some(HELD))
    })
    .await;
    assert_eq!((tries, won.began.elapsed()), (2, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn a_leader_renews_again_and_again_until_somebody_else_has_the_lease() {
    let (began, mut tries) = (Instant::now(), 0);
    let error = keep(began, async || {
        tries += 1;
        if tries < 100 { Ok(Some(HELD)) } else { Ok(None) }
    })
    .await;
    assert!(matches!(error, LeaseError::Taken), "{error}");
    assert_eq!(began.elapsed(), RETRY * 100);
}

/// The API server, as far as one Lease goes, behind a network that takes its time.
struct Server {
    record: Option<Record>,
    version: u64,
    /// Times that requests and answers take, one after the other, again and again.
    delays: Vec<u64>,
    passed: usize,
}

impl Server {
    fn delay(&mut self) -> Duration {
        let place = self.passed % self.delays.len();
        self.passed += 1;
        Duration::from_millis(self.delays[place])
    }

    /// Writes as the API server does: not over what has changed since it was read.
    fn write(&mut self, record: Record) -> Option<Record> {
        if record.version != self.record.as_ref().and_then(|record| record.version.clone()) {
            return None;
        }
        self.version += 1;
        self.record = Some(Record { version: Some(self.version.to_string()), ..record });
        self.record.clone()
    }
}

async fn pass(server: &RefCell<Server>) {
    let delay = server.borrow_mut().delay();
    sleep(delay).await;
}

async fn attempt(
    server: &RefCell<Server>,
    candidate: &mut Candidate,
) -> Result<Option<Held>, LeaseError> {
    pass(server).await;
    let found = server.borrow().record.clone();
    pass(server).await;
    candidate.observe(found, Instant::now());
    let clock = Timestamp::from_second(1_700_000_000).unwrap();
    let Step::Write { record, first_generation } =
        candidate.step(Given::default(), clock, Instant::now())
    else {
        return Ok(None);
    };
    pass(server).await;
    let written = server.borrow_mut().write(record);
    pass(server).await;
    let Some(written) = written else { return Err(LeaseError::NoVersion { name: String::new() }) };
    candidate.observe(Some(written), Instant::now());
    Ok(Some(Held { first_generation, doors: 0 }))
}

/// Leads again and again, and says so in `leaders`.
async fn contend(identity: &str, server: &RefCell<Server>, leaders: &RefCell<Vec<String>>) {
    let mut candidate = Candidate::new(identity.to_owned(), LEASE_DURATION);
    loop {
        let won = win(async || attempt(server, &mut candidate).await).await;
        leaders.borrow_mut().push(identity.to_owned());
        assert_eq!(*leaders.borrow(), [identity], "two lead");
        keep(won.began, async || attempt(server, &mut candidate).await).await;
        leaders.borrow_mut().retain(|leader| leader != identity);
        candidate.end_term();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever time requests and answers take, and however they overtake each other, there are
    /// never two leaders.
    #[test]
    fn a_slow_api_server_leaves_no_two_leaders(
        delays in prop::collection::vec(prop_oneof![3 => 0_u64..500, 1 => 0_u64..15_000], 3..40),
    ) {
        let server = Server { record: None, version: 0, delays, passed: 0 };
        let (server, leaders) = (RefCell::new(server), RefCell::default());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let (a, b) = (contend("a", &server, &leaders), contend("b", &server, &leaders));
            let _ = timeout(SECOND * 600, async { tokio::join!(a, b) }).await;
        });
    }
}
