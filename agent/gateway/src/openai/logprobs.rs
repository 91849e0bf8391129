//! Probabilities of tokens: how each form of the API asks for them, and how it is told them.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_core::{
    engine::{Logprobs, ScoredToken},
    sampling::LOGPROBS_MAX,
};
use serde_json::{Map, Value, json};

use super::{Problem, response::Form};
use crate::scored::decimal;

/// Takes what a request says about them out of it: how many of the likeliest tokens are to be told
/// with each token, if anything is.
pub(super) fn take(form: Form, body: &mut Map<String, Value>) -> Result<Option<u32>, Problem> {
    match form {
        Form::Chat => of_chat(body),
        Form::Completion => body.remove("logprobs").map(|count| of("logprobs", &count)).transpose(),
    }
}

fn of_chat(body: &mut Map<String, Value>) -> Result<Option<u32>, Problem> {
    let (asked, top) = (body.remove("logprobs"), body.remove("top_logprobs"));
    let top = top.map(|top| of("top_logprobs", &top)).transpose()?;
    match (asked, top) {
        (Some(Value::Bool(true)), top) => Ok(Some(top.unwrap_or(0))),
        (Some(Value::Bool(false)) | None, None | Some(0)) => Ok(None),
        (Some(Value::Bool(false)) | None, Some(_)) => {
            let message = "`top_logprobs` needs `logprobs` to be true";
            Err(Problem::parameter("top_logprobs", message))
        }
        (Some(_), _) => Err(Problem::parameter("logprobs", "`logprobs` must be true or false")),
    }
}

fn of(name: &str, count: &Value) -> Result<u32, Problem> {
    let count = count.as_u64().and_then(|count| u32::try_from(count).ok());
    count.filter(|count| *count <= LOGPROBS_MAX).ok_or_else(|| {
        let message = format!("`{name}` must be a whole number from 0 to {LOGPROBS_MAX}");
        Problem::parameter(name, message)
    })
}

/// Tells the probabilities of one answer's tokens, piece by piece, if they were asked for.
pub(super) struct Telling {
    form: Form,
    is_asked: bool,
    /// Characters of the tokens that were told.
    offset: usize,
}

impl Telling {
    pub(super) const fn new(form: Form, is_asked: bool) -> Self {
        Self { form, is_asked, offset: 0 }
    }

    /// Those of a piece of a stream, which need not have any.
    pub(super) fn piece(&mut self, told: Vec<Logprobs>) -> Value {
        if told.is_empty() { Value::Null } else { self.whole(told) }
    }

    /// Those of the whole answer.
    pub(super) fn whole(&mut self, told: Vec<Logprobs>) -> Value {
        match (self.is_asked, self.form) {
            (false, _) => Value::Null,
            (true, Form::Chat) => {
                let content: Value = told.into_iter().map(content_json).collect();
                json!({"content": content, "refusal": null})
            }
            (true, Form::Completion) => self.columns(told),
        }
    }

    fn columns(&mut self, told: Vec<Logprobs>) -> Value {
        let (mut tokens, mut logprobs) = (Vec::new(), Vec::new());
        let (mut tops, mut offsets) = (Vec::new(), Vec::new());
        for Logprobs { chosen, top } in told {
            let name = name_of(&chosen);
            let mut likeliest: Map<String, Value> =
                top.iter().map(|token| (name_of(token), decimal(token.logprob).into())).collect();
            likeliest.insert(name.clone(), decimal(chosen.logprob).into());
            tokens.push(name);
            logprobs.push(decimal(chosen.logprob));
            tops.push(likeliest);
            offsets.push(self.offset);
            self.offset = self.offset.saturating_add(characters(&chosen.bytes));
        }
        json!({
            "tokens": tokens, "token_logprobs": logprobs, "top_logprobs": tops,
            "text_offset": offsets,
        })
    }
}

fn content_json(Logprobs { chosen, top }: Logprobs) -> Value {
    let top = top.iter().map(token_json).map(Value::from).collect();
    let mut content = token_json(&chosen);
    content.insert("top_logprobs".into(), top);
    content.into()
}

fn token_json(ScoredToken { id: _, bytes, logprob }: &ScoredToken) -> Map<String, Value> {
    let text = String::from_utf8_lossy(bytes).into_owned();
    Map::from_iter([
        ("token".to_owned(), text.into()),
        ("logprob".to_owned(), decimal(*logprob).into()),
        ("bytes".to_owned(), bytes.as_slice().into()),
    ])
}

