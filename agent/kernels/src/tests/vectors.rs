//! The formats against bytes and numbers that another implementation made.

use std::path::PathBuf;

use serde::Deserialize;

use crate::backend::{Backend, Product, StepLimits};
use crate::cpu::{Cpu, Isa};
use crate::format::Format;
use crate::formats::{dequantise, dot, quantise};

const ROWS: usize = 16;
const COLS: usize = 256;

/// Formats whose scales follow from a formula, so that everybody makes the same bytes.
const BY_FORMULA: [Format; 5] =
    [Format::F16, Format::BF16, Format::Q8_0, Format::Q4_1, Format::Q5_1];

/// Formats whose scales are searched for, by everybody in another way.
const BY_SEARCH: [Format; 9] = [
    Format::Q4_0,
    Format::Q5_0,
    Format::Q2K,
    Format::Q3K,
    Format::Q4K,
    Format::Q5K,
    Format::Q6K,
    Format::IQ4NL,
    Format::IQ4XS,
];

fn vectors() -> impl Iterator<Item = Format> {
    BY_FORMULA.into_iter().chain(BY_SEARCH)
}

fn bytes(name: &str) -> Vec<u8> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors/blocks");
    std::fs::read(folder.join(name)).unwrap()
}

fn floats(name: &str) -> Vec<f32> {
    bytes(name).as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

fn floats_of(format: Format, bytes: &[u8]) -> Vec<f32> {
    let mut out = vec![0.0; ROWS * COLS];
    dequantise(format, bytes, &mut out).unwrap();
    out
}

#[derive(Deserialize)]
struct Blocks {
    types: std::collections::BTreeMap<String, Products>,
}

#[derive(Deserialize)]
struct Products {
    #[serde(default)]
    dot: Vec<f64>,
    #[serde(default)]
    dot_f64: Vec<f64>,
}

fn products(format: Format) -> Products {
    let mut blocks: Blocks = serde_json::from_slice(&bytes("blocks.json")).unwrap();
    blocks.types.remove(format.name()).unwrap()
}

/// What another implementation rounds activations to before this format.
fn partner(format: Format) -> Format {
    match format {
        Format::Q4_1 | Format::Q5_1 => Format::Q8_1,
        Format::Q4_0 | Format::Q5_0 | Format::IQ4NL => Format::Q8_0,
        Format::F16 | Format::BF16 | Format::Q8_0 => format,
        _ => Format::Q8K,
    }
}

#[test]
fn dequantised_blocks_are_bit_equal() {
    for format in vectors() {
        let out = floats_of(format, &bytes(&format!("{format}.bin")));
        let bits = |values: Vec<f32>| values.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert!(bits(out) == bits(floats(&format!("{format}.deq.f32"))), "{format}");
    }
}

#[test]
fn quantised_blocks_are_byte_equal() {
    for format in BY_FORMULA.into_iter().chain([Format::Q8_1, Format::Q8K]) {
        let made = quantise(format, &floats("input_w.f32")).unwrap();
        assert!(made == bytes(&format!("{format}.bin")), "{format}");
    }
}

/// The square error of each row of the input as these bytes have it.
fn errors(format: Format, bytes: &[u8]) -> Vec<f64> {
    let (values, back) = (floats("input_w.f32"), floats_of(format, bytes));
    let pairs: Vec<_> = values.into_iter().zip(back).collect();
    let error = |(a, b): &(f32, f32)| (f64::from(*a) - f64::from(*b)).powi(2);
    pairs.chunks(COLS).map(|row| row.iter().map(error).sum()).collect()
}

#[test]
fn a_search_finds_scales_as_good_as_those_of_the_reference() {
    for format in BY_SEARCH {
        let theirs = errors(format, &bytes(&format!("{format}.bin")));
        let ours = errors(format, &quantise(format, &floats("input_w.f32")).unwrap());
        for (row, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert!(*ours <= 1.02 * theirs, "{format} {row}: {ours}, and not {theirs}");
        }
    }
}

#[test]
fn quantised_activations_are_byte_equal() {
    for format in vectors() {
        let made = quantise(partner(format), &floats("input_y.f32")).unwrap();
        assert!(made == bytes(&format!("{format}.act.bin")), "{format}");
    }
}

#[test]
fn products_of_rows_are_those_of_the_reference() {
    for format in vectors() {
        let weights = bytes(&format!("{format}.bin"));
        let activations = bytes(&format!("{format}.act.bin"));
        let with = partner(format);
        let Products { dot: rounded, dot_f64: exact } = products(format);
        let y = bytes("input_y.f32");
        for row in 0..ROWS {
            let w = &weights[row * weights.len() / ROWS..][..weights.len() / ROWS];
            let a = &activations[row * activations.len() / ROWS..][..activations.len() / ROWS];
            let product = dot((format, w), (with, a), COLS).unwrap();
            let off = (product - rounded[row]).abs();
            assert!(off <= 2e-5 * rounded[row].abs().max(1.0), "{format} {row}: off by {off}");
            let y = &y[row * COLS * 4..][..COLS * 4];
            let product = dot((format, w), (Format::F32, y), COLS).unwrap();
            let off = (product - exact[row]).abs();
            assert!(off <= 1e-9 * exact[row].abs().max(1.0), "{format} {row}: off by {off}");
        }
    }
}

/// Formats that the CPU multiplies with the activations of the reference.
const SAME_PARTNER: [Format; 6] =
    [Format::Q4_0, Format::Q4_1, Format::Q5_0, Format::Q5_1, Format::Q8_0, Format::IQ4NL];

#[test]
fn every_instruction_set_multiplies_as_the_reference_does() {
    for isa in Isa::available() {
        let mut cpu = Cpu::new(isa, 2).unwrap();
        cpu.reserve(StepLimits { rows: ROWS, cols: COLS }).unwrap();
        let mut x = cpu.buffer(ROWS * COLS).unwrap();
        cpu.write(&mut x, 0, &floats("input_y.f32")).unwrap();
        for format in SAME_PARTNER {
            let weights = bytes(&format!("{format}.bin"));
            let matrix = cpu.matrix(format, ROWS, COLS, &weights).unwrap();
            let mut out = cpu.buffer(ROWS * ROWS).unwrap();
            cpu.matmul(&x, ROWS, &mut [Product { matrix: &matrix, out: &mut out }]).unwrap();
            let mut values = vec![0.0; ROWS * ROWS];
            cpu.read(&out, 0, &mut values).unwrap();
            for (row, expected) in products(format).dot.into_iter().enumerate() {
                let off = (f64::from(values[row * ROWS + row]) - expected).abs();
                assert!(
                    off <= 2e-5 * expected.abs().max(1.0),
                    "{isa} {format} {row}: off by {off}"
                );
            }
        }
    }
}
