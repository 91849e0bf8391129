//! What a request for vectors asks for, in the parameters of the tenant's program.
//!
//! As in `request`, nothing that would change the answer is ignored.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use serde_json::{Map, Value};

use crate::{
    frame::clip,
    openai::{
        Problem,
        request::{missing, object},
    },
};

/// A request that can be passed on.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) params: Map<String, Value>,
    /// How many vectors the answer must have.
    pub(super) texts: usize,
    pub(super) encoding: Encoding,
}

/// How the client wants to read numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Encoding {
    #[default]
    Float,
    Base64,
}

pub(super) fn read(body: &[u8]) -> Result<Asked, Problem> {
    let (mut input, mut model, mut encoding) = (None, None, Encoding::default());
    let mut params = Map::new();
    for (name, value) in object(body)? {
        match (name.as_str(), value) {
            // The official clients write absent values as null; and the caller's own bookkeeping.
            (_, Value::Null) | ("user" | "safety_identifier", _) => {}
            ("input", value) => input = Some(value),
            ("model", Value::String(name)) => model = Some(name),
            ("encoding_format", value) => {
                encoding = match value.as_str() {
                    Some("float") => Encoding::Float,
                    Some("base64") => Encoding::Base64,
                    _ => return Err(wrong("encoding_format", "takes `float` or `base64`")),
                }
            }
            ("dimensions", value) => {
                params.insert(name, value);
            }
            ("model", _) => return Err(wrong("model", "is of the wrong type")),
            _ => return Err(wrong(clip(&name), "is not supported")),
        }
    }
    let model = model.ok_or_else(|| missing("model"))?;
    let texts = texts(input.ok_or_else(|| missing("input"))?)?;
    let count = texts.len();
    params.insert("model".into(), model.clone().into());
    params.insert("texts".into(), texts.into());
    Ok(Asked { model, params, texts: count, encoding })
}

/// The texts of an `input`: one or several, each as a string or as token ids. What is in a list of
/// ids is the program's to check.
fn texts(input: Value) -> Result<Vec<Value>, Problem> {
    match input {
        Value::String(_) => Ok(vec![input]),
        Value::Array(items) if all(&items, Value::is_u64) => Ok(vec![items.into()]),
        Value::Array(items) if all(&items, Value::is_string) || all(&items, Value::is_array) => {
            Ok(items)
        }
        _ => {
            let what = "takes a text, token ids, or a list of several of either";
            Err(wrong("input", what))
        }
    }
}

/// Whether there is something, and all of it is so.
fn all(items: &[Value], is_so: impl Fn(&Value) -> bool) -> bool {
    !items.is_empty() && items.iter().all(is_so)
}

fn wrong(param: &str, what: &str) -> Problem {
    Problem::parameter(param, format!("`{param}` {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn of(change: &Value) -> Result<Asked, Problem> {
        let mut body = json!({"model": "m", "input": "a"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        read(body.to_string().as_bytes())
    }

    fn check_input(input: &Value, expected: Option<&Value>) {
        let texts = of(&json!({ "input": input })).ok().map(|mut asked| {
            let texts = asked.params.remove("texts").unwrap();
            assert_eq!(asked.texts, texts.as_array().unwrap().len());
            texts
        });
        assert_eq!(texts.as_ref(), expected, "{input}");
    }

    #[test]
    fn an_input_is_a_text_or_token_ids_or_several_of_either() {
        for (input, texts) in [
            (json!("a"), json!(["a"])),
            (json!(["a"]), json!(["a"])),
            (json!(["a", ""]), json!(["a", ""])),
            (json!([1, 2]), json!([[1, 2]])),
            (json!([[1, 2], [3]]), json!([[1, 2], [3]])),
        ] {
            check_input(&input, Some(&texts));
        }
        for none in [json!([]), json!(["a", 1]), json!([1, [2]]), json!([-1]), json!(7), json!({})]
        {
            check_input(&none, None);
        }
    }

    #[test]
    fn a_parameter_is_passed_on_or_harmless_or_refused_by_name() {
        let asked = of(&json!({"dimensions": 8, "encoding_format": "base64", "user": "u"}));
        let params = json!({"model": "m", "dimensions": 8, "texts": ["a"]});
        let asked = asked.unwrap();
        assert_eq!((Value::from(asked.params), asked.encoding), (params, Encoding::Base64));
        assert_eq!(of(&json!({"encoding_format": null})).unwrap().encoding, Encoding::Float);
        for (change, param) in [
            (json!({"encoding_format": "int8"}), "encoding_format"),
            (json!({"model": null}), "model"),
            (json!({"model": 1}), "model"),
            (json!({"input": null}), "input"),
            (json!({"truncate": true}), "truncate"),
        ] {
            let problem = of(&change).unwrap_err().to_json();
            assert_eq!(problem.pointer("/error/param"), Some(&json!(param)), "{change}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_reader_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(read(&body));
        }
    }
}
