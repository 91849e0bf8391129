//! Slices of tenants' limits between an operator and its agents.

use std::{collections::BTreeMap, sync::Arc};

use realm_core::{
    desired::Desired,
    name::TenantName,
    slices::{Each, PARTS, Reached, Slices, Spends, Use},
};
use realm_operator::{
    fleet::{
        FleetLoop,
        handle::{Command, Handle},
    },
    lease::{Given, Term},
    metrics::Metrics,
};
use realm_plan::{Kind, shares};
use tokio::sync::watch;

use super::world::{Agent, World, name, soon};

fn acme() -> TenantName {
    TenantName::new("default", "acme").unwrap()
}

/// Slices of which one tenant has its own.
fn slices(epoch: u64) -> shares::Slices {
    let tenants = [(name("default/acme"), [1, 2, 3, PARTS])].into();
    shares::Slices { epoch, share: PARTS / 2, tenants }
}

async fn until_leased(agent: &Agent, is_so: impl Fn(&Slices) -> bool) -> Arc<Slices> {
    let mut held = agent.slices.subscribe();
    let leased = held.wait_for(|held| held.as_ref().is_some_and(|held| is_so(held)));
    soon("slices", leased).await.unwrap().clone().unwrap()
}

#[tokio::test]
async fn slices_and_uses_mean_the_same_at_both_ends_and_are_held_after_a_restart() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    world.registry.set_slices("worker-1", Arc::new(slices(7))).unwrap();
    let held = until_leased(&agent, |held| held.epoch == 7).await;
    let own = Each { requests: 1, input_tokens: 2, output_tokens: 3, calls: PARTS };
    assert_eq!(*held, Slices { epoch: 7, share: PARTS / 2, tenants: [(acme(), own)].into() });
    let is_short = Each { input_tokens: true, ..Each::all(false) };
    let used = Use { used: own, is_short, calls_over: 9 };
    let refused = Each { calls: true, ..Each::all(false) };
    let reached = Reached { refused, kv_blocks: false, behind_others: true };
    let reached = [(acme(), reached)].into();
    agent.spends.send_replace(Spends { epoch: 7, tenants: [(acme(), used)].into(), reached });
    let view = world.until("worker-1", |view| view.spends.as_ref().is_some_and(|it| it.epoch == 7));
    let is_short = [false, true, false, false];
    let expected = shares::Use { used: [1, 2, 3, PARTS], is_short, calls_over: 9 };
    let expected: BTreeMap<_, _> = [(name("default/acme"), expected)].into();
    let spends = view.await.spends.unwrap();
    assert_eq!(spends.tenants, expected);
    let reached = [false, false, false, true, false, true];
    assert_eq!(spends.reached, Some([(name("default/acme"), reached)].into()));

    let dir = agent.stop().await;
    let again =
        Agent::start(world.options("worker-1", &super::world::token("worker-1")), dir).await;
    assert_eq!(again.slices.held(), Some(held));
    let view = world.until("worker-1", |view| view.holds.as_ref().is_some_and(|it| it.epoch > 0));
    assert_eq!(*view.await.holds.unwrap(), slices(7));
}

#[tokio::test]
async fn slices_of_a_leader_before_are_passed_over() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    for epoch in [7, 5, 8] {
        world.registry.set_slices("worker-1", Arc::new(slices(epoch))).unwrap();
        let expected = epoch.max(7);
        until_leased(&agent, |held| held.epoch == expected).await;
        agent.until_state(|state| state.epoch == expected).await;
    }
}

#[tokio::test]
async fn an_agent_without_slices_says_the_part_that_it_takes() {
    let world = World::start().await;
    let share = async |node: &str| {
        let view = world.until(node, |view| view.holds.is_some()).await;
        assert!(view.is_sliced);
        view.holds.unwrap().share
    };
    let empty = world.agent("worker-1").await;
    assert_eq!(share("worker-1").await, 0, "it knows no tenant");
    // Once it has said so it holds to that.
    assert_eq!(*until_leased(&empty, |_| true).await, Slices::default());
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = realm_link::ledger::Ledger::open(dir.path()).await.unwrap();
    let desired = Desired { generation: 1, doors: 4, ..Desired::default() };
    ledger.accept(desired).await.unwrap();
    drop(ledger);
    let options = world.options("worker-2", &super::world::token("worker-2"));
    let other = Agent::start(options, dir).await;
    assert_eq!(share("worker-2").await, PARTS / 4);
    assert_eq!(other.slices.held(), None);
}

/// A fleet of a world, with nothing to hold.
async fn fleet(world: &World) -> Handle {
    let given = Arc::new(watch::Sender::new(Given::default()));
    let term = Term { first_generation: 1000, doors: 0, given };
    let metrics = Metrics::new().unwrap();
    let (fleet, handle) = FleetLoop::new(term, world.registry.clone(), metrics.fleet);
    tokio::spawn(fleet.run());
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret] {
        handle.tell(Command::Synced(kind)).await;
    }
    handle.tell(Command::Labelled).await;
    handle
}

/// An agent that is a door, and answers for slices at once.
async fn door(world: &World, node: &str, used: Option<Use>) -> Agent {
    let agent = world.agent(node).await;
    let (mut held, spends) = (agent.slices.subscribe(), agent.spends.clone());
    tokio::spawn(async move {
        while held.changed().await.is_ok() {
            let epoch = held.borrow_and_update().as_ref().map_or(0, |held| held.epoch);
            let tenants = used.map(|used| (acme(), used)).into_iter().collect();
            spends.send_replace(Spends { epoch, tenants, ..Spends::default() });
        }
    });
    agent.supply.send_modify(|supply| supply.door = Some(([10, 0, 0, 1], 80).into()));
    agent
}

#[tokio::test]
async fn limits_follow_use_from_door_to_door() {
    let world = World::start().await;
    let _fleet = fleet(&world).await;
    let is_short = Each { requests: true, ..Each::all(false) };
    let used = Use { used: Each { requests: PARTS / 2, ..Each::all(0) }, is_short, calls_over: 0 };
    let busy = door(&world, "worker-1", Some(used)).await;
    until_leased(&busy, |held| held.share == PARTS).await;
    let idle = door(&world, "worker-2", None).await;
    until_leased(&idle, |held| held.share == PARTS / 2).await;
    let large = until_leased(&busy, |held| held.of(&acme()).requests > PARTS * 9 / 10).await;
    let small = idle.slices.held().unwrap();
    assert!(large.of(&acme()).requests + small.of(&acme()).requests <= PARTS);
    assert_eq!((large.share, small.share), (PARTS / 2, PARTS / 2), "others have an even part");
}
