//! Nodes that hand calls to each other: doors with real certificates, and programs that do what a
//! test needs.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::Instant,
};

use realm_agent::relay::{self, Relay, Routes};
use realm_core::{
    auth::{self, Caller, Credential, Roster},
    call::{Call, CallId, Deadline},
    desired::{
        ApiKey, Desired, DesiredTenant, Limits, LimitsMode, ModelGrant, Peer, Priority,
        ProgramLimits, Route,
    },
    engine::{Finish, Usage},
    limit::{Admitted, Limiter},
    name::{ModelName, TenantName},
    refusal::Refusal,
    reply::{self, Chunk, ChunkBody, Done, Reply, ReplyEvent, ReplySender},
    tenants::{FunctionInfo, Functions, ModelInfo, Tenants},
};
use realm_link::{
    client::LinkState,
    peer::{self, Identity, PeerDoor, PeerPorts, Peers},
};
use realm_runtime::Runtime;
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};

use super::super::world::{World, soon, token};

pub(super) fn model() -> ModelName {
    ModelName::parse("default/tiny").unwrap()
}

/// A tenant with one model, one key, ten thousand tokens a minute each way, and calls without end.
pub(super) fn tenant() -> DesiredTenant {
    let sha256 = Credential::of("key").digest();
    DesiredTenant {
        name: TenantName::parse("default/acme").unwrap(),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: 1_000_000,
            input_tokens_per_minute: 10_000,
            output_tokens_per_minute: 10_000,
            calls_max: 10_000,
            context_max: 1000,
            output_tokens_max: 1000,
            kv_blocks_max: 100,
            program: ProgramLimits {
                memory_bytes_max: 1 << 20,
                fuel_max: 1,
                host_calls_max: 1,
                output_bytes_max: 1 << 20,
                deadline_ms: 60_000,
                token_fuel_max: 1_000_000,
                token_deadline_ms: 1_000,
                instances_max: 64,
                memory64: false,
            },
        },
        models: vec![ModelGrant { alias: "tiny".into(), model: model() }],
        pipelines: BTreeMap::new(),
        keys: vec![ApiKey { name: "laptop".into(), sha256, expires_at: None, disabled: false }],
        program: None,
    }
}

/// Programs whose functions are words for what happens.
pub(super) struct Script {
    /// Whether the model is here, and how often somebody wanted to know.
    pub(super) has_model: AtomicBool,
    pub(super) asked: watch::Sender<usize>,
    /// What the node says that it has in hand.
    pub(super) in_hand: AtomicU32,
    /// Calls that run, and those that nobody wanted any more.
    pub(super) running: watch::Sender<usize>,
    pub(super) cancelled: watch::Sender<usize>,
    /// Chunks that were sent of answers without end.
    pub(super) poured: watch::Sender<usize>,
    /// Why the program does not come.
    pub(super) lacks: watch::Sender<Option<Refusal>>,
    /// How often calls that wait for it were told to go on.
    pub(super) cue: watch::Sender<usize>,
}

impl Script {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            has_model: AtomicBool::new(true),
            asked: watch::Sender::new(0),
            in_hand: AtomicU32::new(0),
            running: watch::Sender::new(0),
            cancelled: watch::Sender::new(0),
            poured: watch::Sender::new(0),
            lacks: watch::Sender::new(None),
            cue: watch::Sender::new(0),
        })
    }
}

impl Tenants for Script {
    fn start(&self, call: Admitted) -> Reply {
        let (sender, reply) = reply::channel();
        let (running, cancelled) = (self.running.clone(), self.cancelled.clone());
        let (poured, cue) = (self.poured.clone(), self.cue.subscribe());
        running.send_modify(|running| *running += 1);
        tokio::spawn(async move {
            let end = match call.call().function.as_str() {
                "pour" => pour(&call, &sender, &poured).await,
                "twice" => twice(&call, &sender, cue).await,
                _ => play(&call, &sender).await,
            };
            running.send_modify(|running| *running -= 1);
            match end {
                Some(event) => drop(sender.send(event).await),
                None => cancelled.send_modify(|cancelled| *cancelled += 1),
            }
        });
        reply
    }

    fn functions(&self, _: &Caller) -> Functions {
        let function = FunctionInfo {
            name: "say".into(),
            description: "Says a, b and c.".into(),
            params_schema: json!({ "type": "object" }),
            streams: true,
        };
        Box::pin(std::future::ready(vec![function]))
    }

    fn models(&self, _: &Caller) -> Vec<ModelInfo> {
        Vec::new()
    }

