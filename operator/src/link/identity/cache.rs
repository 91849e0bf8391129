//! What good tokens have proven lately. Pure: time is an argument.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::AgentIdentity;

/// How long an answer is believed: an agent that comes back a few times in a row costs one review,
/// and the token of a pod that was deleted opens nothing for longer than this.
const TTL: Duration = Duration::from_secs(30);

/// Answers remembered: Kubernetes supports 5,000 nodes, each with one agent and, while its token
/// is renewed, two tokens.
const ANSWERS_MAX: usize = 10_000;

/// The key of the cache. A token itself is not kept.
pub(super) fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[derive(Debug, Default)]
pub(super) struct Cache {
    answers: BTreeMap<[u8; 32], (Arc<AgentIdentity>, Instant)>,
}

impl Cache {
    pub(super) fn get(&self, digest: &[u8; 32], now: Instant) -> Option<Arc<AgentIdentity>> {
        let (identity, until) = self.answers.get(digest)?;
        (now < *until).then(|| identity.clone())
    }

    pub(super) fn insert(&mut self, digest: [u8; 32], identity: Arc<AgentIdentity>, now: Instant) {
        if self.answers.len() >= ANSWERS_MAX {
            self.answers.retain(|_, (_, until)| now < *until);
        }
        // Full of answers that still hold: this one is not worth forgetting another.
        if self.answers.len() < ANSWERS_MAX {
            self.answers.insert(digest, (identity, now + TTL));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Arc<AgentIdentity> {
        Arc::new(AgentIdentity {
            node: "worker-1".to_owned(),
            pod: "realm-agent-x".to_owned(),
            namespace: "realm-system".to_owned(),
            pod_uid: "6f1d".to_owned(),
            pod_ip: None,
        })
    }

    #[test]
    fn an_answer_is_believed_for_a_while_and_no_longer() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.insert(digest("token"), identity(), now);
        assert_eq!(cache.get(&digest("token"), now), Some(identity()));
        assert_eq!(cache.get(&digest("token"), now + TTL), None);
        assert_eq!(cache.get(&digest("other"), now), None);
    }

    #[test]
    fn answers_have_a_limit_and_old_ones_make_room() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        for token in 0..=ANSWERS_MAX {
            cache.insert(digest(&token.to_string()), identity(), now);
        }
        assert_eq!(cache.answers.len(), ANSWERS_MAX);
        cache.insert(digest("late"), identity(), now + TTL);
        assert_eq!(cache.answers.len(), 1);
    }
}
