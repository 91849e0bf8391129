//! Models as rows and as lines, the same words of a file and in a cluster. Pure.

use realm_core::report::ModelFacts;
use realm_crds::{
    Model, ModelStatus,
    model::{ModelEstimate, ModelNode},
};

use crate::{cluster::Served as _, manifests::one_line, table::Table, target};

pub(super) const COLUMNS: [&str; 6] = ["NAME", "STATE", "REPLICAS", "MODEL", "SIZE", "SHA256"];

/// States of a file on one machine.
pub(super) const CACHED: &str = "Cached";
pub(super) const IN_PLACE: &str = "InPlace";
pub(super) const NOT_CACHED: &str = "NotCached";

/// What a file on this machine is and says; nothing where there is none.
pub(super) struct File {
    pub(super) bytes: Option<u64>,
    pub(super) sha256: Option<String>,
    pub(super) facts: Option<ModelFacts>,
}

/// One file of a list.
pub(super) fn file(name: &str, state: &str, file: &File) -> [String; 6] {
    let File { bytes, sha256, facts } = file;
    let kind = match (facts, bytes) {
        (Some(ModelFacts { architecture, parameters, format, .. }), _) => {
            kind(architecture, *parameters, format)
        }
        (None, Some(_)) => "not a model".to_owned(),
        (None, None) => String::new(),
    };
    let size = bytes.map_or_else(String::new, size);
    let sha256 = sha256.clone().unwrap_or_default();
    [name.to_owned(), state.to_owned(), String::new(), kind, size, sha256]
}

/// One model of a cluster's list.
pub(super) fn served(model: &Model) -> [String; 6] {
    let status = model.status.clone().unwrap_or_default();
    let kind = match (&status.architecture, status.parameters, &status.format) {
        (Some(architecture), Some(parameters), Some(format)) => {
            kind(architecture, parameters, format)
        }
        _ => String::new(),
    };
    [
        target::full_name(&model.metadata),
        model.said().state(),
        replicas(model, status.replicas),
        kind,
        status.estimate.map_or_else(String::new, |estimate| size(estimate.weights_bytes)),
        model.spec.sha256.clone().unwrap_or_default(),
    ]
}

fn kind(architecture: &str, parameters: u64, format: &str) -> String {
    format!("{architecture} {}M {format}", parameters / 1_000_000)
}

fn size(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}

/// Agents that serve a model, of those that are wanted. What an adapter is of says how many those
/// are.
fn replicas(model: &Model, serving: u32) -> String {
    match (&model.spec.adapter_of, &model.spec.scaling) {
        (Some(_), _) => serving.to_string(),
        (None, Some(scaling)) => format!("{serving} of {} to {}", scaling.min, scaling.max),
        (None, None) => format!("{serving} of {}", model.spec.replicas),
    }
}

/// Tokens of context; a file that has none is of an adapter.
fn tokens(context: u32) -> String {
    if context == 0 { "its model's".to_owned() } else { format!("{context} tokens") }
}

/// What a model file says about itself.
pub(super) fn facts(facts: &ModelFacts) -> Vec<String> {
    let ModelFacts {
        architecture,
        parameters,
        format,
        context,
        licence,
        weights_bytes,
        memory: _,
        sha256: _,
    } = facts;
    let licence = licence.as_deref().unwrap_or("not stated");
    vec![
        format!("architecture  {architecture}"),
        format!("parameters    {parameters}"),
        format!("format        {format}"),
        format!("context       {}", tokens(*context)),
        format!("weights       {weights_bytes} bytes"),
        format!("licence       {licence}"),
    ]
}

