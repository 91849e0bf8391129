//! The messages of strangers: whatever they spell, the only control tokens are the template's.
//!
//! The input is roles and contents in turns, separated by lines of `===`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realm_core::engine::{ChatMessage, Engine as _};
use realm_engine::EngineHandle;
use realm_fuzz::InputFile;
use realm_tests::tiny_gguf::CONTROL;

const TEMPLATE: &str = "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' }}{% endfor %}{{ '<|im_start|>' }}";

thread_local! {
    static ENGINE: EngineHandle = {
        let file = InputFile::new("model");
        let path = file.hold(&realm_fuzz::model(TEMPLATE));
        realm_engine::open(&[path.to_owned()], realm_fuzz::options()).expect("our own model opens").0
    };
}

fuzz_target!(|text: &str| {
    let parts: Vec<_> = text.split("\n===\n").collect();
    let message = |pair: &[&str]| {
        let [role, content] = [0, 1].map(|at| (*pair.get(at).unwrap_or(&"")).to_owned());
        ChatMessage { role, content }
    };
    let messages: Vec<_> = parts.chunks(2).map(message).collect();
    ENGINE.with(|engine| {
        // Refused are only messages that hold every noncharacter, and too many for the fuel.
        let Ok(ids) = engine.tokenize_chat(&messages) else { return };
        let mut expected = String::new();
        for ChatMessage { role, content } in &messages {
            expected.extend([CONTROL[1], role, "\n", content, CONTROL[2]]);
        }
        expected.push_str(CONTROL[1]);
        let decoded = engine.detokenize(&ids).expect("its own ids are known");
        assert_eq!(String::from_utf8_lossy(&decoded), expected);
        let controls = ids.iter().filter(|id| (**id as usize) < CONTROL.len()).count();
        assert_eq!(controls, 2 * messages.len() + 1, "a message spelled a control token");
    });
});
