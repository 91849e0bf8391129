//! What the door says of a call in its trace: whose it is, what it asks, how it ended.

use std::{convert::Infallible, time::Instant};

use axum::extract::FromRequestParts;
use http::{HeaderMap, request::Parts};
use realm_core::{
    auth::Caller,
    call::{Call, CallId},
    desired::DesiredTenant,
    engine::Finish,
    refusal::Refusal,
    reply::Done,
    trace::{CANCELLED, Key, Moment, OK, Open, Parent, SpanName, Tracer},
};
use realm_proto::ws::ID_BYTES_MAX;

use crate::metrics;

/// How a call came in, and when.
#[derive(Clone, Debug)]
pub(crate) struct Arrival {
    door: &'static str,
    parent: Option<Parent>,
    at: Instant,
}

impl Arrival {
    /// By a frame on a socket.
    pub(crate) fn by_socket(parent: Option<Parent>) -> Self {
        Self { door: "websocket", parent, at: Instant::now() }
    }

    fn by_http(headers: &HeaderMap) -> Self {
        Self { door: "http", parent: parent(headers), at: Instant::now() }
    }
}

impl<S: Sync> FromRequestParts<S> for Arrival {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::by_http(&parts.headers))
    }
}

/// The span that a request says it belongs to; two are as good as none.
pub(crate) fn parent(headers: &HeaderMap) -> Option<Parent> {
    let mut parents = headers.get_all("traceparent").iter();
    let parent = parents.next().filter(|_| parents.next().is_none())?;
    let states = headers.get_all("tracestate").iter().filter_map(|state| state.to_str().ok());
    let state = states.collect::<Vec<_>>().join(",");
    Parent::parse(parent.to_str().ok()?, Some(&state))
}

/// Begins the trace of a call that is about to be admitted, and lets it leave spans.
pub(crate) fn begin(
    tracer: &Tracer,
    arrival: &Arrival,
    caller: &Caller,
    call: &mut Call,
) -> CallSpan {
    let mut span = tracer.begin(caller.tenant(), arrival.parent.as_ref(), arrival.at);
    call.trace = span.scope();
    if call.trace.is_on() {
        span.set(Key::Tenant, caller.tenant().as_str());
        span.set(Key::Door, arrival.door);
        if let Some(id) = shown(&call.id) {
            span.set(Key::Call, id);
        }
        describe(&mut span, caller.rights(), call);
    }
    CallSpan { span, outcome: CANCELLED }
}

/// The id of a call, if whoever reads traces can be shown it: on a socket it is its client's own
/// word. Others leave no id, for what is cut or altered might be that of another call.
fn shown(id: &CallId) -> Option<&str> {
    let is_shown = |byte| matches!(byte, b' '..=b'~');
    let id = id.0.as_str();
    ((1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(is_shown)).then_some(id)
}

/// Says what is asked for, in words that the tenant has been granted: others are its client's own,
/// and might be anything.
fn describe(span: &mut Open, rights: &DesiredTenant, call: &Call) {
    let function = metrics::label(&call.function);
    span.set(Key::Function, function);
    let asked = |name| call.params.get(name).and_then(serde_json::Value::as_str);
    if function == "pipeline" {
        let pipeline = asked("pipeline").filter(|asked| rights.pipelines.contains_key(*asked));
        if let Some(pipeline) = pipeline {
            span.set(Key::Pipeline, pipeline);
        }
        return;
    }
    let operation = match function {
        "chat" => "chat",
        "generate" => "text_completion",
        "embed" => "embeddings",
        _ => return,
    };
    span.set(Key::Operation, operation);
    span.set(Key::Provider, "realm");
    let mut grants = rights.models.iter();
    let model = match asked("model") {
        Some(alias) => grants.find(|grant| grant.alias == alias),
        None => grants.next(),
    };
    if let Some(model) = model {
        span.set(Key::Model, model.alias.as_str());
    }
}

/// The span of a call at its door. It ends when it is dropped, which is when the call's last word
/// is on its way.
#[derive(Debug)]
pub(crate) struct CallSpan {
    span: Open,
    outcome: &'static str,
}

impl CallSpan {
    pub(crate) const OFF: Self = Self { span: Open::OFF, outcome: CANCELLED };

    pub(crate) fn admitted(&self, arrival: &Arrival, now: Instant) {
        self.span.scope().record(SpanName::Admit, arrival.at, now, OK);
    }

    /// Ends the trace of a call that was not admitted, if its tenant may leave one of those.
    pub(crate) fn refused(mut self, tracer: &Tracer, caller: &Caller, refusal: &Refusal) {
        if self.span.scope().is_on() && !tracer.has_extra(caller.tenant()) {
            std::mem::take(&mut self.span).forget();
        }
        self.outcome = refusal.code();
    }

    pub(crate) fn piece(&mut self, now: Instant) {
        self.span.mark(Moment::FirstPiece, now);
    }

    pub(crate) fn done(&mut self, done: &Done) {
        let Done { data: _, finish, usage } = done;
        let finish = match finish {
            Finish::Stop => "stop",
            Finish::Length => "length",
        };
        self.span.set(Key::Finish, finish);
        self.span.set(Key::InputTokens, usage.prompt_tokens);
        self.span.set(Key::CachedTokens, usage.cached_tokens);
        self.span.set(Key::OutputTokens, usage.completion_tokens);
        self.outcome = OK;
    }

    pub(crate) fn end(&mut self, outcome: &'static str) {
        self.outcome = outcome;
    }
}

impl Drop for CallSpan {
    fn drop(&mut self) {
        self.span.end(self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_parent_is_named_once_and_its_state_may_come_in_pieces() {
        let both = [("traceparent", GOOD), ("tracestate", "a=b"), ("tracestate", "c=d")];
        assert_eq!(parent(&headers(&both)).unwrap().state, "a=b,c=d");
        assert_eq!(parent(&headers(&[("traceparent", GOOD), ("traceparent", GOOD)])), None);
        assert_eq!(parent(&headers(&[("traceparent", "nonsense")])), None);
        assert_eq!(parent(&headers(&[("tracestate", "a=b")])), None);
    }

    #[test]
    fn a_trace_shows_the_id_of_its_call_unless_it_is_too_long_or_not_printable() {
        let longest = "x".repeat(ID_BYTES_MAX);
        let traced = |id: &str| shown(&CallId(id.to_owned())).map(str::to_owned);
        for good in ["1", "a b~", &longest] {
            assert_eq!(traced(good).as_deref(), Some(good));
        }
        for bad in ["", "a\nb", "\u{1b}[2J", "a\u{202e}b", "é", &format!("{longest}x")] {
            assert_eq!(traced(bad), None, "{bad:?}");
        }
    }
}
