//! What an answer is to keep to: a schema, an expression or rules, and tokens along it.
//!
//! The first byte chooses which it is, the tokens are drawn from what is allowed by the last ones.
#![no_main]

use std::{sync::OnceLock, thread};

use libfuzzer_sys::fuzz_target;
use realm_core::constraint::Constraint;
use realm_grammar::{STACK_BYTES, Vocabulary};

/// Tokens that are taken along a grammar: enough to come behind what it begins with.
const TOKENS_MAX: usize = 64;

static VOCABULARY: OnceLock<Vocabulary> = OnceLock::new();

/// Every byte, some pieces, and an ending.
fn vocabulary() -> Vocabulary {
    let pieces = ["\": ", "\", \"", "{\"", "true", "null", "ab", "  ", "é"].map(str::as_bytes);
    let bytes: Vec<u8> = (0..=u8::MAX).collect();
    let tokens = bytes.chunks(1).chain(pieces).chain([&b""[..]]);
    Vocabulary::new(tokens, &[264]).expect("a proper vocabulary")
}

fuzz_target!(|input: &[u8]| {
    let Some((&kind, rest)) = input.split_first() else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let constraint = match kind % 3 {
        0 => Constraint::JsonSchema(text.to_owned()),
        1 => Constraint::Regex(text.to_owned()),
        _ => Constraint::Lark(text.to_owned()),
    };
    let draws: Vec<u8> = rest.iter().rev().take(TOKENS_MAX).copied().collect();
    // Where the engine compiles, there is so much stack.
    let work = move || {
        let Ok(grammar) = VOCABULARY.get_or_init(vocabulary).compile(&constraint) else { return };
        let mut matcher = grammar.matcher();
        for draw in draws {
            let Ok(mask) = matcher.mask() else { return };
            let mut ids = (0..264).cycle().skip(usize::from(draw)).take(264);
            let Some(id) = ids.find(|&id| mask.allows(id)) else { return };
            if matcher.accept(id).is_err() {
                return;
            }
        }
    };
    let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(work);
    thread.expect("a thread").join().expect("nothing panics");
});
