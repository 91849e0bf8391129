//! The engine at work for several tenants: streams, limits, cancels, and blocks that come back.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use realm_core::{
    engine::{
        ChatMessage, Engine, EngineLoad, Finish, Generation, Logprobs, Sampling,
        TOKENS_BUFFERED_MAX, TokenEvent,
    },
    refusal::Refusal,
};
use realm_engine::EngineHandle;
use realm_kernels::{backend::KvType, format::Format};

use crate::{
    support::{
        Answer, caller, caller_of, generation, options, read, smollm2, tenant, tiny_engine,
        vector_json,
    },
    tiny_gguf,
};

/// The token of the tiny model that ends an answer.
const EOS: u32 = 2;

fn prompt(len: u32, salt: u32) -> Vec<u32> {
    (0..len).map(|i| 3 + (i * 7 + salt * 13) % 250).collect()
}

/// Once every stream has ended, every block is free or cached and no one waits.
fn check_quiet(load: EngineLoad) {
    assert_eq!((load.sequences_queued, load.sequences_running), (0, 0), "{load:?}");
    assert_eq!(load.kv_blocks_used, 0, "{load:?}");
}

#[test]
fn the_default_model_answers_as_the_reference_does() {
    let roomy = realm_engine::OpenOptions { context: Some(512), kv_blocks: None, ..options(1) };
    let (engine, facts) = realm_engine::open(&[smollm2()], roomy).unwrap();
    assert_eq!(facts.format, "Q4_1");
    let reference = vector_json("logits/logits-smollm2-Q4_1.json");
    let items = reference["items"].as_array().unwrap();
    let chat = items.iter().find(|item| item["id"] == "chat").unwrap();
    let question = ChatMessage {
        role: "user".to_owned(),
        content: "Write one sentence about the sea.".to_owned(),
    };
    let prompt = engine.tokenize_chat(&[question]).unwrap();
    assert_eq!(prompt, serde_json::from_value::<Vec<u32>>(chat["prompt_ids"].clone()).unwrap());
    let answer = read(engine.generate(&caller("a"), generation(prompt, 64)).unwrap());
    assert_eq!(answer.end.as_ref().unwrap().0, Finish::Stop, "{answer:?}");
    // Equal up to the first step at which two right engines may choose differently.
    let steps = chat["steps"].as_array().unwrap();
    let sure = steps.iter().take_while(|step| step["margin"].as_f64().unwrap() > 0.7);
    let sure: Vec<u64> = sure.map(|step| step["id"].as_u64().unwrap()).collect();
    let got: Vec<u64> = answer.ids.iter().map(|&id| id.into()).collect();
    assert!(!sure.is_empty() && got.starts_with(&sure), "{answer:?}");
    check_quiet(engine.load());
}

#[test]
fn an_answer_token_by_token_is_what_the_whole_at_once_would_choose() {
    let roomy = realm_engine::OpenOptions { context: Some(512), kv_blocks: None, ..options(1) };
    let (engine, _) = realm_engine::open(&[smollm2()], roomy).unwrap();
    let prompt = engine.tokenize("The capital of France is", false).unwrap();
    let answer = read(engine.generate(&caller("a"), generation(prompt.clone(), 48)).unwrap());
    let options =
        realm_engine::eval::EvalOptions { context: 512, kv_type: KvType::F16, threads: Some(2) };
    let mut evaluation = realm_engine::eval::Evaluation::open(&smollm2(), &options).unwrap();
    let whole = [&prompt[..], &answer.ids].concat();
    let (mut at, mut same) = (0, 0);
    let visit = &mut |_: usize, logits: &[f32]| {
        let Some(&id) = answer.ids.get(at) else { return };
        let best = logits.iter().copied().fold(f32::MIN, f32::max);
        assert!(logits[id as usize] > best - 0.7, "token {at}: {} and {best}", logits[id as usize]);
        same += usize::from(logits[id as usize] >= best);
        at += 1;
    };
    evaluation.logits(&whole, prompt.len() - 1, visit).unwrap();
    println!("{same} of {at} chosen alike: {:?}", answer.text);
    assert!(same * 10 >= at * 9, "{same} of {at}");
}

