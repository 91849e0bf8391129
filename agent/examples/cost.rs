//! What shares and sandboxes cost: an engine's tokens a second when many streams decode, each of a
//! tenant of its own, by the forward pass and the choice of tokens alone, through the engine and its
//! scheduler, and through a program in its sandbox; and how long instances, calls of programs and
//! calls of the host take.
//!
//! `cargo run --release -p realm-agent --example cost -- MODEL.gguf [COMPONENT.wasm...]`

#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::{
    collections::BTreeMap,
    error::Error,
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use realm_core::{
    auth::{self, Caller, Credential, Roster},
    books::Way,
    call::{Call, CallId},
    desired::{
        ApiKey, DesiredTenant, HostedProgram, Limits, LimitsMode, ModelGrant, Priority,
        ProgramLimits, Sha256,
    },
    engine::{Engine, Generation, Sampling, TokenEvent},
    limit::Limiter,
    name::{ModelName, TenantName},
    refusal::Refusal,
    reply::{Reply, ReplyEvent},
    tenants::Tenants as _,
};
use realm_engine::{EngineHandle, MemoryBudget, OpenOptions, Secret, bench::Bench};
use realm_kernels::backend::KvType;
use realm_runtime::{Prepared, Runtime, bench::Instances};
use serde_json::{Value, json};
use tokio::task::JoinSet;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

/// How many at once, and how many rounds of so many: short ones, and many, for what else a machine
/// does lasts longer than one.
const STREAMS: [(usize, usize); 3] = [(1, 61), (16, 15), (64, 7)];

/// Of calls of the host.
const ROUNDS: usize = 15;

/// Of each stream: what it begins with behind its number, and how many tokens it decodes.
const PROMPT: &str = "One two three four five six seven eight nine ten eleven twelve";
const TOKENS: u32 = 100;

/// What each may hold of the cache, so that none waits for another: 256 tokens.
const BLOCKS: u32 = 8;

const HOST_CALLS: u64 = 1_000_000;
const CALLS: usize = 300;

/// Between two calls.
const PAUSE: Duration = Duration::from_millis(10);

/// A program that floods its host with calls.
const HOSTILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/guests/hostile/hostile.wasm");

#[tokio::main]
async fn main() -> Outcome<()> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let model = args.next().ok_or("no model is named")?;
    let components: Vec<PathBuf> = args.collect();
    let runtime = Runtime::new()?;
    calls(&runtime, &components).await?;
    throughput(&runtime, &model).await
}

/// A tenant that no limit stops.
fn tenant(name: &str, host_calls_max: u64) -> Outcome<DesiredTenant> {
    let sha256 = Credential::of(name).digest();
    let key = ApiKey { name: "main".into(), sha256, expires_at: None, disabled: false };
    Ok(DesiredTenant {
        name: TenantName::new("realm", name)?,
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: u32::MAX,
            input_tokens_per_minute: u32::MAX,
            output_tokens_per_minute: u32::MAX,
            calls_max: 1000,
            context_max: u32::MAX,
            output_tokens_max: u32::MAX,
            kv_blocks_max: u32::MAX,
            program: program_limits(host_calls_max),
        },
        models: Vec::new(),
        pipelines: BTreeMap::new(),
        keys: vec![key],
        program: Some(HostedProgram::built_in()),
    })
}

const fn program_limits(host_calls_max: u64) -> ProgramLimits {
    ProgramLimits {
        memory_bytes_max: 512 << 20,
        fuel_max: 1 << 50,
        host_calls_max,
        output_bytes_max: 1 << 30,
        deadline_ms: 600_000,
        token_fuel_max: 1 << 30,
        token_deadline_ms: 1_000,
        instances_max: 512,
        memory64: false,
    }
}

fn caller(tenant: &DesiredTenant) -> Outcome<Caller> {
    let roster = Roster::new([Arc::new(tenant.clone())]);
    let caller = auth::verify(&roster, Credential::of(tenant.name.name()), 0);
    caller.map_err(|refusal| format!("{refusal:?}").into())
}

/// A tenant that has moved in, as its door knows it.
struct Resident<'a> {
    runtime: &'a Runtime,
    caller: Caller,
    limiter: Limiter,
}

impl<'a> Resident<'a> {
    fn new(runtime: &'a Runtime, tenant: DesiredTenant, program: Prepared) -> Outcome<Self> {
        let caller = caller(&tenant)?;
        runtime.put_tenant(Arc::new(tenant), program);
        Ok(Self { runtime, caller, limiter: Limiter::default() })
    }

