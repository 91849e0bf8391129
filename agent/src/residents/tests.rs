//! A model whose engine fails, which no file can make a good one do, and tenants in the moment
//! before their program is there.

use std::{
    collections::BTreeMap,
    pin::pin,
    task::{Context, Waker},
};

use realm_core::{
    auth::{self, Caller, Credential},
    credentials::Credentials,
    desired::{Accelerator, ApiKey, Desired, KvCache, Limits, LimitsMode, Priority, ProgramLimits},
    engine::{ChatMessage, Engine, EngineInfo, EngineLoad, Generation, TextError, TokenStream},
    refusal::Refusal,
    report::{ModelReport, Report},
};
use realm_kernels::format::Format;
use realm_link::converge;
use realm_store::{Site, StoreOptions};
use tokio::sync::watch;

use super::*;
use crate::{AgentOptions, DeviceOptions};

#[expect(unreachable_pub, reason = "other crates use it where it is a part of a library")]
#[path = "../../../tests/src/tiny_gguf.rs"]
mod tiny_gguf;

/// Long enough for the slowest machine; nothing waits for it unless something is broken.
const PATIENCE: Duration = Duration::from_mins(1);

/// An engine that has given up.
struct GivenUp(EngineInfo);

impl Engine for GivenUp {
    fn info(&self) -> &EngineInfo {
        &self.0
    }

    fn tokenize(&self, _: &str, _: bool) -> Result<Vec<u32>, TextError> {
        Err(TextError::NoChatTemplate)
    }

    fn detokenize(&self, _: &[u32]) -> Result<Vec<u8>, TextError> {
        Err(TextError::NoChatTemplate)
    }

    fn tokenize_chat(&self, _: &[ChatMessage]) -> Result<Vec<u32>, TextError> {
        Err(TextError::NoChatTemplate)
    }

    fn generate(&self, _: &Caller, _: Generation) -> Result<TokenStream, Refusal> {
        Err(Refusal::Internal)
    }

    fn draw_seed(&self) -> u64 {
        0
    }

    fn load(&self) -> EngineLoad {
        EngineLoad { failed: true, ..EngineLoad::default() }
    }
}

/// The one model of a report, once `is_so` is true of it.
async fn until(
    report: &mut watch::Receiver<Report>,
    is_so: impl Fn(&ModelReport) -> bool,
) -> ModelReport {
    let is_so = |report: &Report| report.models.first().is_some_and(&is_so);
    let seen = timeout(PATIENCE, report.wait_for(is_so)).await.expect("it never comes").unwrap();
    seen.models[0].clone()
}

/// An agent that computes nothing, and keeps what it has in `dir`.
fn agent(dir: &Path) -> Arc<Agent> {
    let options = AgentOptions {
        store_dir: dir.join("store"),
        compiled_dir: dir.join("compiled"),
        compiled_key: dir.join("compiled.key"),
        proven_dir: dir.join("programs"),
        store: StoreOptions::new(Site::OneMachine),
        credentials: Credentials::default(),
        device: DeviceOptions { threads: Some(1), ..DeviceOptions::default() },
    };
    Arc::new(Agent::new(options).unwrap())
}

/// A tenant with the built-in program whose key is `key`.
pub(crate) fn tenant(name: &str) -> Arc<DesiredTenant> {
    let sha256 = Credential::of("key").digest();
    Arc::new(DesiredTenant {
        name: TenantName::new("default", name).unwrap(),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: 1,
            input_tokens_per_minute: 1,
            output_tokens_per_minute: 1,
            calls_max: 1,
            context_max: 1,
            output_tokens_max: 1,
            kv_blocks_max: 1,
            program: ProgramLimits {
                memory_bytes_max: 1 << 24,
                fuel_max: 1,
                host_calls_max: 1,
                output_bytes_max: 1,
                deadline_ms: 1,
                token_fuel_max: 1_000_000,
                token_deadline_ms: 1_000,
                instances_max: 64,
                memory64: false,
            },
        },
        models: Vec::new(),
        pipelines: BTreeMap::new(),
        keys: vec![ApiKey { name: "laptop".into(), sha256, expires_at: None, disabled: false }],
        program: Some(HostedProgram::built_in()),
    })
}

#[tokio::test]
async fn the_key_of_a_tenant_of_the_start_waits_for_the_built_in_program_and_that_of_a_new_one_does_not()
 {
    let dir = tempfile::tempdir().unwrap();
    let (agent, tenant) = (agent(dir.path()), tenant("acme"));
    let is_known = || auth::verify(&agent.roster().borrow(), Credential::of("key"), 0).is_ok();
    let is_known_at_first = || {
        let mut put = pin!(agent.put_tenant(&tenant));
        let begun = put.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(begun.is_pending(), "a program takes its time to be compiled");
        is_known()
    };
    assert!(!is_known_at_first());
    agent.tenants.are_all();
    assert!(is_known_at_first());
    agent.put_tenant(&tenant).await.unwrap();
    assert!(is_known());
}

#[tokio::test]
async fn a_model_whose_engine_gives_up_is_reported_and_loaded_anew() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tiny.gguf");
    std::fs::write(&path, tiny_gguf::tiny_llama(Format::Q8_0)).unwrap();
    let agent = agent(dir.path());
    let name = ModelName::parse("tests/tiny").unwrap();
    let model = DesiredModel {
        name: name.clone(),
        artifact: Artifact {
            sources: vec![format!("file://{}", path.display())],
            sha256: None,
            parts: Vec::new(),
        },
        secret: None,
        base: None,
        context: None,
        kv_blocks: Some(16),
        kv_cache: KvCache::F16,
        accelerator: Accelerator::Any,
        stage: Stage::Load,
    };
    let desired = Desired { generation: 1, models: vec![model], ..Desired::default() };
    let (_goal, wanted) = watch::channel(Arc::new(desired));
    let (reports, mut report) = watch::channel(Report::default());
    let converging = tokio::spawn(converge::run(agent.clone(), wanted, reports));
    until(&mut report, |model| model.phase == ModelPhase::Ready).await;

    let info = EngineInfo {
        model: name.clone(),
        architecture: "llama".to_owned(),
        context: 1,
        vocabulary: 1,
        block_tokens: 1,
        has_chat_template: false,
    };
    let broken = Arc::new(GivenUp(info));
    let (failed, told) = watch::channel(false);
    agent.engines.put(name.clone(), broken.clone());
    agent.runtime.put_model(name.clone(), broken);
    agent.losses.watch(name, told);
    failed.send_replace(true);

    let lost = until(&mut report, |model| matches!(model.phase, ModelPhase::Failed(_))).await;
    let ModelPhase::Failed(failure) = lost.phase else { panic!() };
    assert_eq!((failure.reason, lost.stage), ("EngineFailed", None), "nobody is sent here");
    assert!(agent.engines.loads().is_empty(), "its memory is free for the next one");
    until(&mut report, |model| model.phase == ModelPhase::Ready).await;
    let loads = agent.engines.loads();
    assert!(loads.len() == 1 && !loads[0].1.failed);
    converging.abort();
}
