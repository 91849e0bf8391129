//! What other agents may ask: to run a call, and what a program can be asked for.

use std::{
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use futures_util::{Stream, stream};
use prost::Message as _;
use realm_core::{
    auth::{self, HandedOn, VerifiedPeer},
    engine::Usage,
    limit,
    name::TenantName,
    refusal::{ProgramLimit, Refusal},
    reply::{Reply, ReplyEvent},
    tenants::Tenants,
    trace::{Key, OK, Open},
};
use realm_proto::peer::{MESSAGE_BYTES_MAX, v1 as proto};
use tokio::{sync::watch, time};
use tonic::{Code, Request, Response, Status};

use super::{client::PeerEvent, convert, door::PeerPorts, trace};

/// Longest time in which a door does not hear what a silent call has spent: what it does not know
/// when the call is cut it cannot charge, and twice a second is nothing beside the tokens.
const SPENT_GAP: Duration = Duration::from_millis(500);

/// Least time between two steps in the middle of an answer that say what this node has in hand: doors
/// believe it for some seconds.
const IN_HAND_GAP: Duration = Duration::from_secs(1);

type Replies = Pin<Box<dyn Stream<Item = Result<proto::CallReply, Status>> + Send>>;

/// Both methods.
pub(super) struct Service {
    ports: PeerPorts,
    draining: watch::Receiver<bool>,
}

impl Service {
    pub(super) const fn new(ports: PeerPorts, draining: watch::Receiver<bool>) -> Self {
        Self { ports, draining }
    }

    /// Whose call it is, by the keys that are known here.
    fn caller<T>(
        &self,
        request: &Request<T>,
        caller: &convert::CallerName,
    ) -> Result<Result<HandedOn, Refusal>, Status> {
        // There is none only where a request came past the door.
        let peer = request.extensions().get::<VerifiedPeer>();
        let peer = peer.ok_or_else(|| Status::unauthenticated("no certificate"))?;
        let roster = self.ports.roster.borrow().clone();
        let convert::CallerName { tenant, key } = caller;
        Ok(auth::from_peer(&roster, peer, tenant, key, unix_now()))
    }

    fn not_here(&self, tenant: &TenantName) -> Status {
        let details = self.ports.tenants.lacks(tenant).map(convert::details_to);
        let details = details.unwrap_or_default().into();
        Status::with_details(Code::FailedPrecondition, "not here", details)
    }

    fn start(&self, request: &Request<proto::CallRequest>) -> Result<Replies, Status> {
        if *self.draining.borrow() {
            return Err(Status::unavailable("draining"));
        }
        let now = Instant::now();
        let forwarded = convert::request_from(request.get_ref().clone(), now)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let convert::Forwarded { caller, mut call, model, left } = forwarded;
        // Before the key: that of a tenant which is new may not be known here yet, and is no reason
        // to refuse its calls for good.
        if !self.ports.tenants.hosts(&caller.tenant, &model) {
            return Err(self.not_here(&caller.tenant));
        }
        let handed_on = match self.caller(request, &caller)? {
            Ok(handed_on) => handed_on,
            Err(Refusal::Starting) => return Err(starting()),
            Err(refusal) => return Ok(refused(refusal)),
        };
        let mut span = self.ports.tracer.accept(trace::read(request.metadata()));
        span.set(Key::Tenant, caller.tenant.as_str());
        span.set(Key::ModelName, model.as_str());
        if let Some(peer) = request.extensions().get::<VerifiedPeer>() {
            span.set(Key::Node, peer.node());
        }
        call.trace = span.scope();
        let admitted = limit::lend(handed_on, call, left, now);
        let spent = admitted.spent();
        let tenants = self.ports.tenants.clone();
        let reply = tenants.start(admitted);
        let (told, told_at, in_hand_at) = (Usage::default(), None, None);
        let has_ended = false;
        let answer = Answer { tenants, reply, span, spent, told, told_at, in_hand_at, has_ended };
        Ok(answer.into_stream())
    }
}

/// One call's answer on its way back.
struct Answer {
    tenants: Arc<dyn Tenants>,
    reply: Reply,
    span: Open,
    spent: watch::Receiver<Usage>,
    /// What the door has been told.
    told: Usage,
    told_at: Option<time::Instant>,
    /// When the door was last told what is in hand here.
    in_hand_at: Option<time::Instant>,
    has_ended: bool,
}

impl Answer {
    fn into_stream(self) -> Replies {
        Box::pin(stream::unfold(self, |mut answer| async move {
            if answer.has_ended {
                return None;
            }
            let reply = answer.next().await;
            Some((Ok(reply), answer))
        }))
    }

    fn end(&mut self, outcome: &'static str) {
        self.has_ended = true;
        self.span.end(outcome);
    }

    async fn next(&mut self) -> proto::CallReply {
        let event = tokio::select! {
            biased;
            // First, since what was spent goes with it.
            event = self.reply.recv() => Some(event.unwrap_or_else(|| {
                tracing::error!("the reply of another agent's call ended without an end");
                ReplyEvent::Failed(Refusal::Internal)
            })),
            () = news(&mut self.spent, self.told, self.told_at) => None,
        };
        match &event {
            Some(ReplyEvent::Done(_)) => self.end(OK),
            Some(ReplyEvent::Failed(refusal)) => self.end(refusal.code()),
            Some(ReplyEvent::Chunk(_)) | None => {}
        }
        self.told = *self.spent.borrow_and_update();
        let now = time::Instant::now();
        self.told_at = Some(now);
        let in_hand = self.in_hand(now);
        let reply = convert::reply_to(PeerEvent { spent: self.told, in_hand, event });
        if reply.encoded_len() <= MESSAGE_BYTES_MAX {
            return reply;
        }
        self.reply.close();
        let max = u64::try_from(MESSAGE_BYTES_MAX).unwrap_or(u64::MAX);
        let refusal = Refusal::ProgramLimit { limit: ProgramLimit::Output, max };
        self.end(refusal.code());
        let event = Some(ReplyEvent::Failed(refusal));
        convert::reply_to(PeerEvent { spent: self.told, in_hand, event })
    }

    /// What is in hand here, where it is time to say so.
    fn in_hand(&mut self, now: time::Instant) -> Option<u32> {
        let is_early = self.in_hand_at.is_some_and(|at| now < at + IN_HAND_GAP);
        if is_early && !self.has_ended {
            return None;
        }
        self.in_hand_at = Some(now);
        Some(self.tenants.in_hand())
    }
}

/// Returns when the door should be told what was spent although nothing else has happened: at once
/// where a prompt is now paid for, or turns out to have been in the cache, and otherwise now and
/// then.
async fn news(spent: &mut watch::Receiver<Usage>, told: Usage, told_at: Option<time::Instant>) {
    let is_prompt = |spent: &Usage| {
        (spent.prompt_tokens, spent.cached_tokens) != (told.prompt_tokens, told.cached_tokens)
    };
    let is_new = spent.wait_for(|spent| *spent != told).await.map(|spent| is_prompt(&spent));
    match is_new {
        Ok(true) => {}
        Ok(false) => {
            let due = told_at.unwrap_or_else(time::Instant::now) + SPENT_GAP;
            let is_over = async { spent.wait_for(is_prompt).await.is_err() };
            tokio::select! {
                () = time::sleep_until(due) => {}
                is_over = is_over => if is_over {
                    std::future::pending::<()>().await;
                },
            }
        }
        // The call is over; its end comes as an event.
        Err(_) => std::future::pending().await,
    }
}

/// The key may be a good one, which another node knows.
fn starting() -> Status {
    Status::unavailable("starting")
}

fn refused(refusal: Refusal) -> Replies {
    let event = Some(ReplyEvent::Failed(refusal));
    let reply = convert::reply_to(PeerEvent { event, ..PeerEvent::default() });
    Box::pin(stream::once(std::future::ready(Ok(reply))))
}

#[tonic::async_trait]
impl proto::peer_server::Peer for Service {
    type CallStream = Replies;

    async fn call(
        &self,
        request: Request<proto::CallRequest>,
    ) -> Result<Response<Self::CallStream>, Status> {
        self.start(&request).map(Response::new)
    }

    async fn describe(
        &self,
        request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::DescribeReply>, Status> {
        let name = convert::caller_from(request.get_ref().caller.clone())
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let handed_on = self.caller(&request, &name)?;
        let handed_on = handed_on.map_err(|refusal| match refusal {
            Refusal::Starting => starting(),
            refusal => Status::unauthenticated(refusal.to_string()),
        })?;
        let functions = self.ports.tenants.functions(handed_on.caller()).await;
        if functions.is_empty() {
            return Err(Status::failed_precondition("not here"));
        }
        Ok(Response::new(convert::functions_to(functions)))
    }
}

/// Seconds since the Unix epoch. A clock before it lets no key in that ever expires.
fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(u64::MAX, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_door_hears_of_prompts_and_of_what_was_cached_at_once_and_of_the_rest_in_time() {
        let told = Usage { prompt_tokens: 50, cached_tokens: 0, completion_tokens: 1 };
        let (spends, mut spent) = watch::channel(told);
        let told_at = Some(time::Instant::now());
        for (now, is_heard) in [
            (told, false),
            (Usage { completion_tokens: 2, ..told }, false),
            (Usage { cached_tokens: 20, ..told }, true),
            (Usage { prompt_tokens: 51, ..told }, true),
        ] {
            spends.send_replace(now);
            let heard = news(&mut spent, told, told_at).now_or_never();
            assert_eq!(heard.is_some(), is_heard, "{now:?}");
        }
    }
}
