//! Who is there: from a request to a session of a proven agent, or to a certificate for it.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use realm_proto::link::v1 as proto;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    ending::{self, Ending},
    listen::Life,
    session,
};
use crate::link::{
    authority::{Authority, Issued},
    convert::{self, Encoder},
    identity::{AgentIdentity, Identities, TokenReviewer},
    registry::Registry,
    supply::Hello,
};

/// Longest wait for the first message: agents send it with the request.
const HELLO_WAIT: Duration = Duration::from_secs(10);

/// Both methods of the link.
pub(super) struct Service<R> {
    identities: Identities<R>,
    registry: Registry,
    encoder: Arc<Encoder>,
    authority: watch::Receiver<Arc<Authority>>,
    leading: watch::Receiver<bool>,
    heartbeat: Duration,
}

impl<R: TokenReviewer> Service<R> {
    pub(super) fn new(
        identities: Identities<R>,
        registry: Registry,
        authority: watch::Receiver<Arc<Authority>>,
        leading: watch::Receiver<bool>,
        heartbeat: Duration,
    ) -> Self {
        Self { identities, registry, encoder: Arc::default(), authority, leading, heartbeat }
    }

    /// The agent that a request's token proves, if this operator leads.
    async fn prove(&self, metadata: &MetadataMap) -> Result<Arc<AgentIdentity>, Ending> {
        // First, so that a standby asks the API server nothing.
        if !*self.leading.borrow() {
            return Err(Ending::NotLeading);
        }
        let token = bearer(metadata).ok_or(Ending::NoToken)?;
        self.identities.identify(token).await.map_err(Ending::Identity)
    }

    async fn open(
        &self,
        request: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<session::Outbound, Ending> {
        let identity = self.prove(request.metadata()).await?;
        let life = request.extensions().get::<watch::Sender<Life>>().cloned();
        let mut inbound = request.into_inner();
        let first = time::timeout(HELLO_WAIT, inbound.message());
        let hello = hello(first.await.map_err(|_| Ending::NoHello)?)?;
        if hello.node != identity.node {
            let (said, proven) = (hello.node, identity.node.clone());
            return Err(Ending::OtherNode { said, proven });
        }
        let AgentIdentity { node, pod, namespace: _, pod_uid: _, pod_ip: _ } = &*identity;
        tracing::info!(node, pod, version = hello.agent_version, "agent connected");
        let connected =
            self.registry.connect(hello, Instant::now()).map_err(Ending::TooManyNodes)?;
        let leading = self.leading.clone();
        let (registry, encoder) = (self.registry.clone(), self.encoder.clone());
        let ports = session::Ports { registry, encoder, leading, life };
        Ok(session::start(connected, inbound, ports, self.heartbeat))
    }

    async fn issue(&self, request: Request<proto::EnrollRequest>) -> Result<Issued, Ending> {
        let identity = self.prove(request.metadata()).await?;
        let proto::EnrollRequest { csr_der } = request.into_inner();
        let authority = self.authority.borrow().clone();
        authority.issue_node(&identity, &csr_der, SystemTime::now()).map_err(Ending::Enroll)
    }

    /// A stranger can cause these at any rate, so they are not logged above debug.
    fn turn_away(&self, ending: Ending) -> Status {
        tracing::debug!(cause = ending::chain(&ending), "an agent was turned away");
        self.registry.count_ending(ending.reason());
        if let Some(stranger) = ending.stranger() {
            self.registry.count_stranger(stranger);
        }
        ending.into_status().unwrap_or_else(|| Status::cancelled("the agent has left"))
    }
}

#[tonic::async_trait]
impl<R: TokenReviewer> proto::link_server::Link for Service<R> {
    type ConnectStream = session::Replies;

    async fn connect(
        &self,
        request: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        match self.open(request).await {
            Ok(outbound) => Ok(Response::new(outbound.into_stream())),
            Err(ending) => Err(self.turn_away(ending)),
        }
    }

    async fn enroll(
        &self,
        request: Request<proto::EnrollRequest>,
    ) -> Result<Response<proto::EnrollResponse>, Status> {
        let Issued { chain, ca, not_after } =
            self.issue(request).await.map_err(|ending| self.turn_away(ending))?;
        let not_after = not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let not_after = not_after.as_secs();
        Ok(Response::new(proto::EnrollResponse { certificate_chain: chain, ca, not_after }))
    }
}

fn hello(first: Result<Option<proto::AgentMessage>, Status>) -> Result<Hello, Ending> {
    let first = first.map_err(Ending::Unreadable)?.ok_or(Ending::Left)?;
    match first.message {
        Some(proto::agent_message::Message::Hello(hello)) => {
            convert::hello_from(hello).map_err(Ending::Message)
        }
        _ => Err(Ending::NotAHello),
    }
}

fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get("authorization")?.to_str().ok()?;
    let token = value.strip_prefix("Bearer ")?.trim();
    (!token.is_empty()).then_some(token)
}
