//! A door in a cluster: every call runs where its model is.
//!
//! [`need`] says which model a call is for, [`look`] whether that is here, there or nowhere yet,
//! and [`choose`] which of several nodes is asked; [`hold`] keeps the calls that wait for a model
//! to be loaded somewhere, [`tried`] the nodes that did not take one, [`bill`] what it has cost at
//! those that did, and [`passage`] takes it from the door to its end. A pipeline is run by its door,
//! and each of its steps is a call that goes wherever its model is.

mod bill;
mod choose;
mod figures;
mod hold;
mod look;
mod need;
mod passage;
mod tried;

use std::{collections::BTreeMap, sync::Arc};

use realm_core::{
    auth::Caller,
    desired::Desired,
    limit::Admitted,
    name::{ModelName, TenantName},
    refusal::Refusal,
    reply::{self, Reply, ReplySender},
    supply::HeldCalls,
    tenants::{Functions, ModelInfo, Tenants},
};
use realm_gateway::{Metrics, MetricsError};
use realm_link::peer::Peers;
use realm_runtime::{End, Runtime};
use tokio::sync::watch;
use tracing::Instrument as _;

pub use self::look::Routes;

use crate::relay::{choose::InHand, figures::Figures, hold::Hold, need::Need, passage::Passage};

/// Runs calls here or hands them to the node that has their model. Clones are the same door.
#[derive(Clone)]
pub struct Relay(Arc<Inner>);

struct Inner {
    runtime: Arc<Runtime>,
    peers: Peers,
    routes: watch::Receiver<Arc<Routes>>,
    in_hand: InHand,
    hold: Hold,
    figures: Figures,
}

impl Relay {
    /// A door on `node`, whose routes are those of `desired` for as long as [`follow`] runs.
    pub fn new(runtime: Arc<Runtime>, peers: Peers, routes: watch::Receiver<Arc<Routes>>) -> Self {
        Self(Arc::new(Inner {
            runtime,
            peers,
            routes,
            in_hand: InHand::default(),
            hold: Hold::default(),
            figures: Figures::default(),
        }))
    }

    /// The calls that wait here for a model, as they come and go.
    pub fn held(&self) -> watch::Receiver<BTreeMap<ModelName, u32>> {
        self.0.hold.subscribe()
    }

    /// Lets Prometheus see what is handed on and what waits.
    pub fn register_metrics(&self, metrics: &Metrics) -> Result<(), MetricsError> {
        self.0.figures.register(metrics)?;
        self.0.hold.register(metrics)
    }

    fn start_call(&self, call: Admitted, sender: ReplySender, end: End) {
        let Inner { runtime, routes, .. } = &*self.0;
        let (caller, asked) = (call.caller(), call.call());
        let need = Need::of(caller.rights(), &asked.params);
        let tenant = caller.tenant();
        // What needs no model, and what is here, takes no way round.
        let is_here = |need: &Need| need.models.iter().any(|model| runtime.hosts(tenant, model));
        match need {
            Some(need) if !is_here(&need) => {
                let span = tracing::debug_span!("relay", %tenant, call = %asked.id);
                let passage = Passage::new(self.0.clone(), routes.clone(), need, sender);
                tokio::spawn(passage.run(call, end).instrument(span));
            }
            _ => runtime.start_into(call, sender, end),
        }
    }

    /// A pipeline goes as a whole where all of it is here, and otherwise step by step.
    fn start_pipeline(&self, call: Admitted, sender: ReplySender, end: End) {
        let runtime = &self.0.runtime;
        let tenant = call.caller().tenant();
        let is_here = runtime
            .step_models(&call)
            .is_some_and(|models| models.iter().all(|model| runtime.hosts(tenant, model)));
        if is_here {
            runtime.start_into(call, sender, end);
        } else {
            runtime.start_apart(call, Arc::new(self.clone()), sender, end);
        }
    }
}

impl Tenants for Relay {
    fn start(&self, call: Admitted) -> Reply {
        let (sender, reply) = reply::channel();
        let end = End::of(&sender);
        if call.call().function == "pipeline" {
            self.start_pipeline(call, sender, end);
        } else {
            self.start_call(call, sender, end);
        }
        reply
    }

    /// The program's own list, asked of whoever has it. It is not kept: a look at it costs its
    /// tenant a request, and what is kept would outlive the program that said it.
    fn functions(&self, caller: &Caller) -> Functions {
        if self.0.runtime.has_program(caller.tenant()) {
            return self.0.runtime.functions(caller);
        }
        let (inner, caller) = (self.0.clone(), caller.clone());
        Box::pin(async move {
            let peers = inner.routes.borrow().peers_of(caller.rights());
            for peer in peers.into_iter().take(tried::FAULTS_MAX) {
                match inner.peers.describe(&peer, &caller).await {
                    Ok(functions) => return functions,
                    Err(error) => {
                        let cause = realm_core::report::chain(&error);
                        tracing::debug!(peer = peer.node, cause, "no description");
                    }
                }
            }
            Vec::new()
        })
    }

    fn models(&self, caller: &Caller) -> Vec<ModelInfo> {
        let Inner { runtime, routes, .. } = &*self.0;
        let (rights, routes) = (caller.rights(), routes.borrow().clone());
        let info = |grant: &realm_core::desired::ModelGrant| {
            let is_here = runtime.hosts(&rights.name, &grant.model);
            let context = runtime.context(&grant.model).filter(|_| is_here);
            let abilities = runtime.abilities(&grant.model).filter(|_| is_here);
            let context_max = rights.limits.context_max;
            ModelInfo {
                alias: grant.alias.clone(),
                ready: is_here || routes.has_peer(&grant.model),
                context: context.map(|context| context.min(context_max)),
                abilities: abilities.map(|abilities| abilities.within(context_max)),
            }
        };
        rights.models.iter().map(info).collect()
    }

    fn hosts(&self, tenant: &TenantName, model: &ModelName) -> bool {
        self.0.runtime.hosts(tenant, model)
    }

    fn lacks(&self, tenant: &TenantName) -> Option<Refusal> {
        self.0.runtime.lacks(tenant)
    }
}

/// Keeps `routes` those of the newest desired state, as seen from `node`, for as long as there are
/// new ones.
pub async fn follow(
    node: String,
    mut desired: watch::Receiver<Arc<Desired>>,
    peers: Peers,
    routes: watch::Sender<Arc<Routes>>,
) {
    loop {
        let newest = Arc::new(Routes::of(&desired.borrow_and_update().routes, &node));
        peers.retain(|peer| newest.has(peer));
        routes.send_replace(newest);
        if desired.changed().await.is_err() {
            return;
        }
    }
}

/// What waits, as the operator hears it.
pub(crate) fn held_calls(held: &BTreeMap<ModelName, u32>) -> Vec<HeldCalls> {
    held.iter().map(|(model, calls)| HeldCalls { model: model.clone(), calls: *calls }).collect()
}
