//! An agent in a folder of its own, and tenants for it.

use std::{
    collections::BTreeMap,
    fs,
    path::PathBuf,
    task::{Context, Waker},
    time::Instant,
};

use realm_agent::{Agent, AgentOptions, DeviceOptions};
use realm_core::{
    auth::{self, Caller, Credential},
    call::{Call, CallId},
    credentials::Credentials,
    desired::{
        ApiKey, Artifact, DesiredTenant, HostedProgram, Limits, LimitsMode, Priority, Program,
        ProgramLimits, Sha256,
    },
    name::TenantName,
    refusal::Refusal,
    reply::ReplyEvent,
    report::Report,
    tenants::Tenants as _,
};
use realm_store::{Site, StoreOptions};
use tempfile::TempDir;
use tokio::sync::watch;

pub(crate) const PIRATE: &[u8] =
    include_bytes!("../../../sdks/guest-rust/programs/pirate/pirate.wasm");

pub(crate) struct House {
    pub(crate) dir: TempDir,
    pub(crate) agent: Agent,
}

impl House {
    /// An agent that has started and holds nothing.
    pub(crate) fn new() -> Self {
        let house = Self::starting();
        let nothing = watch::channel(Report::default()).1;
        let known = Box::pin(house.agent.know_all_keys(0, nothing))
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()));
        assert!(known.is_ready());
        house
    }

    /// An agent that may come to more keys than it has.
    pub(crate) fn starting() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let agent = Agent::new(AgentOptions {
            store_dir: dir.path().join("store"),
            compiled_dir: dir.path().join("compiled"),
            compiled_key: dir.path().join("compiled.key"),
            proven_dir: dir.path().join("programs"),
            store: StoreOptions::new(Site::OneMachine),
            credentials: Credentials::default(),
            device: DeviceOptions { threads: Some(1), ..DeviceOptions::default() },
        });
        Self { dir, agent: agent.unwrap() }
    }

    /// Writes a file and says where it is, and as what it is fetched.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> (PathBuf, Artifact) {
        let path = self.dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        let sources = vec![format!("file://{}", path.display())];
        (path, Artifact { sources, sha256: None, parts: Vec::new() })
    }

    /// Who a key belongs to now, as a door finds out.
    pub(crate) fn caller(&self, key: &str) -> Result<Caller, Refusal> {
        auth::verify(&self.agent.roster().borrow(), Credential::of(key), 0)
    }

    /// How a call with this key ends.
    pub(crate) async fn refused(
        &self,
        key: &str,
        function: &str,
        params: serde_json::Value,
    ) -> Refusal {
        let call = Call::new(CallId("1".into()), function, params);
        let caller = self.caller(key).unwrap();
        let admitted = self.agent.limiter().admit(caller, call, Instant::now()).unwrap();
        let mut reply = self.agent.runtime().start(admitted);
        loop {
            match reply.recv().await.unwrap() {
                ReplyEvent::Chunk(_) => {}
                ReplyEvent::Failed(refusal) => return refusal,
                ReplyEvent::Done(done) => panic!("served: {done:?}"),
            }
        }
    }
}

pub(crate) fn key(key: &str) -> ApiKey {
    let sha256 = Credential::of(key).digest();
    ApiKey { name: key.into(), sha256, expires_at: None, disabled: false }
}

/// A tenant whose one key is its name.
pub(crate) fn tenant(name: &str, code: Program) -> DesiredTenant {
    DesiredTenant {
        name: TenantName::new("tests", name).unwrap(),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: 1000,
            input_tokens_per_minute: 1000,
            output_tokens_per_minute: 1000,
            calls_max: 10,
            context_max: 1000,
            output_tokens_max: 1000,
            kv_blocks_max: 100,
            program: ProgramLimits {
                memory_bytes_max: 64 << 20,
                fuel_max: 1_000_000_000,
                host_calls_max: 1000,
                output_bytes_max: 1 << 20,
                deadline_ms: 60_000,
                token_fuel_max: 1_000_000,
                token_deadline_ms: 1_000,
                instances_max: 64,
                memory64: false,
            },
        },
        models: Vec::new(),
        pipelines: BTreeMap::new(),
        keys: vec![key(name)],
        program: Some(HostedProgram { code, config: BTreeMap::new() }),
    }
}

/// The digest of nothing that any test writes.
pub(crate) const WRONG: Sha256 = Sha256([9; 32]);
