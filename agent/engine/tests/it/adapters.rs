//! Adapters beside a model: what they come to, whose rows they change, and files that are none.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use realm_core::{desired::Sha256, engine::Engine, name::ModelName};
use realm_engine::{
    AdaptedEngine, AdapterError, AdapterOptions, EngineHandle, LoadError, MemoryBudget,
    WeightsError,
    gguf::{
        Array, Value,
        writer::{self, Tensor},
    },
};
use realm_kernels::{
    format::Format,
    formats::{dequantise, quantise},
};
use serde::Deserialize;
use tempfile::TempDir;

use crate::{
    reference_model::Model,
    support::{Answer, caller, generation, options, read, vector},
    tiny_adapter::{ALL, ALPHA, RANK, metadata, pair, pairs, tiny_adapter},
    tiny_gguf,
};

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let mut values = vec![0.0; tensor.shape.iter().product::<u64>().try_into().unwrap()];
    dequantise(tensor.format, &tensor.bytes, &mut values).unwrap();
    values
}

fn file(folder: &Path, name: &str, metadata: &[(String, Value)], tensors: &[Tensor]) -> PathBuf {
    let path = folder.join(name);
    let mut bytes = Vec::new();
    writer::write(&mut bytes, metadata, tensors).unwrap();
    std::fs::write(&path, bytes).unwrap();
    path
}

/// The tiny model with what an adapter adds to its matrices added to them.
fn merged(folder: &Path, parts: &[&str], seed: usize) -> EngineHandle {
    let mut tensors = tiny_gguf::tensors(Format::F32);
    for (at, pair) in pairs(parts, seed) {
        merge(&mut tensors[at], &pair);
    }
    let path = file(folder, "merged.gguf", &tiny_gguf::metadata(Format::F32), &tensors);
    realm_engine::open(&[path], options(64)).unwrap().0
}

/// Adds what a pair adds to what a matrix makes to the matrix.
fn merge(tensor: &mut Tensor, [a, b]: &[Tensor; 2]) {
    let inputs = usize::try_from(tensor.shape[0]).unwrap();
    let (mut values, a, b) = (numbers(tensor), numbers(a), numbers(b));
    for (at, value) in values.iter_mut().enumerate() {
        let (row, column) = (at / inputs, at % inputs);
        let products = (0..RANK).map(|r| b[row * RANK + r] * a[r * inputs + column]);
        *value += ALPHA / RANK as f32 * products.sum::<f32>();
    }
    tensor.bytes = quantise(Format::F32, &values).unwrap();
}

struct Base {
    engine: Arc<EngineHandle>,
    folder: TempDir,
}

impl Base {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tiny.gguf");
        std::fs::write(&path, tiny_gguf::tiny_llama(Format::F32)).unwrap();
        let engine = Arc::new(realm_engine::open(&[path], options(64)).unwrap().0);
        Self { engine, folder }
    }

    fn adapted(&self, parts: &[&str], seed: usize) -> AdaptedEngine {
        let path = self.folder.path().join("adapter.gguf");
        std::fs::write(&path, tiny_adapter(parts, seed)).unwrap();
        self.engine.adapt(&path, adapter(seed)).unwrap()
    }

    fn adapt(
        &self,
        metadata: &[(String, Value)],
        tensors: &[Tensor],
        seed: usize,
    ) -> Result<AdaptedEngine, AdapterError> {
        let path = file(self.folder.path(), "adapter.gguf", metadata, tensors);
        self.engine.adapt(&path, adapter(seed))
    }
}

fn adapter(seed: usize) -> AdapterOptions {
    AdapterOptions {
        name: ModelName::new("default", "adapted").unwrap(),
        sha256: Sha256([u8::try_from(seed).unwrap(); 32]),
        budget: MemoryBudget::fixed(u64::MAX),
    }
}

fn prompt(len: u32) -> Vec<u32> {
    (0..len).map(|i| 3 + (i * 7) % 250).collect()
}

fn answer(engine: &dyn Engine, tenant: &str) -> Answer {
    read(engine.generate(&caller(tenant), generation(prompt(40), 24)).unwrap())
}

