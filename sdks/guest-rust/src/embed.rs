//! Texts from parameters, and their vectors as a function's result.

use miniserde::json::{Number, Value};

use crate::{Embedded, Error, Params, Result, Text, TokenId};

const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Takes `text`, or `texts`: a list of texts, each a string or a list of token ids.
pub fn texts(params: &mut Params) -> Result<Vec<Text>> {
    match (params.take("text"), params.take("texts")) {
        (Some(value), None) => Ok(vec![text(value, "text")?]),
        (None, Some(Value::Array(values))) => {
            let values = values.into_iter().enumerate();
            values.map(|(at, value)| text(value, &format!("texts[{at}]"))).collect()
        }
        (None, Some(_)) => Err(Error::Invalid("`texts` must be a list".into())),
        (Some(_), Some(_)) => Err(Error::Invalid("`text` or `texts`, not both".into())),
        (None, None) => Err(Error::Invalid("`text` or `texts` is missing".into())),
    }
}

fn text(value: Value, name: &str) -> Result<Text> {
    let wrong = || Error::Invalid(format!("`{name}` must be a string or a list of token ids"));
    match value {
        Value::String(words) => Ok(Text::Words(words)),
        Value::Array(ids) => {
            let id = |value| match value {
                Value::Number(Number::U64(id)) => TokenId::try_from(id).map_err(|_| wrong()),
                _ => Err(wrong()),
            };
            Ok(Text::Tokens(ids.into_iter().map(id).collect::<Result<_>>()?))
        }
        _ => Err(wrong()),
    }
}

/// `{"vectors":[..],"dimensions":..,"tokens":[..]}`, as JSON text. Each vector is the base64 of its
/// numbers, four bytes each with the lowest first: a third of what digits take.
pub fn result(embedded: Embedded) -> String {
    let Embedded { vectors, tokens } = embedded;
    let dimensions = vectors.first().map_or(0, Vec::len);
    let characters = (dimensions * 4).div_ceil(3) * 4;
    // At once, so that nothing as large as this is ever there twice.
    let mut json = String::with_capacity(vectors.len() * (characters + 16) + 64);
    json.push_str(r#"{"vectors":["#);
    for (at, vector) in vectors.into_iter().enumerate() {
        json.push_str(if at == 0 { "\"" } else { ",\"" });
        push_base64(&mut json, vector.into_iter().flat_map(f32::to_le_bytes));
        json.push('"');
    }
    json.push_str(&format!(r#"],"dimensions":{dimensions},"tokens":["#));
    for (at, count) in tokens.into_iter().enumerate() {
        if at > 0 {
            json.push(',');
        }
        json.push_str(&count.to_string());
    }
    json.push_str("]}");
    json
}

fn push_base64(text: &mut String, mut bytes: impl Iterator<Item = u8>) {
    while let Some(first) = bytes.next() {
        let (second, third) = (bytes.next(), bytes.next());
        let group = [first, second.unwrap_or(0), third.unwrap_or(0)];
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        let character = |shift: u32| char::from(BASE64[(bits >> shift) as usize & 63]);
        text.push(character(18));
        text.push(character(12));
        text.push(if second.is_some() { character(6) } else { '=' });
        text.push(if third.is_some() { character(0) } else { '=' });
    }
}
