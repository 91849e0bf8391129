//! Texts through a whole engine: read, computed in the batch of all tenants, and scaled.

use realm_core::{
    books::Way,
    embed::{EmbedError, EmbedInfo, Embedded, TEXTS_MAX, TOKENS_MAX, TakenTexts, Text, TextBatch},
    engine::{Engine, TextError},
    refusal::Refusal,
};
use realm_engine::{
    EngineHandle,
    gguf::{
        Array, Gguf, Head, Value,
        writer::{self, Tensor},
    },
};
use realm_kernels::backend::KvType;
use tempfile::TempDir;

use crate::{
    encoders::Reference,
    support::{caller, caller_of, generation, options, read, tenant, tiny_engine},
};

const WORDS: [&str; 4] = ["the", "sea", "is", "wide"];

/// A vocabulary of a few words, as models of sentences have it.
fn tokenizer(len: usize) -> Vec<(String, Value)> {
    let special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"].map(str::to_owned);
    let words = WORDS.map(|word| format!("\u{2581}{word}"));
    let rest = (8..len).map(|id| format!("[unused{id}]"));
    let tokens = special.into_iter().chain(words).chain(rest).collect();
    let kinds = (0..len).map(|id| if (4..8).contains(&id) { 1 } else { 3 }).collect();
    let pairs = [
        ("model", Value::String("bert".to_owned())),
        ("tokens", Value::Array(Array::String(tokens))),
        ("token_type", Value::Array(Array::I32(kinds))),
        ("unknown_token_id", Value::U32(1)),
        ("cls_token_id", Value::U32(2)),
        ("seperator_token_id", Value::U32(3)),
    ];
    pairs.map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).into()
}

fn bert_file() -> Vec<u8> {
    let Reference { model, .. } = Reference::of("bert").pooled(1);
    let pairs = model.pairs(tokenizer(model.vocabulary().into()));
    let tensors: Vec<Tensor> = model.tensors();
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &pairs, &tensors).unwrap();
    bytes
}

fn bert() -> (EngineHandle, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bert.gguf");
    std::fs::write(&path, bert_file()).unwrap();
    // One block, as a planner might say that knows nothing of models without a cache.
    let (engine, _) = realm_engine::open(std::slice::from_ref(&path), options(1)).unwrap();
    (engine, folder)
}

fn batch(texts: Vec<Text>) -> TextBatch {
    TextBatch {
        texts,
        dimensions: None,
        normalize: true,
        deadline: None,
        way: Way::Direct,
        milestones: None,
    }
}

fn words(texts: &[&str]) -> TextBatch {
    batch(texts.iter().map(|text| Text::Words((*text).to_owned())).collect())
}

fn embed(engine: &EngineHandle, of: &str, batch: TextBatch) -> Result<Embedded, EmbedError> {
    let TakenTexts { tokens, reply } = engine.embed(&caller(of), batch, &mut |_| Ok(()))?;
    let embedded = reply.blocking_recv().expect("a call says how it ends");
    let embedded = embedded.map_err(EmbedError::Refused)?;
    assert_eq!(tokens, embedded.tokens.iter().sum::<u32>(), "what is paid for is what was read");
    Ok(embedded)
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|x| x * x).sum::<f32>().sqrt()
}

#[test]
fn texts_become_vectors_of_length_one_in_the_order_of_the_call() {
    let (engine, _folder) = bert();
    let info = EmbedInfo { dimensions: 64, tokens_max: 80, shortens: false };
    assert_eq!(engine.embeds(), Some(info));
    let all = embed(&engine, "a", words(&["The sea", "is", "the sea is wide"])).unwrap();
    // Begun and ended as such models want it.
    assert_eq!(all.tokens, [4, 3, 6]);
    for vector in &all.vectors {
        assert_eq!(vector.len(), 64);
        assert!((length(vector) - 1.0).abs() < 1e-6);
    }
    let ids = batch(vec![Text::Tokens(vec![2, 4, 5, 3])]);
    let same = embed(&engine, "b", ids).unwrap();
    assert_eq!(same.vectors[0], all.vectors[0], "another tenant's, bit for bit");
    assert_eq!(engine.load().prompt_tokens_total, 4 + 3 + 6 + 4);
}

#[test]
fn a_call_longer_than_a_step_comes_back_whole() {
    let (engine, _folder) = bert();
    let text = |at: usize| WORDS.repeat(1 + at % 19).join(" ");
    let texts: Vec<String> = (0..150).map(text).collect();
    let all = embed(&engine, "a", batch(texts.iter().cloned().map(Text::Words).collect()));
    let all = all.unwrap();
    assert_eq!(all.vectors.len(), 150);
    for (at, text) in texts.iter().enumerate().step_by(37) {
        let alone = embed(&engine, "a", words(&[text])).unwrap();
        assert_eq!(alone.vectors[0], all.vectors[at], "text {at}, bit for bit");
        assert_eq!(alone.tokens[0], all.tokens[at]);
    }
}