    fn hosts(&self, _: &TenantName, _: &ModelName) -> bool {
        let has_model = self.has_model.load(Ordering::SeqCst);
        self.asked.send_modify(|asked| *asked += 1);
        has_model
    }

    fn lacks(&self, _: &TenantName) -> Option<Refusal> {
        self.lacks.borrow().clone()
    }

    fn in_hand(&self) -> u32 {
        self.in_hand.load(Ordering::SeqCst)
    }
}

async fn send(sender: &ReplySender, text: &str) -> Option<()> {
    let body = ChunkBody::Text(text.into());
    sender
        .send(ReplyEvent::Chunk(Chunk { step: None, body, logprobs: Vec::new(), progress: None }))
        .await
        .ok()
}

/// Says one letter after the other, each in a message of its own: as many as the call's parameters
/// say, each of which costs a token, or else for ever and for free.
async fn pour(
    call: &Admitted,
    sender: &ReplySender,
    poured: &watch::Sender<usize>,
) -> Option<ReplyEvent> {
    let letters = call.call().params["letters"].as_u64();
    for _ in 0..letters.unwrap_or(u64::MAX) {
        if letters.is_some() {
            call.charge(Usage { completion_tokens: 1, ..Usage::default() }, Instant::now());
        }
        send(sender, "x").await?;
        poured.send_modify(|poured| *poured += 1);
        tokio::task::yield_now().await;
    }
    sender.closed().await;
    None
}

/// Computes a prompt, and on its cue another one.
async fn twice(
    call: &Admitted,
    sender: &ReplySender,
    mut cue: watch::Receiver<usize>,
) -> Option<ReplyEvent> {
    let prompt = Usage { prompt_tokens: 50, ..Usage::default() };
    call.charge(prompt, Instant::now());
    send(sender, "one").await?;
    cue.changed().await.ok()?;
    call.charge(prompt, Instant::now());
    send(sender, "two").await?;
    sender.closed().await;
    None
}

/// Runs a call; `None` when nobody wants it any more.
async fn play(call: &Admitted, sender: &ReplySender) -> Option<ReplyEvent> {
    let now = Instant::now();
    let prompt = Usage { prompt_tokens: 50, ..Usage::default() };
    match call.call().function.as_str() {
        "say" | "hold" => {
            call.charge(prompt, now);
            call.refund(20);
            for text in ["a", "b", "c"] {
                call.charge(Usage { completion_tokens: 1, ..Usage::default() }, now);
                send(sender, text).await?;
            }
            if call.call().function == "hold" {
                sender.closed().await;
                return None;
            }
            let usage = *call.spent().borrow();
            let data = json!({ "params": call.call().params });
            Some(ReplyEvent::Done(Done { data, finish: Finish::Stop, usage }))
        }
        "think" => {
            call.charge(prompt, now);
            sender.closed().await;
            None
        }
        "spend" => {
            let usage = Usage { prompt_tokens: 11_000, ..Usage::default() };
            call.charge(usage, now);
            let refusal = call.check(now).err().unwrap_or(Refusal::Internal);
            Some(ReplyEvent::Failed(refusal))
        }
        function => Some(ReplyEvent::Failed(Refusal::UnknownFunction(function.to_owned()))),
    }
}

/// The identity of the agent of `node`.
pub(super) async fn identity(world: &World, node: &str) -> watch::Receiver<Option<Arc<Identity>>> {
    let (sender, mut identity) = watch::channel(None);
    let (_, link) = watch::channel(LinkState::default());
    tokio::spawn(peer::keep(world.options(node, &token(node)), world.state(node), sender, link));
    soon("a certificate", identity.wait_for(Option::is_some)).await.unwrap();
    identity
}

/// A node that has the model.
pub(super) struct Host {
    pub(super) script: Arc<Script>,
    pub(super) roster: watch::Sender<Arc<Roster>>,
    pub(super) draining: watch::Sender<bool>,
    pub(super) peer: Peer,
    pub(super) address: SocketAddr,
    pub(super) task: JoinHandle<()>,
}

impl Host {
    pub(super) async fn start(world: &World, node: &str) -> Self {
        Self::with_identity(node, identity(world, node).await).await
    }

    pub(super) async fn with_identity(
        node: &str,
        identity: watch::Receiver<Option<Arc<Identity>>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let script = Script::new();
        let roster = watch::Sender::new(Arc::new(Roster::new([Arc::new(tenant())])));
        let (draining, is_draining) = watch::channel(false);
        let ports = PeerPorts {
            tenants: script.clone(),
            roster: roster.subscribe(),
            tracer: realm_core::trace::Tracer::OFF,
        };
        let door = PeerDoor { listener, identity, ports };
        let task = tokio::spawn(door.serve(is_draining));
        let peer = Peer { node: node.to_owned(), address: address.to_string() };
        Self { script, roster, draining, peer, address, task }
    }
}

