//! Models in several files, and in files of more than 4 GiB.

use std::{
    fs::{self, File},
    io::{Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use realm_core::split::PartName;
use realm_engine::{
    LoadError,
    gguf::{
        Gguf, GgufError, Head, Value,
        writer::{self, Entry, Tensor},
    },
};
use realm_kernels::{backend::KvType, format::Format};
use tempfile::TempDir;

use crate::{
    support::{caller, generation, options, read, tiny_engine},
    tiny_gguf, tiny_parts,
};

const FORMAT: Format = Format::F32;

/// The tiny model in parts of so many tensors, in a folder of their own.
fn parts(tensors_per_part: usize) -> (TempDir, Vec<PathBuf>) {
    let folder = tempfile::tempdir().unwrap();
    let parts = tiny_parts::tiny_llama_parts(FORMAT, tensors_per_part);
    let first = format!("tiny-00001-of-{:05}.gguf", parts.len());
    let name = PartName::of(&first).unwrap();
    let paths = parts.iter().zip(1..).map(|(bytes, number)| {
        let path = folder.path().join(name.part(number));
        fs::write(&path, bytes).unwrap();
        path
    });
    let paths = paths.collect();
    (folder, paths)
}

/// Why the parts do not make a model.
fn refusal(parts: &[Vec<u8>]) -> GgufError {
    let folder = tempfile::tempdir().unwrap();
    let paths = (0..).zip(parts).map(|(number, bytes)| {
        let path = folder.path().join(format!("{number}"));
        fs::write(&path, bytes).unwrap();
        path
    });
    Gguf::open_parts(&paths.collect::<Vec<_>>()).unwrap_err()
}

#[test]
fn the_first_part_brings_the_others_and_all_make_the_whole_file() {
    let whole = Gguf::parse(tiny_gguf::tiny_llama(FORMAT)).unwrap();
    for tensors_per_part in [1, 4, 7] {
        let (_folder, paths) = parts(tensors_per_part);
        assert!(paths.len() > 1);
        let found = Gguf::open(&paths[0]).unwrap();
        assert_eq!(found.metadata(), whole.metadata());
        assert_eq!(found.facts().unwrap(), whole.facts().unwrap());
        for want in whole.tensors() {
            let got = found.tensor(&want.name).unwrap();
            assert_eq!((&got.shape, got.format), (&want.shape, want.format));
            assert_eq!(found.tensor_bytes(got), whole.tensor_bytes(want), "{}", want.name);
        }
    }
}

#[test]
fn a_model_in_parts_answers_as_the_whole_one_does_and_takes_as_much_memory() {
    let (whole, _folder) = tiny_engine(20);
    let (_folder, paths) = parts(5);
    let (split, facts) = realm_engine::open(&paths, options(20)).unwrap();
    let ask = |engine| {
        read(
            realm_core::engine::Engine::generate(
                engine,
                &caller("a"),
                generation(vec![5, 6, 7], 16),
            )
            .unwrap(),
        )
    };
    assert_eq!(ask(&split), ask(&whole));
    let head = |path: &PathBuf| {
        let bytes = fs::read(path).unwrap();
        let Ok(Head::Whole(head)) = Gguf::parse_head(&bytes, Some(bytes.len() as u64)) else {
            panic!("a whole header")
        };
        assert_eq!(head.part_count().unwrap() as usize, paths.len());
        head
    };
    let by_heads = realm_engine::examine_heads(paths.iter().map(head).collect(), KvType::F16);
    let by_heads = by_heads.unwrap();
    assert_eq!((by_heads.memory, by_heads.weights_bytes), (facts.memory, facts.weights_bytes));
    let first = realm_engine::examine_heads(vec![head(&paths[0])], KvType::F16).unwrap_err();
    assert!(matches!(first, LoadError::File(GgufError::PartsMissing { given: 1, .. })));
}

#[test]
fn a_part_that_is_missing_or_in_anothers_place_is_named() {
    let parts = tiny_parts::tiny_llama_parts(FORMAT, 8);
    let count = u32::try_from(parts.len()).unwrap();
    let given = parts.len() - 1;
    let error = refusal(&parts[..given]);
    assert!(
        matches!(error, GgufError::PartsMissing { count: c, given: g } if (c, g) == (count, given))
    );
    let error = refusal(&parts[1..=1]);
    assert!(matches!(error, GgufError::PartsMissing { given: 1, .. }), "{error:?}");
    let mut swapped = parts.clone();
    swapped.swap(1, 2);
    let error = refusal(&swapped);
    assert!(matches!(error, GgufError::PartNumber { number: 2, found: 3 }), "{error:?}");
    swapped.swap(0, 1);
    assert!(matches!(refusal(&swapped), GgufError::PartNumber { number: 1, found: 3 }));
}

#[test]
fn a_file_that_is_no_part_of_the_first_is_refused() {
    let parts = tiny_parts::tiny_llama_parts(FORMAT, 8);
    let with = |at: usize, bytes: Vec<u8>| {
        let mut parts = parts.clone();
        parts[at] = bytes;
        refusal(&parts)
    };
    let whole = tiny_gguf::tiny_llama(FORMAT);
    assert!(matches!(with(1, whole), GgufError::Missing { key } if key == "split.count"));
    let other = tiny_parts::tiny_llama_parts(FORMAT, 6);
    assert_ne!(other.len(), parts.len(), "another number of parts");
    let error = with(1, other[1].clone());
    assert!(matches!(&error, GgufError::PartOfOther { number: 2, key } if key == "split.count"));
    let of_other = part(&[("split.tensors.count", Value::I32(7))], 1, parts.len(), &[]);
    let error = with(1, of_other);
    assert!(matches!(&error, GgufError::PartOfOther { key, .. } if key == "split.tensors.count"));
    let of_other =
        part(&[("general.architecture", Value::String("qwen2".to_owned()))], 1, parts.len(), &[]);
    let error = with(1, of_other);
    assert!(matches!(&error, GgufError::PartOfOther { key, .. } if key == "general.architecture"));
    let cut = parts[1][..parts[1].len() / 2].to_vec();
    let error = with(1, cut);
    assert!(matches!(&error, GgufError::Part { path, .. } if path.ends_with('1')), "{error:?}");
}

#[test]
fn a_tensor_that_comes_twice_or_not_at_all_is_refused() {
    let parts = tiny_parts::tiny_llama_parts(FORMAT, 8);
    let tensors = tiny_gguf::tensors(FORMAT);
    let with = |tensors: &[Tensor]| {
        let mut parts = parts.clone();
        parts[1] = part(&[], 1, parts.len(), tensors);
        refusal(&parts)
    };
    let error = with(&tensors[..8]);
    assert!(matches!(&error, GgufError::DuplicateTensor(name) if *name == tensors[0].name));
    let (found, wanted) = (tensors.len() - 1, u32::try_from(tensors.len()).unwrap());
    let error = with(&tensors[8..15]);
    assert!(
        matches!(error, GgufError::PartsTensors { found: f, wanted: w } if (f, w) == (found, wanted))
    );
}

#[test]
fn a_model_is_opened_by_its_first_part_and_no_other() {
    let (_folder, paths) = parts(8);
    let error = Gguf::open(&paths[1]).unwrap_err();
    assert!(matches!(error, GgufError::PartNotFirst { number: 2, .. }), "{error:?}");
    fs::remove_file(&paths[1]).unwrap();
    let error = Gguf::open(&paths[0]).unwrap_err();
    assert!(matches!(&error, GgufError::Open { path, .. } if Path::new(path) == paths[1]));
    let many = paths[0].with_file_name("tiny-00001-of-00257.gguf");
    assert!(matches!(Gguf::open(&many), Err(GgufError::PartsTooMany { count: 257 })));
}

/// A part with those pairs and tensors, at that place, from 0 on.
fn part(pairs: &[(&str, Value)], number: u16, count: usize, tensors: &[Tensor]) -> Vec<u8> {
    let mut all = vec![
        ("split.no".to_owned(), Value::U16(number)),
        ("split.count".to_owned(), Value::U16(u16::try_from(count).unwrap())),
    ];
    all.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    let mut out = Vec::new();
    writer::write(&mut out, &all, tensors).unwrap();
    out
}

/// Bytes of the hole that the large file has in front of its model: the model lies behind what 32
/// bits count.
const HOLE_BYTES: u64 = (4 << 30) + (1 << 20);

/// A sparse file whose first tensor is a hole, with the tiny model's behind it.
fn large_file(path: &Path) {
    let tensors = tiny_gguf::tensors(FORMAT);
    let hole = [HOLE_BYTES / 4];
    let entries = tensors.iter().map(|tensor| Entry {
        name: &tensor.name,
        shape: &tensor.shape,
        format: tensor.format,
        bytes: tensor.bytes.len() as u64,
    });
    let first = Entry { name: "hole", shape: &hole, format: Format::F32, bytes: HOLE_BYTES };
    let entries: Vec<_> = [first].into_iter().chain(entries).collect();
    let header = writer::header(&tiny_gguf::metadata(FORMAT), &entries);
    let mut file = File::create(path).unwrap();
    file.write_all(&header).unwrap();
    file.seek(SeekFrom::Current(i64::try_from(writer::padded(HOLE_BYTES)).unwrap())).unwrap();
    for tensor in &tensors {
        file.write_all(&tensor.bytes).unwrap();
        file.write_all(&writer::padding(tensor.bytes.len() as u64)).unwrap();
    }
}

#[test]
fn tensors_behind_the_first_four_gibibytes_of_a_file_are_read_where_they_lie() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.gguf");
    large_file(&path);
    assert!(path.metadata().unwrap().len() > 4 << 30);
    let gguf = Gguf::open(&path).unwrap();
    for want in tiny_gguf::tensors(FORMAT) {
        let got = gguf.tensor(&want.name).unwrap();
        assert_eq!(gguf.tensor_bytes(got), want.bytes, "{}", want.name);
    }
    let hole = gguf.tensor("hole").unwrap();
    assert_eq!(hole.bytes() as u64, HOLE_BYTES);
    assert!(gguf.tensor_bytes(hole)[..1 << 20].iter().all(|&byte| byte == 0));
    assert_eq!(
        gguf.facts().unwrap().weights_bytes,
        tiny_gguf::tensors(FORMAT).iter().map(|t| t.bytes.len() as u64).sum::<u64>() + HOLE_BYTES
    );
    // One byte less, and the last tensor is not all there.
    let short = path.metadata().unwrap().len() - 64;
    File::options().write(true).open(&path).unwrap().set_len(short).unwrap();
    assert!(matches!(Gguf::open(&path), Err(GgufError::OutOfFile { .. })));
}
