//! Calls that may have to go to another node: what a door asks about them, and pipelines whose
//! steps do.

use std::{sync::Arc, time::Instant};

use realm_core::{
    books::Way,
    desired::DesiredPipeline,
    embed::Abilities,
    limit::Admitted,
    name::{ModelName, TenantName},
    refusal::Refusal,
    reply::{Done, ReplySender},
    tenants::Tenants,
};
use tokio::sync::watch;
use tracing::Instrument as _;

use super::{Runtime, not_ready, work_of_pipeline};
use crate::{
    call::Answer,
    meter::Allowance,
    pipeline::{self, Apart, Runner},
    tracker::Tracker,
    writer::End,
};

impl Runtime {
    /// Starts a call whose reply somebody else has made.
    pub fn start_into(&self, call: Admitted, sender: ReplySender, end: End) {
        match self.begin(call, sender) {
            Err(refusal) => end.send(Err(refusal)),
            Ok(begun) => {
                let span = begun.running.span.clone();
                tokio::spawn(async move { end.send(begun.run().await) }.instrument(span));
            }
        }
    }

    /// Runs a pipeline on whatever nodes its models are: each step is handed to `steps` as a call
    /// of `chat`. It is charged, cancelled and ended as one; each step has its program's memory,
    /// fuel and host calls to itself, since they are spent on several nodes.
    pub fn start_apart(
        &self,
        call: Admitted,
        steps: Arc<dyn Tenants>,
        sender: ReplySender,
        end: End,
    ) {
        let tracker = Tracker::of(call.call(), false);
        let work = tracker
            .and_then(|_untold| work_of_pipeline(&self.read(), call.caller().rights(), &call));
        let (pipeline, request) = match work {
            Ok(work) => work,
            Err(refusal) => return end.send(Err(refusal)),
        };
        let limits = &call.caller().rights().limits.program;
        let allowance = Allowance::new(limits, call.call().deadline, Instant::now());
        let (tenant, id) = (call.caller().tenant(), &call.call().id);
        let span = tracing::debug_span!("pipeline", %tenant, call = %id);
        let way = Way::Pipeline(pipeline.name.clone());
        let apart = Apart { call, way, allowance, steps, sender };
        tokio::spawn(
            async move { end.send(run(apart, &pipeline, request).await) }.instrument(span),
        );
    }

    /// The models of the steps of the pipeline that `call` asks for; `None` where it asks for none
    /// that its tenant has.
    pub fn step_models(&self, call: &Admitted) -> Option<Vec<ModelName>> {
        let (pipeline, _) = work_of_pipeline(&self.read(), call.caller().rights(), call).ok()?;
        Some(pipeline.steps.iter().map(|step| step.model.clone()).collect())
    }

    /// Whether the tenant's program is here.
    pub fn has_program(&self, tenant: &TenantName) -> bool {
        self.read().resident(tenant).is_some()
    }

    /// Why the tenant's program is not here although it should be, on its way or not.
    pub fn awaits_program(&self, tenant: &TenantName) -> Option<Refusal> {
        self.read().awaited(tenant).map(not_ready)
    }

    /// Tokens of context of a model that is served here.
    pub fn context(&self, model: &ModelName) -> Option<u32> {
        self.read().engine(model).map(|engine| engine.info().context)
    }

    /// What a model that is served here can be asked for.
    pub fn abilities(&self, model: &ModelName) -> Option<Abilities> {
        self.read().engine(model).map(|engine| engine.abilities())
    }

    /// Changes whenever something else may become of a call that is not served here now.
    pub fn arrivals(&self) -> watch::Receiver<()> {
        self.arrived.subscribe()
    }
}

/// Runs to the end of the pipeline, or until nobody wants it any more. What the call held is given
/// back before its end is told.
async fn run(
    apart: Apart,
    pipeline: &DesiredPipeline,
    request: pipeline::Request,
) -> Result<Done, Refusal> {
    let whole = apart.allowance.deadline;
    tokio::select! {
        () = apart.sender.closed() => Err(Refusal::Cancelled),
        () = tokio::time::sleep_until(whole.at().into()) => Err(whole.refusal()),
        answer = Box::pin(pipeline::run(Runner::Apart(&apart), pipeline, request)) => {
            let Answer { finish, data, text: _ } = answer?;
            let usage = *apart.call.spent().borrow();
            Ok(Done { data, finish, usage })
        }
    }
}
