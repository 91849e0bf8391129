//! The fleet's loop, and an agent at the other end of its link.

use std::sync::Arc;

use realm_core::{
    report::Report,
    supply::{Device, DeviceKind, Supply},
};
use realm_operator::{
    fleet::{
        FleetLoop,
        handle::{Command, Content, Handle, Look},
    },
    lease::{Given, Term},
    metrics::Metrics,
};
use realm_plan::{
    Demand, Kind,
    validate::{self, Site},
};
use serde_json::json;
use tokio::sync::{Semaphore, watch};

use super::world::{Agent, World, name, soon};

fn start(world: &World) -> Handle {
    let given = Arc::new(watch::Sender::new(Given::default()));
    let term = Term { first_generation: 1, doors: 0, given };
    let metrics = Metrics::new().unwrap();
    let (fleet, handle) = FleetLoop::new(term, world.registry.clone(), metrics.fleet);
    tokio::spawn(fleet.run());
    handle
}

fn model() -> Command {
    let model = serde_json::from_value(json!({
        "apiVersion": "realm.dev/v1alpha1",
        "kind": "Model",
        "metadata": { "name": "tiny", "namespace": "lab" },
        "spec": {
            "sources": ["hf://org/repo@0123456789abcdef0123456789abcdef01234567/tiny.gguf"],
            "sha256": "a".repeat(64),
            "sourceSecret": { "name": "hub" },
        },
    }));
    let model = validate::model(&model.unwrap(), Site::Cluster).unwrap();
    Command::Apply { demand: Box::new(Demand::Model(model)), generation: 1 }
}

/// A Secret that opens sources with `opening`.
fn secret(opening: &[u8]) -> Command {
    let secret = serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": { "name": "hub", "namespace": "lab" },
    }));
    let content = Content {
        secret: validate::secret(&secret.unwrap()).unwrap(),
        opening: Some(opening.to_vec()),
        place: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
    };
    Command::Look { name: name("lab/hub"), look: Look::Found(content) }
}

async fn until_opened_with(agent: &Agent, opening: &[u8]) {
    let mut credentials = agent.credentials.clone();
    let holds = credentials.wait_for(|all| all.0.values().any(|held| held == opening));
    soon("credentials", holds).await.unwrap();
}

#[tokio::test]
async fn what_a_secret_opens_sources_with_is_told_anew_when_nothing_else_changes() {
    let world = World::start().await;
    let agent = world.agent("worker-1").await;
    let cpu = Device {
        name: "cpu".to_owned(),
        kind: DeviceKind::Cpu,
        product: "any".to_owned(),
        memory_bytes_total: 0,
        memory_bytes_free: 0,
    };
    let supply =
        Supply { memory_bytes_total: 1 << 40, memory_bytes_free: 1 << 40, ..Supply::default() };
    agent.supply.send_replace(Supply { devices: vec![cpu], ..supply });
    agent.report.send_replace(Report::default());
    let handle = start(&world);
    handle.tell(model()).await;
    handle.tell(secret(b"first")).await;
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline] {
        handle.tell(Command::Synced(kind)).await;
    }
    handle.tell(Command::Labelled).await;
    until_opened_with(&agent, b"first").await;
    let mut ledger = agent.ledger.subscribe();
    let told = soon("a state", ledger.wait_for(|desired| desired.generation > 0)).await;
    let generation = told.unwrap().generation;
    handle.tell(secret(b"second")).await;
    until_opened_with(&agent, b"second").await;
    assert_eq!(agent.ledger.newest().generation, generation, "the state is the same");
}
