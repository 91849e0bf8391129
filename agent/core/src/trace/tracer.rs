//! Begins recordings, and hands over those that are whole.

use std::{
    fmt,
    num::NonZeroU128,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use tokio::sync::mpsc;

use super::{
    context::{Parent, TraceId},
    recording::{Finished, Open, Recording},
    sampling::{Extras, Sampling},
    span::SpanName,
};
use crate::name::TenantName;

/// Traces that wait to be exported: what a node that ends a hundred calls a second does in the time
/// of a slow export. Most have some ten spans; with 256 each, of a few hundred bytes, they take
/// twenty megabytes.
const QUEUED_MAX: usize = 256;

/// What recordings need of the world, which nothing here reads by itself.
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    pub now: fn() -> Instant,
    pub date: fn() -> SystemTime,
    /// A number that nobody can foresee, unless the system has none.
    pub draw: fn() -> Option<u128>,
}

/// Begins the recording of calls, or of none. Clones are the same.
#[derive(Clone, Default)]
pub struct Tracer(Option<Arc<Inner>>);

pub(super) struct Inner {
    sampling: Sampling,
    extras: Mutex<Extras>,
    pub(super) outside: Outside,
    sender: mpsc::Sender<Finished>,
    lost: Arc<AtomicU64>,
}

/// Traces that are whole, in the order in which they came to be.
#[derive(Debug)]
pub struct Queue {
    pub finished: mpsc::Receiver<Finished>,
    lost: Arc<AtomicU64>,
}

impl Queue {
    /// Traces that found no room since the last time.
    pub fn take_lost(&self) -> u64 {
        self.lost.swap(0, Ordering::Relaxed)
    }
}

impl Tracer {
    /// One that records nothing.
    pub const OFF: Self = Self(None);

    /// One that records calls as `sampling` says, and where they go.
    pub fn new(sampling: Sampling, outside: Outside) -> (Self, Queue) {
        let (sender, finished) = mpsc::channel(QUEUED_MAX);
        let lost = Arc::new(AtomicU64::new(0));
        let queue = Queue { finished, lost: lost.clone() };
        let extras = Mutex::default();
        (Self(Some(Arc::new(Inner { sampling, extras, outside, sender, lost }))), queue)
    }

    /// Whether anything is recorded at all.
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// The span of a call that came to a door at `arrived`, perhaps with a parent.
    pub fn begin(&self, tenant: &TenantName, parent: Option<&Parent>, arrived: Instant) -> Open {
        let Some(inner) = &self.0 else { return Open::OFF };
        let wanted = parent.map(|parent| parent.is_sampled);
        let Some((chance, seed)) = inner.draw() else { return Open::OFF };
        let now = (inner.outside.now)();
        let mut extras = inner.extras.lock().unwrap_or_else(PoisonError::into_inner);
        if !inner.sampling.takes(tenant, wanted, chance, &mut extras, now) {
            return Open::OFF;
        }
        drop(extras);
        let own = || Some(TraceId(NonZeroU128::new((inner.outside.draw)()?)?));
        let Some(trace) = parent.map(|parent| parent.trace).or_else(own) else { return Open::OFF };
        inner.record(trace, parent.cloned(), seed).open(SpanName::Call, arrived)
    }

    /// The span of a call that another agent hands on, whose door has decided.
    pub fn accept(&self, parent: Option<Parent>) -> Open {
        let recorded = parent.filter(|parent| parent.is_sampled);
        let (Some(inner), Some(parent)) = (&self.0, recorded) else { return Open::OFF };
        let Some((_, seed)) = inner.draw() else { return Open::OFF };
        let now = (inner.outside.now)();
        inner.record(parent.trace, Some(parent), seed).open(SpanName::Serve, now)
    }

    /// Whether the trace of a call that was not even admitted may go out: limits do not keep its
    /// tenant from asking again at once.
    pub fn has_extra(&self, tenant: &TenantName) -> bool {
        let Some(inner) = &self.0 else { return false };
        let mut extras = inner.extras.lock().unwrap_or_else(PoisonError::into_inner);
        extras.take(tenant, (inner.outside.now)())
    }
}

