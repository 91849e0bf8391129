//! The model of a reference: its file, with weights that are made from the names of its tensors.

use std::collections::BTreeMap;

use realm_engine::gguf::{
    Array, Gguf, Value,
    writer::{self, Tensor},
};
use realm_kernels::format::Format;
use serde::Deserialize;

#[derive(Clone, Deserialize)]
pub(crate) struct Model {
    pub(crate) metadata: BTreeMap<String, serde_json::Value>,
    tensors: BTreeMap<String, Vec<u64>>,
    /// Tensors that follow from the configuration.
    #[serde(default)]
    values: BTreeMap<String, Vec<f32>>,
}

/// As the references make it: the name seeds SplitMix64, whose upper bits are a number from -1 to 1.
fn weights(name: &str, shape: &[u64]) -> Vec<f32> {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let number = |at: u64| {
        let x = seed.wrapping_add(at.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let shaped = |x: f32| {
        if name.contains("norm") {
            1.0 + x * 0.25
        } else if name.contains("factors") {
            2.0 + x
        } else {
            x * if shape.len() > 1 { 0.3 } else { 0.25 }
        }
    };
    (1..=shape.iter().product()).map(|at| shaped(number(at))).collect()
}

fn value(value: &serde_json::Value) -> Value {
    if let Some(text) = value.as_str() {
        return Value::String(text.to_owned());
    }
    if let Some(flag) = value.as_bool() {
        return Value::Bool(flag);
    }
    #[expect(clippy::cast_possible_truncation, reason = "files hold numbers in f32")]
    let float = |x: f64| Value::F32(x as f32);
    match value.as_u64() {
        Some(number) => Value::U32(number.try_into().unwrap()),
        None => float(value.as_f64().unwrap()),
    }
}

impl Model {
    pub(crate) fn context(&self) -> u32 {
        let context = self.metadata.iter().find(|(key, _)| key.ends_with("context_length"));
        u32::try_from(context.unwrap().1.as_u64().unwrap()).unwrap()
    }

    pub(crate) fn vocabulary(&self) -> u8 {
        u8::try_from(self.tensors["token_embd.weight"][1]).unwrap()
    }

    /// The same model with other numbers in what its file says.
    pub(crate) fn with(mut self, metadata: &[(&str, u32)]) -> Self {
        for (key, number) in metadata {
            let before = self.metadata.insert((*key).to_owned(), (*number).into());
            assert!(before.is_some(), "{key} is not there");
        }
        self
    }

    /// The file, with a vocabulary of a letter for each token but for two of control.
    pub(crate) fn file(&self) -> Gguf {
        Gguf::parse(self.bytes()).unwrap()
    }

    /// As [`Model::file`].
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_of(&self.tensors())
    }

    /// The same with other tensors.
    pub(crate) fn bytes_of(&self, tensors: &[Tensor]) -> Vec<u8> {
        let text = |text: &str| Value::String(text.to_owned());
        let vocabulary = self.vocabulary();
        let letters = (b'!'..b'!' + vocabulary - 2).map(|byte| char::from(byte).to_string());
        let tokens = ["<|a|>", "<|b|>"].map(str::to_owned).into_iter().chain(letters).collect();
        let kinds = (0..vocabulary).map(|id| if id < 2 { 3 } else { 1 }).collect();
        let tokenizer = [
            ("tokenizer.ggml.model", text("gpt2")),
            ("tokenizer.ggml.pre", text("gpt-2")),
            ("tokenizer.ggml.tokens", Value::Array(Array::String(tokens))),
            ("tokenizer.ggml.token_type", Value::Array(Array::I32(kinds))),
            ("tokenizer.ggml.merges", Value::Array(Array::String(Vec::new()))),
        ];
        let mut bytes = Vec::new();
        let tokenizer = tokenizer.map(|(key, value)| (key.to_owned(), value));
        writer::write(&mut bytes, &self.pairs(tokenizer.to_vec()), tensors).unwrap();
        bytes
    }

    /// What the file says of the model, and of its tokenizer.
    pub(crate) fn pairs(&self, tokenizer: Vec<(String, Value)>) -> Vec<(String, Value)> {
        let own = self.metadata.iter().map(|(key, given)| (key.clone(), value(given)));
        own.chain(tokenizer).collect()
    }

    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let tensor = |(name, shape): (&String, &Vec<u64>)| {
            let values = self.values.get(name).cloned().unwrap_or_else(|| weights(name, shape));
            let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
            Tensor { name: name.clone(), shape: shape.clone(), format: Format::F32, bytes }
        };
        self.tensors.iter().map(tensor).collect()
    }
}
