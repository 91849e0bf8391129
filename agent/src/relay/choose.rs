//! Which of several nodes a call goes to.
//!
//! Calls that begin alike go to the same node, whose cache then holds how they begin: the nodes
//! are ranked by a hash of the beginning and their name, which is the same at every door and needs
//! no memory of who served what. Only a node that has clearly more to do than another is passed
//! over: by the calls of this door, which it knows, and by those of others, of which nodes tell with
//! their answers. What was told is old, and all doors hear the same; none runs for the node with
//! least to do, but each for the best ranked of those that have not much more.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{self, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use realm_core::{
    desired::Peer,
    name::{GroupName, ModelName, TenantName},
};
use realm_link::peer::CALLS_MAX;
use serde_json::Value;

/// Bytes of its parameters by which calls are found to begin alike: longer than most system
/// prompts are before they differ, and hashed in a microsecond.
const BEGINNING_BYTES: usize = 1 << 10;

/// Calls that the favourite may have in hand beyond the least of all before it is passed over. To
/// compute a beginning anew costs about as much as these make each other wait in one batch.
const FAVOUR_CALLS: u32 = 4;

/// How long a node is believed what it said that it has in hand: for as long as a short answer takes,
/// after which most of it has ended. A node that is passed over says nothing, and is tried again.
const HEARD_FOR: Duration = Duration::from_secs(5);

/// How calls for one model begin that may find each other's beginning in a cache: those of one
/// tenant, or of the tenants of a share group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Beginning(u64);

impl Beginning {
    /// Of what is prompt in `params` where that can be told, else of all of them: a change of
    /// `max_tokens` changes no cache.
    pub(super) fn of(
        (tenant, group): (&TenantName, Option<&GroupName>),
        model: &ModelName,
        params: &Value,
    ) -> Self {
        let prompt = params.get("messages").or_else(|| params.get("prompt"));
        let mut head = Head(Vec::with_capacity(BEGINNING_BYTES));
        // It fails when the head is full, as it should.
        drop(serde_json::to_writer(&mut head, prompt.unwrap_or(params)));
        let mut hasher = DefaultHasher::new();
        match group {
            Some(group) => group.hash(&mut hasher),
            None => tenant.hash(&mut hasher),
        }
        (model, head.0).hash(&mut hasher);
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

/// What a node has in hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Calls {
    /// Of this door.
    own: u32,
    /// Of everybody else.
    others: u32,
}

impl Calls {
    const fn all(self) -> u32 {
        self.own.saturating_add(self.others)
    }
}

/// The node that such a call should go to: its favourite, unless that has clearly more in hand than
/// another one. `None` where each has as many as it takes from one door.
pub(super) fn choose<'a>(
    peers: &[&'a Peer],
    beginning: Beginning,
    in_hand: impl Fn(&Peer) -> Calls,
) -> Option<&'a Peer> {
    let calls = peers.iter().map(|peer| (*peer, in_hand(peer)));
    let calls = calls.filter(|(_, calls)| calls.own < CALLS_MAX);
    let calls: Vec<_> = calls.map(|(peer, calls)| (peer, calls.all())).collect();
    let least = calls.iter().map(|(_, calls)| *calls).min()?;
    let is_open = |calls: u32| calls <= least.saturating_add(FAVOUR_CALLS);
    let open = calls.into_iter().filter(|(_, calls)| is_open(*calls)).map(|(peer, _)| peer);
    open.max_by_key(|peer| beginning.rank(peer))
}

/// What each node has in hand, as far as this door knows. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct InHand(Arc<Mutex<HashMap<String, AtNode>>>);

#[derive(Clone, Copy, Debug, Default)]
struct AtNode {
    own: u32,
    /// What others had there, and when.
    heard: Option<(u32, Instant)>,
}

impl AtNode {
    fn others(self, now: Instant) -> Option<u32> {
        let (others, at) = self.heard?;
        (now < at + HEARD_FOR).then_some(others)
    }
}

impl InHand {
    pub(super) fn of(&self, peer: &Peer, now: Instant) -> Calls {
        let nodes = self.lock();
        let node = nodes.get(&peer.node).copied().unwrap_or_default();
        Calls { own: node.own, others: node.others(now).unwrap_or(0) }
    }

