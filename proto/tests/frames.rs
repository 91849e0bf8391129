//! The prose, the schema and the types of the WebSocket frames say the same.

use std::collections::BTreeSet;

use realm_proto::ws::{ClientFrame, ServerFrame};
use serde_json::Value;

const PROSE: &str = include_str!("../ws/v1/README.md");
const SCHEMA: &str = include_str!("../ws/v1/frames.schema.json");

/// The frames in the prose's `json` blocks, one a line.
fn frames_of_the_prose() -> Vec<Value> {
    let blocks = PROSE.split("```json\n").skip(1).filter_map(|rest| rest.split("```").next());
    blocks.flat_map(str::lines).map(|line| serde_json::from_str(line).expect(line)).collect()
}

fn schema() -> Value {
    serde_json::from_str(SCHEMA).expect("the schema is JSON")
}

/// The definition that describes `frame`, as the schema names it.
fn definition(frame: &Value) -> &str {
    match (frame["status"].as_str(), frame["type"].as_str()) {
        (Some(status), _) => status,
        (None, Some("error")) => "connection_error",
        (None, Some(kind)) => kind,
        (None, None) => "call",
    }
}

fn names(list: &Value) -> BTreeSet<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

#[test]
fn every_frame_in_the_prose_is_read_by_the_types_and_written_back_the_same() {
    let frames = frames_of_the_prose();
    assert!(frames.len() >= 12, "the prose shows every frame");
    for frame in frames {
        let is_from_client = matches!(definition(&frame), "auth" | "call" | "cancel");
        let written = if is_from_client {
            serde_json::to_value(serde_json::from_value::<ClientFrame>(frame.clone()).unwrap())
        } else {
            serde_json::to_value(serde_json::from_value::<ServerFrame>(frame.clone()).unwrap())
        };
        let written = written.unwrap();
        for (field, value) in frame.as_object().unwrap() {
            assert_eq!(&written[field], value, "{frame}");
        }
    }
}

#[test]
fn numbers_of_params_are_read_to_their_last_bit() {
    for number in ["31.245270191439438", "3.0e-70", "5e57"] {
        let text = format!(r#"{{"id":"1","function":"f","params":{{"x":{number}}}}}"#);
        let ClientFrame::Call(call) = serde_json::from_str(&text).unwrap() else { panic!() };
        assert_eq!(call.params["x"].as_f64(), Some(number.parse().unwrap()), "{number}");
    }
}

#[test]
fn every_frame_in_the_prose_has_exactly_the_fields_of_the_schema() {
    let schema = schema();
    let mut seen = BTreeSet::new();
    for frame in frames_of_the_prose() {
        let name = definition(&frame);
        let rules = &schema["$defs"][name];
        let fields: BTreeSet<&str> =
            frame.as_object().unwrap().keys().map(String::as_str).collect();
        let known = rules["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert!(fields.is_subset(&known), "{frame} against {name}");
        assert!(names(&rules["required"]).is_subset(&fields), "{frame} against {name}");
        seen.insert(name.to_owned());
    }
    let listed = ["client", "server"].map(|side| schema["$defs"][side]["oneOf"].clone());
    let listed = listed.iter().flat_map(|list| list.as_array().unwrap());
    for reference in listed {
        let name = reference["$ref"].as_str().unwrap().trim_start_matches("#/$defs/");
        assert!(seen.contains(name), "the prose shows no `{name}`");
    }
}

#[test]
fn a_frame_with_a_field_too_many_is_refused_by_the_types() {
    for mut frame in frames_of_the_prose() {
        frame["surprise"] = Value::Null;
        let text = frame.to_string();
        serde_json::from_str::<ClientFrame>(&text).unwrap_err();
        serde_json::from_str::<ServerFrame>(&text).unwrap_err();
    }
}