/// What happens when the process of a node dies.
impl Drop for Host {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The programs of every door: none. One for all, since each keeps room for a thousand.
fn runtime() -> Arc<Runtime> {
    static RUNTIME: LazyLock<Arc<Runtime>> = LazyLock::new(|| Arc::new(Runtime::new().unwrap()));
    RUNTIME.clone()
}

/// A door without the model.
pub(super) struct Door {
    pub(super) relay: Relay,
    pub(super) peers: Peers,
    pub(super) limiter: Limiter,
    desired: watch::Sender<Arc<Desired>>,
    routes: watch::Receiver<Arc<Routes>>,
}

impl Door {
    pub(super) async fn start(world: &World, peers: &[&Peer]) -> Self {
        let mut door = Self::with_identity(identity(world, "door").await).await;
        door.route(Some(peers)).await;
        door
    }

    pub(super) async fn with_identity(identity: watch::Receiver<Option<Arc<Identity>>>) -> Self {
        let peers = Peers::new(identity);
        let (desired, follows) = watch::channel(Arc::new(Desired::default()));
        let (sender, mut routes) = watch::channel(Arc::new(Routes::default()));
        let relay = Relay::new(runtime(), peers.clone(), routes.clone());
        tokio::spawn(relay::follow("door".to_owned(), follows, peers.clone(), sender));
        soon("the first routes", routes.changed()).await.unwrap();
        Self { relay, peers, limiter: Limiter::default(), desired, routes }
    }

    /// Where the model is from now on; `None` is unknown.
    pub(super) async fn route(&mut self, peers: Option<&[&Peer]>) {
        let route = peers.map(|peers| Route {
            model: model(),
            peers: peers.iter().map(|peer| (*peer).clone()).collect(),
        });
        let routes = route.into_iter().collect();
        self.desired.send_replace(Arc::new(Desired { routes, ..Desired::default() }));
        soon("new routes", self.routes.changed()).await.unwrap();
    }

    pub(super) fn caller() -> Caller {
        let roster = Roster::new([Arc::new(tenant())]);
        auth::verify(&roster, Credential::of("key"), 0).unwrap()
    }

    pub(super) fn admit(&self, function: &str) -> Admitted {
        let call = Call::new(CallId("1".into()), function, json!({ "prompt": "x" }));
        self.limiter.admit(Self::caller(), call, Instant::now()).unwrap()
    }

    pub(super) fn call(&self, function: &str) -> Reply {
        self.relay.start(self.admit(function))
    }

    /// A call that says so many letters.
    pub(super) fn admit_letters(&self, letters: usize) -> Admitted {
        let call = Call::new(CallId("1".into()), "pour", json!({ "letters": letters }));
        self.limiter.admit(Self::caller(), call, Instant::now()).unwrap()
    }

    pub(super) fn admit_within(&self, function: &str, deadline_ms: u64) -> Admitted {
        let now = Instant::now();
        let deadline = Some(Deadline::after(now, deadline_ms));
        let call = Call::new(CallId("1".into()), function, Value::Null);
        self.limiter.admit(Self::caller(), Call { deadline, ..call }, now).unwrap()
    }

    /// Tokens of prompt and of answer that the tenant has paid, but for what time has given back.
    pub(super) fn paid(&self) -> (u32, u32) {
        let quota = self.limiter.quota(&Self::caller(), Instant::now());
        (10_000 - quota.input_tokens, 10_000 - quota.output_tokens)
    }
}

/// The next event of a reply.
pub(super) async fn next(reply: &mut Reply) -> ReplyEvent {
    soon("an event", reply.recv()).await.expect("a reply has an end")
}

/// Everything that a call comes to.
pub(super) async fn read(mut reply: Reply) -> (String, Result<Value, Refusal>) {
    let mut text = String::new();
    loop {
        match next(&mut reply).await {
            ReplyEvent::Chunk(Chunk { body: ChunkBody::Text(piece), .. }) => text.push_str(&piece),
            ReplyEvent::Chunk(chunk) => panic!("{chunk:?}"),
            ReplyEvent::Done(done) => return (text, Ok(done.data)),
            ReplyEvent::Failed(refusal) => return (text, Err(refusal)),
        }
    }
}
