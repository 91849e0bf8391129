//! What the tests share: callers, engines, the real model, the reference vectors.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    sync::Arc,
};

use realm_core::{
    auth::{Caller, Credential, Roster, verify},
    books::Way,
    desired::{
        ApiKey, DesiredTenant, HostedProgram, Limits, LimitsMode, Priority, ProgramLimits, Sha256,
    },
    engine::{Finish, Generation, Sampling, TokenEvent, TokenStream, Usage},
    name::{ModelName, TenantName},
    refusal::Refusal,
};
use realm_engine::{EngineHandle, MemoryBudget, OpenOptions, Secret};
use realm_kernels::{backend::KvType, format::Format};
use tempfile::TempDir;

use crate::tiny_gguf;

/// The file of the default model, where the set-up of the tests puts it.
pub(crate) fn smollm2() -> PathBuf {
    let file = "SmolLM2-135M-Instruct.Q4_1.gguf";
    let path = env::var_os("REALM_TEST_MODEL").map_or_else(
        || {
            let home = PathBuf::from(env::var_os("HOME").expect("HOME is set"));
            let cache =
                env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from);
            cache.join("realm/tests").join(file)
        },
        PathBuf::from,
    );
    assert!(
        path.is_file(),
        "{} is not there: run tests/run, whose set-up fetches it, or name it in REALM_TEST_MODEL",
        path.display()
    );
    path
}

/// A file of the reference vectors.
pub(crate) fn vector(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

pub(crate) fn vector_json(name: &str) -> serde_json::Value {
    serde_json::from_str(&vector(name)).unwrap()
}

/// A tenant's rights, roomy unless a test says otherwise.
pub(crate) fn tenant(name: &str) -> DesiredTenant {
    DesiredTenant {
        name: TenantName::new("default", name).unwrap(),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: 1000,
            input_tokens_per_minute: 1_000_000,
            output_tokens_per_minute: 1_000_000,
            calls_max: 100,
            context_max: 8192,
            output_tokens_max: 8192,
            kv_blocks_max: 1000,
            program: ProgramLimits {
                memory_bytes_max: 0,
                fuel_max: 0,
                host_calls_max: 0,
                output_bytes_max: 0,
                deadline_ms: 0,
                token_fuel_max: 1_000_000,
                token_deadline_ms: 1_000,
                instances_max: 64,
                memory64: false,
            },
        },
        models: Vec::new(),
        pipelines: BTreeMap::new(),
        keys: vec![ApiKey {
            name: "key".to_owned(),
            sha256: Credential::of(name).digest(),
            expires_at: None,
            disabled: false,
        }],
        program: Some(HostedProgram::built_in()),
    }
}

/// A tenant's caller, proven as the doors prove it.
pub(crate) fn caller_of(tenant: DesiredTenant) -> Caller {
    let credential = Credential::of(tenant.name.name());
    verify(&Roster::new([Arc::new(tenant)]), credential, 0).unwrap()
}

pub(crate) fn caller(name: &str) -> Caller {
    caller_of(tenant(name))
}

pub(crate) fn options(kv_blocks: u32) -> OpenOptions {
    OpenOptions {
        name: ModelName::new("default", "tiny").unwrap(),
        sha256: Sha256([3; 32]),
        context: None,
        kv_blocks: Some(kv_blocks),
        kv_type: KvType::F16,
        threads: Some(2),
        lock_weights: false,
        memory_bytes_max: None,
        budget: MemoryBudget::fixed(u64::MAX),
        secret: Secret([9; 32]),
    }
}

/// The tiny model in a file, and its engine.
pub(crate) fn tiny_engine(kv_blocks: u32) -> (EngineHandle, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, tiny_gguf::tiny_llama(Format::F32)).unwrap();
    let (engine, _) = realm_engine::open(std::slice::from_ref(&path), options(kv_blocks)).unwrap();
    (engine, folder)
}

/// A generation of up to `tokens_max` tokens that never ends by itself: the tiny model has no
/// reason to.
pub(crate) fn generation(prompt: Vec<u32>, tokens_max: u32) -> Generation {
    Generation {
        prompt,
        shared_tokens: 0,
        sampling: Sampling::default(),
        bias: Vec::new(),
        tokens_max: Some(tokens_max),
        stop: Vec::new(),
        constraint: None,
        deadline: None,
        resume: None,
        way: Way::Direct,
        milestones: None,
    }
}

/// A stream read to its end.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) ids: Vec<u32>,
    pub(crate) text: String,
    /// What was said to be cached, before anything was made.
    pub(crate) cached: u32,
    pub(crate) end: Result<(Finish, Usage), Refusal>,
}

pub(crate) fn read(mut stream: TokenStream) -> Answer {
    let (mut ids, mut text, mut cached) = (Vec::new(), String::new(), 0);
    loop {
        match stream.blocking_recv().expect("a stream says how it ends") {
            TokenEvent::Cached(count) => {
                assert!(ids.is_empty() && cached == 0 && count > 0, "it comes once and first");
                cached = count;
            }
            TokenEvent::Rest(rest) => {
                assert!(ids.is_empty() && text.is_empty() && !rest.is_empty(), "it comes first");
                text = rest;
            }
            TokenEvent::Token(token) => {
                ids.push(token.id);
                text.push_str(&token.text);
            }
            TokenEvent::Finished { finish, usage } => {
                assert_eq!(stream.blocking_recv(), None, "the end is last");
                assert_eq!(usage.cached_tokens, cached, "it was said before");
                return Answer { ids, text, cached, end: Ok((finish, usage)) };
            }
            TokenEvent::Failed(refusal) => return Answer { ids, text, cached, end: Err(refusal) },
            TokenEvent::Unsaid(count) => panic!("{count} tokens behind a hook, and there is none"),
        }
    }
}
