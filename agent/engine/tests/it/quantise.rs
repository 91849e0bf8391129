//! Model files written anew in other formats: what is in them, and what is refused.

use std::{
    io::{self, Write},
    num::NonZeroUsize,
    ops::ControlFlow,
};

use realm_engine::{
    eval::{EvalOptions, Evaluation},
    gguf::{
        Gguf, GgufError, Head, TensorInfo, Value,
        writer::{self, Entry, Tensor},
    },
    quantise::{
        Plan, QuantiseError, Requantise,
        recipe::{Mix, Recipe},
    },
};
use realm_kernels::{backend::KvType, format::Format, formats};

use crate::{converted::bytes_of, formats::model, tiny_gguf};

/// The mean square of what rounding to a format may cost numbers that are spread evenly, as a share
/// of their own: what steps of equal size cost, and half as much again.
fn cost(format: Format) -> f64 {
    let steps_each_side = match format {
        Format::F32 => return 0.0,
        Format::F16 => return 1e-7,
        Format::BF16 => return 1e-5,
        Format::Q8_0 => 127.0,
        Format::Q6K => 32.0,
        Format::Q5_0 | Format::Q5_1 | Format::Q5K => 16.0,
        Format::Q3K => 4.0,
        Format::MXFP4 => 3.0,
        Format::Q2K => 1.5,
        _ => 8.0,
    };
    1.5 * 0.25 / f64::powi(steps_each_side, 2)
}

fn values(gguf: &Gguf, tensor: &TensorInfo) -> Vec<f32> {
    let mut out = vec![0.0; usize::try_from(tensor.elements()).unwrap()];
    formats::dequantise(tensor.format, gguf.tensor_bytes(tensor), &mut out).unwrap();
    out
}

/// The mean square of the differences, as a share of that of the truth.
fn error(found: &[f32], truth: &[f32]) -> f64 {
    let square = |x: f32| f64::from(x).powi(2);
    let apart: f64 = found.iter().zip(truth).map(|(a, b)| square(a - b)).sum();
    apart / truth.iter().copied().map(square).sum::<f64>()
}

fn parsed(gguf: &Gguf, recipe: Recipe, requantise: Requantise) -> Gguf {
    Gguf::parse(bytes_of(gguf, recipe, requantise).unwrap()).unwrap()
}

fn refusal(gguf: &Gguf, recipe: Recipe) -> QuantiseError {
    bytes_of(gguf, recipe, Requantise::Refused).unwrap_err()
}

fn tiny(format: Format) -> Gguf {
    Gguf::parse(tiny_gguf::tiny_llama(format)).unwrap()
}

/// As fine as a head is at least.
fn is_fine(format: Format) -> bool {
    format.is_float() || [Format::Q6K, Format::Q8_0].contains(&format)
}

/// A file of these pairs and tensors.
fn file(metadata: &[(String, Value)], tensors: &[Tensor]) -> Gguf {
    let mut bytes = Vec::new();
    writer::write(&mut bytes, metadata, tensors).unwrap();
    Gguf::parse(bytes).unwrap()
}

/// A matrix of one row of such values, in F32.
fn row(values: &[f32]) -> Gguf {
    let shape = vec![u64::try_from(values.len()).unwrap(), 1];
    let bytes = formats::quantise(Format::F32, values).unwrap();
    let name = "a.weight".to_owned();
    file(&[], &[Tensor { name, shape, format: Format::F32, bytes }])
}

