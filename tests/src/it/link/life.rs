//! An agent and its operator, through the days of both.

use std::{
    io::ErrorKind,
    sync::Arc,
    time::{Duration, SystemTime},
};

use realm_core::{
    books::Used,
    name::TenantName,
    report::Report,
    supply::{Credentials, Supply},
    uses::TenantUse,
};
use realm_link::client::{self, LinkError, LinkState};
use realm_operator::link::{authority::Authority, registry::NodeView, supply};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::world::{Agent, World, name, nothing, soon, token};

const fn is_connected(state: &LinkState) -> bool {
    state.connected.is_some()
}

#[tokio::test]
async fn an_agent_gets_a_state_and_the_operator_its_report() {
    let world = World::start().await;
    world.order("worker-1", &nothing(7));
    let agent = world.agent("worker-1").await;
    agent.until_held(7).await;
    agent.report.send_replace(Report { generation: 7, ..Report::default() });
    agent.supply.send_replace(Supply { memory_bytes_free: 5, ..Supply::default() });
    let is_told = |view: &NodeView| {
        view.report.as_ref().is_some_and(|report| report.generation == 7)
            && view.supply.as_ref().is_some_and(|supply| supply.memory_bytes_free == 5)
    };
    let view = world.until("worker-1", is_told).await;
    assert!(view.is_connected && view.refused.is_none());
    assert_eq!(view.agent.unwrap().version, "1.0.0");
}

#[tokio::test]
async fn credentials_are_there_before_the_state_that_needs_them_and_never_on_the_disk() {
    let world = World::start().await;
    let secret = b"hf_4f2a9c".to_vec();
    let credentials =
        supply::Credentials([(name("default/tiny"), secret.as_slice().into())].into());
    world.order("worker-1", &nothing(1));
    world.registry.set_credentials("worker-1", Arc::new(credentials)).unwrap();
    let agent = world.agent("worker-1").await;
    agent.until_held(1).await;
    let Credentials(held) = agent.credentials.borrow().clone();
    assert_eq!(held.into_values().next().as_ref(), Some(&secret));
    let dir = agent.stop().await;
    for file in std::fs::read_dir(dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret));
    }
}

#[tokio::test]
async fn an_agent_comes_back_after_its_operator_died_and_serves_meanwhile() {
    let mut world = World::start().await;
    world.order("worker-1", &nothing(1));
    let agent = world.agent("worker-1").await;
    agent.until_held(1).await;
    world.close_door().await;
    world.until("worker-1", |view| !view.is_connected).await;
    agent.until_state(|state| !is_connected(state)).await;
    assert_eq!(agent.ledger.newest().generation, 1);
    world.order("worker-1", &nothing(2));
    world.open_door().await;
    agent.until_held(2).await;
    world.until("worker-1", |view| view.is_connected).await;
}

#[tokio::test]
async fn an_agent_that_restarts_says_what_its_ledger_holds() {
    let world = World::start().await;
    world.order("worker-1", &nothing(3));
    let agent = world.agent("worker-1").await;
    agent.until_held(3).await;
    let dir = agent.stop().await;
    world.until("worker-1", |view| !view.is_connected).await;
    let mut options = world.options("worker-1", &token("worker-1"));
    "second".clone_into(&mut options.boot_id);
    let _agent = Agent::start(options, dir).await;
    let view = world.until("worker-1", |view| view.is_connected).await;
    let agent = view.agent.unwrap();
    assert_eq!((agent.boot_id.as_str(), agent.generation), ("second", 3));
}

fn says(fuel: u64) -> Vec<TenantUse> {
    let tenant = TenantName::new("default", "acme").unwrap();
    vec![TenantUse { tenant, epoch: 3, used: Used::default(), fuel }]
}

fn is_said(view: &NodeView, fuel: u64) -> bool {
    let first = view.uses.as_ref().and_then(|uses| uses.first());
    first.is_some_and(|of_tenant| of_tenant.used.program_fuel == fuel)
}

/// They are told every few seconds, and at the end at once.
#[tokio::test]
async fn the_last_that_an_agent_says_is_what_tenants_have_used() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    agent.uses.send_replace(says(5));
    world.until("worker-1", |view| is_said(view, 5)).await;
    let before = Instant::now();
    agent.uses.send_replace(says(8));
    agent.end().await;
    world.until("worker-1", |view| !view.is_connected && is_said(view, 8)).await;
    assert!(before.elapsed() < Duration::from_secs(4), "{:?}", before.elapsed());
}

