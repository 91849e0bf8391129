//! Model files from strangers: every damage is a typed error.

use std::collections::BTreeSet;

use proptest::prelude::*;
use realm_engine::{
    LoadError, MemoryBudget, WeightsError,
    eval::{EvalError, EvalOptions, Evaluation},
    gguf::{
        Array, Gguf, GgufError, Head, Value,
        writer::{self, Tensor},
    },
};
use realm_kernels::{backend::KvType, format::Format};

use crate::{
    support::{options, smollm2},
    tiny_gguf,
};

fn tiny() -> Vec<u8> {
    tiny_gguf::tiny_llama(Format::Q8_0)
}

const OPTIONS: EvalOptions = EvalOptions { context: 64, kv_type: KvType::F16, threads: Some(1) };

/// Reads, loads and runs a file, as far as it goes.
fn run(bytes: Vec<u8>) -> Result<(), EvalError> {
    let gguf = Gguf::parse(bytes).map_err(EvalError::Open)?;
    let _ = gguf.facts();
    let mut evaluation = Evaluation::of(gguf, &OPTIONS)?;
    evaluation.logits(&[5, 6, 7], 0, &mut |_, _| {})
}

#[test]
fn the_facts_of_the_default_model_are_read_from_its_header() {
    let facts = Gguf::open(&smollm2()).unwrap().facts().unwrap();
    assert_eq!(facts.architecture, "llama");
    assert_eq!(facts.parameters, 134_515_008);
    assert_eq!(facts.format, "Q4_1");
    assert_eq!(facts.context, 8192);
    assert_eq!(facts.licence.as_deref(), Some("apache-2.0"));
}

#[test]
fn what_is_written_is_read_again() {
    let gguf = Gguf::parse(tiny()).unwrap();
    assert_eq!(gguf.metadata(), tiny_gguf::metadata(Format::Q8_0));
    for want in tiny_gguf::tensors(Format::Q8_0) {
        let got = gguf.tensor(&want.name).unwrap();
        assert_eq!((&got.shape, got.format), (&want.shape, want.format));
        assert_eq!(gguf.tensor_bytes(got), want.bytes);
    }
    run(tiny()).unwrap();
}

#[test]
fn a_file_cut_anywhere_in_its_header_is_refused() {
    let whole = tiny();
    let data = tiny_gguf::tensors(Format::Q8_0).iter().map(|t| t.bytes.len()).sum::<usize>();
    for len in (0..whole.len() - data).chain([whole.len() - data, whole.len() - 64]) {
        let error = Gguf::parse(whole[..len].to_vec()).unwrap_err();
        let expected = matches!(error, GgufError::Truncated { .. } | GgufError::OutOfFile { .. });
        assert!(expected, "{len}: {error}");
    }
}

/// A header of `tensors` and `pairs`, whatever they are, and what follows.
fn header(version: u32, tensors: u64, pairs: u64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = b"GGUF".to_vec();
    bytes.extend(version.to_le_bytes());
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(pairs.to_le_bytes());
    bytes.extend(rest);
    bytes
}

/// A pair with the key `k` and a value of that type and those bytes.
fn pair(kind: u32, value: &[u8]) -> Vec<u8> {
    let mut bytes = 1_u64.to_le_bytes().to_vec();
    bytes.push(b'k');
    bytes.extend(kind.to_le_bytes());
    bytes.extend(value);
    bytes
}

fn array(kind: u32, len: u64) -> Vec<u8> {
    [&kind.to_le_bytes()[..], &len.to_le_bytes()].concat()
}

