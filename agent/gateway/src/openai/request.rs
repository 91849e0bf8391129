//! What a request asks for, in the parameters of the tenant's program.
//!
//! A parameter is passed on, or has no meaning here and is harmless, or is refused by name.
//! Nothing that would change the answer is ignored. The program checks the values it is passed, and
//! those that this door knows the bounds of are checked here before.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_core::constraint::PARAMETER;
use serde_json::{Map, Value, json};

use super::{Problem, format, logprobs, response::Form, sampling};
use crate::frame::clip;

/// A request that can be passed on.
#[derive(Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) params: Map<String, Value>,
    pub(super) stream: bool,
    pub(super) wanted: Wanted,
}

/// What an answer has besides its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// At the end of a stream, where it is left out otherwise.
    pub(super) usage: bool,
    /// The probabilities of its tokens.
    pub(super) logprobs: bool,
}

/// Reads the body of a request.
pub(super) fn read(form: Form, body: &[u8]) -> Result<Asked, Problem> {
    match form {
        Form::Chat => chat(body),
        Form::Completion => completion(body),
    }
}

fn chat(body: &[u8]) -> Result<Asked, Problem> {
    let mut body = object(body)?;
    let messages = body.remove("messages").ok_or_else(|| missing("messages"))?;
    let mut asked = common(Form::Chat, body)?;
    asked.params.insert("messages".into(), conversation(messages)?);
    Ok(asked)
}

fn completion(body: &[u8]) -> Result<Asked, Problem> {
    let mut body = object(body)?;
    let prompt = match body.remove("prompt").ok_or_else(|| missing("prompt"))? {
        Value::String(prompt) => prompt,
        Value::Array(mut prompts) => match (prompts.pop(), prompts.is_empty()) {
            (Some(Value::String(prompt)), true) => prompt,
            _ => return Err(Problem::parameter("prompt", "`prompt` takes one text")),
        },
        _ => return Err(Problem::parameter("prompt", "`prompt` takes one text")),
    };
    let mut asked = common(Form::Completion, body)?;
    asked.params.insert("prompt".into(), prompt.into());
    Ok(asked)
}

pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, Problem> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("the body is not a JSON object: {error}");
        realm_core::refusal::Refusal::Invalid(clip(&message).to_owned()).into()
    })
}

pub(super) fn missing(param: &str) -> Problem {
    Problem::parameter(param, format!("`{param}` is missing"))
}

/// What both forms have in common.
fn common(form: Form, mut body: Map<String, Value>) -> Result<Asked, Problem> {
    // The official clients write absent values as null.
    body.retain(|_, value| !value.is_null());
    let mut params = Map::new();
    let logprobs = logprobs::take(form, &mut body)?;
    params.extend(logprobs.map(|count| ("logprobs".to_owned(), count.into())));
    let mut model = None;
    let (mut stream, mut include_usage) = (false, false);
    for (name, value) in body {
        match (name.as_str(), value) {
            ("model", Value::String(name)) => model = Some(name),
            ("stream", Value::Bool(value)) => stream = value,
            ("stream_options", Value::Object(options)) => include_usage = wants_usage(options)?,
            ("model" | "stream" | "stream_options", _) => {
                return Err(Problem::parameter(&name, format!("`{name}` is of the wrong type")));
            }
            ("max_tokens" | "max_completion_tokens", value) => {
                let before = params.insert("max_tokens".into(), value.clone());
                if before.is_some_and(|before| before != value) {
                    let message = "`max_tokens` and `max_completion_tokens` differ";
                    return Err(Problem::parameter(name, message));
                }
            }
            (setting, value) if sampling::has(setting) => {
                sampling::check(setting, &value)?;
                if !sampling::is_neutral(setting, &value) {
                    params.insert(name, value);
                }
            }
            (PARAMETER, value) => {
                format::check(&value)?;
                if !format::is_neutral(&value) {
                    params.insert(name, value);
                }
            }
            (_, value) => check_rest(form, &name, &value)?,
        }
    }
    let model = model.ok_or_else(|| missing("model"))?;
    params.insert("model".into(), model.clone().into());
    let wanted = Wanted { usage: include_usage, logprobs: logprobs.is_some() };
    Ok(Asked { model, params, stream, wanted })
}

