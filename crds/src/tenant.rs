//! `Tenant`: somebody who calls, with rights, limits, keys and a program.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    DIGEST_MESSAGE, LABEL_LEN_MAX, LABEL_PATTERN, PROGRAM_DIGEST_RULE, PROGRAM_SOURCES_MESSAGE,
    PROGRAM_SOURCES_RULE, SHA256_PATTERN, SOURCE_LEN_MAX, SOURCES_MAX,
};

/// The largest weight: four orders of magnitude between the least and the most favoured tenant.
pub const WEIGHT_MAX: u32 = 10_000;

/// Models granted to one tenant.
pub const MODELS_MAX: u32 = 64;

/// Secrets with keys of one tenant; each may hold many keys.
pub const API_KEYS_MAX: u32 = 64;

/// Entries of a program's configuration.
pub const CONFIG_ENTRIES_MAX: u32 = 64;

/// Longest name of a configuration entry.
pub const CONFIG_KEY_LEN_MAX: u32 = 253;

/// Longest value, in characters: 64 entries of it, at a byte a character, stay below the 1.5 MiB
/// that etcd takes for one object.
pub const CONFIG_VALUE_LEN_MAX: u32 = 16_384;

/// Longest name of a Secret: a DNS-1123 subdomain.
pub const SECRET_NAME_LEN_MAX: u32 = 253;

/// Requests or tokens per minute: more than the fastest node can serve, and far from overflow.
pub const PER_MINUTE_MAX: u32 = 1_000_000_000;

/// Calls of one tenant running at once.
pub const CALLS_MAX: u32 = 65_536;

/// The least memory in which the built-in program starts, one page of WebAssembly.
pub const PROGRAM_MEMORY_BYTES_MIN: u64 = 65_536;

/// The most that one linear memory of the agent's sandbox holds, `MEMORY_BYTES_MAX` there: a limit
/// above it would say more than a program gets.
pub const PROGRAM_MEMORY_BYTES_MAX: u64 = 1_073_741_824;

/// As many instances as an agent has room for, `INSTANCES_MAX` there.
pub const PROGRAM_INSTANCES_MAX: u32 = 512;

/// Fuel and host calls: the largest number that JSON readers of every language keep exact.
pub const PROGRAM_COUNT_MAX: u64 = 9_007_199_254_740_991;

/// Bytes of one reply over all its chunks: the text of ten million tokens and more, which no call
/// lives long enough for, and what a node can still hold for a few clients at once.
pub const PROGRAM_OUTPUT_BYTES_MAX: u64 = 67_108_864;

/// The longest call, one day.
pub const DEADLINE_MS_MAX: u64 = 86_400_000;

/// Fuel for the hooks of one token: about a second of a processor. A program that needs more is no
/// part of a stream.
pub const TOKEN_FUEL_MAX: u64 = 1_000_000_000;

/// The longest that a token waits for its hooks: who reads a stream takes it for broken after that.
pub const TOKEN_DEADLINE_MS_MAX: u64 = 1_000;

/// Somebody who calls: what they may use, what they may spend, and what runs their calls.
#[derive(CustomResource, Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[kube(
    group = "realm.dev",
    version = "v1alpha1",
    kind = "Tenant",
    plural = "tenants",
    namespaced,
    doc = "Somebody who calls: what they may use, what they may spend, and what runs their calls.",
    status = "TenantStatus",
    derive = "PartialEq",
    shortname = "tn",
    category = "realm",
    validation = (crate::NAME_RULE, crate::NAME_MESSAGE),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".spec.weight"),
    printcolumn(name = "Keys", type_ = "integer", json_path = ".status.keys"),
    printcolumn(name = "Suspended", type_ = "boolean", json_path = ".spec.suspended"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(
        name = "Limits",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="WithinLimits")].reason"#,
        priority = 1
    ),
    printcolumn(
        name = "Program",
        type_ = "string",
        json_path = ".status.programSha256",
        priority = 1
    ),
    printcolumn(
        name = "Prompt",
        type_ = "integer",
        json_path = ".status.totals.promptTokens",
        priority = 1
    ),
    printcolumn(
        name = "Generated",
        type_ = "integer",
        json_path = ".status.totals.generatedTokens",
        priority = 1
    )
)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct TenantSpec {
    /// The tenant's part of every batch in proportion to the other tenants' weights.
    #[serde(default = "weight")]
    #[schemars(range(min = 1, max = WEIGHT_MAX))]
    pub weight: u32,

    /// Whose turn comes before all others in every batch, whatever their weights: `Low` has what
    /// the others leave, and `High` leaves what it does not want. Within one priority, weights
    /// decide.
    #[serde(default)]
    pub priority: Priority,

    /// A suspended tenant's calls are refused; everything else about it stays as it is.
    #[serde(default)]
    pub suspended: bool,

    /// What the tenant may spend.
    #[serde(default)]
    pub limits: Limits,

    /// What becomes of calls beyond the limits on requests and tokens per minute: `Enforce`
    /// refuses them, `Shadow` counts them in `realm_gateway_tenant_shadowed_total` and lets them through, to
    /// try limits out. All other limits are enforced in both.
    #[serde(default)]
    pub limits_mode: LimitsMode,

    /// With whom the tenant shares what of its prompts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,

    /// The models the tenant may use; the first is its default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = MODELS_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name", "namespace"])
    )]
    pub models: Vec<ModelRef>,

    /// The program that runs the tenant's calls; the one that ships with Realm when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<Program>,

    /// Where the digests of the tenant's API keys are. Without any, nobody can call as the tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = API_KEYS_MAX),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["secretName"])
    )]
    pub api_keys: Vec<ApiKeySource>,
}

