//! The functions the door answers itself: `health` and `metadata`.

use realm_core::{
    auth::Caller,
    call::Call,
    embed::{Abilities, EmbedInfo},
    engine::{Finish, Usage},
    limit::Admitted,
    refusal::Refusal,
    reply::{self, Done, Reply, ReplyEvent, ReplySender},
    tenants::{FunctionInfo, Functions, ModelInfo},
};
use serde_json::{Value, json};

use crate::door::Door;

pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// A function of the door's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Own {
    /// Free: it costs next to nothing, and those ask who wait for their limits.
    Health,
    /// Costs a request: its answer holds whatever the tenant's program says about itself.
    Metadata,
}

impl Own {
    /// What `call` asks of the door itself, if it does.
    pub(crate) fn of(call: &Call) -> Result<Option<Self>, Refusal> {
        let own = match call.function.as_str() {
            "health" => Self::Health,
            "metadata" => Self::Metadata,
            _ => return Ok(None),
        };
        if call.params.as_object().is_none_or(|params| !params.is_empty()) {
            return Err(Refusal::Invalid(format!("`{}` takes no params", call.function)));
        }
        Ok(Some(own))
    }

    /// Answers; `place` is the one that the call has among its tenant's.
    pub(crate) fn answer(self, door: &Door, caller: &Caller, place: Option<Admitted>) -> Reply {
        let (sender, reply) = reply::channel();
        match self {
            Self::Health => say(&sender, health(door)),
            Self::Metadata => {
                let known = Known::of(door, caller);
                tokio::spawn(async move {
                    tokio::select! {
                        () = sender.closed() => {}
                        data = known.metadata() => {
                            drop(place);
                            say(&sender, data);
                        }
                    }
                });
            }
        }
        reply
    }
}

fn say(sender: &ReplySender, data: Value) {
    let done = Done { data, finish: Finish::Stop, usage: Usage::default() };
    // Only this is said, so there is room for it; who asked may be gone.
    drop(sender.try_send(ReplyEvent::Done(done)));
}

fn health(door: &Door) -> Value {
    let status = if door.is_draining() { "draining" } else { "ok" };
    json!({ "status": status, "version": VERSION, "uptime_s": door.uptime().as_secs() })
}

/// What is known of what a caller may use, but for the functions of a program on another node.
struct Known {
    functions: Functions,
    models: Vec<Value>,
    pipelines: Vec<String>,
}

impl Known {
    fn of(door: &Door, caller: &Caller) -> Self {
        let models = door.tenants().models(caller).into_iter().map(model_json);
        Self {
            functions: door.tenants().functions(caller),
            models: models.collect(),
            pipelines: caller.rights().pipelines.keys().cloned().collect(),
        }
    }

    /// What the caller may use. The functions its program declares come first.
    async fn metadata(self) -> Value {
        let Self { functions, models, pipelines } = self;
        let mut functions = functions.await;
        for own in own_functions() {
            if functions.iter().all(|function| function.name != own.name) {
                functions.push(own);
            }
        }
        let functions: Vec<Value> = functions.into_iter().map(function_json).collect();
        json!({
            "version": VERSION, "functions": functions, "models": models, "pipelines": pipelines,
        })
    }
}

fn model_json(model: ModelInfo) -> Value {
    let ModelInfo { alias, ready, context, abilities } = model;
    let mut json = json!({"alias": alias, "ready": ready, "context": context});
    describe_abilities(abilities.as_ref(), &mut json);
    json
}

/// Adds what a model can be asked for: `null` where that is not known at this door.
pub(crate) fn describe_abilities(abilities: Option<&Abilities>, json: &mut Value) {
    json["functions"] = json!(abilities.map(Abilities::functions));
    if let Some(info) = abilities.and_then(|abilities| abilities.embeds) {
        let EmbedInfo { dimensions, tokens_max, shortens } = info;
        json["embeds"] =
            json!({"dimensions": dimensions, "tokens_max": tokens_max, "shortens": shortens});
    }
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
