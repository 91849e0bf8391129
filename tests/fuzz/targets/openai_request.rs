//! The body of an OpenAI request, sent to a door on loopback as a client sends it.
//!
//! The first byte says which of the three forms.
#![no_main]

use std::{cell::RefCell, collections::BTreeMap, io, net::SocketAddr, sync::Arc};

use libfuzzer_sys::fuzz_target;
use realm_core::{
    auth::{Caller, Credential, Roster},
    desired::{LimitsMode, Priority, ApiKey, DesiredTenant, Limits, ModelGrant, ProgramLimits},
    engine::{Finish, Usage},
    limit::{Admitted, Limiter},
    name::{ModelName, TenantName},
    refusal::Refusal,
    reply::{self, Done, Reply, ReplyEvent},
    tenants::{Functions, ModelInfo, Tenants},
};
use realm_gateway::{Gateway, GatewayConfig, Metrics, Ports};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    runtime::{Builder, Runtime},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

const KEY: &str = "rk_fuzz";

/// Tenants whose programs answer every call with nothing, or with a vector for each of its texts.
struct Silent;

impl Tenants for Silent {
    fn start(&self, call: Admitted) -> Reply {
        let (sender, reply) = reply::channel();
        let texts = call.call().params.get("texts").and_then(|texts| texts.as_array());
        let vectors = vec!["AACAPw=="; texts.map_or(0, Vec::len)];
        let data = serde_json::json!({ "vectors": vectors });
        let done = Done { data, finish: Finish::Stop, usage: Usage::default() };
        sender.try_send(ReplyEvent::Done(done)).expect("a new reply has room");
        reply
    }

    fn functions(&self, _: &Caller) -> Functions {
        Box::pin(async { Vec::new() })
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

    fn models(&self, _: &Caller) -> Vec<ModelInfo> {
        Vec::new()
    }
}

struct World {
    runtime: Runtime,
    addr: SocketAddr,
    /// Kept between inputs: a door that closes it has not answered.
    connection: RefCell<Option<TcpStream>>,
    _roster: watch::Sender<Arc<Roster>>,
    _ready: watch::Sender<bool>,
}

thread_local! {
    static WORLD: World = World::open();
}

fuzz_target!(|bytes: &[u8]| {
    let Some((form, body)) = bytes.split_first() else { return };
    let path = match form % 3 {
        0 => "/v1/chat/completions",
        1 => "/v1/completions",
        _ => "/v1/embeddings",
    };
    WORLD.with(|world| world.ask(path, body));
});

impl World {
    fn open() -> Self {
        let runtime =
            Builder::new_current_thread().enable_all().build().expect("a runtime of one thread");
        let roster = watch::Sender::new(Arc::new(Roster::new([Arc::new(tenant())])));
        let ready = watch::Sender::new(true);
        let ports = Ports {
            tenants: Arc::new(Silent),
            roster: roster.subscribe(),
            limiter: Limiter::default(),
            ready: ready.subscribe(),
            metrics: Metrics::new(),
            tracer: realm_core::trace::Tracer::OFF,
        };
        let config = GatewayConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        let gateway = runtime.block_on(Gateway::bind(config, ports)).expect("loopback has a port");
        let addr = gateway.addr().expect("a bound door has an address");
        runtime.spawn(gateway.serve(CancellationToken::new()));
        let connection = RefCell::default();
        Self { runtime, addr, connection, _roster: roster, _ready: ready }
    }

    /// Sends a request; the door answers it and nothing is wrong but the request.
    fn ask(&self, path: &str, body: &[u8]) {
        let mut request = format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend(body);
        self.runtime.block_on(async {
            // The door may have closed a connection that it kept for too long.
            let kept = match self.connection.take() {
                Some(stream) => exchange(stream, &request).await.ok(),
                None => None,
            };
            let (stream, answer) = match kept {
                Some(kept) => kept,
                None => {
                    let stream = TcpStream::connect(self.addr).await.expect("the door is open");
                    exchange(stream, &request).await.expect("the door answers")
                }
            };
            let shown = String::from_utf8_lossy(&answer);
            let status = shown.split(' ').nth(1).unwrap_or_default();
            assert!(matches!(status, "200" | "400" | "404"), "{shown}");
            self.connection.replace(Some(stream));
        });
    }
}

/// Sends a request and reads the whole answer.
async fn exchange(mut stream: TcpStream, request: &[u8]) -> io::Result<(TcpStream, Vec<u8>)> {
    stream.write_all(request).await?;
    let mut answer = Vec::new();
    while !is_whole(&answer) {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok((stream, answer))
}

/// Whether an answer has come to its end.
fn is_whole(answer: &[u8]) -> bool {
    let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") else {
        return false;
    };
    let (head, body) = (String::from_utf8_lossy(&answer[..end]), &answer[end + 4..]);
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length.and_then(|length| length.parse::<usize>().ok()) {
        Some(length) => body.len() >= length,
        None => body.ends_with(b"0\r\n\r\n"),
    }
}

/// A tenant without any limit that a fuzzer would meet.
fn tenant() -> DesiredTenant {
    let most = u32::MAX;
    DesiredTenant {
        name: TenantName::parse("default/fuzz").expect("a proper name"),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: most,
            input_tokens_per_minute: most,
            output_tokens_per_minute: most,
            calls_max: most,
            context_max: most,
            output_tokens_max: most,
            kv_blocks_max: most,
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
            alias: "m".to_owned(),
            model: ModelName::parse("default/m").expect("a proper name"),
        }],
        pipelines: BTreeMap::new(),
        keys: vec![ApiKey {
            name: "main".to_owned(),
            sha256: Credential::of(KEY).digest(),
            expires_at: None,
            disabled: false,
        }],
        program: None,
    }
}