/// The operator that it is connected to dies in that moment, and another one leads.
#[tokio::test]
async fn the_last_word_goes_to_the_next_operator_where_the_first_has_not_heard_it() {
    let (first, next) = (World::start().await, World::start().await);
    let authorities = [&first, &next].map(|world| world.authority.borrow().bundle());
    let between = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = first.options("worker-1", &token("worker-1"));
    std::fs::write(&options.ca_file, authorities.concat()).unwrap();
    let doors = [between.local_addr().unwrap(), next.address];
    options.operators = doors.map(|door| format!("https://{door}").parse().unwrap()).to_vec();
    let (held, cut) = (CancellationToken::new(), CancellationToken::new());
    let line = {
        let (held, cut, door) = (held.clone(), cut.clone(), first.address);
        tokio::spawn(async move {
            let (mut agent, _) = between.accept().await.unwrap();
            let mut operator = TcpStream::connect(door).await.unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut agent, &mut operator) => {}
                () = held.cancelled() => cut.cancelled().await,
            }
        })
    };
    let agent = Agent::start(options, tempfile::tempdir().unwrap()).await;
    agent.until_state(is_connected).await;
    agent.uses.send_replace(says(8));
    first.until("worker-1", |view| is_said(view, 8)).await;
    held.cancel();
    agent.uses.send_replace(says(9));
    tokio::join!(agent.end(), async {
        tokio::task::yield_now().await;
        cut.cancel();
    });
    line.await.unwrap();
    next.until("worker-1", |view| is_said(view, 9)).await;
}

#[tokio::test]
async fn an_agent_that_reaches_nobody_ends_at_once() {
    let mut world = World::start().await;
    world.close_door().await;
    let agent = world.agent("worker-1").await;
    agent.until_state(|state| state.failures > 2).await;
    let before = Instant::now();
    agent.end().await;
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

#[tokio::test]
async fn an_old_generation_is_refused_by_the_agent_and_the_operator_hears_of_it() {
    let world = World::start().await;
    world.order("worker-1", &nothing(9));
    let agent = world.agent("worker-1").await;
    agent.until_held(9).await;
    world.order("worker-1", &nothing(8));
    let view = world.until("worker-1", |view| view.refused.is_some()).await;
    let refused = view.refused.unwrap();
    assert_eq!((refused.generation, refused.failure.reason.as_str()), (8, "OlderGeneration"));
    assert!(refused.failure.message.contains("older than generation 9"), "{refused:?}");
    assert_eq!(agent.ledger.newest().generation, 9);
    assert!(is_connected(&agent.state.borrow()), "the stream goes on");
}

#[tokio::test]
async fn a_state_that_the_disk_does_not_take_is_said_to_the_operator() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    agent.until_state(is_connected).await;
    // Moved in one step: a file that the agent is just writing must not keep it from going.
    let aside = tempfile::tempdir().unwrap();
    std::fs::rename(agent.dir(), aside.path().join("state")).unwrap();
    world.order("worker-1", &nothing(1));
    let view = world.until("worker-1", |view| view.refused.is_some()).await;
    assert_eq!(view.refused.unwrap().failure.reason, "LedgerUnwritable");
    std::fs::create_dir(agent.dir()).unwrap();
    world.order("worker-1", &nothing(2));
    agent.until_held(2).await;
}

#[tokio::test]
async fn a_deposed_leaders_streams_end_and_its_agents_find_the_next() {
    let (old, new) = (World::start().await, World::start().await);
    new.lead.end();
    new.authority.send_replace(old.authority.borrow().clone());
    // The other operator's certificate is made again before anybody asks for it.
    let mut tls = new.tls.clone();
    soon("a new certificate", tls.changed()).await.unwrap();
    old.order("worker-1", &nothing(1));
    new.order("worker-1", &nothing(2));
    let mut options = old.options("worker-1", &token("worker-1"));
    options.operators.insert(0, format!("https://{}", new.address).parse().unwrap());
    let agent = Agent::start(options, tempfile::tempdir().unwrap()).await;
    agent.until_held(1).await;
    assert!(!new.registry.snapshot()["worker-1"].is_connected, "a standby takes nobody in");
    new.lead();
    old.lead.end();
    old.until("worker-1", |view| !view.is_connected).await;
    agent.until_held(2).await;
    new.until("worker-1", |view| view.is_connected).await;
}

