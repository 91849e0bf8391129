//! What an answer keeps to, as callers say it.

use miniserde::json::{Object, Value};

use crate::{Constraint, Error, Params, Result, params::wrong, raw};

impl Params {
    /// The form of an answer, in the words of the common APIs: an object whose `type` is `text`,
    /// `json_object`, `json_schema`, `regex` or `grammar`, with what it needs beside it. Whether
    /// that means anything is the host's to say.
    pub fn constraint(&mut self, name: &str) -> Result<Option<Constraint>> {
        let mut format = match self.take(name) {
            None => return Ok(None),
            Some(Value::Object(format)) => format,
            Some(_) => return Err(wrong(name, "an object")),
        };
        let kind = text(&mut format, name, "type")?;
        let constraint = match kind.as_str() {
            "text" => None,
            "json_object" => Some(Constraint::JsonObject),
            "json_schema" => Some(Constraint::JsonSchema(self.schema(name, &mut format)?)),
            "regex" => Some(Constraint::Regex(text(&mut format, name, "regex")?)),
            "grammar" => Some(Constraint::Grammar(text(&mut format, name, "grammar")?)),
            _ => {
                let kinds = "`text`, `json_object`, `json_schema`, `regex` or `grammar`";
                return Err(wrong(&format!("{name}.type"), kinds));
            }
        };
        nothing_left(&format, name)?;
        Ok(constraint)
    }

    /// The schema as it was sent: an answer has its keys in the schema's order.
    fn schema(&self, name: &str, format: &mut Object) -> Result<String> {
        let path = format!("{name}.json_schema");
        let Some(Value::Object(mut named)) = format.remove("json_schema") else {
            return Err(wrong(&path, "an object"));
        };
        match named.remove("schema") {
            Some(Value::Object(_) | Value::Bool(_)) => {}
            _ => return Err(wrong(&format!("{path}.schema"), "a JSON schema")),
        }
        // A schema is always kept to, and what it is called is for its owner.
        for label in ["name", "description"] {
            if !matches!(named.remove(label), None | Some(Value::Null | Value::String(_))) {
                return Err(wrong(&format!("{path}.{label}"), "a string"));
            }
        }
        if !matches!(named.remove("strict"), None | Some(Value::Null | Value::Bool(_))) {
            return Err(wrong(&format!("{path}.strict"), "a boolean"));
        }
        nothing_left(&named, &path)?;
        let schema =
            [name, "json_schema", "schema"].into_iter().try_fold(self.text.as_str(), raw::member);
        schema.map(str::to_owned).ok_or_else(|| wrong(&format!("{path}.schema"), "a JSON schema"))
    }
}

fn text(format: &mut Object, name: &str, field: &str) -> Result<String> {
    match format.remove(field) {
        Some(Value::String(text)) => Ok(text),
        _ => Err(wrong(&format!("{name}.{field}"), "a string")),
    }
}

fn nothing_left(fields: &Object, name: &str) -> Result<()> {
    match fields.keys().next() {
        None => Ok(()),
        Some(field) => Err(Error::Invalid(format!("unknown parameter `{name}.{field}`"))),
    }
}