#[test]
fn text_that_spells_a_control_token_stays_text() {
    let (engine, _folder) = bert();
    let attack = embed(&engine, "a", words(&["[SEP]"])).unwrap();
    // A bracket, three letters that are no word, a bracket: nothing known, and nothing of control.
    let spelt = engine.tokenize("[SEP]", false).unwrap();
    assert!(spelt.iter().all(|&id| id == 1), "{spelt:?}");
    assert_eq!(attack.tokens, [u32::try_from(spelt.len()).unwrap() + 2]);
}

#[test]
fn fewer_dimensions_are_the_first_ones_scaled_anew() {
    let (engine, _folder) = both();
    let whole = embed(&engine, "a", words(&["the sea"])).unwrap();
    let most = whole.vectors[0].len();
    let short = TextBatch { dimensions: Some(16), ..words(&["the sea"]) };
    let short = embed(&engine, "a", short).unwrap();
    let of_whole = &whole.vectors[0][..16];
    let scale = length(of_whole);
    assert_eq!(short.vectors[0].len(), 16);
    for (short, whole) in short.vectors[0].iter().zip(of_whole) {
        assert!((short - whole / scale).abs() < 1e-6);
    }
    for asked in [0, most + 1] {
        let wrong = TextBatch { dimensions: Some(asked), ..words(&["the sea"]) };
        let error = EmbedError::Dimensions { asked, dimensions: most };
        assert_eq!(embed(&engine, "a", wrong), Err(error));
    }
}

#[test]
fn a_model_that_was_not_trained_for_fewer_dimensions_gives_all_or_none() {
    let (engine, _folder) = bert();
    let asked = |dimensions| TextBatch { dimensions, ..words(&["the sea"]) };
    let whole = embed(&engine, "a", asked(None)).unwrap();
    assert_eq!(embed(&engine, "a", asked(Some(64))).unwrap(), whole);
    let error = EmbedError::NotShortened { asked: 16, dimensions: 64 };
    assert_eq!(embed(&engine, "a", asked(Some(16))), Err(error));
}

#[test]
fn a_vector_that_is_not_to_be_scaled_is_as_long_as_the_model_makes_it() {
    let (engine, _folder) = bert();
    let scaled = embed(&engine, "a", words(&["the sea"])).unwrap();
    let raw = TextBatch { normalize: false, ..words(&["the sea"]) };
    let raw = embed(&engine, "a", raw).unwrap();
    let scale = length(&raw.vectors[0]);
    assert!((scale - 1.0).abs() > 1e-3, "{scale}");
    for (raw, scaled) in raw.vectors[0].iter().zip(&scaled.vectors[0]) {
        assert!((raw / scale - scaled).abs() < 1e-6);
    }
}

#[test]
fn a_text_longer_than_the_model_reads_is_refused_and_not_cut() {
    let (engine, _folder) = bert();
    let fits = WORDS.repeat(19).join(" ");
    assert_eq!(embed(&engine, "a", words(&[&fits])).unwrap().tokens, [78]);
    let long = WORDS.repeat(20).join(" ");
    let error = EmbedError::TooLong { at: 1, tokens: 82, tokens_max: 80 };
    assert_eq!(embed(&engine, "a", words(&["the", &long])), Err(error.clone()));
    let refusal = Refusal::TextTooLong { at: 1, tokens: 82, tokens_max: 80 };
    assert_eq!(error.refusal(), refusal);
}

#[test]
fn a_text_longer_than_its_tenant_may_have_is_refused() {
    let (engine, _folder) = bert();
    let mut tenant = tenant("narrow");
    tenant.limits.context_max = 5;
    let narrow = caller_of(tenant);
    let error = engine.embed(&narrow, words(&["the sea is wide"]), &mut |_| Ok(())).unwrap_err();
    assert_eq!(error, EmbedError::TooLong { at: 0, tokens: 6, tokens_max: 5 });
    assert!(engine.embed(&narrow, words(&["the sea is"]), &mut |_| Ok(())).is_ok());
}

#[test]
fn texts_that_their_caller_may_not_have_are_not_computed() {
    let (engine, _folder) = bert();
    let mut asked = Vec::new();
    let error = engine.embed(&caller("a"), words(&["the sea is", "the"]), &mut |tokens| {
        asked.push(tokens);
        Err(Refusal::TooManyTokens { per_minute: 3, retry_after_ms: 7 })
    });
    let error = error.unwrap_err().refusal();
    assert_eq!(error, Refusal::TooManyTokens { per_minute: 3, retry_after_ms: 7 });
    assert_eq!(asked, [8]);
    assert!(embed(&engine, "a", words(&["the"])).is_ok());
    assert_eq!(engine.load().prompt_tokens_total, 3);
}