#[test]
fn a_file_by_any_recipe_holds_its_source_rounded_and_all_that_the_source_says() {
    let source = model(Format::F32, Format::F32);
    for recipe in Recipe::all() {
        let written = parsed(&source, recipe, Requantise::Refused);
        let own = ["general.file_type", "general.quantization_version"];
        let said = |gguf: &Gguf| {
            let pairs = gguf.metadata().iter();
            pairs.filter(|(key, _)| !own.contains(&key.as_str())).cloned().collect::<Vec<_>>()
        };
        assert_eq!(said(&written), said(&source), "{recipe}");
        assert!(own.iter().all(|key| written.get(key).is_some()), "{recipe}");
        for tensor in source.tensors() {
            let found = written.tensor(&tensor.name).unwrap();
            assert_eq!(found.shape, tensor.shape);
            let is_kept = tensor.shape.len() == 1 || tensor.name.contains("gate_inp");
            match recipe {
                _ if is_kept => assert_eq!(found.format, Format::F32),
                _ if tensor.name == "output.weight" => assert!(is_fine(found.format)),
                Recipe::Plain(format) => assert_eq!(found.format, format),
                Recipe::Mix(_) => assert!(!found.format.is_float()),
            }
            let truth = values(&source, tensor);
            let whole = formats::quantise(found.format, &truth).unwrap();
            assert!(written.tensor_bytes(found) == whole, "{recipe}: {}", tensor.name);
            let error = error(&values(&written, found), &truth);
            let most = cost(found.format);
            assert!(error <= most, "{recipe}: {} has {error:e}, {most:e} at most", tensor.name);
        }
        let options = EvalOptions { context: 64, kv_type: KvType::F16, threads: Some(1) };
        let mut evaluation = Evaluation::of(written, &options).unwrap();
        evaluation.logits(&[5, 6, 7], 0, &mut |_, _| {}).unwrap();
    }
}

#[test]
fn the_head_and_some_matrices_of_a_mix_are_finer() {
    let source = model(Format::F32, Format::F32);
    let mix = parsed(&source, Recipe::Mix(Mix::Q3KL), Requantise::Refused);
    assert_eq!(mix.get("general.file_type"), Some(&Value::U32(13)));
    for (name, format) in [
        ("token_embd", Format::Q3K),
        ("output", Format::Q6K),
        ("blk.0.attn_q", Format::Q3K),
        ("blk.0.attn_v", Format::Q5K),
        ("blk.0.attn_output", Format::Q5K),
        ("blk.0.ffn_up_exps", Format::Q3K),
        ("blk.0.ffn_down_exps", Format::Q5K),
    ] {
        assert_eq!(mix.tensor(&format!("{name}.weight")).unwrap().format, format, "{name}");
    }
    // The embedding is the head too.
    let tied = parsed(&tiny(Format::F32), Recipe::Mix(Mix::Q3KL), Requantise::Refused);
    assert_eq!(tied.tensor("token_embd.weight").unwrap().format, Format::Q8_0);
}

#[test]
fn what_does_not_fit_its_blocks_is_told() {
    let source = tiny(Format::F32);
    let plan = Plan::new(&source, Recipe::Plain(Format::Q4K), Requantise::Refused).unwrap();
    for part in plan.parts() {
        let expected = match part.tensor.shape.len() {
            1 => (Format::F32, None),
            _ if part.tensor.name == "token_embd.weight" => (Format::Q8_0, Some(Format::Q6K)),
            _ => (Format::Q5_0, Some(Format::Q4K)),
        };
        assert_eq!((part.format, part.instead_of), expected, "{}", part.tensor.name);
    }
}

#[test]
fn nothing_is_rounded_twice_unless_that_is_allowed() {
    let source = tiny(Format::Q8_0);
    for format in [Format::Q4_0, Format::F16, Format::F32] {
        let error = refusal(&source, Recipe::Plain(format));
        let QuantiseError::Quantised { tensor, from, to } = error else { panic!("{error:?}") };
        assert!(!tensor.is_empty());
        assert_eq!((from, to), (Format::Q8_0, format));
    }
    let twice = parsed(&source, Recipe::Plain(Format::Q4_0), Requantise::Allowed);
    assert_eq!(twice.tensor("blk.0.attn_q.weight").unwrap().format, Format::Q4_0);
    let same = parsed(&source, Recipe::Plain(Format::Q8_0), Requantise::Refused);
    for tensor in source.tensors() {
        let found = same.tensor(&tensor.name).unwrap();
        assert_eq!(same.tensor_bytes(found), source.tensor_bytes(tensor));
    }
}

#[test]
fn norms_become_f32_whatever_they_were() {
    let bytes = formats::quantise(Format::BF16, &[1.0, 0.5, -2.0]).unwrap();
    let name = "output_norm.weight".to_owned();
    let source = file(&[], &[Tensor { name, shape: vec![3], format: Format::BF16, bytes }]);
    let written = parsed(&source, Recipe::Plain(Format::Q4_0), Requantise::Refused);
    let norm = written.tensor("output_norm.weight").unwrap();
    assert_eq!((norm.format, values(&written, norm)), (Format::F32, vec![1.0, 0.5, -2.0]));
}

