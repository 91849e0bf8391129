//! One call on its way: tried at one node after the other, held while its model is nowhere, and
//! brought back event by event.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use realm_core::{
    call::Deadline,
    desired::Peer,
    limit::{Admitted, Lacks},
    name::{ModelName, TenantName},
    refusal::Refusal,
    reply::{Done, ReplyEvent, ReplySender},
    report,
    tenants::Tenants as _,
    trace::{self, Key, OK, Open, SpanName},
};
use realm_link::peer::{PeerError, PeerEvent, PeerReply};
use realm_runtime::{End, deliver};
use tokio::{sync::watch, time};

use super::{
    Inner,
    bill::Bill,
    choose::{Beginning, OneInHand, choose},
    figures::Outcome,
    hold::Held,
    look::{Look, Routes},
    need::Need,
    tried::Tried,
};

/// Longest wait for a model that nobody serves yet: a model of some tens of gigabytes comes from a
/// node's own disk in that time, and proxies in front of doors give up an answer that has not
/// begun after a minute.
const HOLD_MAX: Duration = Duration::from_mins(1);

/// The wait before nodes that did not take a call are asked again: a node that has loaded a model
/// may still compile the tenant's program, which takes about a second, and nobody says when.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// What a client should wait when every node that has its model has as many calls of this door as
/// it takes: of hundreds that take seconds some end within one.
const FULL_RETRY_MS: u64 = 1000;

/// How long beyond a deadline its node may take to say that it is over: the way there and back.
const DEADLINE_GRACE: Duration = Duration::from_secs(2);

/// Bytes of a name that comes back to whoever sent it: one paragraph.
const ALIAS_BYTES_MAX: usize = 1 << 10;

/// Nodes that did not take a call and are named in its trace: a minute's worth of them would leave
/// no room for the one that does.
const NOT_TAKEN_TRACED_MAX: u32 = 8;

/// How the span of a node that did not take a call ends.
const NOT_TAKEN: &str = "not_taken";

/// A call that is not served on this node, as it seems.
pub(super) struct Passage {
    door: Arc<Inner>,
    routes: watch::Receiver<Arc<Routes>>,
    /// A call may come to be served here meanwhile.
    arrivals: watch::Receiver<()>,
    need: Need,
    sender: ReplySender,
    tried: Tried,
    held: Option<Waiting>,
    not_taken: u32,
    bill: Bill,
}

/// A place among the calls that wait.
struct Waiting {
    _held: Held,
    since: Instant,
    span: Open,
}

/// How one step of a passage went.
enum Step {
    /// It is served on this node after all.
    Here,
    Ended(Result<Done, Refusal>),
    /// Look again.
    Again,
}

/// How the answer of one node ended.
enum Answered {
    Ended(Result<Done, Refusal>),
    /// It broke off before anything had reached the client.
    NotBegun(PeerError),
    Cut(PeerError),
}

impl Passage {
    pub(super) fn new(
        door: Arc<Inner>,
        routes: watch::Receiver<Arc<Routes>>,
        need: Need,
        sender: ReplySender,
    ) -> Self {
        let arrivals = door.runtime.arrivals();
        let (tried, held, not_taken, bill) = (Tried::default(), None, 0, Bill::default());
        Self { door, routes, arrivals, need, sender, tried, held, not_taken, bill }
    }

    /// Takes the call to its end. What it holds is given back before its end is told.
    pub(super) async fn run(mut self, call: Admitted, end: End) {
        let asked = call.call().deadline;
        let ended = loop {
            match self.step(&call).await {
                Step::Again => {}
                Step::Ended(ended) => break ended,
                Step::Here => {
                    self.has_waited(OK);
                    self.bill.move_on(&call);
                    let Self { door, sender, .. } = self;
                    return door.runtime.start_into(call, sender, end);
                }
            }
            if let Some(deadline) = asked.filter(|deadline| deadline.is_over(Instant::now())) {
                break Err(deadline.refusal());
            }
        };
        self.has_waited(trace::outcome(&ended));
        self.bill.settle(&call, &ended, Instant::now());
        drop((call, self.held.take()));
        end.send(ended);
    }

