//! What became of every object: the last plan, and what the nodes say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use realm_plan::{
    Estimate, Fleet, Kind, Name, Problem,
    desired::{Sha256, Stage},
};

use crate::link::{
    registry::NodeView,
    report::{Failure, ModelFacts, ModelPhase, Phase, Report},
};

/// Every object's standing, and what nodes still hold. Whole, and never changed once it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    standings: BTreeMap<(Kind, Name), Arc<Standing>>,
    held: BTreeSet<(Kind, Name)>,
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The generation of the spec that was planned.
    pub generation: i64,
    pub problems: Vec<Problem>,
    pub nodes: Standings,
}

/// What the nodes say, by the kind of object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standings {
    Model(ModelStanding),
    Tenant(TenantStanding),
    Pipeline(PipelineStanding),
    /// Nobody is told what became of a Secret.
    Secret,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelStanding {
    /// How many agents should load it, by the last plan.
    pub replicas: u32,
    pub estimate: Option<Estimate>,
    /// What the header alone had said, where the whole file says otherwise.
    pub claimed: Option<Estimate>,
    pub facts: Option<ModelFacts>,
    /// By name of the node, connected ones only.
    pub nodes: BTreeMap<String, ModelOnNode>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelOnNode {
    /// Whether the node is to load it, rather than to look into it or keep its file.
    pub is_to_load: bool,
    /// How far the node is, whatever it is trying.
    pub stage: Option<Stage>,
    pub phase: ModelPhase,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TenantStanding {
    /// Keys that are well formed and not disabled.
    pub keys: u32,
    /// Doors over which its limits are shared out.
    pub doors: u32,
    pub tally: Tally,
    /// The program that takes its calls, where all nodes agree.
    pub program: Option<Sha256>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PipelineStanding {
    pub tally: Tally,
    /// Its models that no node serves now.
    pub models_missing: Vec<Name>,
}

/// How far an object is on all connected nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub ready: u32,
    pub pending: u32,
    pub failed: u32,
    /// One of the failures, with its node.
    pub failure: Option<(String, Failure)>,
}

impl Tally {
    fn count(&mut self, node: &str, phase: &Phase) {
        match phase {
            Phase::Pending => self.pending = self.pending.saturating_add(1),
            Phase::Ready => self.ready = self.ready.saturating_add(1),
            Phase::Failed(failure) => {
                self.failed = self.failed.saturating_add(1);
                self.failure.get_or_insert_with(|| (node.to_owned(), failure.clone()));
            }
        }
    }
}

impl Snapshot {
    /// Every object's standing.
    pub fn standings(&self) -> impl Iterator<Item = (Kind, &Name, &Standing)> {
        self.standings.iter().map(|((kind, name), standing)| (*kind, name, &**standing))
    }

    pub(super) fn get(&self, kind: Kind, name: &Name) -> Option<&Arc<Standing>> {
        self.standings.get(&(kind, name.clone()))
    }

    pub(super) fn is_held(&self, kind: Kind, name: &Name) -> bool {
        self.held.contains(&(kind, name.clone()))
    }

    /// The same, with every standing that did not change shared with `last`, so that a change is
    /// told by a pointer.
    pub(super) fn sharing(mut self, last: &Self) -> Self {
        for (object, standing) in &mut self.standings {
            if let Some(old) = last.standings.get(object)
                && old == standing
            {
                *standing = old.clone();
            }
        }
        self
    }

    /// Objects of `kind` whose standing, or whose being held, is not as it was in `seen`.
    pub(super) fn changed_since(&self, seen: &Self, kind: Kind) -> Vec<Name> {
        let of_kind = |object: &&(Kind, Name)| object.0 == kind;
        let is_new = |(object, standing): &(&(Kind, Name), &Arc<Standing>)| {
            seen.standings.get(*object).is_none_or(|old| !Arc::ptr_eq(old, standing))
        };
        let standings = self.standings.iter().filter(|(object, _)| object.0 == kind);
        let changed = standings.filter(is_new).map(|(object, _)| object);
        let let_go = seen.held.difference(&self.held).filter(of_kind);
        let changed: BTreeSet<_> = changed.chain(let_go).collect();
        changed.into_iter().map(|(_, name)| name.clone()).collect()
    }
}

/// Gathers what became of every object that was `observed`.
pub(super) fn snapshot(
    fleet: &Fleet,
    observed: &BTreeMap<(Kind, Name), i64>,
    views: &BTreeMap<String, NodeView>,
) -> Snapshot {
    let said = Said::of(views);
    let mut standings = BTreeMap::new();
    // Before the first plan nothing is known, and "nothing" must not be written into a status.
    if fleet.is_synced() {
        for ((kind, name), generation) in observed {
            let standing = Standing {
                generation: *generation,
                problems: fleet.problems(*kind, name).to_vec(),
                nodes: said.of_object(fleet, *kind, name),
            };
            standings.insert((*kind, name.clone()), Arc::new(standing));
        }
    }
    Snapshot { standings, held: said.held }
}

/// What all connected nodes say, object by object.
#[derive(Default)]
struct Said {
    models: BTreeMap<Name, ModelStanding>,
    tenants: BTreeMap<Name, TenantSaid>,
    pipelines: BTreeMap<Name, Tally>,
    held: BTreeSet<(Kind, Name)>,
}

#[derive(Default)]
struct TenantSaid {
    tally: Tally,
    programs: BTreeSet<Sha256>,
}

impl Said {
    fn of(views: &BTreeMap<String, NodeView>) -> Self {
        let mut said = Self::default();
        for (node, view) in views {
            if let Some(report) = view.report.as_ref().filter(|_| view.is_connected) {
                said.take(node, report);
            }
        }
        said
    }

    fn take(&mut self, node: &str, report: &Report) {
        let Report { generation: _, models, tenants, pipelines } = report;
        for model in models {
            self.held.insert((Kind::Model, model.name.clone()));
            let standing = self.models.entry(model.name.clone()).or_default();
            // Those of a whole file before those of a header.
            let is_verified = |facts: &ModelFacts| facts.sha256.is_some();
            if let Some(facts) = &model.facts
                && standing
                    .facts
                    .as_ref()
                    .is_none_or(|known| !is_verified(known) && is_verified(facts))
            {
                standing.facts = Some(facts.clone());
            }
            let on_node =
                ModelOnNode { is_to_load: false, stage: model.stage, phase: model.phase.clone() };
            standing.nodes.insert(node.to_owned(), on_node);
        }
        for tenant in tenants {
            self.held.insert((Kind::Tenant, tenant.name.clone()));
            let said = self.tenants.entry(tenant.name.clone()).or_default();
            said.tally.count(node, &tenant.phase);
            said.programs.extend(tenant.program);
        }
        for pipeline in pipelines {
            self.held.insert((Kind::Pipeline, pipeline.name.clone()));
            self.pipelines.entry(pipeline.name.clone()).or_default().count(node, &pipeline.phase);
        }
    }

    fn of_object(&self, fleet: &Fleet, kind: Kind, name: &Name) -> Standings {
        match kind {
            Kind::Model => Standings::Model(self.model(fleet, name)),
            Kind::Tenant => Standings::Tenant(self.tenant(fleet, name)),
            Kind::Pipeline => Standings::Pipeline(self.pipeline(fleet, name)),
            Kind::Secret => Standings::Secret,
        }
    }

    fn model(&self, fleet: &Fleet, name: &Name) -> ModelStanding {
        let mut standing = self.models.get(name).cloned().unwrap_or_default();
        standing.replicas = fleet.replicas(name);
        standing.estimate = fleet.estimate(name).copied();
        standing.claimed = fleet.claimed(name).copied();
        for node in fleet.nodes_of(name) {
            if let Some(on_node) = standing.nodes.get_mut(node) {
                on_node.is_to_load = true;
            }
        }
        standing
    }

    fn tenant(&self, fleet: &Fleet, name: &Name) -> TenantStanding {
        let said = self.tenants.get(name);
        let programs = said.map(|said| &said.programs);
        let program = programs.filter(|programs| programs.len() == 1);
        TenantStanding {
            keys: fleet.keys_of(name),
            doors: fleet.doors(),
            tally: said.map(|said| said.tally.clone()).unwrap_or_default(),
            program: program.and_then(|programs| programs.first().copied()),
        }
    }

    fn pipeline(&self, fleet: &Fleet, name: &Name) -> PipelineStanding {
        let models = fleet.models_of_pipeline(name).iter();
        PipelineStanding {
            tally: self.pipelines.get(name).cloned().unwrap_or_default(),
            models_missing: models.filter(|model| !self.is_served(model)).cloned().collect(),
        }
    }

    fn is_served(&self, model: &Name) -> bool {
        let standing = self.models.get(model);
        standing.is_some_and(|standing| {
            standing.nodes.values().any(|node| node.stage == Some(Stage::Load))
        })
    }
}
