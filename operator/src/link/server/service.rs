//! Who is there: from a request to a session of a proven agent, to a certificate for it, or to what
//! its programs come from.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use realm_proto::link::{v1 as proto, versions::Versions};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};

use super::{
    config_map::{self, Pieces},
    ending::{self, Ending},
    listen::Life,
    session::{self, Agreed},
};
use crate::{
    config_maps::ConfigMaps,
    lease::leading::Leading,
    link::{
        authority::{Authority, Issued},
        convert::{self, Encoder},
        identity::{AgentIdentity, Identities, TokenReviewer},
        registry::Registry,
        supply::Hello,
    },
};

/// Longest wait for the first message: agents send it with the request.
const HELLO_WAIT: Duration = Duration::from_secs(10);

/// The methods of the link.
pub(super) struct Service<R> {
    identities: Arc<Identities<R>>,
    registry: Registry,
    config_maps: ConfigMaps,
    encoder: Arc<Encoder>,
    authority: watch::Receiver<Arc<Authority>>,
    leading: Leading,
    heartbeat: Duration,
}

impl<R: TokenReviewer> Service<R> {
    pub(super) fn new(
        identities: Identities<R>,
        (registry, config_maps): (Registry, ConfigMaps),
        authority: watch::Receiver<Arc<Authority>>,
        leading: Leading,
        heartbeat: Duration,
    ) -> Self {
        let (identities, encoder) = (Arc::new(identities), Arc::default());
        Self { identities, registry, config_maps, encoder, authority, leading, heartbeat }
    }

    /// The agent that a request's token proves, if this operator leads.
    async fn prove(&self, metadata: &MetadataMap) -> Result<Arc<AgentIdentity>, Ending> {
        // First, so that a standby asks the API server nothing.
        self.must_lead()?;
        let token = bearer(metadata).ok_or(Ending::NoToken)?;
        let identity = self.identities.identify(token).await.map_err(Ending::Identity)?;
        // Again, since the answer may have taken longer than the Lease.
        self.must_lead()?;
        Ok(identity)
    }

    fn must_lead(&self) -> Result<(), Ending> {
        let leads = self.leading.leads(Instant::now());
        leads.then_some(()).ok_or(Ending::NotLeading)
    }

    async fn open(
        &self,
        request: Request<Streaming<proto::AgentMessage>>,
    ) -> Result<session::Outbound, Ending> {
        let identity = self.prove(request.metadata()).await?;
        let token = bearer(request.metadata()).ok_or(Ending::NoToken)?;
        let refuted = self.identities.clone().refuted(token.into());
        let life = request.extensions().get::<watch::Sender<Life>>().cloned();
        let mut inbound = request.into_inner();
        let first = time::timeout(HELLO_WAIT, inbound.message());
        let hello = hello(first.await.map_err(|_| Ending::NoHello)?)?;
        if hello.node != identity.node {
            let (said, proven) = (hello.node, identity.node.clone());
            return Err(Ending::OtherNode { said, proven });
        }
        let version = self.agree(&identity, &hello)?;
        let AgentIdentity { node, pod, namespace: _, pod_uid: _, pod_ip: _ } = &*identity;
        tracing::info!(node, pod, version = hello.agent_version, link = version, "agent connected");
        let connected =
            self.registry.connect(hello, Instant::now()).map_err(Ending::TooManyNodes)?;
        let leading = self.leading.clone();
        let (registry, encoder) = (self.registry.clone(), self.encoder.clone());
        let ports = session::Ports { registry, encoder, leading, life, refuted: Box::pin(refuted) };
        let agreed = Agreed { heartbeat: self.heartbeat, version };
        Ok(session::start(connected, inbound, ports, agreed))
    }

    /// The version of the link that both speak. An agent that speaks none serves on from its ledger
    /// and hears of no change, so somebody has to be told.
    fn agree(&self, identity: &AgentIdentity, hello: &Hello) -> Result<u32, Ending> {
        let (agent, operator) = (hello.link, Versions::OURS);
        if let Some(version) = operator.common(agent) {
            return Ok(version);
        }
        let AgentIdentity { node, pod, namespace: _, pod_uid: _, pod_ip: _ } = identity;
        // It comes again and again; what does not change is said once.
        if self.registry.note_unspoken(node, agent, Instant::now()).map_err(Ending::TooManyNodes)? {
            let release = &hello.agent_version;
            tracing::warn!(node, pod, release, %agent, %operator, "no version of the link that both speak");
        }
        Err(Ending::Version { agent, operator })
    }

    async fn issue(&self, request: Request<proto::EnrollRequest>) -> Result<Issued, Ending> {
        let identity = self.prove(request.metadata()).await?;
        let proto::EnrollRequest { csr_der } = request.into_inner();
        let authority = self.authority.borrow().clone();
        authority.issue_node(&identity, &csr_der, SystemTime::now()).map_err(Ending::Enroll)
    }

    /// What a ConfigMap holds, on the connection of a stream alone: a node has one of these, so that
    /// no agent is sent more at once than one connection has streams for.
    async fn bring(&self, request: Request<proto::ConfigMapRequest>) -> Result<Pieces, Status> {
        let identity = self.prove(request.metadata()).await;
        let identity = identity.map_err(|ending| self.turn_away(ending))?;
        let life = request.extensions().get::<watch::Sender<Life>>();
        if life.is_none_or(|life| *life.borrow() != Life::Proven) {
            return Err(Status::unavailable("this connection has no stream of an agent"));
        }
        let known = (&self.registry, &self.config_maps);
        let pieces = config_map::read(request.into_inner(), &identity.node, known).await?;
        // Once more: what was read may have taken longer than the Lease.
        self.must_lead().map_err(|ending| self.turn_away(ending))?;
        Ok(pieces)
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
    type ReadConfigMapStream = Pieces;

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

    async fn read_config_map(
        &self,
        request: Request<proto::ConfigMapRequest>,
    ) -> Result<Response<Pieces>, Status> {
        self.bring(request).await.map(Response::new)
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
