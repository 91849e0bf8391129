//! The tenants' programs of one node: the port [`Tenants`], and how its wiring changes them.

mod apart;

use std::{
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Instant,
};

use realm_core::{
    auth::Caller,
    books::{ByWay, Way},
    desired::{DesiredPipeline, DesiredTenant, ProgramLimits, Sha256},
    engine::Engine,
    limit::Admitted,
    name::{ModelName, PipelineName, TenantName},
    refusal::Refusal,
    reply::{self, Done, Reply, ReplySender},
    tenants::{Functions, ModelInfo, Tenants},
};
use tokio::{
    sync::{OnceCell, OwnedSemaphorePermit, Semaphore, watch},
    task::spawn_blocking,
};

use crate::{
    artifact,
    call::{self, Answer, Run, Running},
    directory::{Awaited, Directory, Resident},
    kept::Kept,
    meter::{Allowance, TokenMeter},
    pipeline::{self, Runner},
    program::{self, Compiled, Prepared, Program, ProgramError},
    sandbox::{Sandbox, SandboxError},
    shared::Shared,
    spent::ProgramSpent,
    texts::Texts,
    tracker::Tracker,
    writer::End,
};

/// The program of tenants that bring none.
const BUILT_IN: &[u8] = include_bytes!("../../../sdks/guest-rust/programs/built-in/built_in.wasm");

/// Tenants' programs compiled at once. The compiler uses every core it can get, so two would only
/// take the cores from the running calls.
const COMPILED_AT_ONCE: usize = 1;

/// All programs of a node, and everything they may reach.
pub struct Runtime {
    sandbox: Sandbox,
    directory: RwLock<Directory>,
    /// Told of everything that may change what becomes of a call that is not served now.
    arrived: watch::Sender<()>,
    /// Kept for ever: it is the program of most tenants, and none of them waits for a stranger's.
    built_in: OnceCell<Prepared>,
    /// Tenants' own programs.
    programs: Shared<Program>,
    compiler: Arc<Semaphore>,
    /// Compiled programs on disk, where they are kept.
    kept: Option<Arc<Kept>>,
    texts: Texts,
}

impl Runtime {
    pub fn new() -> Result<Self, SandboxError> {
        Ok(Self {
            sandbox: Sandbox::new()?,
            directory: RwLock::default(),
            arrived: watch::Sender::new(()),
            built_in: OnceCell::new(),
            programs: Shared::default(),
            compiler: Arc::new(Semaphore::new(COMPILED_AT_ONCE)),
            kept: None,
            texts: Texts::default(),
        })
    }

    /// The same, which keeps what it compiles and takes it again after a restart.
    pub fn with_kept(kept: Kept) -> Result<Self, SandboxError> {
        Ok(Self { kept: Some(Arc::new(kept)), ..Self::new()? })
    }

    /// The program that ships with Realm: a component like any other.
    pub async fn prepare_built_in(&self) -> Result<Prepared, ProgramError> {
        let compiled = self.built_in.get_or_try_init(|| async {
            let digest = artifact::digest(BUILT_IN);
            let program = self.compile(digest, BUILT_IN, false, None).await?;
            Ok(Prepared(Arc::new(program)))
        });
        compiled.await.cloned()
    }

    /// Checks and compiles a component, for a tenant of these limits, and asks it for its functions.
    /// The same bytes are compiled once, whoever may run them, and those that are compiled wait for no
    /// others.
    pub async fn prepare_program(
        &self,
        bytes: Vec<u8>,
        limits: &ProgramLimits,
    ) -> Result<Prepared, ProgramError> {
        let hashed = spawn_blocking(move || (artifact::digest(&bytes), bytes));
        let (digest, bytes) = hashed.await.map_err(|_panicked| ProgramError::Compiler)?;
        let make = async {
            let place = self.compiler.clone().acquire_owned().await;
            let place = place.map_err(|_closed| ProgramError::Compiler)?;
            self.compile(digest, bytes, limits.memory64, Some(place)).await
        };
        let program = Prepared(self.programs.get(digest, make).await?);
        // It may be here for another tenant.
        if program.is_allowed(limits) { Ok(program) } else { Err(ProgramError::Memory64) }
    }

