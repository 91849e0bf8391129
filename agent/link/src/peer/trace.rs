//! The trace of a call, in the metadata of the request that hands it on.

use realm_core::trace::{Parent, Scope};
use tonic::metadata::{MetadataMap, MetadataValue};

const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";

/// Lets what is done there be part of the span here. Nothing is said of a call that is not
/// recorded.
pub(super) fn write(scope: &Scope, metadata: &mut MetadataMap) {
    let Some(parent) = scope.parent() else { return };
    for (name, text) in [(PARENT, parent.traceparent()), (STATE, parent.state)] {
        if !text.is_empty()
            && let Ok(value) = MetadataValue::try_from(text)
        {
            metadata.insert(name, value);
        }
    }
}

/// The span of the door that hands a call on. What is malformed is as good as absent.
pub(super) fn read(metadata: &MetadataMap) -> Option<Parent> {
    let text = |name| metadata.get(name)?.to_str().ok();
    Parent::parse(text(PARENT)?, text(STATE))
}

#[cfg(test)]
mod tests {
    use std::time::{Instant, SystemTime};

    use realm_core::{
        name::TenantName,
        trace::{Outside, Ratio, Sampling, Tracer},
    };

    use super::*;

    #[test]
    fn the_span_of_a_call_goes_with_it_and_nothing_does_where_there_is_none() {
        let outside = Outside { now: Instant::now, date: SystemTime::now, draw: || Some(7) };
        let sampling = Sampling { heeds_parent: true, ratio: Ratio::ALL };
        let (tracer, _queue) = Tracer::new(sampling, outside);
        let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let parent = Parent::parse(text, Some("vendor=value")).unwrap();
        let tenant = TenantName::new("default", "acme").unwrap();
        let call = tracer.begin(&tenant, Some(&parent), Instant::now());
        let mut metadata = MetadataMap::new();
        write(&call.scope(), &mut metadata);
        assert_eq!(read(&metadata), call.scope().parent());
        assert_eq!(read(&metadata).unwrap().state, "vendor=value");
        let mut untraced = MetadataMap::new();
        write(&Scope::OFF, &mut untraced);
        assert!(untraced.is_empty() && read(&untraced).is_none());
    }

    #[test]
    fn what_is_malformed_is_no_span() {
        let mut metadata = MetadataMap::new();
        metadata.insert(PARENT, MetadataValue::from_static("nonsense"));
        assert_eq!(read(&metadata), None);
    }
}
