//! What every connection shares: who may call, what they may spend, and where calls go.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use realm_core::{
    auth::{self, Caller, Credential, Roster},
    call::{Call, CallId},
    limit::{Admitted, Limiter, Quota},
    name::TenantName,
    refusal::Refusal,
    tenants::Tenants,
    trace::Tracer,
};
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::{GatewayConfig, Limits},
    metrics::{Meter, Metrics, STRANGER},
    origin::Origins,
    own::Own,
    places::{Place, Places},
    running::Running,
    trace::{self, Arrival, CallSpan},
};

/// What the door leads to.
#[derive(Clone)]
pub struct Ports {
    pub tenants: Arc<dyn Tenants>,
    pub roster: watch::Receiver<Arc<Roster>>,
    pub limiter: Limiter,
    /// Whether the node has come so far that clients should be sent here.
    pub ready: watch::Receiver<bool>,
    pub metrics: Metrics,
    pub tracer: Tracer,
}

pub(crate) struct Door {
    ports: Ports,
    pub(crate) limits: Limits,
    pub(crate) origins: Origins,
    pub(crate) settle: Duration,
    pub(crate) grace: Duration,
    /// Sockets that may be open without a key.
    pub(crate) strangers: Arc<Semaphore>,
    /// Sockets of each tenant.
    sockets: Places<TenantName>,
    /// Every connection's task.
    pub(crate) connections: TaskTracker,
    /// Not ready: clients should be sent elsewhere.
    pub(crate) leave: CancellationToken,
    /// No new calls; running ones may finish.
    pub(crate) drain: CancellationToken,
    /// The grace is over.
    pub(crate) cut: CancellationToken,
    started_at: Instant,
    started_unix: u64,
}

impl Door {
    pub(crate) fn new(ports: Ports, config: &GatewayConfig, origins: Origins) -> Self {
        Self {
            ports,
            limits: config.limits,
            origins,
            settle: config.settle,
            grace: config.grace,
            strangers: Arc::new(Semaphore::new(config.limits.strangers_max)),
            sockets: Places::new(config.limits.sockets_per_tenant_max),
            connections: TaskTracker::new(),
            leave: CancellationToken::new(),
            drain: CancellationToken::new(),
            cut: CancellationToken::new(),
            started_at: Instant::now(),
            started_unix: unix_now(),
        }
    }

    pub(crate) fn tenants(&self) -> &dyn Tenants {
        &*self.ports.tenants
    }

    pub(crate) const fn metrics(&self) -> &Metrics {
        &self.ports.metrics
    }

    /// Everything there is to scrape, about tenants that still have a key.
    pub(crate) fn scrape(&self) -> Result<String, prometheus::Error> {
        let roster = self.ports.roster.borrow().clone();
        let known: HashSet<&str> = roster.tenants().map(TenantName::as_str).collect();
        self.metrics().retain_tenants(|name| known.contains(name));
        self.metrics().show_ready(self.is_ready() && !self.is_draining());
        self.metrics().show_draining(self.is_draining());
        self.metrics().text()
    }

    /// A view of the keys of its own, to wait for their change.
    pub(crate) fn roster(&self) -> watch::Receiver<Arc<Roster>> {
        self.ports.roster.clone()
    }

    pub(crate) fn is_ready(&self) -> bool {
        *self.ports.ready.borrow()
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leave.is_cancelled()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.is_cancelled()
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started_at.elapsed()
    }

    /// When the door opened, in seconds since the Unix epoch.
    pub(crate) const fn started_unix(&self) -> u64 {
        self.started_unix
    }

    pub(crate) fn quota(&self, caller: &Caller) -> Quota {
        self.ports.limiter.quota(caller, Instant::now())
    }

    /// Who presents `credential`, by the keys of this moment.
    pub(crate) fn verify(&self, credential: Credential) -> Result<Caller, Refusal> {
        let roster = self.ports.roster.borrow().clone();
        auth::verify(&roster, credential, unix_now())
    }

