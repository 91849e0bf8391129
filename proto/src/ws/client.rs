//! What a client sends.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Longest `id`, in bytes: a UUID with a prefix fits.
pub const ID_BYTES_MAX: usize = 64;

/// A frame from a client. Unknown and misplaced fields are refused.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(try_from = "RawFrame", into = "RawFrame")]
#[expect(clippy::large_enum_variant, reason = "nearly every frame is a call, and none is kept")]
pub enum ClientFrame {
    /// The key, where the upgrade request could not carry it.
    Auth {
        api_key: String,
    },
    Call(CallFrame),
    Cancel {
        id: String,
    },
}

/// One call of a function.
#[derive(Clone, PartialEq, Eq)]
pub struct CallFrame {
    /// Unique among the calls running on the connection.
    pub id: String,
    pub function: String,
    pub params: Map<String, Value>,
    /// Whether text comes in pieces as it is made.
    pub stream: bool,
    /// Milliseconds until the call ends, however far it is.
    pub deadline_ms: Option<u64>,
    /// Whether pieces say how far the answer is, so that it can be resumed.
    pub resumable: bool,
    /// The answer to go on with.
    pub resume: Option<Resume>,
    /// The span that the call belongs to, as W3C Trace Context writes it. What is malformed counts
    /// as absent, and costs nobody a call.
    pub traceparent: Option<String>,
    pub tracestate: Option<String>,
}

/// What the client has of an answer that another connection began.
#[derive(Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Resume {
    /// Ids of the answer's tokens, from the first.
    pub tokens: Vec<u32>,
    /// Bytes of text that came with them.
    pub text_bytes: u64,
    /// What the answer is drawn with, as its first piece said.
    pub seed: u64,
}

/// Frames end up in logs and in messages of failed assertions; keys and prompts must not.
impl fmt::Debug for ClientFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auth { api_key: _ } => f.debug_struct("Auth").finish_non_exhaustive(),
            Self::Call(call) => call.fmt(f),
            Self::Cancel { id } => f.debug_struct("Cancel").field("id", id).finish(),
        }
    }
}

impl fmt::Debug for CallFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            id,
            function,
            params: _,
            stream,
            deadline_ms,
            resumable,
            resume,
            // As long as a client likes.
            traceparent: _,
            tracestate: _,
        } = self;
        f.debug_struct("CallFrame")
            .field("id", id)
            .field("function", function)
            .field("stream", stream)
            .field("deadline_ms", deadline_ms)
            .field("resumable", resumable)
            .field("resume", resume)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Resume {
    /// Without the answer itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { tokens, text_bytes, seed: _ } = self;
        f.debug_struct("Resume")
            .field("tokens", &tokens.len())
            .field("text_bytes", text_bytes)
            .finish_non_exhaustive()
    }
}

/// Every field of every frame, because `type` may be left out and serde's tagged enums need it.
#[derive(Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RawFrame {
    #[serde(rename = "type", default)]
    kind: Kind,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    function: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    params: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stream: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resumable: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    resume: Option<Resume>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    traceparent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tracestate: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
}

#[derive(Clone, Copy, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    Auth,
    #[default]
    Call,
    Cancel,
}

impl TryFrom<RawFrame> for ClientFrame {
    type Error = String;

    fn try_from(raw: RawFrame) -> Result<Self, Self::Error> {
        let RawFrame {
            kind,
            id,
            function,
            params,
            stream,
            deadline_ms,
            resumable,
            resume,
            traceparent,
            tracestate,
            api_key,
        } = raw;
        let of_call = [
            ("function", function.is_some()),
            ("params", params.is_some()),
            ("stream", stream.is_some()),
            ("deadline_ms", deadline_ms.is_some()),
            ("resumable", resumable.is_some()),
            ("resume", resume.is_some()),
            ("traceparent", traceparent.is_some()),
            ("tracestate", tracestate.is_some()),
        ];
        match kind {
            Kind::Auth => {
                refuse("auth", of_call.into_iter().chain([("id", id.is_some())]))?;
                Ok(Self::Auth { api_key: api_key.ok_or("an auth frame needs `api_key`")? })
            }
            Kind::Cancel => {
                refuse("cancel", of_call.into_iter().chain([("api_key", api_key.is_some())]))?;
                Ok(Self::Cancel { id: checked_id(id)? })
            }
            Kind::Call => {
                refuse("call", [("api_key", api_key.is_some())])?;
                Ok(Self::Call(CallFrame {
                    id: checked_id(id)?,
                    function: function.ok_or("a call needs `function`")?,
                    params: params.unwrap_or_default(),
                    stream: stream.unwrap_or(true),
                    deadline_ms,
                    resumable: resumable.unwrap_or(false),
                    resume,
                    traceparent,
                    tracestate,
                }))
            }
        }
    }
}

