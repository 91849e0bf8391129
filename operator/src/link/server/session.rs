//! One agent's stream, both ways.
//!
//! A task hears the agent and tells the registry; it also sees everything that ends the stream.
//! The way back is a stream without a queue: the next message is chosen when there is room for
//! it, and the next state when the last one has been answered, so a slow agent skips states instead
//! of working through them or holding up anybody.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use prost::Message as _;
use realm_proto::link::{
    OPERATOR_MESSAGE_BYTES_MAX, v1 as proto,
    versions::{ACCEPTED_SINCE, SLICES_SINCE},
};
use tokio::{
    sync::{oneshot, watch},
    task::AbortHandle,
    time::{self, Instant, Interval, MissedTickBehavior},
};
use tonic::{Status, Streaming};

use super::{
    ending::{self, Ending},
    listen::Life,
};
use crate::{
    lease::leading::Leading,
    link::{
        convert::{self, Encoder},
        identity::IdentityError,
        registry::{Connected, ConnectionId, Orders, Registry},
        report::{Failure, Refused},
    },
};

/// Heartbeats without a sign of life after which an agent is given up: one may be late and one
/// lost in a pause of the machine.
pub(super) const SILENT_BEATS_MAX: u32 = 3;

/// Least time between two messages of one agent. Agents report a few times a second, and one
/// that floods its operator is read no faster than this.
const MESSAGE_GAP: Duration = Duration::from_millis(20);

/// How long the next state waits for an agent's answer to the last one: as long as a sign of life
/// does. One that is written to a disk that is slower still is written over by the next.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// The messages of one agent's stream.
pub(super) type Replies =
    Pin<Box<dyn Stream<Item = Result<proto::OperatorMessage, Status>> + Send>>;

/// Comes when the agent has not proven itself any more.
pub(super) type Refuted = Pin<Box<dyn Future<Output = IdentityError> + Send>>;

/// What a session hears and tells.
pub(super) struct Ports {
    pub(super) registry: Registry,
    pub(super) encoder: Arc<Encoder>,
    pub(super) leading: Leading,
    pub(super) life: Option<watch::Sender<Life>>,
    pub(super) refuted: Refuted,
}

/// What both ends keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    pub(super) heartbeat: Duration,
    /// Of the link.
    pub(super) version: u32,
}

/// Starts to hear an agent that has been taken in. Dropping what it returns ends the session.
pub(super) fn start(
    connected: Connected,
    inbound: Streaming<proto::AgentMessage>,
    ports: Ports,
    agreed: Agreed,
) -> Outbound {
    let Agreed { heartbeat, version } = agreed;
    let Connected { node, id, orders, replaced } = connected;
    let Ports { registry, encoder, leading, life, refuted } = ports;
    set_life(life.as_ref(), Life::Proven);
    let (ended, ending) = oneshot::channel();
    let (answer, answered) = watch::channel(0);
    let ears = Ears { node: node.clone(), id, registry: registry.clone(), inbound, answer };
    let task = tokio::spawn({
        let (leading, life) = (leading.clone(), life.clone());
        let ends = Ends { leading, replaced, refuted };
        async move { ears.run(ends, heartbeat, ended, life).await }
    });
    let claim = Claim { node, id, registry, life, hearing: task.abort_handle() };
    Outbound {
        welcome: Some(heartbeat),
        orders,
        sent: Orders::default(),
        answered,
        unanswered: None,
        version,
        encoder,
        beat: beat(heartbeat),
        ending,
        leading,
        is_over: false,
        claim,
    }
}

fn set_life(life: Option<&watch::Sender<Life>>, new: Life) {
    if let Some(life) = life {
        life.send_replace(new);
    }
}

fn beat(heartbeat: Duration) -> Interval {
    let mut beat = time::interval_at(Instant::now() + heartbeat, heartbeat);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beat
}

/// A place in the registry and the task that hears for it. Dropped with the stream.
struct Claim {
    node: String,
    id: ConnectionId,
    registry: Registry,
    life: Option<watch::Sender<Life>>,
    hearing: AbortHandle,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.hearing.abort();
        // The connection went under the stream before its ears could say how it ended.
        if self.registry.disconnect(&self.node, self.id) {
            self.registry.count_ending("Gone");
        }
        set_life(self.life.as_ref(), Life::Ended);
    }
}

