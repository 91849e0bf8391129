//! Calls that go from a door to the node that has their model.

mod belief;
mod crowd;
mod line;
mod node;
mod slow;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use realm_core::{
    auth::Roster,
    desired::{DesiredTenant, Peer},
    engine::Usage,
    refusal::Refusal,
    reply::ReplyEvent,
    tenants::Tenants as _,
    trace::Scope,
};
use realm_link::peer::PeerError;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;

use self::node::{Door, Host, identity, model, next, read, tenant};
use super::world::{World, soon};

#[tokio::test]
async fn an_answer_comes_as_it_is_made_and_is_paid_at_its_door() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let (text, end) = read(door.call("say")).await;
    assert_eq!(text, "abc");
    assert_eq!(end.unwrap(), serde_json::json!({ "params": { "prompt": "x" } }));
    // Twenty of the fifty were cached. Time gives a few tokens back meanwhile.
    let (input, output) = door.paid();
    assert!((1..=30).contains(&input) && output <= 3, "{input} {output}");
    assert_eq!(read(door.call("other")).await.1, Err(Refusal::UnknownFunction("other".into())));
}

#[tokio::test]
async fn a_call_that_nobody_wants_any_more_ends_where_it_runs() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let mut reply = door.call("hold");
    assert!(matches!(next(&mut reply).await, ReplyEvent::Chunk(_)));
    drop(reply);
    let mut cancelled = host.script.cancelled.subscribe();
    soon("the end of the call", cancelled.wait_for(|count| *count == 1)).await.unwrap();
    // Its place at the door is free again.
    let last = door.admit("say");
    drop(last);
}

#[tokio::test]
async fn a_node_that_has_much_in_hand_for_others_is_passed_over_once_it_has_said_so() {
    let world = World::start().await;
    let hosts = [Host::start(&world, "n1").await, Host::start(&world, "n2").await];
    let door = Door::start(&world, &[&hosts[0].peer, &hosts[1].peer]).await;
    let asked = || hosts.each_ref().map(|host| *host.script.asked.borrow());
    for calls in 1..=3 {
        assert_eq!(read(door.call("say")).await.0, "abc");
        assert!(asked().contains(&calls), "one is the favourite: {:?}", asked());
    }
    let favourite = asked().iter().position(|asked| *asked > 0).unwrap();
    hosts[favourite].script.in_hand.store(100, Ordering::SeqCst);
    assert_eq!(read(door.call("say")).await.0, "abc");
    assert_eq!(asked()[favourite], 4, "it has said nothing yet");
    assert_eq!(read(door.call("say")).await.0, "abc");
    assert_eq!((asked()[favourite], asked()[1 - favourite]), (4, 1));
}

#[tokio::test]
async fn a_prompt_is_paid_although_its_answer_never_begins() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let admitted = door.admit("think");
    let mut spent = admitted.spent();
    let reply = door.relay.start(admitted);
    soon("the charge", spent.wait_for(|spent| spent.prompt_tokens == 50)).await.unwrap();
    drop(reply);
    assert!(door.paid().0 >= 1);
}

#[tokio::test]
async fn a_call_may_spend_no_more_than_its_door_has_left() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let (_, end) = read(door.call("spend")).await;
    assert!(matches!(end, Err(Refusal::TooManyTokens { per_minute: 10_000, .. })), "{end:?}");
}

#[tokio::test]
async fn an_answer_that_is_cut_says_so_and_is_paid_as_far_as_it_came() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let mut reply = door.call("hold");
    for _ in 0..3 {
        assert!(matches!(next(&mut reply).await, ReplyEvent::Chunk(_)));
    }
    drop(host);
    let end = next(&mut reply).await;
    assert!(matches!(end, ReplyEvent::Failed(Refusal::Moved)), "{end:?}");
    assert!(door.paid().0 >= 1);
}

#[tokio::test]
async fn work_that_is_lost_is_paid_by_a_client_that_goes_before_anybody_is_asked_again() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let mut held = door.relay.held();
    let admitted = door.admit("think");
    let mut spent = admitted.spent();
    let reply = door.relay.start(admitted);
    soon("the charge", spent.wait_for(|spent| spent.prompt_tokens == 50)).await.unwrap();
    drop(host);
    soon("the call to wait", held.wait_for(|held| !held.is_empty())).await.unwrap();
    drop(reply);
    soon("nothing to wait", held.wait_for(BTreeMap::is_empty)).await.unwrap();
    assert_eq!(spent.borrow().prompt_tokens, 50);
}

