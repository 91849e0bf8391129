//! Logits and perplexity of given tokens, and vectors of texts, through the very forward pass that
//! serves.

use std::path::Path;

use realm_core::engine::TextError;
use realm_kernels::{
    backend::{Backend, BackendError, KvType},
    cpu::{self, Cpu},
};
use thiserror::Error;

use crate::{
    batch::{Batch, SequenceId},
    forward::{Capacity, Executor},
    gguf::{Gguf, GgufError},
    load::{BLOCK_TOKENS, LoadError, Opened},
    tokenizer::{Special, Tokenizer},
};

/// Rows computed together. All of them may want logits, which is what limits it.
const ROWS: usize = 64;

/// How to open a model for evaluation.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// Tokens that one evaluation may hold.
    pub context: u32,
    pub kv_type: KvType,
    pub threads: Option<usize>,
}

/// Why tokens could not be evaluated.
#[derive(Debug, Error)]
pub enum EvalError {
    #[error("opening the model")]
    Open(#[source] GgufError),
    #[error("loading the model")]
    Load(#[source] LoadError),
    #[error("tokenizing")]
    Text(#[source] TextError),
    #[error("{tokens} tokens do not fit into a context of {context}")]
    TooLong { tokens: usize, context: usize },
    #[error("token {id} is not in the vocabulary of {vocabulary}")]
    UnknownToken { id: u32, vocabulary: usize },
    #[error("a text of {tokens} tokens has no whole chunk of {chunk}")]
    TooShort { tokens: usize, chunk: usize },
    #[error("the model reads texts and generates none")]
    ReadsOnly,
    #[error("the model's file does not say how to make one vector of a text")]
    NoPooling,
    #[error("computing")]
    Forward(#[source] BackendError),
}

/// Exp of the mean negative log-likelihood, and of how many tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Perplexity {
    pub value: f64,
    pub tokens: usize,
}

/// A model loaded for evaluation.
pub struct Evaluation {
    executor: Box<dyn Executor>,
    tokenizer: Tokenizer,
    context: usize,
    /// Of layers, each with blocks of its own.
    bands: usize,
    generates: bool,
    embeds: bool,
    batch: Batch,
}

impl Evaluation {
    pub fn open(path: &Path, options: &EvalOptions) -> Result<Self, EvalError> {
        Self::of(Gguf::open(path).map_err(EvalError::Open)?, options)
    }

    pub fn of(gguf: Gguf, options: &EvalOptions) -> Result<Self, EvalError> {
        let cpu = Cpu::detect(options.threads.unwrap_or_else(cpu::default_threads));
        Self::on(cpu, gguf, options)
    }

    /// As [`Evaluation::of`], on another device; the threads are not asked for.
    pub fn on<B: Backend>(
        backend: B,
        gguf: Gguf,
        options: &EvalOptions,
    ) -> Result<Self, EvalError> {
        let opened = Opened::of(gguf).map_err(EvalError::Load)?;
        let context = options.context as usize;
        let blocks = u32::try_from(context.div_ceil(BLOCK_TOKENS)).unwrap_or(u32::MAX);
        let own = opened.capacity(blocks, options.kv_type, options.context);
        let capacity = Capacity { rows: ROWS, outputs: own.outputs.min(ROWS), ..own };
        let bands = opened.architecture.bands().count();
        let generates = opened.architecture.generates;
        let embeds = opened.architecture.pooling.is_some();
        let executor = opened.on(backend, capacity).map_err(EvalError::Load)?;
        let Opened { tokenizer, .. } = opened;
        let batch = Batch::default();
        Ok(Self { executor, tokenizer, context, bands, generates, embeds, batch })
    }

    /// The ids of `text`, read as text.
    pub fn tokenize(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        self.tokenizer.encode(text, Special::Text).map_err(EvalError::Text)
    }

    /// The vectors of `texts`, which are computed together, before they are scaled to any length.
    pub fn vectors(&mut self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, EvalError> {
        if !self.embeds {
            return Err(EvalError::NoPooling);
        }
        self.batch.clear();
        for (at, text) in texts.iter().enumerate() {
            self.check(text)?;
            self.batch.push_text(SequenceId(0), at, text);
        }
        self.executor.embed(&self.batch).map_err(EvalError::Forward)?;
        Ok((0..texts.len()).map(|at| self.executor.vector(at).to_vec()).collect())
    }

    fn check(&self, tokens: &[u32]) -> Result<(), EvalError> {
        if tokens.len() > self.context {
            return Err(EvalError::TooLong { tokens: tokens.len(), context: self.context });
        }
        let vocabulary = self.tokenizer.len();
        match tokens.iter().find(|&&id| id as usize >= vocabulary) {
            Some(&id) => Err(EvalError::UnknownToken { id, vocabulary }),
            None => Ok(()),
        }
    }

    /// Computes `tokens` as one sequence and shows the logits behind each token from `from` on:
    /// `visit(position, logits)` sees what predicts the token at `position + 1`.
    pub fn logits(
        &mut self,
        tokens: &[u32],
        from: usize,
        visit: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), EvalError> {
        if !self.generates {
            return Err(EvalError::ReadsOnly);
        }
        self.check(tokens)?;
        let blocks = self.context.div_ceil(BLOCK_TOKENS);
        let tables: Vec<u32> = (0..).take(blocks * self.bands).collect();
        for (chunk, rows) in tokens.chunks(ROWS).enumerate() {
            let past = chunk * ROWS;
            self.batch.clear();
            let bands = tables.chunks_exact(blocks);
            self.batch.push((SequenceId(0), None), rows, past, bands, BLOCK_TOKENS);
            let wanted = from.saturating_sub(past).min(rows.len())..rows.len();
            self.batch.outputs.extend(wanted.clone().filter_map(|row| u32::try_from(row).ok()));
            self.executor.forward(&self.batch).map_err(EvalError::Forward)?;
            for (output, row) in wanted.enumerate() {
                visit(past + row, self.executor.logits(output));
            }
        }
        Ok(())
    }

    /// Perplexity by chunks: each begins anew, and the predictions of its second half count. What
    /// is left of the text after the last whole chunk is not read.
    pub fn perplexity(&mut self, tokens: &[u32], chunk: usize) -> Result<Perplexity, EvalError> {
        let mut sum = 0.0;
        let mut count = 0_usize;
        for part in tokens.chunks_exact(chunk.max(2)) {
            let first = part.len() / 2;
            self.logits(part, first, &mut |position, logits| {
                if let Some(&next) = part.get(position + 1) {
                    sum -= log_likelihood(logits, next);
                    count += 1;
                }
            })?;
        }
        if count == 0 {
            return Err(EvalError::TooShort { tokens: tokens.len(), chunk });
        }
        Ok(Perplexity { value: (sum / count as f64).exp(), tokens: count })
    }
}

/// The logarithm of the probability of `id`.
fn log_likelihood(logits: &[f32], id: u32) -> f64 {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - most).exp()).sum();
    let logit = logits.get(id as usize).copied().unwrap_or(f32::NEG_INFINITY);
    f64::from(logit - most) - sum.ln()
}
