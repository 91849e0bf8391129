//! How fast operations are, each as a share of what the device could do, measured in the same run:
//! `ops FILE` prints a table and writes the same as JSON, with NVRTC's library in `REALM_TEST_NVRTC` and
//! a folder for compiled kernels in `REALM_TEST_KERNELS`, if any.
//!
//! Each number is the middle of 21 runs. A run is as many calls as read a quarter of a gigabyte of weights
//! that are not in the cache any more, and each call's time has the making ready of its activations.

#![expect(clippy::print_stdout, reason = "it is a program for a terminal")]

use std::{env, error::Error, fs, path::PathBuf};

use realm_kernels::{
    backend::{
        Attention, Backend, BackendError, KvShape, KvType, Product, Reach, Span, StepLimits,
    },
    format::Format,
    formats,
};
use realm_kernels_cuda::{Ceilings, Cuda, CudaMatrix, OpenOptions};
use serde_json::{Value, json};

/// The matrices of a model of eight thousand million weights: `(outputs, inputs)`.
const MATRICES: [(usize, usize); 4] =
    [(4096, 4096), (14_336, 4096), (4096, 14_336), (128_256, 4096)];
const FORMATS: [Format; 7] =
    [Format::Q4K, Format::Q8_0, Format::F16, Format::Q4_1, Format::Q6K, Format::BF16, Format::Q5K];
const FEW: [usize; 4] = [1, 2, 4, 8];
const MANY: [usize; 4] = [16, 64, 256, 1024];
/// Bytes that are read before the same ones are read again: five times the largest cache.
const APART_BYTES: usize = 256 << 20;
/// Rows of random weights; the others repeat them.
const RANDOM_ROWS: usize = 16;

fn main() -> Result<(), Box<dyn Error>> {
    let file = env::args().nth(1).ok_or("ops FILE")?;
    let nvrtc = env::var_os("REALM_TEST_NVRTC").map(PathBuf::from);
    let cache = env::var_os("REALM_TEST_KERNELS").map(PathBuf::from);
    let mut cuda = Cuda::open(&OpenOptions { ordinal: 0, nvrtc, cache })?;
    let ceilings = cuda.ceilings()?;
    println!("{}: {:?}", cuda.describe(), cuda.facts());
    println!(
        "ceilings: copy {:.0} GB/s, s8 {:.0} Top/s, f16 {:.0} Tflop/s, bf16 {:.0} Tflop/s",
        ceilings.copy_bytes / 1e9,
        ceilings.s8_ops / 1e12,
        ceilings.f16_ops / 1e12,
        ceilings.bf16_ops / 1e12
    );
    cuda.reserve(StepLimits { rows: 1024, cols: 14_336 })?;
    let mut all = Vec::new();
    for format in FORMATS {
        for (outputs, inputs) in MATRICES {
            products(&mut cuda, ceilings, (format, outputs, inputs), &mut all)?;
        }
    }
    for kv_type in [KvType::F16, KvType::Q8_0] {
        attention(&mut cuda, ceilings, kv_type, &mut all)?;
    }
    let device = cuda.describe();
    let ceilings = json!({
        "copy_bytes_per_s": ceilings.copy_bytes,
        "s8_ops_per_s": ceilings.s8_ops,
        "f16_ops_per_s": ceilings.f16_ops,
        "bf16_ops_per_s": ceilings.bf16_ops,
    });
    fs::write(file, json!({ "device": device, "ceilings": ceilings, "ops": all }).to_string())?;
    Ok(())
}

/// Evenly in -1 to 1, the same on every machine.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn products(
    cuda: &mut Cuda,
    ceilings: Ceilings,
    (format, outputs, inputs): (Format, usize, usize),
    all: &mut Vec<Value>,
) -> Result<(), Box<dyn Error>> {
    let some = formats::quantise(format, &numbers(RANDOM_ROWS * inputs, 1))?;
    let bytes: Vec<u8> =
        some.iter().copied().cycle().take(some.len() * outputs / RANDOM_ROWS).collect();
    let copies = (APART_BYTES / bytes.len()).max(1);
    let matrices: Vec<CudaMatrix> = (0..copies)
        .map(|_| cuda.matrix(format, outputs, inputs, &bytes))
        .collect::<Result<_, _>>()?;
    let most = MANY.into_iter().max().unwrap_or(1);
    let mut x = cuda.buffer(most * inputs)?;
    cuda.write(&mut x, 0, &numbers(most * inputs, 2))?;
    // The head computes but a few rows of a step.
    let is_head = outputs > 100_000;
    let rows = FEW.into_iter().chain(MANY).filter(|rows| !is_head || *rows <= 64);
    let mut out = cuda.buffer(if is_head { 64 } else { most } * outputs)?;
    for rows in rows {
        let elapsed = cuda.median(|cuda| {
            matrices.iter().try_for_each(|matrix| {
                cuda.matmul(&x, rows, &mut [Product { matrix, out: &mut out }])
            })
        })? / copies as f64;
        let bandwidth = bytes.len() as f64 / elapsed * 1e9;
        let ops = 2.0 * (rows * outputs * inputs) as f64 / elapsed * 1e9;
        let most_ops = match format {
            Format::F16 => ceilings.f16_ops,
            Format::BF16 => ceilings.bf16_ops,
            _ => ceilings.s8_ops,
        };
        let (of_copy, of_products) = (bandwidth / ceilings.copy_bytes, ops / most_ops);
        println!(
            "{format:5} {outputs:6} x {inputs:5}, {rows:4} rows: {:9.1} us {:7.0} GB/s {:5.1} % {:7.1} Top/s {:5.1} %",
            elapsed / 1e3,
            bandwidth / 1e9,
            of_copy * 100.0,
            ops / 1e12,
            of_products * 100.0
        );
        all.push(json!({
            "op": "matmul", "format": format.name(), "outputs": outputs, "inputs": inputs, "rows": rows,
            "ns": elapsed, "bytes_per_s": bandwidth, "of_copy": of_copy, "ops_per_s": ops, "of_products": of_products,
        }));
    }
    Ok(())
}

