//! Waiting until the operator says that a change counts.

use std::time::Duration;

use realm_crds::{Secret, Tenant};
use realm_plan::counted;
use thiserror::Error;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Cluster, ClusterError, Served as _, keys};
use crate::{conditions::is_true, output};

/// How long the operator may take. A new leader waits 15 s for the Lease of the one before, plans
/// within a second, and holds a status back for two seconds at most; this is three times that.
const SETTLE_MAX: Duration = Duration::from_mins(1);

/// Between two looks: what a person does not notice, and nothing to an API server.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// What a change waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Want {
    /// The operator has seen the tenant as it is now.
    Seen,
    /// And counts the keys that its Secrets hold now.
    Keys,
}

/// Why a wait ended without what was wanted. The change itself has been made.
#[derive(Debug, Error)]
pub(crate) enum SettleError {
    #[error("the change is made, and the operator says that it cannot count: {why}")]
    Never { why: String },
    #[error(
        "the change is made, and the operator has not said within {} s that it counts: {last}; \
         `realm info` with the same flags tells whether it runs", waited.as_secs()
    )]
    TimedOut { waited: Duration, last: String },
    #[error("the change is made, and what the operator says of it could not be read")]
    Cluster(#[source] ClusterError),
}

/// How a wait stands.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Done,
    Wait(String),
    Never(String),
}

/// Waits until the operator says that `want` is so of a tenant, telling what is waited for.
pub(crate) async fn tenant(
    cluster: &Cluster,
    name: &str,
    want: Want,
) -> Result<Tenant, SettleError> {
    let end = Instant::now() + SETTLE_MAX;
    let mut looks = interval(LOOK_EVERY);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        looks.tick().await;
        let tenant: Tenant = cluster.get(name).await.map_err(SettleError::Cluster)?;
        let keys = match want {
            Want::Seen => None,
            Want::Keys => Some(held(cluster, &tenant).await.map_err(SettleError::Cluster)?),
        };
        match judge(&tenant, keys) {
            Verdict::Done => return Ok(tenant),
            Verdict::Never(why) => return Err(SettleError::Never { why }),
            Verdict::Wait(last) if Instant::now() >= end => {
                return Err(SettleError::TimedOut { waited: SETTLE_MAX, last });
            }
            Verdict::Wait(why) if told.as_ref() != Some(&why) => {
                output::note(format!("waiting for the operator: {why}"));
                told = Some(why);
            }
            Verdict::Wait(_) => {}
        }
    }
}

/// How many keys the Secrets of a tenant hold.
async fn held(cluster: &Cluster, tenant: &Tenant) -> Result<u32, ClusterError> {
    let mut secrets = Vec::new();
    for source in &tenant.spec.api_keys {
        secrets.extend(cluster.find::<Secret>(&source.secret_name).await?);
    }
    Ok(keys::count(secrets.iter()))
}

/// Whether a tenant's status says what is wanted: that it has been seen, and perhaps so many keys.
fn judge(tenant: &Tenant, keys: Option<u32>) -> Verdict {
    let said = tenant.said();
    if !said.is_current() {
        return Verdict::Wait("it has not seen the tenant as it is now".to_owned());
    }
    let Some(wanted) = keys else { return Verdict::Done };
    let counts = tenant.status.as_ref().map_or(0, |status| status.keys);
    match said.condition("KeysValid") {
        Some(found) if found.reason == "SecretNotReadable" => Verdict::Never(found.message.clone()),
        // A bad entry beside it makes the condition false, and is no matter of this key.
        Some(_) if counts == wanted => Verdict::Done,
        // That there is none is the number it counts.
        Some(found) if !is_true(found) && found.reason != "NoKeys" => {
            Verdict::Wait(format!("{}: {}", found.reason, found.message))
        }
        _ => {
            let counts = counted(counts, "key");
            Verdict::Wait(format!("it counts {counts}, and the Secrets hold {wanted}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A tenant of generation 2 with this status.
    fn tenant(status: &Value) -> Tenant {
        serde_json::from_value(json!({
            "apiVersion": "realm.dev/v1alpha1", "kind": "Tenant",
            "metadata": {"name": "acme", "namespace": "shop", "generation": 2},
            "spec": {"apiKeys": [{"secretName": "acme-keys"}]},
            "status": status,
        }))
        .unwrap()
    }

    fn status(observed: i64, keys: u32, status: &str, reason: &str) -> Value {
        json!({"observedGeneration": observed, "keys": keys, "conditions": [{
            "type": "KeysValid", "status": status, "reason": reason, "message": "why",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }]})
    }

    #[test]
    fn a_change_counts_once_the_operator_has_seen_it() {
        assert!(matches!(judge(&tenant(&json!({})), None), Verdict::Wait(_)));
        assert!(matches!(judge(&tenant(&status(1, 0, "True", "Valid")), None), Verdict::Wait(_)));
        assert_eq!(judge(&tenant(&status(2, 0, "True", "Valid")), None), Verdict::Done);
    }

    #[test]
    fn a_key_counts_once_the_operator_counts_it() {
        let judge = |status: &Value| judge(&tenant(status), Some(2));
        assert!(matches!(judge(&status(1, 2, "True", "Valid")), Verdict::Wait(_)));
        let waits = |why: &str| Verdict::Wait(why.to_owned());
        let one = waits("it counts 1 key, and the Secrets hold 2");
        assert_eq!(judge(&status(2, 1, "True", "Valid")), one);
        let none = waits("it counts 0 keys, and the Secrets hold 2");
        assert_eq!(judge(&status(2, 0, "False", "NoKeys")), none);
        assert_eq!(judge(&status(2, 2, "True", "Valid")), Verdict::Done);
        assert_eq!(judge(&status(2, 2, "False", "InvalidKey")), Verdict::Done);
        assert_eq!(judge(&status(2, 0, "False", "UnknownSecret")), waits("UnknownSecret: why"));
    }

    #[test]
    fn a_secret_that_the_operator_may_not_read_is_not_waited_for() {
        let found = judge(&tenant(&status(2, 0, "False", "SecretNotReadable")), Some(1));
        assert_eq!(found, Verdict::Never("why".to_owned()));
    }
}
