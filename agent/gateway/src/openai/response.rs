//! The API's objects: an answer in one piece, and the pieces of a stream.

use axum::response::{IntoResponse, Response};
use realm_core::engine::{Finish, Usage};
use serde_json::{Value, json};

/// The two shapes the API has for the same thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Chat,
    Completion,
}

impl Form {
    pub(super) const fn function(self) -> &'static str {
        match self {
            Self::Chat => "chat",
            Self::Completion => "generate",
        }
    }

    /// The parameter with what the model reads.
    pub(super) const fn input(self) -> &'static str {
        match self {
            Self::Chat => "messages",
            Self::Completion => "prompt",
        }
    }

    pub(super) const fn id_prefix(self) -> &'static str {
        match self {
            Self::Chat => "chatcmpl",
            Self::Completion => "cmpl",
        }
    }
}

/// A text, and the probabilities of its tokens in the API's form.
#[derive(Debug)]
pub(super) struct Said<'a> {
    pub(super) text: &'a str,
    pub(super) logprobs: Value,
}

/// What every object of one answer repeats.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) form: Form,
    /// Seconds since the Unix epoch.
    pub(super) created: u64,
    pub(super) model: String,
}

impl Head {
    /// The whole answer.
    pub(super) fn whole(&self, said: Said<'_>, finish: Finish, usage: Usage) -> Value {
        let Said { text, logprobs } = said;
        let finish = finish_reason(finish);
        let (object, choice) = match self.form {
            Form::Chat => {
                let message = json!({"role": "assistant", "content": text, "refusal": null});
                (
                    "chat.completion",
                    json!({
                        "index": 0, "message": message, "logprobs": logprobs,
                        "finish_reason": finish,
                    }),
                )
            }
            Form::Completion => (
                "text_completion",
                json!({
                    "index": 0, "text": text, "logprobs": logprobs, "finish_reason": finish,
                }),
            ),
        };
        let mut whole = self.object(object, vec![choice]);
        whole["usage"] = usage_json(usage);
        whole
    }

    /// The first piece of a chat, which says who speaks. A completion has none.
    pub(super) fn opening(&self) -> Option<Value> {
        match self.form {
            Form::Chat => {
                let delta = json!({"role": "assistant", "content": ""});
                Some(self.chat_piece(&delta, Value::Null, None))
            }
            Form::Completion => None,
        }
    }

    pub(super) fn piece(&self, said: Said<'_>) -> Value {
        let Said { text, logprobs } = said;
        match self.form {
            Form::Chat => self.chat_piece(&json!({ "content": text }), logprobs, None),
            Form::Completion => self.completion_piece(text, logprobs, None),
        }
    }

    /// The piece that says how it ended.
    pub(super) fn ending(&self, finish: Finish) -> Value {
        let finish = Some(finish_reason(finish));
        match self.form {
            Form::Chat => self.chat_piece(&json!({}), Value::Null, finish),
            Form::Completion => self.completion_piece("", Value::Null, finish),
        }
    }

    /// The piece after the last that says what it cost, for those who asked.
    pub(super) fn cost(&self, usage: Usage) -> Value {
        let mut piece = self.object(self.piece_object(), Vec::new());
        piece["usage"] = usage_json(usage);
        piece
    }

    fn chat_piece(&self, delta: &Value, logprobs: Value, finish: Option<&str>) -> Value {
        let mut choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        choice["logprobs"] = logprobs;
        self.object(self.piece_object(), vec![choice])
    }

    fn completion_piece(&self, text: &str, logprobs: Value, finish: Option<&str>) -> Value {
        let mut choice = json!({"index": 0, "text": text, "finish_reason": finish});
        choice["logprobs"] = logprobs;
        self.object(self.piece_object(), vec![choice])
    }

    const fn piece_object(&self) -> &'static str {
        match self.form {
            Form::Chat => "chat.completion.chunk",
            Form::Completion => "text_completion",
        }
    }

    fn object(&self, object: &str, choices: Vec<Value>) -> Value {
        let Self { id, form: _, created, model } = self;
        let mut whole = json!({"id": id, "object": object, "created": created, "model": model});
        whole["choices"] = Value::Array(choices);
        whole
    }

    /// A response that carries the answer's id.
    pub(super) fn headed(&self, response: impl IntoResponse) -> Response {
        super::headed(&self.id, response)
    }
}

const fn finish_reason(finish: Finish) -> &'static str {
    match finish {
        Finish::Stop => "stop",
        Finish::Length => "length",
    }
}

fn usage_json(usage: Usage) -> Value {
    let Usage { prompt_tokens, cached_tokens, completion_tokens } = usage;
    json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": u64::from(prompt_tokens) + u64::from(completion_tokens),
        "prompt_tokens_details": {"cached_tokens": cached_tokens},
    })
}
