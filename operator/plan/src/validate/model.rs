//! Models.

use std::collections::BTreeSet;

use realm_crds::{
    Model, ModelSpec,
    model::{ALLOWED_NAMESPACES_MAX, CONTEXT_MAX, KV_BLOCKS_MAX, REPLICAS_MAX},
};

use super::{
    Site,
    artifact::{RawArtifact, artifact},
    field,
};
use crate::{
    desired::DesiredModel,
    name::Name,
    problem::{Findings, Problem},
};

/// A model that can be planned. Only [`model`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidModel {
    pub(crate) desired: DesiredModel,
    pub(crate) allowed_namespaces: BTreeSet<String>,
    pub(crate) replicas: u32,
}

impl ValidModel {
    pub const fn name(&self) -> &Name {
        &self.desired.name
    }

    /// Whether objects in `namespace` may refer to the model.
    pub(crate) fn is_open_to(&self, namespace: &str) -> bool {
        self.name().namespace() == namespace || self.allowed_namespaces.contains(namespace)
    }
}

/// Proves `raw`, or lists what is wrong with it.
pub fn model(raw: &Model, site: Site) -> Result<ValidModel, Vec<Problem>> {
    let ModelSpec { sources, sha256, context, kv_blocks, allowed_namespaces, replicas } = &raw.spec;
    let mut findings = Findings::default();
    let name = field::name(&raw.metadata, &mut findings);
    let raw_artifact = RawArtifact { path: "spec", sources, sha256: sha256.as_deref() };
    let artifact = artifact(&raw_artifact, site, &mut findings);
    if let Some(context) = *context {
        field::range("spec.context", context, (1, CONTEXT_MAX), &mut findings);
    }
    if let Some(kv_blocks) = *kv_blocks {
        field::range("spec.kvBlocks", kv_blocks, (1, KV_BLOCKS_MAX), &mut findings);
    }
    field::range("spec.replicas", *replicas, (0, REPLICAS_MAX), &mut findings);
    check_namespaces(allowed_namespaces, &mut findings);
    let valid = name.zip(artifact).map(|(name, artifact)| ValidModel {
        desired: DesiredModel { name, artifact, context: *context, kv_blocks: *kv_blocks },
        allowed_namespaces: allowed_namespaces.iter().cloned().collect(),
        replicas: *replicas,
    });
    findings.prove(valid)
}

fn check_namespaces(namespaces: &[String], findings: &mut Findings) {
    let path = "spec.allowedNamespaces";
    if field::count(path, namespaces.len(), (0, ALLOWED_NAMESPACES_MAX), findings) {
        field::labels(path, namespaces, findings);
        field::unique(namespaces.iter().map(String::as_str), |i| format!("{path}[{i}]"), findings);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The problems of the model in `spec`, as `path reason`.
    fn check(spec: &str) -> Result<ValidModel, Vec<String>> {
        let yaml = format!(
            "{{apiVersion: realm.dev/v1alpha1, kind: Model, metadata: {{name: m}}, spec: {{{spec}}}}}"
        );
        model(&serde_saphyr::from_str(&yaml).unwrap(), Site::OneMachine).map_err(|problems| {
            problems.iter().map(|p| format!("{} {}", p.path, p.reason.as_str())).collect()
        })
    }

    #[test]
    fn a_minimal_model_has_one_replica_in_the_default_namespace() {
        let model = check("sources: ['file:///m.gguf']").unwrap();
        assert_eq!(model.name().to_string(), "default/m");
        assert_eq!(model.replicas, 1);
        assert!(model.is_open_to("default") && !model.is_open_to("other"));
    }

    #[test]
    fn a_model_is_open_to_the_namespaces_it_allows() {
        let model = check("sources: ['file:///m.gguf'], allowedNamespaces: [a, b]").unwrap();
        assert!(model.is_open_to("a") && model.is_open_to("b") && !model.is_open_to("c"));
    }

    #[test]
    fn all_problems_are_reported_at_once() {
        let problems = check(
            "sources: ['ftp://x/y'], sha256: 'no', context: 0, kvBlocks: 99999999, \
             replicas: 10001, allowedNamespaces: [a, A, a]",
        )
        .unwrap_err();
        assert_eq!(
            problems,
            [
                "spec.sources[0] SourceNotAllowed",
                "spec.sha256 InvalidValue",
                "spec.context OutOfRange",
                "spec.kvBlocks OutOfRange",
                "spec.replicas OutOfRange",
                "spec.allowedNamespaces[1] InvalidValue",
                "spec.allowedNamespaces[2] Duplicate",
            ]
        );
    }

    #[test]
    fn a_field_that_does_not_exist_is_refused() {
        let yaml = "{apiVersion: realm.dev/v1alpha1, kind: Model, metadata: {name: m}, \
                     spec: {sources: ['file:///m'], replica: 2}}";
        let error = serde_saphyr::from_str::<Model>(yaml).unwrap_err().to_string();
        assert!(error.contains("unknown field `replica`"), "{error}");
    }
}
