//! The command line, read into values.

use std::net::SocketAddr;

use clap::Parser;

/// Plans the fleet, tells the agents, and says in every status what became of it.
#[derive(Clone, Debug, Parser)]
#[command(name = "realm-operator", version, about, max_term_width = 100)]
pub struct Args {
    /// Namespace of the operator, its Lease, its authority, and the agents.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: String,
    /// What tells this operator from the other replicas: its Pod's name.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: String,
    /// Address of the agents' door.
    #[arg(long, default_value = "0.0.0.0:9443", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Host names by which agents reach that door; its certificate is for these.
    #[arg(long = "link-name", required = true, value_name = "HOST")]
    pub link_names: Vec<String>,
    /// Address of health and Prometheus metrics.
    #[arg(long, default_value = "0.0.0.0:9090", value_name = "ADDRESS")]
    pub metrics: SocketAddr,
    /// ServiceAccount of the agents, in the operator's namespace.
    #[arg(long, default_value = "realm-agent", value_name = "NAME")]
    pub agent_service_account: String,
    /// Label selector of the agents' Pods, told by the scale subresource of models.
    #[arg(long, default_value = "app.kubernetes.io/name=realm-agent", value_name = "SELECTOR")]
    pub agent_selector: String,
    /// A namespace whose Secrets and ConfigMaps may be read; repeatable.
    #[arg(long = "tenant-namespace", value_name = "NAMESPACE")]
    pub tenant_namespaces: Vec<String>,
    /// What to log: error, warn, info, debug or trace, or a filter.
    #[arg(long, env = "REALM_LOG", default_value = "info", value_name = "FILTER")]
    pub log: String,
}