fn wants_usage(options: Map<String, Value>) -> Result<bool, Problem> {
    let mut include_usage = false;
    for (name, value) in options {
        match (name.as_str(), value) {
            ("include_usage", Value::Bool(value)) => include_usage = value,
            ("include_obfuscation", Value::Bool(false)) | (_, Value::Null) => {}
            _ => {
                let param = format!("stream_options.{}", clip(&name));
                let message = format!("`{param}` is not supported");
                return Err(Problem::parameter(param, message));
            }
        }
    }
    Ok(include_usage)
}

/// Lets a parameter pass that is not passed on, if leaving it out changes nothing.
fn check_rest(form: Form, name: &str, value: &Value) -> Result<(), Problem> {
    let is_harmless = match name {
        // About the caller's own bookkeeping, and about tools, of which there are none.
        "user"
        | "metadata"
        | "store"
        | "safety_identifier"
        | "prompt_cache_key"
        | "parallel_tool_calls" => true,
        "tool_choice" => matches!(value.as_str(), Some("none" | "auto")),
        "service_tier" => matches!(value.as_str(), Some("auto" | "default")),
        "n" => value.as_u64() == Some(1),
        "tools" | "functions" if form == Form::Chat => value.as_array().is_some_and(Vec::is_empty),
        "modalities" if form == Form::Chat => value == &json!(["text"]),
        "best_of" if form == Form::Completion => value.as_u64() == Some(1),
        "echo" if form == Form::Completion => value == &Value::Bool(false),
        "suffix" if form == Form::Completion => value.as_str() == Some(""),
        _ => false,
    };
    if is_harmless {
        return Ok(());
    }
    let name = clip(name);
    Err(Problem::parameter(name, format!("`{name}` is not supported with this value")))
}

/// The messages as `[{role, content}]`.
fn conversation(messages: Value) -> Result<Value, Problem> {
    match messages {
        Value::Array(messages) if !messages.is_empty() => {
            let messages = messages.into_iter().enumerate();
            messages.map(|(index, message)| message_json(index, message)).collect()
        }
        _ => Err(Problem::parameter("messages", "`messages` takes a list with a message or more")),
    }
}

fn message_json(index: usize, message: Value) -> Result<Value, Problem> {
    let wrong = |part: &str, what: &str| {
        let param = format!("messages[{index}]{part}");
        let message = format!("`{param}` {what}");
        Problem::parameter(param, message)
    };
    let Value::Object(message) = message else { return Err(wrong("", "is not an object")) };
    let (mut role, mut content) = (None, None);
    for (name, value) in message {
        match (name.as_str(), value) {
            ("role", Value::String(text)) => role = Some(text),
            ("content", Value::String(text)) => content = Some(text),
            ("content", Value::Array(parts)) => {
                let text = parts.into_iter().map(part_text).collect::<Option<String>>();
                content =
                    Some(text.ok_or_else(|| wrong(".content", "takes text and parts of text"))?);
            }
            // What the official clients echo of an answer that had none of these.
            (_, Value::Null) => {}
            ("tool_calls" | "annotations", Value::Array(list)) if list.is_empty() => {}
            (name, _) => return Err(wrong(&format!(".{}", clip(name)), "is not supported")),
        }
    }
    let role = match role.ok_or_else(|| wrong(".role", "is missing"))?.as_str() {
        "system" | "developer" => "system",
        "user" => "user",
        "assistant" => "assistant",
        _ => return Err(wrong(".role", "takes system, developer, user or assistant")),
    };
    let content = content.ok_or_else(|| wrong(".content", "is missing"))?;
    Ok(json!({"role": role, "content": content}))
}

