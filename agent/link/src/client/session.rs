//! One stream: what the operator says goes into the ledger, and what the ledger does not take is
//! said back. Slices of limits go beside it, and whoever spends by them answers for them.

use std::{io, sync::Arc, time::Duration};

use prost::{Message as _, bytes::Bytes};
use realm_core::{
    desired::Desired,
    report::{self, Failure},
    slices::{Slices, even},
};
use realm_proto::link::{
    v1 as proto,
    versions::{SLICES_SINCE, Versions},
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tonic::{Request, Streaming};

use super::{
    Connected, Link, LinkError, OperatorAddress,
    dial::Dialled,
    outbound::{self, Agreed, Answers, First},
};
use crate::{
    ConvertError, convert,
    ledger::{Accepted, LedgerError},
};

/// Longest wait for the operator's answer: it may wait ten seconds for a review of the token.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(15);

/// Heartbeats without a word after which an operator is given up, as it does with agents.
const SILENT_BEATS_MAX: u32 = 3;

/// Longest heartbeat that is agreed to: with a longer one a dead operator would go unnoticed.
const HEARTBEAT_MAX: Duration = Duration::from_mins(1);

/// The wait before a state that the disk did not take is tried again.
const DISK_RETRY: Duration = Duration::from_secs(10);

impl Link {
    /// Holds one stream until it ends; says how long it lived and why it ended.
    pub(super) async fn session(
        &self,
        operator: &OperatorAddress,
        dialled: Dialled,
    ) -> (Duration, LinkError) {
        let (agree, agreed) = watch::channel(None);
        let (accepted, is_accepted) = watch::channel(0);
        let (refused, is_refused) = watch::channel(None);
        let answers = Answers { accepted: is_accepted, refused: is_refused };
        let first = First { hello: self.hello(), holds: self.holds() };
        let ending = self.ending.clone();
        let messages = outbound::messages(first, self.feeds.clone(), answers, agreed, ending);
        let Dialled { mut client, bearer } = dialled.clone();
        let mut request = Request::new(messages);
        request.metadata_mut().insert("authorization", bearer);
        let opened = async {
            let mut inbound =
                client.connect(request).await.map_err(LinkError::from_status)?.into_inner();
            let agreed = welcome(next(&mut inbound).await?.as_ref())?;
            Ok::<_, LinkError>((inbound, agreed))
        };
        let opened = time::timeout(ANSWER_WAIT, opened).await;
        let (inbound, agreed) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return (Duration::ZERO, error),
            Err(_) => return (Duration::ZERO, LinkError::Slow { wait: ANSWER_WAIT }),
        };
        let since = Instant::now();
        tracing::info!(%operator, link = agreed.version, "connected to the operator");
        self.operator.send_replace(Some(dialled));
        self.state.send_modify(|state| {
            state.connected = Some(Connected { operator: operator.clone(), since });
            state.heard_at = Some(since);
        });
        agree.send_replace(Some(agreed));
        if let Err(error) = self.lease(agreed).await {
            tracing::warn!(%error, "what is held of limits is not what the operator leases");
        }
        let session = Session { link: self, accepted, refused, unwritten: None, unkept: None };
        let error = session.hear(inbound, agreed.heartbeat * SILENT_BEATS_MAX).await;
        self.operator.send_replace(None);
        (since.elapsed(), error)
    }

    /// Holds slices where the operator leases them, and none where it does not.
    async fn lease(&self, agreed: Agreed) -> io::Result<()> {
        if agreed.version < SLICES_SINCE {
            return self.slices.forget().await;
        }
        // As it has just said by its first message.
        if self.ledger.newest().generation == 0 {
            return self.slices.begin().await;
        }
        Ok(())
    }

    fn hello(&self) -> proto::Hello {
        proto::Hello {
            node: self.options.node.clone(),
            agent_version: self.options.agent_version.clone(),
            boot_id: self.options.boot_id.clone(),
            generation: self.ledger.newest().generation,
            supply: Some(convert::supply_to(&self.feeds.supply.borrow())),
            link_oldest: Versions::OURS.oldest(),
            link_newest: Versions::OURS.newest(),
        }
    }

    /// The slices that this door spends by, or what it has without any.
    fn holds(&self) -> proto::Slices {
        let held = self.slices.held().unwrap_or_else(|| {
            let desired = self.ledger.newest();
            // Before its first state it knows no tenant.
            let share = if desired.generation == 0 { 0 } else { even(desired.doors) };
            Arc::new(Slices { share, ..Slices::default() })
        });
        convert::slices_to(&held)
    }

    /// Notes a message of a kind that is not known here. Nothing depends on it.
    fn pass_over(&self) {
        tracing::debug!("a message of a kind that this agent does not know");
        self.state.send_modify(|state| state.unknown = state.unknown.saturating_add(1));
    }
}

