//! What the wiring decides about the door, and the checks it must pass before anything is bound.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use realm_proto::ws::MESSAGE_BYTES_MAX;
use thiserror::Error;

use crate::origin::Origins;

/// The door's configuration.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    pub listen: SocketAddr,
    pub tls: Option<TlsFiles>,
    /// Lets a door without TLS, and the metrics, which never have it, listen beyond loopback.
    pub insecure_plaintext: bool,
    /// Where Prometheus scrapes; `None` serves no metrics.
    pub metrics: Option<SocketAddr>,
    /// Origins such as `https://app.example.com` whose pages may open sockets and read answers,
    /// besides those of this machine where the door listens on loopback; `*` allows every one.
    /// A page the door's own host serves beyond loopback must be listed too: what a request says
    /// its host is proves nothing.
    pub allowed_origins: Vec<String>,
    /// How long new calls are still taken once the door is not ready any more: whoever sends
    /// clients here needs time to hear of it.
    pub settle: Duration,
    /// How long running calls may go on after that.
    pub grace: Duration,
    pub limits: Limits,
}

impl GatewayConfig {
    /// A plain door at `listen` with every default.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            tls: None,
            insecure_plaintext: false,
            metrics: None,
            allowed_origins: Vec::new(),
            settle: Duration::ZERO,
            grace: GRACE,
            limits: Limits::default(),
        }
    }
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// How often the files are looked at for a change.
    pub look_every: Duration,
}

impl TlsFiles {
    pub fn new(certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        Self { certificate: certificate.into(), key: key.into(), look_every: TLS_LOOK_EVERY }
    }
}

/// Kubernetes sends SIGKILL 30 s after SIGTERM unless told otherwise; this leaves time to close.
const GRACE: Duration = Duration::from_secs(25);

/// Two small files; ten seconds is far below the life of any certificate.
const TLS_LOOK_EVERY: Duration = Duration::from_secs(10);

const CONNECTIONS_MAX: usize = 512;

/// What strangers may take of the door before and besides any tenant's own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Open connections; more are closed at once.
    pub connections_max: usize,
    /// Open connections of one address (of one /64 network in IPv6) that are not a known tenant's
    /// sockets; more are closed at once.
    pub connections_per_address_max: usize,
    /// Open sockets of one tenant; more are refused as busy.
    pub sockets_per_tenant_max: usize,
    /// Sockets that have not yet shown a key; more are refused as busy.
    pub strangers_max: usize,
    pub calls_per_socket_max: u32,
    /// Bytes of one WebSocket message or one HTTP body.
    pub message_bytes_max: usize,
    /// Until a TLS handshake or a request's head is complete, and between requests.
    pub head_wait: Duration,
    /// Until a request's body is complete.
    pub body_wait: Duration,
    /// Until the first frame of a socket that was opened without a key.
    pub auth_wait: Duration,
    pub ping_every: Duration,
    /// A connection that was silent, or took no byte, for so long is dead.
    pub silence_max: Duration,
    /// A call whose client takes nothing for so long ends.
    pub stall_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Half of the 1024 file descriptors a process usually has; the rest is for models,
            // programs and the link. With a message each they hold `message_bytes_max` times as
            // many bytes, half a gigabyte.
            connections_max: CONNECTIONS_MAX,
            // Whoever holds all of theirs leaves three quarters to others: loopback has no
            // exception, since a proxy on this machine speaks for strangers too.
            connections_per_address_max: CONNECTIONS_MAX / 4,
            // The same for one key, whose sockets do not count for their addresses; each of them
            // runs `calls_per_socket_max` calls, more than any tenant may have at once.
            sockets_per_tenant_max: CONNECTIONS_MAX / 4,
            // Strangers cost a buffered message each: 64 MiB together.
            strangers_max: 64,
            // Part of the protocol.
            calls_per_socket_max: 64,
            message_bytes_max: MESSAGE_BYTES_MAX,
            // Longer than a handshake over a bad mobile link.
            head_wait: Duration::from_secs(15),
            // 1 MiB at 35 KiB/s.
            body_wait: Duration::from_secs(30),
            // Part of the protocol.
            auth_wait: Duration::from_secs(10),
            ping_every: Duration::from_secs(20),
            // Three pings.
            silence_max: Duration::from_mins(1),
            // Twice as long as the reply buffer lasts at 50 tokens a second.
            stall_max: Duration::from_secs(10),
        }
    }
}

