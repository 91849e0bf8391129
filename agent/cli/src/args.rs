//! The command line, read into values.

use std::{net::SocketAddr, num::NonZeroUsize, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};
use realm_agent::DeviceOptions;
use realm_engine::quantise::recipe::Recipe;

/// One shared inference plane for many tenants.
#[derive(Debug, Parser)]
#[command(name = "realm", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// Folder for models, ledger and the sample manifests.
    #[arg(long, global = true, env = "REALM_HOME", value_name = "FOLDER")]
    pub(crate) home: Option<PathBuf>,
    /// What to log: error, warn, info, debug or trace, or a filter such as `realm_store=debug`.
    #[arg(
        long,
        global = true,
        env = "REALM_LOG",
        default_value = "warn,realm_link::converge=error",
        value_name = "FILTER"
    )]
    pub(crate) log: String,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve the tenants, models and pipelines of a folder of manifests.
    Serve(ServeArgs),
    /// Answer one prompt, or chat when none is given.
    Run(RunArgs),
    /// List, show, create, suspend and resume tenants.
    #[command(subcommand)]
    Tenant(TenantCommand),
    /// Create, list and revoke API keys.
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// List, pull, look into and quantize models.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// List pipelines, and run one through a door.
    #[command(subcommand)]
    Pipeline(PipelineCommand),
    /// Get one short answer through a door, as a tenant, or fail.
    Check(CheckArgs),
    /// Try whether what serves keeps tenants apart.
    #[command(subcommand)]
    Conformance(ConformanceCommand),
    /// Measure a model, and the machine's own ceilings in the same run.
    Bench(BenchArgs),
    /// Print who has used how much: tokens, time, memory, and what programs spent.
    Usage(UsageArgs),
    /// Watch who is served: shares, who waits and behind whom, and the limits that refuse calls.
    Top(TopArgs),
    /// Say in words what a tenant is entitled to, what it gets, and what is wrong with an object.
    Explain(ExplainArgs),
    /// Print what this build and this machine can do, or how a cluster is.
    Info(InfoArgs),
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Folder of YAML manifests; without it a sample tenant, the default model and a sample
    /// pipeline are served.
    pub(crate) manifests: Option<PathBuf>,
    /// Address of the WebSocket and HTTP door.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) listen: SocketAddr,
    /// Address of the Prometheus metrics.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub(crate) metrics: SocketAddr,
    /// Certificate chain in PEM, read again when it changes.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub(crate) tls_cert: Option<PathBuf>,
    /// Private key in PEM, read again when it changes.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub(crate) tls_key: Option<PathBuf>,
    /// Bind addresses beyond loopback without TLS: the door, where keys and prompts then cross the
    /// network in the clear, and the metrics, which have no TLS.
    #[arg(long)]
    pub(crate) insecure_plaintext: bool,
    /// A web origin whose pages may call this server, such as `https://app.example`; repeatable.
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    pub(crate) allow_origins: Vec<String>,
    /// Seconds after SIGTERM in which new calls are still taken, for what sends clients here to hear
    /// that it is not ready.
    #[arg(long, default_value_t = 0, value_name = "SECONDS")]
    pub(crate) settle: u64,
    /// Seconds that running calls may take to finish after that; Kubernetes kills 30 s after SIGTERM
    /// unless told otherwise, and the last goodbyes take up to five.
    #[arg(long, default_value_t = 25, value_name = "SECONDS")]
    pub(crate) grace: u64,
    /// Address of an OpenTelemetry collector that takes traces by OTLP over HTTP, such as
    /// `http://collector:4318`; without it, or one in the environment, none are recorded.
    #[arg(long, value_name = "URL")]
    pub(crate) otlp_endpoint: Option<String>,
    #[command(flatten)]
    pub(crate) device: DeviceOptions,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The prompt; without it an interactive chat begins.
    pub(crate) prompt: Option<String>,
    /// A model file (GGUF), or a source such as `pip://name==version/file` with `--sha256`; the
    /// default model when absent.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) model: Option<String>,
    /// Digest of `--model`, in hexadecimal; of a file in several parts, of each, with commas between.
    #[arg(long, requires = "model", value_name = "DIGEST", value_delimiter = ',')]
    pub(crate) sha256: Vec<String>,
    /// What the model is told before the conversation.
    #[arg(long)]
    pub(crate) system: Option<String>,
    /// Tokens to answer at most.
    #[arg(long, value_name = "COUNT")]
    pub(crate) max_tokens: Option<u32>,
    /// 0 always takes the likeliest token.
    #[arg(long)]
    pub(crate) temperature: Option<f32>,
    /// Makes an answer repeatable.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    #[command(flatten)]
    pub(crate) device: DeviceOptions,
}