    async fn compile(
        &self,
        digest: Sha256,
        bytes: impl AsRef<[u8]> + Send + 'static,
        memory64: bool,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<Program, ProgramError> {
        let (engine, kept) = (self.sandbox.engine.clone(), self.kept.clone());
        let compiled = spawn_blocking(move || {
            // The compiler goes on when nobody waits for it any more, and so keeps its place.
            let _place = place;
            // Before the compiler sees it, and whatever has been kept of it.
            let form = artifact::read(bytes.as_ref())?;
            if form.memory64 && !memory64 {
                return Err(ProgramError::Memory64);
            }
            let compiled = |component| Compiled { digest, component, memory64: form.memory64 };
            if let Some(component) = kept.as_ref().and_then(|kept| kept.get(&engine, digest)) {
                return Ok(compiled(component));
            }
            let component = artifact::compile(&engine, &form)?;
            if let Some(kept) = kept {
                kept.put(&engine, digest, &component);
            }
            Ok(compiled(component))
        });
        let compiled = compiled.await.map_err(|_panicked| ProgramError::Compiler)??;
        program::prepare(&self.sandbox, &compiled).await
    }

    /// What each tenant's programs have spent here.
    pub fn spent(&self) -> Vec<(TenantName, ByWay<ProgramSpent>)> {
        self.read().spent()
    }

    /// How many calls of each tenant wait here for one of its program's instances.
    pub fn waiting(&self) -> Vec<(TenantName, u32)> {
        self.read().waiting()
    }

    /// The program that takes a tenant's calls now.
    pub fn program(&self, name: &TenantName) -> Option<Prepared> {
        self.read().resident(name).map(|resident| resident.program.clone())
    }

    /// Lets a tenant that has a program be as `tenant` says from now on, all but the program. Calls
    /// of one that has none yet are told that it is on its way.
    pub fn await_tenant(&self, tenant: Arc<DesiredTenant>) {
        self.write().await_tenant(tenant);
    }

    /// Says why the program of a tenant does not come. One that has its last one goes on with that.
    pub fn miss_program(&self, name: &TenantName, reason: &'static str) {
        let is_news = self.write().miss_program(name, reason);
        if is_news {
            self.arrived.send_replace(());
        }
    }

    /// Lets `program` take the tenant's calls from now on. Running calls end in the program they
    /// began in; those of a suspended tenant end now.
    pub fn put_tenant(&self, tenant: Arc<DesiredTenant>, program: Prepared) {
        self.write().put_tenant(tenant, program);
        self.arrived.send_replace(());
    }

    /// Forgets a tenant and ends its calls.
    pub fn remove_tenant(&self, name: &TenantName) {
        self.write().remove_tenant(name);
    }

    /// Lets calls from now on use this engine for that model.
    pub fn put_model(&self, name: ModelName, engine: Arc<dyn Engine>) {
        self.write().put_model(name, engine);
        self.arrived.send_replace(());
    }

    /// Says why a desired model is not there yet. One that is being served goes on being served.
    pub fn await_model(&self, name: ModelName, why: Awaited) {
        self.write().await_model(name, why);
    }

    /// Says that a model which was served by `engine` has stopped serving by itself, and why. One
    /// that another engine serves by now goes on being served.
    pub fn lose_model(&self, name: &ModelName, engine: &Arc<dyn Engine>, reason: &'static str) {
        self.write().lose_model(name, engine, reason);
    }

    pub fn remove_model(&self, name: &ModelName) {
        self.write().remove_model(name);
    }

    pub fn put_pipeline(&self, pipeline: Arc<DesiredPipeline>) {
        self.write().put_pipeline(pipeline);
    }

    pub fn remove_pipeline(&self, name: &PipelineName) {
        self.write().remove_pipeline(name);
    }

    /// Whether a program is the one that ships with Realm; not one with the same bytes.
    fn is_built_in(&self, program: &Prepared) -> bool {
        self.built_in.get().is_some_and(|built_in| Arc::ptr_eq(&built_in.0, &program.0))
    }

    fn read(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Directory> {
        self.directory.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything the call may touch, as it is now.
    fn begin(&self, call: Admitted, sender: ReplySender) -> Result<Begun, Refusal> {
        let directory = self.read();
        let resident = directory
            .resident(call.caller().tenant())
            .ok_or_else(|| not_here(&directory, call.caller().rights()))?;
        if resident.tenant.suspended {
            return Err(Refusal::Suspended);
        }
        let is_built_in = self.is_built_in(&resident.program);
        let tracker = Tracker::of(call.call(), is_built_in)?;
        let work = work(&directory, &resident.tenant, &call, tracker)?;
        let way = match &work {
            Work::Function(_) => call.call().way.clone(),
            Work::Pipeline(pipeline, _) => Way::Pipeline(pipeline.name.clone()),
        };
        let limits = &resident.tenant.limits.program;
        let allowance = Allowance::new(limits, call.call().deadline, Instant::now());
        let running = Running {
            tenant: resident.tenant.clone(),
            program: resident.program.0.clone(),
            instances: resident.instances.clone(),
            models: directory.grants(&resident.tenant),
            span: tracing::debug_span!("call", tenant = %call.caller().tenant(), call = %call.call().id),
            booking: Arc::new(resident.spent.book(&way, &allowance)),
            way,
            allowance,
            tokens: Arc::new(TokenMeter::new(Arc::new(call))),
            texts: (self.texts.clone(), resident.texts.clone()),
            room: resident.room.clone(),
            asks: resident.asks.clone(),
            store: resident.store.clone(),
            sender,
        };
        Ok(Begun { running, work, stopped: Box::pin(resident.stopped()) })
    }
}

/// Why a tenant that was let in has nothing here.
fn not_here(directory: &Directory, tenant: &DesiredTenant) -> Refusal {
    match (&tenant.program, directory.awaited(&tenant.name)) {
        // Its program runs beside its models, and those are elsewhere.
        (None, _) => {
            let model = tenant.models.first().map(|grant| grant.alias.clone()).unwrap_or_default();
            Refusal::ModelNotReady { model, reason: "it is on other nodes".to_owned() }
        }
        (Some(_), Some(why)) => not_ready(why),
        // It has gone since its key was looked up.
        (Some(_), None) => Refusal::Unauthenticated,
    }
}

fn not_ready(why: Awaited) -> Refusal {
    Refusal::ProgramNotReady { reason: why.to_string() }
}

/// What an admitted call asks for.
enum Work {
    Function(Tracker),
    Pipeline(Arc<DesiredPipeline>, pipeline::Request),
}

struct Begun {
    running: Running,
    work: Work,
    stopped: std::pin::Pin<Box<dyn Future<Output = Refusal> + Send>>,
}

fn work(
    directory: &Directory,
    tenant: &DesiredTenant,
    call: &Admitted,
    tracker: Tracker,
) -> Result<Work, Refusal> {
    if call.call().function != "pipeline" {
        return Ok(Work::Function(tracker));
    }
    let (pipeline, request) = work_of_pipeline(directory, tenant, call)?;
    Ok(Work::Pipeline(pipeline, request))
}

fn work_of_pipeline(
    directory: &Directory,
    tenant: &DesiredTenant,
    call: &Admitted,
) -> Result<(Arc<DesiredPipeline>, pipeline::Request), Refusal> {
    let request = pipeline::Request::parse(&call.call().params)?;
    let pipeline = directory
        .pipeline(tenant, &request.pipeline)
        .ok_or_else(|| Refusal::UnknownPipeline(crate::refusal::cut(request.pipeline.clone())))?;
    Ok((pipeline, request))
}

impl Begun {
    /// Runs to the end of the work, or until nobody wants it any more. Everything the call held is
    /// given back before its end is told, so that a client that goes on at once finds its place
    /// free.
    async fn run(self) -> Result<Done, Refusal> {
        let Self { running, work, stopped } = self;
        tokio::select! {
            () = running.sender.closed() => Err(Refusal::Cancelled),
            refusal = stopped => Err(refusal),
            answer = Box::pin(work.run(&running)) => {
                let Answer { finish, data, text: _ } = answer?;
                Ok(Done { data, finish, usage: running.tokens.total() })
            }
        }
    }
}

impl Work {
    async fn run(self, running: &Running) -> Result<Answer, Refusal> {
        let call = running.tokens.admitted().call();
        match self {
            Self::Pipeline(pipeline, request) => {
                pipeline::run(Runner::Here(running), &pipeline, request).await
            }
            Self::Function(tracker) => {
                let (function, params) = (call.function.as_str(), &call.params);
                let trace = call.trace.clone();
                let run = Run { function, params, deadline: None, step: None, tracker, trace };
                call::run(running, run).await
            }
        }
    }
}

impl Tenants for Runtime {
    fn start(&self, call: Admitted) -> Reply {
        let (sender, reply) = reply::channel();
        let end = End::of(&sender);
        self.start_into(call, sender, end);
        reply
    }

    fn functions(&self, caller: &Caller) -> Functions {
        let directory = self.read();
        let resident = directory.resident(caller.tenant());
        let functions = resident.map(|resident| resident.program.functions().to_vec());
        Box::pin(std::future::ready(functions.unwrap_or_default()))
    }

    fn models(&self, caller: &Caller) -> Vec<ModelInfo> {
        let directory = self.read();
        // Without its program nothing is served, and the tenant has its rights all the same.
        let Some(Resident { tenant, .. }) = directory.resident(caller.tenant()) else {
            let granted = caller.rights().models.iter().map(|grant| grant.alias.clone());
            let unknown = |alias| ModelInfo { alias, ready: false, context: None, abilities: None };
            return granted.map(unknown).collect();
        };
        let context_max = tenant.limits.context_max;
        directory.grants(tenant).iter().map(|grant| grant.info(context_max)).collect()
    }

    fn hosts(&self, tenant: &TenantName, model: &ModelName) -> bool {
        let directory = self.read();
        directory.resident(tenant).is_some() && directory.engine(model).is_some()
    }

    fn lacks(&self, tenant: &TenantName) -> Option<Refusal> {
        match self.read().awaited(tenant)? {
            why @ Awaited::Failed(_) => Some(not_ready(why)),
            Awaited::Fetching | Awaited::Loading => None,
        }
    }

    fn in_hand(&self) -> u32 {
        self.read().in_hand()
    }
}
