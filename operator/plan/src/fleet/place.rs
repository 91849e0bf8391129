//! Which nodes hold which models.
//!
//! A replica stays where it is while its node is known, admits the model and has not failed to
//! load it. Missing ones go to nodes with room, the largest first, and to the zones that have
//! fewest of the model's. One that must leave serves until another one does. Adapters have no
//! places of their own: each is wherever its model is and has room for it.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    estimate::Estimate,
    node::{Node, admitted},
    resolve::Beside,
    study::Study,
};
use crate::{
    desired::{Accelerator, Stage},
    name::Name,
    validate::{Site, ValidModel},
};

/// One replica of a model on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seat {
    /// The KV blocks the plan chose where the spec says nothing; they stay with the seat.
    pub(super) kv_blocks: Option<u32>,
    /// Whether the node is still to say how many blocks it keeps.
    pub(super) is_recalled: bool,
}

/// The replicas of each model, by node.
pub(super) type Placement = BTreeMap<Name, BTreeMap<String, Seat>>;

pub(super) type Seats = BTreeMap<String, Seat>;

/// Everything that placement depends on.
#[derive(Clone, Copy)]
pub(super) struct Scene<'a> {
    pub(super) site: Site,
    pub(super) models: &'a BTreeMap<Name, ValidModel>,
    pub(super) nodes: &'a BTreeMap<String, Node>,
    pub(super) studies: &'a BTreeMap<Name, Study>,
    /// The adapters of each model that has any.
    pub(super) beside: &'a Beside,
    /// How many replicas each model should have.
    pub(super) wanted: &'a BTreeMap<Name, u32>,
}

impl<'a> Scene<'a> {
    /// What takes places of its own: all but adapters.
    pub(super) fn placed(self) -> impl Iterator<Item = (&'a Name, &'a ValidModel)> {
        self.models.iter().filter(|(_, model)| model.base.is_none())
    }

    /// The adapters that may be beside their models, each with its own.
    pub(super) fn adapters(self) -> impl Iterator<Item = (&'a Name, &'a Name)> {
        let of = |(base, adapters): (&'a Name, &'a Vec<Name>)| {
            adapters.iter().map(move |adapter| (adapter, base))
        };
        self.beside.iter().flat_map(of)
    }

