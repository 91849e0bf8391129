//! What this agent says: a hello and the slices that it holds, then what became of the newest state,
//! and the newest report, supply, uses and spends whenever they are new. Last, what tenants have used
//! by the agent's end.
//!
//! There is no queue. The next message is chosen when there is room for it, so an operator that is
//! slow to read hears the newest and not everything.

use std::time::Duration;

use futures_util::{Stream, stream};
use realm_core::{report::Report, slices::Spends, supply::Supply, uses::TenantUse};
use realm_proto::link::{
    v1 as proto,
    versions::{ACCEPTED_SINCE, SLICES_SINCE, USES_SINCE},
};
use tokio::{
    sync::watch,
    time::{self, Instant, Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::Feeds;
use crate::convert;

/// Least time between two reports: progress moves ten times a second, and a person who watches an
/// object sees no difference above four.
const REPORT_GAP: Duration = Duration::from_millis(250);

/// Least time between two supplies: queues and caches change with every call, and whoever places
/// models looks at them every few seconds.
const SUPPLY_GAP: Duration = Duration::from_secs(1);

/// Least time between two tellings of what tenants have used, which names all that have: they are
/// written into statuses once a minute, and what is not told when an agent is killed is lost.
const USES_GAP: Duration = Duration::from_secs(5);

/// Least time between two tellings of what is used: they answer slices, which other doors wait for.
const SPENDS_GAP: Duration = Duration::from_millis(100);

/// Least time between two refusals: an operator that sends one bad state after the other need not
/// hear of each.
const REFUSED_GAP: Duration = Duration::from_millis(100);

/// What both ends keep to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Agreed {
    pub(super) heartbeat: Duration,
    /// Of the link.
    pub(super) version: u32,
}

/// What is said first, and once.
pub(super) struct First {
    pub(super) hello: proto::Hello,
    /// To operators that lease slices.
    pub(super) holds: proto::Slices,
}

/// What became of the states that this stream brought.
pub(super) struct Answers {
    /// The generation that the ledger took last.
    pub(super) accepted: watch::Receiver<u64>,
    pub(super) refused: watch::Receiver<Option<proto::Refused>>,
}

/// The messages of one stream. What both ends keep to is known when the operator has welcomed the
/// agent, and until then only the hello is said.
pub(super) fn messages(
    first: First,
    feeds: Feeds,
    answers: Answers,
    agreed: watch::Receiver<Option<Agreed>>,
    ending: CancellationToken,
) -> impl Stream<Item = proto::AgentMessage> + Send + 'static {
    let Feeds { report, supply, uses, spends } = feeds;
    let First { hello, holds } = first;
    let outbound = Outbound {
        hello: Some(hello),
        holds: Some(holds),
        agreed,
        ending,
        is_over: false,
        beat: None,
        version: 0,
        accepted: answers.accepted,
        refused: Feed::new(answers.refused, REFUSED_GAP),
        report: Feed::new(report, REPORT_GAP),
        supply: Feed::new(supply, SUPPLY_GAP),
        uses: Feed::new(uses, USES_GAP),
        spends: Feed::new(spends, SPENDS_GAP),
    };
    stream::unfold(outbound, |mut outbound| async move {
        let message = Some(outbound.next().await?);
        Some((proto::AgentMessage { message }, outbound))
    })
}

struct Outbound {
    /// Until it has been said.
    hello: Option<proto::Hello>,
    holds: Option<proto::Slices>,
    agreed: watch::Receiver<Option<Agreed>>,
    /// The agent's end, and whether the last has been said.
    ending: CancellationToken,
    is_over: bool,
    beat: Option<Interval>,
    /// Of the link; 0 before it is agreed. An operator of an older one than [`ACCEPTED_SINCE`] would
    /// end the stream with an answer.
    version: u32,
    /// Told without a gap, since the operator waits for it and sends no other state meanwhile.
    accepted: watch::Receiver<u64>,
    refused: Feed<Option<proto::Refused>>,
    report: Feed<Report>,
    supply: Feed<Supply>,
    uses: Feed<Vec<TenantUse>>,
    spends: Feed<Spends>,
}

