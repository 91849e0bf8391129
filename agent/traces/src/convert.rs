//! Recorded spans in OpenTelemetry's own form.

use std::borrow::Cow;

use opentelemetry::{
    Array, InstrumentationScope, KeyValue, SpanId, StringValue, TraceFlags, TraceId, Value,
    trace::{Event, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use realm_core::trace::{self, CANCELLED, Finished, Key, OK, Role, Span, SpanName};

/// Every span of a trace's part here.
pub(crate) fn spans(finished: &Finished) -> Vec<SpanData> {
    // What the exporter cannot read is as good as absent.
    let state: TraceState = finished.state.parse().unwrap_or_default();
    finished.spans.iter().map(|span| convert(span, finished, &state)).collect()
}

fn convert(span: &Span, finished: &Finished, state: &TraceState) -> SpanData {
    let id = SpanId::from_bytes(span.id.0.get().to_be_bytes());
    let trace = TraceId::from_bytes(finished.trace.0.get().to_be_bytes());
    let parent = span.parent.map(|parent| SpanId::from_bytes(parent.0.get().to_be_bytes()));
    let mut events = SpanEvents::default();
    events.events.extend(
        span.moments
            .iter()
            .map(|(moment, at)| Event::new(moment.as_str(), finished.date(*at), Vec::new(), 0)),
    );
    SpanData {
        span_context: SpanContext::new(trace, id, TraceFlags::SAMPLED, false, state.clone()),
        parent_span_id: parent.unwrap_or(SpanId::INVALID),
        parent_span_is_remote: span.is_parent_remote,
        span_kind: kind(span.name.role()),
        name: name(span),
        start_time: finished.date(span.start),
        end_time: finished.date(span.end),
        attributes: attributes(span),
        dropped_attributes_count: 0,
        events,
        links: SpanLinks::default(),
        status: if is_error(span) { Status::error(span.outcome) } else { Status::Unset },
        instrumentation_scope: InstrumentationScope::builder("realm")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build(),
    }
}

const fn kind(role: Role) -> SpanKind {
    match role {
        Role::Server => SpanKind::Server,
        Role::Client => SpanKind::Client,
        Role::Internal => SpanKind::Internal,
    }
}

/// A call is called after what it asks for, as the conventions for generative AI have it: its
/// function, and the model or pipeline. All three are words of closed sets.
fn name(span: &Span) -> Cow<'static, str> {
    let text = |wanted: Key| {
        span.attributes.iter().find_map(|(key, value)| match value {
            trace::Value::Text(text) if *key == wanted => Some(&**text),
            trace::Value::Text(_) | trace::Value::Count(_) => None,
        })
    };
    match (span.name, text(Key::Function)) {
        (SpanName::Call, Some(function)) => {
            match text(Key::Model).or_else(|| text(Key::Pipeline)) {
                Some(of) => format!("{function} {of}").into(),
                None => function.to_owned().into(),
            }
        }
        (name, _) => name.as_str().into(),
    }
}

/// Nobody's fault is a call that its client did not want any more.
fn is_error(span: &Span) -> bool {
    ![OK, CANCELLED].contains(&span.outcome)
}

fn attributes(span: &Span) -> Vec<KeyValue> {
    let mut attributes = vec![KeyValue::new(Key::Outcome.as_str(), span.outcome)];
    if is_error(span) {
        attributes.push(KeyValue::new(Key::ErrorType.as_str(), span.outcome));
    }
    let said =
        span.attributes.iter().map(|(key, value)| KeyValue::new(key.as_str(), said(*key, value)));
    attributes.extend(said);
    attributes
}

fn said(key: Key, value: &trace::Value) -> Value {
    match value {
        trace::Value::Count(count) => i64::try_from(*count).unwrap_or(i64::MAX).into(),
        // One for each choice, and a call has one.
        trace::Value::Text(text) if key == Key::Finish => {
            Value::Array(Array::String(vec![StringValue::from(text.to_string())]))
        }
        trace::Value::Text(text) => text.to_string().into(),
    }
}

#[cfg(test)]
mod tests {
    use realm_core::trace::Moment;

    use super::*;

    #[test]
    fn every_span_event_and_attribute_has_a_line_in_the_document() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/traces.md");
        let text = std::fs::read_to_string(file).unwrap();
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with("| `")).collect();
        let has = |word: &str| {
            let word = format!("`{word}`");
            lines.iter().any(|line| line.split('|').nth(1).is_some_and(|cell| cell.contains(&word)))
        };
        let spans = SpanName::ALL.iter().map(|name| name.as_str());
        let moments = Moment::ALL.iter().map(|moment| moment.as_str());
        let keys = Key::ALL.iter().map(|key| key.as_str());
        for word in spans.chain(moments).chain(keys) {
            assert!(has(word), "deploy/traces.md has no line for `{word}`");
        }
    }
}