    /// One more, for as long as what is returned lives. What is known of other nodes for no reason
    /// any more is forgotten, so that there are never more than have been called of late.
    pub(super) fn add(&self, peer: &Peer, now: Instant) -> OneInHand {
        let mut nodes = self.lock();
        nodes.retain(|_, node| node.own > 0 || node.others(now).is_some());
        let node = nodes.entry(peer.node.clone()).or_default();
        node.own = node.own.saturating_add(1);
        OneInHand { all: self.clone(), node: peer.node.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, AtNode>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One call in hand.
#[derive(Debug)]
pub(super) struct OneInHand {
    all: InHand,
    node: String,
}

impl OneInHand {
    /// Notes how many sequences the node has for anybody, of which those of this door are known
    /// better.
    pub(super) fn hear(&self, in_hand: u32, now: Instant) {
        let mut nodes = self.all.lock();
        if let Some(node) = nodes.get_mut(&self.node) {
            node.heard = Some((in_hand.saturating_sub(node.own), now));
        }
    }
}

impl Drop for OneInHand {
    fn drop(&mut self) {
        let mut nodes = self.all.lock();
        if let Some(node) = nodes.get_mut(&self.node) {
            node.own = node.own.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::json;

    use super::*;
    use crate::relay::look::tests::{name, peer};

    fn tenant(name: &str) -> TenantName {
        TenantName::new("default", name).unwrap()
    }

    fn beginning(params: &Value) -> Beginning {
        Beginning::of((&tenant("acme"), None), &name("m"), params)
    }

    const fn own(own: u32) -> Calls {
        Calls { own, others: 0 }
    }

    /// Where a call goes that begins so, with so many calls in hand at each of three nodes.
    fn check(prompt: &str, calls: [u32; 3]) -> String {
        check_all(prompt, calls.map(own))
    }

    fn check_all(prompt: &str, calls: [Calls; 3]) -> String {
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
    fn calls_of_others_count_as_much_and_only_its_own_make_a_node_full_for_a_door() {
        let favourite = check("hello", [0; 3]);
        let index = ["n0", "n1", "n2"].iter().position(|node| *node == favourite).unwrap();
        let mut calls = [Calls { own: 3, others: 4 }; 3];
        calls[index] = Calls { own: 5, others: 6 };
        assert_eq!(check_all("hello", calls), favourite);
        calls[index].others += 1;
        assert_ne!(check_all("hello", calls), favourite);
        let busy = Calls { own: 0, others: CALLS_MAX };
        assert_eq!(check_all("hello", [busy; 3]), favourite);
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
        assert_eq!(choose(&all, beginning(&json!(null)), |_| own(CALLS_MAX)), None);
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
        let other = Beginning::of((&tenant("zeta"), None), &name("m"), &params);
        assert_ne!(beginning(&params), other);
    }

    #[test]
    fn calls_of_one_group_that_begin_alike_have_the_same_favourite() {
        let params = json!({ "prompt": "hello" });
        let group = GroupName::new("default", "support").unwrap();
        let of =
            |name: &str| Beginning::of((&tenant(name), Some(&group)), &self::name("m"), &params);
        assert_eq!(of("acme"), of("zeta"));
        assert_ne!(of("acme"), beginning(&params));
    }

    #[test]
    fn there_is_nobody_to_choose_among_nobody() {
        assert_eq!(choose(&[], beginning(&json!(null)), |_| own(0)), None);
    }

    #[test]
    fn calls_in_hand_are_counted_while_they_last() {
        let (in_hand, now) = (InHand::default(), Instant::now());
        let own = |node: &str| in_hand.of(&peer(node), now).own;
        let (one, two) = (in_hand.add(&peer("n1"), now), in_hand.add(&peer("n1"), now));
        assert_eq!((own("n1"), own("n2")), (2, 0));
        drop(one);
        assert_eq!(own("n1"), 1);
        drop(two);
        let _other = in_hand.add(&peer("n2"), now);
        assert_eq!(in_hand.lock().keys().collect::<Vec<_>>(), ["n2"], "n1 is forgotten");
    }

    #[test]
    fn a_node_is_believed_for_a_while_what_others_have_there() {
        let (in_hand, now) = (InHand::default(), Instant::now());
        let (one, two) = (in_hand.add(&peer("n1"), now), in_hand.add(&peer("n1"), now));
        one.hear(7, now);
        let at = |now| in_hand.of(&peer("n1"), now);
        assert_eq!(at(now), Calls { own: 2, others: 5 });
        // It may not have counted yet what is on its way.
        two.hear(1, now);
        assert_eq!(at(now), Calls { own: 2, others: 0 });
        two.hear(6, now);
        drop((one, two));
        let last = now + HEARD_FOR;
        let before = last.checked_sub(Duration::from_millis(1)).unwrap();
        assert_eq!(
            at(before),
            Calls { own: 0, others: 4 },
            "calls that end take nothing with them"
        );
        assert_eq!(at(last), Calls::default());
        let _other = in_hand.add(&peer("n2"), before);
        assert!(in_hand.lock().contains_key("n1"));
        let _other = in_hand.add(&peer("n2"), last);
        assert!(!in_hand.lock().contains_key("n1"));
    }
}
