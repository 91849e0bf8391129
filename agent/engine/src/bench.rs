//! What `realm bench` measures of a model: the scheduler and the forward pass at work, without
//! doors, threads or streams between.

use std::{
    iter, mem,
    path::Path,
    time::{Duration, Instant},
};

use realm_core::{
    desired::{Priority, Sha256},
    name::TenantName,
};
use realm_kernels::{
    backend::{Backend, BackendError, KvType},
    cpu::{self, Cpu},
};
use thiserror::Error;

use crate::{
    adapter::{Adapted, AdapterError, AdapterId},
    batch::{Batch, SequenceId},
    forward::{Capacity, Executor},
    gguf::Gguf,
    kv::{BlockPool, Layout, Namespace, Secret},
    load::{BATCH_TOKENS, BLOCK_TOKENS, LoadError, Opened, RUNNING_MAX},
    sampler,
    scheduler::{Fit, Limits, Prices, Scheduler, Submission, Terms},
};

/// Why nothing could be measured.
#[derive(Debug, Error)]
pub enum BenchError {
    #[error("loading the model")]
    Load(#[source] LoadError),
    #[error("loading an adapter")]
    Adapter(#[source] AdapterError),
    #[error("the model reads texts and generates none")]
    ReadsOnly,
    #[error("the scheduler refused the work: {0}")]
    Refused(realm_core::refusal::Refusal),
    #[error("computing")]
    Forward(#[source] BackendError),
    #[error("an answer ends before all have begun: more tokens are needed of fewer sequences")]
    TooShort,
}

/// How long a number of tokens took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    pub tokens: usize,
    pub elapsed: Duration,
    /// What of it was the forward pass and the choice of the tokens, which no engine does without.
    pub computing: Duration,
}

impl Timing {
    pub fn tokens_per_second(&self) -> f64 {
        self.tokens as f64 / self.elapsed.as_secs_f64()
    }
}

/// What the parts of a step take, as fitted to all steps of a bench: with these prices an engine
/// says who has had how much of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StepSeconds {
    /// A step, whatever is in it.
    pub step: f64,
    pub prefill_token: f64,
    pub decode_token: f64,
    /// A token in the cache that one row attends to.
    pub attended_token: f64,
    /// A thousand multiplies and adds of an adapter.
    pub adapter_kop: f64,
    /// A pair of matrices of an adapter that any row of the step has.
    pub adapter_pair: f64,
}

/// A model to measure.
pub struct Bench {
    executor: Box<dyn Executor>,
    vocabulary: u32,
    limits: Limits,
    layout: Layout,
    sequences: usize,
    /// Of the cache, in all layers.
    blocks: usize,
    weights_bytes: u64,
    ops_per_token: u64,
    head_ops: u64,
    adapters: Vec<Adapted>,
    fit: Fit,
}

impl Bench {
    /// Loads a model for runs of at most `sequences` sequences, of which there are
    /// [`SEQUENCES_MAX`] at most, of at most `context` tokens each.
    pub fn open(
        path: &Path,
        (context, sequences): (u32, usize),
        threads: Option<usize>,
    ) -> Result<Self, BenchError> {
        let cpu = Cpu::detect(threads.unwrap_or_else(cpu::default_threads));
        Self::on(cpu, path, (context, sequences))
    }

    /// As [`Bench::open`], on another device.
    pub fn on<B: Backend>(
        backend: B,
        path: &Path,
        (context, sequences): (u32, usize),
    ) -> Result<Self, BenchError> {
        let opened = Opened::read(path).map_err(BenchError::Load)?;
        if !opened.architecture.generates {
            return Err(BenchError::ReadsOnly);
        }
        let trained = opened.architecture.context;
        if context > trained {
            let too_long = LoadError::Context { wanted: context, context: trained };
            return Err(BenchError::Load(too_long));
        }
        let limits = Limits {
            context: context as usize,
            batch_tokens: BATCH_TOKENS,
            running: RUNNING_MAX,
            queued: RUNNING_MAX,
        };
        let sequences = sequences.clamp(1, SEQUENCES_MAX);
        let blocks = limits.context.div_ceil(BLOCK_TOKENS) * sequences;
        let capacity = Capacity {
            rows: limits.batch_tokens,
            text_rows: 0,
            outputs: limits.running,
            blocks,
            block_tokens: BLOCK_TOKENS,
            kv_type: KvType::F16,
            context,
        };
        let layout = opened.layout();
        let executor = opened.on(backend, capacity).map_err(BenchError::Load)?;
        let vocabulary = u32::try_from(opened.tokenizer.len()).unwrap_or(u32::MAX);
        let weights_bytes = opened.facts.weights_bytes;
        let ops_per_token = opened.architecture.ops_per_token();
        let head_ops = 2 * opened.architecture.width as u64 * u64::from(vocabulary);
        let fit = Fit::new(Prices::for_model(ops_per_token));
        Ok(Self {
            executor,
            vocabulary,
            limits,
            layout,
            sequences,
            blocks,
            weights_bytes,
            ops_per_token,
            head_ops,
            adapters: Vec::new(),
            fit,
        })
    }

