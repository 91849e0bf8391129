//! The resources of Realm, `Tenant`, `Model` and `Pipeline`, as Rust types and YAML.
//!
//! These types say what a manifest may hold. What makes an object acceptable beyond its shape is
//! written twice, by necessity: as schema and CEL rules here, for the API server, and in the
//! planner, which also serves where there is no API server.

mod definitions;
pub mod key;
pub mod model;
pub mod pipeline;
pub mod tenant;

pub use definitions::definitions;
pub use k8s_openapi::{
    api::core::v1::Secret,
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta},
};
pub use key::KeyEntry;
pub use model::{Model, ModelSpec, ModelStatus};
pub use pipeline::{Pipeline, PipelineSpec, PipelineStatus};
pub use tenant::{Tenant, TenantSpec, TenantStatus};

/// The API group of every kind.
pub const GROUP: &str = "realm.dev";

/// The version of every kind.
pub const VERSION: &str = "v1alpha1";

/// Longest name or namespace: a DNS-1123 label, since names become parts of other names.
pub const LABEL_LEN_MAX: u32 = 63;

/// Mirrors of one file: enough for every home a file has, few enough to try in order.
pub const SOURCES_MAX: u32 = 8;

/// Longest source, by what web servers commonly take as a URL.
pub const SOURCE_LEN_MAX: u32 = 2048;

/// A DNS-1123 label.
pub(crate) const LABEL_PATTERN: &str = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$";

/// A SHA-256 digest in hexadecimal, optionally after `sha256:`.
pub(crate) const SHA256_PATTERN: &str = "^(sha256:)?[0-9a-fA-F]{64}$";

/// Names become parts of other names, so all are labels although objects may be named more freely.
pub(crate) const NAME_RULE: &str = "size(self.metadata.name) <= 63 && self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')";
pub(crate) const NAME_MESSAGE: &str = "the name must be a DNS label: at most 63 of a-z, 0-9 and -";

/// The schemes of sources of models.
pub(crate) const MODEL_SOURCES_RULE: &str =
    "self.all(s, s.matches('^(file:///|(pvc|https|hf|s3|oci|pip)://)'))";
pub(crate) const MODEL_SOURCES_MESSAGE: &str =
    "a source starts with file:///, pvc://, https://, hf://, s3://, oci:// or pip://";

/// Those of programs, which are small enough for a ConfigMap.
pub(crate) const PROGRAM_SOURCES_RULE: &str =
    "self.all(s, s.matches('^(file:///|(pvc|configmap|https|hf|s3|oci|pip)://)'))";
pub(crate) const PROGRAM_SOURCES_MESSAGE: &str =
    "a source starts with file:///, pvc://, configmap://, https://, hf://, s3://, oci:// or pip://";

/// What is read in place may go without a digest: it is not brought from elsewhere.
pub(crate) const MODEL_DIGEST_RULE: &str = "has(self.sha256) || (has(self.parts) && size(self.parts) > 0) || self.sources.all(s, s.matches('^(file|pvc)://'))";
pub(crate) const PROGRAM_DIGEST_RULE: &str = "!has(self.sources) || size(self.sources) == 0 || has(self.sha256) || self.sources.all(s, s.matches('^(file|pvc)://'))";
pub(crate) const DIGEST_MESSAGE: &str = "sha256 is required unless every source is a file or a pvc";
