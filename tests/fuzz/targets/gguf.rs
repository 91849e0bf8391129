//! A model file: its header, what it says of itself, its tokenizer, and opening it whole.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realm_core::engine::{ChatMessage, Engine as _};
use realm_engine::{
    gguf::{Gguf, Head},
    tokenizer::{Special, Tokenizer},
};
use realm_fuzz::InputFile;

thread_local! {
    static FILE: InputFile = InputFile::new("model");
}

fuzz_target!(|bytes: &[u8]| {
    check_head(bytes);
    let Ok(gguf) = Gguf::parse(bytes.to_vec()) else { return };
    for tensor in gguf.tensors() {
        assert_eq!(gguf.tensor_bytes(tensor).len(), tensor.bytes());
        assert_eq!(gguf.tensor(&tensor.name), Some(tensor));
    }
    let _ = gguf.facts();
    if let Ok(tokenizer) = Tokenizer::of(&gguf) {
        for special in [Special::Text, Special::Token] {
            let _ = tokenizer.encode("ab <t>a", special).map(|ids| tokenizer.decode(&ids));
        }
    }
    FILE.with(|file| {
        let opened = realm_engine::open(&[file.hold(bytes).to_owned()], realm_fuzz::options());
        if let Ok((engine, _)) = opened {
            let message = ChatMessage { role: "user".to_owned(), content: "ab".to_owned() };
            let _ = engine.tokenize_chat(&[message]);
        }
    });
});

/// A part of a file asks for more than it has, and never for more than there is.
fn check_head(bytes: &[u8]) {
    let total = bytes.len() as u64;
    for len in [0, bytes.len() / 2, bytes.len()] {
        let head = bytes.get(..len).unwrap_or_default();
        if let Ok(Head::Part { bytes_min }) = Gguf::parse_head(head, Some(total)) {
            assert!((len as u64) < bytes_min && bytes_min <= total);
        }
    }
}