fn welcome(message: Option<&proto::operator_message::Message>) -> Result<Agreed, LinkError> {
    let Some(proto::operator_message::Message::Welcome(welcome)) = message else {
        return Err(LinkError::Welcome);
    };
    let proto::Welcome { heartbeat_ms, link_oldest, link_newest } = welcome;
    let (agent, operator) = (Versions::OURS, Versions::said(*link_oldest, *link_newest));
    let version = agent.common(operator).ok_or(LinkError::Version { agent, operator })?;
    let asked = Duration::from_millis(*heartbeat_ms);
    if asked.is_zero() {
        let field = "welcome.heartbeat_ms";
        return Err(LinkError::Message(ConvertError::Missing { field }));
    }
    if asked > HEARTBEAT_MAX {
        return Err(LinkError::Heartbeat { asked, max: HEARTBEAT_MAX });
    }
    Ok(Agreed { heartbeat: asked, version })
}

/// The next message; none where it is of a kind that is not known here.
async fn next(
    inbound: &mut Streaming<proto::OperatorMessage>,
) -> Result<Option<proto::operator_message::Message>, LinkError> {
    let message = inbound.message().await.map_err(LinkError::from_status)?;
    let proto::OperatorMessage { message } = message.ok_or(LinkError::Ended)?;
    Ok(message)
}

struct Session<'a> {
    link: &'a Link,
    accepted: watch::Sender<u64>,
    refused: watch::Sender<Option<proto::Refused>>,
    /// A good state that the disk did not take.
    unwritten: Option<Unwritten>,
    /// Slices that the disk did not take, and when they are tried again.
    unkept: Option<(Arc<Slices>, Instant)>,
}

/// A state, the bytes that it came as, and when it is tried again.
struct Unwritten {
    desired: Arc<Desired>,
    payload: Bytes,
    due: Instant,
}

