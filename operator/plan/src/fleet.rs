//! The one owner of all demands and supplies: what is wanted, what there is, what each node holds.
//!
//! Pure state: [`Fleet::plan`] places models on nodes ([`place`]), resolves who may use what
//! ([`resolve`]), and gives out a new [`Desired`] for each node whose content changed.

mod place;
mod resolve;

use std::collections::BTreeMap;

use crate::{
    desired::{Desired, DesiredModel},
    fleet::{
        place::{Placement, place},
        resolve::{Resolved, resolve},
    },
    name::{Kind, Name},
    problem::{PROBLEMS_MAX, Problem},
    validate::{ValidModel, ValidPipeline, ValidSecret, ValidTenant},
};

/// A proven object that somebody wants served.
#[derive(Clone, Debug, PartialEq)]
pub enum Demand {
    Model(ValidModel),
    Tenant(ValidTenant),
    Pipeline(ValidPipeline),
    Secret(ValidSecret),
}

/// A node that can hold models.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSupply {
    pub name: String,
    /// Among equally loaded nodes the one with most memory is filled first.
    pub memory_bytes: u64,
}

/// What one node should hold from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct NodePlan {
    pub node: String,
    pub desired: Desired,
}

/// All demands, all supplies and the last plan.
#[derive(Clone, Debug)]
pub struct Fleet {
    next_generation: u64,
    demands: Demands,
    refused: Problems,
    nodes: BTreeMap<String, NodeSupply>,
    placement: Placement,
    plans: BTreeMap<String, Desired>,
    problems: Problems,
}

/// What is wrong, object by object.
type Problems = BTreeMap<(Kind, Name), Vec<Problem>>;

#[derive(Clone, Debug, Default)]
struct Demands {
    models: BTreeMap<Name, ValidModel>,
    tenants: BTreeMap<Name, ValidTenant>,
    pipelines: BTreeMap<Name, ValidPipeline>,
    secrets: BTreeMap<Name, ValidSecret>,
}

impl Fleet {
    /// An empty fleet whose first plan has `first_generation`: one more than any node has seen.
    pub const fn new(first_generation: u64) -> Self {
        Self {
            next_generation: first_generation,
            demands: Demands {
                models: BTreeMap::new(),
                tenants: BTreeMap::new(),
                pipelines: BTreeMap::new(),
                secrets: BTreeMap::new(),
            },
            refused: BTreeMap::new(),
            nodes: BTreeMap::new(),
            placement: BTreeMap::new(),
            plans: BTreeMap::new(),
            problems: BTreeMap::new(),
        }
    }

    /// Wants an object, in place of any of its kind and name.
    pub fn apply(&mut self, demand: Demand) {
        let Demands { models, tenants, pipelines, secrets } = &mut self.demands;
        let object = match demand {
            Demand::Model(model) => (Kind::Model, insert(models, model.name().clone(), model)),
            Demand::Tenant(tenant) => {
                (Kind::Tenant, insert(tenants, tenant.name().clone(), tenant))
            }
            Demand::Pipeline(pipeline) => {
                (Kind::Pipeline, insert(pipelines, pipeline.name().clone(), pipeline))
            }
            Demand::Secret(secret) => {
                (Kind::Secret, insert(secrets, secret.name().clone(), secret))
            }
        };
        self.refused.remove(&object);
    }

    /// Notes that an object has become something that cannot be served. What it was before, if it
    /// was anything, stays wanted.
    pub fn refuse(&mut self, kind: Kind, name: Name, problems: Vec<Problem>) {
        self.refused.insert((kind, name), problems);
    }

    /// No longer wants an object.
    pub fn remove(&mut self, kind: Kind, name: &Name) {
        let Demands { models, tenants, pipelines, secrets } = &mut self.demands;
        match kind {
            Kind::Model => drop(models.remove(name)),
            Kind::Tenant => drop(tenants.remove(name)),
            Kind::Pipeline => drop(pipelines.remove(name)),
            Kind::Secret => drop(secrets.remove(name)),
        }
        self.refused.remove(&(kind, name.clone()));
    }

    /// Adds a node, or says anew what it has.
    pub fn supply(&mut self, node: NodeSupply) {
        self.nodes.insert(node.name.clone(), node);
    }

    /// Takes a node away, and with it what it held.
    pub fn withdraw(&mut self, node: &str) {
        self.nodes.remove(node);
    }

    /// Remembers that `node` holds `models` already, so that a fleet that starts anew leaves them
    /// there. To be told before the first plan.
    pub fn recall(&mut self, node: &str, models: impl IntoIterator<Item = Name>) {
        for model in models {
            self.placement.entry(model).or_default().insert(node.to_owned());
        }
    }

    /// Plans anew and gives out what changed, in the order of node names.
    pub fn plan(&mut self) -> Vec<NodePlan> {
        self.placement = place(&self.demands.models, &self.nodes, &self.placement);
        let Resolved { tenants, pipelines, mut problems } = resolve(&self.demands);
        problems.extend(place::shortages(&self.demands.models, &self.nodes));
        self.problems = self.refused.clone();
        for (object, problem) in problems {
            let problems = self.problems.entry(object).or_default();
            if problems.len() < PROBLEMS_MAX {
                problems.push(problem);
            }
        }
        let whole =
            Desired { generation: self.next_generation, models: Vec::new(), tenants, pipelines };
        self.publish(&whole)
    }

    /// Gives each node whose content changed its part of `whole`, at the next generation.
    fn publish(&mut self, whole: &Desired) -> Vec<NodePlan> {
        self.plans.retain(|node, _| self.nodes.contains_key(node));
        let mut changed = Vec::new();
        for node in self.nodes.keys() {
            let desired = Desired { models: self.models_on(node), ..whole.clone() };
            if !self.plans.get(node).is_some_and(|last| has_same_content(last, &desired)) {
                changed.push(NodePlan { node: node.clone(), desired });
            }
        }
        for NodePlan { node, desired } in &changed {
            self.plans.insert(node.clone(), desired.clone());
        }
        if !changed.is_empty() {
            self.next_generation = self.next_generation.saturating_add(1);
        }
        changed
    }

    fn models_on(&self, node: &str) -> Vec<DesiredModel> {
        let is_here =
            |name: &Name| self.placement.get(name).is_some_and(|nodes| nodes.contains(node));
        let models = self.demands.models.iter().filter(|(name, _)| is_here(name));
        models.map(|(_, model)| model.desired.clone()).collect()
    }

    /// What `node` should hold by the last plan.
    pub fn desired(&self, node: &str) -> Option<&Desired> {
        self.plans.get(node)
    }

    /// What the last plan found wrong with an object; empty when it is served as it should be.
    pub fn problems(&self, kind: Kind, name: &Name) -> &[Problem] {
        self.problems.get(&(kind, name.clone())).map_or(&[], Vec::as_slice)
    }

    /// Every object that the last plan found something wrong with.
    pub fn all_problems(&self) -> impl Iterator<Item = (Kind, &Name, &[Problem])> {
        self.problems.iter().map(|((kind, name), problems)| (*kind, name, problems.as_slice()))
    }
}

/// Whether two desired states differ in nothing but their generation.
fn has_same_content(a: &Desired, b: &Desired) -> bool {
    let Desired { generation: _, models, tenants, pipelines } = a;
    *models == b.models && *tenants == b.tenants && *pipelines == b.pipelines
}

fn insert<T>(map: &mut BTreeMap<Name, T>, name: Name, object: T) -> Name {
    map.insert(name.clone(), object);
    name
}

#[cfg(test)]
mod tests;
