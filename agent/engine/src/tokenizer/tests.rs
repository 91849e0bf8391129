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

/// A tokenizer of pieces with these scores, after one for what is unknown and one for each byte.
fn of_pieces(model: &str, pieces: &[(String, f32)]) -> Result<Tokenizer, TokenizerError> {
    let strings = |texts: Vec<String>| Value::Array(Array::String(texts));
    let has_bytes = model == "llama";
    let bytes = (0..=255_u8).filter(|_| has_bytes).map(|byte| format!("<0x{byte:02X}>"));
    let mut tokens = vec!["<unk>".to_owned()];
    tokens.extend(bytes);
    let mut kinds = vec![6; tokens.len()];
    kinds[0] = 2;
    let mut scores = vec![0.0; tokens.len()];
    for (piece, score) in pieces {
        tokens.push(piece.clone());
        kinds.push(1);
        scores.push(*score);
    }
    let pairs = [
        ("tokenizer.ggml.model", Value::String(model.to_owned())),
        ("tokenizer.ggml.tokens", strings(tokens)),
        ("tokenizer.ggml.scores", Value::Array(Array::F32(scores))),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))),
        ("tokenizer.ggml.unknown_token_id", Value::U32(0)),
    ];
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &pairs.map(|(key, value)| (key.to_owned(), value)), &[]).unwrap();
    Tokenizer::of(&Gguf::parse(bytes).unwrap())
}

#[test]
fn blanks_behind_a_control_token_are_left_out_where_the_model_never_saw_them() {
    let special = |text: &str| (text.to_owned(), CONTROL);
    let mut tokenizer = tokenizer("aĊĠ", &[special("<|end|>"), special("<s>")]).unwrap();
    let text = "<|end|>\n a<s>\n";
    assert_eq!(tokenizer.encode(text, Special::Token).unwrap(), [3, 1, 2, 0, 4, 1]);
    tokenizer.swallowing = tokenizer.vocabulary.controls(KEEPING_BLANKS);
    assert_eq!(tokenizer.encode(text, Special::Token).unwrap(), [3, 0, 4, 1]);
}

#[test]
fn pieces_that_begin_like_each_other_do_not_slow_a_long_text_down() {
    let blank = || ("\u{2581}".to_owned(), -1.0);
    let runs = (1..=PIECE_BYTES_MAX).map(|len| ("a".repeat(len), -1.0));
    let all: Vec<_> = runs.chain([blank()]).collect();
    // Nearly the longest is nearly found at every place.
    let almost = format!("{}b", "a".repeat(PIECE_BYTES_MAX - 1));
    let almost = vec![blank(), ("a".to_owned(), -1.0), (almost, -1.0)];
    let text = "a".repeat(TEXT_BYTES_MAX);
    for model in ["llama", "t5", "bert"] {
        for pieces in [&all, &almost] {
            let tokenizer = of_pieces(model, pieces).unwrap();
            let start = Instant::now();
            assert!(!tokenizer.encode(&text, Special::Text).unwrap().is_empty());
            // A square of the length takes minutes.
            assert!(start.elapsed() < Duration::from_secs(20), "{model}: {:?}", start.elapsed());
        }
    }
}

#[test]
fn a_piece_longer_than_any_is_refused() {
    let of = |bytes| of_pieces("llama", &[("a".repeat(bytes), 0.0)]);
    assert!(of(PIECE_BYTES_MAX).is_ok());
    let refused = of(PIECE_BYTES_MAX + 1).err().unwrap();
    assert!(matches!(refused, TokenizerError::PieceTooLong { bytes: 257, .. }), "{refused}");
}

#[test]
fn a_score_that_is_no_number_is_refused() {
    let refused = of_pieces("t5", &[("a".to_owned(), f32::NAN)]).err().unwrap();
    assert!(matches!(refused, TokenizerError::Score { id: 1 }), "{refused}");
}

proptest! {
    #[test]
    fn text_of_any_characters_goes_through_pieces_and_bytes_and_comes_out_whole(
        text in prop_oneof![".{0,24}", "[ab \u{2581}]{0,24}"],
        pieces in prop::collection::btree_map("[ab▁]{1,4}", -9.0_f32..0.0, 0..12),
    ) {
        let tokenizer = of_pieces("llama", &pieces.into_iter().collect::<Vec<_>>()).unwrap();
        let ids = tokenizer.encode(&text, Special::Text).unwrap();
        // Pieces spell blanks and their mark alike, and each text begins with a blank of its own.
        let read = |text: &str| text.replace('\u{2581}', " ").trim_start().to_owned();
        let out = String::from_utf8(tokenizer.decode(&ids).unwrap()).unwrap();
        prop_assert_eq!(read(&out), read(&text));
    }

    #[test]
    fn the_likeliest_way_is_as_likely_as_any_other(
        text in "[ab]{1,9}",
        pieces in prop::collection::btree_map("[ab]{1,3}", -9.0_f32..0.0, 0..8),
    ) {
        let mut pieces: Vec<(String, f32)> = pieces.into_iter().collect();
        for letter in ["a", "b", "\u{2581}"] {
            if !pieces.iter().any(|(piece, _)| piece == letter) {
                pieces.push((letter.to_owned(), -9.0));
            }
        }
        let tokenizer = of_pieces("t5", &pieces).unwrap();
        let ids = tokenizer.encode(&text, Special::Text).unwrap();
        let score = |id: u32| f64::from(pieces[id as usize - 1].1);
        let got: f64 = ids.iter().map(|&id| score(id)).sum();
        // Of each start, the best of all ways to the end.
        let text = format!("\u{2581}{text}");
        let mut best = vec![f64::NEG_INFINITY; text.len() + 1];
        best[text.len()] = 0.0;
        for start in (0..text.len()).rev().filter(|&at| text.is_char_boundary(at)) {
            let fits = pieces.iter().filter(|(piece, _)| text[start..].starts_with(piece.as_str()));
            let ways = fits.map(|(piece, score)| f64::from(*score) + best[start + piece.len()]);
            best[start] = ways.fold(f64::NEG_INFINITY, f64::max);
        }
        prop_assert!((got - best[0]).abs() < 1e-9, "{} {}", got, best[0]);
    }
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
