//! Text of a socket to frames, and back.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_core::refusal::{ProgramLimit, Refusal};
use realm_proto::ws::{
    ClientFrame, ConnectionFrame, ErrorBody, ReplyFrame, SERVER_MESSAGE_BYTES_MAX, ServerFrame,
};
use thiserror::Error;
use tokio_tungstenite::tungstenite::Message;

/// Longest message about a frame that is not one: the parser repeats what it could not read, and
/// a client that sends a megabyte of it must not get a megabyte back.
const MESSAGE_CHARS_MAX: usize = 256;

/// Why a message is not a frame.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum FrameError {
    #[error("binary frames are not part of this protocol")]
    Binary,
    #[error("not a frame: {0}")]
    Malformed(String),
}

impl From<FrameError> for Refusal {
    fn from(error: FrameError) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// Reads a client's message.
pub(crate) fn decode(text: &str) -> Result<ClientFrame, FrameError> {
    serde_json::from_str(text)
        .map_err(|error| FrameError::Malformed(clip(&error.to_string()).to_owned()))
}

/// The first characters of a text that strangers had a hand in.
pub(crate) fn clip(text: &str) -> &str {
    text.char_indices().nth(MESSAGE_CHARS_MAX).and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}

/// Writes a frame about a call.
pub(crate) fn encode_reply(frame: ReplyFrame) -> Message {
    encode(&ServerFrame::Reply(frame))
}

/// Writes a frame with what a program made, where the protocol has room for it.
pub(crate) fn encode_output(frame: ReplyFrame) -> Result<Message, Refusal> {
    let message = encode_reply(frame);
    if message.len() > SERVER_MESSAGE_BYTES_MAX { Err(output_too_large()) } else { Ok(message) }
}

/// A program made more than one message of a server holds.
pub(crate) fn output_too_large() -> Refusal {
    let max = u64::try_from(SERVER_MESSAGE_BYTES_MAX).unwrap_or(u64::MAX);
    Refusal::ProgramLimit { limit: ProgramLimit::Output, max }
}

/// Writes a frame about the connection.
pub(crate) fn encode_connection(frame: ConnectionFrame) -> Message {
    encode(&ServerFrame::Connection(frame))
}

/// Writes the refusal of something that is no call, or of no call that runs.
pub(crate) fn encode_refusal(refusal: &Refusal) -> Message {
    encode_connection(ConnectionFrame::Error { error: error_body(refusal) })
}

pub(crate) fn error_body(refusal: &Refusal) -> ErrorBody {
    ErrorBody {
        code: refusal.code().to_owned(),
        message: refusal.to_string(),
        retry_after_ms: refusal.retry_after_ms(),
    }
}

fn encode(frame: &ServerFrame) -> Message {
    Message::text(serde_json::to_string(frame).expect("every key of a frame is a string"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use realm_proto::ws::{
        CallFrame, Finish, Logprobs, Piece, Progress, Quota, Resume, ScoredToken, Usage,
    };
    use serde_json::{Map, Value, json};

    use super::*;

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    fn id() -> impl Strategy<Value = String> {
        "[ -~]{1,64}"
    }

    fn client_frame() -> impl Strategy<Value = ClientFrame> {
        let params = prop::collection::btree_map(".{0,8}", json(), 0..4);
        let resume = any::<(Vec<u32>, u64, u64)>().prop_map(|(tokens, text_bytes, seed)| Resume {
            tokens,
            text_bytes,
            seed,
        });
        let flags = any::<(bool, bool, Option<u64>)>();
        let trace = prop::option::of(".{0,60}");
        let call = (id(), ".{0,16}", params, flags, prop::option::of(resume), trace).prop_map(
            |(id, function, params, (stream, resumable, deadline_ms), resume, traceparent)| {
                let params: Map<String, Value> = params.into_iter().collect();
                ClientFrame::Call(CallFrame {
                    id,
                    function,
                    params,
                    stream,
                    deadline_ms,
                    resumable,
                    resume,
                    tracestate: traceparent.clone(),
                    traceparent,
                })
            },
        );
        prop_oneof![
            ".{0,80}".prop_map(|api_key| ClientFrame::Auth { api_key }),
            id().prop_map(|id| ClientFrame::Cancel { id }),
            call,
        ]
    }

    fn server_frame() -> impl Strategy<Value = ServerFrame> {
        let error = (".{0,16}", ".{0,64}", any::<Option<u64>>()).prop_map(
            |(code, message, retry_after_ms)| ErrorBody { code, message, retry_after_ms },
        );
        let token = (any::<(u32, String, Option<Vec<u8>>)>(), -1e4_f64..=0.0)
            .prop_map(|((id, text, bytes), logprob)| ScoredToken { id, text, bytes, logprob });
        let top = prop::collection::vec(token.clone(), 0..3);
        let logprobs = (token, top).prop_map(|(chosen, top)| Logprobs { chosen, top });
        let logprobs = prop::collection::vec(logprobs, 0..3);
        let piece = (any::<Option<String>>(), any::<String>(), logprobs).prop_map(
            |(step, text, logprobs)| Piece { step, text: Some(text), value: None, logprobs },
        );
        let usage = any::<(u32, u32, u32)>().prop_map(
            |(prompt_tokens, cached_tokens, completion_tokens)| Usage {
                prompt_tokens,
                cached_tokens,
                completion_tokens,
            },
        );
        let progress = any::<(u64, Vec<u32>, Option<u64>)>()
            .prop_map(|(first, tokens, seed)| Progress { first, tokens, seed });
        prop_oneof![
            (id(), any::<u64>(), piece, prop::option::of(progress)).prop_map(
                |(id, index, data, progress)| ServerFrame::Reply(ReplyFrame::Streaming {
                    id,
                    index,
                    data,
                    progress
                })
            ),
            (id(), json(), usage).prop_map(|(id, data, usage)| {
                let (finish, quota) = (Finish::Length, Quota::default());
                ServerFrame::Reply(ReplyFrame::Complete { id, data, finish, usage, quota })
            }),
            (id(), error.clone())
                .prop_map(|(id, error)| ServerFrame::Reply(ReplyFrame::Error { id, error })),
            id().prop_map(|id| ServerFrame::Reply(ReplyFrame::Cancelled { id })),
            error.prop_map(|error| ServerFrame::Connection(ConnectionFrame::Error { error })),
            any::<(u64, bool)>().prop_map(|(grace_ms, resume)| ServerFrame::Connection(
                ConnectionFrame::GoingAway { grace_ms, resume }
            )),
        ]
    }

    proptest! {
        #[test]
        fn what_a_client_writes_is_what_the_server_reads(frame in client_frame()) {
            let text = serde_json::to_string(&frame).unwrap();
            prop_assert_eq!(decode(&text).unwrap(), frame);
        }

        #[test]
        fn what_the_server_writes_is_what_a_client_reads(frame in server_frame()) {
            let message = encode(&frame);
            let read: ServerFrame = serde_json::from_str(message.to_text().unwrap()).unwrap();
            prop_assert_eq!(read, frame);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in ".{0,200}") {
            drop(decode(&text));
        }

        #[test]
        fn no_broken_frame_makes_the_reader_panic(
            frame in client_frame(), at in any::<prop::sample::Index>(), byte in any::<u8>(),
        ) {
            let mut bytes = serde_json::to_vec(&frame).unwrap();
            let at = at.index(bytes.len());
            *bytes.get_mut(at).unwrap() = byte;
            if let Ok(text) = std::str::from_utf8(&bytes) {
                drop(decode(text));
            }
        }
    }

    #[test]
    fn a_deeply_nested_frame_is_refused_and_a_long_complaint_is_cut() {
        let nested = format!(r#"{{"id":"1","function":"f","params":{{"a":{}"#, "[".repeat(100_000));
        assert!(matches!(decode(&nested), Err(FrameError::Malformed(_))));
        let long = format!(r#"{{"{}":1}}"#, "é".repeat(100_000));
        let FrameError::Malformed(message) = decode(&long).unwrap_err() else { panic!() };
        assert_eq!(message.chars().count(), MESSAGE_CHARS_MAX);
    }

    #[test]
    fn a_frame_with_more_than_a_message_holds_is_not_written() {
        let frame = |bytes: usize| ReplyFrame::Streaming {
            id: "1".into(),
            index: 0,
            data: Piece { value: Some("x".repeat(bytes).into()), ..Piece::default() },
            progress: None,
        };
        let around = encode_reply(frame(0)).len();
        let room = SERVER_MESSAGE_BYTES_MAX.checked_sub(around).unwrap();
        assert_eq!(encode_output(frame(room)).unwrap().len(), SERVER_MESSAGE_BYTES_MAX);
        let refusal = encode_output(frame(room.checked_add(1).unwrap())).unwrap_err();
        assert_eq!(refusal.code(), "program_output");
    }

    #[test]
    fn an_error_says_when_to_try_again() {
        let refusal = Refusal::TooManyRequests { per_minute: 60, retry_after_ms: 1200 };
        let message = encode_refusal(&refusal);
        let read: Value = serde_json::from_str(message.to_text().unwrap()).unwrap();
        assert_eq!(
            read,
            json!({"type": "error", "error": {
                "code": "too_many_requests",
                "message": "more than 60 requests per minute",
                "retry_after_ms": 1200,
            }})
        );
    }
}