    fn call(&self, function: &str, params: &Value) -> Outcome<Reply> {
        let call = Call::new(CallId("1".into()), function, params.clone());
        let admitted = self.limiter.admit(self.caller.clone(), call, Instant::now());
        let admitted = admitted.map_err(|refusal| format!("{refusal:?}"))?;
        Ok(self.runtime.start(admitted))
    }
}

/// Reads a reply to its end.
async fn end(mut reply: Reply) -> Outcome<Result<(), Refusal>> {
    loop {
        match reply.recv().await.ok_or("a reply has no end")? {
            ReplyEvent::Chunk(_) => {}
            ReplyEvent::Done(_) => return Ok(Ok(())),
            ReplyEvent::Failed(refusal) => return Ok(Err(refusal)),
        }
    }
}

/// How long whole calls take, of a program in Rust and of each of the components: admitted, an
/// instance taken, asked for nothing that it can do, and answered. And what a call of the host takes.
async fn calls(runtime: &Runtime, components: &[PathBuf]) -> Outcome<()> {
    let hostile = runtime.prepare_program(fs::read(HOSTILE)?, &program_limits(0)).await?;
    let flood = async |name: &str, host_calls: u64| {
        let resident = Resident::new(runtime, tenant(name, host_calls)?, hostile.clone())?;
        let begun_at = Instant::now();
        let ended = end(resident.call("flood_host_calls", &json!({}))?).await?;
        match ended {
            Err(Refusal::ProgramLimit { .. }) => Outcome::Ok(begun_at.elapsed()),
            other => Err(format!("a flood of host calls has ended as {other:?}").into()),
        }
    };
    let mut each = Vec::new();
    for _ in 0..ROUNDS {
        let (one, many) = (flood("one", 1).await?, flood("many", HOST_CALLS).await?);
        each.push(many.saturating_sub(one).as_secs_f64() / HOST_CALLS as f64 * 1e9);
    }
    println!("a host call       {:.0} ns", median(&mut each));
    let built_in = runtime.prepare_built_in().await?;
    call_of(runtime, "built-in", built_in).await?;
    for path in components {
        let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or("component");
        let program = runtime.prepare_program(fs::read(path)?, &program_limits(0)).await?;
        call_of(runtime, name, program).await?;
    }
    Ok(())
}

async fn call_of(runtime: &Runtime, name: &str, program: Prepared) -> Outcome<()> {
    let instances = Instances::of(&program, program_limits(0));
    for (pause, how) in [(PAUSE, "one by one"), (Duration::ZERO, "without a pause")] {
        let [mut made, mut taken, mut returned] = [const { Vec::new() }; 3];
        for _ in 0..CALLS {
            // One that is made ahead is there by then.
            tokio::time::sleep(pause).await;
            let instance = instances.take().await?;
            taken.push(instance.taken.as_secs_f64() * 1e6);
            returned.push(instance.returned.as_secs_f64() * 1e6);
        }
        for _ in 0..CALLS {
            tokio::time::sleep(pause).await;
            made.push(instances.make().await?.as_secs_f64() * 1e6);
        }
        println!(
            "an instance, {name}, {how}: made in {}; to a call in {}; back in {}",
            told(&mut made),
            told(&mut taken),
            told(&mut returned)
        );
    }
    let function = program.functions().first().map(|function| function.name.clone());
    let function = function.ok_or("a program without functions")?;
    let resident = Resident::new(runtime, tenant("calls", 1000)?, program)?;
    let mut took = Vec::new();
    for _ in 0..CALLS {
        tokio::time::sleep(PAUSE).await;
        let begun_at = Instant::now();
        let ended = end(resident.call(&function, &json!({}))?).await?;
        took.push(begun_at.elapsed().as_secs_f64() * 1e6);
        if ended.is_ok() {
            return Err("a program has answered nothing".into());
        }
    }
    println!("a call, {name}: {}", told(&mut took));
    Ok(())
}

/// What most take, and what one in twenty does.
fn told(took: &mut [f64]) -> String {
    let median = median(took);
    let late = took.get(took.len() * 95 / 100).copied().unwrap_or(f64::NAN);
    format!("{median:.0} µs, {late:.0} µs in one of twenty")
}

/// What is timed of one way to decode.
struct Timed {
    name: &'static str,
    /// For each number of streams, what each round was like.
    rounds: [Vec<Decoded>; STREAMS.len()],
}

#[derive(Clone, Copy)]
struct Decoded {
    /// Tokens a second.
    speed: f64,
    /// The part of its time in which the engine's thread did something else than steps.
    besides: f64,
}

/// What each stream begins with, in words and in tokens: as many for each, and others.
struct Prompts {
    texts: Vec<String>,
    ids: Vec<Vec<u32>>,
}