#[test]
fn sixteen_tenants_at_once_get_what_each_would_get_alone() {
    let (engine, _folder) = tiny_engine(160);
    let engine: Arc<EngineHandle> = Arc::new(engine);
    let alone: Vec<Answer> = (0..16)
        .map(|n| {
            let stream = engine.generate(&caller("alone"), generation(prompt(20 + 9 * n, n), 24));
            read(stream.unwrap())
        })
        .collect();
    let together: Vec<Answer> = thread::scope(|scope| {
        let readers: Vec<_> = (0..16_u32)
            .map(|n| {
                let engine = engine.clone();
                scope.spawn(move || {
                    let wanted = generation(prompt(20 + 9 * n, n), 24);
                    read(engine.generate(&caller(&format!("t{n}")), wanted).unwrap())
                })
            })
            .collect();
        readers.into_iter().map(|reader| reader.join().unwrap()).collect()
    });
    for (n, (alone, together)) in alone.iter().zip(&together).enumerate() {
        assert_eq!(alone.ids, together.ids, "tenant {n}");
        assert_eq!(together.end.as_ref().unwrap().1.cached_tokens, 0, "tenant {n}");
    }
    check_quiet(engine.load());
    assert_eq!(engine.load().generated_tokens_total, 2 * 16 * 24);
}

#[test]
fn a_cache_too_small_for_all_still_gives_everyone_the_right_answer() {
    let roomy = tiny_engine(200);
    let tight = tiny_engine(16);
    let want: Vec<Answer> = (0..4)
        .map(|n| read(roomy.0.generate(&caller("a"), generation(prompt(60, n), 120)).unwrap()))
        .collect();
    let streams: Vec<_> = (0..4)
        .map(|n| {
            let wanted = generation(prompt(60, n), 120);
            tight.0.generate(&caller(&format!("t{n}")), wanted).unwrap()
        })
        .collect();
    for (want, stream) in want.into_iter().zip(streams) {
        assert_eq!(read(stream).ids, want.ids);
    }
    check_quiet(tight.0.load());
}

#[test]
fn a_tenant_finds_its_own_prefix_cached_and_another_never_does() {
    let (engine, _folder) = tiny_engine(64);
    let asked = prompt(100, 1);
    let cached = |tenant: &str| {
        let stream = engine.generate(&caller(tenant), generation(asked.clone(), 4)).unwrap();
        let answer = read(stream);
        (answer.end.unwrap().1.cached_tokens, answer.ids)
    };
    let (first, ids) = cached("a");
    assert_eq!(first, 0);
    assert_eq!(cached("a"), (96, ids.clone()));
    assert_eq!(cached("b"), (0, ids.clone()));
    assert_eq!(cached("b"), (96, ids));
    assert_eq!(engine.load().cached_tokens_total, 192);
}

#[test]
fn a_dropped_stream_is_cancelled_and_its_blocks_come_back() {
    let (engine, _folder) = tiny_engine(64);
    let mut stream = engine.generate(&caller("a"), generation(prompt(40, 1), 400)).unwrap();
    assert!(matches!(stream.blocking_recv(), Some(TokenEvent::Token(_))));
    assert!(engine.load().kv_blocks_used > 0);
    drop(stream);
    // Another sequence's end comes after the step that saw the cancel.
    read(engine.generate(&caller("b"), generation(prompt(8, 2), 8)).unwrap());
    check_quiet(engine.load());
    assert!(engine.load().generated_tokens_total < 400);
}

#[test]
fn a_reader_that_never_reads_is_ended_and_others_never_wait() {
    let (engine, _folder) = tiny_engine(64);
    let asleep = engine.generate(&caller("asleep"), generation(prompt(8, 1), 480)).unwrap();
    let awake = read(engine.generate(&caller("awake"), generation(prompt(8, 2), 480)).unwrap());
    assert_eq!(awake.ids.len(), 480);
    let slept = read(asleep);
    assert_eq!(slept.end, Err(Refusal::SlowReader));
    assert_eq!(slept.ids.len(), TOKENS_BUFFERED_MAX);
    check_quiet(engine.load());
}