/// A token's text, or its bytes in the API's own manner where it has none by itself: two tokens
/// must not have one name.
fn name_of(token: &ScoredToken) -> String {
    if let Ok(text) = std::str::from_utf8(&token.bytes) {
        return text.to_owned();
    }
    let bytes = token.bytes.iter().map(|byte| format!("\\x{byte:02x}"));
    format!("bytes:{}", bytes.collect::<String>())
}

/// How many characters begin in these bytes.
fn characters(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| *byte & 0b1100_0000 != 0b1000_0000).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(form: Form, body: &Value, expected: Result<Option<u32>, &str>) {
        let mut body = body.as_object().unwrap().clone();
        match (take(form, &mut body), expected) {
            (Ok(got), Ok(expected)) => assert_eq!((got, body.len()), (expected, 0)),
            (Err(problem), Err(param)) => {
                assert_eq!(problem.to_json().pointer("/error/param"), Some(&json!(param)));
            }
            (got, expected) => panic!("{body:?}: {got:?}, not {expected:?}"),
        }
    }

    #[test]
    fn each_form_asks_in_its_own_way() {
        let chat = |body: Value, expected| check(Form::Chat, &body, expected);
        chat(json!({}), Ok(None));
        chat(json!({"logprobs": false, "top_logprobs": 0}), Ok(None));
        chat(json!({"logprobs": true}), Ok(Some(0)));
        chat(json!({"logprobs": true, "top_logprobs": 20}), Ok(Some(20)));
        chat(json!({"logprobs": true, "top_logprobs": 21}), Err("top_logprobs"));
        chat(json!({"logprobs": true, "top_logprobs": -1}), Err("top_logprobs"));
        chat(json!({"top_logprobs": 1}), Err("top_logprobs"));
        chat(json!({"logprobs": 1}), Err("logprobs"));
        let completion = |body: Value, expected| check(Form::Completion, &body, expected);
        completion(json!({}), Ok(None));
        completion(json!({"logprobs": 0}), Ok(Some(0)));
        completion(json!({"logprobs": 5}), Ok(Some(5)));
        completion(json!({"logprobs": 1.5}), Err("logprobs"));
        completion(json!({"logprobs": true}), Err("logprobs"));
    }

    fn token(bytes: &[u8], logprob: f32) -> ScoredToken {
        ScoredToken { id: 1, bytes: bytes.into(), logprob }
    }

    fn told() -> Vec<Logprobs> {
        let half = token(b" \xc3", -0.5);
        vec![
            Logprobs { chosen: half.clone(), top: vec![token(b" a", -0.1), half] },
            Logprobs { chosen: token(b"\xa9", -1.0), top: Vec::new() },
        ]
    }

    #[test]
    fn a_chat_has_a_list_of_tokens() {
        let expected = json!({
            "content": [
                {"token": " \u{fffd}", "logprob": -0.5, "bytes": [32, 195], "top_logprobs": [
                    {"token": " a", "logprob": -0.1, "bytes": [32, 97]},
                    {"token": " \u{fffd}", "logprob": -0.5, "bytes": [32, 195]},
                ]},
                {"token": "\u{fffd}", "logprob": -1.0, "bytes": [169], "top_logprobs": []},
            ],
            "refusal": null,
        });
        assert_eq!(Telling::new(Form::Chat, true).piece(told()), expected);
        let empty = json!({"content": [], "refusal": null});
        assert_eq!(Telling::new(Form::Chat, true).whole(Vec::new()), empty);
        assert_eq!(Telling::new(Form::Chat, true).piece(Vec::new()), Value::Null);
        assert_eq!(Telling::new(Form::Chat, false).whole(told()), Value::Null);
    }

    #[test]
    fn a_completion_has_columns_whose_offsets_go_on_from_piece_to_piece() {
        let mut telling = Telling::new(Form::Completion, true);
        let columns = |offsets: [usize; 2]| {
            json!({
                "tokens": ["bytes:\\x20\\xc3", "bytes:\\xa9"],
                "token_logprobs": [-0.5, -1.0],
                "top_logprobs": [
                    {" a": -0.1, "bytes:\\x20\\xc3": -0.5},
                    {"bytes:\\xa9": -1.0},
                ],
                "text_offset": offsets,
            })
        };
        assert_eq!(telling.piece(told()), columns([0, 2]));
        assert_eq!(telling.piece(told()), columns([2, 4]));
    }
}
