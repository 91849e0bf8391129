//! What lives in this agent because the desired state says so.

use std::{io, path::Path, sync::Arc, time::Duration};

use realm_core::{
    desired::{
        Artifact, DesiredModel, DesiredPipeline, DesiredTenant, HostedProgram, Program, Sha256,
        Stage,
    },
    name::{ModelName, PipelineName, TenantName},
    report::{self, Failure, ModelFacts, ModelPhase},
    residents::Residents,
};
use realm_runtime::{Awaited, PROGRAM_BYTES_MAX, Prepared, ProgramError};
use realm_store::{FetchError, Progress, Stored};
use tokio::{
    fs::File,
    io::AsyncReadExt as _,
    task::{JoinError, spawn_blocking},
    time::timeout,
};

use crate::{
    Agent,
    devices::{self, DeviceLoadError, Use},
};

/// Tenants' own programs fetched at once. Each may have all its bytes in memory while it waits
/// for the compiler, so that this many have 1 GiB at most.
pub(crate) const PROGRAMS_AT_ONCE: usize = 16;

/// How long one fetch of a program may keep its place: the largest comes at 1 Mbit/s. What it
/// brought stays for the next one to go on from.
const PROGRAM_FETCH_MAX: Duration = Duration::from_mins(10);

/// How long the program of a tenant that worked last may take to take its calls again. It is mostly on
/// the disk, and who waits for all tenants to be tried waits for it.
const FALL_BACK_MAX: Duration = Duration::from_mins(1);

impl Residents for Agent {
    async fn put_model(
        &self,
        model: &DesiredModel,
        progress: &(dyn Fn(ModelPhase) + Send + Sync),
    ) -> Result<ModelFacts, Failure> {
        if model.stage < Stage::Load {
            self.remove_model(&model.name).await;
        }
        match model.stage {
            Stage::Inspect => return self.inspect_model(model).await,
            Stage::Prefetch => {
                let stored = self.fetch_model(model, progress).await?;
                return examine(stored, Use::of(model)).await;
            }
            Stage::Load => {}
        }
        self.runtime.await_model(model.name.clone(), Awaited::Fetching);
        let loaded = match &model.base {
            Some(base) => self.load_adapter(model, base, progress).await,
            None => self.load_model(model, progress).await,
        };
        if let Err(failure) = &loaded {
            self.runtime.await_model(model.name.clone(), Awaited::Failed(failure.reason));
        }
        loaded
    }

    async fn lost_model(&self) -> ModelName {
        loop {
            let name = self.losses.next().await;
            // It may have been replaced meanwhile.
            if let Some(engine) = self.engines.take_failed(&name) {
                self.runtime.lose_model(&name, &engine, "EngineFailed");
                self.part(self.beside.remove_model(&name), "EngineFailed");
                return name;
            }
        }
    }

    async fn remove_model(&self, name: &ModelName) {
        self.runtime.remove_model(name);
        self.engines.remove(name);
        self.beside.remove_adapter(name);
        self.part(self.beside.remove_model(name), "ModelRemoved");
    }

    async fn put_tenant(&self, tenant: &DesiredTenant) -> Result<Option<Sha256>, Failure> {
        let tenant = Arc::new(tenant.clone());
        let Some(program) = &tenant.program else {
            self.runtime.remove_tenant(&tenant.name);
            drop(self.proven.put(&tenant.name, None));
            self.tenants.put(tenant);
            return Ok(None);
        };
        // The built-in program comes with the agent. Until it is compiled at a start, keys that have
        // not been known yet are not known, and callers wait as for the agent itself.
        let is_first =
            program.code == Program::BuiltIn && self.tenants.is_yet_to_come(&tenant.name);
        let built_in = if is_first { Some(self.prepare(&tenant, program).await) } else { None };
        let at_work = self.runtime.program(&tenant.name).map(|program| program.digest());
        // Before anything else is waited for: a revoked key must not outlive what the program takes, and
        // a good one is not called wrong meanwhile. Until a first program has come, calls go where
        // another node has it, or are told why it is not there.
        self.runtime.await_tenant(tenant.clone());
        self.tenants.put(tenant.clone());
        let prepared = match built_in {
            Some(prepared) => prepared,
            None => self.prepare(&tenant, program).await,
        };
        let program = match prepared {
            Ok(program) => program,
            Err(failure) => {
                self.runtime.miss_program(&tenant.name, failure.reason);
                if timeout(FALL_BACK_MAX, self.fall_back(&tenant, program)).await.is_err() {
                    tracing::warn!(tenant = %tenant.name, "the program that worked last takes too long");
                }
                return Err(failure);
            }
        };
        let digest = program.digest();
        // What is at work was not looked for again: where it came from is a source that holds it.
        if at_work != Some(digest) {
            drop(self.proven.put(&tenant.name, own_program(&tenant, digest)));
        }
        self.runtime.put_tenant(tenant, program);
        Ok(Some(digest))
    }

