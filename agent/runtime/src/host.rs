//! What a program can reach: one file per interface of its world.

mod clock;
mod config;
pub(crate) mod log;
pub(crate) mod model;
mod random;
mod reply;
mod scored;
mod store;

use std::{future::poll_fn, sync::Arc, task::Poll};

use realm_core::{
    books::Way,
    call::Deadline,
    desired::DesiredTenant,
    refusal::{ProgramLimit, Refusal},
    trace::{Open, Scope, SpanName},
};
use tracing::Span;
use wasmtime::{ResourceLimiter, component::ResourceTable};

use crate::{
    ahead::Instances,
    asks::Asks,
    bindings::realm::tenant::types,
    directory::Grant,
    hook,
    meter::{Allowance, Countdown, Left, MemoryMeter, TokenMeter},
    refusal::{Ended, HostError, tell},
    sandbox::HANDLES_MAX,
    spent::Booking,
    store::Store,
    texts::{TenantTexts, Texts},
    writer::Writer,
};

#[expect(unreachable_pub, reason = "the generated bindings re-export them")]
pub use model::{Generation, OpenModel, Prefix};

/// What one instance holds of the host.
pub(crate) struct Host {
    memory: MemoryMeter,
    table: ResourceTable,
    /// The refusal that the program was last told.
    told: Option<Refusal>,
    /// Absent while a program is only asked for its functions.
    call: Option<HostCall>,
}

/// The call that an instance serves.
pub(crate) struct HostCall {
    pub(crate) tenant: Arc<DesiredTenant>,
    pub(crate) models: Arc<[Grant]>,
    /// What it is booked under.
    pub(crate) way: Way,
    /// What the call's place among its tenant's hangs on. Hooks that stand beside a generation let go
    /// of it: they may be at work when their call is over.
    pub(crate) tokens: Option<Arc<TokenMeter>>,
    /// The node's places for work on text, and the tenant's among them.
    pub(crate) texts: (Texts, TenantTexts),
    /// The tenant's places for hooks that are asked about a generation.
    pub(crate) asks: Asks,
    /// What the tenant's programs keep.
    pub(crate) store: Store,
    /// The whole call's, or that of the pipeline's step.
    pub(crate) deadline: Deadline,
    pub(crate) role: Role,
    /// What its hooks come up with.
    pub(crate) own: Own,
    pub(crate) host_calls: Countdown,
    pub(crate) log_lines: Left,
    pub(crate) span: Span,
    /// Where what the program asks for leaves spans.
    pub(crate) trace: Scope,
}

/// What an instance does for its call.
pub(crate) enum Role {
    /// It serves a function.
    Serves(Writer),
    /// It stands beside a generation.
    Hooks {
        /// On a thread of the engine's, where nothing may wait.
        between_tokens: bool,
    },
}

impl Role {
    /// Whether it works on a thread of the engine's.
    const fn is_between_tokens(&self) -> bool {
        matches!(self, Self::Hooks { between_tokens: true })
    }
}

/// Returns to whoever polls, once: what the host does burns no fuel, and a hook that has much of it
/// done would have a thread for far longer than its turn.
async fn give_way() {
    let mut has_given = false;
    poll_fn(|context| {
        if has_given {
            return Poll::Ready(());
        }
        has_given = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// What the program of a call comes up as, and what that may spend.
#[derive(Clone)]
pub(crate) struct Own {
    pub(crate) instances: Instances,
    pub(crate) allowance: Allowance,
    pub(crate) booking: Arc<Booking>,
}

impl HostCall {
    /// The same call for an instance of its program's hooks.
    pub(crate) fn of_hook(&self) -> Self {
        Self {
            tenant: self.tenant.clone(),
            models: self.models.clone(),
            way: self.way.clone(),
            tokens: self.tokens.clone(),
            texts: self.texts.clone(),
            asks: self.asks.clone(),
            store: self.store.clone(),
            deadline: self.deadline,
            role: Role::Hooks { between_tokens: false },
            own: self.own.clone(),
            host_calls: self.host_calls.clone(),
            log_lines: self.log_lines.clone(),
            span: self.span.clone(),
            trace: self.trace.clone(),
        }
    }

    /// What only an instance that serves a function has.
    pub(crate) fn writer(&mut self) -> Result<&mut Writer, Ended> {
        match &mut self.role {
            Role::Serves(writer) => Ok(writer),
            Role::Hooks { .. } => Err(hook::forbidden("wrote a reply of their own")),
        }
    }

    /// What the call's tokens are paid from.
    pub(crate) fn meter(&self) -> Result<&Arc<TokenMeter>, Ended> {
        self.tokens.as_ref().ok_or_else(|| hook::forbidden("spent tokens of their own"))
    }
}

impl Host {
    /// A host that serves no call: whatever the program imports ends it.
    pub(crate) fn without_call(memory_bytes_max: u64) -> Self {
        let mut table = ResourceTable::new();
        table.set_max_capacity(HANDLES_MAX);
        Self { memory: MemoryMeter::new(memory_bytes_max), table, told: None, call: None }
    }

    pub(crate) fn of_call(call: HostCall) -> Self {
        let memory_bytes_max = call.tenant.limits.program.memory_bytes_max;
        Self { call: Some(call), ..Self::without_call(memory_bytes_max) }
    }

    /// Serves the call of `other`, of the same tenant and under the same limits, from now on.
    pub(crate) fn serve(&mut self, other: Self) {
        self.call = other.call;
    }

    /// What its instance has of linear memory.
    pub(crate) const fn memory_bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// The wasmtime hook for memory.
    pub(crate) fn memory(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.memory
    }

    /// What is left when the program has returned: its writer, and the refusal it was last told.
    pub(crate) fn take_rest(&mut self) -> (Option<Writer>, Option<Refusal>) {
        let writer = self.call.take().and_then(|call| match call.role {
            Role::Serves(writer) => Some(writer),
            Role::Hooks { .. } => None,
        });
        (writer, self.told.take())
    }

    /// The refusal that hooks were last told.
    pub(crate) fn take_told(&mut self) -> Option<Refusal> {
        self.told.take()
    }

    /// From now on it is on a thread of the engine's.
    pub(crate) fn begin_tokens(&mut self) {
        if let Some(HostCall { role: Role::Hooks { between_tokens }, tokens, .. }) = &mut self.call
        {
            *between_tokens = true;
            *tokens = None;
        }
    }

    /// The running call, for a host function that costs one host call.
    fn enter(&mut self) -> Result<&mut HostCall, Ended> {
        let call = self.call()?;
        call.host_calls.take(1)?;
        Ok(call)
    }

    /// The span of something that the program has asked for.
    fn begin(&self, name: SpanName) -> Open {
        self.call.as_ref().map_or(Open::OFF, |call| call.trace.begin(name))
    }

    /// The running call.
    fn call(&mut self) -> Result<&mut HostCall, Ended> {
        self.call.as_mut().ok_or(Ended::limit(ProgramLimit::HostCalls, 0))
    }
}

impl types::Host for Host {
    fn convert_error(&mut self, error: HostError) -> wasmtime::Result<types::Error> {
        match error {
            HostError::Ended(error) => Err(error),
            HostError::Refused(refusal) => {
                let told = tell(&refusal);
                self.told = Some(refusal);
                Ok(told)
            }
        }
    }
}