    /// The one that says where and on how many nodes `model` is: that which an adapter is of, or
    /// itself. Nothing, of an adapter that may not be of what it names: it learns nothing of that.
    pub(super) fn decides(self, model: &'a ValidModel) -> Option<&'a ValidModel> {
        let Some(base) = &model.base else { return Some(model) };
        let is_beside = |adapters: &&Vec<Name>| adapters.binary_search(model.name()).is_ok();
        self.beside.get(base).filter(is_beside).and_then(|_| self.models.get(base))
    }

    fn estimate(self, name: &Name) -> Option<Estimate> {
        self.studies.get(name).and_then(|study| study.estimate)
    }
}

/// Places every model, moving none without need.
pub(super) fn place(scene: Scene<'_>, last: &Placement) -> Placement {
    let mut placement = keep(scene, last);
    trim(scene, &mut placement);
    // A seat that is given up makes room, so it is looked at again. This ends: a seat that is as it
    // should be is never given up here, and one for want of others is given out only where it will
    // be kept until such a one takes its place.
    loop {
        let mut board = Board::new(scene, &placement);
        for (name, model) in by_need(scene) {
            let seats = placement.entry(name.clone()).or_default();
            fill(scene, &mut board, model, seats);
        }
        if !retire(scene, last, &mut placement) {
            break;
        }
    }
    follow(scene, last, &mut placement);
    placement
}

/// Puts adapters where their models are. Those that were there stay, whatever is free now: while a
/// model or an adapter is loaded, what it takes is missing before it is reported. Others are there
/// as far as there is room.
fn follow(scene: Scene<'_>, last: &Placement, placement: &mut Placement) {
    let mut board = Board::new(scene, placement);
    for is_new in [false, true] {
        for (adapter, base) in scene.adapters() {
            let model = scene.models.get(adapter).zip(scene.models.get(base));
            let Some((model, of)) = model else { continue };
            let was =
                |node: &&String| last.get(adapter).is_some_and(|seats| seats.contains_key(*node));
            let nodes = placement.get(base).into_iter().flat_map(BTreeMap::keys);
            let nodes: Vec<_> = nodes.filter(|node| was(node) != is_new).cloned().collect();
            let seated = nodes.into_iter();
            let seated = seated.filter(|node| board.admits((model, of), node, is_new) || !is_new);
            let seated = seated.map(|node| (node, Seat::default()));
            placement.entry(adapter.clone()).or_default().extend(seated);
        }
    }
}

/// The seats on nodes that are known. A recalled one takes over what its node says.
fn keep(scene: Scene<'_>, last: &Placement) -> Placement {
    let seats = |name: &Name| {
        let seats = last.get(name).into_iter().flatten();
        let kept = seats.filter_map(|(node, seat)| {
            let known = scene.nodes.get(node)?;
            let seat = match known.held(name) {
                Some(held) if seat.is_recalled => {
                    Seat { kv_blocks: held.kv_blocks, is_recalled: false }
                }
                _ => Seat { is_recalled: seat.is_recalled && known.heard.is_none(), ..*seat },
            };
            Some((node.clone(), seat))
        });
        kept.collect()
    };
    scene.placed().map(|(name, _)| (name.clone(), seats(name))).collect()
}

/// Takes away what is not wanted: first what serves nobody, then from the zones that have most of
/// the model's, then from the fullest nodes. What must leave is not looked at here ([`retire`]).
fn trim(scene: Scene<'_>, placement: &mut Placement) {
    let mut load = BTreeMap::<String, usize>::new();
    for node in placement.values().flat_map(BTreeMap::keys) {
        *load.entry(node.clone()).or_default() += 1;
    }
    for (name, model) in scene.placed() {
        let Some(seats) = placement.get_mut(name) else { continue };
        let clean = seats.keys().filter(|node| is_clean(scene, model, node));
        let surplus = clean.clone().count().saturating_sub(wanted(scene, name));
        let mut clean: Vec<_> = clean.cloned().collect();
        for _ in 0..surplus {
            let zones = Zones::of(scene, clean.iter());
            let rank = |(_, name): &(usize, &String)| {
                let node = scene.nodes.get(*name);
                let is_connected = node.is_some_and(|node| node.is_connected);
                let is_loaded = node.is_some_and(|node| node.has_loaded(model.name()));
                let mut adapters = scene.beside.get(model.name()).into_iter().flatten();
                let lacks = adapters.any(|it| node.is_some_and(|node| !node.has_loaded(it)));
                let crowd = node.map(|node| zones.count(node));
                (!is_connected, !is_loaded, lacks, crowd, load.get(*name).copied())
            };
            let Some((index, _)) = clean.iter().enumerate().max_by_key(rank) else { break };
            let node = clean.remove(index);
            seats.remove(&node);
            load.entry(node).and_modify(|models| *models = models.saturating_sub(1));
        }
    }
}

/// The models, those that need most memory first: what is small finds room afterwards too.
fn by_need(scene: Scene<'_>) -> Vec<(&Name, &ValidModel)> {
    let mut models: Vec<_> = scene.placed().collect();
    models.sort_by_cached_key(|(name, model)| Reverse(need_bytes(scene, name, model, None)));
    models
}

/// Gives out the replicas that are missing, as far as there is room.
fn fill(scene: Scene<'_>, board: &mut Board<'_>, model: &ValidModel, seats: &mut Seats) {
    let wanted = wanted(scene, model.name());
    loop {
        let clean = seats.keys().filter(|node| is_clean(scene, model, node)).count();
        if wanted <= clean {
            return;
        }
        let kept = seats.keys().filter(|node| is_of_use(scene, model, node)).count();
        let pick = board.pick(model, seats, Tried::Not);
        let pick = pick
            .or_else(|| (kept < wanted).then(|| board.pick(model, seats, Tried::Failed)).flatten());
        let given = pick.and_then(|(index, accelerator)| board.seat(model, index, accelerator));
        let Some((node, seat)) = given else { return };
        seats.insert(node, seat);
    }
}

/// Gives up seats that must leave, as soon as nobody needs them: one that is loaded when another
/// one is loaded for it; one that is not at once where it may not be, and else when there is
/// another for it.
fn retire(scene: Scene<'_>, last: &Placement, placement: &mut Placement) -> bool {
    let mut is_changed = false;
    for (name, model) in scene.placed() {
        let Some(seats) = placement.get_mut(name) else { continue };
        let is_loaded = |node: &str| has_loaded(scene, model, node);
        let (clean, mut leaving): (Vec<_>, Vec<_>) =
            seats.keys().cloned().partition(|node| is_clean(scene, model, node));
        if leaving.is_empty() {
            continue;
        }
        // What a seat that is given up takes along is to be there already, or to have failed.
        let adapters = scene.beside.get(name).into_iter().flatten();
        let served: Vec<_> = adapters.filter(|adapter| is_served(scene, adapter)).collect();
        let brings = |node: &str| {
            let was = |name: &Name| last.get(name).is_some_and(|seats| seats.contains_key(node));
            let has_no_room =
                |adapter: &Name| scene.estimate(adapter).is_some() && was(name) && !was(adapter);
            let is_there = |adapter: &&Name| is_done(scene, adapter, node) || has_no_room(adapter);
            served.iter().all(is_there)
        };
        let loaded = clean.iter().filter(|node| is_loaded(node) && brings(node)).count();
        // The loaded ones first, for they are kept first; then those that may stay.
        leaving.sort_by_key(|node| (!is_loaded(node), !may_stay(scene, model, node)));
        let mut kept = 0;
        for node in leaving {
            let others = if is_loaded(&node) { loaded } else { clean.len() };
            let is_of_use = is_of_use(scene, model, &node);
            if is_of_use && kept < wanted(scene, name).saturating_sub(others) {
                kept += 1;
            } else {
                seats.remove(&node);
                is_changed = true;
            }
        }
    }
    is_changed
}

/// Whether some node serves an adapter now.
fn is_served(scene: Scene<'_>, adapter: &Name) -> bool {
    scene.nodes.values().any(|node| node.serving().is_some() && node.has_loaded(adapter))
}

/// Whether `node` has loaded an adapter, or has tried in vain.
fn is_done(scene: Scene<'_>, adapter: &Name, node: &str) -> bool {
    let has_failed = scene.studies.get(adapter).is_some_and(|study| study.failed_on.contains(node));
    has_failed || scene.nodes.get(node).is_some_and(|node| node.has_loaded(adapter))
}

pub(super) fn wanted(scene: Scene<'_>, name: &Name) -> usize {
    // A `u32` always fits where Realm runs; where it did not, no list could be that long either.
    let wanted = scene.wanted.get(name).copied().unwrap_or(0);
    usize::try_from(wanted).unwrap_or(usize::MAX)
}

fn has_loaded(scene: Scene<'_>, model: &ValidModel, node: &str) -> bool {
    scene.nodes.get(node).is_some_and(|node| node.has_loaded(model.name()))
}

/// Whether a seat on `node` serves, or could.
fn is_of_use(scene: Scene<'_>, model: &ValidModel, node: &str) -> bool {
    has_loaded(scene, model, node) || may_stay(scene, model, node)
}

/// Whether a seat on `node` can be as it should.
fn is_clean(scene: Scene<'_>, model: &ValidModel, node: &str) -> bool {
    let study = scene.studies.get(model.name());
    may_stay(scene, model, node) && study.is_none_or(|study| !study.failed_on.contains(node))
}

/// Whether `node` is as the model asks, as far as is known.
pub(super) fn may_stay(scene: Scene<'_>, model: &ValidModel, node: &str) -> bool {
    scene.nodes.get(node).is_some_and(|node| node.may_keep(model))
}

/// Bytes that a seat will take; the least that the model can do with where there is none yet.
/// 0 while nothing is known of the model.
fn need_bytes(scene: Scene<'_>, name: &Name, model: &ValidModel, seat: Option<&Seat>) -> u64 {
    let Some(estimate) = scene.estimate(name) else { return 0 };
    let chosen = model.kv_blocks.or_else(|| seat?.kv_blocks);
    estimate.bytes(chosen.unwrap_or_else(|| estimate.kv_blocks_min(model)))
}

/// How many replicas of one model each zone has.
struct Zones<'a>(BTreeMap<Option<&'a str>, usize>);

