//! The answer to a request for vectors, from what the tenant's `embed` has returned.
#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::as_conversions)]

use base64::{Engine as _, engine::general_purpose::STANDARD};
use realm_core::{engine::Usage, refusal::Refusal};
use realm_proto::ws::SERVER_MESSAGE_BYTES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::asked::{Asked, Encoding};
use crate::frame::output_too_large;

/// What `embed` returns; what else is in it is for others.
#[derive(Deserialize)]
struct Returned {
    /// Each the base64 of its numbers, four bytes each with the lowest first, which is also how the
    /// API's clients read them.
    vectors: Vec<String>,
}

#[derive(Serialize)]
struct Listing<'a> {
    object: &'static str,
    data: Vec<Item>,
    model: &'a str,
    usage: Spent,
}

#[derive(Serialize)]
struct Item {
    object: &'static str,
    index: usize,
    embedding: Vector,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Vector {
    Numbers(Vec<f32>),
    Base64(String),
}

#[derive(Serialize)]
struct Spent {
    prompt_tokens: u32,
    total_tokens: u32,
}

/// The body of the answer.
pub(super) fn write(data: Value, asked: &Asked, usage: Usage) -> Result<Vec<u8>, Refusal> {
    let Asked { model, params: _, texts, encoding } = asked;
    let Returned { vectors } = serde_json::from_value(data).map_err(|_| not_vectors())?;
    if vectors.len() != *texts {
        return Err(not_vectors());
    }
    // A program of the tenant's own may be allowed to say more than any door passes on.
    let bytes = vectors.iter().map(String::len).fold(0, usize::saturating_add);
    if bytes > SERVER_MESSAGE_BYTES_MAX {
        return Err(output_too_large());
    }
    let item = |(index, text): (usize, String)| {
        let numbers = numbers(&text).ok_or_else(not_vectors)?;
        let embedding = match encoding {
            Encoding::Float => Vector::Numbers(numbers),
            Encoding::Base64 => Vector::Base64(text),
        };
        Ok(Item { object: "embedding", index, embedding })
    };
    let data = vectors.into_iter().enumerate().map(item).collect::<Result<_, Refusal>>()?;
    let Usage { prompt_tokens, .. } = usage;
    let usage = Spent { prompt_tokens, total_tokens: prompt_tokens };
    let listing = Listing { object: "list", data, model, usage };
    Ok(serde_json::to_vec(&listing).expect("every key of the answer is a string"))
}

/// The numbers of a vector, if that is what `text` is. JSON has no others than finite ones.
fn numbers(text: &str) -> Option<Vec<f32>> {
    let bytes = STANDARD.decode(text).ok()?;
    let (numbers, []) = bytes.as_chunks::<4>() else { return None };
    let numbers: Vec<f32> = numbers.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    numbers.iter().all(|number| number.is_finite()).then_some(numbers)
}

/// The tenant's own `embed` is of another kind.
pub(super) fn not_vectors() -> Refusal {
    let message = "it returned something else than a vector for each text";
    Refusal::ProgramFailed(message.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(texts: usize, encoding: Encoding) -> Asked {
        Asked { model: "m".into(), params: serde_json::Map::new(), texts, encoding }
    }

    fn check(data: Value, texts: usize, encoding: Encoding) -> Result<Value, Refusal> {
        let usage = Usage { prompt_tokens: 7, ..Usage::default() };
        let body = write(data, &asked(texts, encoding), usage)?;
        Ok(serde_json::from_slice(&body).unwrap())
    }

    /// 0.1 and -2.
    const TWO: &str = "zczMPQAAAMA=";

    #[test]
    fn vectors_are_listed_as_the_client_wants_to_read_them() {
        let data = || json!({"vectors": [TWO, TWO], "dimensions": 2, "tokens": [3, 4]});
        let listed = |embedding: Value| {
            let item =
                |index| json!({"object": "embedding", "index": index, "embedding": embedding});
            json!({
                "object": "list", "data": [item(0), item(1)], "model": "m",
                "usage": {"prompt_tokens": 7, "total_tokens": 7},
            })
        };
        assert_eq!(check(data(), 2, Encoding::Float).unwrap(), listed(json!([0.1, -2.0])));
        assert_eq!(check(data(), 2, Encoding::Base64).unwrap(), listed(json!(TWO)));
    }

    #[test]
    fn more_numbers_than_a_message_holds_are_not_passed_on() {
        let vector = STANDARD.encode(vec![0; 3 << 20]);
        let one = json!({ "vectors": [vector] });
        check(one, 1, Encoding::Base64).unwrap();
        let three = json!({ "vectors": [vector, vector, vector] });
        assert_eq!(check(three, 3, Encoding::Base64), Err(output_too_large()));
    }

    #[test]
    fn what_is_no_vector_for_each_text_is_the_programs_fault() {
        for data in [
            json!(null),
            json!({"vectors": [1]}),
            json!({"vectors": []}),
            json!({"vectors": [TWO, TWO]}),
            json!({"vectors": ["not base64"]}),
            json!({"vectors": ["AAA="]}),
            // Not a number.
            json!({"vectors": ["AADAfw=="]}),
        ] {
            for encoding in [Encoding::Float, Encoding::Base64] {
                assert_eq!(check(data.clone(), 1, encoding), Err(not_vectors()), "{data}");
            }
        }
    }
}
