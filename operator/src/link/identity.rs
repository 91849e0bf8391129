//! Whose token this is: from a bearer token to the node whose agent holds it.
//!
//! An agent shows a projected ServiceAccount token that is bound to its pod. The API server says
//! what is in it, through the port [`TokenReviewer`], and [`check`] (pure) says whether that is
//! an agent of ours and on which node.

use std::{
    collections::BTreeMap,
    future::Future,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use thiserror::Error;
use tokio::{
    sync::Semaphore,
    time::{self, Instant},
};

mod cache;

use cache::Cache;

/// Who the agents' tokens are made for; a token for anybody else proves nothing here.
pub const AUDIENCE: &str = "realm-operator";

/// What the API server adds about the pod that a token is bound to.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// Longest node name, in bytes: a DNS-1123 subdomain, as Kubernetes requires.
const NODE_LEN_MAX: usize = 253;

/// Reviews at once. Anybody who reaches the port can cause one, so they must not be what keeps
/// the API server busy; a thousand agents that come back together need five seconds at 80 ms.
const REVIEWS_AT_ONCE: usize = 16;

/// Longest wait for a review, its turn included: past it the agent tries again elsewhere.
const REVIEW_WAIT: Duration = Duration::from_secs(10);

/// How long an agent that is connected is believed before its token is reviewed again, at least; at
/// most twice as long, so that a thousand which came together are not reviewed together. Five
/// thousand nodes cost the API server about ten reviews a second.
const PROVEN_FOR: Duration = Duration::from_mins(5);

/// The agent that a token proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentIdentity {
    pub node: String,
    pub pod: String,
    pub namespace: String,
    pub pod_uid: String,
    /// Where other agents reach it, if the reviewer knows.
    pub pod_ip: Option<IpAddr>,
}

/// The account of all agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceAccount {
    pub namespace: String,
    pub name: String,
}

impl ServiceAccount {
    /// The user that the API server knows it by.
    fn username(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.name)
    }
}

/// What the API server says about a token: the `status` of a TokenReview.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenReview {
    pub authenticated: bool,
    /// Why not, if the API server says.
    pub error: Option<String>,
    pub audiences: Vec<String>,
    pub username: String,
    pub extra: BTreeMap<String, Vec<String>>,
    /// The address of the pod with the uid in `extra`, if the reviewer has looked it up.
    pub pod_ip: Option<IpAddr>,
}

/// The port to the API server.
pub trait TokenReviewer: Send + Sync + 'static {
    /// Has `token` reviewed for the audience `audience`.
    fn review(
        &self,
        token: &str,
        audience: &str,
    ) -> impl Future<Output = Result<TokenReview, ReviewError>> + Send;
}

/// Why the API server gave no answer.
#[derive(Debug, Error)]
#[error("the API server did not review the token: {message}")]
pub struct ReviewError {
    pub message: String,
}

/// Why a token proves no agent.
#[derive(Debug, Error)]
pub enum IdentityError {
    #[error("the token is not valid: {message}")]
    NotAuthenticated { message: String },
    #[error("the token is for {audiences:?} and not for `{AUDIENCE}`")]
    Audience { audiences: Vec<String> },
    #[error("the token is that of `{username}`; agents are `{expected}`")]
    Account { username: String, expected: String },
    #[error("the token has {count} values of `{key}`; one is needed")]
    Extra { key: &'static str, count: usize },
    #[error("the token is bound to `{node}`, which is no name of a node")]
    Node { node: String },
    #[error("have the token reviewed")]
    Review(#[source] ReviewError),
    #[error("no review within {REVIEW_WAIT:?}")]
    Busy,
}

/// What tells somebody at the door from an agent of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stranger {
    /// No token at all.
    NoToken,
    /// A token that the API server does not know, or no longer.
    NotAuthenticated,
    /// One that was made for somebody else.
    Audience,
    /// One of another account than that of agents.
    Account,
    /// One that is bound to no pod on a node.
    NotAPod,
    /// One of an agent on another node than it says.
    OtherNode,
}

impl Stranger {
    pub const ALL: [Self; 6] = [
        Self::NoToken,
        Self::NotAuthenticated,
        Self::Audience,
        Self::Account,
        Self::NotAPod,
        Self::OtherNode,
    ];

    /// As a metric's label has it.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::NoToken => "NoToken",
            Self::NotAuthenticated => "NotAuthenticated",
            Self::Audience => "Audience",
            Self::Account => "Account",
            Self::NotAPod => "NotAPod",
            Self::OtherNode => "OtherNode",
        }
    }
}

