//! A text for the tokenizer: it comes back whole, and spells no control token unless it may.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realm_engine::{
    gguf::Gguf,
    tokenizer::{Special, Tokenizer},
};
use realm_tests::tiny_gguf::CONTROL;

thread_local! {
    static TOKENIZER: Tokenizer = {
        let gguf = Gguf::parse(realm_fuzz::model("")).expect("our own model is a model");
        Tokenizer::of(&gguf).expect("and has a tokenizer")
    };
}

fuzz_target!(|text: &str| {
    TOKENIZER.with(|tokenizer| {
        for special in [Special::Text, Special::Token] {
            let ids = tokenizer.encode(text, special).expect("every byte has a token");
            let decoded = tokenizer.decode(&ids).expect("its own ids are known");
            assert_eq!(decoded, text.as_bytes(), "{special:?}");
            let is_control = |id: &u32| (*id as usize) < CONTROL.len();
            assert!(special == Special::Token || !ids.iter().any(is_control));
        }
    });
});