#[test]
fn a_model_with_an_adapter_answers_as_one_into_which_it_was_merged() {
    let base = Base::new();
    let plain = answer(&*base.engine, "a");
    for (seed, parts) in (1..).zip([&ALL[..], &ALL[..1], &ALL[3..4], &ALL[4..5], &ALL[6..]]) {
        let adapted = base.adapted(parts, seed);
        let merged = merged(base.folder.path(), parts, seed);
        let (got, wanted) = (answer(&adapted, "a"), answer(&merged, "a"));
        assert_eq!(got.ids, wanted.ids, "{parts:?}");
        assert_ne!(got.ids, plain.ids, "{parts:?} changes something");
        assert_eq!(adapted.info().model.as_str(), "default/adapted");
    }
    assert_eq!(answer(&*base.engine, "b").ids, plain.ids, "the model is as it was");
}

/// Fused matrices, experts, biases, norms of heads and windows.
#[test]
fn adapters_of_every_architecture_answer_as_models_into_which_they_were_merged() {
    let names =
        ["mistral", "mixtral", "qwen2", "qwen2moe", "qwen3", "qwen3moe", "gemma2", "gemma3"];
    for name in names.into_iter().chain(["phi3"]) {
        let reference: Reference =
            serde_json::from_str(&vector(&format!("models/{name}.json"))).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("plain.gguf");
        std::fs::write(&path, reference.model.bytes()).unwrap();
        let (plain, facts) = realm_engine::open(&[path], options(64)).unwrap();
        let plain = Arc::new(plain);
        let mut tensors = reference.model.tensors();
        let is_changed = |tensor: &&mut Tensor| {
            let part = tensor.name.strip_prefix("blk.").and_then(|rest| rest.split('.').nth(1));
            let is_matrix = tensor.name.ends_with(".weight") && tensor.shape.len() == 2;
            let attends = part.is_some_and(|part| part == "attn_qkv" || ALL[..4].contains(&part));
            let feeds = part.is_some_and(|part| ALL[4..].contains(&part));
            is_matrix && (attends || feeds)
        };
        let mut adapter_tensors = Vec::new();
        for (at, tensor) in tensors.iter_mut().filter(is_changed).enumerate() {
            let pair = pair(tensor, 2 * at);
            merge(tensor, &pair);
            adapter_tensors.extend(pair);
        }
        let merged = folder.path().join("merged.gguf");
        std::fs::write(&merged, reference.model.bytes_of(&tensors)).unwrap();
        let merged = realm_engine::open(&[merged], options(64)).unwrap().0;
        let mut said = metadata();
        said[1].1 = Value::String(facts.architecture.clone());
        let path = file(folder.path(), "adapter.gguf", &said, &adapter_tensors);
        let adapted = plain.adapt(&path, adapter(1)).unwrap();
        let answers = |engine: &dyn Engine| -> Vec<Vec<u32>> {
            let prompts = (1..24).step_by(2).map(|len| reference.tokens[..len].to_vec());
            let generate = |prompt| engine.generate(&caller("a"), generation(prompt, 4)).unwrap();
            prompts.map(|prompt| read(generate(prompt)).ids).collect()
        };
        let wanted = answers(&merged);
        assert_eq!(answers(&adapted), wanted, "{name}");
        assert_ne!(answers(&*plain), wanted, "{name}: it changes something");
    }
}

#[derive(Deserialize)]
struct Reference {
    #[serde(flatten)]
    model: Model,
    tokens: Vec<u32>,
}

#[test]
fn rows_of_one_step_have_each_their_own_adapter() {
    let base = Base::new();
    let adapted = [1, 2].map(|seed| base.adapted(&ALL, seed));
    let engines: [&dyn Engine; 3] = [&*base.engine, &adapted[0], &adapted[1]];
    let alone = engines.map(|engine| answer(engine, "alone").ids);
    assert_ne!(alone[0], alone[1]);
    assert_ne!(alone[1], alone[2]);
    let tenants = ["a", "b", "c"];
    let streams: Vec<_> = (0..9)
        .map(|n| {
            let generation = generation(prompt(40), 24);
            engines[n % 3].generate(&caller(tenants[n / 3]), generation).unwrap()
        })
        .collect();
    for (n, stream) in streams.into_iter().enumerate() {
        assert_eq!(read(stream).ids, alone[n % 3], "stream {n}");
    }
}

