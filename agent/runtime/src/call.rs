//! One call of one function, from a fresh instance to its answer.

use std::sync::Arc;

use realm_core::{
    books::Way,
    call::Deadline,
    desired::DesiredTenant,
    engine::Finish,
    refusal::Refusal,
    reply::ReplySender,
    trace::{self, Key, Scope, SpanName},
};
use serde_json::Value;
use tokio::time::timeout_at;
use tracing::Span;

use crate::{
    ahead::Instances,
    asks::Asks,
    bindings::{exports::realm::tenant::handler, realm::tenant::types},
    directory::Grant,
    host::{Host, HostCall, Own, Role},
    meter::{Allowance, TokenMeter},
    pool,
    program::Program,
    refusal::{Ended, internal, returned, trapped},
    room::Room,
    spent::Booking,
    store::Store,
    texts::{TenantTexts, Texts},
    tracker::Tracker,
    writer::Writer,
};

/// An admitted call with everything it may touch, as that was when it began: a program or model
/// that is replaced meanwhile serves it to its end.
pub(crate) struct Running {
    pub(crate) tenant: Arc<DesiredTenant>,
    pub(crate) program: Arc<Program>,
    /// What that comes up as for this tenant.
    pub(crate) instances: Instances,
    pub(crate) models: Arc<[Grant]>,
    /// What it is booked under, besides its tenant.
    pub(crate) way: Way,
    pub(crate) allowance: Allowance,
    pub(crate) tokens: Arc<TokenMeter>,
    /// The node's places for work on text, and the tenant's among them.
    pub(crate) texts: (Texts, TenantTexts),
    /// The tenant's room for instances.
    pub(crate) room: Room,
    /// The tenant's places for hooks that are asked about a generation.
    pub(crate) asks: Asks,
    /// What the tenant's programs keep.
    pub(crate) store: Store,
    pub(crate) sender: ReplySender,
    pub(crate) span: Span,
    /// Dropped with the call and its hooks, which is when its programs have been paid for.
    pub(crate) booking: Arc<Booking>,
}

/// One run of a function within a call.
pub(crate) struct Run<'a> {
    pub(crate) function: &'a str,
    pub(crate) params: &'a Value,
    /// The pipeline step's own; the call's applies besides.
    pub(crate) deadline: Option<Deadline>,
    pub(crate) step: Option<Arc<str>>,
    pub(crate) tracker: Tracker,
    /// Where the run leaves its span.
    pub(crate) trace: Scope,
}

/// What a function came to.
pub(crate) struct Answer {
    pub(crate) finish: Finish,
    pub(crate) data: Value,
    /// What a pipeline's step has written.
    pub(crate) text: String,
}

/// Runs a function of the tenant's program in an instance of its own.
pub(crate) async fn run(running: &Running, run: Run<'_>) -> Result<Answer, Refusal> {
    if !running.program.functions.iter().any(|function| function.name == run.function) {
        return Err(Refusal::UnknownFunction(crate::refusal::cut(run.function.to_owned())));
    }
    let whole = running.allowance.deadline;
    let deadline = run.deadline.map_or(whole, |own| whole.earliest(own));
    let mut span = run.trace.begin(SpanName::Program);
    let before = running.allowance.spent();
    let run = Run { trace: span.scope(), ..run };
    let ended = match timeout_at(deadline.at().into(), handle(running, run, deadline)).await {
        Ok(answer) => answer,
        Err(_elapsed) => Err(deadline.refusal()),
    };
    let spent = running.allowance.spent();
    span.set(Key::Fuel, spent.fuel.saturating_sub(before.fuel));
    span.set(Key::HostCalls, spent.host_calls.saturating_sub(before.host_calls));
    span.end(trace::outcome(&ended));
    ended
}

async fn handle(running: &Running, run: Run<'_>, deadline: Deadline) -> Result<Answer, Refusal> {
    let limits = &running.tenant.limits.program;
    // Before there is anything of an instance, and dropped behind all of it.
    let place = running.room.take(&running.allowance.instance_waits).await;
    let _place = place.map_err(|_| internal("the room for instances is closed"))?;
    let stopped = |error: wasmtime::Error| trapped(&error, limits.fuel_max);
    let request =
        handler::Request { function: run.function.to_owned(), params: run.params.to_string() };
    let host = Host::of_call(host_call(running, run, deadline));
    let fuel = running.allowance.fuel.clone();
    let checkout = pool::checkout(&running.instances.calls, host, fuel);
    let mut instance = checkout.await.map_err(stopped)?;
    let result = instance
        .program
        .realm_tenant_handler()
        .call_handle(&mut instance.sandbox.store, &request)
        .await
        .map_err(stopped)?;
    let (writer, told) = instance.sandbox.store.data_mut().take_rest();
    let outcome = result.map_err(|error| returned(error, told))?;
    let writer = writer.ok_or_else(|| internal("an instance has lost its writer"))?;
    answer(outcome, &writer).map(|answer| Answer { text: writer.into_text(), ..answer })
}

fn host_call(running: &Running, run: Run<'_>, deadline: Deadline) -> HostCall {
    let Run { step, tracker, trace, .. } = run;
    let allowance = running.allowance.clone();
    let Allowance { host_calls, output, log_lines, .. } = allowance.clone();
    HostCall {
        tenant: running.tenant.clone(),
        models: running.models.clone(),
        way: running.way.clone(),
        tokens: Some(running.tokens.clone()),
        texts: running.texts.clone(),
        asks: running.asks.clone(),
        store: running.store.clone(),
        deadline,
        role: Role::Serves(Writer::new(running.sender.clone(), step, output, tracker)),
        own: Own {
            instances: running.instances.clone(),
            allowance,
            booking: running.booking.clone(),
        },
        host_calls,
        log_lines,
        span: running.span.clone(),
        trace,
    }
}

fn answer(outcome: handler::Outcome, writer: &Writer) -> Result<Answer, Refusal> {
    let data = match outcome.data {
        None => Value::Null,
        Some(json) => writer.parse(&json).map_err(|Ended(refusal)| refusal)?,
    };
    let finish = match outcome.finish {
        types::Finish::Stop => Finish::Stop,
        types::Finish::Length => Finish::Length,
    };
    Ok(Answer { finish, data, text: String::new() })
}
