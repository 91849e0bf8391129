//! Where models are, by the newest desired state. Pure.

use std::collections::{HashMap, HashSet};

use realm_core::{
    desired::{DesiredTenant, Peer, Route},
    name::ModelName,
};

use super::need::Need;

/// The other nodes that serve each model; a model that nobody serves yet has an empty list.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    peers: HashMap<ModelName, Vec<Peer>>,
    known: HashSet<Peer>,
}

/// Where a call can go now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look<'a> {
    /// To one of these, none of which has been asked.
    There(&'a ModelName, Vec<&'a Peer>),
    /// Nowhere yet, but its model is known to be asleep or on its way.
    Coming(&'a ModelName),
    Nowhere,
}

impl Routes {
    /// The routes as seen from `node`: it does not hand calls to itself.
    pub(super) fn of(routes: &[Route], node: &str) -> Self {
        let others = |Route { model, peers }: &Route| {
            let others = peers.iter().filter(|peer| peer.node != node).cloned();
            (model.clone(), others.collect::<Vec<_>>())
        };
        let peers: HashMap<_, _> = routes.iter().map(others).collect();
        let known = peers.values().flatten().cloned().collect();
        Self { peers, known }
    }

    /// Where a call that needs this can go; nodes that `tried` holds have said no already.
    pub(super) fn look<'a>(&'a self, need: &'a Need, tried: &HashSet<Peer>) -> Look<'a> {
        for model in &need.models {
            let peers = self.peers.get(model).into_iter().flatten();
            let open: Vec<_> = peers.filter(|peer| !tried.contains(*peer)).collect();
            if !open.is_empty() {
                return Look::There(model, open);
            }
        }
        let mut models = need.models.iter().filter(|_| need.may_wait);
        match models.find(|model| self.peers.contains_key(*model)) {
            Some(model) => Look::Coming(model),
            None => Look::Nowhere,
        }
    }

    pub(super) fn has(&self, peer: &Peer) -> bool {
        self.known.contains(peer)
    }

    pub(super) fn has_peer(&self, model: &ModelName) -> bool {
        self.peers.get(model).is_some_and(|peers| !peers.is_empty())
    }

    /// The nodes that serve a model of the tenant's, each once.
    pub(super) fn peers_of(&self, tenant: &DesiredTenant) -> Vec<Peer> {
        let mut found = Vec::<Peer>::new();
        for grant in &tenant.models {
            for peer in self.peers.get(&grant.model).into_iter().flatten() {
                if !found.contains(peer) {
                    found.push(peer.clone());
                }
            }
        }
        found
    }
}

#[cfg(test)]
pub(super) mod tests {
    use realm_core::desired::ModelGrant;
    use serde_json::json;

    use super::*;
    use crate::residents;

    pub(crate) fn name(model: &str) -> ModelName {
        ModelName::new("default", model).unwrap()
    }

    pub(crate) fn peer(node: &str) -> Peer {
        Peer { node: node.to_owned(), address: format!("{node}:1") }
    }

    pub(crate) fn tenant(models: &[&str]) -> DesiredTenant {
        let grant = |alias: &&str| ModelGrant { alias: (*alias).to_owned(), model: name(alias) };
        DesiredTenant {
            models: models.iter().map(grant).collect(),
            keys: Vec::new(),
            program: None,
            ..DesiredTenant::clone(&residents::tests::tenant("acme"))
        }
    }

    fn routes() -> Routes {
        let route = |model, nodes: &[&str]| Route {
            model: name(model),
            peers: nodes.iter().map(|node| peer(node)).collect(),
        };
        Routes::of(
            &[route("a", &["n1", "me", "n2"]), route("asleep", &[]), route("mine", &["me"])],
            "me",
        )
    }

    fn check(model: &str, tried: &[&str], expected: &Look<'_>) {
        let need = Need::of(&tenant(&["a", "asleep", "mine", "gone"]), &json!({ "model": model }));
        let tried = tried.iter().map(|node| peer(node)).collect();
        assert_eq!(routes().look(&need.unwrap(), &tried), *expected, "{model} {tried:?}");
    }

    #[test]
    fn a_call_goes_to_the_other_nodes_that_serve_its_model_and_have_not_been_asked() {
        let (a, n1, n2) = (name("a"), peer("n1"), peer("n2"));
        check("a", &[], &Look::There(&a, vec![&n1, &n2]));
        check("a", &["n1"], &Look::There(&a, vec![&n2]));
    }

    #[test]
    fn a_call_waits_for_a_model_that_is_known_and_served_nowhere_else() {
        check("asleep", &[], &Look::Coming(&name("asleep")));
        check("mine", &[], &Look::Coming(&name("mine")));
        check("a", &["n1", "n2"], &Look::Coming(&name("a")));
    }

    #[test]
    fn a_model_that_is_nowhere_is_not_waited_for() {
        check("gone", &[], &Look::Nowhere);
    }

    #[test]
    fn an_unknown_model_goes_to_whoever_has_the_program_and_never_waits() {
        let (a, n1, n2) = (name("a"), peer("n1"), peer("n2"));
        check("what", &[], &Look::There(&a, vec![&n1, &n2]));
        check("what", &["n1", "n2"], &Look::Nowhere);
    }

    #[test]
    fn the_nodes_of_a_tenant_are_each_asked_once() {
        let peers = routes().peers_of(&tenant(&["a", "asleep", "a"]));
        assert_eq!(peers, [peer("n1"), peer("n2")]);
        assert!(routes().has(&peer("n1")) && !routes().has(&peer("me")));
        assert!(routes().has_peer(&name("a")) && !routes().has_peer(&name("mine")));
    }
}
