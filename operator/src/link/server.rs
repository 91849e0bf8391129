//! The agents' door.
//!
//! In order: `listen` takes a connection and speaks TLS, `service` proves whose it is and which
//! node it says it is, and `session` lets the agent and the registry hear of each other until one
//! of them ends it. Beside that, `config_map` brings what the agent's programs come from.

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{net::TcpListener, sync::watch};

use super::{
    authority::Authority,
    identity::{Identities, TokenReviewer},
    registry::Registry,
};
use crate::{config_maps::ConfigMaps, lease::leading::Leading};

mod config_map;
mod ending;
mod listen;
mod service;
mod session;

/// How often both ends of a stream give a sign of life.
///
/// With [`session::SILENT_BEATS_MAX`] an agent that hangs is given up after fifteen seconds,
/// before Kubernetes gives up its node. A thousand agents are two hundred small messages a second.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// What the door needs.
pub struct Server<R> {
    pub identities: Identities<R>,
    pub registry: Registry,
    /// What programs may come from.
    pub config_maps: ConfigMaps,
    /// The newest authority, for the agents' own certificates.
    pub authority: watch::Receiver<Arc<Authority>>,
    /// The TLS of new connections, from [`super::authority::Serving`].
    pub tls: watch::Receiver<Arc<ServerConfig>>,
    /// Whether this operator leads. One that does not, or no longer, turns every agent away.
    pub leading: Leading,
    /// [`HEARTBEAT`], unless somebody has a reason.
    pub heartbeat: Duration,
}

impl<R: TokenReviewer> Server<R> {
    /// Serves agents at `listener` until it is dropped, which ends their streams.
    pub async fn serve(self, listener: TcpListener) {
        let Self { identities, registry, config_maps, authority, tls, leading, heartbeat } = self;
        let known = (registry, config_maps);
        let service = service::Service::new(identities, known, authority, leading, heartbeat);
        listen::listen(listener, tls, service).await;
    }
}