/// All of one model of a cluster.
pub(super) fn lines(model: &Model) -> Vec<String> {
    let ModelStatus {
        observed_generation: _,
        conditions: _,
        replicas: serving,
        selector: _,
        architecture,
        parameters,
        format,
        context,
        licence,
        estimate,
        // The condition `Verified` says it.
        claimed: _,
        nodes,
    } = model.status.clone().unwrap_or_default();
    let known = |text: Option<String>| text.unwrap_or_else(|| "not known yet".to_owned());
    let number = |number: Option<u64>| known(number.map(|number| number.to_string()));
    let estimate = estimate.as_ref();
    let of_adapter = model.spec.adapter_of.as_ref().map(|_| 0);
    let mut lines = vec![
        format!("name          {}", target::full_name(&model.metadata)),
        format!("replicas      {}", replicas(model, serving)),
        format!("architecture  {}", known(architecture)),
        format!("parameters    {}", number(parameters)),
        format!("format        {}", known(format)),
        format!("context       {}", known(context.or(of_adapter).map(tokens))),
        format!("weights       {} bytes", number(estimate.map(|estimate| estimate.weights_bytes))),
        format!("licence       {}", licence.unwrap_or_else(|| "not stated".to_owned())),
    ];
    if let Some(ModelEstimate { weights_bytes: _, kv_bytes_per_block, activation_bytes }) = estimate
    {
        let kv = match kv_bytes_per_block {
            0 => "no KV cache".to_owned(),
            bytes => format!("{bytes} bytes for each block of KV cache"),
        };
        lines.push(format!("memory        the weights, {kv}, {activation_bytes} bytes for a step"));
    }
    if let Some(base) = &model.spec.adapter_of {
        lines.push(format!("adapter of    {}", target::referred(base)));
    }
    lines.extend(model.spec.sources.iter().map(|source| format!("source        {source}")));
    let mut lines: Vec<_> = lines.iter().map(|line| one_line(line)).collect();
    lines.push(if nodes.is_empty() { "nodes         none" } else { "nodes" }.to_owned());
    let mut table = Table::<4>::plain();
    for node in &nodes {
        let ModelNode { name, state, bytes_done: _, bytes_total: _, reason: _, message: _ } = node;
        table.add([String::from(" "), name.clone(), format!("{state:?}"), told(node)]);
    }
    lines.extend(table.lines());
    lines.push("conditions".to_owned());
    lines.extend(model.said().lines());
    lines
}

/// How far a node is with what it does, or why it is stuck.
fn told(ModelNode { bytes_done, bytes_total, reason, message, .. }: &ModelNode) -> String {
    match (reason, message, bytes_done, bytes_total) {
        (Some(reason), message, _, _) => {
            format!("{reason}: {}", message.as_deref().unwrap_or("no cause is told"))
        }
        (None, _, Some(done), Some(total)) => format!("{} of {}", size(*done), size(*total)),
        (None, _, Some(done), None) => size(*done),
        (None, _, None, _) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn model(status: &serde_json::Value) -> Model {
        serde_json::from_value(json!({
            "apiVersion": "realm.dev/v1alpha1", "kind": "Model",
            "metadata": {"name": "tiny", "namespace": "shop", "generation": 1},
            "spec": {"sources": ["https://h/m"], "sha256": "ab".repeat(32), "replicas": 2},
            "status": status,
        }))
        .unwrap()
    }

    fn known() -> serde_json::Value {
        json!({
            "observedGeneration": 1, "replicas": 1, "architecture": "llama",
            "parameters": 134_000_000, "format": "Q4_1", "context": 8192,
            "estimate": {"weightsBytes": 98_000_000, "kvBytesPerBlock": 7, "activationBytes": 9},
            "nodes": [
                {"name": "alpha", "state": "Ready"},
                {"name": "beta", "state": "Fetching", "bytesDone": 12_000_000, "bytesTotal": 98_000_000},
                {"name": "gamma", "state": "Failed", "reason": "NotFound", "message": "404"},
            ],
            "conditions": [{
                "type": "Ready", "status": "True", "reason": "Serving", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }],
        })
    }

    #[test]
    fn a_model_that_nobody_has_looked_into_says_so() {
        let model = model(&json!({}));
        assert_eq!(served(&model)[..3], ["shop/tiny", "Unseen", "0 of 2"]);
        let lines = lines(&model);
        assert!(lines.contains(&"architecture  not known yet".to_owned()), "{lines:?}");
        assert!(lines.contains(&"nodes         none".to_owned()), "{lines:?}");
    }

    #[test]
    fn a_row_is_the_same_of_a_file_and_of_a_cluster() {
        let in_cluster = served(&model(&known()));
        let facts = ModelFacts {
            architecture: "llama".to_owned(),
            parameters: 134_000_000,
            format: "Q4_1".to_owned(),
            context: 8192,
            licence: None,
            weights_bytes: 98_000_000,
            memory: None,
            sha256: None,
        };
        let found =
            File { bytes: Some(98_000_000), sha256: Some("ab".repeat(32)), facts: Some(facts) };
        let on_disk = file("shop/tiny", CACHED, &found);
        assert_eq!(in_cluster[3..], on_disk[3..]);
        assert_eq!(in_cluster[..3], ["shop/tiny", "Ready", "1 of 2"]);
    }

    #[test]
    fn every_node_says_how_far_it_is() {
        let lines = lines(&model(&known()));
        for expected in [
            "   alpha  Ready     -",
            "   beta   Fetching  12.0 MB of 98.0 MB",
            "   gamma  Failed    NotFound: 404",
        ] {
            assert!(lines.iter().any(|line| line == expected), "{expected}: {lines:#?}");
        }
    }
}
