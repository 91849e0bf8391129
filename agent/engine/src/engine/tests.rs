use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use realm_core::{
    auth::{Credential, Roster, verify},
    desired::{
        ApiKey, DesiredTenant, HostedProgram, Limits as Rights, LimitsMode, Priority,
        ProgramLimits, Sha256,
    },
    engine::{Finish, Sampling, TokenEvent},
    name::TenantName,
};
use realm_kernels::backend::{BackendError, KvType};

mod books;
mod embedding;
mod hooks;
mod kept;

use super::*;
use crate::{
    adapter::{AdapterError, AdapterId, AdapterWork},
    batch::Batch,
    budget::MemoryBudget,
    gguf::{Array, Gguf, Value, writer},
    kv::{BlockPool, Layout, Secret},
    scheduler::{Limits, Prices},
};

const BLOCK: usize = 4;
const LAYOUT: Layout = Layout::of_one_kind(BLOCK, None);

/// An executor that always answers token 1, and fails when a row's token is told to make it.
#[derive(Default)]
struct Scripted {
    forwards: Arc<AtomicUsize>,
    gate: Arc<Mutex<()>>,
    late: bool,
    /// How long a forward pass takes.
    takes: Duration,
    /// Of each output, to be spent once.
    logits: Vec<[f32; 5]>,
    /// The sum of each text's tokens.
    vectors: Vec<[f32; 2]>,
}

const ERROR: u32 = 2;
const PANIC: u32 = 3;
const LATE_PANIC: u32 = 4;
const LOGITS: [f32; 5] = [0.0, 1.0, 0.0, 0.0, 0.0];

impl Executor for Scripted {
    fn forward(&mut self, batch: &Batch) -> Result<(), BackendError> {
        self.forwards.fetch_add(1, Ordering::SeqCst);
        drop(self.gate.lock());
        let begun_at = Instant::now();
        while begun_at.elapsed() < self.takes {
            thread::yield_now();
        }
        assert!(!batch.tokens.contains(&PANIC), "told to");
        self.late = batch.tokens.contains(&LATE_PANIC);
        if batch.tokens.contains(&ERROR) {
            return Err(BackendError::OutOfMemory { bytes: 1 });
        }
        self.logits.clear();
        self.logits.resize(batch.outputs.len(), LOGITS);
        Ok(())
    }

    fn logits(&mut self, output: usize) -> &mut [f32] {
        assert!(!self.late, "told to, where no forward is");
        &mut self.logits[output]
    }

    fn embed(&mut self, batch: &Batch) -> Result<(), BackendError> {
        self.forward(batch)?;
        let texts = batch.spans.iter().map(|span| &batch.tokens[span.first_row..][..span.count]);
        self.vectors = texts.map(|text| [text.iter().sum::<u32>() as f32, 0.0]).collect();
        Ok(())
    }

    fn vector(&self, text: usize) -> &[f32] {
        assert!(!self.late, "told to, where no forward is");
        &self.vectors[text]
    }

    fn adapter_bytes(&self, _file: &Gguf) -> u64 {
        0
    }

    fn adapter_step_bytes(&self) -> u64 {
        0
    }

    fn adapt(&mut self, _id: AdapterId, _file: &Gguf) -> Result<AdapterWork, AdapterError> {
        Err(AdapterError::Empty)
    }

    fn forget_adapter(&mut self, _id: AdapterId) {}

    fn describe(&self) -> String {
        "scripted".to_owned()
    }
}

