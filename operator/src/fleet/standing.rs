//! What became of every object: the last plan, and what the nodes say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use realm_plan::{
    Estimate, Fleet, Kind, Name, Problem,
    desired::{Limits, LimitsMode, Priority, Sha256, Stage},
    reached::Bites,
    shares::Applied,
};
use realm_proto::link::versions::Versions;

use super::{
    ages::Ages, answers::Answers, refusing::Refusing, said::Said, slicing::Slicing, totals::Totals,
};
use crate::link::report::{Failure, ModelFacts, ModelPhase};

/// Nodes named of those that hold an object: enough to look at, and a message that can be read.
const HOLDERS_NAMED_MAX: usize = 8;

/// Every object's standing, and what nodes still hold. Whole, and never changed once it is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    standings: BTreeMap<(Kind, Name), Arc<Standing>>,
    held: BTreeSet<(Kind, Name)>,
    /// Who holds what nobody wants any more.
    holders: BTreeMap<(Kind, Name), Holders>,
    /// What nobody wants any more while an agent that was told so, or of the object, has yet to answer.
    leaving: BTreeSet<(Kind, Name)>,
    /// Whether every agent that was there before this leader has answered it, or been waited for.
    is_settled: bool,
}

/// Whether any node holds an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    Nobody,
    /// Some node may: it has yet to say, or to be told that nobody wants the object any more.
    Unsaid,
    /// These do, though nobody wants it any more.
    By(Holders),
}

/// The nodes that hold an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holders {
    /// The first of them, by name.
    pub named: Vec<String>,
    /// How many there are besides.
    pub others: u32,
}

impl Holders {
    /// One more node; they come in the order of their names.
    pub(super) fn add(&mut self, node: &str) {
        if self.named.len() < HOLDERS_NAMED_MAX {
            self.named.push(node.to_owned());
        } else {
            self.others = self.others.saturating_add(1);
        }
    }
}

/// What became of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The generation of the spec that was planned.
    pub generation: i64,
    /// Whether every connected agent that was told of it has said what became of it, be it only
    /// that it refuses its state.
    pub is_answered: bool,
    /// Whether the object is so new that what it refers to, and agents, may yet be on their way.
    pub is_young: bool,
    /// One of the agents that go on with an older spec, and why.
    pub refused: Option<(String, Failure)>,
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

impl Standings {
    /// Whether a node has a tenant or a pipeline in its newest form.
    pub(crate) const fn is_somewhere(&self) -> bool {
        match self {
            Self::Tenant(TenantStanding { tally, .. })
            | Self::Pipeline(PipelineStanding { tally, .. }) => tally.ready > 0,
            Self::Model(_) | Self::Secret => false,
        }
    }

    /// Whether models that are missed are on their way.
    pub(crate) const fn are_models_coming(&self) -> bool {
        match self {
            Self::Tenant(tenant) => tenant.is_model_coming,
            Self::Pipeline(pipeline) => pipeline.are_models_coming,
            Self::Model(_) | Self::Secret => false,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ModelStanding {
    /// Whether there is any agent at all.
    pub has_agents: bool,
    /// How many agents should load it, by the last plan.
    pub replicas: u32,
    /// Whether calls load it while no agent should.
    pub is_woken: bool,
    pub estimate: Option<Estimate>,
    /// What the header alone had said, where the whole file says otherwise.
    pub claimed: Option<Estimate>,
    pub facts: Option<ModelFacts>,
    /// By name of the node, lost ones not.
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
    /// How many of them have expired.
    pub keys_expired: u32,
    pub is_suspended: bool,
    /// Doors over which its limits are shared out; `None` where there is no agent at all.
    pub doors: Option<u32>,
    /// Where its limits are not shared out evenly, by what doors hold of them.
    pub applied: Applied,
    pub tally: Tally,
    /// How many nodes run its program. Doors without one of its models hand its calls on.
    pub hosts: u32,
    /// The program that takes its calls, where all nodes agree.
    pub program: Option<Sha256>,
    /// Its models, where it has some, no node serves any of them, and no call wakes one.
    pub models_missing: Vec<Name>,
    /// Whether one of these is on its way.
    pub is_model_coming: bool,
    /// One of the nodes whose agents speak no version of the link that this operator does, and
    /// what they speak.
    pub unspoken: Option<(String, Versions)>,
    /// What it may spend, and what becomes of calls beyond that; `None` where its spec was never one
    /// that could be served.
    pub limits: Option<(Limits, LimitsMode)>,
    /// Its weight and its class, by which its turn comes; `None` as above.
    pub turn: Option<(u32, Priority)>,
    /// What it has come up against.
    pub reach: Reach,
    /// What it has used, as it is to be told now.
    pub totals: Option<Arc<realm_crds::tenant::Totals>>,
}

/// What a tenant has come up against, as far as it is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reach {
    pub bites: Bites,
    pub knowledge: Knowledge,
}

/// Whether what nobody says of a tenant is not so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Knowledge {
    /// This leader has not listened for long enough to know.
    #[default]
    NotYet,
    /// Some agent is of a release that does not tell.
    InPart,
    All,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PipelineStanding {
    pub tally: Tally,
    /// Its models that no node serves now, and no call wakes.
    pub models_missing: Vec<Name>,
    /// Whether all of these are on their way.
    pub are_models_coming: bool,
}

/// How far an object is on all nodes that are not lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub ready: u32,
    pub pending: u32,
    pub failed: u32,
    /// One of the failures, with its node.
    pub failure: Option<(String, Failure)>,
}

impl Snapshot {
    /// Every object's standing.
    pub fn standings(&self) -> impl Iterator<Item = (Kind, &Name, &Standing)> {
        self.standings.iter().map(|((kind, name), standing)| (*kind, name, &**standing))
    }

