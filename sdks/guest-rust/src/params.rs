//! Strict reading of a function's parameters: each is taken by name, and what is left is refused.

use miniserde::json::{self, Array, Number, Object, Value};

use crate::{Bias, Error, Message, Result};

/// A function's parameters. Take what the function knows, then call [`Params::finish`].
pub struct Params {
    fields: Object,
    /// As they were sent.
    pub(crate) text: String,
}

impl Params {
    /// Reads a JSON object.
    pub fn parse(json: &str) -> Result<Self> {
        match json::from_str(json) {
            Ok(Value::Object(fields)) => Ok(Self { fields, text: json.to_owned() }),
            Ok(_) | Err(_) => Err(Error::Invalid("params must be a JSON object".into())),
        }
    }

    /// The parameter of that name, if it is there and not `null`.
    pub fn take(&mut self, name: &str) -> Option<Value> {
        self.fields.remove(name).filter(|value| !matches!(value, Value::Null))
    }

    /// A text.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(wrong(name, "a string")),
        }
    }

    /// A text that must be there.
    pub fn required_text(&mut self, name: &str) -> Result<String> {
        self.text(name)?.ok_or_else(|| missing(name))
    }

    /// Yes or no.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(wrong(name, "true or false")),
        }
    }

    /// A whole number of at least 0.
    pub fn whole(&mut self, name: &str) -> Result<Option<u64>> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Number(Number::U64(number))) => Ok(Some(number)),
            Some(_) => Err(wrong(name, "a whole number of at least 0")),
        }
    }

    /// A whole number from `min` to the most that 32 bits hold.
    pub fn whole_u32(&mut self, name: &str, min: u32) -> Result<Option<u32>> {
        let Some(number) = self.whole(name)? else { return Ok(None) };
        match u32::try_from(number) {
            Ok(number) if number >= min => Ok(Some(number)),
            _ => Err(Error::Invalid(format!("`{name}` must be from {min} to {}", u32::MAX))),
        }
    }

    /// A number. Its range is the host's to check.
    pub fn number(&mut self, name: &str) -> Result<Option<f32>> {
        let Some(value) = self.take(name) else { return Ok(None) };
        single(&value).map(Some).ok_or_else(|| wrong(name, "a number"))
    }

    /// What is added to the logits of tokens: an object of numbers, by the tokens' ids. Their range
    /// and count are the host's to check.
    pub fn biases(&mut self, name: &str) -> Result<Vec<Bias>> {
        let biases = match self.take(name) {
            None => return Ok(Vec::new()),
            Some(Value::Object(biases)) => biases,
            Some(_) => return Err(wrong(name, "an object of numbers by token ids")),
        };
        let bias = |(key, value): (String, Value)| {
            let id = key.parse().ok().filter(|id: &u32| id.to_string() == key);
            let id = id.ok_or_else(|| wrong(name, "an object whose keys are token ids"))?;
            let by = single(&value).ok_or_else(|| wrong(&format!("{name}.{id}"), "a number"))?;
            Ok(Bias { id, by })
        };
        biases.into_iter().map(bias).collect()
    }

    /// One text or a list of texts.
    pub fn texts(&mut self, name: &str) -> Result<Vec<String>> {
        let expected = || wrong(name, "a string or a list of strings");
        match self.take(name) {
            None => Ok(Vec::new()),
            Some(Value::String(text)) => Ok(vec![text]),
            Some(Value::Array(values)) => values
                .into_iter()
                .map(
                    |value| {
                        if let Value::String(text) = value { Ok(text) } else { Err(expected()) }
                    },
                )
                .collect(),
            Some(_) => Err(expected()),
        }
    }

    /// The conversation in `messages`, which must be there and not be empty.
    pub fn messages(&mut self) -> Result<Vec<Message>> {
        let messages: Array = match self.take("messages") {
            None => return Err(missing("messages")),
            Some(Value::Array(messages)) if !messages.is_empty() => messages,
            Some(_) => return Err(wrong("messages", "a list of at least one message")),
        };
        messages.into_iter().enumerate().map(|(index, value)| message(index, value)).collect()
    }

    /// Refuses whatever has not been taken.
    pub fn finish(self) -> Result<()> {
        match self.fields.keys().next() {
            None => Ok(()),
            Some(name) => Err(Error::Invalid(format!("unknown parameter `{name}`"))),
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "samplers work in single precision"
)]
const fn single(value: &Value) -> Option<f32> {
    match value {
        Value::Number(Number::U64(number)) => Some(*number as f32),
        Value::Number(Number::I64(number)) => Some(*number as f32),
        Value::Number(Number::F64(number)) => Some(*number as f32),
        _ => None,
    }
}

/// The roles that chat templates know.
const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];

fn message(index: usize, value: Value) -> Result<Message> {
    let name = format!("messages[{index}]");
    let Value::Object(mut fields) = value else { return Err(wrong(&name, "an object")) };
    let mut text = |field: &str| match fields.remove(field) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(wrong(&format!("{name}.{field}"), "a string")),
        None => Err(missing(&format!("{name}.{field}"))),
    };
    let (role, content) = (text("role")?, text("content")?);
    if !ROLES.contains(&role.as_str()) {
        return Err(wrong(&format!("{name}.role"), &format!("one of {}", ROLES.join(", "))));
    }
    match fields.keys().next() {
        None => Ok(Message { role, content }),
        Some(field) => Err(Error::Invalid(format!("unknown parameter `{name}.{field}`"))),
    }
}

fn missing(name: &str) -> Error {
    Error::Invalid(format!("`{name}` is missing"))
}

pub(crate) fn wrong(name: &str, expected: &str) -> Error {
    Error::Invalid(format!("`{name}` must be {expected}"))
}