impl<'a> Zones<'a> {
    fn of<'b>(scene: Scene<'a>, seats: impl Iterator<Item = &'b String>) -> Self {
        let mut counts = BTreeMap::new();
        for node in seats.filter_map(|seat| scene.nodes.get(seat)) {
            *counts.entry(node.zone()).or_default() += 1;
        }
        Self(counts)
    }

    fn count(&self, node: &Node) -> usize {
        self.0.get(&node.zone()).copied().unwrap_or(0)
    }
}

/// Which nodes a replica may go to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tried {
    /// Those that have not failed with it.
    Not,
    /// Those that have, for want of others.
    Failed,
}

/// What is left on each node while models are placed.
pub(super) struct Board<'a> {
    scene: Scene<'a>,
    /// In the order of names.
    slots: Vec<Slot<'a>>,
}

struct Slot<'a> {
    name: &'a str,
    node: &'a Node,
    free: BTreeMap<Accelerator, u64>,
    models: usize,
    /// Models that have room for their adapters to compute in.
    computing: BTreeSet<&'a Name>,
}

impl<'a> Board<'a> {
    /// The nodes less what is promised to seats that are not loaded yet.
    pub(super) fn new(scene: Scene<'a>, placement: &Placement) -> Self {
        let slots = scene.nodes.iter().map(|(name, node)| {
            let supply = node.supply.as_ref();
            let free = supply.map(|supply| supply.memory_bytes.clone()).unwrap_or_default();
            Slot { name, node, free, models: 0, computing: BTreeSet::new() }
        });
        let mut board = Self { scene, slots: slots.collect() };
        for (name, model) in scene.placed() {
            for (node, seat) in placement.get(name).into_iter().flatten() {
                board.occupy(model, node, seat);
            }
        }
        board
    }

