//! What all nodes say, object by object: kept from turn to turn, so that a report costs
//! what is new in it. A hundred doors say of a thousand tenants that nothing has changed.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use realm_plan::{
    Fleet, Kind, Name,
    desired::{Sha256, Stage},
    shares::Applied,
    validate::ValidTenant,
};
use realm_proto::link::versions::Versions;
use tokio::time::Instant;

use super::{
    slicing::Slicing,
    standing::{
        Holders, ModelOnNode, ModelStanding, PipelineStanding, Reach, Standings, Tally,
        TenantStanding,
    },
};
use crate::link::{
    registry::NodeView,
    report::{
        Failure, ModelFacts, ModelPhase, ModelReport, Phase, PipelineReport, Report, TenantReport,
    },
};

/// How long an agent that was turned away is counted as there: it comes again within 30 s.
const COMES_WITHIN: Duration = Duration::from_mins(1);

/// What nodes say now, and the reports that it was counted from.
#[derive(Debug, Default)]
pub(super) struct Said {
    reports: BTreeMap<String, Arc<Report>>,
    models: BTreeMap<Name, ModelSaid>,
    tenants: BTreeMap<Name, TenantSaid>,
    pipelines: BTreeMap<Name, Counts>,
    /// The first of the nodes whose agents speak no version of the link that is spoken here.
    unspoken: Option<(String, Versions)>,
}

/// A model, by name of the node.
type ModelSaid = BTreeMap<String, (ModelOnNode, Option<ModelFacts>)>;

#[derive(Debug, Default)]
struct TenantSaid {
    counts: Counts,
    /// How many nodes run each program.
    programs: BTreeMap<Sha256, u32>,
}

/// How many nodes are how far.
#[derive(Debug, Default)]
struct Counts {
    ready: u32,
    pending: u32,
    failed: BTreeMap<String, Failure>,
}

impl Said {
    /// Takes in what is new. What a node said holds for as long as it `is_known`, whether or not it
    /// can be reached: most come back at once.
    pub(super) fn update(
        &mut self,
        views: &BTreeMap<String, NodeView>,
        is_known: impl Fn(&str) -> bool,
        now: Instant,
    ) {
        let comes = |view: &NodeView| view.heard_at.is_some_and(|at| now < at + COMES_WITHIN);
        let there = views.iter().filter(|(_, view)| comes(view));
        let mut unspoken = there.filter_map(|(node, view)| Some((node, view.unspoken?)));
        self.unspoken = unspoken.next().map(|(node, said)| (node.clone(), said));
        let gone: Vec<String> =
            self.reports.keys().filter(|node| !is_known(node)).cloned().collect();
        for node in gone {
            if let Some(old) = self.reports.remove(&node) {
                self.replace(&node, &old, &Report::default());
            }
        }
        for (node, view) in views {
            let Some(new) = view.report.as_ref().filter(|_| view.is_connected) else { continue };
            let old = self.reports.insert(node.clone(), new.clone()).unwrap_or_default();
            if !Arc::ptr_eq(&old, new) {
                self.replace(node, &old, new);
            }
        }
    }

    fn replace(&mut self, node: &str, old: &Report, new: &Report) {
        let Report { generation: _, models, tenants, pipelines } = new;
        let (gone, come) = difference(&old.models, models);
        for model in gone {
            self.remove_model(node, model);
        }
        for model in come {
            self.add_model(node, model);
        }
        let (gone, come) = difference(&old.tenants, tenants);
        for tenant in gone {
            self.remove_tenant(node, tenant);
        }
        for tenant in come {
            self.add_tenant(node, tenant);
        }
        let (gone, come) = difference(&old.pipelines, pipelines);
        for pipeline in gone {
            self.remove_pipeline(node, pipeline);
        }
        for pipeline in come {
            self.add_pipeline(node, pipeline);
        }
    }

    fn add_model(&mut self, node: &str, model: &ModelReport) {
        let ModelReport { name, phase, stage, kv_blocks: _, facts } = model;
        let on_node = ModelOnNode { is_to_load: false, stage: *stage, phase: phase.clone() };
        let nodes = self.models.entry(name.clone()).or_default();
        nodes.insert(node.to_owned(), (on_node, facts.clone()));
    }

    fn remove_model(&mut self, node: &str, model: &ModelReport) {
        if let Some(nodes) = self.models.get_mut(&model.name) {
            nodes.remove(node);
            if nodes.is_empty() {
                self.models.remove(&model.name);
            }
        }
    }

    fn add_tenant(&mut self, node: &str, tenant: &TenantReport) {
        let TenantReport { name, phase, program } = tenant;
        let said = self.tenants.entry(name.clone()).or_default();
        said.counts.add(node, phase);
        if let Some(program) = program {
            let nodes = said.programs.entry(*program).or_default();
            *nodes = nodes.saturating_add(1);
        }
    }

