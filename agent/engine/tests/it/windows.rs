//! Models whose layers attend a window, all of them or some, in a cache that holds less than their
//! answers.

use std::thread;

use realm_core::{engine::Engine as _, report::SequenceBlocks};
use realm_engine::{
    EngineHandle, LoadError, OpenOptions,
    eval::{EvalOptions, Evaluation},
    gguf::{Gguf, Value, writer},
};
use realm_kernels::{backend::KvType, format::Format};
use tempfile::TempDir;

use crate::{
    reference_model::Model,
    support::{Answer, caller, generation, options, read, vector},
    tiny_gguf,
};

/// A token sees so many, itself among them: no whole number of blocks.
const WINDOW: u32 = 40;
/// The blocks of a window and a step, and one for what begins within a block.
const SEEN: u32 = (WINDOW + 256).div_ceil(32) + 1;
/// The blocks of a context.
const CONTEXT: u32 = tiny_gguf::CONTEXT / 32;
const KV_TYPES: [KvType; 2] = [KvType::F16, KvType::Q8_0];

/// A model, and how much of it its cache holds.
struct Windowed {
    file: Vec<u8>,
    /// Of how many bands of layers one has no window, if any.
    whole: u32,
    bands: u32,
    /// The fewest blocks that it can be loaded with.
    blocks: u32,
    vocabulary: u32,
}

impl Windowed {
    /// All layers attend the window.
    fn llama() -> Self {
        let mut metadata = tiny_gguf::metadata(Format::F32);
        metadata.push(("llama.attention.sliding_window".to_owned(), Value::U32(WINDOW)));
        let mut file = Vec::new();
        writer::write(&mut file, &metadata, &tiny_gguf::tensors(Format::F32)).unwrap();
        Self { file, whole: 0, bands: 1, blocks: SEEN, vocabulary: 253 }
    }

    /// All layers but one do, and each has blocks of its own.
    fn gemma(name: &str, bands: u32) -> Self {
        let reference = vector(&format!("models/{name}.json"));
        let model: Model = serde_json::from_str(&reference).unwrap();
        let model = model.with(&[
            (&format!("{name}.context_length"), tiny_gguf::CONTEXT),
            (&format!("{name}.attention.sliding_window"), WINDOW),
        ]);
        let blocks = (CONTEXT + (bands - 1) * SEEN).div_ceil(bands);
        let vocabulary = model.vocabulary().into();
        Self { file: model.bytes(), whole: 1, bands, blocks, vocabulary }
    }

    fn each() -> [Self; 3] {
        [Self::llama(), Self::gemma("gemma2", 3), Self::gemma("gemma3", 6)]
    }

    fn open(&self, options: OpenOptions) -> Result<(EngineHandle, TempDir), LoadError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("windowed.gguf");
        std::fs::write(&path, &self.file).unwrap();
        let (engine, facts) = realm_engine::open(&[path], options)?;
        let Self { whole, bands, .. } = *self;
        let held = SequenceBlocks { bands, whole, windowed_max: SEEN };
        assert_eq!(facts.memory.unwrap().kv_blocks_per_sequence, Some(held));
        Ok((engine, folder))
    }

    fn engine(&self, kv_blocks: u32, kv_type: KvType) -> (EngineHandle, TempDir) {
        self.open(OpenOptions { kv_type, ..options(kv_blocks) }).unwrap()
    }

    fn prompt(&self, len: u32, salt: u32) -> Vec<u32> {
        (0..len).map(|i| 3 + (i * 7 + salt * 13) % (self.vocabulary - 3)).collect()
    }

    fn ask(&self, engine: &EngineHandle, tenant: &str, (len, salt): (u32, u32)) -> Answer {
        let prompt = self.prompt(len, salt);
        read(engine.generate(&caller(tenant), generation(prompt, 150)).unwrap())
    }
}

#[test]
fn an_answer_longer_than_the_cache_is_what_a_cache_of_everything_gives() {
    for model in Windowed::each() {
        for kv_type in KV_TYPES {
            let (small, _folder) = model.engine(model.blocks, kv_type);
            let answer = model.ask(&small, "a", (300, 1));
            assert_eq!(answer.ids.len(), 150);
            assert!(300 + 150 > model.blocks * 32, "it never holds all of it");
            let options = EvalOptions { context: 512, kv_type, threads: Some(2) };
            let file = Gguf::parse(model.file.clone()).unwrap();
            let mut whole = Evaluation::of(file, &options).unwrap();
            let tokens = [model.prompt(300, 1), answer.ids.clone()].concat();
            let mut wanted = answer.ids.iter();
            let visit = &mut |_: usize, logits: &[f32]| {
                let Some(&id) = wanted.next() else { return };
                let best = logits.iter().copied().fold(f32::MIN, f32::max);
                assert!(logits[id as usize] >= best - 1e-4, "{} and {best}", logits[id as usize]);
            };
            whole.logits(&tokens, 299, visit).unwrap();
            assert_eq!(wanted.len(), 0);
        }
    }
}

#[test]
fn a_prefix_is_found_again_though_its_beginning_is_gone() {
    for model in Windowed::each() {
        let (small, _folder) = model.engine(model.blocks, KvType::F16);
        let first = model.ask(&small, "a", (300, 1));
        let again = model.ask(&small, "a", (300, 1));
        assert_eq!((first.cached, again.cached), (0, 288));
        assert_eq!(again.ids, first.ids);
        assert_eq!(model.ask(&small, "b", (300, 1)).cached, 0);
    }
}

#[test]
fn sequences_that_take_each_others_blocks_answer_as_each_would_alone() {
    for (model, kv_type) in Windowed::each().iter().zip(KV_TYPES.into_iter().cycle()) {
        let (roomy, _folder) = model.engine(400, kv_type);
        let wanted: Vec<_> = (0..6).map(|n| (200 + 20 * n, n)).collect();
        let alone: Vec<_> = wanted.iter().map(|&of| model.ask(&roomy, "alone", of).ids).collect();
        let (small, _folder) = model.engine(model.blocks + 2, kv_type);
        let small = &small;
        let together: Vec<_> = thread::scope(|scope| {
            let ask =
                |&of: &(u32, u32)| scope.spawn(move || model.ask(small, &format!("t{}", of.1), of));
            let asked: Vec<_> = wanted.iter().map(ask).collect();
            asked.into_iter().map(|asked| asked.join().unwrap().ids).collect()
        });
        assert_eq!(together, alone);
        assert_eq!(small.load().kv_blocks_used, 0);
    }
}

#[test]
fn as_many_blocks_as_a_sequence_needs_are_enough_and_fewer_are_not() {
    for model in Windowed::each() {
        let fewer = model.blocks - 1;
        let error = model.open(options(fewer)).err().unwrap();
        assert!(matches!(error, LoadError::TooFewBlocks { blocks, .. } if blocks == fewer));
        let error = model.open(options(1 << 27)).err().unwrap();
        assert!(matches!(error, LoadError::TooManyBlocks { .. }), "{error}");
        let (engine, _folder) = model.open(OpenOptions { kv_blocks: None, ..options(1) }).unwrap();
        assert_eq!(engine.load().kv_blocks_total, 4 * model.blocks);
    }
}