#[test]
fn values_that_a_format_does_not_hold_are_refused_by_tensor() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut values = vec![1.0; 256];
        values[77] = wrong;
        for recipe in Recipe::all().filter(|recipe| *recipe != Recipe::Plain(Format::F32)) {
            let error = refusal(&row(&values), recipe);
            assert!(matches!(error, QuantiseError::NotFinite { tensor } if tensor == "a.weight"));
        }
    }
    let large = row(&[1e5; 256]);
    let error = refusal(&large, Recipe::Plain(Format::F16));
    assert!(matches!(error, QuantiseError::Range { format: Format::F16, .. }), "{error:?}");
    let error = refusal(&row(&[1e9; 256]), Recipe::Plain(Format::Q8_0));
    assert!(matches!(error, QuantiseError::Range { format: Format::Q8_0, .. }), "{error:?}");
    parsed(&large, Recipe::Plain(Format::BF16), Requantise::Refused);
}

#[test]
fn a_file_does_not_depend_on_the_number_of_threads() {
    // Rows of an odd length, in more pieces than there are threads.
    let (cols, rows) = (32 * 1021_u32, 30_u32);
    let values: Vec<f32> = (0..u64::from(cols) * u64::from(rows))
        .map(|i| (i * 7919 % 1009) as f32 / 1009.0 - 0.5)
        .collect();
    let bytes = formats::quantise(Format::F32, &values).unwrap();
    let (name, shape) = ("a.weight".to_owned(), vec![u64::from(cols), u64::from(rows)]);
    let source = file(&[], &[Tensor { name, shape, format: Format::F32, bytes }]);
    let recipe = Recipe::Plain(Format::Q4_0);
    let plan = Plan::new(&source, recipe, Requantise::Refused).unwrap();
    let with = |threads| {
        let mut out = Vec::new();
        let threads = NonZeroUsize::new(threads).unwrap();
        plan.write(&mut out, threads, &mut |_| ControlFlow::Continue(())).unwrap();
        out
    };
    let alone = with(1);
    assert!(with(3) == alone);
    assert!(with(64) == alone);
    let written = Gguf::parse(alone).unwrap();
    let bytes = written.tensor_bytes(&written.tensors()[0]);
    assert!(bytes == formats::quantise(Format::Q4_0, &values).unwrap());
}

/// A disk with room for so many bytes.
struct Disk(usize);

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0 == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let written = bytes.len().min(self.0);
        self.0 -= written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_and_whoever_watches_end_it() {
    let source = tiny(Format::F32);
    let plan = Plan::new(&source, Recipe::Plain(Format::Q8_0), Requantise::Refused).unwrap();
    let whole = usize::try_from(plan.bytes_to_write()).unwrap();
    for room in [0, 10, 5000, whole - 1] {
        let written =
            plan.write(&mut Disk(room), NonZeroUsize::MIN, &mut |_| ControlFlow::Continue(()));
        let error = written.unwrap_err();
        let QuantiseError::Write(error) = error else { panic!("{error:?}") };
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    }
    let mut pieces = 0;
    let stopped = plan.write(&mut Disk(whole), NonZeroUsize::MIN, &mut |_| {
        pieces += 1;
        if pieces == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert!(matches!(stopped, Err(QuantiseError::Stopped)));
    assert_eq!(pieces, 3);
}

#[test]
fn tensors_beyond_four_gigabytes_have_their_places() {
    let shape = [1 << 20, 5 << 10];
    let large = 5 << 30;
    let entry = |name, bytes| Entry { name, shape: &shape, format: Format::Q8_0, bytes };
    let tensor = (5_u64 << 30) / 32 * 34;
    let header = writer::header(&[], &[entry("a", tensor), entry("b", tensor)]);
    assert!(tensor > large);
    let total = u64::try_from(header.len()).unwrap() + 2 * tensor;
    assert!(matches!(Gguf::parse_head(&header, Some(total)), Ok(Head::Whole(_))));
    let error = Gguf::parse_head(&header, Some(total - 1)).unwrap_err();
    assert!(matches!(error, GgufError::OutOfFile { tensor, missing: 1 } if tensor == "b"));
}
