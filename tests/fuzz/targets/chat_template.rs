//! The chat template of a model file, and messages for it.
//!
//! The input is the template, then roles and contents in turns, separated by lines of `===`.
#![no_main]

use std::cell::RefCell;

use libfuzzer_sys::fuzz_target;
use realm_core::engine::{ChatMessage, Engine as _};
use realm_engine::EngineHandle;
use realm_fuzz::InputFile;

thread_local! {
    static FILE: InputFile = InputFile::new("model");
    /// The model opened last, for inputs that differ in their messages alone.
    static LAST: RefCell<Option<(String, EngineHandle)>> = const { RefCell::new(None) };
}

fuzz_target!(|text: &str| {
    let mut parts = text.split("\n===\n");
    let template = parts.next().unwrap_or_default();
    let mut messages = Vec::new();
    while let (Some(role), Some(content)) = (parts.next(), parts.next()) {
        messages.push(ChatMessage { role: role.to_owned(), content: content.to_owned() });
    }
    LAST.with_borrow_mut(|last| {
        if last.as_ref().is_none_or(|(held, _)| held != template) {
            *last = None;
            FILE.with(|file| {
                let path = file.hold(&realm_fuzz::model(template));
                let (engine, _) = realm_engine::open(&[path.to_owned()], realm_fuzz::options())
                    .expect("a broken template still lets its model open");
                *last = Some((template.to_owned(), engine));
            });
        }
        if let Some((_, engine)) = last {
            let _ = engine.tokenize_chat(&messages);
        }
    });
});
