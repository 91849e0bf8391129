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
    /// What others keep along the way, unread: printable ASCII and tabs. Empty where there is
    /// nothing, or nonsense.
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

/// Whether this is a list of members with a key each, which nobody has said twice. What may stand
/// around a member are blanks of one byte: other blanks are no part of a header, and frames of a
/// WebSocket would bring them.
fn is_state(text: &str) -> bool {
    if text.len() > STATE_BYTES_MAX {
        return false;
    }
    let members = text.split(',').map(|member| member.trim_matches([' ', '\t']));
    let keys: Option<Vec<_>> = members.filter(|member| !member.is_empty()).map(key).collect();
    let Some(mut keys) = keys else { return false };
    keys.sort_unstable();
    keys.len() <= MEMBERS_MAX && keys.is_sorted_by(|one, next| one < next)
}

/// The key of a member that is one.
fn key(member: &str) -> Option<&str> {
    let (key, value) = member.split_once('=')?;
    let is_first = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_key = |byte| is_first(byte) || matches!(byte, b'_' | b'-' | b'*' | b'/' | b'@');
    let is_value = |byte| matches!(byte, b' '..=b'~') && byte != b'=';
    let fits = |part: &str| (1..=MEMBER_BYTES_MAX).contains(&part.len());
    let is_member = fits(key)
        && fits(value)
        && key.bytes().next().is_some_and(is_first)
        && key.bytes().all(is_key)
        && value.bytes().all(is_value);
    is_member.then_some(key)
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
        let members =
            |count: u32| (0..count).map(|n| format!("k{n}=b")).collect::<Vec<_>>().join(",");
        let value = |len: usize| format!("a={}", "x".repeat(len));
        let in_two = |len: usize| format!("{},b={}", value(256), "y".repeat(len));
        let state = |state: &str| Parent::parse(GOOD, Some(state)).unwrap().state;
        let (many, long, whole) = (members(33), value(257), in_two(252));
        for bad in [
            "a",
            "=b",
            "a=",
            "A=b",
            "_a=b",
            "@a=b",
            "a=b\u{7f}",
            "a=b=c",
            "a=é",
            "é=b",
            "a=b,a=c",
            "a=b,\nc=d",
            "a=b\u{2003}",
            "a=b,\u{85}c=d",
            &many,
            &long,
            &whole,
        ] {
            assert_eq!(state(bad), "", "{bad}");
        }
        let (most, longest, fullest) = (members(32), value(256), in_two(251));
        assert_eq!((fullest.len(), whole.len()), (512, 513));
        for good in
            ["a=b, c=d", "a=b,\tc=d", "0a@b/c*d-e_f=~ !", "a=b,,c=d", &most, &longest, &fullest]
        {
            assert_eq!(state(good), good);
        }
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

        #[test]
        fn a_state_that_is_kept_is_a_header_and_within_its_limits(
            state in "([a-c@é]{0,2}=?[ -~\t\n\u{85}]{0,6},?){0,40}",
        ) {
            let kept = Parent::parse(GOOD, Some(&state)).unwrap().state;
            prop_assert!(kept.is_empty() || kept == state);
            prop_assert!(kept.len() <= 512);
            prop_assert!(kept.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t')));
        }
    }
}