impl IdentityError {
    /// What is wrong with the token; nothing while nobody has looked at it.
    pub(crate) const fn stranger(&self) -> Option<Stranger> {
        match self {
            Self::NotAuthenticated { .. } => Some(Stranger::NotAuthenticated),
            Self::Audience { .. } => Some(Stranger::Audience),
            Self::Account { .. } => Some(Stranger::Account),
            Self::Extra { .. } | Self::Node { .. } => Some(Stranger::NotAPod),
            Self::Review(_) | Self::Busy => None,
        }
    }
}

/// Whether a reviewed token is that of one of our agents, and on which node. Pure.
pub fn check(
    review: &TokenReview,
    expected: &ServiceAccount,
) -> Result<AgentIdentity, IdentityError> {
    let TokenReview { authenticated, error, audiences, username, extra, pod_ip } = review;
    if !authenticated {
        let message = error.clone().unwrap_or_else(|| "the API server does not say why".to_owned());
        return Err(IdentityError::NotAuthenticated { message });
    }
    // An API server that knows no audiences leaves them empty: then nobody has checked.
    if !audiences.iter().any(|audience| audience == AUDIENCE) {
        return Err(IdentityError::Audience { audiences: audiences.clone() });
    }
    let expected_username = expected.username();
    if *username != expected_username {
        let username = username.clone();
        return Err(IdentityError::Account { username, expected: expected_username });
    }
    let node = only(extra, NODE_NAME)?;
    if !is_node_name(node) {
        return Err(IdentityError::Node { node: node.to_owned() });
    }
    Ok(AgentIdentity {
        node: node.to_owned(),
        pod: only(extra, POD_NAME)?.to_owned(),
        namespace: expected.namespace.clone(),
        pod_uid: only(extra, POD_UID)?.to_owned(),
        pod_ip: *pod_ip,
    })
}

fn only<'a>(
    extra: &'a BTreeMap<String, Vec<String>>,
    key: &'static str,
) -> Result<&'a str, IdentityError> {
    match extra.get(key).map_or(&[][..], Vec::as_slice) {
        [value] => Ok(value),
        values => Err(IdentityError::Extra { key, count: values.len() }),
    }
}

fn is_node_name(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_part = |part: &str| {
        let bytes = part.as_bytes();
        let ends_well = bytes.first().is_some_and(|&b| is_inner(b))
            && bytes.last().is_some_and(|&b| is_inner(b));
        ends_well && bytes.iter().all(|&b| is_inner(b) || b == b'-')
    };
    text.len() <= NODE_LEN_MAX && text.split('.').all(is_part)
}

/// Answers whose token it is, asking the API server once in a while.
pub struct Identities<R> {
    reviewer: R,
    account: ServiceAccount,
    cache: Mutex<Cache>,
    turns: Semaphore,
}

impl<R: TokenReviewer> Identities<R> {
    /// Takes tokens of `account` alone.
    pub fn new(reviewer: R, account: ServiceAccount) -> Self {
        Self {
            reviewer,
            account,
            cache: Mutex::new(Cache::default()),
            turns: Semaphore::new(REVIEWS_AT_ONCE),
        }
    }

    /// The agent that `token` proves. What a good token proves is remembered for a short time; a
    /// bad one is asked about again.
    pub async fn identify(&self, token: &str) -> Result<Arc<AgentIdentity>, IdentityError> {
        let digest = cache::digest(token);
        if let Some(identity) = self.cached(&digest) {
            return Ok(identity);
        }
        let review = async {
            // The semaphore is never closed.
            let _turn = self.turns.acquire().await;
            // Another connection may have asked while this one waited.
            if let Some(identity) = self.cached(&digest) {
                return Ok(identity);
            }
            let review = self.reviewer.review(token, AUDIENCE).await;
            let identity = check(&review.map_err(IdentityError::Review)?, &self.account)?;
            let identity = Arc::new(identity);
            self.lock().insert(digest, identity.clone(), Instant::now());
            Ok::<_, IdentityError>(identity)
        };
        time::timeout(REVIEW_WAIT, review).await.unwrap_or(Err(IdentityError::Busy))
    }

    /// Returns once `token` proves no agent any more: its pod is gone, or its time is over. While the
    /// API server does not answer, its last word holds.
    pub(super) async fn refuted(self: Arc<Self>, token: Box<str>) -> IdentityError {
        let [spread, ..] = cache::digest(&token);
        loop {
            time::sleep(PROVEN_FOR + PROVEN_FOR * u32::from(spread) / 255).await;
            match self.identify(&token).await {
                Ok(_) | Err(IdentityError::Review(_) | IdentityError::Busy) => {}
                Err(error) => return error,
            }
        }
    }

    fn cached(&self, digest: &[u8; 32]) -> Option<Arc<AgentIdentity>> {
        self.lock().get(digest, Instant::now())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