    async fn step(&mut self, call: &Admitted) -> Step {
        let tenant = call.caller().tenant();
        // Before the look, so that what comes after it is not missed.
        self.arrivals.mark_unchanged();
        let routes = self.routes.borrow_and_update().clone();
        if self.need.models.iter().any(|model| self.door.runtime.hosts(tenant, model)) {
            return Step::Here;
        }
        let look = if self.tried.may_ask() {
            routes.look(&self.need, self.tried.peers())
        } else {
            Look::Nowhere
        };
        match (look, self.lacks(tenant)) {
            (Look::There(model, peers), _) => {
                let group = call.caller().rights().share_group.as_ref();
                let beginning = Beginning::of((tenant, group), model, &call.call().params);
                let now = Instant::now();
                let chosen = choose(&peers, beginning, |peer| self.door.in_hand.of(peer, now));
                match chosen.cloned() {
                    Some(peer) => self.ask(call, &peer, &model.clone()).await,
                    None => Step::Ended(Err(Refusal::Busy { retry_after_ms: FULL_RETRY_MS })),
                }
            }
            // There is nobody left to ask.
            (Look::Coming(_) | Look::Nowhere, Some(refusal)) => Step::Ended(Err(refusal)),
            (Look::Coming(model), None) => self.wait(call, &model.clone()).await,
            (Look::Nowhere, None) if !self.tried.is_empty() && self.need.may_wait => {
                let model = self.need.models.first().cloned();
                match model {
                    Some(model) => self.wait(call, &model).await,
                    None => Step::Ended(Err(self.not_ready("it is on no node"))),
                }
            }
            (Look::Nowhere, None) => self.nowhere(call),
        }
    }

    /// Nobody has the model, and nobody is about to.
    fn nowhere(&self, call: &Admitted) -> Step {
        let (runtime, tenant) = (&self.door.runtime, call.caller().tenant());
        if runtime.has_program(tenant) || runtime.awaits_program(tenant).is_some() {
            // The program, or why it is not here, or the state of the model here, knows better what
            // to say.
            return Step::Here;
        }
        if self.need.may_wait {
            return Step::Ended(Err(self.not_ready("it is on no node")));
        }
        let mut alias = self.need.alias.clone();
        alias.truncate(alias.floor_char_boundary(ALIAS_BYTES_MAX));
        Step::Ended(Err(Refusal::UnknownModel(alias)))
    }

    /// What keeps the tenant's program from every node that could serve the call, where nothing else
    /// is to be waited for.
    fn lacks(&self, tenant: &TenantName) -> Option<Refusal> {
        if !self.tried.none_at_fault() {
            return None;
        }
        let own = || self.door.runtime.lacks(tenant).filter(|_| self.has_model());
        self.tried.last_lack().cloned().or_else(own)
    }

    /// Whether a model that the call could do with is on this node, if not its tenant's program.
    fn has_model(&self) -> bool {
        self.need.models.iter().any(|model| self.door.runtime.context(model).is_some())
    }

    /// What was waited for in vain.
    fn too_late(&self, tenant: &TenantName) -> Refusal {
        let program = self.door.runtime.awaits_program(tenant).filter(|_| self.has_model());
        program.unwrap_or_else(|| self.not_ready("it was not loaded in time"))
    }

    fn not_ready(&self, reason: &str) -> Refusal {
        Refusal::ModelNotReady { model: self.need.alias.clone(), reason: reason.to_owned() }
    }

