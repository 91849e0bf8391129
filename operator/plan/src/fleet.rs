//! The one owner of all demands and supplies: what is wanted, what there is, what each node holds.
//!
//! Pure state. [`Fleet::plan`] says how many replicas each model should have ([`scale`]), places
//! them on nodes ([`place`]) by what they take ([`estimate`], [`study`]) and says why some have no
//! place ([`shortage`]), resolves who may use what ([`resolve`]), and gives out a new [`Desired`]
//! for each node whose content changed ([`assemble`]).
//!
//! Nothing is planned before everything that could be wanted is known ([`Fleet::synced`]) and where
//! it could be ([`Fleet::labelled`]), and no node is told anything before it has said what it holds
//! ([`Fleet::report`]): a fleet that starts anew must never read "nothing yet" as "unload
//! everything".

mod assemble;
mod estimate;
mod node;
mod place;
mod resolve;
mod scale;
mod shortage;
mod study;

use std::{
    collections::{BTreeMap, BTreeSet},
    iter,
    time::Duration,
};

use crate::{
    desired::{Desired, Stage},
    fleet::{
        assemble::Shared,
        node::{Heard, Node},
        place::{Placement, Scene, Seat, Seats, place},
        resolve::{Beside, Resolved, beside, resolve},
        scale::{Scale, Usage},
        study::Study,
    },
    name::{Kind, Name},
    problem::{PROBLEMS_MAX, Problem},
    validate::{Replicas, Scaling, Site, ValidModel, ValidPipeline, ValidSecret, ValidTenant},
};
pub use estimate::{Estimate, SequenceBlocks};
pub use node::{ModelHeld, NodeReport, NodeSupply};

/// How far ahead of a fleet the generations in a node's ledger may be: those of six years at twenty
/// a second. A fleet is behind its nodes where the Lease, which keeps count, was deleted.
const LEAP_MAX: u64 = 1 << 32;

/// A proven object that somebody wants served.
#[derive(Clone, Debug, PartialEq)]
pub enum Demand {
    Model(ValidModel),
    Tenant(ValidTenant),
    Pipeline(ValidPipeline),
    Secret(ValidSecret),
}

impl Demand {
    /// The Secrets that the object names.
    pub fn secrets(&self) -> &[Name] {
        match self {
            Self::Model(model) => model.secret.as_slice(),
            Self::Tenant(tenant) => tenant.secrets(),
            Self::Pipeline(_) | Self::Secret(_) => &[],
        }
    }
}

/// What one node should hold from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct NodePlan {
    pub node: String,
    pub desired: Desired,
}

/// How many keys a tenant has that are not disabled, and how many of them have expired.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyCount {
    pub enabled: u32,
    pub expired: u32,
}

/// All demands, all supplies and the last plan.
#[derive(Clone, Debug)]
pub struct Fleet {
    site: Site,
    next_generation: u64,
    /// Kinds whose objects are not all known yet.
    unsynced: BTreeSet<Kind>,
    /// Whether the labels that nodes are supplied with are those that they have.
    is_labelled: bool,
    demands: Demands,
    refused: Problems,
    nodes: BTreeMap<String, Node>,
    /// One for each wanted model.
    studies: BTreeMap<Name, Study>,
    /// The adapters of each wanted model, by the last plan.
    beside: Beside,
    /// One for each wanted model that scales, from its first plan on.
    scales: BTreeMap<Name, Scale>,
    /// How many replicas each wanted model should have, by the last plan.
    wanted: BTreeMap<Name, u32>,
    placement: Placement,
    /// Who may use what, while no demand has changed.
    resolved: Option<Resolved>,
    shared: Shared,
    /// Doors that there may be, whether or not they have been heard of.
    doors_min: u32,
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
    ///
    /// That of one machine plans at once: whoever reads a folder knows all of it.
    pub fn new(site: Site, first_generation: u64) -> Self {
        let unsynced = match site {
            Site::OneMachine => BTreeSet::new(),
            Site::Cluster => {
                BTreeSet::from([Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret])
            }
        };
        Self {
            site,
            next_generation: first_generation,
            unsynced,
            is_labelled: site == Site::OneMachine,
            demands: Demands::default(),
            refused: Problems::new(),
            nodes: BTreeMap::new(),
            studies: BTreeMap::new(),
            beside: Beside::new(),
            scales: BTreeMap::new(),
            wanted: BTreeMap::new(),
            placement: Placement::new(),
            resolved: None,
            shared: Shared::default(),
            doors_min: 0,
            plans: BTreeMap::new(),
            problems: Problems::new(),
        }
    }

