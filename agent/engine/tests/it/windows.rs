//! A model whose layers all attend a window, in a cache that holds less than its answers.

use std::thread;

use realm_core::engine::Engine as _;
use realm_engine::{
    EngineHandle, LoadError, OpenOptions,
    eval::{EvalOptions, Evaluation},
    gguf::{Gguf, Value, writer},
};
use realm_kernels::{backend::KvType, format::Format};
use tempfile::TempDir;

use crate::{
    support::{Answer, caller, generation, options, read},
    tiny_gguf,
};

/// A token sees so many, itself among them: no whole number of blocks.
const WINDOW: u32 = 40;
/// The blocks of a window and a step, and one for what begins within a block.
const BLOCKS: u32 = (WINDOW + 256).div_ceil(32) + 1;
const KV_TYPES: [KvType; 2] = [KvType::F16, KvType::Q8_0];

fn file() -> Vec<u8> {
    let mut metadata = tiny_gguf::metadata(Format::F32);
    metadata.push(("llama.attention.sliding_window".to_owned(), Value::U32(WINDOW)));
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &metadata, &tiny_gguf::tensors(Format::F32)).unwrap();
    bytes
}

fn open(options: OpenOptions) -> Result<(EngineHandle, TempDir), LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("windowed.gguf");
    std::fs::write(&path, file()).unwrap();
    let (engine, facts) = realm_engine::open(&[path], options)?;
    assert_eq!(facts.memory.unwrap().kv_blocks_per_sequence, Some(BLOCKS));
    Ok((engine, folder))
}

fn engine(kv_blocks: u32, kv_type: KvType) -> (EngineHandle, TempDir) {
    open(OpenOptions { kv_type, ..options(kv_blocks) }).unwrap()
}

fn prompt(len: u32, salt: u32) -> Vec<u32> {
    (0..len).map(|i| 3 + (i * 7 + salt * 13) % 250).collect()
}

fn ask(engine: &EngineHandle, tenant: &str, (len, salt): (u32, u32)) -> Answer {
    read(engine.generate(&caller(tenant), generation(prompt(len, salt), 150)).unwrap())
}

#[test]
fn an_answer_longer_than_the_cache_is_what_a_cache_of_everything_gives() {
    for kv_type in KV_TYPES {
        let (small, _folder) = engine(BLOCKS, kv_type);
        let answer = ask(&small, "a", (300, 1));
        assert_eq!(answer.ids.len(), 150);
        const { assert!(300 + 150 > BLOCKS * 32, "it never holds all of it") };
        let options = EvalOptions { context: 512, kv_type, threads: Some(2) };
        let mut whole = Evaluation::of(Gguf::parse(file()).unwrap(), &options).unwrap();
        let tokens = [prompt(300, 1), answer.ids.clone()].concat();
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

#[test]
fn a_prefix_is_found_again_though_its_beginning_is_gone() {
    let (small, _folder) = engine(BLOCKS, KvType::F16);
    let first = ask(&small, "a", (300, 1));
    let again = ask(&small, "a", (300, 1));
    assert_eq!((first.cached, again.cached), (0, 288));
    assert_eq!(again.ids, first.ids);
    assert_eq!(ask(&small, "b", (300, 1)).cached, 0);
}

#[test]
fn sequences_that_take_each_others_blocks_answer_as_each_would_alone() {
    for kv_type in KV_TYPES {
        let (roomy, _folder) = engine(400, kv_type);
        let wanted: Vec<_> = (0..6).map(|n| (200 + 20 * n, n)).collect();
        let alone: Vec<_> = wanted.iter().map(|&of| ask(&roomy, "alone", of).ids).collect();
        let (small, _folder) = engine(BLOCKS + 2, kv_type);
        let small = &small;
        let together: Vec<_> = thread::scope(|scope| {
            let ask = |&of: &(u32, u32)| scope.spawn(move || ask(small, &format!("t{}", of.1), of));
            let asked: Vec<_> = wanted.iter().map(ask).collect();
            asked.into_iter().map(|asked| asked.join().unwrap().ids).collect()
        });
        assert_eq!(together, alone);
        assert_eq!(small.load().kv_blocks_used, 0);
    }
}

#[test]
fn as_many_blocks_as_a_window_needs_are_enough_and_fewer_are_not() {
    let error = open(options(BLOCKS - 1)).err().unwrap();
    assert!(matches!(error, LoadError::TooFewBlocks { blocks, .. } if blocks == BLOCKS - 1));
    let (engine, _folder) = open(OpenOptions { kv_blocks: None, ..options(1) }).unwrap();
    assert_eq!(engine.load().kv_blocks_total, 4 * BLOCKS);
}
