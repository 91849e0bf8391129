//! What each node gets of the whole.
//!
//! A node gets its models; a door gets every tenant, so that it can let anybody in; a program goes
//! where one of its tenant's models is; routes and pipelines are the same for all.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use realm_crds::model::Prefetch;

use super::{
    node::{Node, NodeSupply, admitted},
    place::{Placement, Scene},
    resolve::Resolved,
};
use crate::{
    desired::{Desired, DesiredModel, DesiredPipeline, DesiredTenant, Peer, Route, Stage},
    name::Name,
    validate::{Replicas, Site, ValidModel},
};

/// What several nodes hold alike. Kept from plan to plan, so that what did not change is still the
/// same and is seen to be at a glance.
#[derive(Clone, Debug, Default)]
pub(super) struct Shared {
    doors: u32,
    /// Every tenant with its program, and without.
    hosted: Vec<Arc<DesiredTenant>>,
    handed_on: Vec<Arc<DesiredTenant>>,
    /// The tenants of each model, by their places in the lists.
    users: HashMap<Name, Vec<usize>>,
    /// Tenants that need no model for their program to run.
    modelless: Vec<usize>,
    pipelines: Arc<[DesiredPipeline]>,
    routes: Arc<[Route]>,
}

impl Shared {
    /// Takes over what the demands have become, with limits that so many doors share out.
    pub(super) fn update(&mut self, resolved: &Resolved, doors: u32) {
        let hosted = resolved.tenants.clone();
        let handed_on =
            hosted.iter().map(|tenant| DesiredTenant { program: None, ..tenant.clone() });
        self.handed_on = reuse(&self.handed_on, handed_on.collect());
        self.hosted = reuse(&self.hosted, hosted);
        self.users.clear();
        self.modelless.clear();
        for (index, tenant) in resolved.tenants.iter().enumerate() {
            for grant in &tenant.models {
                self.users.entry(grant.model.clone()).or_default().push(index);
            }
            if tenant.models.is_empty() {
                self.modelless.push(index);
            }
        }
        if *self.pipelines != resolved.pipelines {
            self.pipelines = resolved.pipelines.clone().into();
        }
        self.doors = doors;
    }

    pub(super) fn update_routes(&mut self, scene: Scene<'_>, placement: &Placement) {
        let routes = routes(scene, placement);
        if *self.routes != routes {
            self.routes = routes.into();
        }
    }

    pub(super) const fn doors(&self) -> u32 {
        self.doors
    }

    /// What `node` gets, at no generation yet.
    pub(super) fn desired(&self, site: Site, node: &Node, models: Vec<DesiredModel>) -> Desired {
        let mut is_hosted = vec![site == Site::OneMachine; self.hosted.len()];
        let loaded = models.iter().filter(|model| model.stage == Stage::Load);
        let users = loaded.filter_map(|model| self.users.get(&model.name)).flatten();
        for &index in users.chain(&self.modelless) {
            if let Some(is_hosted) = is_hosted.get_mut(index) {
                *is_hosted = true;
            }
        }
        let is_door = node.may_be_door();
        let tenants = self.hosted.iter().zip(&self.handed_on).zip(is_hosted);
        let tenants = tenants.filter_map(|((hosted, handed_on), is_hosted)| {
            let tenant = if is_hosted { hosted } else { handed_on };
            (is_hosted || is_door).then(|| tenant.clone())
        });
        Desired {
            generation: 0,
            models,
            tenants: tenants.collect(),
            pipelines: self.pipelines.clone(),
            routes: self.routes.clone(),
            doors: self.doors,
        }
    }
}

/// `new`, but the same as before where it is the same. Both are in the order of names.
fn reuse(old: &[Arc<DesiredTenant>], new: Vec<DesiredTenant>) -> Vec<Arc<DesiredTenant>> {
    let mut old = old.iter().peekable();
    let reused = new.into_iter().map(|tenant| {
        while old.next_if(|old| old.name < tenant.name).is_some() {}
        match old.peek() {
            Some(old) if ***old == tenant => (*old).clone(),
            _ => Arc::new(tenant),
        }
    });
    reused.collect()
}

