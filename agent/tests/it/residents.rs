//! What becomes of a tenant or a model whose file cannot be had.

use std::{
    fs, future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use realm_core::{
    desired::{Accelerator, Artifact, DesiredModel, KvCache, ModelGrant, Program, Stage},
    name::ModelName,
    refusal::Refusal,
    report::{Phase, Report, TenantReport},
    residents::Residents as _,
    tenants::Tenants as _,
};
use realm_kernels::format::Format;
use realm_runtime::PROGRAM_BYTES_MAX;
use serde_json::json;
use tokio::sync::watch;

use crate::{
    house::{House, PIRATE, WRONG, key, tenant},
    tiny_gguf,
};

pub(crate) fn model(name: ModelName, artifact: Artifact, stage: Stage) -> DesiredModel {
    DesiredModel {
        name,
        artifact,
        secret: None,
        base: None,
        context: None,
        kv_blocks: None,
        kv_cache: KvCache::F16,
        accelerator: Accelerator::Any,
        stage,
    }
}

#[tokio::test]
async fn a_tenants_rights_change_though_its_program_is_gone() {
    let house = House::new();
    let (path, artifact) = house.file("pirate.wasm", PIRATE);
    let mut acme = tenant("acme", Program::Component(artifact));
    let digest = house.agent.put_tenant(&acme).await.unwrap();
    house.caller("acme").unwrap();
    fs::remove_file(&path).unwrap();

    acme.keys = vec![key("second")];
    acme.limits.calls_max = 1;
    let failure = house.agent.put_tenant(&acme).await.unwrap_err();
    assert_eq!(failure.reason, "SourceNotFound");
    assert_eq!(house.caller("acme").unwrap_err(), Refusal::Unauthenticated, "it is revoked");
    let caller = house.caller("second").unwrap();
    assert_eq!(caller.rights().limits.calls_max, 1);
    let functions = house.agent.runtime().functions(&caller).await;
    assert!(!functions.is_empty(), "the program it had goes on serving");

    acme.suspended = true;
    house.agent.put_tenant(&acme).await.unwrap_err();
    assert_eq!(house.caller("second").unwrap_err(), Refusal::Suspended);

    acme.suspended = false;
    if let Program::Component(artifact) = &mut acme.program.as_mut().unwrap().code {
        artifact.sha256 = digest;
    }
    assert_eq!(house.agent.put_tenant(&acme).await.unwrap(), digest, "it has that one already");
    house.caller("second").unwrap();
}

#[tokio::test]
async fn a_tenants_rights_change_while_the_program_that_was_elsewhere_does_not_come() {
    let house = House::new();
    let mut acme = tenant("acme", Program::BuiltIn);
    acme.program = None;
    assert_eq!(house.agent.put_tenant(&acme).await.unwrap(), None);
    house.caller("acme").unwrap();

    let (_, artifact) = house.file("program.wasm", b"not a program");
    acme.program = tenant("acme", Program::Component(artifact)).program;
    acme.keys = vec![key("second")];
    let failure = house.agent.put_tenant(&acme).await.unwrap_err();
    assert_eq!(failure.reason, "ProgramInvalid");
    assert_eq!(house.caller("acme").unwrap_err(), Refusal::Unauthenticated, "it is revoked");
    house.caller("second").unwrap();
}

#[tokio::test]
async fn a_good_key_of_a_tenant_whose_first_program_does_not_come_is_told_so_and_a_wrong_one_is_not()
 {
    let house = House::new();
    let (path, artifact) = house.file("program.wasm", b"not a program");
    let acme = tenant("acme", Program::Component(artifact));
    let failure = house.agent.put_tenant(&acme).await.unwrap_err();
    assert_eq!(failure.reason, "ProgramInvalid");
    let refusal = house.refused("acme", "shout", json!({ "text": "a" })).await;
    let reason = "failed: ProgramInvalid".to_owned();
    assert_eq!(refusal, Refusal::ProgramNotReady { reason });
    for wrong in ["other", "acm", ""] {
        assert_eq!(house.caller(wrong).unwrap_err(), Refusal::Unauthenticated);
    }
    let mut revoked = acme.clone();
    revoked.keys = vec![key("second")];
    house.agent.put_tenant(&revoked).await.unwrap_err();
    assert_eq!(house.caller("acme").unwrap_err(), Refusal::Unauthenticated, "it is revoked");
    house.caller("second").unwrap();
    fs::write(path, PIRATE).unwrap();
    house.agent.put_tenant(&acme).await.unwrap();
    let caller = house.caller("acme").unwrap();
    assert!(!house.agent.runtime().functions(&caller).await.is_empty());
    house.agent.remove_tenant(&acme.name).await;
    assert_eq!(house.caller("acme").unwrap_err(), Refusal::Unauthenticated);
}

/// A program whose parts hand each other values through a 64-bit memory.
const WIDE: &str = include_str!("../../../tests/fuzz/examples/components/wide.wat");

#[tokio::test]
async fn a_program_takes_calls_for_as_long_as_its_tenant_may_have_it() {
    let house = House::new();
    let (_, artifact) = house.file("wide.wasm", &wat::parse_str(WIDE).unwrap());
    let mut acme = tenant("acme", Program::Component(artifact));
    let reason = "failed: ProgramMemory64".to_owned();
    let not_ready = Refusal::ProgramNotReady { reason };
    let failure = house.agent.put_tenant(&acme).await.unwrap_err();
    assert_eq!(failure.reason, "ProgramMemory64");
    assert_eq!(house.refused("acme", "echo", json!({})).await, not_ready);

    acme.limits.program.memory64 = true;
    let digest = house.agent.put_tenant(&acme).await.unwrap();
    let caller = house.caller("acme").unwrap();
    assert!(!house.agent.runtime().functions(&caller).await.is_empty());

    // Now that it is here it need not be fetched, and is not taken for that.
    if let Program::Component(artifact) = &mut acme.program.as_mut().unwrap().code {
        artifact.sha256 = digest;
    }
    acme.limits.program.memory64 = false;
    let failure = house.agent.put_tenant(&acme).await.unwrap_err();
    assert_eq!(failure.reason, "ProgramMemory64");
    assert_eq!(house.refused("acme", "echo", json!({})).await, not_ready);
    assert!(house.agent.runtime().functions(&caller).await.is_empty());

    acme.limits.program.memory64 = true;
    assert_eq!(house.agent.put_tenant(&acme).await.unwrap(), digest);
    assert!(!house.agent.runtime().functions(&caller).await.is_empty());
}

#[tokio::test]
async fn a_key_that_is_not_there_yet_is_refused_for_good_once_everybody_has_been_tried() {
    let house = House::starting();
    let acme = tenant("acme", Program::BuiltIn);
    let (reports, report) = watch::channel(Report::default());
    let mut known = pin!(house.agent.know_all_keys(1, report));
    assert_eq!(house.caller("acme").unwrap_err(), Refusal::Starting);
    assert!(known.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    house.agent.put_tenant(&acme).await.unwrap();
    house.caller("acme").unwrap();
    assert_eq!(house.caller("other").unwrap_err(), Refusal::Starting);
    let tried = TenantReport { name: acme.name, phase: Phase::Ready, program: None };
    let report = Report { generation: 1, tenants: vec![tried], ..Report::default() };
    reports.send_replace(report);
    known.await;
    house.caller("acme").unwrap();
    assert_eq!(house.caller("other").unwrap_err(), Refusal::Unauthenticated);
}

#[tokio::test]
async fn a_client_is_told_that_a_model_failed_and_nothing_of_where_it_was_looked_for() {
    let house = House::new();
    let (_, artifact) = house.file("model.gguf", b"not a model");
    let name = ModelName::parse("tests/model").unwrap();
    let mut acme = tenant("acme", Program::BuiltIn);
    acme.models.push(ModelGrant { alias: "mine".into(), model: name.clone() });
    house.agent.put_tenant(&acme).await.unwrap();

    let artifact = Artifact { sha256: Some(WRONG), ..artifact };
    let model = model(name, artifact, Stage::Load);
    let failure = house.agent.put_model(&model, &|_| ()).await.unwrap_err();
    assert!(failure.message.contains("model.gguf"), "{}", failure.message);
    let refusal = house.refused("acme", "generate", json!({ "prompt": "a" })).await;
    let reason = "failed: DigestMismatch".to_owned();
    assert_eq!(refusal, Refusal::ModelNotReady { model: "mine".into(), reason });
}

#[tokio::test]
async fn a_model_that_is_only_to_be_looked_at_is_read_and_awaited_by_nobody() {
    let house = House::new();
    let (_, artifact) = house.file("model.gguf", b"not a model");
    let name = ModelName::parse("tests/model").unwrap();
    for stage in [Stage::Inspect, Stage::Prefetch] {
        let model = model(name.clone(), artifact.clone(), stage);
        let failure = house.agent.put_model(&model, &|_| ()).await.unwrap_err();
        assert_eq!(failure.reason, "ModelFileInvalid", "{}", failure.message);
    }
}

#[tokio::test]
async fn a_tenant_whose_program_is_elsewhere_is_let_in_and_has_none_here() {
    let house = House::new();
    let mut acme = tenant("acme", Program::BuiltIn);
    assert!(house.agent.put_tenant(&acme).await.unwrap().is_some());
    acme.program = None;
    assert_eq!(house.agent.put_tenant(&acme).await.unwrap(), None);
    let caller = house.caller("acme").unwrap();
    assert!(house.agent.runtime().functions(&caller).await.is_empty());
    let refusal = house.refused("acme", "generate", json!({ "prompt": "a" })).await;
    assert_eq!(refusal.code(), "model_not_ready");
}

#[tokio::test]
async fn a_program_beyond_the_most_bytes_is_not_even_read() {
    let house = House::new();
    let (path, artifact) = house.file("large.wasm", b"");
    // A file with a hole, which takes no room on the disk.
    let file = fs::OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(PROGRAM_BYTES_MAX + 1).unwrap();
    let acme = tenant("acme", Program::Component(artifact));
    let failure = house.agent.put_tenant(&acme).await.unwrap_err();
    assert_eq!(failure.reason, "SourceTooLarge", "{}", failure.message);
}

#[tokio::test]
async fn keys_change_and_built_in_programs_come_while_other_tenants_programs_are_slow() {
    let house = House::new();
    let (path, artifact) = house.file("pirate.wasm", PIRATE);
    let mut acme = tenant("acme", Program::Component(artifact));
    house.agent.put_tenant(&acme).await.unwrap();
    fs::remove_file(path).unwrap();

    // A server that takes connections and never says a word, for more tenants than have a place.
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = server.local_addr().unwrap();
    let sources = vec![format!("https://{address}/a")];
    let artifact = Artifact { sources, sha256: Some(WRONG), parts: Vec::new() };
    let slow: Vec<_> = (0..20)
        .map(|n| tenant(&format!("slow-{n}"), Program::Component(artifact.clone())))
        .collect();
    let mut puts: Vec<_> =
        slow.iter().map(|tenant| Box::pin(house.agent.put_tenant(tenant))).collect();
    future::poll_fn(|context| {
        assert!(puts.iter_mut().all(|put| put.as_mut().poll(context).is_pending()));
        Poll::Ready(())
    })
    .await;

    acme.keys = vec![key("second")];
    let mut change = pin!(house.agent.put_tenant(&acme));
    future::poll_fn(|context| {
        assert!(change.as_mut().poll(context).is_pending(), "the program waits its turn");
        Poll::Ready(())
    })
    .await;
    assert_eq!(house.caller("acme").unwrap_err(), Refusal::Unauthenticated);
    house.caller("second").unwrap();
    house.agent.put_tenant(&tenant("plain", Program::BuiltIn)).await.unwrap();
    house.caller("plain").unwrap();
}

#[tokio::test]
async fn a_model_that_asks_for_a_device_that_is_not_here_is_refused_and_computed_by_no_other() {
    let house = House::new();
    let (_, artifact) = house.file("tiny.gguf", &tiny_gguf::tiny_llama(Format::Q8_0));
    let name = ModelName::parse("tests/tiny").unwrap();
    let wanted = |accelerator, stage| DesiredModel {
        accelerator,
        kv_blocks: Some(16),
        ..model(name.clone(), artifact.clone(), stage)
    };
    for (accelerator, word) in [(Accelerator::Cuda, "`cuda`"), (Accelerator::WebGpu, "`webgpu`")] {
        let load = wanted(accelerator, Stage::Load);
        let failure = house.agent.put_model(&load, &|_| ()).await.unwrap_err();
        assert_eq!(failure.reason, "AcceleratorMissing");
        assert!(failure.message.contains(word), "{}", failure.message);
        // What is only to be looked at is computed by nothing.
        house.agent.put_model(&wanted(accelerator, Stage::Inspect), &|_| ()).await.unwrap();
    }
    for accelerator in [Accelerator::Any, Accelerator::Cpu] {
        house.agent.put_model(&wanted(accelerator, Stage::Load), &|_| ()).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_changed_where_it_lies_is_another_model_or_none() {
    let house = House::new();
    let (path, artifact) = house.file("tiny.gguf", &tiny_gguf::tiny_llama(Format::Q8_0));
    let name = ModelName::parse("tests/tiny").unwrap();
    let wanted = |artifact: &Artifact| DesiredModel {
        kv_blocks: Some(16),
        ..model(name.clone(), artifact.clone(), Stage::Load)
    };
    let before = house.agent.put_model(&wanted(&artifact), &|_| ()).await.unwrap();
    let pinned = Artifact { sha256: before.sha256, ..artifact.clone() };
    fs::write(path, tiny_gguf::tiny_llama(Format::F32)).unwrap();

    let failure = house.agent.put_model(&wanted(&pinned), &|_| ()).await.unwrap_err();
    assert_eq!(failure.reason, "DigestMismatch", "{}", failure.message);
    let after = house.agent.put_model(&wanted(&artifact), &|_| ()).await.unwrap();
    assert_eq!((&*before.format, &*after.format), ("Q8_0", "F32"));
    assert_ne!(before.sha256, after.sha256, "cached prefixes of the one are none of the other");
}
