//! API keys at rest: digests in Secrets.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// One API key of a tenant: the JSON value of one entry in a Secret that the tenant's `apiKeys`
/// names. The entry's own name is the key's name. The key itself is never stored.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct KeyEntry {
    /// SHA-256 of the key, in hexadecimal.
    pub sha256: String,
    /// When the key ends (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// A disabled key opens nothing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,
}
