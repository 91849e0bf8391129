//! What the head of a server's answer means for the bytes that are here.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use reqwest::{
    StatusCode,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderName, RETRY_AFTER,
    },
};

use crate::error::SourceError;

/// What was asked, and what is known from before.
pub(crate) struct Asked<'a> {
    /// Bytes that are here; all of the file was asked for when none are.
    pub(crate) bytes_have: u64,
    pub(crate) etag: Option<&'a str>,
    pub(crate) bytes_total: Option<u64>,
}

/// What the body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The file from its first byte.
    Whole { bytes_total: Option<u64> },
    /// The bytes after those that are here.
    Rest { bytes_total: Option<u64> },
    /// Nothing: all the bytes are here.
    Nothing,
    /// It does not join the bytes that are here.
    Unfit,
}

/// Reads the head of an answer.
pub(crate) fn read(
    status: StatusCode,
    headers: &HeaderMap,
    asked: &Asked<'_>,
) -> Result<Answer, SourceError> {
    let range = || text(headers, &CONTENT_RANGE).and_then(ContentRange::parse);
    match status {
        StatusCode::OK => {
            check_encoding(headers)?;
            Ok(Answer::Whole { bytes_total: number(headers, &CONTENT_LENGTH) })
        }
        StatusCode::PARTIAL_CONTENT => {
            check_encoding(headers)?;
            Ok(range().map_or(Answer::Unfit, |range| join(&range, headers, asked)))
        }
        StatusCode::RANGE_NOT_SATISFIABLE if asked.bytes_have > 0 => Ok(match range() {
            Some(ContentRange { part: None, bytes_total: Some(total) })
                if total == asked.bytes_have =>
            {
                Answer::Nothing
            }
            _ => Answer::Unfit,
        }),
        _ => Err(refusal(status, headers)),
    }
}

/// Reads the head of an answer to whom the first bytes were asked for: how many the file has, where
/// the server says. A server that knows no ranges sends all of them.
pub(crate) fn read_first(
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Option<u64>, SourceError> {
    match status {
        StatusCode::OK => {
            check_encoding(headers)?;
            Ok(number(headers, &CONTENT_LENGTH))
        }
        StatusCode::PARTIAL_CONTENT => {
            check_encoding(headers)?;
            match text(headers, &CONTENT_RANGE).and_then(ContentRange::parse) {
                Some(ContentRange { part: Some((0, _)), bytes_total }) => Ok(bytes_total),
                _ => Err(SourceError::Malformed {
                    why: "a part was sent that is not the first".to_owned(),
                }),
            }
        }
        _ => Err(refusal(status, headers)),
    }
}

/// What an answer means that does not hold what was asked for.
pub(crate) fn refusal(status: StatusCode, headers: &HeaderMap) -> SourceError {
    let code = status.as_u16();
    match status {
        StatusCode::NOT_FOUND | StatusCode::GONE => SourceError::NotFound { status: Some(code) },
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            SourceError::Unauthorized { status: code }
        }
        _ => SourceError::Refused { status: code, retry_after_secs: number(headers, &RETRY_AFTER) },
    }
}

/// The entity tag, if it promises the very same bytes.
pub(crate) fn strong_etag(headers: &HeaderMap) -> Option<String> {
    text(headers, &ETAG).filter(|etag| etag.starts_with('"')).map(str::to_owned)
}

/// Whether a part continues what is here.
fn join(range: &ContentRange, headers: &HeaderMap, asked: &Asked<'_>) -> Answer {
    let starts_here =
        asked.bytes_have > 0 && range.part.is_some_and(|(first, _)| first == asked.bytes_have);
    let same_total = match (asked.bytes_total, range.bytes_total) {
        (Some(before), Some(now)) => before == now,
        _ => true,
    };
    let same_etag = match (asked.etag, text(headers, &ETAG)) {
        (Some(before), Some(now)) => before == now,
        _ => true,
    };
    if starts_here && same_total && same_etag {
        Answer::Rest { bytes_total: range.bytes_total.or(asked.bytes_total) }
    } else {
        Answer::Unfit
    }
}