    /// Waits until something may have changed for the better.
    async fn wait(&mut self, call: &Admitted, model: &ModelName) -> Step {
        let since = match &self.held {
            Some(waiting) => waiting.since,
            None => match self.door.hold.take(call.caller().tenant(), model) {
                Ok(held) => {
                    let since = Instant::now();
                    let mut span = call.call().trace.begin(SpanName::Hold);
                    span.set(Key::ModelName, model.as_str());
                    self.held = Some(Waiting { _held: held, since, span });
                    since
                }
                Err(refusal) => return Step::Ended(Err(refusal)),
            },
        };
        let given_up = time::Instant::from(since) + HOLD_MAX;
        let deadline = call.call().deadline.map(|deadline| deadline.at().into());
        let again = (!self.tried.is_empty()).then(|| time::Instant::now() + ASK_AGAIN);
        self.tried.clear();
        tokio::select! {
            biased;
            // First, so that nobody is asked in vain for a client that has gone.
            () = self.sender.closed() => Step::Ended(Err(Refusal::Cancelled)),
            () = time::sleep_until(given_up) => {
                Step::Ended(Err(self.too_late(call.caller().tenant())))
            }
            // An error means that nothing will ever change, which the time ends.
            Ok(()) = self.routes.changed() => Step::Again,
            Ok(()) = self.arrivals.changed() => Step::Again,
            () = sleep_until(again) => Step::Again,
            () = sleep_until(deadline) => Step::Again,
        }
    }

    /// Hands the call to one node.
    async fn ask(&mut self, call: &Admitted, peer: &Peer, model: &ModelName) -> Step {
        if self.sender.is_closed() {
            return Step::Ended(Err(Refusal::Cancelled));
        }
        let place = self.door.in_hand.add(peer, Instant::now());
        let mut span = call.call().trace.begin(SpanName::Forward);
        span.set(Key::Node, peer.node.as_str());
        span.set(Key::ModelName, model.as_str());
        let scope = span.scope();
        // Before the node is told what the tenant has left.
        self.bill.move_on(call);
        let taken = tokio::select! {
            () = self.sender.closed() => {
                return self.ended(Outcome::Cancelled, Err(Refusal::Cancelled));
            }
            taken = self.door.peers.call(peer, call, model, &scope) => taken,
        };
        let answered = match taken {
            Ok(reply) => {
                // It does not wait any more.
                self.has_waited(OK);
                let held = self.held.take();
                let answered = self.answer(call, reply, place).await;
                if let Answered::NotBegun(_) = answered {
                    self.held = held;
                }
                answered
            }
            Err(error) => Answered::NotBegun(error),
        };
        self.leave(span, &answered);
        match answered {
            Answered::Ended(Ok(done)) => self.ended(Outcome::Served, Ok(done)),
            Answered::Ended(Err(Refusal::Cancelled)) => {
                self.ended(Outcome::Cancelled, Err(Refusal::Cancelled))
            }
            Answered::Ended(Err(refusal)) => self.ended(Outcome::Refused, Err(refusal)),
            Answered::Cut(error) => {
                let cause = report::chain(&error);
                tracing::debug!(peer = peer.node, cause, "an answer was cut");
                self.ended(Outcome::Cut, Err(Refusal::Moved))
            }
            Answered::NotBegun(error) if !error.is_passing() => {
                let cause = report::chain(&error);
                tracing::error!(peer = peer.node, cause, "a peer does not understand a call");
                self.ended(Outcome::Refused, Err(Refusal::Internal))
            }
            Answered::NotBegun(error) => {
                let cause = report::chain(&error);
                tracing::debug!(peer = peer.node, cause, "a peer did not take a call");
                self.door.figures.count(Outcome::NotTaken);
                self.tried.add(peer.clone(), error.lacks());
                Step::Again
            }
        }
    }

    /// Ends the span of a node that was asked.
    fn leave(&mut self, mut span: Open, answered: &Answered) {
        let outcome = match answered {
            Answered::Ended(ended) => trace::outcome(ended),
            Answered::Cut(_) => Refusal::Moved.code(),
            Answered::NotBegun(_) => {
                self.not_taken = self.not_taken.saturating_add(1);
                if self.not_taken > NOT_TAKEN_TRACED_MAX {
                    return span.forget();
                }
                NOT_TAKEN
            }
        };
        span.end(outcome);
    }