    fn remove_tenant(&mut self, node: &str, tenant: &TenantReport) {
        let TenantReport { name, phase, program } = tenant;
        let Some(said) = self.tenants.get_mut(name) else { return };
        said.counts.remove(node, phase);
        if let Some(nodes) = program.and_then(|program| said.programs.get_mut(&program)) {
            *nodes = nodes.saturating_sub(1);
        }
        said.programs.retain(|_, nodes| *nodes > 0);
        if said.counts.is_nothing() {
            self.tenants.remove(name);
        }
    }

    fn add_pipeline(&mut self, node: &str, pipeline: &PipelineReport) {
        let counts = self.pipelines.entry(pipeline.name.clone()).or_default();
        counts.add(node, &pipeline.phase);
    }

    fn remove_pipeline(&mut self, node: &str, pipeline: &PipelineReport) {
        let Some(counts) = self.pipelines.get_mut(&pipeline.name) else { return };
        counts.remove(node, &pipeline.phase);
        if counts.is_nothing() {
            self.pipelines.remove(&pipeline.name);
        }
    }

    /// Every object that some node holds.
    pub(super) fn held(&self) -> BTreeSet<(Kind, Name)> {
        let models = self.models.keys().map(|name| (Kind::Model, name.clone()));
        let tenants = self.tenants.keys().map(|name| (Kind::Tenant, name.clone()));
        let pipelines = self.pipelines.keys().map(|name| (Kind::Pipeline, name.clone()));
        models.chain(tenants).chain(pipelines).collect()
    }

    /// Which nodes hold each of these objects. A look at every report, unless there are none.
    pub(super) fn holders<'a>(
        &self,
        objects: impl Iterator<Item = &'a (Kind, Name)>,
    ) -> BTreeMap<(Kind, Name), Holders> {
        let mut all: BTreeMap<_, _> =
            objects.map(|(kind, name)| ((*kind, name), Holders::default())).collect();
        if all.is_empty() {
            return BTreeMap::new();
        }
        for (node, report) in &self.reports {
            let Report { generation: _, models, tenants, pipelines } = &**report;
            let models = models.iter().map(|model| (Kind::Model, &model.name));
            let tenants = tenants.iter().map(|tenant| (Kind::Tenant, &tenant.name));
            let pipelines = pipelines.iter().map(|pipeline| (Kind::Pipeline, &pipeline.name));
            for (kind, name) in models.chain(tenants).chain(pipelines) {
                if let Some(holders) = all.get_mut(&(kind, name)) {
                    holders.add(node);
                }
            }
        }
        all.into_iter().map(|((kind, name), held)| ((kind, name.clone()), held)).collect()
    }

    /// What became of one object, by the last plan and by what nodes say.
    pub(super) fn of_object(
        &self,
        (fleet, slicing): (&Fleet, &Slicing),
        kind: Kind,
        name: &Name,
        unix_seconds: u64,
    ) -> Standings {
        match kind {
            Kind::Model => Standings::Model(self.model(fleet, name)),
            Kind::Tenant => {
                let applied = slicing.applied(name).clone();
                let tenant = self.tenant(fleet, name, unix_seconds);
                Standings::Tenant(TenantStanding { applied, ..tenant })
            }
            Kind::Pipeline => Standings::Pipeline(self.pipeline(fleet, name)),
            Kind::Secret => Standings::Secret,
        }
    }

    fn model(&self, fleet: &Fleet, name: &Name) -> ModelStanding {
        let said = self.models.get(name);
        let nodes = said.into_iter().flatten();
        let facts = || nodes.clone().filter_map(|(_, (_, facts))| facts.as_ref());
        // Those of a whole file before those of a header.
        let verified = facts().find(|facts| facts.sha256.is_some());
        let mut standing = ModelStanding {
            has_agents: fleet.has_nodes(),
            replicas: fleet.replicas(name),
            is_woken: fleet.is_woken(name),
            estimate: fleet.estimate(name).copied(),
            claimed: fleet.claimed(name).copied(),
            facts: verified.or_else(|| facts().next()).cloned(),
            nodes: nodes
                .clone()
                .map(|(node, (on_node, _))| (node.clone(), on_node.clone()))
                .collect(),
        };
        for node in fleet.nodes_of(name) {
            if let Some(on_node) = standing.nodes.get_mut(node) {
                on_node.is_to_load = true;
            }
        }
        standing
    }

    fn tenant(&self, fleet: &Fleet, name: &Name, unix_seconds: u64) -> TenantStanding {
        let said = self.tenants.get(name);
        let wanted = fleet.tenant(name);
        let programs = said.map(|said| &said.programs);
        let hosts = programs.into_iter().flat_map(BTreeMap::values);
        let program = programs.filter(|programs| programs.len() == 1);
        let models = wanted.map_or(&[][..], ValidTenant::models);
        let is_usable = |model| self.is_usable(fleet, model);
        let models_missing =
            if models.iter().any(is_usable) { Vec::new() } else { models.to_vec() };
        let keys = fleet.keys_of(name, unix_seconds);
        TenantStanding {
            keys: keys.enabled,
            keys_expired: keys.expired,
            is_suspended: wanted.is_some_and(ValidTenant::is_suspended),
            doors: fleet.has_nodes().then(|| if fleet.has_doors() { fleet.doors() } else { 0 }),
            applied: Applied::default(),
            tally: said.map(|said| said.counts.tally()).unwrap_or_default(),
            hosts: hosts.fold(0, |all, nodes| all.saturating_add(*nodes)),
            program: program.and_then(|programs| programs.keys().next().copied()),
            is_model_coming: models_missing.iter().any(|model| self.is_coming(fleet, model)),
            models_missing,
            unspoken: self.unspoken.clone(),
            limits: wanted.map(|tenant| (*tenant.limits(), tenant.limits_mode())),
            turn: wanted.map(|tenant| (tenant.weight(), tenant.priority())),
            reach: Reach::default(),
            totals: None,
        }
    }

    fn pipeline(&self, fleet: &Fleet, name: &Name) -> PipelineStanding {
        // Several steps may use one model.
        let models: BTreeSet<_> = fleet.models_of_pipeline(name).iter().collect();
        let missing = models.into_iter().filter(|model| !self.is_usable(fleet, model));
        let models_missing: Vec<_> = missing.cloned().collect();
        let is_coming = |model| self.is_coming(fleet, model);
        PipelineStanding {
            tally: self.pipelines.get(name).map(Counts::tally).unwrap_or_default(),
            are_models_coming: models_missing.iter().all(is_coming),
            models_missing,
        }
    }

    /// Whether calls of a model are served, the first of them perhaps when it has woken.
    fn is_usable(&self, fleet: &Fleet, model: &Name) -> bool {
        self.is_served(model) || (fleet.is_woken(model) && self.is_coming(fleet, model))
    }

    /// Whether an agent loads a model, or will when it is to: there is one, and nothing is known
    /// against it. What keeps it from having more replicas keeps no first one away.
    fn is_coming(&self, fleet: &Fleet, model: &Name) -> bool {
        let mut nodes = self.models.get(model).into_iter().flatten();
        let has_failed = nodes.any(|(_, (it, _))| matches!(it.phase, ModelPhase::Failed(_)));
        let is_placed = fleet.nodes_of(model).next().is_some();
        let is_wanted = fleet.replicas(model) > 0 || fleet.is_woken(model);
        let is_free = is_wanted && fleet.problems(Kind::Model, model).is_empty();
        fleet.has_nodes() && (is_placed || is_free) && !has_failed
    }

    fn is_served(&self, model: &Name) -> bool {
        let mut nodes = self.models.get(model).into_iter().flatten();
        nodes.any(|(_, (on_node, _))| on_node.stage == Some(Stage::Load))
    }
}