/// Over the flags that matter in a cluster alone.
const CLUSTER: &str = "In a cluster";

/// A cluster to act in. Any of these chooses one; without them nothing leaves this machine.
#[derive(Debug, Default, Args)]
pub(crate) struct ClusterArgs {
    /// Act in the cluster of the kubeconfig's current context; in a Pod without one, in its own.
    #[arg(long, help_heading = CLUSTER)]
    pub(crate) cluster: bool,
    /// Act in the cluster of this context of the kubeconfig.
    #[arg(long, value_name = "NAME", help_heading = CLUSTER)]
    pub(crate) context: Option<String>,
    /// Act in the cluster of this kubeconfig; `KUBECONFIG` or `~/.kube/config` when absent.
    #[arg(long, value_name = "FILE", help_heading = CLUSTER)]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// Where a command acts: a folder of manifests on this machine, or a cluster.
#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Folder of YAML manifests on this machine; the sample of `realm serve` when absent.
    #[arg(long, value_name = "FOLDER", conflicts_with = "ClusterArgs")]
    pub(crate) manifests: Option<PathBuf>,
    /// Namespace; when absent `default` on this machine, and in a cluster the context's own.
    #[arg(long)]
    pub(crate) namespace: Option<String>,
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
}

/// Where a list is of.
#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// Every namespace that the cluster lets you list; a folder is listed whole unless a namespace
    /// is given.
    #[arg(long, conflicts_with = "namespace", help_heading = CLUSTER)]
    pub(crate) all_namespaces: bool,
}

