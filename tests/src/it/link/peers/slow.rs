//! What becomes of a call at a peer whose door has given up waiting for it.

use std::{sync::Arc, time::Instant};

use realm_core::{
    auth::{self, Credential, Roster},
    call::{Call, CallId},
    desired::{DesiredTenant, HostedProgram, Limits, Peer, ProgramLimits, Sha256},
    engine::{Engine as _, EngineLoad},
    limit::{Admitted, Limiter},
    trace::{Scope, Tracer},
};
use realm_engine::{
    EngineHandle, MemoryBudget, OpenOptions, Secret,
    gguf::{Value, writer},
};
use realm_kernels::{backend::KvType, format::Format};
use realm_link::peer::{PeerDoor, PeerError, PeerPorts};
use realm_runtime::Runtime;
use realm_tests::tiny_gguf;
use serde_json::json;
use tokio::{net::TcpListener, sync::watch, task::yield_now};

use super::{
    super::world::{World, soon},
    line::Line,
    node::{Door, Host, identity, model, read, tenant},
};

#[tokio::test]
async fn a_peer_that_is_slow_to_answer_runs_a_call_no_longer_than_its_door_waits() {
    let world = World::start().await;
    let host = Host::start(&world, "n1").await;
    let line = Line::to(&host.peer).await;
    let door = Door::start(&world, &[&line.peer]).await;
    assert_eq!(read(door.call("say")).await.0, "abc");
    line.silent.send_replace(true);
    let admitted = door.admit_within("think", 500);
    let called = door.peers.call(&line.peer, &admitted, &model(), &Scope::OFF).await;
    assert!(matches!(called, Err(PeerError::Slow { .. })), "{called:?}");
    let mut cancelled = host.script.cancelled.subscribe();
    soon("the end of the call", cancelled.wait_for(|count| *count == 1)).await.unwrap();
    assert_eq!(*host.script.running.borrow(), 0);
    // It ended by itself, and not with the connection: the pings of one that is silent end it.
    line.silent.send_replace(false);
    assert_eq!(read(door.call("say")).await.0, "abc");
    assert_eq!(*line.connections.borrow(), 1);
}

/// Tokens of a prompt that takes many times longer than a door waits for a peer.
const PROMPT_TOKENS: usize = 96 << 10;
const CONTEXT: u32 = 128 << 10;

/// A model with room for such a prompt.
fn engine() -> EngineHandle {
    let mut metadata = tiny_gguf::metadata(Format::Q8_0);
    let mut context = metadata.iter_mut().filter(|(key, _)| key == "llama.context_length");
    context.next().unwrap().1 = Value::U32(CONTEXT);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &metadata, &tiny_gguf::tensors(Format::Q8_0)).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let options = OpenOptions {
        name: model(),
        sha256: Sha256([1; 32]),
        context: None,
        kv_blocks: Some(CONTEXT / 32),
        kv_type: KvType::F16,
        threads: Some(1),
        lock_weights: false,
        memory_bytes_max: None,
        budget: MemoryBudget::fixed(1 << 30),
        secret: Secret([7; 32]),
    };
    realm_engine::open(std::slice::from_ref(&path), options).unwrap().0
}

/// A tenant that may ask for that much.
fn thinker() -> DesiredTenant {
    let acme = tenant();
    let program =
        ProgramLimits { memory_bytes_max: 64 << 20, fuel_max: 1 << 40, ..acme.limits.program };
    let program = ProgramLimits { host_calls_max: 1 << 20, ..program };
    let (context_max, kv_blocks_max) = (CONTEXT, CONTEXT);
    let input_tokens_per_minute = CONTEXT;
    let limits =
        Limits { context_max, kv_blocks_max, program, input_tokens_per_minute, ..acme.limits };
    DesiredTenant { limits, program: Some(HostedProgram::built_in()), ..acme }
}

/// A call that thinks for long before it says anything.
fn admit(roster: &Roster) -> Admitted {
    let caller = auth::verify(roster, Credential::of("key"), 0).unwrap();
    let params = json!({ "prompt": "x".repeat(PROMPT_TOKENS), "max_tokens": 1 });
    let call = Call::new(CallId("1".into()), "generate", params);
    Limiter::default().admit(caller, call, Instant::now()).unwrap()
}

/// Returns when `is_so` is true of what the engine does.
async fn until(engine: &EngineHandle, what: &str, is_so: impl Fn(&EngineLoad) -> bool) {
    let seen = async {
        while !is_so(&engine.load()) {
            yield_now().await;
        }
    };
    soon(what, seen).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_its_door_has_given_up_ends_and_gives_its_blocks_back() {
    let world = World::start().await;
    let (tenant, engine) = (Arc::new(thinker()), Arc::new(engine()));
    let runtime = Arc::new(Runtime::new().unwrap());
    let built_in = runtime.prepare_built_in().await.unwrap();
    runtime.put_tenant(tenant.clone(), built_in);
    runtime.put_model(model(), engine.clone());
    let roster = Arc::new(Roster::new([tenant]));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (_draining, draining) = watch::channel(false);
    let ports = PeerPorts {
        tenants: runtime,
        roster: watch::channel(roster.clone()).1,
        tracer: Tracer::OFF,
    };
    let door = PeerDoor { listener, identity: identity(&world, "n1").await, ports };
    let serving = tokio::spawn(door.serve(draining));

    let line = Line::to(&Peer { node: "n1".to_owned(), address }).await;
    let door = Door::start(&world, &[&line.peer]).await;
    let caller = admit(&roster).caller().clone();
    soon("a description", door.peers.describe(&line.peer, &caller)).await.unwrap();
    line.silent.send_replace(true);
    let admitted = admit(&roster);
    let model = model();
    let call = door.peers.call(&line.peer, &admitted, &model, &Scope::OFF);
    let has_begun = until(&engine, "blocks in use", |load| load.kv_blocks_used > 0);
    let (called, ()) = tokio::join!(call, has_begun);
    assert!(matches!(called, Err(PeerError::Slow { .. })), "{called:?}");
    let is_free = |load: &EngineLoad| (load.sequences_running, load.kv_blocks_used) == (0, 0);
    until(&engine, "the end of the sequence", is_free).await;
    // It was not its end that ended it.
    assert_eq!(engine.load().generated_tokens_total, 0);
    line.silent.send_replace(false);
    soon("a description", door.peers.describe(&line.peer, &caller)).await.unwrap();
    assert_eq!(*line.connections.borrow(), 1, "nor was it the end of the connection");
    serving.abort();
}