#[tokio::test]
async fn a_leader_whose_lease_has_run_out_says_nothing_more_though_nobody_has_told_it() {
    let world = World::start().await;
    world.order("worker-1", &nothing(1));
    let agent = world.agent("worker-1").await;
    agent.until_held(1).await;
    // What a process finds that was stopped: time has passed, and its own work goes on.
    world.lead.until(Instant::now());
    world.order("worker-1", &nothing(2));
    let state = agent.until_state(|state| state.generation == 2 || !is_connected(state)).await;
    assert_eq!((state.generation, state.last_error.unwrap().reason), (1, "NotLeading"));
    // Nor does it take anybody in, or sign anything.
    let options = world.options("worker-2", &token("worker-2"));
    let error = soon("an answer", client::enroll(&options, b"csr")).await.unwrap_err();
    assert!(matches!(error, LinkError::NotLeading), "{error}");
    // What it says when it leads again is of another term.
    world.lead();
    agent.until_held(2).await;
}

#[tokio::test]
async fn rotation_leaves_connected_agents_alone_and_new_ones_trust_both() {
    let world = World::start().await;
    world.order("worker-1", &nothing(1));
    let staying = world.agent("worker-1").await;
    staying.until_held(1).await;
    let since = staying.state.borrow().connected.as_ref().unwrap().since;

    let rotated = world.authority.borrow().rotated(SystemTime::now()).unwrap();
    assert_eq!(rotated.bundle().matches("BEGIN").count(), 2);
    let mut tls = world.tls.clone();
    world.authority.send_replace(Arc::new(rotated));
    soon("a new certificate", tls.changed()).await.unwrap();

    // The old bundle still opens the door, for the new authority signs only after a while.
    world.order("worker-2", &nothing(1));
    world.agent("worker-2").await.until_held(1).await;
    world.write_bundle();
    world.order("worker-3", &nothing(1));
    world.agent("worker-3").await.until_held(1).await;

    world.order("worker-1", &nothing(2));
    staying.until_held(2).await;
    assert_eq!(staying.state.borrow().connected.as_ref().unwrap().since, since);
}

#[tokio::test]
async fn a_new_authority_signs_after_a_while_and_is_trusted() {
    let two_hours_ago = SystemTime::now() - Duration::from_hours(2);
    let mut world = World::start().await;
    let before = Authority::create(two_hours_ago - Duration::from_hours(1)).unwrap();
    let after = before.rotated(two_hours_ago).unwrap();
    world.authority.send_replace(Arc::new(after));
    world.write_bundle();
    world.close_door().await;
    world.open_door().await;
    world.order("worker-1", &nothing(1));
    world.agent("worker-1").await.until_held(1).await;
}

#[tokio::test]
async fn a_newer_stream_of_a_node_takes_over() {
    let world = World::start().await;
    let older = world.agent("worker-1").await;
    older.until_state(is_connected).await;
    let mut options = world.options("worker-1", &token("worker-1"));
    "second".clone_into(&mut options.boot_id);
    let _newer = Agent::start(options, tempfile::tempdir().unwrap()).await;
    let message = older.until_refused("Broken").await;
    assert!(message.contains("has taken over"), "{message}");
}

#[tokio::test]
async fn an_agent_that_ends_asks_no_other_operator_once_one_has_heard_it() {
    let world = World::start().await;
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let mut options = world.options("worker-1", &token("worker-1"));
    options.operators.push(format!("https://{}", other.local_addr().unwrap()).parse().unwrap());
    let agent = Agent::start(options, tempfile::tempdir().unwrap()).await;
    agent.until_state(is_connected).await;
    agent.end().await;
    assert_eq!(other.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[tokio::test]
async fn an_agent_that_is_slow_to_connect_gets_only_the_newest_state() {
    let world = World::start().await;
    for generation in 1..=50 {
        world.order("worker-1", &nothing(generation));
    }
    let agent = world.agent("worker-1").await;
    let mut held: watch::Receiver<_> = agent.ledger.subscribe();
    let first = soon("a state", held.wait_for(|desired| desired.generation > 0)).await.unwrap();
    assert_eq!(first.generation, 50);
}