    async fn remove_tenant(&self, name: &TenantName) {
        self.tenants.remove(name);
        self.runtime.remove_tenant(name);
        drop(self.proven.put(name, None));
        self.engines.forget(name);
    }

    async fn put_pipeline(&self, pipeline: &DesiredPipeline) -> Result<(), Failure> {
        self.runtime.put_pipeline(Arc::new(pipeline.clone()));
        Ok(())
    }

    async fn remove_pipeline(&self, name: &PipelineName) {
        self.runtime.remove_pipeline(name);
    }
}

/// The component that takes a tenant's calls by this digest; none where that comes with the agent.
fn own_program(tenant: &DesiredTenant, digest: Sha256) -> Option<Artifact> {
    match &tenant.program.as_ref()?.code {
        Program::BuiltIn => None,
        Program::Component(artifact) => Some(Artifact { sha256: Some(digest), ..artifact.clone() }),
    }
}

impl Agent {
    /// Lets the program that worked here last take the calls of a tenant whose `newest` one fails, where
    /// none does: this agent has been started again since.
    async fn fall_back(&self, tenant: &Arc<DesiredTenant>, newest: &HostedProgram) {
        let Some(artifact) = self.proven.of(&tenant.name) else { return };
        let is_newest = matches!(&newest.code, Program::Component(it) if *it == artifact);
        if is_newest || self.runtime.program(&tenant.name).is_some() {
            return;
        }
        let code = Program::Component(artifact);
        let last = HostedProgram { code, config: newest.config.clone() };
        match self.prepare(tenant, &last).await {
            Ok(program) => {
                tracing::warn!(
                    tenant = %tenant.name,
                    sha256 = %program.digest(),
                    "goes on with the program that worked last"
                );
                self.runtime.put_tenant(tenant.clone(), program);
            }
            Err(Failure { reason, message }) => {
                tracing::warn!(
                    tenant = %tenant.name,
                    reason,
                    message,
                    "the program that worked last does not come up"
                );
            }
        }
    }

    async fn fetch_model(
        &self,
        model: &DesiredModel,
        progress: &(dyn Fn(ModelPhase) + Send + Sync),
    ) -> Result<Stored, Failure> {
        let fetching = |Progress { bytes_done, bytes_total }| {
            progress(ModelPhase::Fetching { bytes_done, bytes_total });
        };
        let owner = self.sources.of(model)?;
        let stored = self.store.fetch(&model.artifact, &owner, &fetching).await;
        stored.map_err(|error| unfetched(&error))
    }

