//! How a request wants its tokens chosen: the program is passed what was asked, but what it would
//! refuse is refused here, where the parameter has a place of its own beside the message.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use realm_core::sampling::{BIAS, BIASES_MAX, RANGES, check_stop};
use serde_json::{Map, Value};

use super::Problem;

/// Whether a parameter is about this. Some are the API's own, and some what other servers of it
/// take besides.
pub(super) fn has(name: &str) -> bool {
    matches!(name, "top_k" | "seed" | "stop" | "logit_bias")
        || RANGES.iter().any(|range| range.name == name)
}

/// Whether leaving a parameter out changes nothing: many clients say what they do not mean, and
/// not every program knows every parameter.
pub(super) fn is_neutral(name: &str, value: &Value) -> bool {
    match name {
        "frequency_penalty" | "presence_penalty" => value.as_f64() == Some(0.0),
        "repetition_penalty" => value.as_f64() == Some(1.0),
        "logit_bias" => value.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// Refuses a value out of its bounds.
pub(super) fn check(name: &str, value: &Value) -> Result<(), Problem> {
    let checked = match name {
        "top_k" => whole(name, value, u32::MAX.into()),
        "seed" => whole(name, value, u64::MAX),
        "stop" => stop(value),
        "logit_bias" => bias(value),
        _ => number(name, value),
    };
    checked.map_err(|message| Problem::parameter(name, message))
}

fn number(name: &str, value: &Value) -> Result<(), String> {
    let Some(range) = RANGES.iter().find(|range| range.name == name) else { return Ok(()) };
    let number = value.as_f64().ok_or_else(|| format!("`{name}` must be a number"))?;
    range.check(number).map_err(|refusal| refusal.to_string())
}

fn whole(name: &str, value: &Value, max: u64) -> Result<(), String> {
    match value.as_u64() {
        Some(number) if number <= max => Ok(()),
        _ => Err(format!("`{name}` must be a whole number from 0 to {max}")),
    }
}

fn stop(value: &Value) -> Result<(), String> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let texts = match value {
        Value::Array(texts) => texts.iter().map(text).collect(),
        one => text(one).map(|text| vec![text]),
    };
    let texts: Vec<String> =
        texts.ok_or_else(|| "`stop` must be a text or a list of texts".to_owned())?;
    check_stop(&texts).map_err(|refusal| refusal.to_string())
}

/// Which tokens the model has is known only where it is.
fn bias(value: &Value) -> Result<(), String> {
    let name = BIAS.name;
    let biases = value.as_object().ok_or_else(|| format!("`{name}` must be an object"))?;
    if biases.len() > BIASES_MAX {
        let count = biases.len();
        return Err(format!("`{name}` names {count} tokens; {BIASES_MAX} are the most"));
    }
    for (id, by) in biases {
        if id.parse::<u32>().ok().is_none_or(|number| number.to_string() != *id) {
            return Err(format!("the keys of `{name}` must be ids of tokens"));
        }
        let by = by.as_f64().ok_or_else(|| format!("`{name}` must hold numbers"))?;
        BIAS.check(by).map_err(|refusal| refusal.to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_out_of_bounds_is_refused_by_name_with_its_bounds() {
        let many: Map<String, Value> =
            (0..=BIASES_MAX).map(|id| (id.to_string(), json!(1))).collect();
        for (name, value, said) in [
            ("temperature", json!(5.1), "from 0 to 5"),
            ("temperature", json!("hot"), "a number"),
            ("top_p", json!(0), "above 0 and at most 1"),
            ("min_p", json!(-0.1), "from 0 to 1"),
            ("typical_p", json!(0), "above 0 and at most 1"),
            ("repetition_penalty", json!(0), "above 0 and at most 10"),
            ("frequency_penalty", json!(2.1), "from -2 to 2"),
            ("presence_penalty", json!(-1e300), "from -2 to 2"),
            ("top_k", json!(-1), "from 0 to 4294967295"),
            ("seed", json!(1.5), "from 0 to 18446744073709551615"),
            ("stop", json!(["a", 1]), "a list of texts"),
            ("stop", json!(""), "1 to 256 bytes"),
            ("logit_bias", json!([1]), "an object"),
            ("logit_bias", json!({"1": 100.5}), "from -100 to 100"),
            ("logit_bias", json!({"1": null}), "numbers"),
            ("logit_bias", json!({"-1": 1}), "ids of tokens"),
            ("logit_bias", json!({"01": 1}), "ids of tokens"),
            ("logit_bias", many.into(), "1024 are the most"),
        ] {
            assert!(has(name));
            let error = check(name, &value).unwrap_err().to_json();
            let text = |pointer| error.pointer(pointer).and_then(Value::as_str).unwrap();
            assert_eq!((text("/error/param"), text("/error/code")), (name, "invalid"));
            let message = text("/error/message");
            assert!(message.contains(&format!("`{name}`")) && message.contains(said), "{message}");
        }
    }

    #[test]
    fn the_bounds_themselves_are_passed_on() {
        for (name, value) in [
            ("temperature", json!(5)),
            ("top_p", json!(1)),
            ("frequency_penalty", json!(-2)),
            ("logit_bias", json!({"0": -100, "4294967295": 100})),
            ("stop", json!("a")),
            ("seed", json!(u64::MAX)),
        ] {
            check(name, &value).unwrap();
            assert!(!is_neutral(name, &value));
        }
    }
}
