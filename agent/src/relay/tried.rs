//! Nodes that did not take a call since it last waited.

use std::collections::HashSet;

use realm_core::{desired::Peer, refusal::Refusal};

/// Nodes at fault that are asked before the call waits for a change: one that is overtaken by its
/// own news is rare, and three at once are not news but a fault.
pub(super) const FAULTS_MAX: usize = 3;

#[derive(Debug, Default)]
pub(super) struct Tried {
    peers: HashSet<Peer>,
    /// What those of them said whose tenant's program does not come.
    lacking: Vec<Refusal>,
}

impl Tried {
    /// Notes a node that did not take the call, and what it said if it lacks the program.
    pub(super) fn add(&mut self, peer: Peer, lacks: Option<Refusal>) {
        if self.peers.insert(peer) {
            self.lacking.extend(lacks);
        }
    }

    pub(super) const fn peers(&self) -> &HashSet<Peer> {
        &self.peers
    }

    pub(super) fn is_empty(&self) -> bool {
        self.peers.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.peers.clear();
        self.lacking.clear();
    }

    /// Whether another node may be asked. That one lacks a program is no fault of its own, and each
    /// of those is asked once.
    pub(super) fn may_ask(&self) -> bool {
        self.peers.len().saturating_sub(self.lacking.len()) < FAULTS_MAX
    }

    /// Whether none of those that were asked is at fault.
    pub(super) fn none_at_fault(&self) -> bool {
        self.lacking.len() >= self.peers.len()
    }

    /// What the last node without the program said.
    pub(super) fn last_lack(&self) -> Option<&Refusal> {
        self.lacking.last()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(number: usize) -> Peer {
        Peer { node: format!("n{number}"), address: "10.0.0.1:7071".to_owned() }
    }

    fn lack() -> Refusal {
        Refusal::ProgramNotReady { reason: "DigestMismatch".to_owned() }
    }

    #[test]
    fn nodes_at_fault_are_counted_and_those_without_a_program_are_not() {
        let mut tried = Tried::default();
        for number in 0..10 {
            tried.add(peer(number), Some(lack()));
        }
        assert!(tried.may_ask() && tried.none_at_fault());
        assert_eq!(tried.last_lack(), Some(&lack()));
        for number in 10..10 + FAULTS_MAX {
            assert!(tried.may_ask());
            tried.add(peer(number), None);
            assert!(!tried.none_at_fault());
        }
        assert!(!tried.may_ask());
        tried.clear();
        assert!(tried.may_ask() && tried.is_empty());
    }

    #[test]
    fn a_node_that_is_asked_again_counts_once() {
        let mut tried = Tried::default();
        tried.add(peer(0), None);
        tried.add(peer(0), Some(lack()));
        assert!(!tried.none_at_fault());
    }
}
