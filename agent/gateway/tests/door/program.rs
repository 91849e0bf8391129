//! Tenants whose programs do what a test needs: say words, wait, never stop, fail.

use std::{collections::BTreeMap, sync::Arc};

use realm_core::{
    auth::{Caller, Credential, Roster},
    call::Call,
    desired::{
        ApiKey, DesiredTenant, HostedProgram, Limits, LimitsMode, ModelGrant, Priority,
        ProgramLimits,
    },
    embed::{Abilities, EmbedInfo},
    engine::{Finish, Logprobs, ScoredToken, Usage},
    limit::Admitted,
    name::{ModelName, PipelineName, TenantName},
    refusal::Refusal,
    reply::{self, Chunk, ChunkBody, Done, Progress, Reply, ReplyEvent, ReplySender},
    tenants::{FunctionInfo, Functions, ModelInfo, Tenants},
};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};

/// What calls report to the test.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    Started(String),
    /// The door dropped the reply.
    Cancelled(String),
}

/// What every model here can be asked for.
const ABILITIES: Abilities = Abilities {
    generates: false,
    chats: false,
    embeds: Some(EmbedInfo { dimensions: 4, tokens_max: 8, shortens: true }),
};

pub(crate) struct Script {
    /// A permit lets one `hold` go on.
    pub(crate) go: Arc<Semaphore>,
    events: mpsc::Sender<Event>,
}

impl Script {
    pub(crate) fn new() -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (events, heard) = mpsc::channel(1024);
        let go = Arc::new(Semaphore::new(0));
        (Arc::new(Self { go, events }), heard)
    }
}

impl Tenants for Script {
    fn start(&self, call: Admitted) -> Reply {
        let (sender, reply) = reply::channel();
        let (events, go) = (self.events.clone(), self.go.clone());
        tokio::spawn(async move {
            let name = call.call().id.to_string();
            events.send(Event::Started(name.clone())).await.unwrap();
            if play(&call, &sender, &go).await.is_err() {
                // The test may be over.
                drop(events.send(Event::Cancelled(name)).await);
            }
        });
        reply
    }

    fn functions(&self, _: &Caller) -> Functions {
        let functions = vec![FunctionInfo {
            name: "chat".into(),
            description: "Repeats the last message.".into(),
            params_schema: json!({"type": "object"}),
            streams: true,
        }];
        Box::pin(std::future::ready(functions))
    }

    fn models(&self, caller: &Caller) -> Vec<ModelInfo> {
        let grants = caller.rights().models.iter();
        grants
            .map(|grant| ModelInfo {
                alias: grant.alias.clone(),
                ready: true,
                context: Some(64),
                abilities: Some(ABILITIES),
            })
            .collect()
    }

    fn hosts(&self, _: &TenantName, _: &ModelName) -> bool {
        true
    }

    fn lacks(&self, _: &TenantName) -> Option<Refusal> {
        None
    }

    fn in_hand(&self) -> u32 {
        0
    }
}

/// The door dropped the reply.
struct Dropped;

async fn play(call: &Admitted, to: &ReplySender, go: &Semaphore) -> Result<(), Dropped> {
    let params = &call.call().params;
    match call.call().function.as_str() {
        "generate" if params["prompt"] == "too long" => {
            let refusal = Refusal::TooLong { tokens: 65, tokens_max: 64 };
            send(to, ReplyEvent::Failed(refusal)).await
        }
        "generate" => say(to, params["prompt"].as_str().unwrap_or_default(), params).await,
        "chat" => {
            let last = params["messages"].as_array().and_then(|messages| messages.last());
            let text = last.and_then(|last| last["content"].as_str()).unwrap_or_default();
            match text {
                "hold" => hold(to, go).await,
                "flood" => flood(to).await,
                text => match refusal(text) {
                    Some(refusal) => send(to, ReplyEvent::Failed(refusal)).await,
                    None => say(to, text, params).await,
                },
            }
        }
        "embed" => embed(&params["texts"], to).await,
        "go on" => go_on(call, to).await,
        "tokenize" => done(to, json!({"tokens": [1, 2], "count": 2}), Usage::default()).await,
        "hold" => hold(to, go).await,
        "flood" => flood(to).await,
        "vanish" => Ok(()),
        // Says a text as long as the params ask, as a value or as the result.
        "bulk" => {
            let bytes = params["bytes"].as_u64().unwrap_or_default();
            let bulk = Value::from("x".repeat(usize::try_from(bytes).unwrap()));
            if params["as"] == "value" {
                send(to, chunk(ChunkBody::Json(bulk))).await?;
                return done(to, Value::Null, Usage::default()).await;
            }
            done(to, bulk, Usage::default()).await
        }
        "value" => {
            let body = ChunkBody::Json(json!({"score": 0.5}));
            let logprobs = Vec::new();
            let step = Some("judge".into());
            send(to, ReplyEvent::Chunk(Chunk { step, body, logprobs, progress: None })).await?;
            done(to, json!({"outputs": {}}), Usage::default()).await
        }
        function => {
            let unknown = || Refusal::UnknownFunction(function.to_owned());
            send(to, ReplyEvent::Failed(refusal(function).unwrap_or_else(unknown))).await
        }
    }
}

/// The refusals a test can ask for by name.
fn refusal(name: &str) -> Option<Refusal> {
    Some(match name {
        "busy" => Refusal::Busy { retry_after_ms: 1500 },
        "model" => Refusal::UnknownModel("m".into()),
        "long" => Refusal::TooLong { tokens: 65, tokens_max: 64 },
        "late" => Refusal::DeadlineExceeded { deadline_ms: 5 },
        "internal" => Refusal::Internal,
        _ => return None,
    })
}