/// Classes of tenants, each served before the one below it.
#[derive(
    Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq, PartialOrd, Ord,
)]
pub enum Priority {
    Low,
    #[default]
    Normal,
    High,
}

impl Priority {
    /// By what the turn of a tenant of this class comes, in words.
    pub const fn turn(self) -> &'static str {
        match self {
            Self::Low => "it has what tenants of the other priorities leave, by its weight",
            Self::Normal => {
                "those of priority High come first, and then its turn comes by its weight"
            }
            Self::High => "it comes before those of other priorities, and by its weight among High",
        }
    }
}

/// How a tenant's prompts are kept once they are computed.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cache {
    /// Tenants of this namespace that name the same group use each other's KV cache of what their
    /// programs mark as public at the start of a prompt, such as a system prompt, and of nothing
    /// behind it. Members can find out from how long a first token takes, and from the tokens that
    /// are said to be cached, whether another one has used a text that they know. Nothing is shared
    /// without a group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = LABEL_LEN_MAX), regex(pattern = LABEL_PATTERN))]
    pub share_group: Option<String>,
}

/// What becomes of calls beyond the limits per minute.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
pub enum LimitsMode {
    #[default]
    Enforce,
    Shadow,
}

const fn weight() -> u32 {
    100
}

/// A model by name.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ModelRef {
    /// The model's name.
    #[schemars(length(min = 1, max = LABEL_LEN_MAX), regex(pattern = LABEL_PATTERN))]
    pub name: String,

    /// The model's namespace, whose model must allow this one. This object's own when empty.
    #[serde(default)]
    #[schemars(
        length(max = LABEL_LEN_MAX),
        regex(pattern = "^([a-z0-9]([-a-z0-9]*[a-z0-9])?)?$")
    )]
    pub namespace: String,
}

/// A Secret with API keys, in the tenant's namespace.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ApiKeySource {
    /// Name of the Secret. Each of its entries is one key: the entry's name is the key's name,
    /// its value the JSON object `{"sha256": "…", "expiresAt": "…", "disabled": false}`, of which
    /// the last two may be left out.
    #[schemars(
        length(min = 1, max = SECRET_NAME_LEN_MAX),
        regex(pattern = r"^[a-z0-9]([-.a-z0-9]*[a-z0-9])?$")
    )]
    pub secret_name: String,
}