#[test]
fn nothing_that_an_adapter_made_is_found_in_the_cache_without_it() {
    let base = Base::new();
    let adapted = base.adapted(&ALL, 1);
    assert_eq!(answer(&*base.engine, "a").cached, 0);
    assert_eq!(answer(&adapted, "a").cached, 0);
    assert_eq!(answer(&adapted, "a").cached, 32);
    assert_eq!(answer(&*base.engine, "a").cached, 32);
}

/// What is said of an adapter with a vector.
fn no_matrix(folder: &Path) -> AdapterError {
    let mut tensors: Vec<Tensor> =
        pairs(&ALL[..1], 1).into_iter().flat_map(|(_, pair)| pair).collect();
    let len = tensors[0].shape.iter().product();
    tensors[0].shape = vec![len];
    let path = file(folder, "vector.gguf", &metadata(), &tensors);
    realm_engine::examine_adapter(&path).unwrap_err()
}

#[test]
fn an_adapters_file_says_what_it_is_and_is_no_model() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("adapter.gguf");
    std::fs::write(&path, tiny_adapter(&ALL[..2], 1)).unwrap();
    let facts = realm_engine::examine_adapter(&path).unwrap();
    // In each of two layers, `q` of 128 rows and `k` of 64, of 128 columns.
    let parameters = 2 * RANK as u64 * ((128 + 128) + (128 + 64));
    assert_eq!((&*facts.architecture, &*facts.format, facts.context), ("llama", "F32", 0));
    assert_eq!(facts.parameters, parameters);
    assert!(facts.weights_bytes >= 4 * parameters, "as the device holds it");
    let error = no_matrix(folder.path());
    assert!(matches!(error, AdapterError::Weights(WeightsError::Unexpected(_))), "{error:?}");
    assert_eq!(facts.memory.unwrap().kv_bytes_per_block, 0);
    let error = realm_engine::open(std::slice::from_ref(&path), options(64)).err().unwrap();
    assert!(matches!(error, LoadError::IsAdapter), "{error:?}");
    std::fs::write(&path, tiny_gguf::tiny_llama(Format::F32)).unwrap();
    let error = realm_engine::examine_adapter(&path).unwrap_err();
    assert!(matches!(error, AdapterError::NotAnAdapter(_)), "{error:?}");
}

#[test]
fn an_adapter_is_there_until_its_last_sequence_has_ended() {
    let base = Base::new();
    let adapted = base.adapted(&ALL, 1);
    let whole = answer(&adapted, "a").ids;
    let stream = adapted.generate(&caller("a"), generation(prompt(40), 24)).unwrap();
    drop(adapted);
    assert_eq!(read(stream).ids, whole);
    // What is loaded anew is another one, once the first has been forgotten.
    answer(&*base.engine, "b").end.unwrap();
    assert_eq!(answer(&base.adapted(&ALL, 1), "a").ids, whole);
}

#[test]
fn the_memory_of_adapters_is_given_back_with_the_last_of_each_and_what_they_share_with_the_last() {
    let base = Base::new();
    let path = base.folder.path().join("adapter.gguf");
    std::fs::write(&path, tiny_adapter(&ALL, 1)).unwrap();
    let budget = MemoryBudget::fixed(1 << 30);
    let adapt = || {
        let options = AdapterOptions { budget: budget.clone(), ..adapter(1) };
        base.engine.adapt(&path, options).unwrap()
    };
    let taken = || (1 << 30) - budget.left();
    // Sequences end before the thread has looked who wants what.
    let given_back = |bytes: u64| {
        for _ in 0..1000 {
            answer(&*base.engine, "b").end.unwrap();
            if taken() == bytes {
                return;
            }
        }
        panic!("{} bytes are taken, not {bytes}", taken());
    };
    let first = adapt();
    let of_first = taken();
    let second = adapt();
    let own = taken() - of_first;
    let facts = realm_engine::examine_adapter(&path).unwrap();
    let step = facts.memory.unwrap().activation_bytes;
    assert_eq!((own, of_first), (facts.weights_bytes, facts.weights_bytes + step), "as was said");
    drop(first);
    given_back(of_first);
    drop(second);
    given_back(0);
    std::fs::write(&path, tiny_gguf::tiny_llama(Format::F32)).unwrap();
    let options = AdapterOptions { budget: budget.clone(), ..adapter(1) };
    base.engine.adapt(&path, options).err().unwrap();
    given_back(0);
}

