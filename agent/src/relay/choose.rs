//! Which of several nodes a call goes to.
//!
//! Calls that begin alike go to the same node, whose cache then holds how they begin: the nodes
//! are ranked by a hash of the beginning and their name, which is the same at every door and needs
//! no memory of who served what. Only a node that has clearly more to do than another is passed
//! over.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Write},
    sync::{Arc, Mutex, PoisonError},
};

use realm_core::{
    desired::Peer,
    name::{ModelName, TenantName},
};
use realm_link::peer::CALLS_MAX;
use serde_json::Value;

/// Bytes of its parameters by which calls are found to begin alike: longer than most system
/// prompts are before they differ, and hashed in a microsecond.
const BEGINNING_BYTES: usize = 1 << 10;

/// Calls that the favourite may have in hand beyond the least of all before it is passed over. To
/// compute a beginning anew costs about as much as these make each other wait in one batch.
const FAVOUR_CALLS: u32 = 4;

/// How calls of one tenant for one model begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning(u64);

impl Beginning {
    /// Of what is prompt in `params` where that can be told, else of all of them: a change of
    /// `max_tokens` changes no cache.
    pub(super) fn of(tenant: &TenantName, model: &ModelName, params: &Value) -> Self {
        let prompt = params.get("messages").or_else(|| params.get("prompt"));
        let mut head = Head(Vec::with_capacity(BEGINNING_BYTES));
        // It fails when the head is full, as it should.
        drop(serde_json::to_writer(&mut head, prompt.unwrap_or(params)));
        let mut hasher = DefaultHasher::new();
        (tenant, model, head.0).hash(&mut hasher);
        Self(hasher.finish())
    }

    fn rank(self, peer: &Peer) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.0, &peer.node).hash(&mut hasher);
        hasher.finish()
    }
}

/// Takes the first bytes and refuses the rest.
struct Head(Vec<u8>);

impl Write for Head {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = BEGINNING_BYTES.saturating_sub(self.0.len());
        let taken = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.0.extend_from_slice(taken);
        // Nothing taken is how a writer says that it is full.
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The node that such a call should go to: its favourite, unless that has clearly more in hand than
/// another one. `None` where each has as many as it takes from one door.
pub(super) fn choose<'a>(
    peers: &[&'a Peer],
    beginning: Beginning,
    in_hand: impl Fn(&Peer) -> u32,
) -> Option<&'a Peer> {
    let calls = peers.iter().map(|peer| (*peer, in_hand(peer)));
    let calls: Vec<_> = calls.filter(|(_, calls)| *calls < CALLS_MAX).collect();
    let least = calls.iter().map(|(_, calls)| *calls).min()?;
    let is_open = |calls: u32| calls <= least.saturating_add(FAVOUR_CALLS);
    let open = calls.into_iter().filter(|(_, calls)| is_open(*calls)).map(|(peer, _)| peer);
    open.max_by_key(|peer| beginning.rank(peer))
}

/// The calls that this door has in hand at each node. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct InHand(Arc<Mutex<HashMap<String, u32>>>);

impl InHand {
    pub(super) fn of(&self, peer: &Peer) -> u32 {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.get(&peer.node).copied().unwrap_or(0)
    }

    /// One more, for as long as what is returned lives.
    pub(super) fn add(&self, peer: &Peer) -> OneInHand {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = calls.entry(peer.node.clone()).or_default();
        *count = count.saturating_add(1);
        OneInHand { all: self.clone(), node: peer.node.clone() }
    }
}

/// One call in hand.
#[derive(Debug)]
pub(super) struct OneInHand {
    all: InHand,
    node: String,
}