/// A tenant's program: a WebAssembly component, and its configuration.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    { "rule": PROGRAM_DIGEST_RULE, "message": DIGEST_MESSAGE },
    { "rule": "!has(self.sha256) || (has(self.sources) && size(self.sources) > 0)", "message": "sha256 without sources: the built-in program has its own digest" }
]))]
pub struct Program {
    /// Where the component may be fetched from, as a model's `sources`, and besides:
    ///
    /// - `configmap://name/key` is an entry in the `binaryData` of a ConfigMap of the tenant's
    ///   namespace (in a cluster only, and where the operator may read it), which has a megabyte at
    ///   most.
    ///
    /// The program that ships with Realm when absent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = SOURCES_MAX),
        inner(length(min = 1, max = SOURCE_LEN_MAX)),
        extend("x-kubernetes-list-type" = "atomic")
    )]
    #[schemars(extend("x-kubernetes-validations" = [{ "rule": PROGRAM_SOURCES_RULE, "message": PROGRAM_SOURCES_MESSAGE }]))]
    pub sources: Vec<String>,

    /// SHA-256 of the component, in hexadecimal. Required unless every source is a `file` or a
    /// `pvc`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71), regex(pattern = SHA256_PATTERN))]
    pub sha256: Option<String>,

    /// What the program reads through its `config` interface.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        extend(
            "maxProperties" = CONFIG_ENTRIES_MAX,
            "additionalProperties" = json!({ "type": "string", "maxLength": CONFIG_VALUE_LEN_MAX }),
            "x-kubernetes-validations" = [json!({
                "rule": format!("self.all(k, size(k) >= 1 && size(k) <= {CONFIG_KEY_LEN_MAX})"),
                "message": format!("an entry has a name of 1 to {CONFIG_KEY_LEN_MAX} characters"),
            })]
        )
    )]
    pub config: BTreeMap<String, String>,
}

/// What a tenant may spend, over all doors where nothing else is said. Every limit is enforced, but
/// those per minute in the mode `Shadow`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Limits {
    /// Calls started per minute; a minute's allowance may be spent at once.
    #[schemars(range(min = 1, max = PER_MINUTE_MAX))]
    pub requests_per_minute: u32,

    /// Tokens of prompt per minute, without those that were cached. A prompt that is larger than
    /// what is left is refused with the time to wait, and one that is larger than this for good.
    #[schemars(range(min = 1, max = PER_MINUTE_MAX))]
    pub input_tokens_per_minute: u32,

    /// Generated tokens per minute. A stream that comes to the end of them is cut there, with the
    /// error `too_many_tokens`, and so are all that run at once.
    #[schemars(range(min = 1, max = PER_MINUTE_MAX))]
    pub output_tokens_per_minute: u32,

    /// Calls running at once.
    #[schemars(range(min = 1, max = CALLS_MAX))]
    pub calls: u32,

    /// Tokens of prompt and answer together, for one sequence.
    #[schemars(range(min = 1, max = crate::model::CONTEXT_MAX))]
    pub context: u32,

    /// Tokens of one generation, which ends there and says so (`length`), however many were asked for.
    /// Unless it is set, only the context is its end.
    #[schemars(range(min = 1, max = crate::model::CONTEXT_MAX))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_tokens: Option<u32>,

    /// Blocks of KV cache held at once, over all sequences and cached prefixes, for each model at each
    /// node that has it loaded.
    #[schemars(range(min = 1, max = crate::model::KV_BLOCKS_MAX))]
    pub kv_blocks: u32,

    /// What one call of the tenant's program may spend, and how many run at once at a node.
    pub program: ProgramLimits,
}

impl Default for Limits {
    /// Generous to one team, harmless to a shared node: ten calls a second, prompts of two
    /// hundred full contexts of 1,024 tokens a minute, sixteen streams at once, and KV cache for
    /// four sequences of the longest context at 32 tokens a block.
    fn default() -> Self {
        Self {
            requests_per_minute: 600,
            input_tokens_per_minute: 204_800,
            output_tokens_per_minute: 102_400,
            calls: 16,
            context: 8_192,
            output_tokens: None,
            kv_blocks: 1_024,
            program: ProgramLimits::default(),
        }
    }
}

