//! The port of the state path: what the steps of a converging agent act on.

use std::future::Future;

use crate::{
    desired::{DesiredModel, DesiredPipeline, DesiredTenant, Sha256},
    name::{ModelName, PipelineName, TenantName},
    report::{Failure, ModelFacts, ModelPhase},
};

/// Everything that lives in an agent because the desired state says so.
///
/// Each `put` leaves what was there before serving until the new one is good, and for ever when
/// the new one is not. A tenant's rights are no such thing: they are as desired before anything is
/// waited for. All of it is idempotent.
pub trait Residents: Send + Sync {
    /// Takes a model to its stage and no further, telling `progress` how far it is: reads the
    /// header of its file, fetches and verifies the file, or loads it. One that was loaded and is
    /// to be less is unloaded before anything is waited for.
    fn put_model(
        &self,
        model: &DesiredModel,
        progress: &(dyn Fn(ModelPhase) + Send + Sync),
    ) -> impl Future<Output = Result<ModelFacts, Failure>> + Send;

    /// Waits for a model that was put and has stopped serving by itself, and names it. It is gone
    /// by then, and may be put again.
    fn lost_model(&self) -> impl Future<Output = ModelName> + Send;

    fn remove_model(&self, name: &ModelName) -> impl Future<Output = ()> + Send;

    /// Makes keys, suspension, limits, grants and config as desired, then fetches, checks and
    /// compiles the tenant's program. A tenant's keys first open with its first program, or at
    /// once where it is to have none. Returns the digest of the program that now takes its calls.
    fn put_tenant(
        &self,
        tenant: &DesiredTenant,
    ) -> impl Future<Output = Result<Option<Sha256>, Failure>> + Send;

    fn remove_tenant(&self, name: &TenantName) -> impl Future<Output = ()> + Send;

    fn put_pipeline(
        &self,
        pipeline: &DesiredPipeline,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    fn remove_pipeline(&self, name: &PipelineName) -> impl Future<Output = ()> + Send;
}
