//! Every instruction set, number of threads and batch shape gives the same bits.

use proptest::prelude::*;

use crate::backend::{
    Attention, Backend, Curve, KvShape, KvType, Product, Reach, RopeShape, RopeStyle, Span,
    StepLimits,
};
use crate::contract;
use crate::cpu::{Cpu, Isa};
use crate::format::Format;
use crate::formats::{dequantise, quantise};

fn each_backend() -> Vec<Cpu> {
    let isas = Isa::available();
    assert!(isas.contains(&Isa::Scalar));
    isas.iter().flat_map(|isa| [1, 3].map(|threads| Cpu::new(*isa, threads).unwrap())).collect()
}

#[test]
fn every_instruction_set_passes_the_contract() {
    for isa in Isa::available() {
        let mut cpu = Cpu::new(isa, 3).unwrap();
        let outcome = contract::run(&mut cpu);
        assert!(outcome.checks > 1000, "only {} checks", outcome.checks);
        let first: Vec<_> = outcome.breaches.iter().take(5).collect();
        assert!(
            first.is_empty(),
            "{}: {} breaches: {first:#?}",
            cpu.describe(),
            outcome.breaches.len()
        );
    }
}

/// Numbers of mixed size, some zero.
fn numbers(len: usize) -> impl Strategy<Value = Vec<f32>> {
    proptest::collection::vec(
        prop_oneof![
            8 => -2.0_f32..2.0,
            1 => Just(0.0),
            1 => -300.0_f32..300.0,
        ],
        len,
    )
}

fn format() -> impl Strategy<Value = Format> {
    proptest::sample::select(Format::WEIGHTS.to_vec())
}

