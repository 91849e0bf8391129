//! A message of a client on the WebSocket. The door reads it with the same `serde_json` call.
#![no_main]

use libfuzzer_sys::fuzz_target;
use realm_proto::ws::{ClientFrame, ID_BYTES_MAX};

fuzz_target!(|text: &str| {
    let Ok(frame) = serde_json::from_str::<ClientFrame>(text) else { return };
    if let ClientFrame::Call(call) = &frame {
        assert!((1..=ID_BYTES_MAX).contains(&call.id.len()));
    }
    let written = serde_json::to_string(&frame).expect("a frame that was read can be written");
    let again: ClientFrame = serde_json::from_str(&written).expect("and read again");
    assert!(again == frame, "written and read again it is another frame");
});
