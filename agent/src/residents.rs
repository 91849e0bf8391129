//! What lives in this agent because the desired state says so.

use std::sync::Arc;

use realm_core::{
    desired::{Artifact, DesiredModel, DesiredPipeline, DesiredTenant, Program, Sha256},
    name::{ModelName, PipelineName, TenantName},
    report::{Failure, ModelFacts, ModelPhase},
    residents::Residents,
};
use realm_runtime::{Awaited, Prepared, ProgramError};
use realm_store::{FetchError, Progress, Stored};
use tokio::{fs, task::spawn_blocking};

use crate::{Agent, devices};

/// Largest program file that is read into memory to be compiled.
///
/// The largest toolchain output known, a whole Python interpreter, has 20 MB.
const PROGRAM_BYTES_MAX: u64 = 64 << 20;

impl Residents for Agent {
    async fn put_model(
        &self,
        model: &DesiredModel,
        progress: &(dyn Fn(ModelPhase) + Send + Sync),
    ) -> Result<ModelFacts, Failure> {
        self.runtime.await_model(model.name.clone(), Awaited::Fetching);
        let loaded = self.load_model(model, progress).await;
        if let Err(failure) = &loaded {
            self.runtime.await_model(model.name.clone(), Awaited::Failed(failure.reason));
        }
        loaded
    }

    async fn remove_model(&self, name: &ModelName) {
        self.runtime.remove_model(name);
        self.engines.remove(name);
    }

    async fn put_tenant(&self, tenant: &DesiredTenant) -> Result<Sha256, Failure> {
        self.runtime.await_tenant(tenant.name.clone());
        let program = match self.prepare(&tenant.program).await {
            Ok(program) => program,
            Err(failure) => {
                self.runtime.fail_tenant(&tenant.name);
                return Err(failure);
            }
        };
        let digest = program.digest();
        let tenant = Arc::new(tenant.clone());
        self.runtime.put_tenant(tenant.clone(), program);
        // Last, so that a key never opens a door with nothing behind it.
        self.tenants.put(tenant);
        Ok(digest)
    }

    async fn remove_tenant(&self, name: &TenantName) {
        self.tenants.remove(name);
        self.runtime.remove_tenant(name);
    }

    async fn put_pipeline(&self, pipeline: &DesiredPipeline) -> Result<(), Failure> {
        self.runtime.put_pipeline(Arc::new(pipeline.clone()));
        Ok(())
    }

    async fn remove_pipeline(&self, name: &PipelineName) {
        self.runtime.remove_pipeline(name);
    }
}

impl Agent {
    async fn load_model(
        &self,
        model: &DesiredModel,
        progress: &(dyn Fn(ModelPhase) + Send + Sync),
    ) -> Result<ModelFacts, Failure> {
        let fetching = |Progress { bytes_done, bytes_total }| {
            progress(ModelPhase::Fetching { bytes_done, bytes_total });
        };
        let stored = self.fetch(&model.artifact, &fetching).await?;
        progress(ModelPhase::Loading);
        self.runtime.await_model(model.name.clone(), Awaited::Loading);
        let (device, options) = (self.device.clone(), model.clone());
        let Stored { path, sha256, .. } = stored;
        let loaded = spawn_blocking(move || devices::load(&device, &path, sha256, &options))
            .await
            .map_err(|panic| Failure { reason: "LoadFailed", message: panic.to_string() })?;
        let (engine, mut facts) =
            loaded.map_err(|error| Failure { reason: error.reason(), message: chain(&error) })?;
        facts.sha256 = Some(sha256);
        let engine = Arc::new(engine);
        self.engines.put(model.name.clone(), engine.clone());
        self.runtime.put_model(model.name.clone(), engine);
        Ok(facts)
    }

    async fn fetch(
        &self,
        artifact: &Artifact,
        progress: &(dyn Fn(Progress) + Send + Sync),
    ) -> Result<Stored, Failure> {
        let failure =
            |error: FetchError| Failure { reason: error.reason(), message: chain(&error) };
        self.store.fetch(artifact, progress).await.map_err(failure)
    }

    async fn prepare(&self, program: &Program) -> Result<Prepared, Failure> {
        let failure =
            |error: ProgramError| Failure { reason: error.reason(), message: chain(&error) };
        let artifact = match program {
            Program::BuiltIn => return self.runtime.prepare_built_in().await.map_err(failure),
            Program::Component(artifact) => artifact,
        };
        let stored = self.fetch(artifact, &|_| ()).await?;
        if stored.bytes > PROGRAM_BYTES_MAX {
            let message =
                format!("the program has {} bytes; {PROGRAM_BYTES_MAX} are the most", stored.bytes);
            return Err(Failure { reason: "ProgramTooLarge", message });
        }
        let bytes = fs::read(&stored.path).await.map_err(|error| Failure {
            reason: "ProgramUnreadable",
            message: format!("read {}: {error}", stored.path.display()),
        })?;
        let program = self.runtime.prepare_program(bytes).await.map_err(failure)?;
        // A file in place may have been replaced since it was hashed.
        if program.digest() != stored.sha256 {
            let (found, wanted) = (program.digest(), stored.sha256);
            let message = format!("sha256 is {found}, expected {wanted}");
            return Err(Failure { reason: "DigestMismatch", message });
        }
        Ok(program)
    }
}

/// An error with all its causes, for a condition's message.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