async fn send(to: &ReplySender, event: ReplyEvent) -> Result<(), Dropped> {
    to.send(event).await.map_err(|_| Dropped)
}

async fn word(to: &ReplySender, text: impl Into<String>) -> Result<(), Dropped> {
    send(to, chunk(ChunkBody::Text(text.into()))).await
}

fn chunk(body: ChunkBody) -> ReplyEvent {
    ReplyEvent::Chunk(Chunk { step: None, body, logprobs: Vec::new(), progress: None })
}

async fn done(to: &ReplySender, data: Value, usage: Usage) -> Result<(), Dropped> {
    send(to, ReplyEvent::Done(Done { data, finish: Finish::Stop, usage })).await
}

/// Says a text word by word, each a token that was as good as certain.
async fn say(to: &ReplySender, text: &str, params: &Value) -> Result<(), Dropped> {
    let mut words = 0;
    for piece in text.split_inclusive(' ') {
        let (body, chosen) = (ChunkBody::Text(piece.into()), scored(piece, -0.25));
        let top = params["logprobs"].as_u64().map(|count| (0..count).map(|_| scored("x", -2.5)));
        let logprobs = top.map(|top| Logprobs { chosen, top: top.collect() });
        let logprobs = Vec::from_iter(logprobs);
        send(to, ReplyEvent::Chunk(Chunk { step: None, body, logprobs, progress: None })).await?;
        words += 1;
    }
    let usage = Usage { prompt_tokens: 5, cached_tokens: 2, completion_tokens: words };
    done(to, Value::Null, usage).await
}

/// Makes a vector of a text, of its length and a half; or does what the text asks for.
async fn embed(texts: &Value, to: &ReplySender) -> Result<(), Dropped> {
    let texts: Vec<&str> = texts.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let fail = |refusal| send(to, ReplyEvent::Failed(refusal));
    if let Some(at) = texts.iter().position(|text| *text == "too long") {
        return fail(Refusal::TextTooLong { at, tokens: 65, tokens_max: 64 }).await;
    }
    match texts[..] {
        ["unsupported"] => fail(Refusal::Unsupported("m cannot".into())).await,
        ["late"] => fail(Refusal::DeadlineExceeded { deadline_ms: 5 }).await,
        ["chat"] => say(to, "I am no vector", &Value::Null).await,
        ["nothing"] => done(to, Value::Null, Usage::default()).await,
        _ => {
            let vector = |text: &&str| match text.len() {
                1 => "AACAPwAAAD8=",
                _ => "AAAAQAAAAD8=",
            };
            let vectors: Vec<&str> = texts.iter().map(vector).collect();
            let prompt_tokens = texts.iter().map(|text| u32::try_from(text.len()).unwrap()).sum();
            let usage = Usage { prompt_tokens, ..Usage::default() };
            done(to, json!({"vectors": vectors, "dimensions": 2}), usage).await
        }
    }
}

/// Says what was resumed, and how far it is where that is asked for.
async fn go_on(call: &Admitted, to: &ReplySender) -> Result<(), Dropped> {
    let Call { resume, resumable, .. } = call.call();
    let (body, logprobs) = (ChunkBody::Text(format!("{resume:?}")), Vec::new());
    let progress = resumable.then(|| Progress { first: 2, tokens: vec![5, 6], seed: Some(7) });
    send(to, ReplyEvent::Chunk(Chunk { step: None, body, logprobs, progress })).await?;
    done(to, Value::Null, Usage::default()).await
}

fn scored(text: &str, logprob: f32) -> ScoredToken {
    ScoredToken { id: 7, bytes: text.into(), logprob }
}

async fn hold(to: &ReplySender, go: &Semaphore) -> Result<(), Dropped> {
    word(to, "held").await?;
    tokio::select! {
        () = to.closed() => return Err(Dropped),
        permit = go.acquire() => permit.unwrap().forget(),
    }
    done(to, Value::Null, Usage::default()).await
}

async fn flood(to: &ReplySender) -> Result<(), Dropped> {
    let text = "x".repeat(4096);
    loop {
        word(to, text.clone()).await?;
    }
}

/// The one tenant of most tests, with `key` as its key.
pub(crate) fn tenant(key: &str) -> DesiredTenant {
    let sha256 = Credential::of(key).digest();
    DesiredTenant {
        name: TenantName::parse("default/acme").unwrap(),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: 1000,
            input_tokens_per_minute: 1000,
            output_tokens_per_minute: 1000,
            calls_max: 1000,
            context_max: 64,
            output_tokens_max: 64,
            kv_blocks_max: 64,
            program: ProgramLimits {
                memory_bytes_max: 1 << 20,
                fuel_max: 1 << 20,
                host_calls_max: 1 << 10,
                output_bytes_max: 1 << 16,
                deadline_ms: 1000,
                token_fuel_max: 1_000_000,
                token_deadline_ms: 1_000,
                instances_max: 64,
                memory64: false,
            },
        },
        models: vec![ModelGrant {
            alias: "m".into(),
            model: ModelName::parse("default/m").unwrap(),
        }],
        pipelines: BTreeMap::from([(
            "digest".to_owned(),
            PipelineName::parse("default/digest").unwrap(),
        )]),
        keys: vec![ApiKey { name: "main".into(), sha256, expires_at: None, disabled: false }],
        program: Some(HostedProgram::built_in()),
    }
}

pub(crate) fn roster(tenants: impl IntoIterator<Item = DesiredTenant>) -> Arc<Roster> {
    Arc::new(Roster::new(tenants.into_iter().map(Arc::new)))
}