#[test]
fn claims_larger_than_the_file_or_the_limits_are_refused_before_anything_is_allocated() {
    let huge = u64::MAX;
    let error = |bytes: Vec<u8>| Gguf::parse(bytes).unwrap_err();
    for bytes in [
        header(3, huge, 0, &[]),
        header(3, 0, huge, &[]),
        header(3, 0, 1, &[0xff; 64]),
        header(3, 0, 1, &pair(8, &huge.to_le_bytes())),
        header(3, 0, 1, &pair(9, &array(0, huge))),
        header(3, 0, 1, &pair(9, &array(12, 1 << 40))),
    ] {
        assert!(matches!(error(bytes), GgufError::TooMany { .. }));
    }
    for bytes in [
        header(3, 60_000, 0, &[0; 64]),
        header(3, 0, 4000, &[0; 64]),
        header(3, 0, 1, &pair(8, &1000_u64.to_le_bytes())),
        header(3, 0, 1, &pair(9, &array(8, 1 << 20))),
        header(3, 0, 1, &pair(9, &array(12, 1 << 20))),
    ] {
        assert!(matches!(error(bytes), GgufError::Truncated { .. }));
    }
    assert!(matches!(error(header(1, 0, 0, &[])), GgufError::Version { found: 1 }));
    assert!(matches!(error(header(3 << 24, 0, 0, &[])), GgufError::Version { .. }));
    assert!(matches!(error(b"GGML....".to_vec()), GgufError::Magic { .. }));
    assert!(matches!(
        error(header(3, 0, 1, &pair(99, &[0; 8]))),
        GgufError::ValueType { kind: 99, .. }
    ));
    assert!(matches!(
        error(header(3, 0, 1, &pair(9, &array(9, 1)))),
        GgufError::NestedArray { .. }
    ));
    assert!(matches!(error(header(3, 0, 1, &pair(7, &[2]))), GgufError::Boolean { found: 2, .. }));
    let twice = [pair(7, &[1]), pair(7, &[1])].concat();
    assert!(matches!(error(header(3, 0, 2, &twice)), GgufError::DuplicateKey(_)));
}

#[test]
fn tensors_that_do_not_fit_are_refused_by_name() {
    let tensor = |name: &str, shape: &[u64], format, len| Tensor {
        name: name.to_owned(),
        shape: shape.to_vec(),
        format,
        bytes: vec![0; len],
    };
    let error = |tensors: &[Tensor]| {
        let mut bytes = Vec::new();
        writer::write(&mut bytes, &[], tensors).unwrap();
        Gguf::parse(bytes).unwrap_err()
    };
    let huge = tensor("t", &[1 << 40, 1 << 40], Format::F32, 4);
    assert!(matches!(error(&[huge]), GgufError::Shape { tensor, .. } if tensor == "t"));
    let empty = tensor("t", &[0], Format::F32, 4);
    assert!(matches!(error(&[empty]), GgufError::Shape { .. }));
    let ragged = tensor("t", &[33, 2], Format::Q8_0, 68);
    assert!(matches!(error(&[ragged]), GgufError::Blocks { columns: 33, block: 32, .. }));
    let short = tensor("t", &[1024], Format::F32, 4);
    assert!(matches!(error(&[short]), GgufError::OutOfFile { .. }));
    let one = tensor("t", &[1], Format::F32, 4);
    assert!(matches!(error(&[one.clone(), one]), GgufError::DuplicateTensor(_)));
}

#[test]
fn weights_in_a_format_of_activations_are_refused_by_tensor_and_format() {
    for format in [Format::Q8_1, Format::Q8K] {
        let bytes = vec![0; format.tensor_bytes(1, 256).unwrap()];
        let tensor = Tensor { name: "t".to_owned(), shape: vec![256, 1], format, bytes };
        let mut bytes = Vec::new();
        writer::write(&mut bytes, &[], &[tensor]).unwrap();
        let error = Gguf::parse(bytes).unwrap_err();
        let GgufError::Format { tensor, format: found } = error else { panic!("{error:?}") };
        assert_eq!((tensor.as_str(), found.as_str()), ("t", format.name()));
    }
}

/// The tiny model with one pair changed, or left out.
fn with_pair(key: &str, value: Option<Value>) -> Vec<u8> {
    let mut metadata = tiny_gguf::metadata(Format::Q8_0);
    metadata.retain(|(name, _)| name != key);
    metadata.extend(value.map(|value| (key.to_owned(), value)));
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &metadata, &tiny_gguf::tensors(Format::Q8_0)).unwrap();
    bytes
}