/// Bytes that were encoded on the way are not those of the file.
fn check_encoding(headers: &HeaderMap) -> Result<(), SourceError> {
    match text(headers, &CONTENT_ENCODING) {
        None | Some("" | "identity") => Ok(()),
        Some(other) => {
            Err(SourceError::Malformed { why: format!("the content is encoded as {other:?}") })
        }
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn number(headers: &HeaderMap, name: &HeaderName) -> Option<u64> {
    decimal(text(headers, name)?)
}

/// Digits only: Rust's own parser takes a sign too.
fn decimal(text: &str) -> Option<u64> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `bytes first-last/total`, `bytes first-last/*` or `bytes */total` (RFC 9110, 14.4).
#[derive(Debug, PartialEq, Eq)]
struct ContentRange {
    part: Option<(u64, u64)>,
    bytes_total: Option<u64>,
}

impl ContentRange {
    fn parse(text: &str) -> Option<Self> {
        let (unit, rest) = text.split_once(' ')?;
        let (part, total) = rest.split_once('/')?;
        let bytes_total = match total {
            "*" => None,
            total => Some(decimal(total)?),
        };
        let part = match part {
            "*" => None,
            part => {
                let (first, last) = part.split_once('-')?;
                Some((decimal(first)?, decimal(last)?))
            }
        };
        let ordered = part.is_none_or(|(first, last)| {
            first <= last && bytes_total.is_none_or(|total| last < total)
        });
        (unit.eq_ignore_ascii_case("bytes") && ordered).then_some(Self { part, bytes_total })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    const ASKED: Asked<'_> = Asked { bytes_have: 10, etag: Some("\"a\""), bytes_total: Some(100) };

    #[track_caller]
    fn check(status: u16, headers: &[(HeaderName, &'static str)], expected: Answer) {
        let headers: HeaderMap =
            headers.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v))).collect();
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(read(status, &headers, &ASKED).unwrap(), expected, "{headers:?}");
    }

    #[test]
    fn only_a_part_that_begins_where_we_are_and_is_of_the_same_version_is_joined() {
        let rest = Answer::Rest { bytes_total: Some(100) };
        check(206, &[(CONTENT_RANGE, "bytes 10-99/100")], rest);
        let rest = Answer::Rest { bytes_total: Some(100) };
        check(206, &[(CONTENT_RANGE, "bytes 10-19/*"), (ETAG, "\"a\"")], rest);
        for bad in [
            "bytes 0-99/100",
            "bytes 11-99/100",
            "bytes 10-100/100",
            "bytes 10-9/100",
            "bytes 10-98/99",
            "bytes +10-99/100",
            "bytes */100",
            "items 10-99/100",
            "bytes 10-99999999999999999999/*",
            "",
        ] {
            check(206, &[(CONTENT_RANGE, bad)], Answer::Unfit);
        }
        check(206, &[], Answer::Unfit);
        check(206, &[(CONTENT_RANGE, "bytes 10-99/100"), (ETAG, "\"b\"")], Answer::Unfit);
    }

    #[test]
    fn a_server_that_ignores_the_range_is_read_from_its_first_byte() {
        check(200, &[(CONTENT_LENGTH, "100")], Answer::Whole { bytes_total: Some(100) });
        check(200, &[], Answer::Whole { bytes_total: None });
    }

    #[test]
    fn a_range_past_the_end_means_whole_only_when_the_totals_agree() {
        check(416, &[(CONTENT_RANGE, "bytes */10")], Answer::Nothing);
        check(416, &[(CONTENT_RANGE, "bytes */9")], Answer::Unfit);
        check(416, &[], Answer::Unfit);
    }

    #[test]
    fn the_first_part_says_how_many_bytes_there_are_and_another_is_no_first_part() {
        let first = |status: u16, headers: &[(HeaderName, &'static str)]| {
            let headers: HeaderMap =
                headers.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v))).collect();
            read_first(StatusCode::from_u16(status).unwrap(), &headers)
        };
        assert_eq!(first(206, &[(CONTENT_RANGE, "bytes 0-9/100")]).unwrap(), Some(100));
        assert_eq!(first(206, &[(CONTENT_RANGE, "bytes 0-9/*")]).unwrap(), None);
        assert_eq!(first(200, &[(CONTENT_LENGTH, "100")]).unwrap(), Some(100));
        for bad in ["bytes 1-9/100", "bytes */100", "items 0-9/100", ""] {
            let error = first(206, &[(CONTENT_RANGE, bad)]).unwrap_err();
            assert_eq!(error.reason(), "SourceMalformed", "{bad}");
        }
        assert_eq!(first(416, &[]).unwrap_err().reason(), "SourceRefused");
    }

    #[test]
    fn an_encoded_body_is_refused() {
        let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
        let error = read(StatusCode::OK, &headers, &ASKED).unwrap_err();
        assert_eq!(error.reason(), "SourceMalformed");
    }

    #[test]
    fn a_weak_tag_does_not_promise_the_same_bytes() {
        let headers = HeaderMap::from_iter([(ETAG, HeaderValue::from_static("W/\"a\""))]);
        assert_eq!(strong_etag(&headers), None);
    }

    proptest! {
        #[test]
        fn a_well_formed_range_is_read_as_written(first: u64, more in 0u64..1 << 40, after: bool) {
            let last = first.saturating_add(more);
            let total = after.then(|| last.saturating_add(1)).filter(|total| *total > last);
            let total_text = total.map_or_else(|| "*".to_owned(), |total| total.to_string());
            let parsed = ContentRange::parse(&format!("bytes {first}-{last}/{total_text}"));
            let expected = ContentRange { part: Some((first, last)), bytes_total: total };
            prop_assert_eq!(parsed, Some(expected));
        }

        #[test]
        fn any_range_is_read_or_refused(text in "\\PC{0,40}") {
            if let Some(ContentRange { part: Some((first, last)), .. }) = ContentRange::parse(&text) {
                prop_assert!(first <= last);
            }
        }
    }
}
