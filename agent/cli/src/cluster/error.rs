//! What goes wrong with a cluster, each in one sentence that says what to do.

use std::error::Error as _;

use kube::{config::KubeconfigError, core::Status};
use thiserror::Error;

use crate::manifests::one_line;

/// Why a cluster did not do what a command asked.
#[derive(Debug, Error)]
pub(crate) enum ClusterError {
    #[error(
        "there is no kubeconfig at {looked}; name one with --kubeconfig or in KUBECONFIG, or leave \
         the cluster's flags out to act on this machine"
    )]
    NoKubeconfig { looked: String },
    #[error("the kubeconfig is of no use")]
    Kubeconfig { source: Box<KubeconfigError> },
    #[error("the kubeconfig names no current context; choose one with --context, it has: {known}")]
    NoCurrentContext { known: String },
    #[error("the kubeconfig has no context `{context}`; it has: {known}")]
    NoContext { context: String, known: String },
    #[error("no way to the API server can be made of the kubeconfig")]
    Client { source: Box<kube::Error> },
    #[error(
        "the API server at {url} does not answer: {why}; is the cluster up, and is this its address?"
    )]
    Unreachable { url: String, why: String },
    #[error("you could not log in: {why}; log in again as your kubeconfig does it")]
    Login { why: String },
    #[error(
        "the API server at {url} does not know you; log in again, your credential may have expired"
    )]
    Unauthenticated { url: String },
    #[error("you may not {verb} {object}: {said}; the README says which rules each command needs")]
    Forbidden { verb: &'static str, object: String, said: String },
    #[error(
        "the cluster at {url} does not know Realm's resources; install the definitions in crds/yaml, \
         or choose another context"
    )]
    NoDefinitions { url: String },
    #[error("there is no namespace `{namespace}`; create it, or name another with --namespace")]
    NoNamespace { namespace: String },
    #[error("there is no {object}")]
    NotFound { object: String },
    #[error("{object} is there already")]
    Exists { object: String },
    #[error("{object} was changed by somebody else {tries} times meanwhile; try again")]
    Conflict { object: String, tries: usize },
    #[error("the API server refuses {object}: {said}")]
    Refused { object: String, said: String },
    #[error("the API server could not {verb} {object}: {said}")]
    Failed { verb: &'static str, object: String, said: String },
}

/// What was being done when something went wrong.
#[derive(Clone, Debug)]
pub(crate) struct Doing {
    pub(crate) verb: &'static str,
    pub(crate) object: String,
    pub(crate) url: String,
}

impl ClusterError {
    pub(crate) fn of(error: kube::Error, doing: Doing) -> Self {
        match error {
            kube::Error::Api(status) => Self::of_status(&status, doing),
            kube::Error::Auth(error) => Self::Login { why: one_line(&chain(&error)) },
            error @ (kube::Error::HyperError(_) | kube::Error::Service(_)) => {
                let why = one_line(&innermost(&error));
                Self::Unreachable { url: doing.url, why }
            }
            other => {
                let Doing { verb, object, url: _ } = doing;
                Self::Failed { verb, object, said: one_line(&chain(&other)) }
            }
        }
    }

    fn of_status(status: &Status, doing: Doing) -> Self {
        let Doing { verb, object, url } = doing;
        let said = one_line(&status.message);
        let details = status.details.as_ref();
        match status.code {
            401 => Self::Unauthenticated { url },
            403 => Self::Forbidden { verb, object, said },
            404 => match details {
                Some(details) if details.kind == "namespaces" => {
                    Self::NoNamespace { namespace: details.name.clone() }
                }
                Some(details) if !details.name.is_empty() => Self::NotFound { object },
                // Of an object that is not there the API server says the name; here it does not
                // know the kind.
                _ => Self::NoDefinitions { url },
            },
            409 if status.reason == "AlreadyExists" => Self::Exists { object },
            409 => Self::Conflict { object, tries: 1 },
            400 | 422 => Self::Refused { object, said },
            _ => Self::Failed { verb, object, said },
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = error.source();
    }
    text
}

/// What lies at the bottom of an error: `connection refused` rather than four layers of clients.
fn innermost(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = error.to_string();
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is said of an answer with this code, reason, message, and kind and name it is about.
    fn check(code: u16, reason: &str, message: &str, about: Option<(&str, &str)>) -> String {
        let mut status = serde_json::json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": code, "reason": reason, "message": message,
        });
        if let Some((kind, name)) = about {
            status["details"] = serde_json::json!({"kind": kind, "name": name});
        }
        let status: Status = serde_json::from_value(status).unwrap();
        let doing = Doing {
            verb: "read",
            object: "Tenant shop/acme".to_owned(),
            url: "https://api".to_owned(),
        };
        ClusterError::of(kube::Error::Api(status.boxed()), doing).to_string()
    }

    #[test]
    fn each_answer_has_its_sentence() {
        let tenant = Some(("tenants", "acme"));
        for (code, reason, message, about, expected) in [
            (401, "Unauthorized", "Unauthorized", None, "does not know you"),
            (
                403,
                "Forbidden",
                "tenants \"acme\" is forbidden",
                tenant,
                "you may not read Tenant shop/acme: ",
            ),
            (404, "NotFound", "not found", tenant, "there is no Tenant shop/acme"),
            (
                404,
                "NotFound",
                "not found",
                Some(("namespaces", "shop")),
                "there is no namespace `shop`",
            ),
            (
                404,
                "Failed to parse error data",
                "404 page not found",
                None,
                "does not know Realm's resources",
            ),
            (409, "AlreadyExists", "already exists", tenant, "Tenant shop/acme is there already"),
            (409, "Conflict", "changed", tenant, "try again"),
            (
                422,
                "Invalid",
                "spec.weight: too small",
                tenant,
                "refuses Tenant shop/acme: spec.weight",
            ),
            (500, "InternalError", "etcd", tenant, "could not read Tenant shop/acme: etcd"),
        ] {
            let said = check(code, reason, message, about);
            assert!(said.contains(expected), "{code} {reason}: {said}");
        }
    }
}
