//! The result of a call in one piece.

use realm_core::{
    engine::Logprobs,
    refusal::{ProgramLimit, Refusal},
    reply::{Chunk, ChunkBody},
};
use realm_proto::ws::SERVER_MESSAGE_BYTES_MAX;
use serde_json::{Value, json};

use crate::scored;

/// All that is gathered for one call, which either door sends in one piece.
const WHOLE_BYTES_MAX: u64 = SERVER_MESSAGE_BYTES_MAX as u64;

/// Gathers what a call that is not streamed writes, within its tenant's limit on output and what
/// one message holds.
#[derive(Debug)]
pub(crate) struct Whole {
    text: String,
    logprobs: Vec<Logprobs>,
    values: Vec<Value>,
    bytes: u64,
    bytes_max: u64,
}

impl Whole {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let (text, logprobs, values) = (String::new(), Vec::new(), Vec::new());
        Self { text, logprobs, values, bytes: 0, bytes_max: bytes_max.min(WHOLE_BYTES_MAX) }
    }

    /// Takes a piece. What a pipeline's step wrote is left out: its text comes by name, among
    /// the outputs.
    pub(crate) fn push(&mut self, chunk: Chunk) -> Result<(), Refusal> {
        let Chunk { step: None, body, logprobs, progress: _ } = chunk else { return Ok(()) };
        let bytes = match &body {
            ChunkBody::Text(text) => text.len(),
            ChunkBody::Json(value) => value.to_string().len(),
        };
        let bytes = logprobs.iter().map(Logprobs::output_bytes).fold(bytes, usize::saturating_add);
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        if self.bytes > self.bytes_max {
            return Err(Refusal::ProgramLimit { limit: ProgramLimit::Output, max: self.bytes_max });
        }
        match body {
            ChunkBody::Text(text) => self.text.push_str(&text),
            ChunkBody::Json(value) => self.values.push(value),
        }
        self.logprobs.extend(logprobs);
        Ok(())
    }

    /// The text with its tokens' probabilities, where the door can carry nothing else.
    pub(crate) fn into_text(self) -> Result<(String, Vec<Logprobs>), Refusal> {
        if self.values.is_empty() { Ok((self.text, self.logprobs)) } else { Err(not_text()) }
    }

    /// The `data` of the last frame: what the function returned where that is all, otherwise
    /// what it wrote with what it returned beside it.
    pub(crate) fn into_data(self, result: Value) -> Value {
        let Self { text, logprobs, values, bytes: _, bytes_max: _ } = self;
        if text.is_empty() && values.is_empty() && !result.is_null() {
            return result;
        }
        let mut data = json!({ "text": text });
        if !logprobs.is_empty() {
            data["logprobs"] =
                logprobs.into_iter().map(|told| json!(scored::frame(told))).collect();
        }
        if !values.is_empty() {
            data["values"] = Value::Array(values);
        }
        if !result.is_null() {
            data["result"] = result;
        }
        data
    }
}

/// A program wrote a value where only text can be passed on.
pub(crate) fn not_text() -> Refusal {
    Refusal::ProgramFailed("it wrote a value where only text can be passed on".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Chunk {
        let body = ChunkBody::Text(text.into());
        Chunk { step: None, body, logprobs: Vec::new(), progress: None }
    }

    #[test]
    fn text_is_the_result_unless_the_function_returned_one() {
        let mut whole = Whole::new(100);
        whole.push(text("Hel")).unwrap();
        whole.push(text("lo")).unwrap();
        let step = Chunk { step: Some("summary".into()), ..text("left out") };
        whole.push(step).unwrap();
        assert_eq!(whole.into_data(Value::Null), json!({"text": "Hello"}));
        assert_eq!(Whole::new(9).into_data(json!({"count": 2})), json!({"count": 2}));
        let mut whole = Whole::new(100);
        whole.push(Chunk { body: ChunkBody::Json(json!(1)), ..text("") }).unwrap();
        assert_eq!(whole.into_data(Value::Null), json!({"text": "", "values": [1]}));
    }

    #[test]
    fn what_was_written_is_not_lost_when_the_function_returns_something_too() {
        let mut whole = Whole::new(100);
        whole.push(text("Hello")).unwrap();
        let result = json!({"count": 2});
        let both = json!({"text": "Hello", "result": {"count": 2}});
        assert_eq!(whole.into_data(result.clone()), both);
        let mut whole = Whole::new(100);
        whole.push(Chunk { body: ChunkBody::Json(json!(1)), ..text("") }).unwrap();
        let both = json!({"text": "", "values": [1], "result": {"count": 2}});
        assert_eq!(whole.into_data(result), both);
    }

    #[test]
    fn more_output_than_the_tenant_may_write_is_refused() {
        let mut whole = Whole::new(4);
        whole.push(text("four")).unwrap();
        let refusal = Refusal::ProgramLimit { limit: ProgramLimit::Output, max: 4 };
        assert_eq!(whole.push(text("!")).unwrap_err(), refusal);
    }

    #[test]
    fn more_output_than_a_message_holds_is_refused_whatever_the_tenant_may_write() {
        let mut whole = Whole::new(u64::MAX);
        let mebibyte = "x".repeat(1 << 20);
        for _ in 0..8 {
            whole.push(text(&mebibyte)).unwrap();
        }
        assert_eq!(whole.push(text("!")).unwrap_err(), crate::frame::output_too_large());
    }
}
