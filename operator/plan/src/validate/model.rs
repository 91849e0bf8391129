//! Models.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use realm_crds::{
    Model, ModelSpec,
    model::{
        ADAPTER_MESSAGE, ALLOWED_NAMESPACES_MAX, CONTEXT_MAX, IDLE_AFTER_SECONDS_MAX,
        KV_BLOCKS_MAX, LABEL_KEY_LEN_MAX, LABEL_VALUE_LEN_MAX, ModelPlacement, NODE_SELECTOR_MAX,
        Prefetch, REPLICAS_MAX, Scaling as RawScaling, TARGET_QUEUE_MAX,
    },
    tenant::ModelRef,
};

use super::{
    Site,
    artifact::{RawArtifact, Use, artifact},
    field,
};
use crate::{
    desired::{Accelerator, Artifact, DesiredModel, KvCache, Stage},
    name::Name,
    problem::{Findings, Problem, Reason},
};

/// A model that can be planned. Only [`model`] makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidModel {
    name: Name,
    pub(crate) artifact: Arc<Artifact>,
    pub(crate) secret: Option<Name>,
    /// The model that this is an adapter of.
    pub(crate) base: Option<Name>,
    pub(crate) context: Option<u32>,
    pub(crate) kv_blocks: Option<u32>,
    pub(crate) kv_cache: KvCache,
    pub(crate) allowed_namespaces: BTreeSet<String>,
    pub(crate) node_selector: BTreeMap<String, String>,
    pub(crate) accelerator: Accelerator,
    pub(crate) prefetch: Prefetch,
    pub(crate) replicas: Replicas,
}

/// How many nodes are to hold a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Replicas {
    Fixed(u32),
    Scaled(Scaling),
}

/// How many nodes are to hold a model, by how much it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scaling {
    pub(crate) min: u32,
    /// Never below `min`.
    pub(crate) max: u32,
    /// Calls in hand that one replica should have; never 0.
    pub(crate) target_queue: u32,
    pub(crate) idle_after: Duration,
}

impl ValidModel {
    pub const fn name(&self) -> &Name {
        &self.name
    }

    /// The Secret that opens the model's sources.
    pub const fn secret(&self) -> Option<&Name> {
        self.secret.as_ref()
    }

    /// The model that this is an adapter of, if it is one: where that is, it is.
    pub const fn base(&self) -> Option<&Name> {
        self.base.as_ref()
    }

    /// Whether objects in `namespace` may refer to the model.
    pub(crate) fn is_open_to(&self, namespace: &str) -> bool {
        self.name().namespace() == namespace || self.allowed_namespaces.contains(namespace)
    }

    /// The model as a node is to hold it; `kv_blocks` where the spec says nothing of them.
    pub(crate) fn desired(&self, stage: Stage, kv_blocks: Option<u32>) -> DesiredModel {
        DesiredModel {
            name: self.name.clone(),
            artifact: self.artifact.clone(),
            secret: self.secret.clone(),
            base: self.base.clone(),
            context: self.context,
            kv_blocks: self.kv_blocks.or(kv_blocks),
            kv_cache: self.kv_cache,
            accelerator: self.accelerator,
            stage,
        }
    }
}

/// Proves `raw`, or lists what is wrong with it.
pub fn model(raw: &Model, site: Site) -> Result<ValidModel, Vec<Problem>> {
    let ModelSpec {
        sources,
        sha256,
        parts,
        source_secret,
        adapter_of,
        context,
        kv_blocks,
        kv_cache,
        allowed_namespaces,
        placement: ModelPlacement { node_selector, accelerator },
        prefetch,
        replicas,
        scaling,
    } = &raw.spec;
    let mut findings = Findings::default();
    let name = field::name(&raw.metadata, &mut findings);
    let (of, sha256) = (Use::Model, sha256.as_deref());
    let raw_artifact = RawArtifact { of, path: "spec", sources, sha256, parts };
    let artifact = artifact(&raw_artifact, site, &mut findings);
    let secret = source_secret.as_ref().zip(name.as_ref()).and_then(|(secret, own)| {
        field::reference("spec.sourceSecret.name", ("", &secret.name), own, &mut findings)
    });
    let base = adapter_of.as_ref().zip(name.as_ref()).and_then(|(base, own)| {
        let ModelRef { name, namespace } = base;
        field::reference("spec.adapterOf", (namespace, name), own, &mut findings)
    });
    if adapter_of.is_some() {
        check_adapter(&raw.spec, &mut findings);
    }
    if let Some(context) = *context {
        field::range("spec.context", context, (1, CONTEXT_MAX), &mut findings);
    }
    if let Some(kv_blocks) = *kv_blocks {
        field::range("spec.kvBlocks", kv_blocks, (1, KV_BLOCKS_MAX), &mut findings);
    }
    let replicas = read_replicas(*replicas, scaling.as_ref(), &mut findings);
    check_namespaces(allowed_namespaces, &mut findings);
    check_labels(node_selector, &mut findings);
    if site == Site::OneMachine {
        check_one_machine(&raw.spec, &mut findings);
    }
    let valid = name.zip(artifact).map(|(name, artifact)| ValidModel {
        name,
        artifact: Arc::new(artifact),
        secret,
        base,
        context: *context,
        kv_blocks: *kv_blocks,
        kv_cache: *kv_cache,
        allowed_namespaces: allowed_namespaces.iter().cloned().collect(),
        node_selector: node_selector.clone(),
        accelerator: *accelerator,
        prefetch: *prefetch,
        replicas,
    });
    findings.prove(valid)
}

