//! An answer that is cut anywhere goes on as if it had never been.

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use realm_core::{
    call::Resume,
    engine::{Engine, Finish, Generation, Sampling, TokenEvent, Usage},
    refusal::Refusal,
};
use realm_engine::{EngineHandle, OpenOptions};

use crate::support::{Answer, caller, generation, options, read, smollm2, tiny_engine};

fn prompt(len: u32, salt: u32) -> Vec<u32> {
    (0..len).map(|i| 3 + (i * 7 + salt * 13) % 250).collect()
}

fn answer(engine: &EngineHandle, wanted: &Generation) -> Answer {
    read(engine.generate(&caller("a"), wanted.clone()).unwrap())
}

/// The bytes of text that came with each token of an answer.
fn texts(engine: &EngineHandle, wanted: &Generation) -> Vec<(u32, String)> {
    let mut stream = engine.generate(&caller("a"), wanted.clone()).unwrap();
    let mut tokens = Vec::new();
    loop {
        match stream.blocking_recv().unwrap() {
            TokenEvent::Token(token) => tokens.push((token.id, token.text)),
            TokenEvent::Cached(_) => {}
            TokenEvent::Finished { .. } => return tokens,
            event => panic!("{event:?}"),
        }
    }
}

/// `wanted` from the first `cut` tokens on, of whose text the client has all but `lacks` bytes.
fn resumed(wanted: &Generation, whole: &[(u32, String)], cut: usize, lacks: usize) -> Generation {
    let (ids, texts): (Vec<u32>, Vec<&str>) =
        whole[..cut].iter().map(|(id, text)| (*id, text.as_str())).unzip();
    let had = u64::try_from(texts.concat().len() - lacks).unwrap();
    let resume = Some(Resume::new(ids, had, 0).unwrap());
    Generation { resume, ..wanted.clone() }
}

/// What was received before the cut and what comes after it, put together.
fn check(engine: &EngineHandle, wanted: &Generation, whole: &Answer, cut: usize) {
    let tokens = texts(engine, wanted);
    assert_eq!(tokens.iter().map(|(id, _)| *id).collect::<Vec<_>>(), whole.ids);
    let before: String = tokens[..cut].iter().map(|(_, text)| text.as_str()).collect();
    let rest = answer(engine, &resumed(wanted, &tokens, cut, 0));
    assert_eq!(rest.ids, whole.ids[cut..], "cut at {cut}");
    assert_eq!(before + &rest.text, whole.text, "cut at {cut}");
    let (finish, usage) = rest.end.unwrap();
    assert_eq!(finish, whole.end.as_ref().unwrap().0, "cut at {cut}");
    let count = |len: usize| u32::try_from(len).unwrap();
    assert_eq!(usage.prompt_tokens, count(wanted.prompt.len() + cut));
    assert_eq!(usage.completion_tokens, count(whole.ids.len() - cut));
}

#[test]
fn an_answer_cut_anywhere_goes_on_with_the_same_tokens_and_the_same_text() {
    let (engine, _folder) = tiny_engine(200);
    let mut runner =
        TestRunner::new(Config { cases: 48, failure_persistence: None, ..Config::default() });
    let cases = (
        1..60_u32,
        0..50_u32,
        prop_oneof![Just(0.0_f32), 0.1..2.0_f32],
        prop_oneof![Just(1.0_f32), Just(0.9)],
        prop_oneof![Just(0.0_f32), Just(0.7)],
        any::<u64>(),
        1..40_u32,
        any::<prop::sample::Index>(),
        prop::option::of(any::<prop::sample::Index>()),
    );
    let run = runner.run(&cases, |case| {
        let (len, salt, temperature, top_p, penalty, seed, tokens, at, stop) = case;
        let sampling = Sampling {
            temperature,
            top_p,
            repetition_penalty: 1.0 + penalty,
            frequency_penalty: penalty,
            seed: Some(seed),
            ..Sampling::default()
        };
        let mut wanted = Generation { sampling, ..generation(prompt(len, salt), tokens) };
        if let Some(stop) = stop {
            // Some two characters of the answer itself, which end it there.
            let text: Vec<char> = answer(&engine, &wanted).text.chars().collect();
            if let Some(pair) = text.get(stop.index(text.len().max(1))..).filter(|t| t.len() > 1) {
                wanted.stop = vec![pair[..2].iter().collect()];
            }
        }
        let whole = answer(&engine, &wanted);
        check(&engine, &wanted, &whole, at.index(whole.ids.len() + 1));
        Ok(())
    });
    run.unwrap();
}