impl Drop for OneInHand {
    fn drop(&mut self) {
        let mut calls = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = calls.get_mut(&self.node) {
            *count = count.saturating_sub(1);
            // Nodes that are gone leave nothing behind.
            if *count == 0 {
                calls.remove(&self.node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::relay::look::tests::{name, peer};

    fn beginning(params: &Value) -> Beginning {
        Beginning::of(&TenantName::parse("default/acme").unwrap(), &name("m"), params)
    }

    /// Where a call goes that begins so, with so many calls in hand at each of three nodes.
    fn check(prompt: &str, calls: [u32; 3]) -> String {
        let peers = ["n0", "n1", "n2"].map(peer);
        let in_hand = |peer: &Peer| {
            let index = peers.iter().position(|known| known == peer).unwrap();
            calls[index]
        };
        let all: Vec<_> = peers.iter().collect();
        let chosen = choose(&all, beginning(&json!({ "prompt": prompt })), in_hand).unwrap();
        chosen.node.clone()
    }

    #[test]
    fn calls_that_begin_alike_go_to_the_same_node_and_others_are_spread() {
        let nodes = |count: usize| -> BTreeSet<String> {
            (0..count).map(|index| check(&format!("prompt {index}"), [0; 3])).collect()
        };
        assert_eq!(nodes(64).len(), 3);
        for index in 0..8 {
            let prompt = format!("prompt {index}");
            assert_eq!(check(&prompt, [0; 3]), check(&prompt, [3, 4, 2]));
        }
    }

    #[test]
    fn a_favourite_with_clearly_more_in_hand_is_passed_over() {
        let favourite = check("hello", [0; 3]);
        let index = ["n0", "n1", "n2"].iter().position(|node| *node == favourite).unwrap();
        let mut calls = [7; 3];
        calls[index] += FAVOUR_CALLS;
        assert_eq!(check("hello", calls), favourite);
        calls[index] += 1;
        assert_ne!(check("hello", calls), favourite);
    }

    #[test]
    fn a_node_that_takes_no_more_from_this_door_is_passed_over() {
        let favourite = check("hello", [CALLS_MAX - 1; 3]);
        let index = ["n0", "n1", "n2"].iter().position(|node| *node == favourite).unwrap();
        let mut calls = [CALLS_MAX - 1; 3];
        calls[index] = CALLS_MAX;
        assert_ne!(check("hello", calls), favourite);
        let peers = [peer("n0"), peer("n1")];
        let all: Vec<_> = peers.iter().collect();
        assert_eq!(choose(&all, beginning(&json!(null)), |_| CALLS_MAX), None);
    }

    #[test]
    fn what_is_no_prompt_and_what_comes_late_changes_no_beginning() {
        let long = "x".repeat(2 * BEGINNING_BYTES);
        let one = json!({ "prompt": format!("{long}a"), "max_tokens": 1 });
        let two = json!({ "prompt": format!("{long}b"), "max_tokens": 2 });
        assert_eq!(beginning(&one), beginning(&two));
        let early = json!({ "prompt": format!("a{long}") });
        assert_ne!(beginning(&one), beginning(&early));
        let own = json!({ "anything": 1 });
        assert_ne!(beginning(&own), beginning(&json!({ "anything": 2 })));
    }

    #[test]
    fn another_tenants_calls_have_their_own_favourite() {
        let params = json!({ "prompt": "hello" });
        let other = Beginning::of(&TenantName::parse("default/zeta").unwrap(), &name("m"), &params);
        assert_ne!(beginning(&params), other);
    }

    #[test]
    fn there_is_nobody_to_choose_among_nobody() {
        assert_eq!(choose(&[], beginning(&json!(null)), |_| 0), None);
    }

    #[test]
    fn calls_in_hand_are_counted_while_they_last() {
        let in_hand = InHand::default();
        let (one, two) = (in_hand.add(&peer("n1")), in_hand.add(&peer("n1")));
        assert_eq!((in_hand.of(&peer("n1")), in_hand.of(&peer("n2"))), (2, 0));
        drop(one);
        assert_eq!(in_hand.of(&peer("n1")), 1);
        drop(two);
        assert!(in_hand.0.lock().unwrap().is_empty());
    }
}
