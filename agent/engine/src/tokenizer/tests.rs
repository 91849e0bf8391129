use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::gguf::{Array, Value, writer};

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// A tokenizer with a token for each of the letters and these special ones behind.
fn tokenizer(letters: &str, specials: &[(String, i32)]) -> Result<Tokenizer, TokenizerError> {
    let strings = |texts: Vec<String>| Value::Array(Array::String(texts));
    let letters = letters.chars().map(|letter| (letter.to_string(), 1));
    let (tokens, kinds) = letters.chain(specials.iter().cloned()).unzip();
    let pairs = [
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::String("smollm".to_owned())),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))),
        ("tokenizer.ggml.merges", strings(Vec::new())),
    ];
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &pairs.map(|(key, value)| (key.to_owned(), value)), &[]).unwrap();
    Tokenizer::of(&Gguf::parse(bytes).unwrap())
}

#[test]
fn a_vocabulary_full_of_special_tokens_does_not_slow_a_long_text_down() {
    let specials: Vec<_> = (0..200_000).map(|n| (format!("<!{n}>"), CONTROL)).collect();
    let tokenizer = tokenizer("<!", &specials).unwrap();
    let text = "<!".repeat(TEXT_BYTES_MAX / 2);
    let start = Instant::now();
    assert_eq!(tokenizer.encode(&text, Special::Token).unwrap().len(), TEXT_BYTES_MAX);
    // Comparing each with each takes minutes.
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn a_special_token_longer_than_any_is_refused() {
    let of = |bytes| tokenizer("a", &[("<".repeat(bytes), CONTROL)]);
    assert!(of(SPECIAL_BYTES_MAX).is_ok());
    let refused = of(SPECIAL_BYTES_MAX + 1).err().unwrap();
    assert!(matches!(refused, TokenizerError::SpecialTooLong { id: 1, bytes: 129 }), "{refused}");
}

proptest! {
    #[test]
    fn the_longest_special_token_is_found(
        spellings in prop::collection::btree_map("[ab]{2,5}", any::<bool>(), 0..20),
        text in "[abc]{0,12}",
    ) {
        let specials: Vec<_> = spellings
            .iter()
            .map(|(text, control)| (text.clone(), if *control { CONTROL } else { USER_DEFINED }))
            .collect();
        let tokenizer = tokenizer("abc", &specials).unwrap();
        for special in [Special::Text, Special::Token] {
            let want = spellings
                .iter()
                .filter(|(_, control)| special == Special::Token || !**control)
                .map(|(spelling, _)| spelling.as_str())
                .filter(|spelling| text.starts_with(spelling))
                .max_by_key(|spelling| spelling.len());
            let found = tokenizer.vocabulary.special_at(&text, special);
            prop_assert_eq!(found.map(|(len, _)| &text[..len]), want);
            if let Some((len, id)) = found {
                prop_assert_eq!(tokenizer.piece(id), &text.as_bytes()[..len]);
            }
        }
    }
}