/// An adapter has no place and no cache of its own.
fn check_adapter(spec: &ModelSpec, findings: &mut Findings) {
    let ModelPlacement { node_selector, accelerator } = &spec.placement;
    for (path, is_there) in [
        ("spec.parts", !spec.parts.is_empty()),
        ("spec.context", spec.context.is_some()),
        ("spec.kvBlocks", spec.kv_blocks.is_some()),
        ("spec.kvCache", spec.kv_cache != KvCache::F16),
        ("spec.placement", !node_selector.is_empty() || *accelerator != Accelerator::Any),
        ("spec.prefetch", spec.prefetch != Prefetch::None),
        ("spec.replicas", spec.replicas != 1),
        ("spec.scaling", spec.scaling.is_some()),
    ] {
        if is_there {
            findings.add(path, Reason::InvalidValue, ADAPTER_MESSAGE);
        }
    }
}

fn read_replicas(replicas: u32, scaling: Option<&RawScaling>, findings: &mut Findings) -> Replicas {
    field::range("spec.replicas", replicas, (0, REPLICAS_MAX), findings);
    let Some(RawScaling { min, max, target_queue, idle_after_seconds }) = scaling else {
        return Replicas::Fixed(replicas);
    };
    if replicas != 1 {
        let message = "scaling says how many agents hold the model; leave replicas out beside it";
        findings.add("spec.replicas", Reason::InvalidValue, message);
    }
    for (field, value, bounds) in [
        ("min", *min, (0, REPLICAS_MAX)),
        ("max", *max, (1, REPLICAS_MAX)),
        ("targetQueue", *target_queue, (1, TARGET_QUEUE_MAX)),
        ("idleAfterSeconds", *idle_after_seconds, (1, IDLE_AFTER_SECONDS_MAX)),
    ] {
        field::range(&format!("spec.scaling.{field}"), value, bounds, findings);
    }
    if max < min {
        let message = format!("{min} is above max, {max}");
        findings.add("spec.scaling.min", Reason::OutOfRange, message);
    }
    Replicas::Scaled(Scaling {
        min: *min,
        max: *max,
        target_queue: *target_queue,
        idle_after: Duration::from_secs(u64::from(*idle_after_seconds)),
    })
}

fn check_labels(labels: &BTreeMap<String, String>, findings: &mut Findings) {
    let path = "spec.placement.nodeSelector";
    if field::count(path, labels.len(), (0, NODE_SELECTOR_MAX), findings) {
        for (name, value) in labels {
            field::length(path, name, (1, LABEL_KEY_LEN_MAX), findings);
            field::length(&format!("{path}[{name}]"), value, (0, LABEL_VALUE_LEN_MAX), findings);
        }
    }
}

