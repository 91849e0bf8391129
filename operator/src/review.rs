//! Whose a token is, by the API server's word.

use std::net::IpAddr;

use k8s_openapi::api::{
    authentication::v1::{TokenReview as Review, TokenReviewSpec},
    core::v1::Pod,
};
use kube::{Api, Client, api::PostParams};

use crate::link::identity::{ReviewError, TokenReview, TokenReviewer};

/// Asks the API server.
pub(crate) struct ApiServer {
    client: Client,
    /// Where the agents' Pods are.
    namespace: String,
}

impl ApiServer {
    pub(crate) fn new(client: Client, namespace: &str) -> Self {
        Self { client, namespace: namespace.to_owned() }
    }

    /// The address of the Pod that a token is bound to, if it is still that Pod.
    async fn address(&self, name: &str, uid: &str) -> Option<IpAddr> {
        let pods = Api::<Pod>::namespaced(self.client.clone(), &self.namespace);
        let pod = pods.get_opt(name).await.ok()??;
        if pod.metadata.uid.as_deref() != Some(uid) {
            return None;
        }
        pod.status?.pod_ip?.parse().ok()
    }
}

impl TokenReviewer for ApiServer {
    async fn review(&self, token: &str, audience: &str) -> Result<TokenReview, ReviewError> {
        let review = Review {
            spec: TokenReviewSpec {
                token: Some(token.to_owned()),
                audiences: Some(vec![audience.to_owned()]),
            },
            ..Review::default()
        };
        let reviews = Api::<Review>::all(self.client.clone());
        let answered = reviews.create(&PostParams::default(), &review).await;
        let answered = answered.map_err(|error| ReviewError { message: error.to_string() })?;
        let status = answered.status.unwrap_or_default();
        let user = status.user.unwrap_or_default();
        let extra = user.extra.unwrap_or_default();
        let first = |key: &str| extra.get(key).and_then(|values| values.first());
        let pod = first("authentication.kubernetes.io/pod-name")
            .zip(first("authentication.kubernetes.io/pod-uid"));
        let pod_ip = match pod {
            Some((name, uid)) => self.address(name, uid).await,
            None => None,
        };
        Ok(TokenReview {
            authenticated: status.authenticated.unwrap_or(false),
            error: status.error.filter(|error| !error.is_empty()),
            audiences: status.audiences.unwrap_or_default(),
            username: user.username.unwrap_or_default(),
            extra: extra.into_iter().collect(),
            pod_ip,
        })
    }
}