/// What one call of a tenant's program may spend, and how many may at once.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct ProgramLimits {
    /// Bytes of linear memory. A program with hooks has as much again for each of its generations.
    #[schemars(range(min = PROGRAM_MEMORY_BYTES_MIN, max = PROGRAM_MEMORY_BYTES_MAX))]
    pub memory_bytes: u64,

    /// Fuel, about one unit an instruction.
    #[schemars(range(min = 1, max = PROGRAM_COUNT_MAX))]
    pub fuel: u64,

    /// Calls of the host.
    #[schemars(range(min = 1, max = PROGRAM_COUNT_MAX))]
    pub host_calls: u64,

    /// Bytes the program may write as its reply.
    #[schemars(range(min = 1, max = PROGRAM_OUTPUT_BYTES_MAX))]
    pub output_bytes: u64,

    /// Wall-clock milliseconds.
    #[schemars(range(min = 1, max = DEADLINE_MS_MAX))]
    pub deadline_ms: u64,

    /// Fuel that the program's hooks may burn for one token; more ends the generation.
    #[schemars(range(min = 1, max = TOKEN_FUEL_MAX))]
    pub token_fuel: u64,

    /// Milliseconds that a token waits for the program's hooks, before it is chosen without them.
    #[schemars(range(min = 1, max = TOKEN_DEADLINE_MS_MAX))]
    pub token_deadline_ms: u64,

    /// Instances of the program that answer calls at one node at once, each with memory of its own.
    /// A call beyond them waits for one, no longer than `deadlineMs`.
    #[schemars(range(min = 1, max = PROGRAM_INSTANCES_MAX))]
    pub instances: u32,

    /// Whether parts of the program may hand each other values through 64-bit memories. The
    /// compiler's support for that is young; the memory that a program may have is the same.
    pub memory64: bool,
}

impl Default for ProgramLimits {
    /// Room for a program that handles every token of the longest default context itself: about
    /// ten host calls and a million instructions a token, and five minutes for a slow processor.
    /// Its output may fill the largest message that a client gets, as the vectors of many texts do.
    /// Its hooks have for each token what an interpreter takes for some lines of code, which is about
    /// five milliseconds of a processor, and four times that to come to their turn. An eighth of a
    /// node's instances.
    fn default() -> Self {
        Self {
            memory_bytes: 64 * 1024 * 1024,
            fuel: 10_000_000_000,
            host_calls: 100_000,
            output_bytes: 8 * 1024 * 1024,
            deadline_ms: 300_000,
            token_fuel: 5_000_000,
            token_deadline_ms: 20,
            instances: 64,
            memory64: false,
        }
    }
}

/// What is known about a tenant.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct TenantStatus {
    /// The generation of the spec that the rest of the status answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// `KeysValid` (it has a key, and nothing in its Secrets is wrong), `ModelsGranted`,
    /// `ProgramReady`, `ModelsReady` (one of its models takes calls), `LimitsApplied`, and `Ready`,
    /// which sums them up; of a suspended tenant that is as it should be its reason is `Suspended`.
    /// `LimitsApplied` tells how: of the limits on calls and tokens each of n doors holds an n-th,
    /// rounded up, or a slice that follows what is used at each.
    /// `WithinLimits` is False, with the first of them as its reason, while limits have refused
    /// calls in the last minute, or would have in shadow, and `ServedPromptly` while calls have
    /// waited behind those of other tenants in the last five; `Ready` does not count these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,

    /// API keys that are well formed and not disabled.
    #[serde(default)]
    pub keys: u32,

    /// SHA-256 of the program that takes the tenant's calls now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program_sha256: Option<String>,

    /// What the tenant has used since it was made, over all agents and their restarts. Written at
    /// most once a minute; what an agent that was killed had not told is not in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub totals: Option<Totals>,
}

/// What a tenant has used since it was made.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase", default)]
pub struct Totals {
    /// Tokens of prompts.
    pub prompt_tokens: u64,

    /// Of these, tokens that were found in the cache.
    pub cached_tokens: u64,

    /// Tokens of answers.
    pub generated_tokens: u64,

    /// The tenant's part of the time of the steps that it was in, in milliseconds.
    pub device_ms: u64,

    /// How long the tenant's sequences held blocks of KV cache, counted for each block, in
    /// milliseconds.
    pub kv_block_ms: u64,

    /// Fuel that the tenant's programs have burnt.
    pub program_fuel: u64,

    /// Of these sums, what was used on each agent since it started last. Operators go on from it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["node"]))]
    pub nodes: Vec<NodeUse>,
}

/// What a tenant has used on one agent since that started.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct NodeUse {
    /// Name of the node.
    pub node: String,

    /// Another one each time that the agent begins to count.
    pub epoch: u64,

    /// As in the sums.
    #[serde(default)]
    pub prompt_tokens: u64,

    /// As in the sums.
    #[serde(default)]
    pub cached_tokens: u64,

    /// As in the sums.
    #[serde(default)]
    pub generated_tokens: u64,

    /// As in the sums.
    #[serde(default)]
    pub device_ms: u64,

    /// As in the sums.
    #[serde(default)]
    pub kv_block_ms: u64,

    /// As in the sums.
    #[serde(default)]
    pub program_fuel: u64,
}
