//! One runtime for all tests, since a component takes seconds to compile without optimisation;
//! each test brings tenants of its own.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use realm_core::{
    auth::{self, Caller, Credential, Roster},
    call::{Call, CallId},
    desired::{
        ApiKey, DesiredTenant, HostedProgram, Limits, LimitsMode, ModelGrant, Priority,
        ProgramLimits,
    },
    engine::{Engine, Logprobs},
    limit::{Admitted, Limiter, Quota},
    name::{ModelName, TenantName},
    refusal::Refusal,
    reply::{ChunkBody, Done, Progress, Reply, ReplyEvent},
    tenants::Tenants as _,
};
use realm_runtime::{Prepared, Runtime};
use serde_json::Value;
use tokio::{sync::OnceCell, time::timeout};

/// How long a test waits for what must happen: far longer than it takes, so that only what would
/// never happen fails.
const PATIENCE: Duration = Duration::from_mins(2);

pub(crate) struct Town {
    pub(crate) runtime: Runtime,
    pub(crate) built_in: Prepared,
    pub(crate) pirate: Prepared,
    pub(crate) hostile: Prepared,
    pub(crate) reader: Prepared,
    pub(crate) warden: Prepared,
    pub(crate) hostile_hooks: Prepared,
}

pub(crate) const PIRATE: &[u8] =
    include_bytes!("../../../../sdks/guest-rust/programs/pirate/pirate.wasm");
pub(crate) const HOSTILE: &[u8] = include_bytes!("../../../../tests/guests/hostile/hostile.wasm");

const READER: &[u8] = include_bytes!("../../../../sdks/guest-rust/programs/reader/reader.wasm");
const WARDEN: &[u8] = include_bytes!("../../../../sdks/guest-rust/programs/warden/warden.wasm");
const HOSTILE_HOOKS: &[u8] =
    include_bytes!("../../../../tests/guests/hostile-hooks/hostile_hooks.wasm");

pub(crate) async fn town() -> &'static Town {
    static TOWN: OnceCell<Town> = OnceCell::const_new();
    TOWN.get_or_init(|| async {
        let runtime = Runtime::new().unwrap();
        let built_in = runtime.prepare_built_in().await.unwrap();
        let pirate = runtime.prepare_program(PIRATE.to_vec(), &LIMITS.program).await.unwrap();
        let hostile = runtime.prepare_program(HOSTILE.to_vec(), &LIMITS.program).await.unwrap();
        let reader = runtime.prepare_program(READER.to_vec(), &LIMITS.program).await.unwrap();
        let warden = runtime.prepare_program(WARDEN.to_vec(), &LIMITS.program).await.unwrap();
        let hostile_hooks =
            runtime.prepare_program(HOSTILE_HOOKS.to_vec(), &LIMITS.program).await.unwrap();
        Town { runtime, built_in, pirate, hostile, reader, warden, hostile_hooks }
    })
    .await
}

/// Limits that nothing well-behaved meets.
pub(crate) const LIMITS: Limits = Limits {
    requests_per_minute: 1000,
    input_tokens_per_minute: 1_000_000,
    output_tokens_per_minute: 1_000_000,
    calls_max: 1000,
    context_max: 50_000,
    output_tokens_max: 50_000,
    kv_blocks_max: 1000,
    program: ProgramLimits {
        memory_bytes_max: 64 << 20,
        fuel_max: 1_000_000_000_000,
        host_calls_max: 1_000_000,
        output_bytes_max: 1 << 30,
        deadline_ms: 100_000,
        token_fuel_max: 100_000_000,
        token_deadline_ms: 1_000,
        instances_max: 512,
        memory64: false,
    },
};

/// A tenant with a key of its own, and the limiter at its door.
pub(crate) struct Citizen {
    pub(crate) tenant: DesiredTenant,
    pub(crate) limiter: Limiter,
}

impl Citizen {
    pub(crate) fn new(name: &str) -> Self {
        let key = ApiKey {
            name: "main".into(),
            sha256: Credential::of(name).digest(),
            expires_at: None,
            disabled: false,
        };
        let tenant = DesiredTenant {
            name: TenantName::new("tests", name).unwrap(),
            weight: 1,
            priority: Priority::Normal,
            suspended: false,
            limits_mode: LimitsMode::Enforce,
            share_group: None,
            limits: LIMITS,
            models: Vec::new(),
            pipelines: BTreeMap::new(),
            keys: vec![key],
            program: Some(HostedProgram::built_in()),
        };
        Self { tenant, limiter: Limiter::default() }
    }