#[tokio::test]
async fn work_that_is_lost_is_paid_once_by_whoever_has_it_done_again() {
    let world = World::start().await;
    let (one, two) = (Host::start(&world, "n1").await, Host::start(&world, "n2").await);
    let door = Door::start(&world, &[&one.peer, &two.peer]).await;
    let admitted = door.admit("think");
    let mut spent = admitted.spent();
    let reply = door.relay.start(admitted);
    soon("the charge", spent.wait_for(|spent| spent.prompt_tokens == 50)).await.unwrap();
    let is_at_one = *one.script.running.borrow() == 1;
    let (lost, other) = if is_at_one { (one, two) } else { (two, one) };
    let mut again = other.script.running.subscribe();
    drop(lost);
    soon("another node to be asked", again.wait_for(|running| *running == 1)).await.unwrap();
    soon("the charge", spent.wait_for(|spent| spent.prompt_tokens == 50)).await.unwrap();
    drop(reply);
    let mut cancelled = other.script.cancelled.subscribe();
    soon("the end of the call", cancelled.wait_for(|count| *count == 1)).await.unwrap();
    assert_eq!(spent.borrow().prompt_tokens, 50);
}

#[tokio::test]
async fn a_call_that_one_node_does_not_take_goes_to_the_next() {
    let world = World::start().await;
    let (one, two) = (Host::start(&world, "n1").await, Host::start(&world, "n2").await);
    let gone = Peer { node: "n3".to_owned(), address: "127.0.0.1:1".to_owned() };
    let door = Door::start(&world, &[&one.peer, &two.peer, &gone]).await;
    one.script.has_model.store(false, Ordering::SeqCst);
    assert_eq!(read(door.call("say")).await.0, "abc");
    one.script.has_model.store(true, Ordering::SeqCst);
    two.draining.send_replace(true);
    assert_eq!(read(door.call("say")).await.0, "abc");
}

#[tokio::test]
async fn a_call_waits_at_its_door_until_somebody_has_its_model() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let mut door = Door::start(&world, &[]).await;
    let mut held = door.relay.held();
    let reply = door.call("say");
    let waits = held.wait_for(|held| held.get(&model()) == Some(&1));
    soon("the call to be told of", waits).await.unwrap();
    // The node has loaded the model and is still compiling the program.
    host.script.has_model.store(false, Ordering::SeqCst);
    let mut asked = host.script.asked.subscribe();
    door.route(Some(&[&host.peer])).await;
    soon("it to be asked", asked.wait_for(|asked| *asked == 1)).await.unwrap();
    host.script.has_model.store(true, Ordering::SeqCst);
    assert_eq!(read(reply).await.0, "abc");
    soon("nothing to wait", held.wait_for(BTreeMap::is_empty)).await.unwrap();
}

#[tokio::test]
async fn a_call_that_waits_is_forgotten_with_its_client() {
    let world = World::start().await;
    let door = Door::start(&world, &[]).await;
    let mut held = door.relay.held();
    let reply = door.call("say");
    soon("the call to wait", held.wait_for(|held| !held.is_empty())).await.unwrap();
    drop(reply);
    soon("nothing to wait", held.wait_for(BTreeMap::is_empty)).await.unwrap();
}

#[tokio::test]
async fn a_model_that_nobody_knows_is_not_waited_for() {
    let world = World::start().await;
    let mut door = Door::start(&world, &[]).await;
    door.route(None).await;
    let mut held = door.relay.held();
    let (_, end) = read(door.call("say")).await;
    let is_not_ready = matches!(end, Err(Refusal::ModelNotReady { .. }));
    assert!(is_not_ready && held.borrow_and_update().is_empty(), "{end:?}");
}

#[tokio::test]
async fn a_key_that_the_other_node_does_not_know_opens_nothing_there() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let revoked = DesiredTenant { keys: Vec::new(), ..tenant() };
    host.roster.send_replace(Arc::new(Roster::new([Arc::new(revoked)])));
    assert_eq!(read(door.call("say")).await.1, Err(Refusal::Unauthenticated));
    assert_eq!(*host.script.running.borrow(), 0);
}