#[test]
fn what_the_engine_does_not_know_is_refused_with_what_it_knows() {
    let text = |text: &str| Some(Value::String(text.to_owned()));
    let message = |bytes: Vec<u8>| {
        let error = run(bytes).unwrap_err();
        let mut chain = vec![error.to_string()];
        let mut source = std::error::Error::source(&error);
        while let Some(error) = source {
            chain.push(error.to_string());
            source = error.source();
        }
        chain.join(": ")
    };
    for (key, value, parts) in [
        ("general.architecture", text("mamba"), ["mamba", "llama"]),
        ("tokenizer.ggml.model", text("rwkv"), ["rwkv", "gpt2"]),
        ("tokenizer.ggml.model", text("llama"), ["tokenizer.ggml.scores", "missing"]),
        ("tokenizer.ggml.pre", text("bloom"), ["bloom", "smollm"]),
        ("tokenizer.ggml.pre", Some(Value::U32(1)), ["tokenizer.ggml.pre", "a string"]),
        ("tokenizer.ggml.merges", None, ["tokenizer.ggml.merges", "missing"]),
        ("tokenizer.ggml.eos_token_id", Some(Value::U32(9999)), ["9999", "outside"]),
        ("tokenizer.ggml.token_type", Some(Value::Array(Array::I32(vec![1]))), ["1", "types"]),
        ("llama.expert_count", Some(Value::U32(8)), ["expert_used_count", "missing"]),
        ("llama.expert_count", Some(Value::U32(9999)), ["expert_count", "9999"]),
        ("llama.rope.scaling.type", text("ntk"), ["ntk", "yarn"]),
        ("llama.rope.scaling.type", text("yarn"), ["rope.scaling.factor", "missing"]),
        ("llama.rope.scaling.factor", Some(Value::F32(-1.0)), ["rope.scaling.factor", "-1"]),
        ("llama.attention.head_count", Some(Value::U32(0)), ["head_count", "positive"]),
        ("llama.attention.head_count", Some(Value::U32(3)), ["head_count", "divide"]),
        ("llama.attention.head_count", Some(Value::U32(u32::MAX)), ["head_count", "sane"]),
        ("llama.block_count", Some(Value::U32(3)), ["blk.2.attn_norm.weight", "missing"]),
        ("llama.block_count", Some(Value::U32(1)), ["blk.1.attn_norm.weight", "no place"]),
        ("llama.pooling_type", Some(Value::U32(4)), ["pooling_type", "0 to 3"]),
        ("llama.dense_2_feat_out", Some(Value::U32(8)), ["dense_2.weight", "missing"]),
        ("llama.feed_forward_length", Some(Value::U32(96)), ["ffn_gate", "shape"]),
        ("llama.rope.freq_base", Some(Value::F32(f32::NAN)), ["freq_base", "NaN"]),
        ("general.alignment", Some(Value::U32(3)), ["", ""]),
    ] {
        if key == "general.alignment" {
            // The writer keeps its own alignment, so this one never reaches the file.
            run(with_pair(key, value)).unwrap();
            continue;
        }
        let message = message(with_pair(key, value));
        assert!(parts.iter().all(|part| message.contains(part)), "{key}: {message}");
    }
}

#[test]
fn factors_that_scale_nothing_are_accepted() {
    for key in ["llama.rope.scaling.factor", "llama.rope.scale_linear"] {
        run(with_pair(key, Some(Value::F32(1.0)))).unwrap();
    }
}

#[test]
fn a_tensor_with_no_place_is_refused_because_leaving_it_out_would_change_the_model() {
    let mut tensors = tiny_gguf::tensors(Format::F32);
    tensors.push(Tensor {
        name: "blk.0.attn_q.bias".to_owned(),
        shape: vec![1],
        format: Format::F32,
        bytes: vec![0; 4],
    });
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &tiny_gguf::metadata(Format::F32), &tensors).unwrap();
    let error = run(bytes).unwrap_err();
    let EvalError::Load(LoadError::Weights(WeightsError::Unexpected(name))) = error else {
        panic!("{error:?}");
    };
    assert_eq!(name, "blk.0.attn_q.bias");
}