    pub(super) fn get(&self, kind: Kind, name: &Name) -> Option<&Arc<Standing>> {
        self.standings.get(&(kind, name.clone()))
    }

    pub(super) fn hold(&self, kind: Kind, name: &Name) -> Hold {
        let object = (kind, name.clone());
        if self.is_settled && !self.held.contains(&object) && !self.leaving.contains(&object) {
            return Hold::Nobody;
        }
        self.holders.get(&object).cloned().map_or(Hold::Unsaid, Hold::By)
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

    /// Objects of `kind` whose standing, or whose being held, is not as it was in `seen`; of those
    /// that are wanted it is no news who holds them.
    pub(super) fn changed_since(&self, seen: &Self, kind: Kind) -> Vec<Name> {
        let of_kind = |object: &&(Kind, Name)| object.0 == kind;
        let is_new = |(object, standing): &(&(Kind, Name), &Arc<Standing>)| {
            seen.standings.get(*object).is_none_or(|old| !Arc::ptr_eq(old, standing))
        };
        let standings = self.standings.iter().filter(|(object, _)| object.0 == kind);
        let changed = standings.filter(is_new).map(|(object, _)| object);
        let let_go = seen.held.difference(&self.held).filter(of_kind);
        let left = seen.leaving.difference(&self.leaving).filter(of_kind);
        let held_by = self.holders.iter().filter(|(object, holders)| {
            object.0 == kind && seen.holders.get(*object) != Some(*holders)
        });
        let held_by = held_by.map(|(object, _)| object);
        let changed: BTreeSet<_> = changed.chain(let_go).chain(left).chain(held_by).collect();
        changed.into_iter().map(|(_, name)| name.clone()).collect()
    }
}

/// Gathers what became of every object that was `observed`.
pub(super) fn snapshot(
    fleet: &Fleet,
    observed: &BTreeMap<(Kind, Name), i64>,
    (said, slicing, refusing): (&Said, &Slicing, &Refusing),
    (answers, ages, totals): (&Answers, &Ages, &Totals),
    unix_seconds: u64,
    is_settled: bool,
) -> Snapshot {
    let mut standings = BTreeMap::new();
    let held = said.held();
    let mut holders = BTreeMap::new();
    // Before the first plan nothing is known, and "nothing" must not be written into a status; nor
    // must what is true only because the agents of the last leader are still on their way.
    if fleet.is_synced() && is_settled {
        let (awaited, refused) = (answers.awaited(), answers.refused());
        for (object @ (kind, name), generation) in observed {
            let refused =
                refused.get(object).map(|(node, why)| ((*node).to_owned(), (*why).clone()));
            let mut nodes = said.of_object((fleet, slicing), *kind, name, unix_seconds);
            if let Standings::Tenant(tenant) = &mut nodes {
                tenant.totals = totals.of(name);
                tenant.reach = refusing.of(name, ages.is_young(object));
            }
            let standing = Standing {
                generation: *generation,
                is_answered: !awaited.contains(object),
                is_young: ages.is_young(object),
                refused,
                problems: fleet.problems(*kind, name).to_vec(),
                nodes,
            };
            standings.insert((*kind, name.clone()), Arc::new(standing));
        }
        holders = said.holders(held.iter().filter(|object| !observed.contains_key(*object)));
    }
    let leaving = answers.awaited().into_iter().filter(|object| !observed.contains_key(*object));
    let leaving = leaving.cloned().collect();
    Snapshot { standings, held, holders, leaving, is_settled }
}