#[test]
fn a_deadline_ends_a_generation() {
    let (engine, _folder) = tiny_engine(64);
    let deadline = Some(Instant::now() + Duration::from_millis(1));
    let late = Generation { deadline, ..generation(prompt(400, 1), 100) };
    let answer = read(engine.generate(&caller("a"), late).unwrap());
    assert!(matches!(answer.end, Err(Refusal::DeadlineExceeded { deadline_ms: 0..=1 })));
    check_quiet(engine.load());
}

#[test]
fn a_stop_string_ends_the_text_before_it() {
    let (engine, _folder) = tiny_engine(64);
    let whole = read(engine.generate(&caller("a"), generation(prompt(8, 1), 40)).unwrap());
    let chars: Vec<char> = whole.text.chars().collect();
    let stop: String = chars[10..13].iter().collect();
    let want = &whole.text[..whole.text.find(&stop).unwrap()];
    let stopped = Generation { stop: vec![stop], ..generation(prompt(8, 1), 40) };
    let answer = read(engine.generate(&caller("a"), stopped).unwrap());
    assert_eq!(answer.text, want);
    assert_eq!(answer.end.unwrap().0, Finish::Stop);
}

#[test]
fn the_same_seed_gives_the_same_answer_and_no_seed_another() {
    let (engine, _folder) = tiny_engine(64);
    let ids = |seed| {
        let sampling = Sampling { temperature: 1.5, seed, ..Sampling::default() };
        let wanted = Generation { sampling, ..generation(prompt(8, 1), 40) };
        read(engine.generate(&caller("a"), wanted).unwrap()).ids
    };
    assert_eq!(ids(Some(1)), ids(Some(1)));
    assert_ne!(ids(Some(1)), ids(Some(2)));
    assert_ne!(ids(None), ids(None));
}

/// What each token tells, and how the answer ended.
fn told(engine: &EngineHandle, wanted: Generation) -> (Vec<Option<Logprobs>>, Finish) {
    let mut stream = engine.generate(&caller("a"), wanted).unwrap();
    let mut told = Vec::new();
    loop {
        match stream.blocking_recv().unwrap() {
            TokenEvent::Token(token) => told.push(token.logprobs),
            TokenEvent::Cached(_) => {}
            TokenEvent::Finished { finish, .. } => return (told, finish),
            event => panic!("{event:?}"),
        }
    }
}

#[test]
fn each_token_but_the_one_that_ends_the_answer_tells_how_likely_it_was() {
    let (engine, _folder) = tiny_engine(64);
    let sampling = Sampling { logprobs: Some(3), ..Sampling::default() };
    let wanted = Generation { sampling, ..generation(prompt(8, 1), 20) };
    let ids = read(engine.generate(&caller("a"), wanted.clone()).unwrap()).ids;
    let (all, _) = told(&engine, wanted.clone());
    assert_eq!(all.len(), ids.len());
    for (told, id) in all.into_iter().zip(ids) {
        let Logprobs { chosen, top } = told.unwrap();
        assert_eq!((chosen.id, top.len(), &top[0]), (id, 3, &chosen));
        assert!(chosen.logprob <= 0.0 && !chosen.bytes.is_empty());
    }
    let ended = Generation { bias: vec![(EOS, 100.0)], ..wanted };
    assert_eq!(told(&engine, ended), (vec![None], Finish::Stop));
    assert_eq!(told(&engine, generation(prompt(8, 1), 2)).0, [None, None], "nobody asked");
}