    /// Says that every object of `kind` that there is has been applied or refused once. Until this
    /// has been said of each kind, and [`Self::labelled`] of the nodes, [`Self::plan`] plans
    /// nothing.
    pub fn synced(&mut self, kind: Kind) {
        self.unsynced.remove(&kind);
    }

    /// Says that the labels of every node are known: no node has been, or will be, supplied without
    /// those that it has. A model would lose its place on a node that seems to have none.
    pub const fn labelled(&mut self) {
        self.is_labelled = true;
    }

    /// Whether everything has been said to be known, so that there is a plan.
    pub fn is_synced(&self) -> bool {
        self.unsynced.is_empty() && self.is_labelled
    }

    /// Gives out no generation up to this one, which some node has in its ledger. One that no fleet
    /// can have given out is not believed: generations of all nodes would end with it.
    pub const fn outgrow(&mut self, generation: u64) {
        let leap = generation.saturating_sub(self.next_generation);
        if self.next_generation <= generation && leap <= LEAP_MAX {
            self.next_generation = generation.saturating_add(1);
        }
    }

    /// Wants an object, in place of any of its kind and name.
    pub fn apply(&mut self, demand: Demand) {
        self.resolved = None;
        if let Demand::Model(model) = &demand {
            self.restudy(model);
        }
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

    /// Forgets what was known of a model that becomes another one.
    fn restudy(&mut self, model: &ValidModel) {
        let before = self.demands.models.get(model.name());
        // Of one that is new nothing is known but what has been recalled, which is of this form.
        let is_file = before
            .is_none_or(|before| before.artifact == model.artifact && before.base == model.base);
        let is_kv = before.is_none_or(|before| before.kv_cache == model.kv_cache);
        let is_size = before.is_none_or(|before| {
            (before.context, before.kv_blocks) == (model.context, model.kv_blocks)
        });
        let study = self.studies.entry(model.name().clone());
        let study = study.or_insert_with(|| Study::new(self.next_generation));
        if !is_file {
            *study = Study::new(self.next_generation);
        } else if !is_kv {
            // The file is the same, and what is said of the size of blocks was of other ones.
            *study = Study::of_kv(self.next_generation);
        }
        if !is_size {
            study.failed_on.clear();
        }
        if !(is_file && is_kv && is_size) {
            // What was chosen for the one before says nothing of this one.
            let seats = self.placement.get_mut(model.name()).into_iter().flatten();
            seats.for_each(|(_, seat)| *seat = Seat::default());
        }
    }

    /// Notes that an object has become something that cannot be served. What it was before, if it
    /// was anything, stays wanted.
    pub fn refuse(&mut self, kind: Kind, name: Name, problems: Vec<Problem>) {
        self.refused.insert((kind, name), problems);
    }

    /// No longer wants an object.
    pub fn remove(&mut self, kind: Kind, name: &Name) {
        self.resolved = None;
        let Demands { models, tenants, pipelines, secrets } = &mut self.demands;
        match kind {
            Kind::Model => {
                models.remove(name);
                self.studies.remove(name);
                self.scales.remove(name);
                self.placement.remove(name);
            }
            Kind::Tenant => drop(tenants.remove(name)),
            Kind::Pipeline => drop(pipelines.remove(name)),
            Kind::Secret => drop(secrets.remove(name)),
        }
        self.refused.remove(&(kind, name.clone()));
    }

    /// Adds a node that is connected, or says anew what it has.
    pub fn supply(&mut self, supply: NodeSupply) {
        let node = self.nodes.entry(supply.name.clone()).or_default();
        node.is_connected = true;
        node.supply = Some(supply);
    }

    /// Takes what a node says it holds. A node that is not known has nothing to say.
    pub fn report(&mut self, node: &str, report: NodeReport) {
        let Some(known) = self.nodes.get_mut(node) else { return };
        let NodeReport { generation, models } = report;
        let models: BTreeMap<_, _> =
            models.into_iter().map(|held| (held.name.clone(), held)).collect();
        for held in models.values() {
            let study = self.studies.get_mut(&held.name);
            let Some((study, model)) = study.zip(self.demands.models.get(&held.name)) else {
                continue;
            };
            // An adapter is not tried where its model is not loaded.
            let is_loaded =
                |base| models.get(base).is_some_and(|held| held.stage == Some(Stage::Load));
            let is_tried = model.base.as_ref().is_none_or(is_loaded);
            let held = ModelHeld { is_failed: held.is_failed && is_tried, ..held.clone() };
            study.learn(model, node, generation, &held);
        }
        known.heard = Some(Heard { models });
    }

    /// Notes that nobody can reach a node for now. It keeps its models, and gets no new ones and
    /// no calls, until it is supplied again or withdrawn.
    pub fn disconnect(&mut self, node: &str) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.is_connected = false;
        }
    }

    /// Takes a node away, and with it what it held: whoever has a clock says that it is lost.
    pub fn withdraw(&mut self, node: &str) {
        self.nodes.remove(node);
        for study in self.studies.values_mut() {
            study.failed_on.remove(node);
        }
        for seats in self.placement.values_mut() {
            seats.remove(node);
        }
    }

    /// Remembers that `node` holds `models`, so that a fleet that starts anew leaves them there
    /// until the node is back or is withdrawn. To be told before the first plan, also of a node
    /// without models: it may be a door, and limits are shared out over it.
    pub fn recall(&mut self, node: &str, models: impl IntoIterator<Item = Name>) {
        self.nodes.entry(node.to_owned()).or_default();
        for model in models {
            let seat = Seat { is_recalled: true, ..Seat::default() };
            self.placement.entry(model).or_default().insert(node.to_owned(), seat);
        }
    }

    /// Remembers what the header of a model's file alone had said, where the whole file says
    /// otherwise: those who have the file read its header no more. To be told of the form in which
    /// the model is wanted.
    pub fn recall_claimed(&mut self, model: &Name, claimed: Estimate) {
        let study = self.studies.entry(model.clone());
        let study = study.or_insert_with(|| Study::new(self.next_generation));
        study.claimed.get_or_insert(claimed);
    }

    /// Remembers that limits were shared out over so many doors. Those that have not come back yet
    /// let calls in with their parts, so that nobody may get a larger one until they have, or until
    /// whoever has a clock says by a 0 that they are lost.
    pub const fn recall_doors(&mut self, doors: u32) {
        self.doors_min = doors;
    }

    /// Plans anew and gives out what changed, in the order of node names; nothing before all that
    /// could be wanted is known. What a node gets that cannot be reached waits for it in
    /// [`Self::desired`]. `now` is the time since any moment that the owner has chosen once.
    pub fn plan(&mut self, now: Duration) -> Vec<NodePlan> {
        if !self.is_synced() {
            return Vec::new();
        }
        self.beside = beside(&self.demands.models);
        self.scale(now);
        self.placement = place(self.scene(), &self.placement);
        let Demands { models, .. } = &self.demands;
        study::assign(models, &self.nodes, &self.placement, &self.wanted, &mut self.studies);
        self.share();
        self.gather_problems();
        self.publish()
    }

    const fn scene(&self) -> Scene<'_> {
        Scene {
            site: self.site,
            models: &self.demands.models,
            nodes: &self.nodes,
            studies: &self.studies,
            beside: &self.beside,
            wanted: &self.wanted,
        }
    }

    /// Says how many replicas each model should have.
    fn scale(&mut self, now: Duration) {
        let mut wanted = BTreeMap::new();
        for (name, model) in &self.demands.models {
            if model.base.is_some() {
                continue;
            }
            let adapters = self.beside.get(name).map_or(&[][..], Vec::as_slice);
            let replicas = match model.replicas {
                Replicas::Fixed(replicas) => {
                    self.scales.remove(name);
                    replicas
                }
                Replicas::Scaled(scaling) => {
                    let seats = self.placement.get(name);
                    let held = seats.map_or(0, BTreeMap::len).try_into().unwrap_or(u32::MAX);
                    let usage = usage((name, adapters), seats, &self.nodes);
                    let scale = self.scales.entry(name.clone());
                    let scale = scale.or_insert_with(|| Scale::new(&scaling, held, now));
                    scale.step(&scaling, usage, now)
                }
            };
            wanted.insert(name.clone(), replicas);
            wanted.extend(adapters.iter().map(|adapter| (adapter.clone(), replicas)));
        }
        self.wanted = wanted;
    }

    /// Brings what all nodes share up to date.
    fn share(&mut self) {
        let doors = self.nodes.values().filter(|node| node.may_be_door()).count();
        // A `u32` counts more nodes than there are addresses.
        let doors = u32::try_from(doors).unwrap_or(u32::MAX).max(self.doors_min).max(1);
        if self.resolved.is_none() || self.shared.doors() != doors {
            let resolved = self.resolved.get_or_insert_with(|| resolve(&self.demands));
            self.shared.update(resolved, doors);
        }
        let mut shared = std::mem::take(&mut self.shared);
        shared.update_routes(self.scene(), &self.placement);
        self.shared = shared;
    }

    fn gather_problems(&mut self) {
        let mut all = self.refused.clone();
        let resolved = self.resolved.iter().flat_map(|resolved| resolved.problems.clone());
        let shortages = shortage::shortages(self.scene(), &self.placement);
        let shortages = shortages.into_iter().flat_map(|(object, problems)| {
            problems.into_iter().map(move |problem| (object.clone(), problem))
        });
        for (object, problem) in resolved.chain(shortages) {
            let problems = all.entry(object).or_default();
            if problems.len() < PROBLEMS_MAX {
                problems.push(problem);
            }
        }
        self.problems = all;
    }

    /// Gives each node whose content changed what it should hold, at the next generation.
    fn publish(&mut self) -> Vec<NodePlan> {
        self.plans.retain(|node, _| self.nodes.contains_key(node));
        let models = assemble::models(self.scene(), &self.placement);
        let mut changed = Vec::new();
        for ((name, node), models) in self.nodes.iter().zip(models) {
            // What a node holds that has not said so yet must not be taken from it.
            let is_heard = node.heard.is_some() || self.site == Site::OneMachine;
            if node.supply.is_none() || !is_heard {
                continue;
            }
            let desired = self.shared.desired(self.site, node, models);
            if !self.plans.get(name).is_some_and(|last| last.has_same_content(&desired)) {
                let desired = Desired { generation: self.next_generation, ..desired };
                changed.push(NodePlan { node: name.clone(), desired });
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

    /// When time alone may change the plan, by the last one: the owner then plans again.
    pub fn due(&self) -> Option<Duration> {
        let due = self.scales.iter().filter_map(|(name, scale)| {
            scale.due(&self.demands.models.get(name).and_then(scaling)?)
        });
        due.min()
    }

    /// What `node` should hold by the last plan.
    pub fn desired(&self, node: &str) -> Option<&Desired> {
        self.plans.get(node)
    }

    /// What a model takes, once a node has told.
    pub fn estimate(&self, model: &Name) -> Option<&Estimate> {
        self.studies.get(model)?.estimate.as_ref()
    }

    /// What the header of a model's file alone had said, where the whole file says otherwise.
    pub fn claimed(&self, model: &Name) -> Option<&Estimate> {
        self.studies.get(model)?.claimed.as_ref()
    }

    /// How many replicas a model should have, by the last plan.
    pub fn replicas(&self, model: &Name) -> u32 {
        self.wanted.get(model).copied().unwrap_or(0)
    }

    /// Doors that the tenants' limits are shared out over, by the last plan.
    pub const fn doors(&self) -> u32 {
        self.shared.doors()
    }

    /// What was remembered of doors that there were, until they are said to be lost.
    pub const fn doors_recalled(&self) -> u32 {
        self.doors_min
    }

    /// How many keys a tenant has at this second of the Unix epoch, by the last plan.
    pub fn keys_of(&self, tenant: &Name, unix_seconds: u64) -> KeyCount {
        // In the order of names.
        let tenants = self.resolved.as_ref().map_or(&[][..], |resolved| &resolved.tenants);
        let place = tenants.binary_search_by(|resolved| resolved.name.cmp(tenant));
        let found = place.ok().and_then(|place| tenants.get(place));
        let mut count = KeyCount::default();
        for key in found.into_iter().flat_map(|found| &found.keys).filter(|key| !key.disabled) {
            count.enabled = count.enabled.saturating_add(1);
            let has_expired = key.expires_at.is_some_and(|at| at <= unix_seconds);
            count.expired = count.expired.saturating_add(u32::from(has_expired));
        }
        count
    }

    /// The next second at which a key of some tenant expires that has not by this one.
    pub fn next_expiry(&self, unix_seconds: u64) -> Option<u64> {
        let tenants = self.resolved.iter().flat_map(|resolved| &resolved.tenants);
        let keys = tenants.flat_map(|tenant| &tenant.keys).filter(|key| !key.disabled);
        keys.filter_map(|key| key.expires_at).filter(|at| unix_seconds < *at).min()
    }

    /// A tenant that is wanted.
    pub fn tenant(&self, tenant: &Name) -> Option<&ValidTenant> {
        self.demands.tenants.get(tenant)
    }

    /// Whether there is any node, be it one that is away and not lost yet.
    pub fn has_nodes(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// Whether any node is a door, or may be: one that has yet to say so, or was there before.
    pub fn has_doors(&self) -> bool {
        self.has_nodes() && (self.doors_min > 0 || self.nodes.values().any(Node::may_be_door))
    }

    /// Whether calls wake a model that nobody serves; an adapter where they wake its model.
    pub fn is_woken(&self, model: &Name) -> bool {
        let model = self.demands.models.get(model).and_then(|model| self.scene().decides(model));
        model.and_then(scaling).is_some_and(|scaling| scaling.min == 0)
    }

    /// The models that a pipeline uses.
    pub fn models_of_pipeline(&self, pipeline: &Name) -> &[Name] {
        self.demands.pipelines.get(pipeline).map_or(&[], |pipeline| pipeline.models.as_slice())
    }

    /// The nodes that are to load a model, by the last plan.
    pub fn nodes_of(&self, model: &Name) -> impl Iterator<Item = &str> {
        self.placement.get(model).into_iter().flatten().map(|(node, _)| node.as_str())
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

const fn scaling(model: &ValidModel) -> Option<Scaling> {
    match model.replicas {
        Replicas::Fixed(_) => None,
        Replicas::Scaled(scaling) => Some(scaling),
    }
}

/// How much a model is used: by calls in hand at the replicas in `seats`, which are its adapters'
/// too, and by calls that doors hold for any of them, as far as their nodes can be reached.
fn usage(
    (model, adapters): (&Name, &[Name]),
    seats: Option<&Seats>,
    nodes: &BTreeMap<String, Node>,
) -> Usage {
    let supplies = nodes.values().filter(|node| node.is_connected);
    let named = || iter::once(model).chain(adapters);
    let held = supplies.filter_map(|node| node.supply.as_ref());
    let held = held.flat_map(|supply| named().filter_map(|name| supply.held.get(name)));
    let calls = held.fold(0_u64, |calls, held| calls.saturating_add(u64::from(*held)));
    let mut usage = Usage { calls, is_settled: true };
    for name in seats.into_iter().flat_map(BTreeMap::keys) {
        let Some(node) = nodes.get(name) else { continue };
        let supply = node.supply.as_ref().filter(|_| node.is_connected);
        let calls = supply.and_then(|supply| supply.calls.get(model)).copied().unwrap_or(0);
        usage.calls = usage.calls.saturating_add(u64::from(calls));
        let has_failed = node.held(model).is_some_and(|held| held.is_failed);
        usage.is_settled &= node.has_loaded(model) || has_failed || !node.is_connected;
    }
    usage
}

fn insert<T>(map: &mut BTreeMap<Name, T>, name: Name, object: T) -> Name {
    map.insert(name.clone(), object);
    name
}

#[cfg(test)]
mod tests;