impl Inner {
    /// Two numbers by chance.
    fn draw(&self) -> Option<(u64, u64)> {
        (self.outside.draw)().map(halves)
    }

    fn record(self: &Arc<Self>, trace: TraceId, parent: Option<Parent>, seed: u64) -> Recording {
        let Outside { now, date, draw: _ } = self.outside;
        Recording {
            tracer: self.clone(),
            trace,
            parent,
            anchor: (now(), date()),
            seed,
            count: AtomicU64::new(0),
            spans: Mutex::default(),
            lost: AtomicU64::new(0),
            is_forgotten: AtomicBool::new(false),
        }
    }

    /// Never waits: whoever ends a call has better things to do.
    pub(super) fn send(&self, finished: Finished) {
        if self.sender.try_send(finished).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Both halves of a number.
fn halves(number: u128) -> (u64, u64) {
    let half = |part: u128| u64::try_from(part & u128::from(u64::MAX)).unwrap_or_default();
    (half(number >> 64), half(number))
}

impl fmt::Debug for Tracer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tracer").field(&self.0.as_ref().map(|inner| inner.sampling)).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{
        refusal::Refusal,
        trace::{CANCELLED, Key, Moment, OK, Ratio, Scope, Span, Value, outcome},
    };

    fn draw() -> u128 {
        static DRAWN: AtomicU64 = AtomicU64::new(1);
        u128::from(DRAWN.fetch_add(1, Ordering::Relaxed)) << 32 | 7
    }

    const OUTSIDE: Outside =
        Outside { now: Instant::now, date: SystemTime::now, draw: || Some(draw()) };

    const ALWAYS: Sampling = Sampling { heeds_parent: true, ratio: Ratio::ALL };

    fn tenant() -> TenantName {
        TenantName::parse("default/acme").unwrap()
    }

    fn parent(is_sampled: bool) -> Parent {
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        Parent { is_sampled, ..Parent::parse(text, Some("a=b")).unwrap() }
    }

    fn names(spans: &[Span]) -> Vec<&str> {
        spans.iter().map(|span| span.name.as_str()).collect()
    }

    #[test]
    fn a_trace_goes_out_once_when_nobody_adds_to_it_any_more() {
        let (tracer, mut queue) = Tracer::new(ALWAYS, OUTSIDE);
        let mut call = tracer.begin(&tenant(), None, Instant::now());
        let scope = call.scope();
        let mut program = scope.begin(SpanName::Program);
        let within = program.scope();
        let start = Instant::now();
        within.record(SpanName::Queue, start, start + Duration::from_secs(1), OK);
        program.end(OK);
        call.set(Key::Tenant, "default/acme");
        call.set(Key::Tenant, "default/acme");
        call.mark(Moment::FirstPiece, start);
        call.mark(Moment::FirstPiece, start + Duration::from_secs(1));
        call.end("busy");
        call.end(OK);
        drop((program, call, scope));
        assert!(queue.finished.try_recv().is_err(), "somebody may still add to it");
        drop(within);
        let finished = queue.finished.try_recv().unwrap();
        let [queued, program, call] = &finished.spans[..] else { panic!("{finished:?}") };
        assert_eq!(names(&finished.spans), ["queue", "program", "call"]);
        assert_eq!((queued.parent, program.parent), (Some(program.id), Some(call.id)));
        assert_eq!((call.parent, call.outcome), (None, "busy"));
        assert_eq!(call.attributes, [(Key::Tenant, Value::from("default/acme"))]);
        assert_eq!(call.moments, [(Moment::FirstPiece, start)]);
        assert_eq!(queued.end - queued.start, Duration::from_secs(1));
        assert!(finished.date(queued.end) > finished.date(queued.start));
        assert!(queue.finished.try_recv().is_err());
    }