    async fn load_model(
        &self,
        model: &DesiredModel,
        progress: &(dyn Fn(ModelPhase) + Send + Sync),
    ) -> Result<ModelFacts, Failure> {
        self.device.check(model).map_err(|error| unloaded(&error))?;
        let stored = self.fetch_model(model, progress).await?;
        progress(ModelPhase::Loading);
        self.runtime.await_model(model.name.clone(), Awaited::Loading);
        let (device, options) = (self.device.clone(), model.clone());
        let sha256 = stored.sha256;
        let loaded = spawn_blocking(move || devices::load(&device, &stored, &options))
            .await
            .map_err(|panic| panicked(&panic))?;
        let (engine, mut facts) = loaded.map_err(|error| unloaded(&error))?;
        facts.sha256 = Some(sha256);
        let engine = Arc::new(engine);
        self.losses.watch(model.name.clone(), engine.failed());
        self.engines.put(model.name.clone(), engine.clone());
        self.beside.remove_adapter(&model.name);
        let parted = self.beside.put_model(model.name.clone(), engine.clone());
        self.runtime.put_model(model.name.clone(), engine);
        self.part(parted, "ModelReplaced");
        Ok(facts)
    }

    async fn prepare(
        &self,
        tenant: &DesiredTenant,
        program: &HostedProgram,
    ) -> Result<Prepared, Failure> {
        let artifact = match &program.code {
            Program::BuiltIn => {
                return self.runtime.prepare_built_in().await.map_err(|error| unprepared(&error));
            }
            Program::Component(artifact) => artifact,
        };
        // What it has already is neither fetched nor waited for.
        if let Some(program) = self.runtime.program(&tenant.name)
            && artifact.sha256 == Some(program.digest())
        {
            return Ok(program);
        }
        let _place = self
            .programs
            .acquire()
            .await
            .map_err(|closed| Failure { reason: "Internal", message: closed.to_string() })?;
        let stored = self.fetch_program(&tenant.name, artifact).await?;
        let bytes = read(&stored.path).await.map_err(|error| Failure {
            reason: "ProgramUnreadable",
            message: format!("read {}: {error}", stored.path.display()),
        })?;
        let prepared = self.runtime.prepare_program(bytes, &tenant.limits.program).await;
        let program = prepared.map_err(|error| unprepared(&error))?;
        // A file in place may have been replaced since it was hashed.
        if program.digest() != stored.sha256 {
            let (found, wanted) = (program.digest(), stored.sha256);
            let message = format!("sha256 is {found}, expected {wanted}");
            return Err(Failure { reason: "DigestMismatch", message });
        }
        Ok(program)
    }

    async fn fetch_program(
        &self,
        tenant: &TenantName,
        artifact: &Artifact,
    ) -> Result<Stored, Failure> {
        let owner = self.sources.of_tenant(tenant);
        let fetch = self.store.fetch_at_most(PROGRAM_BYTES_MAX, artifact, &owner, &|_| ());
        match timeout(PROGRAM_FETCH_MAX, fetch).await {
            Ok(fetched) => fetched.map_err(|error| unfetched(&error)),
            Err(_elapsed) => {
                let seconds = PROGRAM_FETCH_MAX.as_secs();
                let message = format!("the program did not come within {seconds} seconds");
                Err(Failure { reason: "SourceStalled", message })
            }
        }
    }
}

/// A program's bytes, and no more than one beyond the most, which the runtime then refuses.
async fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = File::open(path).await?;
    file.take(PROGRAM_BYTES_MAX + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// What a file that has been verified says.
pub(crate) async fn examine(stored: Stored, of: Use) -> Result<ModelFacts, Failure> {
    let sha256 = Some(stored.sha256);
    // The path is good for as long as what it is of is held.
    let read = spawn_blocking(move || devices::examine(&stored, of)).await;
    let facts = read.map_err(|panic| panicked(&panic))?.map_err(|error| unloaded(&error))?;
    Ok(ModelFacts { sha256, ..facts })
}

pub(crate) fn panicked(panic: &JoinError) -> Failure {
    Failure { reason: "LoadFailed", message: panic.to_string() }
}

pub(crate) fn unloaded(error: &DeviceLoadError) -> Failure {
    Failure { reason: error.reason(), message: report::chain(error) }
}

pub(crate) fn unfetched(error: &FetchError) -> Failure {
    Failure { reason: error.reason(), message: report::chain(error) }
}

fn unprepared(error: &ProgramError) -> Failure {
    Failure { reason: error.reason(), message: report::chain(error) }
}

mod adapter;

#[cfg(test)]
pub(crate) mod tests;