    /// A place for one more socket of the caller's tenant.
    pub(crate) fn take_socket(&self, caller: &Caller) -> Result<Place<TenantName>, Refusal> {
        let busy = Refusal::Busy { retry_after_ms: SOCKETS_RETRY_MS };
        self.sockets.take(caller.tenant().clone()).ok_or(busy)
    }

    /// Verifies, admits and starts a call. What is refused here is counted here.
    pub(crate) fn start(
        &self,
        credential: Credential,
        call: Call,
        arrival: &Arrival,
    ) -> Result<Running, Refusal> {
        let function = call.function.clone();
        let caller = self
            .verify(credential)
            .inspect_err(|refusal| self.count_refusal(STRANGER, &function, refusal))?;
        let tenant = caller.tenant().clone();
        self.start_verified(caller, call, arrival)
            .inspect_err(|refusal| self.count_refusal(tenant.as_str(), &function, refusal))
    }

    fn start_verified(
        &self,
        caller: Caller,
        mut call: Call,
        arrival: &Arrival,
    ) -> Result<Running, Refusal> {
        let now = Instant::now();
        let function = call.function.clone();
        let meter = || Meter::start(self.metrics(), caller.tenant().as_str(), &function, now);
        if let Some(own) = Own::of(&call)? {
            // The place among the tenant's calls is held while the answer is made.
            let place = match own {
                Own::Health => None,
                Own::Metadata => Some(self.ports.limiter.admit(caller.clone(), call, now)?),
            };
            let meter = meter();
            let reply = own.answer(self, &caller, place);
            return Ok(Running::new(reply, meter, CallSpan::OFF, caller));
        }
        if self.is_draining() {
            return Err(Refusal::Draining);
        }
        let traced = trace::begin(&self.ports.tracer, arrival, &caller, &mut call);
        let admitted = match self.ports.limiter.admit(caller.clone(), call, now) {
            Ok(admitted) => admitted,
            Err(refusal) => {
                traced.refused(&self.ports.tracer, &caller, &refusal);
                return Err(refusal);
            }
        };
        traced.admitted(arrival, now);
        let meter = meter();
        let (tenant, id) = (caller.tenant(), &admitted.call().id);
        // What the call's own tasks say carries its tenant and id.
        let span = tracing::debug_span!("call", %tenant, call = %id);
        let reply = span.in_scope(|| self.ports.tenants.start(admitted));
        Ok(Running::new(reply, meter, traced, caller))
    }

    /// Admits a look at the models, which costs a request as `metadata` does and counts as one.
    pub(crate) fn admit_listing(&self, credential: Credential) -> Result<Listing, Refusal> {
        let caller = self
            .verify(credential)
            .inspect_err(|refusal| self.count_refusal(STRANGER, METADATA, refusal))?;
        let (tenant, now) = (caller.tenant().as_str(), Instant::now());
        let id = CallId(String::new());
        let call = Call::new(id, METADATA, Value::Null);
        let admitted = self
            .ports
            .limiter
            .admit(caller.clone(), call, now)
            .inspect_err(|refusal| self.count_refusal(tenant, METADATA, refusal))?;
        let mut meter = Meter::start(self.metrics(), tenant, METADATA, now);
        meter.end("ok");
        Ok(Listing { admitted, _meter: meter })
    }

    pub(crate) fn count_refusal(&self, tenant: &str, function: &str, refusal: &Refusal) {
        self.metrics().refused(tenant, function, refusal.code());
    }
}

/// How long a client whose tenant has every socket it may have should wait: sockets last, so a
/// place hardly comes free sooner.
const SOCKETS_RETRY_MS: u64 = 5000;

/// The function that a look at the models counts as.
const METADATA: &str = "metadata";

/// A look at what a caller may use, admitted.
#[derive(Debug)]
pub(crate) struct Listing {
    admitted: Admitted,
    _meter: Meter,
}

impl Listing {
    pub(crate) const fn caller(&self) -> &Caller {
        self.admitted.caller()
    }
}

/// Seconds since the Unix epoch. A clock before it lets no key in that ever expires.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(u64::MAX, |since| since.as_secs())
}
