//! Models that embed against another program, on tiny ones of random weights.
//!
//! As `architectures.rs` does for models that generate; `tests/vectors/models/encoders.py` has made
//! the references.

use std::collections::BTreeMap;

use realm_engine::eval::{EvalError, EvalOptions, Evaluation};
use realm_kernels::backend::KvType;
use serde::Deserialize;

use crate::{reference_model::Model, support::vector};

/// How far a number of a vector may be from the reference, where numbers are up to four. Both compute
/// in f32; the sums of three to six layers are added in another order.
const APART_MAX: f32 = 1e-5;

#[derive(Deserialize)]
pub(crate) struct Reference {
    #[serde(flatten)]
    pub(crate) model: Model,
    pub(crate) texts: Vec<Vec<u32>>,
    /// The vector of each text, for each way of pooling.
    pub(crate) vectors: BTreeMap<String, Vec<Vec<f32>>>,
}

impl Reference {
    pub(crate) fn of(name: &str) -> Self {
        serde_json::from_str(&vector(&format!("models/{name}.json"))).unwrap()
    }

    /// The same model, whose file names a way of pooling.
    pub(crate) fn pooled(mut self, kind: u32) -> Self {
        let architecture = self.model.metadata["general.architecture"].as_str().unwrap();
        let key = format!("{architecture}.pooling_type");
        self.model.metadata.insert(key, kind.into());
        self
    }
}

fn evaluation(model: &Model) -> Result<Evaluation, EvalError> {
    let options = EvalOptions { context: model.context(), kv_type: KvType::F16, threads: Some(2) };
    Evaluation::of(model.file(), &options)
}

fn check(name: &str) {
    for (kind, pooling) in [(1, "mean"), (2, "cls"), (3, "last")] {
        let reference = Reference::of(name).pooled(kind);
        let mut evaluation = evaluation(&reference.model).unwrap();
        let vectors = evaluation.vectors(&reference.texts).unwrap();
        let wanted = &reference.vectors[pooling];
        assert_eq!(vectors.len(), wanted.len());
        let mut worst = 0.0_f32;
        for (vector, wanted) in vectors.iter().zip(wanted) {
            assert_eq!(vector.len(), wanted.len());
            let apart = vector.iter().zip(wanted).map(|(a, b)| (a - b).abs());
            worst = apart.fold(worst, f32::max);
        }
        println!("{name}, {pooling}: at most {worst} apart");
        assert!(worst <= APART_MAX, "{name}, {pooling}: {worst} apart");
    }
}

#[test]
fn bert_embeds_as_the_reference_does() {
    check("bert");
}

#[test]
fn nomic_bert_with_fused_matrices_and_turned_positions_embeds_as_the_reference_does() {
    check("nomic-bert");
}

#[test]
fn gemma_embedding_with_windows_to_both_sides_embeds_as_the_reference_does() {
    check("gemma-embedding");
}

#[test]
fn gemma_embedding_with_matrices_behind_its_pooling_embeds_as_the_reference_does() {
    check("gemma-embedding-dense");
}

#[test]
fn a_model_that_generates_embeds_as_the_reference_does_where_its_file_says_how() {
    check("qwen3-embedding");
}

#[test]
fn a_model_whose_file_says_nothing_of_pooling_embeds_nothing() {
    for reference in ["qwen3-embedding", "bert"].map(Reference::of) {
        let refused = evaluation(&reference.model).unwrap().vectors(&reference.texts);
        assert!(matches!(refused, Err(EvalError::NoPooling)));
        let reference = reference.pooled(0);
        let refused = evaluation(&reference.model).unwrap().vectors(&reference.texts);
        assert!(matches!(refused, Err(EvalError::NoPooling)));
    }
}

#[test]
fn a_way_of_pooling_that_is_not_known_is_refused() {
    let reference = Reference::of("bert").pooled(4);
    let error = evaluation(&reference.model).err().unwrap();
    assert!(matches!(error, EvalError::Load(_)), "{error}");
}

#[test]
fn a_model_that_only_reads_has_no_logits() {
    let reference = Reference::of("bert").pooled(1);
    let mut evaluation = evaluation(&reference.model).unwrap();
    let refused = evaluation.logits(&[1, 2], 0, &mut |_, _| {});
    assert!(matches!(refused, Err(EvalError::ReadsOnly)));
}

#[test]
fn a_vector_depends_on_no_text_beside_it() {
    let reference = Reference::of("bert").pooled(1);
    let mut evaluation = evaluation(&reference.model).unwrap();
    let together = evaluation.vectors(&reference.texts).unwrap();
    let other_way: Vec<Vec<u32>> = reference.texts.iter().rev().cloned().collect();
    let turned = evaluation.vectors(&other_way).unwrap();
    for (at, text) in reference.texts.iter().enumerate() {
        let [alone] = &evaluation.vectors(std::slice::from_ref(text)).unwrap()[..] else {
            panic!("one")
        };
        assert_eq!(alone, &together[at], "bit for bit");
        assert_eq!(alone, &turned[reference.texts.len() - 1 - at], "bit for bit");
    }
}