impl Prompts {
    fn new(engine: &EngineHandle, streams: usize) -> Outcome<Self> {
        let texts: Vec<String> =
            (0..streams).map(|number| format!("{number:02}. {PROMPT}")).collect();
        let ids = texts.iter().map(|text| engine.tokenize(text, false));
        Ok(Self { ids: ids.collect::<Result<_, _>>()?, texts })
    }

    fn tokens_max(&self) -> usize {
        self.ids.iter().map(Vec::len).max().unwrap_or(0)
    }
}

/// Tenants with the built-in program, one for each stream.
async fn residents<'a>(
    runtime: &'a Runtime,
    engine: &Arc<EngineHandle>,
    streams: usize,
) -> Outcome<Vec<Resident<'a>>> {
    let model = engine.info().model.clone();
    runtime.put_model(model.clone(), engine.clone());
    let built_in = runtime.prepare_built_in().await?;
    let resident = |number| {
        let mut tenant = tenant(&format!("stream-{number}"), 1_000_000)?;
        tenant.models.push(ModelGrant { alias: model.name().into(), model: model.clone() });
        Resident::new(runtime, tenant, built_in.clone())
    };
    (0..streams).map(resident).collect()
}

async fn throughput(runtime: &Runtime, path: &Path) -> Outcome<()> {
    let most = STREAMS.iter().map(|(streams, _)| *streams).max().unwrap_or(1);
    let engine = Arc::new(open(path, u32::try_from(most)? * BLOCKS)?);
    let residents = residents(runtime, &engine, most).await?;
    let prompts = Prompts::new(&engine, most)?;
    let context = u32::try_from(prompts.tokens_max())? + TOKENS + 1;
    let mut bench = Bench::open(path, (context, most), None)?;
    let mut ways =
        ["steps alone", "engine", "program"].map(|name| Timed { name, rounds: Default::default() });
    for (at, (streams, rounds)) in STREAMS.into_iter().enumerate() {
        let (residents, ids) = (&residents[..streams], &prompts.ids[..streams]);
        for round in 0..=rounds {
            let alone = bench.answer(ids.to_vec(), TOKENS as usize)?;
            let speed = alone.tokens as f64 / alone.computing.as_secs_f64();
            let alone = Decoded { speed, besides: 0.0 };
            let through = through_engine(&engine, residents, ids).await?;
            let program = through_program(&engine, residents, &prompts.texts[..streams]).await?;
            // The first round warms caches and clocks and does not count.
            if round > 0 {
                for (way, decoded) in ways.iter_mut().zip([alone, through, program]) {
                    way.rounds[at].push(decoded);
                }
            }
        }
    }
    for (at, (streams, _)) in STREAMS.into_iter().enumerate() {
        let alone = ways[0].rounds[at].clone();
        for Timed { name, rounds } in &ways {
            let rounds = &rounds[at];
            let mut speeds: Vec<f64> = rounds.iter().map(|round| round.speed).collect();
            // Of each round by itself.
            let shares = rounds.iter().zip(&alone);
            let mut shares: Vec<f64> = shares.map(|(a, b)| a.speed / b.speed * 100.0).collect();
            let mut besides: Vec<f64> = rounds.iter().map(|round| round.besides * 100.0).collect();
            println!(
                "{streams:>3} streams, {name:<13} {} tok/s, {} % of the steps' alone, {} % besides steps",
                range(&mut speeds, 0),
                range(&mut shares, 1),
                range(&mut besides, 2)
            );
        }
    }
    Ok(())
}

/// The middle of `values`, and what half of them are between, to so many places.
fn range(values: &mut [f64], places: usize) -> String {
    let median = median(values);
    let (low, high) = (values[values.len() / 4], values[values.len() * 3 / 4]);
    format!("{median:.places$} [{low:.places$}, {high:.places$}]")
}

fn open(path: &Path, kv_blocks: u32) -> Outcome<EngineHandle> {
    let options = OpenOptions {
        name: ModelName::new("realm", "model")?,
        sha256: Sha256([0; 32]),
        context: Some(1024),
        kv_blocks: Some(kv_blocks),
        kv_type: KvType::F16,
        threads: None,
        lock_weights: false,
        memory_bytes_max: None,
        budget: MemoryBudget::fixed(u64::MAX),
        secret: Secret([7; 32]),
    };
    Ok(realm_engine::open(&[path.to_owned()], options)?.0)
}