    #[test]
    fn a_call_goes_on_with_the_trace_of_its_client_and_hands_it_on() {
        let (tracer, mut queue) = Tracer::new(ALWAYS, OUTSIDE);
        let remote = parent(true);
        let call = tracer.begin(&tenant(), Some(&remote), Instant::now());
        let handed_on = call.scope().parent().unwrap();
        assert_eq!((handed_on.trace, handed_on.is_sampled), (remote.trace, true));
        assert_eq!(handed_on.state, "a=b");
        let mut served = tracer.accept(Some(handed_on.clone()));
        served.end(OK);
        drop((served, call));
        let (there, here) =
            (queue.finished.try_recv().unwrap(), queue.finished.try_recv().unwrap());
        assert_eq!((there.trace, here.trace), (remote.trace, remote.trace));
        assert_eq!(there.spans[0].parent, Some(here.spans[0].id));
        assert_eq!(here.spans[0].parent, Some(remote.span));
        assert!(there.spans[0].is_parent_remote && here.spans[0].is_parent_remote);
        assert_eq!((&*there.state, here.spans[0].outcome), ("a=b", CANCELLED));
        assert_ne!(there.spans[0].id, here.spans[0].id);
    }

    #[test]
    fn nothing_is_recorded_where_nobody_asked_for_it() {
        let (tracer, mut queue) = Tracer::new(ALWAYS, OUTSIDE);
        for off in [
            Tracer::OFF.begin(&tenant(), Some(&parent(true)), Instant::now()),
            Tracer::OFF.accept(Some(parent(true))),
            tracer.begin(&tenant(), Some(&parent(false)), Instant::now()),
            tracer.accept(Some(parent(false))),
            tracer.accept(None),
            Scope::OFF.begin(SpanName::Program),
        ] {
            assert!(!off.scope().is_on() && off.scope().parent().is_none());
        }
        assert!(queue.finished.try_recv().is_err());
    }

    #[test]
    fn a_program_that_asks_without_end_loses_spans_and_never_the_calls_own() {
        let (tracer, mut queue) = Tracer::new(ALWAYS, OUTSIDE);
        let mut call = tracer.begin(&tenant(), Some(&parent(true)), Instant::now());
        for _ in 0..1000 {
            call.scope().begin(SpanName::Tokenize).end(OK);
        }
        call.end(OK);
        let finished = queue.finished.try_recv().unwrap();
        let Some((call, rest)) = finished.spans.split_last() else { panic!() };
        assert_eq!((call.name, rest.len()), (SpanName::Call, 256));
        assert_eq!(call.attributes, [(Key::SpansLost, Value::Count(744))]);
    }

    #[test]
    fn a_queue_that_nobody_reads_costs_traces_and_no_time() {
        let (tracer, queue) = Tracer::new(ALWAYS, OUTSIDE);
        for _ in 0..QUEUED_MAX + 5 {
            tracer.begin(&tenant(), None, Instant::now()).end(OK);
        }
        assert_eq!((queue.take_lost(), queue.take_lost()), (5, 0));
    }

    #[test]
    fn a_forgotten_call_leaves_no_trace() {
        let (tracer, mut queue) = Tracer::new(ALWAYS, OUTSIDE);
        let call = tracer.begin(&tenant(), None, Instant::now());
        call.scope().begin(SpanName::Admit).end(OK);
        call.forget();
        assert!(queue.finished.try_recv().is_err());
    }

    #[test]
    fn refused_calls_leave_as_many_traces_as_their_tenants_allowance() {
        let (tracer, _queue) = Tracer::new(ALWAYS, OUTSIDE);
        assert_eq!((0..1000).filter(|_| tracer.has_extra(&tenant())).count(), 60);
        assert!(!Tracer::OFF.has_extra(&tenant()));
    }

    #[test]
    fn an_outcome_is_ok_or_the_refusals_code() {
        assert_eq!(outcome(&Ok(())), OK);
        assert_eq!(outcome::<()>(&Err(Refusal::Draining)), "draining");
    }
}
