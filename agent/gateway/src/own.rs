//! The functions the door answers itself: `health` and `metadata`.

use realm_core::{
    auth::Caller,
    call::Call,
    engine::{Finish, Usage},
    refusal::Refusal,
    reply::{self, Done, Reply, ReplyEvent},
    tenants::FunctionInfo,
};
use serde_json::{Value, json};

use crate::door::Door;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The reply to `call` where the function is the door's own.
pub(crate) fn answer(door: &Door, caller: &Caller, call: &Call) -> Result<Option<Reply>, Refusal> {
    let data = match call.function.as_str() {
        "health" => health(door),
        "metadata" => metadata(door, caller),
        _ => return Ok(None),
    };
    if call.params.as_object().is_none_or(|params| !params.is_empty()) {
        return Err(Refusal::Invalid(format!("`{}` takes no params", call.function)));
    }
    let (sender, reply) = reply::channel();
    let done = Done { data, finish: Finish::Stop, usage: Usage::default() };
    sender.try_send(ReplyEvent::Done(done)).expect("a new reply has room for its end");
    Ok(Some(reply))
}

fn health(door: &Door) -> Value {
    let status = if door.is_draining() { "draining" } else { "ok" };
    json!({ "status": status, "version": VERSION, "uptime_s": door.uptime().as_secs() })
}

/// What the caller may use. The functions its program declares come first.
fn metadata(door: &Door, caller: &Caller) -> Value {
    let mut functions = door.tenants().functions(caller);
    for own in own_functions() {
        if functions.iter().all(|function| function.name != own.name) {
            functions.push(own);
        }
    }
    let functions: Vec<Value> = functions.into_iter().map(function_json).collect();
    let models: Vec<Value> = door
        .tenants()
        .models(caller)
        .into_iter()
        .map(|model| json!({"alias": model.alias, "ready": model.ready, "context": model.context}))
        .collect();
    let pipelines: Vec<&String> = caller.rights().pipelines.keys().collect();
    json!({
        "version": VERSION, "functions": functions, "models": models, "pipelines": pipelines,
    })
}

fn function_json(function: FunctionInfo) -> Value {
    let FunctionInfo { name, description, params_schema, streams } = function;
    json!({
        "name": name, "description": description,
        "params_schema": params_schema, "streams": streams,
    })
}

/// What every tenant has besides its program's functions.
fn own_functions() -> [FunctionInfo; 3] {
    let nothing = json!({"type": "object", "additionalProperties": false});
    [
        FunctionInfo {
            name: "pipeline".into(),
            description: "Runs one of the tenant's pipelines, streaming every step.".into(),
            params_schema: json!({
                "type": "object",
                "properties": {"pipeline": {"type": "string"}, "input": {"type": "object"}},
                "required": ["pipeline"],
                "additionalProperties": false,
            }),
            streams: true,
        },
        FunctionInfo {
            name: "health".into(),
            description: "Whether the server takes calls.".into(),
            params_schema: nothing.clone(),
            streams: false,
        },
        FunctionInfo {
            name: "metadata".into(),
            description: "What the caller may call.".into(),
            params_schema: nothing,
            streams: false,
        },
    ]
}
