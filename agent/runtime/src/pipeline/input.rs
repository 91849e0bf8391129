//! What a client sends to a pipeline: strictly what the pipeline declares.

use std::collections::HashMap;

use realm_core::{
    desired::{InputKind, PipelineInput},
    refusal::Refusal,
};
use serde_json::{Map, Value};

use crate::refusal::cut;

/// The parameters of the function `pipeline`.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) pipeline: String,
    pub(crate) input: Map<String, Value>,
}

impl Request {
    pub(crate) fn parse(params: &Value) -> Result<Self, Refusal> {
        let Value::Object(fields) = params else {
            return Err(invalid("params must be a JSON object".into()));
        };
        let known = |name: &&String| !matches!(name.as_str(), "pipeline" | "input");
        if let Some(name) = fields.keys().find(known) {
            return Err(invalid(format!("unknown parameter `{name}`")));
        }
        let Some(Value::String(pipeline)) = fields.get("pipeline") else {
            return Err(invalid("`pipeline` must be a string".into()));
        };
        let input = match fields.get("input") {
            None => Map::new(),
            Some(Value::Object(input)) => input.clone(),
            Some(_) => return Err(invalid("`input` must be an object".into())),
        };
        Ok(Self { pipeline: pipeline.clone(), input })
    }
}

/// Every declared input as text. One that is not required and not there is empty.
pub(crate) fn check(
    declared: &[PipelineInput],
    mut input: Map<String, Value>,
) -> Result<HashMap<String, String>, Refusal> {
    let mut inputs = HashMap::new();
    for PipelineInput { name, kind, required } in declared {
        let text = match input.remove(name) {
            Some(value) => text(name, *kind, value)?,
            None if *required => return Err(invalid(format!("`input.{name}` is missing"))),
            None => String::new(),
        };
        inputs.insert(name.clone(), text);
    }
    match input.keys().next() {
        None => Ok(inputs),
        Some(name) => Err(invalid(format!("unknown parameter `input.{name}`"))),
    }
}

fn text(name: &str, kind: InputKind, value: Value) -> Result<String, Refusal> {
    let expected = match (kind, value) {
        (InputKind::String, Value::String(text)) => return Ok(text),
        (InputKind::Integer, Value::Number(number)) if !number.is_f64() => {
            return Ok(number.to_string());
        }
        (InputKind::Number, Value::Number(number)) => return Ok(number.to_string()),
        (InputKind::Boolean, Value::Bool(flag)) => return Ok(flag.to_string()),
        (InputKind::String, _) => "a string",
        (InputKind::Integer, _) => "an integer",
        (InputKind::Number, _) => "a number",
        (InputKind::Boolean, _) => "true or false",
    };
    Err(invalid(format!("`input.{name}` must be {expected}")))
}

fn invalid(message: String) -> Refusal {
    Refusal::Invalid(cut(message))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(input: &Value) -> Result<HashMap<String, String>, Refusal> {
        let input_of =
            |name: &str, kind, required| PipelineInput { name: name.into(), kind, required };
        let declared = [
            input_of("text", InputKind::String, true),
            input_of("count", InputKind::Integer, false),
            input_of("share", InputKind::Number, false),
            input_of("loud", InputKind::Boolean, false),
        ];
        let request = Request::parse(&json!({ "pipeline": "p", "input": input }))?;
        check(&declared, request.input)
    }

    #[test]
    fn inputs_of_the_declared_types_become_text() {
        let inputs =
            checked(&json!({ "text": "a", "count": -3, "share": 0.5, "loud": true })).unwrap();
        assert_eq!(inputs["count"], "-3");
        assert_eq!(inputs["share"], "0.5");
        assert_eq!(inputs["loud"], "true");
        assert_eq!(checked(&json!({ "text": "a" })).unwrap()["count"], "");
    }

    #[test]
    fn an_input_that_is_missing_unknown_or_of_another_type_is_named() {
        for (input, named) in [
            (json!({}), "input.text"),
            (json!({ "text": 1 }), "input.text"),
            (json!({ "text": "a", "count": 1.5 }), "input.count"),
            (json!({ "text": "a", "share": "1" }), "input.share"),
            (json!({ "text": "a", "loud": 1 }), "input.loud"),
            (json!({ "text": "a", "other": 1 }), "input.other"),
            (json!([]), "input"),
        ] {
            let refusal = checked(&input).unwrap_err();
            let Refusal::Invalid(message) = refusal else { panic!("{refusal}") };
            assert!(message.contains(named), "{message}");
        }
        Request::parse(&json!({ "pipeline": "p", "more": 1 })).unwrap_err();
        Request::parse(&json!({ "input": {} })).unwrap_err();
    }
}