/// Where calls for each model can be handed to now. Nodes that nobody can reach are named where
/// there is no other: doors find out what is left of them. A model that nobody serves has a route too
/// where it scales or will be on a node: to nowhere yet, which tells doors to hold its calls.
fn routes(scene: Scene<'_>, placement: &Placement) -> Vec<Route> {
    let route = |(name, model): (&Name, &ValidModel)| {
        let seats = placement.get(name).into_iter().flat_map(BTreeMap::keys);
        let peers = |reach: fn(&Node) -> Option<&NodeSupply>| -> Vec<Peer> {
            let found = seats.clone().filter_map(|seat| {
                let node = scene.nodes.get(seat).filter(|node| node.has_loaded(name))?;
                let address = reach(node)?.peer_address.clone()?;
                Some(Peer { node: seat.clone(), address })
            });
            found.collect()
        };
        let mut found = peers(Node::serving);
        if found.is_empty() {
            found = peers(Node::away);
        }
        let decides = scene.decides(model)?;
        let scales = matches!(decides.replicas, Replicas::Scaled(_));
        let is_held = scales || is_coming(scene, name, placement);
        (is_held || !found.is_empty()).then(|| Route { model: name.clone(), peers: found })
    };
    scene.models.iter().filter_map(route).collect()
}

/// Whether a node is to serve a model that it does not serve now, and has not failed to load.
fn is_coming(scene: Scene<'_>, model: &Name, placement: &Placement) -> bool {
    // Where its model has failed an adapter is not tried.
    let base = scene.models.get(model).and_then(|model| model.base.as_ref());
    let studies =
        || [Some(model), base].into_iter().flatten().filter_map(|it| scene.studies.get(it));
    let has_failed = |node: &String| studies().any(|study| study.failed_on.contains(node));
    let is_awaited = |node: &String| {
        let serves = |known: &Node| known.serving().is_some() && known.has_loaded(model);
        scene.nodes.get(node).is_some_and(|known| !serves(known)) && !has_failed(node)
    };
    let mut seats = placement.get(model).into_iter().flat_map(BTreeMap::keys);
    scene.site == Site::Cluster && seats.any(is_awaited)
}

/// The models of each node, in the order of nodes and of names.
pub(super) fn models(scene: Scene<'_>, placement: &Placement) -> Vec<Vec<DesiredModel>> {
    let index: BTreeMap<_, _> = scene.nodes.keys().enumerate().map(|(i, node)| (node, i)).collect();
    let mut models = vec![Vec::new(); scene.nodes.len()];
    for (name, model) in scene.models {
        let mut give = |node: &String, stage, kv_blocks| {
            if let Some(models) = index.get(node).and_then(|index| models.get_mut(*index)) {
                models.push(model.desired(stage, kv_blocks));
            }
        };
        let seats = placement.get(name);
        for (node, seat) in seats.into_iter().flatten() {
            give(node, Stage::Load, seat.kv_blocks);
        }
        let inspector = scene.studies.get(name).and_then(|study| study.inspector.as_ref());
        if let Some(node) = inspector {
            give(node, Stage::Inspect, None);
        }
        let Some(decides) = scene.decides(model).filter(|it| it.prefetch != Prefetch::None) else {
            continue;
        };
        for (node, known) in scene.nodes {
            let is_admitted =
                known.supply.as_ref().is_some_and(|supply| admitted(decides, supply).is_some());
            let is_seated = seats.is_some_and(|seats| seats.contains_key(node));
            if is_admitted && !is_seated && inspector != Some(node) {
                give(node, Stage::Prefetch, None);
            }
        }
    }
    models
}