#[tokio::test]
async fn a_node_that_still_waits_for_a_tenants_program_leaves_its_calls_to_others() {
    let world = World::start().await;
    let (one, two) = (Host::start(&world, "n1").await, Host::start(&world, "n2").await);
    let door = Door::start(&world, &[&one.peer, &two.peer]).await;
    for waiting in [&one, &two] {
        let whole = waiting.roster.send_replace(Arc::new(Roster::new([])));
        waiting.script.has_model.store(false, Ordering::SeqCst);
        assert_eq!(read(door.call("say")).await.0, "abc");
        waiting.script.has_model.store(true, Ordering::SeqCst);
        waiting.roster.send_replace(whole);
    }
}

#[tokio::test]
async fn a_program_that_comes_to_no_node_is_named_at_every_door_and_at_once() {
    let world = World::start().await;
    let (one, two) = (Host::start(&world, "n1").await, Host::start(&world, "n2").await);
    let door = Door::start(&world, &[&one.peer, &two.peer]).await;
    let missing = Refusal::ProgramNotReady { reason: "failed: SourceNotFound".to_owned() };
    for host in [&one, &two] {
        assert_eq!(read(door.call("say")).await.0, "abc", "another node has it");
        host.script.has_model.store(false, Ordering::SeqCst);
        host.script.lacks.send_replace(Some(missing.clone()));
    }
    assert_eq!(read(door.call("say")).await.1, Err(missing));
    // One of them tries again.
    one.script.lacks.send_replace(None);
    let mut held = door.relay.held();
    let reply = door.call("say");
    soon("the call to wait", held.wait_for(|held| !held.is_empty())).await.unwrap();
    one.script.has_model.store(true, Ordering::SeqCst);
    assert_eq!(read(reply).await.0, "abc");
}

#[tokio::test]
async fn a_node_that_is_starting_leaves_calls_to_others_and_refuses_none_for_good() {
    let world = World::start().await;
    let (one, two) = (Host::start(&world, "n1").await, Host::start(&world, "n2").await);
    let door = Door::start(&world, &[&one.peer, &two.peer]).await;
    for starting in [&one, &two] {
        let whole = starting.roster.send_replace(Arc::new(Roster::partial([])));
        assert_eq!(read(door.call("say")).await.0, "abc");
        starting.roster.send_replace(whole);
    }
}

#[tokio::test]
async fn a_call_that_no_node_understands_is_not_tried_again() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    assert_eq!(read(door.call("")).await.1, Err(Refusal::Internal));
    assert_eq!(*host.script.asked.borrow(), 0);
}

#[tokio::test]
async fn a_call_elsewhere_begins_nothing_more_while_its_tenant_is_in_debt_at_its_door() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let mut reply = door.call("twice");
    assert!(matches!(next(&mut reply).await, ReplyEvent::Chunk(_)));
    let other = door.admit("other");
    other.charge(Usage { completion_tokens: 20_000, ..Usage::default() }, Instant::now());
    host.script.cue.send_replace(1);
    let end = next(&mut reply).await;
    let is_refused = matches!(end, ReplyEvent::Failed(Refusal::TooManyTokens { .. }));
    assert!(is_refused, "{end:?}");
    let mut cancelled = host.script.cancelled.subscribe();
    soon("the end of the call", cancelled.wait_for(|count| *count == 1)).await.unwrap();
}

#[tokio::test]
async fn calls_elsewhere_bring_together_no_token_more_than_their_door_has() {
    const LETTERS: usize = 400;
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let began = Instant::now();
    let other = door.admit("other");
    other.charge(Usage { completion_tokens: 9_990, ..Usage::default() }, began);
    let calls = [(); 3].map(|()| read(door.relay.start(door.admit_letters(LETTERS))));
    let ended = futures_util::future::join_all(calls).await;
    let came: usize = ended.iter().map(|(text, _)| text.len()).sum();
    let earned = began.elapsed().as_secs_f64() * 10_000.0 / 60.0;
    assert!(came as f64 <= 10.0 + earned + 1.0, "{came} of 10 and {earned}");
    for (_, end) in ended {
        let is_cut = matches!(end, Err(Refusal::TooManyTokens { per_minute: 10_000, .. }));
        assert!(is_cut || came >= LETTERS, "{end:?}");
    }
    let mut cancelled = host.script.cancelled.subscribe();
    soon("the end of all", cancelled.wait_for(|count| *count == 3)).await.unwrap();
}

