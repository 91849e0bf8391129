//! The spans of one call in one process, gathered until nobody adds any more.

use std::{
    fmt,
    num::NonZeroU64,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

use super::{
    context::{Parent, SpanId, TraceId},
    span::{CANCELLED, Key, Moment, Span, SpanName, Value},
    tracer::Inner,
};

/// Spans kept of one recording, besides its first: a pipeline has sixteen steps at most, each of
/// which leaves some ten. Beyond that they are counted; a program may ask its host without end.
const SPANS_MAX: usize = 256;

/// A trace's part in this process, once it is whole.
#[derive(Debug)]
pub struct Finished {
    pub trace: TraceId,
    /// The client's `tracestate`.
    pub state: String,
    pub spans: Vec<Span>,
    anchor: (Instant, SystemTime),
}

impl Finished {
    /// The date of a moment in the recording.
    pub fn date(&self, at: Instant) -> SystemTime {
        let (then, date) = self.anchor;
        let after = date.checked_add(at.saturating_duration_since(then));
        after
            .and_then(|after| after.checked_sub(then.saturating_duration_since(at)))
            .unwrap_or(date)
    }
}

/// The span that new ones become children of, or none where nothing is recorded.
#[derive(Clone, Default)]
pub struct Scope(Option<At>);

#[derive(Clone)]
struct At {
    recording: Arc<Recording>,
    span: SpanId,
}

/// A span under way. Dropped before its end, its work was cancelled.
#[derive(Default)]
pub struct Open(Option<Box<Opened>>);

struct Opened {
    at: At,
    parent: Option<SpanId>,
    name: SpanName,
    start: Instant,
    attributes: Vec<(Key, Value)>,
    moments: Vec<(Moment, Instant)>,
}

pub(super) struct Recording {
    pub(super) tracer: Arc<Inner>,
    pub(super) trace: TraceId,
    pub(super) parent: Option<Parent>,
    pub(super) anchor: (Instant, SystemTime),
    /// The number that the names of its spans are made from.
    pub(super) seed: u64,
    pub(super) count: AtomicU64,
    pub(super) spans: Mutex<Vec<Span>>,
    pub(super) lost: AtomicU64,
    pub(super) is_forgotten: AtomicBool,
}

impl Scope {
    /// Where nothing is recorded.
    pub const OFF: Self = Self(None);

    /// A span that begins now.
    pub fn begin(&self, name: SpanName) -> Open {
        let now = |at: &At| (at.recording.tracer.outside.now)();
        self.0.as_ref().map_or(Open(None), |at| at.open(name, now(at)))
    }

    /// A span that has ended already.
    pub fn record(&self, name: SpanName, start: Instant, end: Instant, outcome: &'static str) {
        if let Some(at) = &self.0
            && let Some(mut opened) = at.open(name, start).0.take()
        {
            opened.close(end, outcome);
        }
    }

    /// The span, for whoever goes on with the trace elsewhere.
    pub fn parent(&self) -> Option<Parent> {
        let At { recording, span } = self.0.as_ref()?;
        let state = recording.parent.as_ref().map(|parent| parent.state.clone());
        let state = state.unwrap_or_default();
        Some(Parent { trace: recording.trace, span: *span, is_sampled: true, state })
    }

    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }
}

impl At {
    fn open(&self, name: SpanName, start: Instant) -> Open {
        let parent = Some(self.span);
        let at = Self { recording: self.recording.clone(), span: self.recording.name_span() };
        let (attributes, moments) = (Vec::new(), Vec::new());
        Open(Some(Box::new(Opened { at, parent, name, start, attributes, moments })))
    }
}

impl Recording {
    /// Its first span, which has no parent here.
    pub(super) fn open(self, name: SpanName, start: Instant) -> Open {
        let span = self.name_span();
        let at = At { recording: Arc::new(self), span };
        let (attributes, moments) = (Vec::new(), Vec::new());
        Open(Some(Box::new(Opened { at, parent: None, name, start, attributes, moments })))
    }

    fn name_span(&self) -> SpanId {
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        SpanId(NonZeroU64::new(mix(self.seed.wrapping_add(count))).unwrap_or(NonZeroU64::MIN))
    }

    fn keep(&self, span: Span) {
        let mut spans = self.spans.lock().unwrap_or_else(PoisonError::into_inner);
        // The first comes last, and what it says of the call is wanted most.
        if spans.len() < SPANS_MAX || span.parent.is_none() || span.is_parent_remote {
            spans.push(span);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A number that looks like chance, and another one for every other number (splitmix64).
const fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

impl Drop for Recording {
    fn drop(&mut self) {
        let spans = std::mem::take(&mut *self.spans.lock().unwrap_or_else(PoisonError::into_inner));
        if spans.is_empty() || self.is_forgotten.load(Ordering::Relaxed) {
            return;
        }
        let state = self.parent.take().map(|parent| parent.state).unwrap_or_default();
        let finished = Finished { trace: self.trace, state, spans, anchor: self.anchor };
        self.tracer.send(finished);
    }
}

impl Open {
    /// Where nothing is recorded.
    pub const OFF: Self = Self(None);

    /// What is done within the span.
    pub fn scope(&self) -> Scope {
        Scope(self.0.as_ref().map(|opened| opened.at.clone()))
    }

    /// Says something of the work, or says it anew.
    pub fn set(&mut self, key: Key, value: impl Into<Value>) {
        if let Some(opened) = &mut self.0 {
            opened.set(key, value.into());
        }
    }

    /// Notes when something happened, the first time.
    pub fn mark(&mut self, moment: Moment, at: Instant) {
        if let Some(opened) = &mut self.0
            && !opened.moments.iter().any(|(known, _)| *known == moment)
        {
            opened.moments.push((moment, at));
        }
    }

    /// Ends the span now. The first end counts.
    pub fn end(&mut self, outcome: &'static str) {
        if let Some(mut opened) = self.0.take() {
            let now = (opened.at.recording.tracer.outside.now)();
            opened.close(now, outcome);
        }
    }

    /// Leaves nothing of this span; of the first one, nothing of the whole trace.
    pub fn forget(mut self) {
        if let Some(opened) = self.0.take()
            && opened.parent.is_none()
        {
            opened.at.recording.is_forgotten.store(true, Ordering::Relaxed);
        }
    }
}

impl Opened {
    fn set(&mut self, key: Key, value: Value) {
        match self.attributes.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => *known = value,
            None => self.attributes.push((key, value)),
        }
    }

    fn close(&mut self, end: Instant, outcome: &'static str) {
        let At { recording, span } = &self.at;
        let remote = recording.parent.as_ref().filter(|_| self.parent.is_none());
        let lost = recording.lost.load(Ordering::Relaxed);
        let (id, recording) = (*span, recording.clone());
        let (parent, is_parent_remote) = match remote {
            Some(parent) => (Some(parent.span), true),
            None => (self.parent, false),
        };
        if self.parent.is_none() && lost > 0 {
            self.set(Key::SpansLost, Value::Count(lost));
        }
        recording.keep(Span {
            id,
            parent,
            is_parent_remote,
            name: self.name,
            start: self.start,
            end: end.max(self.start),
            outcome,
            attributes: std::mem::take(&mut self.attributes),
            moments: std::mem::take(&mut self.moments),
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.end(CANCELLED);
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scope").field(&self.parent()).finish()
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Open").field(&self.0.as_ref().map(|opened| opened.name)).finish()
    }
}
