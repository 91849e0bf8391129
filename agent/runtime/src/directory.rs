//! Who and what is here now: tenants with their programs, models, pipelines.

use std::{collections::HashMap, fmt, sync::Arc};

use realm_core::{
    books::ByWay,
    desired::{DesiredPipeline, DesiredTenant, ProgramLimits},
    engine::Engine,
    name::{ModelName, PipelineName, TenantName},
    refusal::Refusal,
    tenants::ModelInfo,
};
use tokio::sync::watch;

use crate::{
    ahead::Instances,
    asks::Asks,
    program::{Prepared, ProgramError},
    room::Room,
    spent::{ProgramSpent, Spent},
    store::Store,
    texts::TenantTexts,
};

/// Whether a model can be used.
#[derive(Clone)]
pub enum ModelState {
    Ready(Arc<dyn Engine>),
    /// Not yet, or not at all; why, for people.
    NotReady(String),
}

/// Why a desired model or program is not there.
///
/// Closed words, because tenants read them: what else there is to say names mirrors and folders,
/// and belongs in the report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    Fetching,
    Loading,
    /// The reason of its condition.
    Failed(&'static str),
}

impl fmt::Display for Awaited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fetching => f.write_str("fetching"),
            Self::Loading => f.write_str("loading"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// What is known of a model.
enum Model {
    Ready(Arc<dyn Engine>),
    Awaited(Awaited),
}

/// A model under the name its tenant has for it.
pub(crate) struct Grant {
    pub(crate) alias: String,
    pub(crate) state: ModelState,
}

/// A tenant and the program that takes its calls.
#[derive(Clone)]
pub(crate) struct Resident {
    pub(crate) tenant: Arc<DesiredTenant>,
    pub(crate) program: Prepared,
    /// What that comes up as under these limits.
    pub(crate) instances: Instances,
    pub(crate) room: Room,
    pub(crate) texts: TenantTexts,
    pub(crate) asks: Asks,
    /// Gone with the tenant.
    pub(crate) store: Store,
    pub(crate) spent: Spent,
    stop: Arc<watch::Sender<Option<Refusal>>>,
}

impl Resident {
    /// Whether the tenant may still run what it has. It may run no call of it where it may not, and
    /// goes on with those that run.
    fn is_allowed(&self) -> bool {
        self.program.is_allowed(&self.tenant.limits.program)
    }

    /// Whether what waits for its calls is what would come up for those of `program` under `limits`.
    fn comes_up_as(&self, program: &Prepared, limits: &ProgramLimits) -> bool {
        Arc::ptr_eq(&self.program.0, &program.0) && self.tenant.limits.program == *limits
    }

    /// Waits until the tenant's running calls are to end, and says why.
    pub(crate) fn stopped(&self) -> impl Future<Output = Refusal> + Send + use<> {
        let mut stop = self.stop.subscribe();
        async move {
            let refusal = stop.wait_for(Option::is_some).await;
            refusal.ok().and_then(|refusal| refusal.clone()).unwrap_or(Refusal::Cancelled)
        }
    }
}

#[derive(Default)]
pub(crate) struct Directory {
    tenants: HashMap<TenantName, Resident>,
    /// Tenants whose program should be here and never was, and why.
    awaited: HashMap<TenantName, (Arc<DesiredTenant>, Awaited)>,
    models: HashMap<ModelName, Model>,
    pipelines: HashMap<PipelineName, Arc<DesiredPipeline>>,
}

impl Directory {
    /// Lets a tenant that has a program be as `tenant` says from now on, and takes note of one that
    /// has none yet. Why a program has not come holds while it is tried again.
    pub(crate) fn await_tenant(&mut self, tenant: Arc<DesiredTenant>) {
        if let Some(resident) = self.tenants.get(&tenant.name) {
            let program = resident.program.clone();
            return self.put_tenant(tenant, program);
        }
        let before = self.awaited.get(&tenant.name);
        let same = before.filter(|(before, _)| before.program == tenant.program);
        let why = same.map_or(Awaited::Fetching, |(_, why)| *why);
        self.awaited.insert(tenant.name.clone(), (tenant, why));
    }

    /// Says why a tenant that has no program yet has none, and returns whether that is news. One
    /// that has its last one goes on with that.
    pub(crate) fn miss_program(&mut self, name: &TenantName, reason: &'static str) -> bool {
        let why = Awaited::Failed(reason);
        let awaited = self.awaited.get_mut(name);
        awaited.is_some_and(|(_, before)| std::mem::replace(before, why) != why)
    }

    /// Sequences of all models, running or waiting, and calls that wait to come to any.
    pub(crate) fn in_hand(&self) -> u32 {
        let loads = self.models.values().filter_map(|model| match model {
            Model::Ready(engine) => Some(engine.load()),
            Model::Awaited(_) => None,
        });
        let sequences = loads.fold(0_u32, |sum, load| {
            sum.saturating_add(load.sequences_queued).saturating_add(load.sequences_running)
        });
        let waiting = self.tenants.values().map(|resident| resident.room.waiting());
        waiting.fold(sequences, u32::saturating_add)
    }

    /// How many calls of each tenant wait for one of its program's instances.
    pub(crate) fn waiting(&self) -> Vec<(TenantName, u32)> {
        let tenants = self.tenants.iter();
        tenants.map(|(name, resident)| (name.clone(), resident.room.waiting())).collect()
    }

    /// Why no program takes the tenant's calls, which should be here: its first one is not, or it may
    /// not run its last one any more.
    pub(crate) fn awaited(&self, name: &TenantName) -> Option<Awaited> {
        if self.tenants.get(name).is_some_and(|resident| !resident.is_allowed()) {
            return Some(Awaited::Failed(ProgramError::Memory64.reason()));
        }
        self.awaited.get(name).map(|(_, why)| *why)
    }

    /// Running calls go on in the program they began in, unless the tenant is now suspended.
    pub(crate) fn put_tenant(&mut self, tenant: Arc<DesiredTenant>, program: Prepared) {
        self.awaited.remove(&tenant.name);
        let before = self.tenants.remove(&tenant.name);
        let limits = &tenant.limits.program;
        let same = before.as_ref().filter(|before| before.comes_up_as(&program, limits));
        let instances = same.map(|before| before.instances.clone());
        let instances = instances.unwrap_or_else(|| Instances::of(&program.0, limits));
        let room = before.as_ref().map(|before| before.room.clone());
        let room = room.unwrap_or_else(|| Room::of(limits));
        room.resize(limits);
        let texts = before.as_ref().map(|before| before.texts.clone()).unwrap_or_default();
        let asks = before.as_ref().map(|before| before.asks.clone()).unwrap_or_default();
        let store = before.as_ref().map(|before| before.store.clone()).unwrap_or_default();
        let spent = before.as_ref().map(|before| before.spent.clone()).unwrap_or_default();
        let stop = match before {
            Some(before) if !tenant.suspended => before.stop,
            Some(before) => {
                before.stop.send_replace(Some(Refusal::Suspended));
                Arc::new(watch::Sender::new(None))
            }
            None => Arc::new(watch::Sender::new(None)),
        };
        let resident =
            Resident { tenant, program, instances, room, texts, asks, store, spent, stop };
        self.tenants.insert(resident.tenant.name.clone(), resident);
    }

    pub(crate) fn remove_tenant(&mut self, name: &TenantName) {
        self.awaited.remove(name);
        if let Some(resident) = self.tenants.remove(name) {
            resident.stop.send_replace(Some(Refusal::Cancelled));
        }
    }

    pub(crate) fn put_model(&mut self, name: ModelName, engine: Arc<dyn Engine>) {
        self.models.insert(name, Model::Ready(engine));
    }

    pub(crate) fn await_model(&mut self, name: ModelName, why: Awaited) {
        let model = self.models.entry(name).or_insert(Model::Awaited(why));
        if let Model::Awaited(was) = model {
            *was = why;
        }
    }

    pub(crate) fn lose_model(
        &mut self,
        name: &ModelName,
        lost: &Arc<dyn Engine>,
        reason: &'static str,
    ) {
        if let Some(model) = self.models.get_mut(name)
            && matches!(model, Model::Ready(engine) if Arc::ptr_eq(engine, lost))
        {
            *model = Model::Awaited(Awaited::Failed(reason));
        }
    }

    pub(crate) fn remove_model(&mut self, name: &ModelName) {
        self.models.remove(name);
    }

    pub(crate) fn put_pipeline(&mut self, pipeline: Arc<DesiredPipeline>) {
        self.pipelines.insert(pipeline.name.clone(), pipeline);
    }

    pub(crate) fn remove_pipeline(&mut self, name: &PipelineName) {
        self.pipelines.remove(name);
    }

    /// What each tenant's programs have spent.
    pub(crate) fn spent(&self) -> Vec<(TenantName, ByWay<ProgramSpent>)> {
        self.tenants.iter().map(|(name, resident)| (name.clone(), resident.spent.get())).collect()
    }

    /// A tenant whose calls are taken.
    pub(crate) fn resident(&self, name: &TenantName) -> Option<&Resident> {
        self.tenants.get(name).filter(|resident| resident.is_allowed())
    }

    /// What serves a model now.
    pub(crate) fn engine(&self, name: &ModelName) -> Option<&Arc<dyn Engine>> {
        match self.models.get(name)? {
            Model::Ready(engine) => Some(engine),
            Model::Awaited(_) => None,
        }
    }

    /// The tenant's pipeline of that name. One that is not the tenant's does not exist.
    pub(crate) fn pipeline(
        &self,
        tenant: &DesiredTenant,
        alias: &str,
    ) -> Option<Arc<DesiredPipeline>> {
        self.pipelines.get(tenant.pipelines.get(alias)?).cloned()
    }

    /// What the tenant may use, in the order of its grants.
    pub(crate) fn grants(&self, tenant: &DesiredTenant) -> Arc<[Grant]> {
        let state = |name| match self.models.get(name) {
            Some(Model::Ready(engine)) => ModelState::Ready(engine.clone()),
            Some(Model::Awaited(why)) => ModelState::NotReady(why.to_string()),
            None => ModelState::NotReady("it is not on this node yet".into()),
        };
        tenant
            .models
            .iter()
            .map(|grant| Grant { alias: grant.alias.clone(), state: state(&grant.model) })
            .collect()
    }
}

impl Grant {
    pub(crate) fn info(&self, context_max: u32) -> ModelInfo {
        let engine = match &self.state {
            ModelState::Ready(engine) => Some(engine),
            ModelState::NotReady(_) => None,
        };
        ModelInfo {
            alias: self.alias.clone(),
            ready: engine.is_some(),
            context: engine.map(|engine| engine.info().context.min(context_max)),
            abilities: engine.map(|engine| engine.abilities().within(context_max)),
        }
    }
}