    fn occupy(&mut self, model: &ValidModel, node: &str, seat: &Seat) {
        let need = need_bytes(self.scene, model.name(), model, Some(seat));
        let Ok(index) = self.slots.binary_search_by(|slot| slot.name.cmp(node)) else { return };
        let Some(slot) = self.slots.get_mut(index) else { return };
        slot.models += 1;
        if !slot.node.has_loaded(model.name())
            && let Some(supply) = &slot.node.supply
            && let Some(accelerator) = admitted(model, supply)
            && let Some(free) = slot.free.get_mut(&accelerator)
        {
            *free = free.saturating_sub(need);
        }
    }

    /// The best node for one more replica: one that has it loaded, else one in a zone with fewer of
    /// its replicas, else one that has its file, else the one with fewest models, else with most
    /// free memory.
    fn pick(
        &self,
        model: &ValidModel,
        seats: &Seats,
        tried: Tried,
    ) -> Option<(usize, Accelerator)> {
        let study = self.scene.studies.get(model.name());
        let has_failed = |name: &str| study.is_some_and(|study| study.failed_on.contains(name));
        // One that must leave is no reason to keep its successor out of its zone.
        let staying = seats.keys().filter(|node| is_clean(self.scene, model, node));
        let zones = Zones::of(self.scene, staying);
        let candidates = self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let supply = slot.node.serving()?;
            let is_heard = slot.node.heard.is_some() || self.scene.site == Site::OneMachine;
            let accelerator = admitted(model, supply)?;
            let free = slot.free.get(&accelerator).copied()?;
            let is_open = is_heard
                && !seats.contains_key(slot.name)
                && has_failed(slot.name) == (tried == Tried::Failed)
                && self.has_room(model, slot, free);
            let stage = slot.node.stage(model.name()).filter(|stage| *stage > Stage::Inspect);
            let is_loaded = stage == Some(Stage::Load);
            let crowd = zones.count(slot.node);
            let rank = (!is_loaded, crowd, Reverse(stage), slot.models, Reverse(free));
            is_open.then_some((rank, index, accelerator))
        });
        let (_, index, accelerator) = candidates.min_by_key(|(rank, ..)| *rank)?;
        Some((index, accelerator))
    }

    fn has_room(&self, model: &ValidModel, slot: &Slot<'_>, free: u64) -> bool {
        match self.scene.site {
            // There is no other place to choose, so the agent alone decides, when it loads.
            Site::OneMachine => true,
            Site::Cluster => {
                let estimate = self.scene.estimate(model.name());
                slot.node.has_loaded(model.name())
                    || estimate
                        .is_some_and(|estimate| estimate.kv_blocks_within(model, free).is_some())
            }
        }
    }

    /// Whether there is room for an adapter beside its model on that node, which it takes then. One
    /// that is there already takes what is left of it, and one that is loaded has it.
    fn admits(
        &mut self,
        (adapter, base): (&ValidModel, &'a ValidModel),
        node: &str,
        is_new: bool,
    ) -> bool {
        let Ok(index) = self.slots.binary_search_by(|slot| slot.name.cmp(node)) else {
            return false;
        };
        let Some(slot) = self.slots.get_mut(index) else { return false };
        // Of one that has not come back yet nothing is known against it.
        let Some(supply) = &slot.node.supply else { return true };
        if slot.node.has_loaded(adapter.name()) || self.scene.site == Site::OneMachine {
            slot.computing.insert(base.name());
            return true;
        }
        let Some(estimate) = self.scene.estimate(adapter.name()) else { return false };
        // All adapters of a model compute in the same memory.
        let is_first = !slot.computing.contains(base.name());
        let step = if is_first { estimate.activation_bytes } else { 0 };
        let need = estimate.weights_bytes.saturating_add(step);
        let accelerator = admitted(base, supply);
        let free = accelerator.and_then(|accelerator| slot.free.get_mut(&accelerator));
        let Some(free) = free else { return false };
        let has_room = need <= *free;
        if has_room || !is_new {
            slot.computing.insert(base.name());
            *free = free.saturating_sub(need);
        }
        has_room
    }

    /// The node with most free memory of those that might take one more replica if it had room.
    pub(super) fn roomiest(&self, model: &ValidModel, seats: &Seats) -> Option<(u64, &'a str)> {
        let free = self.slots.iter().filter_map(|slot| {
            let accelerator = admitted(model, slot.node.serving()?)?;
            let is_open = !seats.contains_key(slot.name) && slot.node.heard.is_some();
            let free = slot.free.get(&accelerator).copied()?;
            is_open.then_some((free, slot.name))
        });
        free.max_by_key(|(free, name)| (*free, Reverse(*name)))
    }

    /// Seats the model on that node.
    fn seat(
        &mut self,
        model: &ValidModel,
        index: usize,
        accelerator: Accelerator,
    ) -> Option<(String, Seat)> {
        let slot = self.slots.get(index)?;
        let free = slot.free.get(&accelerator).copied()?;
        let estimate = self.scene.estimate(model.name());
        let held = slot.node.held(model.name()).filter(|held| held.stage == Some(Stage::Load));
        let kv_blocks = match (self.scene.site, held, estimate) {
            (Site::OneMachine, ..) | (_, None, None) => None,
            // What is loaded stays as it is.
            (_, Some(held), _) => held.kv_blocks,
            (_, None, Some(_)) if model.kv_blocks.is_some() => None,
            (_, None, Some(estimate)) => estimate.kv_blocks_within(model, free),
        };
        let (node, seat) = (slot.name.to_owned(), Seat { kv_blocks, is_recalled: false });
        self.occupy(model, &node, &seat);
        Some((node, seat))
    }
}