fn multiply(
    cpu: &mut Cpu,
    (format, outputs, weights): (Format, usize, &[u8]),
    x: &[f32],
    cols: usize,
) -> Vec<f32> {
    let rows = x.len() / cols;
    cpu.reserve(StepLimits { rows, cols }).unwrap();
    let matrix = cpu.matrix(format, outputs, cols, weights).unwrap();
    let mut buffer = cpu.buffer(x.len()).unwrap();
    cpu.write(&mut buffer, 0, x).unwrap();
    let mut out = cpu.buffer(rows * outputs).unwrap();
    cpu.matmul(&buffer, rows, &mut [Product { matrix: &matrix, out: &mut out }]).unwrap();
    let mut values = vec![0.0; rows * outputs];
    cpu.read(&out, 0, &mut values).unwrap();
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn products_have_the_same_bits_everywhere(
        (format, rows, outputs, blocks) in (format(), 1_usize..40, 1_usize..50, 1_usize..4),
        seed in numbers(40 * 768),
        weights in numbers(50 * 768),
    ) {
        let cols = blocks * format.block_len().max(32);
        let weights = quantise(format, &weights[..outputs * cols]).unwrap();
        let x = &seed[..rows * cols];
        let mut backends = each_backend();
        let expected = multiply(&mut backends[0], (format, outputs, &weights), x, cols);
        for cpu in &mut backends {
            let found = multiply(cpu, (format, outputs, &weights), x, cols);
            prop_assert_eq!(bits(&found), bits(&expected), "{}", cpu.describe());
            // A row alone has the bits it has in the batch.
            let last = &x[(rows - 1) * cols..];
            let alone = multiply(cpu, (format, outputs, &weights), last, cols);
            prop_assert_eq!(bits(&alone), bits(&expected[(rows - 1) * outputs..]));
        }
    }

    #[test]
    fn what_is_quantised_comes_back_within_a_step(
        values in numbers(256),
        format in format(),
    ) {
        let mut back = vec![0.0; 256];
        dequantise(format, &quantise(format, &values).unwrap(), &mut back).unwrap();
        let largest = values.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
        // Half a step where scales follow from a formula, and what rounding the scale to f16 costs
        // the largest value; where they are searched for, or shared by a super-block, the largest
        // value may be cut, and zero may be a step away.
        let bound = match format {
            Format::F32 => 0.0,
            Format::F16 => largest / 2048.0 + 1e-7,
            Format::BF16 => largest / 256.0,
            Format::Q8_0 => largest / 254.0 + largest / 1024.0 + 1e-4,
            Format::Q4_1 => largest / 15.0 + largest / 256.0 + 1e-4,
            Format::Q5_1 => largest / 31.0 + largest / 256.0 + 1e-4,
            Format::Q6K => largest / 20.0 + 1e-4,
            Format::Q5_0 => largest / 16.0 + 1e-4,
            Format::Q5K => largest / 10.0 + 1e-4,
            Format::Q4_0 | Format::Q4K | Format::IQ4NL | Format::IQ4XS => largest / 5.0 + 1e-4,
            _ => largest / 2.0 + 1e-4,
        };
        for (value, back) in values.iter().zip(&back) {
            prop_assert!((value - back).abs() <= bound, "{format} {value} {back} {bound}");
        }
    }

    #[test]
    fn a_row_of_a_matrix_is_what_its_bytes_say(
        (format, rows, blocks) in (format(), 1_usize..20, 1_usize..3),
        weights in numbers(20 * 512),
    ) {
        let cols = blocks * format.block_len().max(32);
        let bytes = quantise(format, &weights[..rows * cols]).unwrap();
        let mut expected = vec![0.0; rows * cols];
        dequantise(format, &bytes, &mut expected).unwrap();
        let mut cpu = Cpu::detect(1);
        let matrix = cpu.matrix(format, rows, cols, &bytes).unwrap();
        let mut out = cpu.buffer(rows * cols).unwrap();
        let ids: Vec<u32> = (0..u32::try_from(rows).unwrap()).collect();
        cpu.embed(&matrix, &ids, &mut out).unwrap();
        let mut found = vec![0.0; rows * cols];
        cpu.read(&out, 0, &mut found).unwrap();
        prop_assert_eq!(bits(&found), bits(&expected), "{}", format);
    }

    #[test]
    fn row_operations_have_the_same_bits_everywhere(
        (rows, cols) in (1_usize..9, 1_usize..100),
        a in numbers(900),
        b in numbers(900),
    ) {
        let len = rows * cols;
        let run = |cpu: &mut Cpu| {
            let (mut x, mut y) = (cpu.buffer(len).unwrap(), cpu.buffer(len).unwrap());
            cpu.write(&mut x, 0, &a[..len]).unwrap();
            cpu.write(&mut y, 0, &b[..len]).unwrap();
            let mut weight = cpu.buffer(cols).unwrap();
            cpu.write(&mut weight, 0, &b[..cols]).unwrap();
            let mut values = vec![0.0; len * 4];
            let mut read = values.chunks_exact_mut(len);
            let mut out = cpu.buffer(len).unwrap();
            cpu.rms_norm(&x, &weight, 1e-5, rows, &mut out).unwrap();
            cpu.read(&out, 0, read.next().unwrap()).unwrap();
            cpu.gated(Curve::Silu, &x, &y, len, &mut out).unwrap();
            cpu.read(&out, 0, read.next().unwrap()).unwrap();
            cpu.gated(Curve::Gelu, &x, &y, len, &mut out).unwrap();
            cpu.read(&out, 0, read.next().unwrap()).unwrap();
            cpu.add_bias(&mut out, &weight, rows).unwrap();
            cpu.scale(&mut out, 1.5, len).unwrap();
            cpu.soft_cap(&mut out, 30.0, len).unwrap();
            cpu.read(&out, 0, read.next().unwrap()).unwrap();
            values
        };
        let mut backends = each_backend();
        let expected = run(&mut backends[0]);
        for cpu in &mut backends {
            let found = run(cpu);
            prop_assert_eq!(bits(&found), bits(&expected), "{}", cpu.describe());
        }
    }

    #[test]
    fn attention_has_the_same_bits_everywhere_and_in_chunks(
        (len, cut) in (2_usize..300).prop_flat_map(|len| (Just(len), 1..len)),
        (kv_heads, group) in (1_usize..4, 1_usize..5),
        head_dim in proptest::sample::select(vec![16_usize, 40, 64]),
        kv_type in proptest::sample::select(vec![KvType::F16, KvType::F32, KvType::Q8_0]),
        window in proptest::option::of(1_usize..300),
        soft_cap in proptest::option::of(0.5_f32..5.0),
        seed in numbers(301 * 16),
    ) {
        let shape = KvShape { layers: 1, kv_heads, head_dim, blocks: 20, block_tokens: 16, kv_type };
        let at = |i: usize| seed[i * 7919 % seed.len()].clamp(-3.0, 3.0);
        let width = kv_heads * head_dim;
        let keys: Vec<f32> = (0..len * width).map(at).collect();
        let queries: Vec<f32> = (0..len * width * group).map(|i| at(i + 5)).collect();
        let blocks: Vec<u32> = (0..20).rev().collect();
        let slots: Vec<u32> =
            (0..len).map(|token| u32::try_from((19 - token / 16) * 16 + token % 16).unwrap()).collect();
        let run = |cpu: &mut Cpu, first: usize, rows: usize| {
            let mut kv = cpu.kv_cache(shape).unwrap();
            let mut k = cpu.buffer(keys.len()).unwrap();
            cpu.write(&mut k, 0, &keys).unwrap();
            cpu.kv_store(&mut kv, 0, &slots, &k, &k).unwrap();
            let mine = &queries[first * width * group..][..rows * width * group];
            let mut q = cpu.buffer(mine.len()).unwrap();
            cpu.write(&mut q, 0, mine).unwrap();
            let mut out = cpu.buffer(mine.len()).unwrap();
            let spans = [Span { first_row: 0, rows, past: first, blocks: &blocks }];
            let heads = kv_heads * group;
            let reach = Reach::Back;
            let call =
                Attention { layer: 0, heads, scale: 0.25, soft_cap, reach, window, spans: &spans };
            cpu.attention(&kv, &call, &q, &mut out).unwrap();
            let mut values = vec![0.0; mine.len()];
            cpu.read(&out, 0, &mut values).unwrap();
            values
        };
        let mut backends = each_backend();
        let expected = run(&mut backends[0], 0, len);
        for cpu in &mut backends {
            let whole = run(cpu, 0, len);
            prop_assert_eq!(bits(&whole), bits(&expected), "{}", cpu.describe());
            let mut chunked = run(cpu, 0, cut);
            chunked.extend(run(cpu, cut, len - cut));
            prop_assert_eq!(bits(&chunked), bits(&expected), "{} cut at {}", cpu.describe(), cut);
        }
    }
}

