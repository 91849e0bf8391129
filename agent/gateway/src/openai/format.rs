//! What a request wants its answer to keep to: the API's own words, and `regex` and `grammar`
//! besides. The program is passed what was asked; what is no such form is refused here, and what
//! cannot be compiled where it is.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_core::constraint::{Constraint, PARAMETER};
use serde_json::{Map, Value};

use super::Problem;
use crate::frame::clip;

/// Whether leaving it out changes nothing.
pub(super) fn is_neutral(value: &Value) -> bool {
    value.get("type").and_then(Value::as_str) == Some("text")
}

/// Refuses what is no form of an answer.
pub(super) fn check(value: &Value) -> Result<(), Problem> {
    let format = object(value, PARAMETER)?;
    let (field, constraint) = match text(format, "type")?.as_str() {
        "text" => ("type", None),
        "json_object" => ("type", Some(Constraint::JsonObject)),
        "json_schema" => ("json_schema", Some(Constraint::JsonSchema(schema(format)?))),
        "regex" => ("regex", Some(Constraint::Regex(text(format, "regex")?))),
        "grammar" => ("grammar", Some(Constraint::Lark(text(format, "grammar")?))),
        _ => {
            let kinds = "`text`, `json_object`, `json_schema`, `regex` or `grammar`";
            return Err(wrong("type", &format!("must be {kinds}")));
        }
    };
    let checked = constraint.map_or(Ok(()), |constraint| constraint.check());
    checked.map_err(|refusal| Problem::parameter(PARAMETER, refusal.to_string()))?;
    match format.keys().find(|name| !["type", field].contains(&name.as_str())) {
        Some(name) => Err(wrong(clip(name), "is not supported")),
        None => Ok(()),
    }
}

/// A schema's text. It is always kept to, whatever `strict` says.
fn schema(format: &Map<String, Value>) -> Result<String, Problem> {
    let named = format.get("json_schema").unwrap_or(&Value::Null);
    let named = object(named, "response_format.json_schema")?;
    let is_known = |name: &str| ["name", "description", "schema", "strict"].contains(&name);
    if let Some(name) = named.keys().find(|name| !is_known(name)) {
        let name = format!("json_schema.{}", clip(name));
        return Err(wrong(&name, "is not supported"));
    }
    match named.get("schema") {
        Some(schema @ (Value::Object(_) | Value::Bool(_))) => Ok(schema.to_string()),
        _ => Err(wrong("json_schema.schema", "must be a JSON schema")),
    }
}

fn object<'v>(value: &'v Value, name: &str) -> Result<&'v Map<String, Value>, Problem> {
    let message = || Problem::parameter(name, format!("`{name}` must be an object"));
    value.as_object().ok_or_else(message)
}

fn text(format: &Map<String, Value>, name: &str) -> Result<String, Problem> {
    let text = format.get(name).and_then(Value::as_str);
    text.map(str::to_owned).ok_or_else(|| wrong(name, "must be a text"))
}

fn wrong(field: &str, what: &str) -> Problem {
    let name = format!("{PARAMETER}.{field}");
    let message = format!("`{name}` {what}");
    Problem::parameter(name, message)
}

#[cfg(test)]
mod tests {
    use realm_core::constraint::SOURCE_BYTES_MAX;
    use serde_json::json;

    use super::*;

    #[test]
    fn forms_that_are_none_are_refused_by_name() {
        let long = "a".repeat(SOURCE_BYTES_MAX + 1);
        for (value, param) in [
            (json!("json"), "response_format"),
            (json!({}), "response_format.type"),
            (json!({"type": "xml"}), "response_format.type"),
            (json!({"type": "json_object", "x": 1}), "response_format.x"),
            (json!({"type": "json_schema"}), "response_format.json_schema"),
            (
                json!({"type": "json_schema", "json_schema": {}}),
                "response_format.json_schema.schema",
            ),
            (
                json!({"type": "json_schema", "json_schema": {"schema": {}, "x": 1}}),
                "response_format.json_schema.x",
            ),
            (json!({"type": "regex", "regex": 1}), "response_format.regex"),
            (json!({"type": "grammar"}), "response_format.grammar"),
            (json!({"type": "regex", "regex": long}), "response_format"),
        ] {
            let error = check(&value).unwrap_err().to_json();
            assert_eq!(error.pointer("/error/param"), Some(&json!(param)), "{value}");
        }
    }

    #[test]
    fn forms_that_are_known_pass_and_text_changes_nothing() {
        for value in [
            json!({"type": "json_object"}),
            json!({"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strict": true}}),
            json!({"type": "json_schema", "json_schema": {"schema": true, "strict": null}}),
            json!({"type": "regex", "regex": "a+"}),
            json!({"type": "grammar", "grammar": "start: \"a\""}),
        ] {
            assert!(check(&value).is_ok() && !is_neutral(&value), "{value}");
        }
        let text = json!({"type": "text"});
        assert!(check(&text).is_ok() && is_neutral(&text));
    }
}