#[test]
fn nothing_holds_a_model_whose_adapters_are_gone() {
    let Base { engine, folder } = Base::new();
    let weak = Arc::downgrade(&engine);
    let path = folder.path().join("adapter.gguf");
    std::fs::write(&path, tiny_adapter(&ALL, 1)).unwrap();
    let adapted = engine.adapt(&path, adapter(1)).unwrap();
    drop(engine);
    answer(&adapted, "a").end.unwrap();
    drop(adapted);
    assert!(weak.upgrade().is_none());
}

#[test]
fn an_adapter_that_memory_has_no_room_for_is_refused_and_the_model_goes_on() {
    let base = Base::new();
    let path = base.folder.path().join("adapter.gguf");
    std::fs::write(&path, tiny_adapter(&ALL, 1)).unwrap();
    let options = AdapterOptions { budget: MemoryBudget::fixed(1000), ..adapter(1) };
    let error = base.engine.adapt(&path, options).err().unwrap();
    assert!(matches!(error, AdapterError::TooLarge { left: 1000, .. }), "{error:?}");
    answer(&*base.engine, "a").end.unwrap();
}

#[test]
fn files_that_are_no_adapters_of_the_model_are_refused_and_say_why() {
    let base = Base::new();
    let good =
        || -> Vec<Tensor> { pairs(&ALL[..1], 1).into_iter().flat_map(|(_, it)| it).collect() };
    let said = |key: &str, value: Value| {
        let mut metadata = metadata();
        metadata.retain(|(had, _)| had != key);
        metadata.push((key.to_owned(), value));
        base.adapt(&metadata, &good(), 1).err().unwrap().to_string()
    };
    let text = |text: &str| Value::String(text.to_owned());
    assert!(
        said("general.type", text("model")).contains("no adapter: its `general.type` is `model`")
    );
    assert!(said("adapter.type", text("ia3")).contains("of the kind `ia3`"));
    assert!(
        said("general.architecture", text("qwen2")).contains("`qwen2`, and this one is `llama`")
    );
    assert!(said("adapter.lora.alpha", Value::F32(f32::NAN)).contains("NaN"));
    let with = |change: &dyn Fn(&mut Vec<Tensor>)| {
        let mut tensors = good();
        change(&mut tensors);
        base.adapt(&metadata(), &tensors, 1).err().unwrap()
    };
    assert!(matches!(with(&|tensors| tensors.clear()), AdapterError::Empty));
    for (change, part) in [
        (
            &(|tensors: &mut Vec<Tensor>| drop(tensors.remove(1))) as &dyn Fn(&mut Vec<Tensor>),
            "lora_b",
        ),
        (&|tensors| tensors[0].name = "output.weight.lora_a".to_owned(), "lora_a"),
        (&|tensors| tensors[1].shape = vec![RANK as u64 * 2, 64], "lora_b"),
    ] {
        let error = with(change);
        let AdapterError::Weights(error) = error else { panic!("{error:?}") };
        assert!(error.to_string().contains(part), "{error}");
    }
    let long = with(&|tensors| {
        let values = vec![0.0; 128 * 193];
        tensors[0].shape[1] = 193;
        tensors[0].bytes = quantise(Format::F32, &values).unwrap();
    });
    assert!(matches!(long, AdapterError::Rank { rank: 193, max: 192, .. }), "{long:?}");
    let only_behind = Value::Array(Array::U32(vec![1]));
    assert!(said("adapter.alora.invocation_tokens", only_behind).contains("of the kind `alora`"));
    answer(&*base.engine, "a").end.unwrap();
}
