//! The default model in other formats, made from its own weights.

use realm_engine::gguf::{
    Gguf, TensorInfo,
    writer::{self, Tensor},
};
use realm_kernels::{format::Format, formats};

use crate::support::smollm2;

/// The default model with every matrix in `format`.
pub(crate) fn smollm2_in(format: Format) -> Gguf {
    smollm2_through(&[format])
}

/// The default model with every matrix rounded to each of `steps` in turn.
pub(crate) fn smollm2_through(steps: &[Format]) -> Gguf {
    let gguf = Gguf::open(&smollm2()).unwrap();
    let tensors: Vec<Tensor> = gguf.tensors().iter().map(|t| convert(&gguf, t, steps)).collect();
    let mut bytes = Vec::new();
    writer::write(&mut bytes, gguf.metadata(), &tensors).unwrap();
    Gguf::parse(bytes).unwrap()
}

fn convert(gguf: &Gguf, tensor: &TensorInfo, steps: &[Format]) -> Tensor {
    let is_matrix = tensor.shape.len() > 1;
    let mut format = tensor.format;
    let mut bytes = gguf.tensor_bytes(tensor).to_vec();
    for &step in steps.iter().filter(|_| is_matrix) {
        if step != format {
            bytes = requantise(format, step, &bytes, usize::try_from(tensor.elements()).unwrap());
            format = step;
        }
    }
    Tensor { name: tensor.name.clone(), shape: tensor.shape.clone(), format, bytes }
}

fn requantise(from: Format, to: Format, bytes: &[u8], len: usize) -> Vec<u8> {
    let mut values = vec![0.0; len];
    formats::dequantise(from, bytes, &mut values).unwrap();
    formats::quantise(to, &values).unwrap()
}