/// Sequences, tokens behind each, and rows of each.
const BATCHES: [(usize, usize, usize); 6] =
    [(1, 512, 1), (1, 4096, 1), (16, 4096, 1), (64, 1024, 1), (1, 0, 256), (1, 4096, 256)];
const BLOCK_TOKENS: usize = 32;
const LAYERS: usize = 4;

fn attention(
    cuda: &mut Cuda,
    ceilings: Ceilings,
    kv_type: KvType,
    all: &mut Vec<Value>,
) -> Result<(), Box<dyn Error>> {
    let (kv_heads, head_dim, heads) = (8, 128, 32);
    let blocks = 64 * 4352 / BLOCK_TOKENS;
    let shape =
        KvShape { layers: LAYERS, kv_heads, head_dim, blocks, block_tokens: BLOCK_TOKENS, kv_type };
    let mut kv = cuda.kv_cache(shape)?;
    fill(cuda, &mut kv, shape)?;
    let mut q = cuda.buffer(256 * heads * head_dim)?;
    cuda.write(&mut q, 0, &numbers(256 * heads * head_dim, 3))?;
    let mut out = cuda.buffer(256 * heads * head_dim)?;
    for (sequences, past, rows) in BATCHES {
        let each = (past + rows).div_ceil(BLOCK_TOKENS);
        let tables: Vec<Vec<u32>> = (0..sequences)
            .map(|s| (0..each).map(|b| u32::try_from(b * sequences + s)).collect())
            .collect::<Result<_, _>>()?;
        let spans: Vec<Span<'_>> = tables
            .iter()
            .enumerate()
            .map(|(s, blocks)| Span { first_row: s * rows, rows, past, blocks })
            .collect();
        let (soft_cap, reach, window) = (None, Reach::Back, None);
        let elapsed = cuda.median(|cuda| {
            (0..LAYERS).try_for_each(|layer| {
                let call = Attention {
                    layer,
                    heads,
                    scale: 0.088,
                    soft_cap,
                    reach,
                    window,
                    spans: &spans,
                };
                cuda.attention(&kv, &call, &q, &mut out)
            })
        })? / LAYERS as f64;
        let bytes = (2 * sequences * (past + rows) * kv_heads * kv_type.row_bytes(head_dim)) as f64;
        let bandwidth = bytes / elapsed * 1e9;
        let of_copy = bandwidth / ceilings.copy_bytes;
        println!(
            "attention {kv_type:?}, {sequences:2} sequences of {past:4} and {rows:3} rows: {:8.1} us {:6.0} GB/s {:5.1} %",
            elapsed / 1e3,
            bandwidth / 1e9,
            of_copy * 100.0
        );
        all.push(json!({
            "op": "attention", "kv": format!("{kv_type:?}"), "sequences": sequences, "past": past, "rows": rows,
            "ns": elapsed, "bytes_per_s": bandwidth, "of_copy": of_copy,
        }));
    }
    Ok(())
}

/// Random keys and values in every slot.
fn fill(
    cuda: &mut Cuda,
    kv: &mut <Cuda as Backend>::KvCache,
    shape: KvShape,
) -> Result<(), BackendError> {
    const AT_ONCE: usize = 8192;
    let slots = shape.blocks * shape.block_tokens;
    let mut rows = cuda.buffer(AT_ONCE * shape.kv_heads * shape.head_dim)?;
    cuda.write(&mut rows, 0, &numbers(AT_ONCE * shape.kv_heads * shape.head_dim, 4))?;
    let all: Vec<u32> = (0..u32::try_from(slots).unwrap_or(u32::MAX)).collect();
    for layer in 0..shape.layers {
        for part in all.chunks(AT_ONCE) {
            cuda.kv_store(kv, layer, part, &rows, &rows)?;
        }
    }
    Ok(())
}
