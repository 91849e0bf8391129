//! The command line of an agent, read into values.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::Parser;

use crate::DeviceOptions;

/// One node's agent: holds what the operator says, and serves every tenant's calls.
#[derive(Clone, Debug, Parser)]
#[command(name = "realm-agent", version, about, max_term_width = 100)]
pub struct Args {
    /// The Kubernetes node.
    #[arg(long, env = "NODE_NAME", value_name = "NAME")]
    pub node: String,
    /// Where operators listen, `https://host:port`; repeatable, tried in turn.
    #[arg(long = "operator", required = true, value_name = "URL")]
    pub operators: Vec<String>,
    /// Certificates of authority that operators are believed by, in PEM.
    #[arg(long, value_name = "FILE")]
    pub operator_ca: PathBuf,
    /// The projected ServiceAccount token, made for the audience `realm-operator`.
    #[arg(long, value_name = "FILE")]
    pub token: PathBuf,
    /// Folder for the ledger, and for model files unless `--store` says where.
    #[arg(long, value_name = "FOLDER")]
    pub state: PathBuf,
    /// Folder for model files and programs.
    #[arg(long, value_name = "FOLDER")]
    pub store: Option<PathBuf>,
    /// Folder that persistent volume claims are mounted in, each at `<namespace>/<claim>`, for
    /// `pvc://` sources.
    #[arg(long, value_name = "FOLDER")]
    pub claims: Option<PathBuf>,
    /// Address by which clients and other agents reach this one: its Pod's.
    #[arg(long, env = "POD_IP", value_name = "IP")]
    pub advertise: Option<IpAddr>,
    /// Address of the WebSocket and HTTP door.
    #[arg(long, default_value = "0.0.0.0:8443", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Address of the door for other agents, which takes nobody without a certificate.
    #[arg(long, default_value = "0.0.0.0:8444", value_name = "ADDRESS")]
    pub peer_listen: SocketAddr,
    /// Address of the Prometheus metrics.
    #[arg(long, default_value = "0.0.0.0:9090", value_name = "ADDRESS")]
    pub metrics: SocketAddr,
    /// Certificate chain of the door in PEM, read again when it changes.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Private key of the door in PEM, read again when it changes.
    #[arg(long, requires = "tls_cert", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Bind addresses beyond loopback without TLS, for networks that encrypt by themselves: the
    /// door, and the metrics, which have no TLS.
    #[arg(long)]
    pub insecure_plaintext: bool,
    /// A web origin whose pages may call this agent; repeatable.
    #[arg(long = "allow-origin", value_name = "ORIGIN")]
    pub allow_origins: Vec<String>,
    /// Seconds after SIGTERM in which new calls are still taken: the Service needs time to forget
    /// this Pod.
    #[arg(long, default_value_t = 5, value_name = "SECONDS")]
    pub settle: u64,
    /// Seconds that running calls may take to finish after that. The Pod's
    /// terminationGracePeriodSeconds holds both and five more for the last goodbyes.
    #[arg(long, default_value_t = 20, value_name = "SECONDS")]
    pub grace: u64,
    /// Address of an OpenTelemetry collector that takes traces by OTLP over HTTP, such as
    /// `http://collector:4318`; without it, or one in the environment, none are recorded.
    #[arg(long, value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    #[command(flatten)]
    pub device: DeviceOptions,
    /// What to log: error, warn, info, debug or trace, or a filter.
    #[arg(long, env = "REALM_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}
