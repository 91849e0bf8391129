//! The tiny model in several files.

use realm_engine::gguf::{
    Value,
    writer::{self, Tensor},
};
use realm_kernels::format::Format;

use super::tiny_gguf::{metadata, tensors};

/// The same model in parts of so many tensors each, as tools split files: metadata come first, and
/// each part says its place.
pub(crate) fn tiny_llama_parts(format: Format, tensors_per_part: usize) -> Vec<Vec<u8>> {
    let all = tensors(format);
    let total = i32::try_from(all.len()).expect("a tiny model has few tensors");
    let parts: Vec<&[Tensor]> = all.chunks(tensors_per_part).collect();
    let count = u16::try_from(parts.len()).expect("as few parts");
    let part = |(number, tensors): (u16, &&[Tensor])| {
        let mut pairs = if number == 0 { metadata(format) } else { Vec::new() };
        pairs.push(("split.no".to_owned(), Value::U16(number)));
        pairs.push(("split.count".to_owned(), Value::U16(count)));
        pairs.push(("split.tensors.count".to_owned(), Value::I32(total)));
        let mut out = Vec::new();
        writer::write(&mut out, &pairs, tensors).expect("a vector takes all");
        out
    };
    (0..).zip(&parts).map(part).collect()
}