#[test]
fn what_cannot_be_generated_is_refused() {
    let (engine, _folder) = tiny_engine(16);
    let refusal = |wanted: Generation| match engine.generate(&caller("a"), wanted) {
        Err(refusal) => refusal,
        Ok(stream) => read(stream).end.unwrap_err(),
    };
    let ok = generation(prompt(8, 1), 8);
    let too_long = Refusal::TooLong { tokens: 512, tokens_max: 512 };
    assert_eq!(refusal(generation(prompt(512, 1), 8)), too_long);
    assert!(matches!(refusal(generation(Vec::new(), 8)), Refusal::Invalid(_)));
    assert!(matches!(refusal(generation(vec![9999], 8)), Refusal::Invalid(_)));
    let stop = vec!["x".repeat(257)];
    assert!(matches!(refusal(Generation { stop, ..ok.clone() }), Refusal::Invalid(_)));
    let stop = vec!["x".to_owned(); 17];
    assert!(matches!(refusal(Generation { stop, ..ok.clone() }), Refusal::Invalid(_)));
    let sampling = Sampling { temperature: f32::NAN, ..Sampling::default() };
    assert!(matches!(refusal(Generation { sampling, ..ok }), Refusal::Invalid(_)));

    let mut poor = tenant("poor");
    poor.limits.kv_blocks_max = 2;
    let stream = engine.generate(&caller_of(poor), generation(prompt(64, 1), 8)).unwrap();
    assert_eq!(read(stream).end, Err(Refusal::TooLong { tokens: 64, tokens_max: 64 }));
    check_quiet(engine.load());
}

#[test]
fn a_tenant_that_floods_is_told_busy_and_another_is_served() {
    let (engine, _folder) = tiny_engine(64);
    let mut streams = Vec::new();
    let busy = loop {
        match engine.generate(&caller("flood"), generation(prompt(300, 1), 200)) {
            Ok(stream) => streams.push(stream),
            Err(refusal) => break refusal,
        }
        assert!(streams.len() < 1000, "a flood is never refused");
    };
    assert!(matches!(busy, Refusal::Busy { .. }), "{busy:?}");
    let calm = read(engine.generate(&caller("calm"), generation(prompt(20, 2), 4)).unwrap());
    assert_eq!(calm.ids.len(), 4);
    assert!(engine.load().sequences_running > 0, "the flood was still going on");
}

#[test]
fn a_drain_refuses_newcomers_and_finishes_what_runs() {
    let (engine, _folder) = tiny_engine(64);
    let running = engine.generate(&caller("a"), generation(prompt(8, 1), 100)).unwrap();
    engine.drain();
    let refused = engine.generate(&caller("a"), generation(prompt(8, 1), 1));
    assert_eq!(refused.err(), Some(Refusal::Draining));
    assert_eq!(read(running).ids.len(), 100);
}

#[test]
fn a_dropped_handle_ends_its_sequences() {
    let (engine, _folder) = tiny_engine(64);
    let stream = engine.generate(&caller("a"), generation(prompt(8, 1), 240)).unwrap();
    drop(engine);
    let answer = read(stream);
    assert!(answer.end == Err(Refusal::Draining) || answer.ids.len() == 240, "{answer:?}");
}

#[test]
fn chunks_of_any_cut_give_the_same_logits_as_one_token_at_a_time() {
    let options =
        realm_engine::eval::EvalOptions { context: 256, kv_type: KvType::F32, threads: Some(2) };
    let gguf = realm_engine::gguf::Gguf::parse(tiny_gguf::tiny_llama(Format::F32)).unwrap();
    let mut evaluation = realm_engine::eval::Evaluation::of(gguf, &options).unwrap();
    let tokens = prompt(100, 3);
    let mut whole = Vec::new();
    evaluation.logits(&tokens, 0, &mut |_, logits| whole.push(logits.to_vec())).unwrap();
    for len in [1, 33, 64, 65, 100] {
        let mut last = Vec::new();
        evaluation
            .logits(&tokens[..len], len - 1, &mut |_, logits| last = logits.to_vec())
            .unwrap();
        let far = last.iter().zip(&whole[len - 1]).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(far <= 1e-4, "{len}: {far}");
    }
}