    /// Loads the adapter in the file at `path`, for [`Bench::decode_adapted`].
    pub fn adapt(&mut self, path: &Path) -> Result<(), BenchError> {
        let file =
            Gguf::open(path).map_err(|error| BenchError::Adapter(AdapterError::File(error)))?;
        let id = AdapterId(self.adapters.len() as u64);
        let work = self.executor.adapt(id, &file).map_err(BenchError::Adapter)?;
        // Each its own, as what separates their caches.
        let mut sha256 = Sha256([0; 32]);
        sha256.0[..8].copy_from_slice(&(id.0 + 1).to_le_bytes());
        self.adapters.push(Adapted { id, sha256, work });
        Ok(())
    }

    /// What the parts of the steps that were run so far have taken.
    pub fn step_seconds(&self) -> StepSeconds {
        let prices = self.fit.prices();
        StepSeconds {
            step: prices.step.as_secs_f64(),
            prefill_token: prices.prefill_token.as_secs_f64(),
            decode_token: prices.decode_token.as_secs_f64(),
            attended_token: prices.attended_token.as_secs_f64(),
            adapter_kop: prices.adapter_kop.as_secs_f64(),
            adapter_pair: prices.adapter_pair.as_secs_f64(),
        }
    }

    /// The device in words.
    pub fn device(&self) -> String {
        self.executor.describe()
    }

    /// Bytes of weights that a decode step reads.
    pub const fn weights_bytes(&self) -> u64 {
        self.weights_bytes
    }

    /// Multiplies and adds of one token in the layers' matrices.
    pub const fn ops_per_token(&self) -> u64 {
        self.ops_per_token
    }

    /// Multiplies and adds of the head for one token; of a prompt only the last needs it.
    pub const fn head_ops(&self) -> u64 {
        self.head_ops
    }

    /// Computes a prompt of `tokens` tokens, up to its first answer token.
    pub fn prefill(&mut self, tokens: usize) -> Result<Timing, BenchError> {
        let mut run = self.start(self.prompts(1, tokens), 1, &[])?;
        let started = Instant::now();
        while !run.scheduler.is_idle() {
            run.step(self.executor.as_mut(), &mut self.fit)?;
        }
        Ok(Timing { tokens, elapsed: started.elapsed(), computing: run.computing })
    }

    /// Lets `sequences` sequences, at most as many as it was opened for, decode `tokens` tokens each
    /// after a prompt of `prompt` tokens, as [`Bench::answer`] does.
    pub fn decode(
        &mut self,
        sequences: usize,
        prompt: usize,
        tokens: usize,
    ) -> Result<Timing, BenchError> {
        let sequences = sequences.clamp(1, self.sequences);
        self.answer_with(self.prompts(sequences, prompt), tokens, &[])
    }

    /// The same, of sequences that have the loaded adapters by turns.
    pub fn decode_adapted(
        &mut self,
        sequences: usize,
        prompt: usize,
        tokens: usize,
    ) -> Result<Timing, BenchError> {
        let adapters = mem::take(&mut self.adapters);
        let sequences = sequences.clamp(1, self.sequences);
        let timing = self.answer_with(self.prompts(sequences, prompt), tokens, &adapters);
        self.adapters = adapters;
        timing
    }

    /// Lets a sequence behind each of `prompts`, which are at most as many as it was opened for,
    /// decode `tokens` tokens. What counts is from when the last of them has begun its answer, so
    /// that no prompt is computed any more, until the first has come to its end.
    pub fn answer(&mut self, prompts: Vec<Vec<u32>>, tokens: usize) -> Result<Timing, BenchError> {
        self.answer_with(prompts, tokens, &[])
    }