impl Session<'_> {
    async fn hear(
        mut self,
        mut inbound: Streaming<proto::OperatorMessage>,
        patience: Duration,
    ) -> LinkError {
        let mut give_up_at = Instant::now() + patience;
        loop {
            let unwritten = self.unwritten.as_ref().map(|unwritten| unwritten.due);
            let unkept = self.unkept.as_ref().map(|(_, due)| *due);
            let retry_at = unwritten.into_iter().chain(unkept).min();
            tokio::select! {
                message = next(&mut inbound) => {
                    if let Err(error) = self.take(message).await {
                        return error;
                    }
                    // From now on, for a slow disk is not the operator's silence.
                    let now = Instant::now();
                    self.link.state.send_modify(|state| state.heard_at = Some(now));
                    give_up_at = now + patience;
                }
                () = sleep_until(retry_at) => self.retry().await,
                () = time::sleep_until(give_up_at) => {
                    return LinkError::Silent { beats: SILENT_BEATS_MAX };
                }
            }
        }
    }

    async fn take(
        &mut self,
        message: Result<Option<proto::operator_message::Message>, LinkError>,
    ) -> Result<(), LinkError> {
        let Some(message) = message? else {
            self.link.pass_over();
            return Ok(());
        };
        match message {
            proto::operator_message::Message::Desired(bytes) => {
                let desired = proto::Desired::decode(bytes.clone())
                    .map_err(|error| LinkError::Message(ConvertError::Protobuf(error)))?;
                let generation = desired.generation;
                match convert::desired_from(desired) {
                    Ok(desired) => self.accept(Arc::new(desired), bytes).await,
                    Err(error) => self.refuse(generation, &LedgerError::Invalid(error)),
                }
            }
            proto::operator_message::Message::Credentials(credentials) => {
                let credentials =
                    convert::credentials_from(credentials).map_err(LinkError::Message)?;
                self.link.credentials.send_replace(credentials);
            }
            proto::operator_message::Message::Slices(slices) => {
                let slices = convert::slices_from(slices).map_err(LinkError::Message)?;
                self.keep(Arc::new(slices)).await;
            }
            proto::operator_message::Message::Heartbeat(proto::Heartbeat {}) => {}
            proto::operator_message::Message::Welcome(_) => return Err(LinkError::Welcome),
        }
        Ok(())
    }

    async fn retry(&mut self) {
        let now = Instant::now();
        if let Some((slices, _)) = self.unkept.take_if(|(_, due)| *due <= now) {
            self.keep(slices).await;
        }
        let due = self.unwritten.take_if(|unwritten| unwritten.due <= now);
        if let Some(Unwritten { desired, payload, .. }) = due {
            self.accept(desired, payload).await;
        }
    }

    /// Holds other slices. Those that the disk does not take are not spent by, since a restart would
    /// bring the ones of before back: the operator waits, and so do other doors for what these have.
    async fn keep(&mut self, slices: Arc<Slices>) {
        self.unkept = None;
        let epoch = slices.epoch;
        match self.link.slices.take(slices.clone()).await {
            Ok(()) => {
                let held = self.link.slices.held().map_or(0, |held| held.epoch);
                self.link.state.send_modify(|state| state.epoch = held);
            }
            Err(error) => {
                tracing::warn!(epoch, %error, "slices of limits are not kept");
                self.unkept = Some((slices, Instant::now() + DISK_RETRY));
            }
        }
    }

    /// Puts a state into the ledger. The newest takes the place of one that could not be written.
    async fn accept(&mut self, desired: Arc<Desired>, payload: Bytes) {
        self.unwritten = None;
        let generation = desired.generation;
        match self.link.ledger.accept_received(desired.clone(), payload.clone()).await {
            Ok(Accepted::New | Accepted::AlreadyHave) => {
                self.link.state.send_modify(|state| state.generation = generation);
                self.accepted.send_replace(generation);
            }
            Err(error) => {
                if let LedgerError::DiskFull { .. } | LedgerError::Write { .. } = error {
                    let due = Instant::now() + DISK_RETRY;
                    self.unwritten = Some(Unwritten { desired, payload, due });
                }
                self.refuse(generation, &error);
            }
        }
    }

    fn refuse(&self, generation: u64, error: &LedgerError) {
        let failure = Failure { reason: reason(error), message: report::chain(error) };
        let message = &failure.message;
        tracing::warn!(generation, reason = failure.reason, message, "a desired state is refused");
        let proto::Failure { reason, message } = convert::failure_to(&failure);
        self.refused.send_replace(Some(proto::Refused { generation, reason, message }));
    }
}

async fn sleep_until(due: Option<Instant>) {
    match due {
        Some(due) => time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// What the operator is told; part of the API.
const fn reason(error: &LedgerError) -> &'static str {
    match error {
        LedgerError::Older { .. } => "OlderGeneration",
        LedgerError::Changed { .. } => "ChangedContent",
        LedgerError::Invalid(_) => "Invalid",
        LedgerError::TooLarge { .. } => "TooLarge",
        LedgerError::DiskFull { .. } => "DiskFull",
        LedgerError::Write { .. } | LedgerError::Open { .. } | LedgerError::InUse { .. } => {
            "LedgerUnwritable"
        }
    }
}