/// The half that hears the agent.
struct Ears {
    node: String,
    id: ConnectionId,
    registry: Registry,
    inbound: Streaming<proto::AgentMessage>,
    /// The generation of the last state that the agent has answered.
    answer: watch::Sender<u64>,
}

/// What ends a stream besides what its agent says.
struct Ends {
    leading: Leading,
    replaced: watch::Receiver<bool>,
    refuted: Refuted,
}

impl Ears {
    /// Hears until something ends the stream, then says what, to the registry at once and to the
    /// agent when it listens. Not listening does not keep its connection.
    async fn run(
        mut self,
        Ends { mut leading, mut replaced, refuted }: Ends,
        heartbeat: Duration,
        ended: oneshot::Sender<Ending>,
        life: Option<watch::Sender<Life>>,
    ) {
        let ending = tokio::select! {
            () = leading.ended() => Ending::NotLeading,
            taken = replaced.wait_for(|replaced| *replaced) => match taken {
                Ok(_) => Ending::Replaced,
                Err(_) => Ending::Forgotten,
            },
            error = refuted => Ending::Refuted(error),
            ending = self.hear(heartbeat) => ending,
        };
        tracing::info!(node = self.node, cause = ending::chain(&ending), "agent disconnected");
        self.registry.disconnect(&self.node, self.id);
        self.registry.count_ending(ending.reason());
        // Nobody listens once the stream has been dropped.
        let _ = ended.send(ending);
        set_life(life.as_ref(), Life::Ended);
    }

    async fn hear(&mut self, heartbeat: Duration) -> Ending {
        let patience = heartbeat * SILENT_BEATS_MAX;
        loop {
            let message = match time::timeout(patience, self.inbound.message()).await {
                Ok(Ok(Some(message))) => message,
                Ok(Ok(None)) => return Ending::Left,
                Ok(Err(status)) => return Ending::Unreadable(status),
                Err(_) => return Ending::Silent { beats: SILENT_BEATS_MAX },
            };
            if let Err(ending) = self.take(message) {
                return ending;
            }
            time::sleep(MESSAGE_GAP).await;
        }
    }

    fn take(&self, message: proto::AgentMessage) -> Result<(), Ending> {
        let (node, id, now) = (&self.node, self.id, Instant::now());
        match message.message {
            Some(proto::agent_message::Message::Report(report)) => {
                let report = convert::report_from(report).map_err(Ending::Message)?;
                self.registry.report(node, id, report, now);
            }
            Some(proto::agent_message::Message::Supply(supply)) => {
                let supply = convert::supply_from(supply).map_err(Ending::Message)?;
                self.registry.supply(node, id, supply, now);
            }
            Some(proto::agent_message::Message::Uses(uses)) => {
                let uses = convert::uses_from(uses).map_err(Ending::Message)?;
                self.registry.uses(node, id, uses, now);
            }
            Some(proto::agent_message::Message::Refused(refused)) => {
                let refused = convert::refused_from(refused).map_err(Ending::Message)?;
                self.answer.send_replace(refused.generation);
                self.registry.refused(node, id, refused, now);
            }
            Some(proto::agent_message::Message::Accepted(proto::Accepted { generation })) => {
                self.answer.send_replace(generation);
            }
            Some(proto::agent_message::Message::Holds(holds)) => {
                let holds = convert::slices_from(holds).map_err(Ending::Message)?;
                self.registry.holds(node, id, holds, now);
            }
            Some(proto::agent_message::Message::Spends(spends)) => {
                let spends = convert::spends_from(spends).map_err(Ending::Message)?;
                self.registry.spends(node, id, spends, now);
            }
            Some(proto::agent_message::Message::Hello(_)) => return Err(Ending::SecondHello),
            // Of a newer agent, or none at all; nothing depends on it.
            None => self.registry.count_unknown(),
        }
        Ok(())
    }
}

/// The half that tells the agent.
pub(super) struct Outbound {
    /// Until it has been said.
    welcome: Option<Duration>,
    orders: watch::Receiver<Orders>,
    sent: Orders,
    answered: watch::Receiver<u64>,
    /// The last state, until it is answered, and when that has been waited for long enough.
    unanswered: Option<(u64, Instant)>,
    /// Of the link. An agent of an older one than [`ACCEPTED_SINCE`] does not say that it took a
    /// state, and nothing is waited for.
    version: u32,
    encoder: Arc<Encoder>,
    beat: Interval,
    ending: oneshot::Receiver<Ending>,
    leading: Leading,
    is_over: bool,
    claim: Claim,
}