    fn answer_with(
        &mut self,
        mut prompts: Vec<Vec<u32>>,
        tokens: usize,
        adapters: &[Adapted],
    ) -> Result<Timing, BenchError> {
        prompts.truncate(self.sequences);
        let sequences = prompts.len();
        let more = u32::try_from(tokens).unwrap_or(u32::MAX).saturating_add(1);
        let mut run = self.start(prompts, more, adapters)?;
        while run.begun < sequences {
            run.step(self.executor.as_mut(), &mut self.fit)?;
        }
        if run.ended > 0 {
            return Err(BenchError::TooShort);
        }
        let before = run.scheduler.totals().generated;
        run.computing = Duration::ZERO;
        let started = Instant::now();
        while run.ended == 0 && sequences > 0 {
            run.step(self.executor.as_mut(), &mut self.fit)?;
        }
        let elapsed = started.elapsed();
        let generated = run.scheduler.totals().generated - before;
        let tokens = usize::try_from(generated).unwrap_or(usize::MAX);
        Ok(Timing { tokens, elapsed, computing: run.computing })
    }

    /// Prompts of ids that no two of them share, so that nothing is found in the cache.
    fn prompts(&self, sequences: usize, tokens: usize) -> Vec<Vec<u32>> {
        let vocabulary = u64::from(self.vocabulary.max(1));
        let prompt = |number: u64| {
            let ids = (number * 1_000_003..).map(|n| n.wrapping_mul(2_654_435_761) >> 7);
            let ids = ids.map(|n| u32::try_from(n % vocabulary).unwrap_or(0));
            ids.take(tokens).collect()
        };
        (0..sequences as u64).map(prompt).collect()
    }

    /// Submits the prompts; their sequences have the adapters by turns, where there are any.
    fn start(
        &self,
        prompts: Vec<Vec<u32>>,
        tokens: u32,
        adapters: &[Adapted],
    ) -> Result<Run, BenchError> {
        let blocks = u32::try_from(self.layout.in_bands(self.blocks)).unwrap_or(u32::MAX);
        let namespace = Namespace::new(Secret([0; 32]), Sha256([0; 32]), KvType::F16);
        let pool = BlockPool::new(blocks, self.layout, namespace);
        let mut scheduler = Scheduler::new(self.limits, pool, self.fit.prices());
        let tenant = TenantName::new("realm", "bench").expect("two DNS labels");
        let none_or_turns = adapters.iter().copied().cycle().map(Some).chain(iter::repeat(None));
        for ((number, prompt), adapter) in (0..).zip(prompts).zip(none_or_turns) {
            let submission = Submission {
                id: SequenceId(number),
                tenant: tenant.clone(),
                public: None,
                adapter,
                terms: Terms { weight: 1, priority: Priority::Normal },
                kv_blocks_max: u32::MAX,
                context_max: u32::MAX,
                prompt,
                resumed: 0,
                tokens_max: Some(tokens),
                deadline: None,
            };
            scheduler.submit(submission).map_err(BenchError::Refused)?;
        }
        Ok(Run {
            scheduler,
            batch: Batch::default(),
            computing: Duration::ZERO,
            tokens: Vec::new(),
            begun: 0,
            ended: 0,
        })
    }
}

/// Sequences that may decode at once: as many as an engine runs.
pub const SEQUENCES_MAX: usize = RUNNING_MAX;

/// One measured run.
struct Run {
    scheduler: Scheduler,
    batch: Batch,
    /// Time in the forward pass and in the choice of tokens.
    computing: Duration,
    /// Of a step, by its outputs.
    tokens: Vec<u32>,
    /// Sequences that have their first token, and that have their last.
    begun: usize,
    ended: usize,
}

impl Run {
    fn step(&mut self, executor: &mut dyn Executor, fit: &mut Fit) -> Result<(), BenchError> {
        self.scheduler.plan_batch(Instant::now(), &mut self.batch);
        let started = Instant::now();
        executor.forward(&self.batch).map_err(BenchError::Forward)?;
        let took = started.elapsed();
        let token = |output| sampler::argmax(executor.logits(output)).unwrap_or(0);
        self.tokens.clear();
        self.tokens.extend((0..self.batch.outputs.len()).map(token));
        self.computing += started.elapsed();
        fit.observe(self.scheduler.step(), took);
        self.scheduler.commit();
        for (sequence, output) in self.batch.finished() {
            self.begun += usize::from(self.scheduler.position(sequence) == 0);
            if self.scheduler.advance(sequence, self.tokens[output]).is_some() {
                self.ended += 1;
                self.scheduler.end(sequence);
            }
        }
        Ok(())
    }
}