pub(super) fn tokenizer() -> Tokenizer {
    let texts = |texts: &[&str]| {
        Value::Array(Array::String(texts.iter().map(|&text| text.to_owned()).collect()))
    };
    let pairs = [
        ("tokenizer.ggml.model", Value::String("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::String("smollm".to_owned())),
        ("tokenizer.ggml.tokens", texts(&["a", "b", "c", "d", "e"])),
        ("tokenizer.ggml.token_type", Value::Array(Array::I32(vec![1; 5]))),
        ("tokenizer.ggml.merges", texts(&[])),
    ];
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &pairs.map(|(key, value)| (key.to_owned(), value)), &[]).unwrap();
    Tokenizer::of(&Gguf::parse(bytes).unwrap()).unwrap()
}

pub(super) fn scripted() -> Box<dyn Executor> {
    Box::new(Scripted::default())
}

fn namespace() -> Namespace {
    Namespace::new(Secret([1; 32]), Sha256([1; 32]), KvType::F16)
}

pub(super) fn scheduler() -> Scheduler {
    let limits = Limits { context: 64, batch_tokens: 32, running: 8, queued: 100 };
    Scheduler::new(limits, BlockPool::new(64, LAYOUT, namespace()), Prices::MEASURED)
}

fn engine() -> (EngineHandle, Arc<AtomicUsize>) {
    gated(Arc::default())
}

/// An engine whose forward passes wait while the gate is locked.
fn gated(gate: Arc<Mutex<()>>) -> (EngineHandle, Arc<AtomicUsize>) {
    let executor = Scripted { gate, ..Scripted::default() };
    let forwards = executor.forwards.clone();
    (with(executor), forwards)
}

fn with(executor: Scripted) -> EngineHandle {
    let handle = EngineHandle::start(Parts {
        model: ModelName::new("default", "scripted").unwrap(),
        architecture: "scripted",
        generates: true,
        embeds: Some(EmbedInfo { dimensions: 2, tokens_max: 40, shortens: true }),
        context: 64,
        tokenizer: tokenizer(),
        template: None,
        namespace: namespace(),
        scheduler: scheduler(),
        executor: Box::new(executor),
        reservation: MemoryBudget::fixed(1).reserve(1).unwrap(),
    });
    handle.unwrap()
}

fn caller(name: &str) -> Caller {
    let program = ProgramLimits {
        memory_bytes_max: 0,
        fuel_max: 0,
        host_calls_max: 0,
        output_bytes_max: 0,
        deadline_ms: 0,
        token_fuel_max: 1_000_000,
        token_deadline_ms: 1_000,
        instances_max: 64,
        memory64: false,
    };
    let tenant = DesiredTenant {
        name: TenantName::new("default", name).unwrap(),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Rights {
            requests_per_minute: 1,
            input_tokens_per_minute: 1,
            output_tokens_per_minute: 1,
            calls_max: 1,
            context_max: 64,
            output_tokens_max: 64,
            kv_blocks_max: 64,
            program,
        },
        models: Vec::new(),
        pipelines: BTreeMap::new(),
        keys: vec![ApiKey {
            name: "key".to_owned(),
            sha256: Credential::of(name).digest(),
            expires_at: None,
            disabled: false,
        }],
        program: Some(HostedProgram::built_in()),
    };
    verify(&Roster::new([Arc::new(tenant)]), Credential::of(name), 0).unwrap()
}

fn run(engine: &EngineHandle, prompt: &[u32]) -> Result<Finish, Refusal> {
    end(start(engine, prompt)?)
}

fn start(engine: &EngineHandle, prompt: &[u32]) -> Result<TokenStream, Refusal> {
    start_as(engine, "a", Way::Direct, prompt)
}

fn start_as(
    engine: &EngineHandle,
    tenant: &str,
    way: Way,
    prompt: &[u32],
) -> Result<TokenStream, Refusal> {
    engine.generate(
        &caller(tenant),
        Generation {
            prompt: prompt.to_vec(),
            shared_tokens: 0,
            sampling: Sampling::default(),
            bias: Vec::new(),
            tokens_max: Some(3),
            stop: Vec::new(),
            constraint: None,
            deadline: None,
            resume: None,
            way,
            milestones: None,
        },
    )
}

fn end(mut stream: TokenStream) -> Result<Finish, Refusal> {
    loop {
        match stream.blocking_recv().unwrap() {
            TokenEvent::Token(token) => assert_eq!(token.id, 1),
            TokenEvent::Finished { finish, .. } => return Ok(finish),
            TokenEvent::Failed(refusal) => return Err(refusal),
            TokenEvent::Cached(count) => panic!("{count} tokens of a cache that is empty"),
            TokenEvent::Rest(text) => panic!("nothing was resumed: {text}"),
            TokenEvent::Unsaid(count) => panic!("{count} tokens behind a hook, and there is none"),
        }
    }
}

#[test]
fn a_forward_that_fails_or_panics_ends_its_own_sequences_only() {
    let (engine, _) = engine();
    for bad in [ERROR, PANIC] {
        assert_eq!(run(&engine, &[0, bad]), Err(Refusal::Internal));
        assert_eq!(run(&engine, &[0, 1]), Ok(Finish::Length));
        assert_eq!((engine.load().kv_blocks_used, engine.load().failed), (0, false));
    }
}

#[test]
fn an_engine_that_keeps_failing_says_so_and_refuses() {
    let (engine, _) = engine();
    for _ in 0..3 {
        assert_eq!(run(&engine, &[PANIC]), Err(Refusal::Internal));
    }
    assert!(engine.load().failed && *engine.failed().borrow());
    assert!(matches!(run(&engine, &[1]), Err(Refusal::ModelNotReady { .. })));
}

#[test]
fn an_engine_that_gave_up_stays_failed_and_ends_what_was_on_its_way() {
    let gate = Arc::new(Mutex::new(()));
    let (engine, forwards) = gated(gate.clone());
    for _ in 0..2 {
        assert_eq!(run(&engine, &[PANIC]), Err(Refusal::Internal));
    }
    let closed = gate.lock().unwrap();
    let third = start(&engine, &[PANIC]).unwrap();
    while forwards.load(Ordering::SeqCst) < 3 {
        thread::yield_now();
    }
    let late = start(&engine, &[1]).unwrap();
    drop(closed);
    assert_eq!(end(third), Err(Refusal::Internal));
    assert_eq!(end(late), Err(Refusal::Internal));
    assert!(engine.load().failed);
    assert_eq!((engine.load().sequences_queued, forwards.load(Ordering::SeqCst)), (0, 3));
}

#[test]
fn a_thread_that_panics_ends_its_streams_and_says_so() {
    let (engine, _) = engine();
    assert_eq!(run(&engine, &[LATE_PANIC]), Err(Refusal::Internal));
    assert!(engine.load().failed && *engine.failed().borrow());
    assert!(matches!(run(&engine, &[1]), Err(Refusal::ModelNotReady { .. })));
}

#[test]
fn blocks_of_a_failed_step_are_never_found_in_the_cache() {
    let (engine, _) = engine();
    let prompt: Vec<u32> = [[0, 1, 1, 0], [1, 1, 0, PANIC]].concat();
    assert_eq!(run(&engine, &prompt), Err(Refusal::Internal));
    let load = engine.load();
    assert_eq!((load.kv_blocks_used, load.kv_blocks_cached), (0, 0));
}

#[test]
fn an_idle_engine_computes_nothing() {
    let (engine, forwards) = engine();
    run(&engine, &[0, 1]).unwrap();
    let after = forwards.load(Ordering::SeqCst);
    assert_eq!(after, 3, "a prompt and two more tokens");
    engine.drain();
    assert_eq!(run(&engine, &[0]), Err(Refusal::Draining));
    assert_eq!(forwards.load(Ordering::SeqCst), after);
}

#[test]
fn how_a_tenant_was_served_is_counted_and_forgotten_with_the_tenant() {
    let (engine, _) = engine();
    run(&engine, &[0, 1]).unwrap();
    let tenants = engine.tenants();
    let [(tenant, load)] = tenants.as_slice() else { panic!("{tenants:?}") };
    assert_eq!(tenant.as_str(), "default/a");
    let of_engine = engine.load();
    assert_eq!((load.queue.count, load.first_token.count, load.inter_token.count), (1, 1, 2));
    let held = (load.sequences_queued, load.sequences_running, load.kv_blocks_used);
    assert_eq!(held, (0, 0, 0));
    assert_eq!(load.kv_blocks_cached, of_engine.kv_blocks_cached);
    engine.forget(tenant);
    assert_eq!(engine.tenants(), []);
}

#[test]
fn a_sequence_that_a_failed_engine_ends_holds_nothing_for_its_tenant() {
    let (engine, _) = engine();
    assert_eq!(run(&engine, &[LATE_PANIC]), Err(Refusal::Internal));
    let [(_, load)] = &engine.tenants()[..] else { panic!("one tenant has called") };
    assert_eq!((load.sequences_queued, load.sequences_running, load.kv_blocks_used), (0, 0, 0));
}

#[test]
fn sequences_that_start_at_once_share_no_seed() {
    let (engine, _) = engine();
    let seeds: Vec<u64> = thread::scope(|scope| {
        let draw = || (0..5000).map(|_| engine.number().1).collect::<Vec<_>>();
        let threads = [(); 4].map(|()| scope.spawn(draw));
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let distinct: HashSet<u64> = seeds.iter().copied().collect();
    assert_eq!((seeds.len(), distinct.len()), (20_000, 20_000));
}