#[test]
fn what_a_model_will_take_is_known_from_its_file_to_the_byte() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, tiny()).unwrap();
    let facts = realm_engine::examine(std::slice::from_ref(&path), KvType::F16).unwrap();
    let memory = facts.memory.unwrap();
    let bytes = facts.weights_bytes + memory.kv_bytes_per_block * 20 + memory.activation_bytes;
    let open = |memory_bytes_max| {
        let memory_bytes_max = Some(memory_bytes_max);
        realm_engine::open(
            std::slice::from_ref(&path),
            realm_engine::OpenOptions { memory_bytes_max, ..options(20) },
        )
    };
    let (_, loaded) = open(bytes).unwrap();
    assert_eq!(loaded.memory, facts.memory);
    let error = open(bytes - 1).err().unwrap();
    assert!(matches!(error, LoadError::TooLarge { needed, .. } if needed == bytes), "{error:?}");
}

#[test]
fn the_first_bytes_of_a_file_say_as_much_as_all_of_it_once_its_header_is_there() {
    let whole = tiny();
    let total = Some(whole.len() as u64);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, &whole).unwrap();
    let facts = realm_engine::examine(std::slice::from_ref(&path), KvType::F16).unwrap();
    let (mut len, mut tries) = (0, 0);
    let found = loop {
        match Gguf::parse_head(&whole[..len], total).unwrap() {
            Head::Whole(head) => break head,
            Head::Part { bytes_min } => {
                let next = usize::try_from(bytes_min).unwrap();
                assert!(len < next && next <= whole.len(), "{next} after {len}");
                (len, tries) = (next, tries + 1);
            }
        }
    };
    let examine = |head| realm_engine::examine_heads(vec![head], KvType::F16).unwrap();
    assert_eq!(examine(found), facts);
    assert!(tries > 1 && len < whole.len() / 2, "{len} of {}", whole.len());
    let Ok(Head::Whole(unknown)) = Gguf::parse_head(&whole[..len], None) else { panic!("whole") };
    assert_eq!(examine(unknown), facts);
}

#[test]
fn a_file_that_ends_before_its_header_or_its_tensors_is_no_part_but_broken() {
    let whole = tiny();
    let error =
        |len: usize, total: usize| Gguf::parse_head(&whole[..len], Some(total as u64)).unwrap_err();
    assert!(matches!(error(100, 100), GgufError::Truncated { .. }));
    // What follows is known to need more than the file has.
    assert!(matches!(error(100, 101), GgufError::Truncated { .. }));
    let total = whole.len() - 1;
    assert!(matches!(error(total, total), GgufError::OutOfFile { .. }));
}

#[test]
fn a_model_larger_than_allowed_is_refused_before_anything_is_allocated() {
    let options = realm_engine::OpenOptions {
        kv_blocks: None,
        memory_bytes_max: Some(100 << 20),
        ..options(1)
    };
    let error = realm_engine::open(&[smollm2()], options).err().unwrap();
    assert!(matches!(error, LoadError::TooLarge { max, .. } if max == 100 << 20), "{error:?}");
}

#[test]
fn models_that_load_at_once_are_not_promised_the_same_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    std::fs::write(&path, tiny()).unwrap();
    let budget = MemoryBudget::fixed(1 << 40);
    let open = || {
        let options = realm_engine::OpenOptions { budget: budget.clone(), ..options(64) };
        realm_engine::open(std::slice::from_ref(&path), options)
    };
    let (first, _) = open().unwrap();
    let one = (1 << 40) - budget.left();
    assert!(one > 0);
    let (_second, _) = open().unwrap();
    assert_eq!(budget.left(), (1 << 40) - 2 * one);
    drop(first);
    while budget.left() < (1 << 40) - one {
        // The engine's thread gives it back when it has freed it.
        std::thread::yield_now();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_damage_to_a_header_panics(changes in prop::collection::vec((0.0..1.0_f64, any::<u8>()), 1..6)) {
        let mut bytes = tiny();
        let data = tiny_gguf::tensors(Format::Q8_0).iter().map(|t| t.bytes.len()).sum::<usize>();
        let header = bytes.len() - data;
        let mut places = BTreeSet::new();
        for (place, byte) in changes {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the header")]
            let at = (place * header as f64) as usize;
            bytes[at] = byte;
            places.insert(at);
        }
        // Any outcome is right but a panic or an allocation of what was only claimed.
        let _ = run(bytes);
    }

    #[test]
    fn no_strange_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = run(header(3, 1, 2, &bytes));
        let _ = run(bytes);
    }
}