/// Tokens a second of streams that an engine gives to whoever reads them.
async fn through_engine(
    engine: &Arc<EngineHandle>,
    residents: &[Resident<'_>],
    prompts: &[Vec<u32>],
) -> Outcome<Decoded> {
    let window = Window::new(engine, residents.len());
    let mut readers = JoinSet::new();
    for (Resident { caller, .. }, prompt) in residents.iter().zip(prompts) {
        let generation = Generation {
            prompt: prompt.clone(),
            shared_tokens: 0,
            sampling: Sampling { temperature: 0.0, ..Sampling::default() },
            bias: never_ending(engine),
            tokens_max: Some(TOKENS),
            stop: Vec::new(),
            constraint: None,
            deadline: None,
            resume: None,
            way: Way::Direct,
            milestones: None,
        };
        let mut stream =
            engine.generate(caller, generation).map_err(|refusal| format!("{refusal:?}"))?;
        let window = window.clone();
        readers.spawn(async move {
            let mut has_begun = false;
            while let Some(event) = stream.recv().await {
                match event {
                    TokenEvent::Token(_) if !has_begun => {
                        has_begun = true;
                        window.begin();
                    }
                    TokenEvent::Failed(refusal) => return Err(refusal),
                    _ => {}
                }
            }
            window.end();
            Ok(())
        });
    }
    while let Some(ended) = readers.join_next().await {
        ended?.map_err(|refusal| format!("{refusal:?}"))?;
    }
    window.decoded()
}

/// Tokens a second of streams that a program in its sandbox writes for whoever reads them.
async fn through_program(
    engine: &Arc<EngineHandle>,
    residents: &[Resident<'_>],
    prompts: &[String],
) -> Outcome<Decoded> {
    let bias: serde_json::Map<String, Value> =
        never_ending(engine).into_iter().map(|(id, by)| (id.to_string(), json!(by))).collect();
    let window = Window::new(engine, residents.len());
    let mut readers = JoinSet::new();
    for (resident, prompt) in residents.iter().zip(prompts) {
        let params = json!({
            "prompt": prompt, "max_tokens": TOKENS, "temperature": 0, "logit_bias": bias,
        });
        let (mut reply, window) = (resident.call("generate", &params)?, window.clone());
        readers.spawn(async move {
            if let Some(ReplyEvent::Failed(refusal)) = reply.recv().await {
                return Err(format!("{refusal:?}").into());
            }
            window.begin();
            let ended = end(reply).await;
            window.end();
            ended
        });
    }
    while let Some(ended) = readers.join_next().await {
        ended??.map_err(|refusal| format!("{refusal:?}"))?;
    }
    window.decoded()
}

/// What keeps answers from ending before they are as long as the others.
fn never_ending(engine: &EngineHandle) -> Vec<(u32, f32)> {
    let ends = ["<|im_end|>", "<|endoftext|>", "</s>", "<end_of_turn>"];
    let id = |text| engine.tokenize(text, true).ok().filter(|ids| ids.len() == 1);
    ends.into_iter().filter_map(id).flatten().map(|id| (id, -100.0)).collect()
}

/// When streams decoded, all of them: from the first token of the last one to the end of the first.
struct Window {
    engine: Arc<EngineHandle>,
    streams: usize,
    begun: AtomicUsize,
    first: OnceLock<Mark>,
    last: OnceLock<Mark>,
}

/// How far an engine was when one of its streams was told something.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    generated: u64,
    overhead: Duration,
}

impl Window {
    fn new(engine: &Arc<EngineHandle>, streams: usize) -> Arc<Self> {
        let (begun, first, last) = (AtomicUsize::new(0), OnceLock::new(), OnceLock::new());
        Arc::new(Self { engine: engine.clone(), streams, begun, first, last })
    }

    fn mark(&self) -> Mark {
        let at = Instant::now();
        let overhead = Duration::from_nanos(self.engine.books().time.overhead_ns);
        Mark { at, generated: self.engine.load().generated_tokens_total, overhead }
    }

    /// One stream has its first token.
    fn begin(&self) {
        if self.begun.fetch_add(1, Ordering::SeqCst) + 1 == self.streams {
            self.first.get_or_init(|| self.mark());
        }
    }

    fn end(&self) {
        self.last.get_or_init(|| self.mark());
    }

    fn decoded(&self) -> Outcome<Decoded> {
        let marks = self.first.get().zip(self.last.get());
        let (first, last) = marks.ok_or("a stream has had no token")?;
        let took = last.at.saturating_duration_since(first.at).as_secs_f64();
        if took == 0.0 {
            return Err("a stream ended before all had begun".into());
        }
        let overhead = last.overhead.saturating_sub(first.overhead);
        let speed = (last.generated - first.generated) as f64 / took;
        Ok(Decoded { speed, besides: overhead.as_secs_f64() / took })
    }
}

/// Sorts `values` and gives the middle one.
fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
