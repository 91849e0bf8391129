//! Where a trace comes from and goes on to: `traceparent` and `tracestate` of the W3C's Trace
//! Context. Strangers write them: what is malformed is as good as absent.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use std::{
    fmt,
    num::{NonZeroU64, NonZeroU128},
};

/// Longest `traceparent` that is looked at: version 00 has 55 bytes, and a later one may add to
/// them.
const PARENT_BYTES_MAX: usize = 128;

/// Longest `tracestate` that is carried on, which is what the standard asks of everybody.
const STATE_BYTES_MAX: usize = 512;

/// Members of a `tracestate`, by the standard.
const MEMBERS_MAX: usize = 32;

/// Bytes of a member's key or value, by the standard.
const MEMBER_BYTES_MAX: usize = 256;

/// A trace's own name, all over the world.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub NonZeroU128);

/// A span's own name within its trace.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub NonZeroU64);

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The span elsewhere that one here is a child of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    pub trace: TraceId,
    pub span: SpanId,
    /// Whether that span is recorded, or so it is said.
    pub is_sampled: bool,
    /// What others keep along the way, unread. Empty where there is nothing, or nonsense.
    pub state: String,
}

impl Parent {
    /// Reads both headers.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        if traceparent.len() > PARENT_BYTES_MAX {
            return None;
        }
        let mut parts = traceparent.splitn(5, '-');
        let version = hex(parts.next()?, 2)?;
        let trace = NonZeroU128::new(hex(parts.next()?, 32)?)?;
        let span = u64::try_from(hex(parts.next()?, 16)?).ok()?;
        let flags = hex(parts.next()?, 2)?;
        // A later version may say more behind this; 255 is none.
        if version == 255 || (version == 0 && parts.next().is_some()) {
            return None;
        }
        let state = tracestate.filter(|state| is_state(state)).unwrap_or_default();
        Some(Self {
            trace: TraceId(trace),
            span: SpanId(NonZeroU64::new(span)?),
            is_sampled: flags & 1 == 1,
            state: state.to_owned(),
        })
    }

    /// The header `traceparent`.
    pub fn traceparent(&self) -> String {
        let Self { trace, span, is_sampled, state: _ } = self;
        format!("00-{trace:?}-{span:?}-{:02x}", u8::from(*is_sampled))
    }
}

/// The number that so many lower-case digits write, and nothing else.
fn hex(text: &str, digits: usize) -> Option<u128> {
    let is_hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    (text.len() == digits && is_hex).then(|| u128::from_str_radix(text, 16).ok())?
}

fn is_state(text: &str) -> bool {
    let mut members = text.split(',').map(str::trim).filter(|member| !member.is_empty());
    text.len() <= STATE_BYTES_MAX
        && members.by_ref().take(MEMBERS_MAX).all(is_member)
        && members.next().is_none()
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let is_key =
        |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/' | b'@');
    let is_value = |byte| matches!(byte, b' '..=b'~') && byte != b'=';
    let fits = |part: &str| (1..=MEMBER_BYTES_MAX).contains(&part.len());
    fits(key) && fits(value) && key.bytes().all(is_key) && value.bytes().all(is_value)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_parent_is_read_and_written_the_same() {
        let parent = Parent::parse(GOOD, Some("vendor=a:1,other@x=b")).unwrap();
        assert!(parent.is_sampled);
        assert_eq!(parent.traceparent(), GOOD);
        assert_eq!(parent.state, "vendor=a:1,other@x=b");
        let unsampled = Parent::parse(&GOOD.replace("-01", "-00"), None).unwrap();
        assert!(!unsampled.is_sampled && unsampled.state.is_empty());
    }

    #[test]
    fn what_is_malformed_is_no_parent() {
        let zero_trace = GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32));
        let zero_span = GOOD.replace("00f067aa0ba902b7", &"0".repeat(16));
        for bad in [
            "",
            "00",
            &GOOD.to_uppercase(),
            &GOOD.replace("00-4b", "ff-4b"),
            &GOOD.replace('7', "g"),
            &GOOD.replace("-01", "-1"),
            &GOOD.replace("00-4b", "+0-4b"),
            &format!("{GOOD}-more"),
            &format!(" {GOOD}"),
            &zero_trace,
            &zero_span,
            &"é".repeat(100),
        ] {
            assert_eq!(Parent::parse(bad, None), None, "{bad}");
        }
    }

    #[test]
    fn a_later_version_may_say_more_up_to_a_length() {
        let later = GOOD.replace("00-4b", "01-4b");
        assert!(Parent::parse(&format!("{later}-more"), None).is_some());
        assert_eq!(Parent::parse(&format!("{later}-{}", "x".repeat(100)), None), None);
    }

    #[test]
    fn a_state_that_is_too_long_or_malformed_is_dropped_and_its_parent_is_kept() {
        let many = vec!["a=b"; 33].join(",");
        let long = format!("a={}", "x".repeat(600));
        for bad in ["a", "=b", "A=b", "a=b\u{7f}", "a=b=c", "é=b", &many, &long] {
            assert_eq!(Parent::parse(GOOD, Some(bad)).unwrap().state, "", "{bad}");
        }
        assert_eq!(Parent::parse(GOOD, Some("a=b, c=d")).unwrap().state, "a=b, c=d");
    }

    proptest! {
        #[test]
        fn every_parent_is_read_back(trace in 1_u128.., span in 1_u64.., is_sampled: bool) {
            let trace = TraceId(NonZeroU128::new(trace).unwrap());
            let span = SpanId(NonZeroU64::new(span).unwrap());
            let parent = Parent { trace, span, is_sampled, state: String::new() };
            prop_assert_eq!(Parent::parse(&parent.traceparent(), None), Some(parent));
        }

        #[test]
        fn no_text_makes_the_reader_panic(parent in ".{0,140}", state in ".{0,600}") {
            drop(Parent::parse(&parent, Some(&state)));
            drop(Parent::parse(GOOD, Some(&state)));
        }
    }
}
