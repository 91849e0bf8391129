//! Whom agents believe when another authority is in the place of theirs.

use std::{sync::Arc, time::SystemTime};

use realm_core::{reply::ReplyEvent, trace::Scope};
use realm_link::peer::PeerError;
use realm_operator::link::authority::Authority;
use tokio::sync::watch;

use super::{
    super::world::{World, soon},
    node::{Door, Host, identity, model, next, read},
};

/// Whether a peer does not take a call of this door.
async fn is_refused(door: &Door, host: &Host) -> bool {
    let called = door.peers.call(&host.peer, &door.admit("say"), &model(), &Scope::OFF).await;
    match called {
        Ok(_) => false,
        Err(PeerError::NotTaken(_)) => true,
        Err(error) => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn agents_believe_the_newest_bundle_though_their_operator_is_away() {
    let mut world = World::start().await;
    // What whoever has taken the key of the authority can show. They have no token to come back with.
    let shown = watch::Sender::new(identity(&world, "door").await.borrow().clone());
    let thief = Door::with_identity(shown.subscribe()).await;
    drop((Host::start(&world, "n1").await, Door::start(&world, &[]).await));
    world.close_door().await;
    world.authority.send_replace(Arc::new(Authority::create(SystemTime::now()).unwrap()));
    world.write_bundle();
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    assert!(is_refused(&thief, &host).await);
    // What these two have kept is of the old authority too.
    assert!(is_refused(&door, &host).await);
    assert_eq!(*host.script.running.borrow(), 0);
    world.open_door().await;
    assert_eq!(read(door.call("say")).await.0, "abc");
    assert!(is_refused(&thief, &host).await);
}

#[tokio::test]
async fn a_connection_takes_no_more_calls_when_its_authority_is_gone_where_it_leads() {
    let (ours, theirs) = (World::start().await, World::start().await);
    let shown = watch::Sender::new(identity(&ours, "n1").await.borrow().clone());
    let host = Host::with_identity("n1", shown.subscribe()).await;
    let door = Door::start(&ours, &[&host.peer]).await;
    let mut running = door.call("twice");
    assert!(matches!(next(&mut running).await, ReplyEvent::Chunk(_)));
    shown.send_replace(identity(&theirs, "n1").await.borrow().clone());
    let given_up = async { while !is_refused(&door, &host).await {} };
    soon("the connection to be given up", given_up).await;
    host.script.cue.send_replace(1);
    assert!(matches!(next(&mut running).await, ReplyEvent::Chunk(_)), "what runs goes on");
}

#[tokio::test]
async fn a_connection_takes_no_more_calls_when_its_authority_is_gone_where_it_comes_from() {
    let (ours, theirs) = (World::start().await, World::start().await);
    let host = Host::start(&ours, "n1").await;
    let shown = watch::Sender::new(identity(&ours, "door").await.borrow().clone());
    let mut door = Door::with_identity(shown.subscribe()).await;
    door.route(Some(&[&host.peer])).await;
    let mut running = door.call("twice");
    assert!(matches!(next(&mut running).await, ReplyEvent::Chunk(_)));
    shown.send_replace(identity(&theirs, "door").await.borrow().clone());
    assert!(is_refused(&door, &host).await);
    host.script.cue.send_replace(1);
    assert!(matches!(next(&mut running).await, ReplyEvent::Chunk(_)), "what runs goes on");
}