impl Outbound {
    pub(super) fn into_stream(self) -> Replies {
        Box::pin(stream::unfold(self, |mut outbound| async move {
            let next = outbound.next().await?;
            Some((next, outbound))
        }))
    }

    async fn next(&mut self) -> Option<Result<proto::OperatorMessage, Status>> {
        if self.is_over {
            return None;
        }
        let message = self.message().await;
        // Once more, and last of all: choosing and encoding a message takes its time.
        let next = match message.and_then(|message| self.must_lead().map(|()| message)) {
            Ok(message) => Some(Ok(message)),
            Err(ending) => {
                self.is_over = true;
                ending.into_status().map(Err)
            }
        };
        self.beat.reset();
        next
    }

    fn must_lead(&self) -> Result<(), Ending> {
        let leads = self.leading.leads(Instant::now());
        leads.then_some(()).ok_or(Ending::NotLeading)
    }

    async fn message(&mut self) -> Result<proto::OperatorMessage, Ending> {
        if let Some(heartbeat) = self.welcome.take() {
            return Ok(convert::welcome_to(heartbeat));
        }
        loop {
            // Whatever ended the stream ends it before another state is sent. A leader whose Lease
            // has run out tells nobody what to hold, not even while nobody has noticed yet.
            if let Ok(ending) = self.ending.try_recv() {
                return Err(ending);
            }
            self.must_lead()?;
            if let Some(message) = self.due() {
                return Ok(message);
            }
            tokio::select! {
                // Without a word only when the runtime ends.
                ending = &mut self.ending => return Err(ending.unwrap_or(Ending::Left)),
                changed = self.orders.changed() => if changed.is_err() {
                    return Err(Ending::Forgotten);
                },
                () = answered(&mut self.answered, self.unanswered) => self.unanswered = None,
                _ = self.beat.tick() => return Ok(convert::heartbeat_to()),
            }
        }
    }

    /// What is new since the last message: what opens the sources, and what part of the limits this
    /// door may spend, before what needs them.
    fn due(&mut self) -> Option<proto::OperatorMessage> {
        let Orders { desired, credentials, slices } = self.orders.borrow_and_update().clone();
        if let Some(slices) = slices
            && SLICES_SINCE <= self.version
            && !is_same(self.sent.slices.as_ref(), &slices)
        {
            let message = convert::slices_to(&slices);
            self.sent.slices = Some(slices);
            return Some(message);
        }
        if let Some(credentials) = credentials
            && !is_same(self.sent.credentials.as_ref(), &credentials)
        {
            let message = convert::credentials_to(&credentials);
            self.sent.credentials = Some(credentials);
            return Some(message);
        }
        if self.unanswered.is_some() {
            return None;
        }
        let desired = desired.filter(|desired| !is_same(self.sent.desired.as_ref(), desired))?;
        let message = self.encoder.desired_to(&desired, self.version);
        let generation = desired.generation;
        self.sent.desired = Some(desired);
        let bytes = message.encoded_len();
        if bytes <= OPERATOR_MESSAGE_BYTES_MAX {
            tracing::debug!(node = self.claim.node, generation, bytes, "told");
            let answer = (generation, Instant::now() + ANSWER_WAIT);
            self.unanswered = (ACCEPTED_SINCE <= self.version).then_some(answer);
            return Some(message);
        }
        // Sent again and again it would end every stream; the fleet hears of it instead.
        let Claim { node, id, registry, .. } = &self.claim;
        registry.refused(node, *id, too_large(generation, bytes), Instant::now());
        None
    }
}

/// Returns when the state that has no answer yet has one, or has waited for one long enough.
async fn answered(answered: &mut watch::Receiver<u64>, unanswered: Option<(u64, Instant)>) {
    let Some((generation, until)) = unanswered else { return std::future::pending().await };
    // The half that hears ends the stream by itself, and says why.
    let _ = time::timeout_at(until, answered.wait_for(|answer| generation <= *answer)).await;
}

fn is_same<T>(sent: Option<&Arc<T>>, new: &Arc<T>) -> bool {
    sent.is_some_and(|sent| Arc::ptr_eq(sent, new))
}

/// A desired state that the other end would not take.
fn too_large(generation: u64, bytes: usize) -> Refused {
    let message =
        format!("the desired state has {bytes} bytes; {OPERATOR_MESSAGE_BYTES_MAX} are the most");
    Refused { generation, failure: Failure { reason: "TooLarge".to_owned(), message } }
}