impl Counts {
    fn add(&mut self, node: &str, phase: &Phase) {
        match phase {
            Phase::Pending => self.pending = self.pending.saturating_add(1),
            Phase::Ready => self.ready = self.ready.saturating_add(1),
            Phase::Failed(failure) => {
                self.failed.insert(node.to_owned(), failure.clone());
            }
        }
    }

    fn remove(&mut self, node: &str, phase: &Phase) {
        match phase {
            Phase::Pending => self.pending = self.pending.saturating_sub(1),
            Phase::Ready => self.ready = self.ready.saturating_sub(1),
            Phase::Failed(_) => drop(self.failed.remove(node)),
        }
    }

    fn is_nothing(&self) -> bool {
        self.ready == 0 && self.pending == 0 && self.failed.is_empty()
    }

    fn tally(&self) -> Tally {
        let Self { ready, pending, failed } = self;
        let failure = failed.first_key_value();
        Tally {
            ready: *ready,
            pending: *pending,
            failed: u32::try_from(failed.len()).unwrap_or(u32::MAX),
            failure: failure.map(|(node, failure)| (node.clone(), failure.clone())),
        }
    }
}

/// What is only in `old`, and what is only in `new`. Compared place by place from both ends, which
/// is right in any order, and quick for lists in which an item came, went or changed.
fn difference<'a, T: PartialEq>(old: &'a [T], new: &'a [T]) -> (Vec<&'a T>, Vec<&'a T>) {
    let is_same = |(a, b): &(&T, &T)| a == b;
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(is_same).count();
    let (old, _) = old.split_at(old.len().saturating_sub(tail));
    let (new, _) = new.split_at(new.len().saturating_sub(tail));
    let differs = |item: &T, other: Option<&T>| other != Some(item);
    let places = |of: &'a [T], than: &'a [T]| {
        let items = of.iter().enumerate();
        items.filter(move |(i, item)| differs(item, than.get(*i))).map(|(_, item)| item).collect()
    };
    (places(old, new), places(new, old))
}

#[cfg(test)]
mod tests;