#[test]
fn text_that_a_client_lacks_comes_first_and_once() {
    let (engine, _folder) = tiny_engine(64);
    let wanted = generation(prompt(8, 1), 30);
    let whole = texts(&engine, &wanted);
    let text: String = whole.iter().map(|(_, text)| text.as_str()).collect();
    for cut in [10, 30] {
        let all: String = whole[..cut].iter().map(|(_, text)| text.as_str()).collect();
        let lacks = all.chars().rev().take(3).map(char::len_utf8).sum();
        let rest = answer(&engine, &resumed(&wanted, &whole, cut, lacks));
        assert_eq!(rest.ids.len(), 30 - cut, "no token is made again for it");
        assert_eq!(rest.text, text[all.len() - lacks..], "cut at {cut}");
    }
}

#[test]
fn an_answer_that_was_complete_ends_at_once_and_computes_nothing() {
    let (engine, _folder) = tiny_engine(64);
    let wanted = generation(prompt(8, 1), 12);
    let whole = texts(&engine, &wanted);
    let before = engine.load();
    let rest = answer(&engine, &resumed(&wanted, &whole, 12, 0));
    let usage = Usage { prompt_tokens: 20, cached_tokens: 0, completion_tokens: 0 };
    let end = Ok((Finish::Length, usage));
    assert_eq!(rest, Answer { ids: vec![], text: String::new(), cached: 0, end });
    assert_eq!(engine.load().prompt_tokens_total, before.prompt_tokens_total);
    assert_eq!((engine.load().sequences_running, engine.load().sequences_queued), (0, 0));
}

#[test]
fn what_no_answer_can_have_been_is_refused() {
    let (engine, _folder) = tiny_engine(64);
    let wanted = generation(prompt(8, 1), 12);
    let whole = texts(&engine, &wanted);
    let ids: Vec<u32> = whole.iter().map(|(id, _)| *id).collect();
    let bytes = whole.iter().map(|(_, text)| text.len()).sum::<usize>();
    let refusal = |tokens: Vec<u32>, text_bytes: u64, wanted: &Generation| {
        let resume = Some(Resume::new(tokens, text_bytes, 0).unwrap());
        match engine.generate(&caller("a"), Generation { resume, ..wanted.clone() }) {
            Err(refusal) => refusal,
            Ok(stream) => read(stream).end.unwrap_err(),
        }
    };
    let invalid = |refusal: Refusal, part: &str| {
        let Refusal::Invalid(message) = &refusal else { panic!("{refusal:?}") };
        assert!(message.contains(part), "{message}");
    };
    invalid(refusal(vec![9999], 0, &wanted), "vocabulary");
    invalid(refusal(vec![u32::MAX], 0, &wanted), "vocabulary");
    invalid(refusal(vec![5; 13], 0, &wanted), "12 at most");
    invalid(refusal(vec![5; 505], 0, &wanted), "room for 504");
    let beyond = u64::try_from(bytes + 1).unwrap();
    invalid(refusal(ids.clone(), beyond, &wanted), "bytes of text");
    invalid(refusal(ids.clone(), u64::MAX, &wanted), "bytes of text");
    // A stop string ends the answer before the token behind it.
    let text: String = whole[..6].iter().map(|(_, text)| text.as_str()).collect();
    let stop = text.chars().next_back().unwrap().to_string();
    let stopped = Generation { stop: vec![stop], ..wanted };
    invalid(refusal(ids, 0, &stopped), "ended with its first");
    assert_eq!(engine.load().kv_blocks_used, 0);
}

/// The default model computes many rows at once with other roundings than one by one, so two
/// tokens that are as likely as each other may change places behind a cut. What is behind one is
/// what the model says to prompt and tokens; up to where they are equally likely it is the same.
#[test]
fn the_default_model_goes_on_as_it_would_have() {
    let roomy = OpenOptions { context: Some(512), kv_blocks: None, ..options(1) };
    let (engine, _) = realm_engine::open(&[smollm2()], roomy).unwrap();
    let prompt = engine.tokenize("The capital of France is", false).unwrap();
    let (mut cuts, mut same) = (0, 0);
    for temperature in [0.0, 0.8] {
        let sampling = Sampling { temperature, seed: Some(11), ..Sampling::default() };
        let wanted = Generation { sampling, ..generation(prompt.clone(), 40) };
        let whole = texts(&engine, &wanted);
        let text: String = whole.iter().map(|(_, text)| text.as_str()).collect();
        for cut in (0..=whole.len()).step_by(4) {
            // A tenant of its own for each, so that nothing of it was ever decoded.
            let rest = engine
                .generate(&caller(&format!("t{cut}")), resumed(&wanted, &whole, cut, 0))
                .unwrap();
            let rest = read(rest);
            assert!(rest.end.is_ok(), "cut at {cut}: {rest:?}");
            let before: String = whole[..cut].iter().map(|(_, text)| text.as_str()).collect();
            cuts += 1;
            same += usize::from(before + &rest.text == text);
        }
    }
    println!("{same} of {cuts} answers the same behind the cut");
    assert!(same * 10 >= cuts * 9, "{same} of {cuts}");
}