/// How long a command stays after a change.
#[derive(Debug, Args)]
pub(crate) struct WaitArgs {
    /// Do not wait until the operator says that the change counts.
    #[arg(long, help_heading = CLUSTER)]
    pub(crate) no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// List tenants.
    List(ListArgs),
    /// Show what a tenant may do, and what is wrong with it.
    Show {
        /// The tenant's name.
        tenant: String,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Create a tenant; its keys come with `realm api-key create`.
    Create {
        /// The tenant's name.
        tenant: String,
        #[command(flatten)]
        target: TargetArgs,
        /// Its part of every batch, in proportion to the others' weights; 100 when absent.
        #[arg(long)]
        weight: Option<u32>,
        /// A model that it may use, `name` or `namespace/name`; the first is its default.
        #[arg(long = "model", value_name = "MODEL")]
        models: Vec<String>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Refuse a tenant's calls until it is resumed; all else about it stays.
    Suspend {
        /// The tenant's name.
        tenant: String,
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// Take a suspended tenant's calls again.
    Resume {
        /// The tenant's name.
        tenant: String,
        #[command(flatten)]
        target: TargetArgs,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

/// Which tenant, and where.
#[derive(Debug, Args)]
pub(crate) struct TenantArgs {
    #[command(flatten)]
    pub(crate) target: TargetArgs,
    /// The tenant's name.
    #[arg(long)]
    pub(crate) tenant: String,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ApiKeyCommand {
    /// Create a key and print it, once: only its digest is kept.
    Create {
        #[command(flatten)]
        tenant: TenantArgs,
        /// The key's own name, for listing and revoking.
        #[arg(long)]
        name: String,
        /// How long the key is good for, such as `90d` or `12h`; for ever when absent.
        #[arg(long, value_name = "DURATION")]
        expires: Option<String>,
        #[command(flatten)]
        wait: WaitArgs,
    },
    /// List the names, expiry and state of the keys that `create` made for a tenant.
    List {
        #[command(flatten)]
        tenant: TenantArgs,
    },
    /// Revoke a key that `create` made; a running server stops taking it within a second.
    Revoke {
        #[command(flatten)]
        tenant: TenantArgs,
        #[arg(long)]
        name: String,
        #[command(flatten)]
        wait: WaitArgs,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List models by name: on this machine with the files in the cache, in a cluster with what is
    /// served.
    List(ListArgs),
    /// Fetch a model into the cache: the default one, or a source with its digest.
    Pull {
        /// `https://…`, `hf://org/repo/file`, `s3://bucket/key`, `oci://registry/repository:tag`,
        /// `pip://name==version/file` or `file://…`.
        source: Option<String>,
        /// Digest of the file, in hexadecimal; of one in several parts, of each, with commas between.
        #[arg(long, requires = "source", value_name = "DIGEST", value_delimiter = ',')]
        sha256: Vec<String>,
    },
    /// Print what a model file says about itself, and in a cluster where the model is.
    Info {
        /// A model's name; on this machine also a GGUF file or a digest from `realm models list`,
        /// and the default model when absent.
        model: Option<String>,
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Write a model file anew in another format.
    Quantize(QuantizeArgs),
}

#[derive(Debug, Args)]
pub(crate) struct QuantizeArgs {
    /// The GGUF file to read.
    #[arg(value_name = "IN")]
    pub(crate) input: PathBuf,
    /// The GGUF file to write.
    #[arg(value_name = "OUT")]
    pub(crate) output: PathBuf,
    /// One for every matrix but the head: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K, Q3_K,
    /// Q4_K, Q5_K, Q6_K, IQ4_NL, IQ4_XS or MXFP4; or a mix: Q3_K_S, Q3_K_M, Q3_K_L, Q4_K_S, Q4_K_M,
    /// Q5_K_S or Q5_K_M.
    #[arg(long)]
    pub(crate) format: Recipe,
    /// Round weights that are quantized already once more, which costs more than rounding the
    /// originals.
    #[arg(long)]
    pub(crate) allow_requantize: bool,
    /// Replace a file that is there.
    #[arg(long)]
    pub(crate) force: bool,
    /// Threads that compute; all that the process may use when absent.
    #[arg(long, value_name = "COUNT")]
    pub(crate) threads: Option<NonZeroUsize>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PipelineCommand {
    /// List pipelines.
    List(ListArgs),
    /// Run a pipeline through a door, with a tenant's key.
    Run(PipelineRunArgs),
}

#[derive(Debug, Args)]
pub(crate) struct PipelineRunArgs {
    /// The pipeline's name.
    pub(crate) pipeline: String,
    /// An input: `name=text`, or `name:=value` for a number, `true` or `false`; repeatable.
    #[arg(long = "input", value_name = "INPUT")]
    pub(crate) inputs: Vec<String>,
    /// Address of a door, such as `wss://realm.example` or `http://127.0.0.1:8080`.
    #[arg(long, env = "REALM_URL", default_value = "ws://127.0.0.1:8080")]
    pub(crate) url: String,
    /// The tenant's key. In the environment other users of this machine do not see it.
    #[arg(long, env = "REALM_API_KEY", hide_env_values = true)]
    pub(crate) key: String,
    /// Authorities to trust beside the system's, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Send the key to an address beyond loopback without TLS.
    #[arg(long)]
    pub(crate) insecure_plaintext: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// Address of a door, such as `wss://realm.example` or `http://127.0.0.1:8080`.
    #[arg(long, env = "REALM_URL", default_value = "ws://127.0.0.1:8080")]
    pub(crate) url: String,
    /// File with the tenant's key.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: PathBuf,
    /// Authorities to trust beside the system's, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Send the key to an address beyond loopback without TLS.
    #[arg(long)]
    pub(crate) insecure_plaintext: bool,
    /// The model that answers; the tenant's first when absent.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConformanceCommand {
    /// Try it as two tenants through a door: timing, a neighbour that floods, limits, programs,
    /// keys.
    Tenancy(TenancyArgs),
}

/// What `realm conformance tenancy` tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TenancyCheck {
    Keys,
    StreamLimits,
    RetryAfter,
    ProgramExhaustion,
    NoisyNeighbour,
    PrefixTiming,
}

#[derive(Debug, Args)]
pub(crate) struct TenancyArgs {
    /// Address of a door, such as `wss://realm.example` or `http://127.0.0.1:8080`.
    #[arg(long, env = "REALM_URL", default_value = "ws://127.0.0.1:8080")]
    pub(crate) url: String,
    /// File with the key of a tenant; `REALM_API_KEY` when absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) key_file: Option<PathBuf>,
    /// File with the key of another tenant, of the same weight; `REALM_OTHER_API_KEY` when absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) other_key_file: Option<PathBuf>,
    /// File with the key of a tenant whose limits per minute a few short calls come to, and an answer
    /// of some hundred tokens; `REALM_LIMITED_API_KEY` when absent. Without either,
    /// `retry-after` is skipped, and `stream-limits` spends nobody's minute.
    #[arg(long, value_name = "FILE")]
    pub(crate) limited_key_file: Option<PathBuf>,
    /// File with the key of a tenant whose program is the hostile one; `REALM_HOSTILE_API_KEY` when
    /// absent. Without either, `program-exhaustion` is skipped.
    #[arg(long, value_name = "FILE")]
    pub(crate) hostile_key_file: Option<PathBuf>,
    /// Authorities to trust beside the system's, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Send the keys to an address beyond loopback without TLS.
    #[arg(long)]
    pub(crate) insecure_plaintext: bool,
    /// The model that answers; each tenant's first when absent.
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Option<String>,
    /// Try only this; repeatable.
    #[arg(long = "check", value_name = "NAME")]
    pub(crate) checks: Vec<TenancyCheck>,
    /// Trials of `prefix-timing`, of four calls each.
    #[arg(long, default_value_t = 2000, value_name = "COUNT")]
    pub(crate) trials: usize,
    /// Words of the prompts of `prefix-timing`.
    #[arg(long, default_value_t = 192, value_name = "COUNT")]
    pub(crate) words: usize,
    /// Streams of `noisy-neighbour`, beside each kind of neighbour.
    #[arg(long, default_value_t = 128, value_name = "COUNT")]
    pub(crate) streams: usize,
    /// Draws the same prompts in the same order again.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    #[command(flatten)]
    pub(crate) cluster: ClusterArgs,
    /// Namespace of the operator and the agents.
    #[arg(
        long,
        default_value = "realm-system",
        value_name = "NAMESPACE",
        requires = "ClusterArgs",
        help_heading = CLUSTER
    )]
    pub(crate) realm_namespace: String,
}

#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    /// Where `realm serve` or an agent tells its metrics, a host and a port; repeatable, and what
    /// several say is added up.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub(crate) metrics: Vec<String>,
    /// Only what this tenant has used, `name` or `namespace/name`.
    #[arg(long, value_name = "TENANT")]
    pub(crate) tenant: Option<String>,
    /// Namespace of a tenant that is named without.
    #[arg(long, default_value = "default")]
    pub(crate) namespace: String,
    /// How it is written.
    #[arg(long, value_enum, default_value_t = UsageFormat::Csv)]
    pub(crate) format: UsageFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum UsageFormat {
    Csv,
    Json,
}

#[derive(Debug, Args)]
pub(crate) struct TopArgs {
    /// Where `realm serve` or an agent tells its metrics, a host and a port; repeatable, and what
    /// several say is added up.
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub(crate) metrics: Vec<String>,
    /// Seconds between two looks, of which what happened in between is shown.
    #[arg(long, default_value_t = 2.0, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) every: f64,
    /// Show once what happened between two looks, and end.
    #[arg(long)]
    pub(crate) once: bool,
    /// Print a line of JSON for each look.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A pause from a tenth of a second, in which an engine takes some steps, to an hour.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let is_pause = (0.1..=3600.0).contains(&seconds);
    is_pause.then_some(seconds).ok_or_else(|| "it is not from 0.1 to 3600".to_owned())
}

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// `tenant/NAME`, `model/NAME` or `pipeline/NAME`.
    #[arg(value_name = "KIND/NAME")]
    pub(crate) object: String,
    /// Where `realm serve` or each agent tells its metrics, to look for two seconds at what a tenant
    /// gets; repeatable.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Vec<String>,
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BenchArgs {
    /// A GGUF file; the default model when absent.
    #[arg(long, value_name = "FILE")]
    pub(crate) model: Option<PathBuf>,
    /// Tokens to prefill.
    #[arg(long, default_value_t = 512, value_name = "COUNT")]
    pub(crate) prefill: usize,
    /// Tokens to decode.
    #[arg(long, default_value_t = 128, value_name = "COUNT")]
    pub(crate) decode: usize,
    /// Tokens that decoding is measured behind as well, each as many again as are decoded; may be
    /// several numbers, with commas.
    #[arg(long, value_name = "COUNT", value_delimiter = ',')]
    pub(crate) depth: Vec<usize>,
    /// Sequences that decode at once in the batched measurement.
    #[arg(long, default_value_t = 8, value_name = "COUNT")]
    pub(crate) sequences: usize,
    /// An adapter of the model; repeatable. The sequences of one more batched measurement have them
    /// by turns.
    #[arg(long = "adapter", value_name = "FILE")]
    pub(crate) adapters: Vec<PathBuf>,
    /// How often each is measured; medians are printed.
    #[arg(long, default_value_t = 5, value_name = "COUNT")]
    pub(crate) repeat: usize,
    /// Threads that compute; all that the process may use when absent.
    #[arg(long, value_name = "COUNT")]
    pub(crate) threads: Option<usize>,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}
