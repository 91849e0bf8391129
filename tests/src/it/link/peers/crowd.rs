//! Many calls on the one connection between two agents: what some clients do is felt by no other.

use realm_core::{
    refusal::Refusal,
    reply::{Reply, ReplyEvent},
    tenants::Tenants as _,
    trace::Scope,
};
use realm_link::peer::CALLS_MAX;

use super::{
    super::world::{World, soon},
    node::{Door, Host, model, next, read},
};

/// A call that goes on while others come and go.
struct Long(Reply);

impl Long {
    async fn begin(door: &Door) -> Self {
        let mut reply = door.call("twice");
        assert!(matches!(next(&mut reply).await, ReplyEvent::Chunk(_)));
        Self(reply)
    }

    async fn goes_on(mut self, host: &Host) {
        host.script.cue.send_replace(1);
        let event = next(&mut self.0).await;
        assert!(matches!(event, ReplyEvent::Chunk(_)), "{event:?}");
    }
}

#[tokio::test]
async fn calls_that_are_given_up_by_the_thousand_in_the_middle_cut_no_other() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let long = Long::begin(&door).await;
    for _ in 0..40 {
        let mut replies: Vec<_> = (0..100).map(|_| door.call("pour")).collect();
        for reply in &mut replies {
            assert!(matches!(next(reply).await, ReplyEvent::Chunk(_)));
        }
    }
    long.goes_on(&host).await;
}

#[tokio::test]
async fn calls_that_are_given_up_by_the_thousand_before_they_begin_cut_no_other() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let long = Long::begin(&door).await;
    for _ in 0..40 {
        let replies: Vec<_> = (0..100).map(|_| door.call("say")).collect();
        // As long as it takes to send them, and not as long as it takes to hear of them.
        for _ in 0..4 {
            tokio::task::yield_now().await;
        }
        drop(replies);
    }
    long.goes_on(&host).await;
}

#[tokio::test]
async fn readers_that_stall_cut_no_other_call() {
    // As many letters as the window of a call holds, and more of them than h2 allows by default
    // to wait in frames so small.
    const STALLED: usize = 16;
    const LETTERS: usize = (64 << 10) / 12;
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let long = Long::begin(&door).await;
    let (mut stalled, admitted, model) = (Vec::new(), door.admit("pour"), model());
    for _ in 0..STALLED {
        let call = door.peers.call(&host.peer, &admitted, &model, &Scope::OFF);
        stalled.push(soon("an answer", call).await.unwrap());
    }
    let mut poured = host.script.poured.subscribe();
    let are_full = |poured: &usize| *poured >= STALLED * LETTERS;
    soon("full windows", poured.wait_for(are_full)).await.unwrap();
    long.goes_on(&host).await;
    drop(stalled);
}

#[tokio::test]
async fn a_call_for_which_its_node_has_no_room_ends_in_time() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let door = Door::start(&world, &[&host.peer]).await;
    let mut taken = Vec::new();
    for _ in 0..CALLS_MAX {
        taken.push(door.relay.start(door.admit_letters(1)));
    }
    for reply in &mut taken {
        assert!(matches!(next(reply).await, ReplyEvent::Chunk(_)));
    }
    // The door knows what it has in hand, and asks nobody in vain.
    let refused = read(door.call("say")).await.1;
    assert!(matches!(refused, Err(Refusal::Busy { .. })), "{refused:?}");
    // Streams that it knows nothing of.
    let (mut others, admitted, model) = (Vec::new(), door.admit("hold"), model());
    while others.len() < 32 {
        let call = door.peers.call(&host.peer, &admitted, &model, &Scope::OFF);
        others.push(soon("an answer", call).await.unwrap());
    }
    drop(taken.pop());
    let call = door.peers.call(&host.peer, &admitted, &model, &Scope::OFF);
    others.push(soon("the place of another", call).await.unwrap());
    let mut cancelled = host.script.cancelled.subscribe();
    soon("the end of a call", cancelled.wait_for(|count| *count == 1)).await.unwrap();
    let (_, end) = read(door.relay.start(door.admit_within("say", 300))).await;
    assert_eq!(end, Err(Refusal::DeadlineExceeded { deadline_ms: 300 }));
}