#[test]
fn too_many_texts_or_tokens_in_a_call_are_refused() {
    let (engine, _folder) = bert();
    assert_eq!(embed(&engine, "a", batch(Vec::new())), Err(EmbedError::NoTexts));
    let texts = TEXTS_MAX + 1;
    let error = EmbedError::TooManyTexts { texts, texts_max: TEXTS_MAX };
    assert_eq!(embed(&engine, "a", words(&vec!["the"; texts])), Err(error));
    let long = WORDS.repeat(19).join(" ");
    let texts = TOKENS_MAX / 78 + 1;
    let error = EmbedError::TooManyTokens { tokens: texts * 78, tokens_max: TOKENS_MAX };
    assert_eq!(embed(&engine, "a", words(&vec![long.as_str(); texts])), Err(error));
}

#[test]
fn tokens_that_are_none_are_refused() {
    let (engine, _folder) = bert();
    let none = batch(vec![Text::Tokens(Vec::new())]);
    assert_eq!(embed(&engine, "a", none), Err(EmbedError::Empty { at: 0 }));
    let unknown = batch(vec![Text::Tokens(vec![2, 3]), Text::Tokens(vec![96])]);
    let source = TextError::UnknownToken { id: 96, vocabulary: 96 };
    let error = EmbedError::Text { at: 1, source };
    assert_eq!(embed(&engine, "a", unknown), Err(error.clone()));
    assert!(matches!(error.refusal(), Refusal::Invalid(why) if why.starts_with("text 1: ")));
}

#[test]
fn a_model_that_only_reads_generates_nothing_and_holds_no_blocks() {
    let (engine, folder) = bert();
    let refused = engine.generate(&caller("a"), generation(vec![4, 5], 3)).unwrap_err();
    let told = "model `default/tiny` cannot `generate`; it can `embed`";
    assert_eq!(refused, Refusal::Unsupported(told.to_owned()));
    assert_eq!(engine.load().kv_blocks_total, 0);
    let facts = realm_engine::examine(&[folder.path().join("bert.gguf")], KvType::F16).unwrap();
    let memory = facts.memory.unwrap();
    assert_eq!(memory.kv_bytes_per_block, 0);
    assert!(memory.activation_bytes > 0);
    // The file's first bytes say the same.
    let bytes = bert_file();
    let whole = Some(bytes.len() as u64);
    let Ok(Head::Whole(head)) = Gguf::parse_head(&bytes, whole) else { panic!("a whole header") };
    assert_eq!(realm_engine::examine_heads(vec![head], KvType::F16).unwrap(), facts);
}

#[test]
fn a_model_that_generates_embeds_only_where_its_file_says_how() {
    let (engine, _folder) = tiny_engine(16);
    assert_eq!(engine.embeds(), None);
    let refused = embed(&engine, "a", words(&["the end"]));
    let Refusal::Unsupported(told) = refused.unwrap_err().refusal() else { panic!("typed") };
    assert!(told.contains("cannot `embed`; it can `generate`"), "{told}");
}

/// One that generates, and embeds as well.
fn both() -> (EngineHandle, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("both.gguf");
    let Reference { model, .. } = Reference::of("qwen3-embedding").pooled(3);
    let pairs = model.pairs(tokenizer(model.vocabulary().into()));
    let mut bytes = Vec::new();
    writer::write(&mut bytes, &pairs, &model.tensors()).unwrap();
    std::fs::write(&path, bytes).unwrap();
    let (engine, _) = realm_engine::open(std::slice::from_ref(&path), options(16)).unwrap();
    (engine, folder)
}

#[test]
fn one_engine_generates_and_embeds_at_once() {
    let (engine, _folder) = both();
    let Reference { texts, vectors, .. } = Reference::of("qwen3-embedding");
    let alone = read(engine.generate(&caller("a"), generation(vec![4, 5, 6], 40)).unwrap());
    let stream = engine.generate(&caller("a"), generation(vec![4, 5, 6], 40)).unwrap();
    let ids = texts.iter().cloned().map(Text::Tokens).collect();
    let embedded = embed(&engine, "b", batch(ids)).unwrap();
    let beside = read(stream);
    assert_eq!((beside.ids, beside.end.is_ok()), (alone.ids, true));
    for (vector, wanted) in embedded.vectors.iter().zip(&vectors["last"]) {
        let scale = length(wanted);
        let apart = vector.iter().zip(wanted).map(|(a, b)| (a - b / scale).abs());
        assert!(apart.fold(0.0, f32::max) < 1e-5);
    }
    assert_eq!(engine.load().kv_blocks_used, 0);
}