/// Queries at these places of one long sequence, in one call, each a sequence of its own.
fn attended(cpu: &mut Cpu, kv_type: KvType, window: Option<usize>, ends: &[usize]) -> Vec<f32> {
    const TOKENS: usize = 2160;
    let (kv_heads, heads, head_dim) = (2, 6, 40);
    let shape = KvShape { layers: 1, kv_heads, head_dim, blocks: 135, block_tokens: 16, kv_type };
    let number = |i: usize| ((i * 7919) % 1013) as f32 / 250.0 - 2.0;
    let keys: Vec<f32> = (0..TOKENS * kv_heads * head_dim).map(number).collect();
    let mut kv = cpu.kv_cache(shape).unwrap();
    let mut k = cpu.buffer(keys.len()).unwrap();
    cpu.write(&mut k, 0, &keys).unwrap();
    let slots: Vec<u32> = (0..2160).collect();
    cpu.kv_store(&mut kv, 0, &slots, &k, &k).unwrap();
    let row = |end: usize| (0..heads * head_dim).map(move |i| number(end * 31 + i * 3));
    let mine: Vec<f32> = ends.iter().flat_map(|end| row(*end)).collect();
    let (mut q, mut out) = (cpu.buffer(mine.len()).unwrap(), cpu.buffer(mine.len()).unwrap());
    cpu.write(&mut q, 0, &mine).unwrap();
    let blocks: Vec<u32> = (0..135).collect();
    // Neighbours are rows of one span, as in a chunk of a prompt.
    let mut spans: Vec<Span<'_>> = Vec::new();
    for (first_row, &past) in ends.iter().enumerate() {
        match spans.last_mut() {
            Some(last) if last.past + last.rows == past => last.rows += 1,
            _ => spans.push(Span { first_row, rows: 1, past, blocks: &blocks }),
        }
    }
    let (reach, soft_cap, spans) = (Reach::Back, None, spans.as_slice());
    let call = Attention { layer: 0, heads, scale: 0.25, soft_cap, reach, window, spans };
    cpu.attention(&kv, &call, &q, &mut out).unwrap();
    let mut values = vec![0.0; mine.len()];
    cpu.read(&out, 0, &mut values).unwrap();
    values
}

#[test]
fn long_sequences_come_to_the_same_walked_in_parts_side_by_side() {
    let ends = [0, 1023, 1025, 2047, 2150];
    for kv_type in [KvType::F16, KvType::Q8_0] {
        for window in [None, Some(1500)] {
            let mut alone = Cpu::new(Isa::Scalar, 1).unwrap();
            let expected = attended(&mut alone, kv_type, window, &ends);
            let row = expected.len() / ends.len();
            for mut cpu in each_backend().into_iter().chain([Cpu::detect(2), Cpu::detect(8)]) {
                let together = attended(&mut cpu, kv_type, window, &ends);
                assert_eq!(bits(&together), bits(&expected), "{}", cpu.describe());
                for (end, expected) in ends.into_iter().zip(expected.chunks_exact(row)) {
                    let alone = attended(&mut cpu, kv_type, window, &[end]);
                    assert_eq!(bits(&alone), bits(expected), "{end} alone, {}", cpu.describe());
                    let chunk: Vec<usize> = (end.saturating_sub(5)..=end).collect();
                    let chunk = attended(&mut cpu, kv_type, window, &chunk);
                    let last = &chunk[chunk.len() - row..];
                    assert_eq!(bits(last), bits(expected), "{end} in a chunk, {}", cpu.describe());
                }
            }
        }
    }
}

#[test]
fn rotations_are_computed_anew_when_positions_or_frequencies_change() {
    let mut cpu = Cpu::detect(1);
    let shape = RopeShape { heads: 1, head_dim: 2, style: RopeStyle::Norm, magnitude: 1.0 };
    let mut turned = |position: u32, frequency: f32| {
        let (mut x, mut f) = (cpu.buffer(2).unwrap(), cpu.buffer(1).unwrap());
        cpu.write(&mut x, 0, &[1.0, 0.0]).unwrap();
        cpu.write(&mut f, 0, &[frequency]).unwrap();
        cpu.rope(&mut x, &[position], &f, shape).unwrap();
        let mut out = [0.0; 2];
        cpu.read(&x, 0, &mut out).unwrap();
        out[1]
    };
    assert!((turned(1, 1.0) - 1_f32.sin()).abs() < 1e-6);
    assert!((turned(2, 1.0) - 2_f32.sin()).abs() < 1e-6);
    assert!((turned(2, 0.25) - 0.5_f32.sin()).abs() < 1e-6);
}
