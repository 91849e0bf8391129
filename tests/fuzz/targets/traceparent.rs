//! What a client says of its own span: `traceparent`, and `tracestate` on the next line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realm_core::trace::Parent;

fuzz_target!(|text: &str| {
    let (traceparent, tracestate) = text.split_once('\n').unwrap_or((text, ""));
    let Some(parent) = Parent::parse(traceparent, Some(tracestate)) else { return };
    assert!(parent.state.is_empty() || parent.state == tracestate);
    assert!(parent.state.len() <= 512 && parent.state.is_ascii());
    let again = Parent::parse(&parent.traceparent(), Some(&parent.state));
    assert!(again == Some(parent), "written and read again it is another span");
});