    /// Ends the span of the wait, if there is one.
    fn has_waited(&mut self, outcome: &'static str) {
        if let Some(waiting) = &mut self.held {
            waiting.span.end(outcome);
        }
    }

    fn ended(&self, outcome: Outcome, ended: Result<Done, Refusal>) -> Step {
        self.door.figures.count(outcome);
        Step::Ended(ended)
    }

    /// Brings the answer to the client and charges what it costs.
    async fn answer(
        &mut self,
        call: &Admitted,
        mut reply: PeerReply,
        place: OneInHand,
    ) -> Answered {
        let answered = self.bring(call, &mut reply, &place).await;
        match answered {
            Answered::NotBegun(_) => self.bill.lose(),
            // What was computed before the client was slow or gone, or the call was over.
            Answered::Ended(Err(_)) => {
                if let Some(spent) = reply.take_unread() {
                    // It goes on nowhere.
                    let _ = self.bill.pay(call, spent, Instant::now());
                }
            }
            Answered::Ended(Ok(_)) | Answered::Cut(_) => {}
        }
        answered
    }

    /// Brings the answer to the client, and pays what it costs as that becomes known.
    async fn bring(
        &mut self,
        call: &Admitted,
        reply: &mut PeerReply,
        place: &OneInHand,
    ) -> Answered {
        let limits = &call.caller().rights().limits.program;
        let whole = Deadline::after(Instant::now(), limits.deadline_ms);
        let deadline = call.call().deadline.map_or(whole, |asked| asked.earliest(whole));
        let patience = time::sleep_until((deadline.at() + DEADLINE_GRACE).into());
        tokio::pin!(patience);
        let mut has_begun = false;
        loop {
            let heard = tokio::select! {
                () = self.sender.closed() => return Answered::Ended(Err(Refusal::Cancelled)),
                () = &mut patience => return Answered::Ended(Err(deadline.refusal())),
                heard = reply.next() => heard,
            };
            let PeerEvent { spent, in_hand, event } = match heard {
                Ok(event) => event,
                Err(error) if has_begun => return Answered::Cut(error),
                Err(error) => return Answered::NotBegun(error),
            };
            let now = Instant::now();
            if let Some(in_hand) = in_hand {
                place.hear(in_hand, now);
            }
            let may_go_on = self.bill.pay(call, spent, now);
            let went_on = match event {
                // It is over, and whole: but what was made of a prompt that is not paid for, and
                // comes with its end, is nobody's.
                Some(ReplyEvent::Done(done)) if has_begun || may_go_on.is_ok() => {
                    return Answered::Ended(Ok(done));
                }
                Some(ReplyEvent::Failed(refusal)) => {
                    let is_at_it = has_begun || self.bill.has_prompt();
                    let lacks = if is_at_it { Lacks::Answer } else { Lacks::Prompt };
                    Err(here((call, lacks), refusal, may_go_on.err(), now))
                }
                Some(ReplyEvent::Chunk(chunk)) if may_go_on.is_ok() => {
                    has_begun = true;
                    deliver(&self.sender, chunk).await
                }
                Some(ReplyEvent::Chunk(_) | ReplyEvent::Done(_)) | None => may_go_on,
            };
            if let Err(refusal) = went_on {
                return Answered::Ended(Err(refusal));
            }
        }
    }
}

/// How a refusal of a call's node is told here. Of tokens the node knows how many are needed, and
/// this door how many are left: who waits for the longer of their times finds them.
fn here(
    (call, lacks): (&Admitted, Lacks),
    refusal: Refusal,
    own: Option<Refusal>,
    now: Instant,
) -> Refusal {
    match refusal {
        Refusal::TooManyTokens { .. } => {
            let is_counted = own.is_some();
            let left = if is_counted { call.check(now) } else { call.check_from_afar(lacks, now) };
            let own = own.into_iter().chain(left.err());
            own.fold(refusal, |longest, own| {
                if own.retry_after_ms() > longest.retry_after_ms() { own } else { longest }
            })
        }
        refusal => refusal,
    }
}

async fn sleep_until(at: Option<time::Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