/// Why a configuration is refused.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConfigError {
    #[error(
        "{listen} is not loopback and there is no TLS: give a certificate and key, or allow \
         insecure plaintext"
    )]
    PlaintextBeyondLoopback { listen: SocketAddr },
    #[error(
        "the metrics at {metrics} are not on loopback and never have TLS: allow insecure plaintext"
    )]
    MetricsBeyondLoopback { metrics: SocketAddr },
    #[error("`{origin}` is not an origin: scheme://host, with a port where it is not the usual")]
    Origin { origin: String },
    #[error("`{limit}` must not be zero")]
    ZeroLimit { limit: &'static str },
}

/// Checks what cannot be left to the types. Returns the origins as the door compares them.
pub(crate) fn check(config: &GatewayConfig) -> Result<Origins, ConfigError> {
    if config.tls.is_none() && !config.insecure_plaintext && !config.listen.ip().is_loopback() {
        return Err(ConfigError::PlaintextBeyondLoopback { listen: config.listen });
    }
    if let Some(metrics) = config.metrics
        && !config.insecure_plaintext
        && !metrics.ip().is_loopback()
    {
        return Err(ConfigError::MetricsBeyondLoopback { metrics });
    }
    let Limits {
        connections_max,
        connections_per_address_max,
        sockets_per_tenant_max,
        strangers_max,
        calls_per_socket_max,
        message_bytes_max,
        head_wait,
        body_wait,
        auth_wait,
        ping_every,
        silence_max,
        stall_max,
    } = config.limits;
    let zero = [
        ("connections_max", connections_max == 0),
        ("connections_per_address_max", connections_per_address_max == 0),
        ("sockets_per_tenant_max", sockets_per_tenant_max == 0),
        ("strangers_max", strangers_max == 0),
        ("calls_per_socket_max", calls_per_socket_max == 0),
        ("message_bytes_max", message_bytes_max == 0),
        ("head_wait", head_wait.is_zero()),
        ("body_wait", body_wait.is_zero()),
        ("auth_wait", auth_wait.is_zero()),
        ("ping_every", ping_every.is_zero()),
        ("silence_max", silence_max.is_zero()),
        ("stall_max", stall_max.is_zero()),
    ];
    if let Some((limit, _)) = zero.into_iter().find(|(_, is_zero)| *is_zero) {
        return Err(ConfigError::ZeroLimit { limit });
    }
    Origins::parse(&config.allowed_origins, config.listen.ip())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(listen: &str) -> GatewayConfig {
        GatewayConfig::new(listen.parse().unwrap())
    }

    #[test]
    fn plaintext_stays_on_loopback_unless_it_is_asked_for() {
        check(&at("127.0.0.1:0")).unwrap();
        check(&at("[::1]:0")).unwrap();
        for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:80"] {
            let mut config = at(listen);
            let listen = config.listen;
            assert_eq!(
                check(&config).unwrap_err(),
                ConfigError::PlaintextBeyondLoopback { listen }
            );
            config.insecure_plaintext = true;
            check(&config).unwrap();
            config.insecure_plaintext = false;
            config.tls = Some(TlsFiles::new("cert.pem", "key.pem"));
            check(&config).unwrap();
        }
    }

    #[test]
    fn metrics_stay_on_loopback_unless_plaintext_is_asked_for() {
        let mut config = at("127.0.0.1:0");
        config.metrics = Some("[::1]:0".parse().unwrap());
        check(&config).unwrap();
        for metrics in ["0.0.0.0:9090", "[::]:9090", "192.0.2.1:9090"] {
            let metrics = metrics.parse().unwrap();
            config.metrics = Some(metrics);
            // A certificate for the door does nothing for the metrics.
            for tls in [None, Some(TlsFiles::new("cert.pem", "key.pem"))] {
                config.tls = tls;
                let refused = check(&config).unwrap_err();
                assert_eq!(refused, ConfigError::MetricsBeyondLoopback { metrics });
            }
            config.insecure_plaintext = true;
            check(&config).unwrap();
            config.insecure_plaintext = false;
        }
    }

    #[test]
    fn a_limit_of_zero_and_an_origin_that_is_none_are_refused() {
        let mut config = at("127.0.0.1:0");
        config.limits.stall_max = Duration::ZERO;
        assert_eq!(check(&config).unwrap_err(), ConfigError::ZeroLimit { limit: "stall_max" });
        let mut config = at("127.0.0.1:0");
        config.allowed_origins = vec!["app.example.com".into()];
        let origin = "app.example.com".into();
        assert_eq!(check(&config).unwrap_err(), ConfigError::Origin { origin });
    }
}
