//! One stream: what the operator says goes into the ledger, and what the ledger does not take is
//! said back.

use std::{sync::Arc, time::Duration};

use prost::{Message as _, bytes::Bytes};
use realm_core::{
    desired::Desired,
    report::{self, Failure},
};
use realm_proto::link::v1 as proto;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tonic::{Request, Streaming};

use super::{
    Connected, Link, LinkError, OperatorAddress,
    dial::Dialled,
    outbound::{self, Answers},
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
        let (heartbeat, is_welcome) = watch::channel(None);
        let (accepted, is_accepted) = watch::channel(0);
        let (refused, is_refused) = watch::channel(None);
        let answers = Answers { accepted: is_accepted, refused: is_refused };
        let messages = outbound::messages(self.hello(), self.feeds.clone(), answers, is_welcome);
        let Dialled { mut client, bearer } = dialled;
        let mut request = Request::new(messages);
        request.metadata_mut().insert("authorization", bearer);
        let opened = async {
            let mut inbound =
                client.connect(request).await.map_err(LinkError::from_status)?.into_inner();
            let every = welcome(&next(&mut inbound).await?)?;
            Ok::<_, LinkError>((inbound, every))
        };
        let opened = time::timeout(ANSWER_WAIT, opened).await;
        let (inbound, every) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return (Duration::ZERO, error),
            Err(_) => return (Duration::ZERO, LinkError::Slow { wait: ANSWER_WAIT }),
        };
        let since = Instant::now();
        tracing::info!(%operator, "connected to the operator");
        self.state.send_modify(|state| {
            state.connected = Some(Connected { operator: operator.clone(), since });
            state.heard_at = Some(since);
        });
        heartbeat.send_replace(Some(every));
        let session = Session { link: self, accepted, refused, unwritten: None };
        let error = session.hear(inbound, every * SILENT_BEATS_MAX).await;
        (since.elapsed(), error)
    }

    fn hello(&self) -> proto::Hello {
        proto::Hello {
            node: self.options.node.clone(),
            agent_version: self.options.agent_version.clone(),
            boot_id: self.options.boot_id.clone(),
            generation: self.ledger.newest().generation,
            supply: Some(convert::supply_to(&self.feeds.supply.borrow())),
        }
    }
}

fn welcome(message: &proto::operator_message::Message) -> Result<Duration, LinkError> {
    let proto::operator_message::Message::Welcome(proto::Welcome { heartbeat_ms }) = message else {
        return Err(LinkError::Welcome);
    };
    let asked = Duration::from_millis(*heartbeat_ms);
    if asked.is_zero() {
        let field = "welcome.heartbeat_ms";
        return Err(LinkError::Message(ConvertError::Missing { field }));
    }
    if asked > HEARTBEAT_MAX {
        return Err(LinkError::Heartbeat { asked, max: HEARTBEAT_MAX });
    }
    Ok(asked)
}

async fn next(
    inbound: &mut Streaming<proto::OperatorMessage>,
) -> Result<proto::operator_message::Message, LinkError> {
    let message = inbound.message().await.map_err(LinkError::from_status)?;
    let proto::OperatorMessage { message } = message.ok_or(LinkError::Ended)?;
    message.ok_or(LinkError::Message(ConvertError::Missing { field: "message" }))
}

struct Session<'a> {
    link: &'a Link,
    accepted: watch::Sender<u64>,
    refused: watch::Sender<Option<proto::Refused>>,
    /// A good state that the disk did not take.
    unwritten: Option<Unwritten>,
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
            let retry_at = self.unwritten.as_ref().map(|unwritten| unwritten.due);
            tokio::select! {
                message = next(&mut inbound) => match message {
                    Ok(message) => match self.take(message).await {
                        // From now on, for a slow disk is not the operator's silence.
                        Ok(()) => {
                            let now = Instant::now();
                            self.link.state.send_modify(|state| state.heard_at = Some(now));
                            give_up_at = now + patience;
                        }
                        Err(error) => return error,
                    },
                    Err(error) => return error,
                },
                () = sleep_until(retry_at) => self.retry().await,
                () = time::sleep_until(give_up_at) => {
                    return LinkError::Silent { beats: SILENT_BEATS_MAX };
                }
            }
        }
    }

    async fn take(&mut self, message: proto::operator_message::Message) -> Result<(), LinkError> {
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
            proto::operator_message::Message::Heartbeat(proto::Heartbeat {}) => {}
            proto::operator_message::Message::Welcome(_) => return Err(LinkError::Welcome),
        }
        Ok(())
    }

    async fn retry(&mut self) {
        if let Some(Unwritten { desired, payload, .. }) = self.unwritten.take() {
            self.accept(desired, payload).await;
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