fn refuse(
    frame: &str,
    fields: impl IntoIterator<Item = (&'static str, bool)>,
) -> Result<(), String> {
    match fields.into_iter().find(|(_, is_there)| *is_there) {
        Some((field, _)) => Err(format!("a frame of type `{frame}` has no field `{field}`")),
        None => Ok(()),
    }
}

fn checked_id(id: Option<String>) -> Result<String, String> {
    let id = id.ok_or("the frame needs `id`")?;
    if (1..=ID_BYTES_MAX).contains(&id.len()) {
        Ok(id)
    } else {
        Err(format!("`id` has {} bytes; 1 to {ID_BYTES_MAX} are allowed", id.len()))
    }
}

impl From<ClientFrame> for RawFrame {
    fn from(frame: ClientFrame) -> Self {
        match frame {
            ClientFrame::Auth { api_key } => {
                Self { kind: Kind::Auth, api_key: Some(api_key), ..Self::default() }
            }
            ClientFrame::Cancel { id } => {
                Self { kind: Kind::Cancel, id: Some(id), ..Self::default() }
            }
            ClientFrame::Call(call) => {
                let CallFrame {
                    id,
                    function,
                    params,
                    stream,
                    deadline_ms,
                    resumable,
                    resume,
                    traceparent,
                    tracestate,
                } = call;
                Self {
                    kind: Kind::Call,
                    id: Some(id),
                    function: Some(function),
                    params: Some(params),
                    stream: Some(stream),
                    deadline_ms,
                    resumable: Some(resumable),
                    resume,
                    traceparent,
                    tracestate,
                    api_key: None,
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Result<ClientFrame, &str>) {
        match (serde_json::from_str::<ClientFrame>(text), expected) {
            (Ok(frame), Ok(expected)) => assert_eq!(frame, expected),
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{error} lacks {part}");
            }
            (got, expected) => panic!("{text}: {got:?}, not {expected:?}"),
        }
    }

    #[test]
    fn a_frame_without_a_type_is_a_call_that_streams() {
        let call = CallFrame {
            id: "1".into(),
            function: "generate".into(),
            params: Map::new(),
            stream: true,
            deadline_ms: None,
            resumable: false,
            resume: None,
            traceparent: None,
            tracestate: None,
        };
        check(r#"{"id":"1","function":"generate"}"#, Ok(ClientFrame::Call(call.clone())));
        check(
            r#"{"type":"call","id":"1","function":"generate","params":{},"stream":true}"#,
            Ok(ClientFrame::Call(call)),
        );
    }

    #[test]
    fn unknown_misplaced_doubled_and_missing_fields_are_named() {
        check(r#"{"id":"1","function":"f","colour":1}"#, Err("colour"));
        check(r#"{"id":"1","function":"f","api_key":"k"}"#, Err("api_key"));
        check(r#"{"type":"cancel","id":"1","stream":true}"#, Err("stream"));
        check(r#"{"type":"cancel","id":"1","resumable":true}"#, Err("resumable"));
        check(r#"{"type":"cancel","id":"1","traceparent":"00"}"#, Err("traceparent"));
        check(r#"{"id":"1","function":"f","resume":{}}"#, Err("tokens"));
        let resume = r#""resume":{"tokens":[-1],"text_bytes":0,"seed":0}"#;
        check(&format!(r#"{{"id":"1","function":"f",{resume}}}"#), Err("-1"));
        let resume = r#""resume":{"tokens":[],"text_bytes":0,"seed":0,"text":"x"}"#;
        check(&format!(r#"{{"id":"1","function":"f",{resume}}}"#), Err("text"));
        check(r#"{"type":"auth","api_key":"k","id":"1"}"#, Err("`id`"));
        check(r#"{"type":"auth"}"#, Err("api_key"));
        check(r#"{"id":"1"}"#, Err("function"));
        check(r#"{"function":"f"}"#, Err("`id`"));
        check(r#"{"id":"1","id":"2","function":"f"}"#, Err("duplicate field `id`"));
        check(r#"{"type":"resume","id":"1"}"#, Err("resume"));
    }

    #[test]
    fn a_frame_that_is_logged_shows_neither_its_key_nor_its_params() {
        let auth = ClientFrame::Auth { api_key: "rk_secret".into() };
        assert_eq!(format!("{auth:?}"), "Auth { .. }");
        let call = r#"{"id":"1","function":"f","params":{"prompt":"secret"}}"#;
        let call: ClientFrame = serde_json::from_str(call).unwrap();
        let shown = format!("{call:?}");
        assert!(shown.contains("\"1\"") && !shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_resumed_answer_is_not_shown_where_its_frame_is() {
        let call =
            r#"{"id":"1","function":"f","resume":{"tokens":[7777],"text_bytes":9,"seed":5}}"#;
        let call: ClientFrame = serde_json::from_str(call).unwrap();
        let shown = format!("{call:?}");
        assert!(shown.contains("text_bytes: 9") && !shown.contains("7777"), "{shown}");
    }

    #[test]
    fn an_id_has_one_to_sixty_four_bytes() {
        check(r#"{"type":"cancel","id":""}"#, Err("0 bytes"));
        let id = "é".repeat(32);
        let frame = format!(r#"{{"type":"cancel","id":"{id}"}}"#);
        check(&frame, Ok(ClientFrame::Cancel { id }));
        check(&format!(r#"{{"type":"cancel","id":"{}"}}"#, "x".repeat(65)), Err("65 bytes"));
    }
}