/// The text of one part of a content that is a list.
fn part_text(part: Value) -> Option<String> {
    let Value::Object(mut part) = part else { return None };
    let is_text = part.remove("type")? == "text";
    let text = part.remove("text")?;
    match text {
        Value::String(text) if is_text && part.is_empty() => Some(text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check_chat(extra: &Value, expected: Result<Value, &str>) {
        let messages = json!([{"role": "user", "content": "hi"}]);
        let mut body = Map::from_iter([
            ("model".to_owned(), json!("m")),
            ("messages".to_owned(), messages.clone()),
        ]);
        body.extend(extra.as_object().unwrap().clone());
        let read = chat(Value::from(body).to_string().as_bytes());
        match (read, expected) {
            (Ok(mut asked), Ok(params)) => {
                assert_eq!(asked.params.remove("model"), Some(json!("m")));
                assert_eq!(asked.params.remove("messages"), Some(messages));
                assert_eq!(Value::from(asked.params), params);
            }
            (Err(problem), Err(param)) => {
                assert_eq!(problem.to_json().pointer("/error/param"), Some(&json!(param)));
            }
            (got, expected) => panic!("{extra}: {got:?}, not {expected:?}"),
        }
    }

    #[test]
    fn parameters_of_sampling_are_passed_on() {
        let sampling = json!({
            "temperature": 0.5, "top_p": 0.9, "seed": 7, "stop": ["a"], "top_k": 3, "min_p": 0.1,
            "typical_p": 0.5, "repetition_penalty": 1.1, "frequency_penalty": 0.1,
            "presence_penalty": -2, "logit_bias": {"5": -100},
        });
        check_chat(&sampling, Ok(sampling.clone()));
        check_chat(&json!({"logprobs": true, "top_logprobs": 3}), Ok(json!({"logprobs": 3})));
        let schema = json!({"type": "object", "properties": {"z": {}, "a": {}}});
        let format = json!({"type": "json_schema", "json_schema": {"name": "n", "schema": schema}});
        check_chat(&json!({"response_format": format}), Ok(json!({"response_format": format})));
        check_chat(&json!({"max_completion_tokens": 5}), Ok(json!({"max_tokens": 5})));
        check_chat(
            &json!({"max_tokens": 5, "max_completion_tokens": 5}),
            Ok(json!({"max_tokens": 5})),
        );
        check_chat(&json!({"max_tokens": 4, "max_completion_tokens": 5}), Err("max_tokens"));
    }

    #[test]
    fn harmless_parameters_are_left_out_and_others_are_refused_by_name() {
        check_chat(
            &json!({
                "user": "u", "metadata": {}, "store": false, "n": 1, "presence_penalty": 0,
                "frequency_penalty": 0.0, "tools": [], "logprobs": false, "logit_bias": null,
                "response_format": {"type": "text"}, "stream_options": {"include_usage": true},
                "repetition_penalty": 1,
            }),
            Ok(json!({})),
        );
        for (name, value) in [
            ("n", json!(2)),
            ("presence_penalty", json!(2.1)),
            ("tools", json!([{"type": "function"}])),
            ("logprobs", json!(1)),
            ("response_format", json!("json")),
            ("stream", json!("yes")),
            ("colour", json!("red")),
            ("best_of", json!(1)),
        ] {
            check_chat(&json!({name: value}), Err(name));
        }
        check_chat(&json!({"stream_options": {"x": 1}}), Err("stream_options.x"));
    }

    #[test]
    fn messages_are_reduced_to_role_and_text() {
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let asked = chat(
            json!({"model": "m", "messages": [
                {"role": "developer", "content": "be brief"},
                {"role": "user", "content": parts},
                {"role": "assistant", "content": "c", "refusal": null, "tool_calls": []},
            ]})
            .to_string()
            .as_bytes(),
        )
        .unwrap();
        let expected = json!([
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": "ab"},
            {"role": "assistant", "content": "c"},
        ]);
        assert_eq!(asked.params.get("messages"), Some(&expected));
        check_chat(&json!({"messages": []}), Err("messages"));
        let image = json!([{"type": "image_url", "image_url": {"url": "data:"}}]);
        for (message, param) in [
            (json!({"role": "tool", "content": "x"}), "messages[0].role"),
            (json!({"role": "user", "content": image}), "messages[0].content"),
            (json!({"role": "user", "content": "x", "name": "bob"}), "messages[0].name"),
            (json!({"role": "user"}), "messages[0].content"),
            (json!("hi"), "messages[0]"),
        ] {
            check_chat(&json!({"messages": [message]}), Err(param));
        }
    }

    #[test]
    fn a_completion_takes_one_prompt() {
        let read = |prompt: Value| {
            completion(json!({"model": "m", "prompt": prompt}).to_string().as_bytes())
        };
        for prompt in [json!("once"), json!(["once"])] {
            assert_eq!(read(prompt).unwrap().params.get("prompt"), Some(&json!("once")));
        }
        for prompt in [json!(["a", "b"]), json!([]), json!([1, 2]), json!(1)] {
            read(prompt).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            drop((chat(&body), completion(&body)));
        }
    }
}