    /// Grants an engine's model under its bare name, and loads it.
    pub(crate) fn with_model(mut self, runtime: &Runtime, engine: Arc<dyn Engine>) -> Self {
        let model = engine.info().model.clone();
        self.grant(&model);
        runtime.put_model(model, engine);
        self
    }

    pub(crate) fn grant(&mut self, model: &ModelName) {
        self.tenant.models.push(ModelGrant { alias: model.name().into(), model: model.clone() });
    }

    pub(crate) fn moves_into(self, runtime: &Runtime, program: &Prepared) -> Self {
        runtime.put_tenant(Arc::new(self.tenant.clone()), program.clone());
        self
    }

    pub(crate) fn caller(&self) -> Caller {
        let roster = Roster::new([Arc::new(self.tenant.clone())]);
        auth::verify(&roster, Credential::of(self.tenant.name.name()), 0).unwrap()
    }

    pub(crate) fn admit(&self, function: &str, params: &Value) -> Result<Admitted, Refusal> {
        self.admit_call(Call::new(CallId("1".into()), function, params.clone()))
    }

    pub(crate) fn admit_call(&self, call: Call) -> Result<Admitted, Refusal> {
        self.limiter.admit(self.caller(), call, Instant::now())
    }

    pub(crate) fn quota(&self) -> Quota {
        self.limiter.quota(&self.caller(), Instant::now())
    }

    pub(crate) fn call(&self, runtime: &Runtime, function: &str, params: &Value) -> Reply {
        runtime.start(self.admit(function, params).unwrap())
    }

    pub(crate) async fn done(&self, runtime: &Runtime, function: &str, params: &Value) -> Told {
        read(self.call(runtime, function, params)).await
    }

    pub(crate) async fn refused(
        &self,
        runtime: &Runtime,
        function: &str,
        params: &Value,
    ) -> Refusal {
        self.done(runtime, function, params).await.end.unwrap_err()
    }
}

/// Everything a client is told of a call.
#[derive(Debug)]
pub(crate) struct Told {
    /// Each chunk, with its step.
    pub(crate) chunks: Vec<(Option<String>, ChunkBody)>,
    /// What each chunk tells of its tokens.
    pub(crate) logprobs: Vec<Vec<Logprobs>>,
    /// What came with each chunk that came with something.
    pub(crate) progress: Vec<Progress>,
    pub(crate) end: Result<Done, Refusal>,
}

impl Told {
    pub(crate) fn text(&self) -> String {
        self.text_of(None)
    }

    pub(crate) fn text_of(&self, of: Option<&str>) -> String {
        let texts = self.chunks.iter().filter_map(|(step, body)| match body {
            ChunkBody::Text(text) if step.as_deref() == of => Some(text.as_str()),
            ChunkBody::Text(_) | ChunkBody::Json(_) => None,
        });
        texts.collect()
    }
}

/// The next event of a reply.
pub(crate) async fn next(reply: &mut Reply) -> ReplyEvent {
    timeout(PATIENCE, reply.recv()).await.expect("it hangs").expect("a reply has an end")
}

/// Waits until a condition that something else brings about holds.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, wait).await.expect("it hangs");
}

/// Reads a reply to its end.
pub(crate) async fn read(mut reply: Reply) -> Told {
    let (mut chunks, mut logprobs, mut progress) = (Vec::new(), Vec::new(), Vec::new());
    loop {
        let end = match next(&mut reply).await {
            ReplyEvent::Chunk(chunk) => {
                progress.extend(chunk.progress);
                chunks.push((chunk.step.map(|step| step.to_string()), chunk.body));
                logprobs.push(chunk.logprobs);
                continue;
            }
            ReplyEvent::Done(done) => Ok(done),
            ReplyEvent::Failed(refusal) => Err(refusal),
        };
        assert!(reply.recv().await.is_none(), "an end is last");
        return Told { chunks, logprobs, progress, end };
    }
}