impl Outbound {
    /// The next message; none once the session or the agent has ended.
    async fn next(&mut self) -> Option<proto::agent_message::Message> {
        if self.is_over {
            return None;
        }
        if let Some(hello) = self.hello.take() {
            return Some(proto::agent_message::Message::Hello(hello));
        }
        let beat = match &mut self.beat {
            Some(beat) => beat,
            beat => {
                let agreed = (*self.agreed.wait_for(Option::is_some).await.ok()?)?;
                self.version = agreed.version;
                beat.insert(beats(agreed.heartbeat))
            }
        };
        let [is_answered, is_sliced, tells_uses] =
            [ACCEPTED_SINCE, SLICES_SINCE, USES_SINCE].map(|since| since <= self.version);
        if is_sliced && let Some(holds) = self.holds.take() {
            return Some(proto::agent_message::Message::Holds(holds));
        }
        loop {
            tokio::select! {
                // The session has ended. Without this, HTTP/2 would go on asking for messages,
                // and the operator would believe in an agent that does not listen.
                Err(_) = self.agreed.changed() => return None,
                () = self.ending.cancelled() => {
                    self.is_over = true;
                    let uses = tells_uses.then(|| convert::uses_to(&self.uses.take()));
                    return uses.map(proto::agent_message::Message::Uses);
                }
                Ok(()) = self.accepted.changed(), if is_answered => {
                    let generation = *self.accepted.borrow_and_update();
                    let accepted = proto::Accepted { generation };
                    return Some(proto::agent_message::Message::Accepted(accepted));
                }
                () = self.refused.ready() => if let Some(refused) = self.refused.take().clone() {
                    return Some(proto::agent_message::Message::Refused(refused));
                },
                () = self.spends.ready(), if is_sliced => {
                    let spends = convert::spends_to(&self.spends.take());
                    return Some(proto::agent_message::Message::Spends(spends));
                }
                () = self.report.ready() => {
                    let report = convert::report_to(&self.report.take());
                    return Some(proto::agent_message::Message::Report(report));
                }
                () = self.supply.ready() => {
                    let supply = convert::supply_to(&self.supply.take());
                    return Some(proto::agent_message::Message::Supply(supply));
                }
                () = self.uses.ready(), if tells_uses => {
                    let uses = convert::uses_to(&self.uses.take());
                    return Some(proto::agent_message::Message::Uses(uses));
                }
                _ = beat.tick() => {
                    let supply = convert::supply_to(&self.supply.take());
                    return Some(proto::agent_message::Message::Supply(supply));
                }
            }
        }
    }
}

fn beats(every: Duration) -> Interval {
    let mut beats = time::interval_at(Instant::now() + every, every);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

/// A value that is told when it is new, and not too often.
struct Feed<T> {
    values: watch::Receiver<T>,
    /// Whether the newest value is still to be told.
    is_new: bool,
    told_at: Option<Instant>,
    gap: Duration,
}

impl<T> Feed<T> {
    /// What there is at the start is new to this operator.
    const fn new(values: watch::Receiver<T>, gap: Duration) -> Self {
        Self { values, is_new: true, told_at: None, gap }
    }

    /// Returns when a value is to be told. May be dropped and called again at any time.
    async fn ready(&mut self) {
        if !self.is_new {
            if self.values.changed().await.is_err() {
                // Whoever said these values has ended; the last one stays true.
                return std::future::pending().await;
            }
            self.is_new = true;
        }
        if let Some(told_at) = self.told_at {
            time::sleep_until(told_at + self.gap).await;
        }
    }

    /// The newest value, which is told with this.
    fn take(&mut self) -> watch::Ref<'_, T> {
        self.is_new = false;
        self.told_at = Some(Instant::now());
        self.values.borrow_and_update()
    }
}