#[tokio::test]
async fn what_was_made_and_never_read_is_paid_for() {
    const LETTERS: usize = 600;
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let admitted = door.admit_letters(LETTERS);
    let mut spent = admitted.spent();
    let reply = door.relay.start(admitted);
    let mut poured = host.script.poured.subscribe();
    soon("all letters", poured.wait_for(|poured| *poured == LETTERS)).await.unwrap();
    // What comes later on the same connection has come behind them.
    assert_eq!(read(door.call("say")).await.0, "abc");
    assert_eq!(read(door.call("say")).await.0, "abc");
    drop(reply);
    let is_paid = |spent: &Usage| spent.completion_tokens == 600;
    soon("them to be paid for", spent.wait_for(is_paid)).await.unwrap();
}

#[tokio::test]
async fn agents_that_start_while_their_operator_is_away_know_each_other() {
    let mut world = World::start().await;
    drop((Host::start(&world, "n1").await, Door::start(&world, &[]).await));
    world.close_door().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    assert_eq!(read(door.call("say")).await.0, "abc");
}

#[tokio::test]
async fn a_program_elsewhere_says_what_it_can_do() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let functions = soon("an answer", door.relay.functions(&Door::caller())).await;
    assert_eq!(functions.first().unwrap().name, "say");
    let models = door.relay.models(&Door::caller());
    assert!(models.iter().all(|model| model.ready) && models.len() == 1, "{models:?}");
}

#[tokio::test]
async fn a_node_that_drains_ends_with_its_last_call() {
    let world = World::start().await;
    let mut host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let mut reply = door.call("hold");
    assert!(matches!(next(&mut reply).await, ReplyEvent::Chunk(_)));
    host.draining.send_replace(true);
    let refused = door.peers.call(&host.peer, &door.admit("say"), &model(), &Scope::OFF).await;
    assert!(matches!(refused, Err(PeerError::NotTaken(_))), "{refused:?}");
    assert!(!host.task.is_finished());
    drop(reply);
    soon("the end of the door", &mut host.task).await.unwrap();
}

#[tokio::test]
async fn an_agent_of_another_installation_is_neither_believed_nor_let_in() {
    let (ours, theirs) = (World::start().await, World::start().await);
    let host = Host::start(&ours, "n1").await;
    let stranger = Door::with_identity(identity(&theirs, "door").await).await;
    let refused =
        stranger.peers.call(&host.peer, &stranger.admit("say"), &model(), &Scope::OFF).await;
    assert!(matches!(refused, Err(PeerError::NotTaken(_))), "{refused:?}");
    assert_eq!(*host.script.running.borrow(), 0);
}

#[tokio::test]
async fn a_peer_that_is_on_another_node_than_its_route_says_is_not_spoken_to() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[]).await;
    let other = Peer { node: "n2".to_owned(), ..host.peer.clone() };
    let refused = door.peers.call(&other, &door.admit("say"), &model(), &Scope::OFF).await;
    assert!(matches!(refused, Err(PeerError::NotTaken(_))), "{refused:?}");
    assert_eq!(*host.script.running.borrow(), 0);
}

#[tokio::test]
async fn nobody_is_let_in_without_a_certificate() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let mut roots = RootCertStore::empty();
    let bundle = world.authority.borrow().bundle();
    roots.add(CertificateDer::from_pem_slice(bundle.as_bytes()).unwrap()).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(host.address).await.unwrap();
    let name = ServerName::try_from("10.0.0.7").unwrap();
    // The client's part of the handshake ends before the server has looked for its certificate.
    let mut said = Vec::new();
    let connected = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
    let end = match connected {
        Ok(mut stream) => soon("the end", stream.read_to_end(&mut said)).await.map(drop),
        Err(error) => Err(error),
    };
    assert!(end.is_err() && said.is_empty(), "{end:?} {said:?}");
}