/// One machine has no labels, nobody to leave a file to, and nothing that would wake a model.
fn check_one_machine(spec: &ModelSpec, findings: &mut Findings) {
    for (path, is_there) in [
        ("spec.sourceSecret", spec.source_secret.is_some()),
        ("spec.placement.nodeSelector", !spec.placement.node_selector.is_empty()),
        ("spec.prefetch", spec.prefetch != Prefetch::None),
        ("spec.scaling", spec.scaling.is_some()),
    ] {
        if is_there {
            findings.add(
                path,
                Reason::ClusterOnly,
                "only a cluster serves this; leave it out here",
            );
        }
    }
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

    fn check(spec: &str) -> Result<ValidModel, Vec<String>> {
        check_at(Site::OneMachine, spec)
    }

    /// The problems of the model in `spec`, as `path reason`.
    fn check_at(site: Site, spec: &str) -> Result<ValidModel, Vec<String>> {
        let yaml = format!(
            "{{apiVersion: realm.dev/v1alpha1, kind: Model, metadata: {{name: m}}, spec: {{{spec}}}}}"
        );
        model(&serde_saphyr::from_str(&yaml).unwrap(), site).map_err(|problems| {
            problems.iter().map(|p| format!("{} {}", p.path, p.reason.as_str())).collect()
        })
    }

    #[test]
    fn a_minimal_model_has_one_replica_in_the_default_namespace() {
        let model = check("sources: ['file:///m.gguf']").unwrap();
        assert_eq!(model.name().to_string(), "default/m");
        assert_eq!(model.replicas, Replicas::Fixed(1));
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
    fn a_cluster_takes_where_and_how_many_with_defaults() {
        let model = check_at(
            Site::Cluster,
            "sources: ['file:///m'], sourceSecret: {name: hub.token}, prefetch: Selected, \
             placement: {nodeSelector: {zone: a, example.org/disk: ''}, accelerator: Cuda}, \
             scaling: {max: 3}",
        )
        .unwrap();
        assert_eq!(model.secret().map(Name::to_string).as_deref(), Some("default/hub.token"));
        assert_eq!((model.node_selector.len(), model.accelerator), (2, Accelerator::Cuda));
        let idle_after = Duration::from_mins(10);
        let scaling = Scaling { min: 1, max: 3, target_queue: 16, idle_after };
        assert_eq!(model.replicas, Replicas::Scaled(scaling));
    }

    #[test]
    fn what_only_a_cluster_can_serve_is_refused_on_one_machine() {
        let problems = check(
            "sources: ['file:///m'], sourceSecret: {name: t}, prefetch: Selected, \
             placement: {nodeSelector: {a: b}, accelerator: Cpu}, scaling: {max: 1}",
        )
        .unwrap_err();
        assert_eq!(
            problems,
            [
                "spec.sourceSecret ClusterOnly",
                "spec.placement.nodeSelector ClusterOnly",
                "spec.prefetch ClusterOnly",
                "spec.scaling ClusterOnly",
            ]
        );
    }

    #[test]
    fn a_scaling_that_says_two_things_is_refused() {
        let problems = check_at(
            Site::Cluster,
            "sources: ['file:///m'], replicas: 2, \
             scaling: {min: 3, max: 2, targetQueue: 0, idleAfterSeconds: 0}, \
             placement: {nodeSelector: {'': x}}, sourceSecret: {name: 'A B'}",
        )
        .unwrap_err();
        assert_eq!(
            problems,
            [
                "spec.sourceSecret.name InvalidValue",
                "spec.replicas InvalidValue",
                "spec.scaling.targetQueue OutOfRange",
                "spec.scaling.idleAfterSeconds OutOfRange",
                "spec.scaling.min OutOfRange",
                "spec.placement.nodeSelector InvalidLength",
            ]
        );
    }

    #[test]
    fn an_adapter_names_its_model_and_nothing_of_where_it_is() {
        let adapter = "sources: ['file:///a.gguf'], adapterOf:";
        let base = |spec: &str| check(spec).unwrap().base().map(Name::to_string);
        assert_eq!(base("sources: ['file:///a.gguf']"), None);
        assert_eq!(base(&format!("{adapter} {{name: smol}}")).as_deref(), Some("default/smol"));
        let shared = base(&format!("{adapter} {{name: smol, namespace: shared}}"));
        assert_eq!(shared.as_deref(), Some("shared/smol"));
        let problems = check_at(
            Site::Cluster,
            &format!(
                "{adapter} {{name: 'A'}}, context: 1, kvBlocks: 1, kvCache: Q8_0, replicas: 2, \
                 prefetch: Selected, placement: {{accelerator: Cpu}}"
            ),
        )
        .unwrap_err();
        let fields = ["context", "kvBlocks", "kvCache", "placement", "prefetch", "replicas"];
        let fields = ["adapterOf"].into_iter().chain(fields);
        let expected: Vec<_> = fields.map(|field| format!("spec.{field} InvalidValue")).collect();
        assert_eq!(problems, expected);
        let scaled = format!("{adapter} {{name: smol}}, scaling: {{max: 2}}");
        assert_eq!(check_at(Site::Cluster, &scaled).unwrap_err(), ["spec.scaling InvalidValue"]);
    }

    #[test]
    fn a_field_that_does_not_exist_is_refused() {
        let yaml = "{apiVersion: realm.dev/v1alpha1, kind: Model, metadata: {name: m}, \
                     spec: {sources: ['file:///m'], replica: 2}}";
        let error = serde_saphyr::from_str::<Model>(yaml).unwrap_err().to_string();
        assert!(error.contains("unknown field `replica`"), "{error}");
    }
}
