//! Bytes to admitted calls, replies to bytes: WebSocket, HTTP, TLS, authentication, limits.
//!
//! A call passes, in order: `listen` (a connection, perhaps TLS), `http` (a route), then `ws`,
//! `session` and `frame`, or `openai`; both ask the `door`, which verifies, admits and starts it.

mod config;
mod gateway;
mod metrics;

mod listen;
mod patience;
mod places;
mod tls;

mod http;
mod origin;

mod frame;
mod openai;
mod session;
mod ws;

mod door;
mod drain;
mod own;
mod running;
mod scored;
mod trace;
mod whole;

pub use config::{ConfigError, GatewayConfig, Limits, TlsFiles};
pub use door::Ports;
pub use gateway::{BindError, Gateway};
pub use metrics::{Family, FamilyKind, Metrics, MetricsError, Sample, SampleValue};
pub use tls::TlsError;
