//! Answers keep to their constraint, whatever the model would rather say.

use std::{
    thread,
    time::{Duration, Instant},
};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};
use realm_core::{
    call::Resume,
    constraint::Constraint,
    engine::{Engine, Finish, Generation, Sampling, TokenEvent},
    refusal::Refusal,
};
use realm_engine::EngineHandle;
use serde_json::{Value, json};

use crate::support::{Answer, caller, generation, options, read, smollm2, tiny_engine};

/// Longer than an engine takes to end its answers on any machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn schema(schema: &Value) -> Constraint {
    Constraint::JsonSchema(schema.to_string())
}

fn regex(text: &str) -> Constraint {
    Constraint::Regex(text.to_owned())
}

fn lark(text: &str) -> Constraint {
    Constraint::Lark(text.to_owned())
}

fn person() -> Constraint {
    schema(&json!({
        "type": "object", "required": ["name", "age"], "additionalProperties": false,
        "properties": {
            "name": {"type": "string", "maxLength": 20},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
        },
    }))
}

fn is_person(text: &str) -> bool {
    let value: Value = serde_json::from_str(text).unwrap();
    let (name, age) = (value["name"].as_str().unwrap(), value["age"].as_u64().unwrap());
    value.as_object().unwrap().len() == 2 && name.chars().count() <= 20 && age <= 150
}

fn prompt(len: u32, salt: u32) -> Vec<u32> {
    (0..len).map(|i| 3 + (i * 7 + salt * 13) % 250).collect()
}

fn answer(engine: &EngineHandle, tenant: &str, wanted: &Generation) -> Answer {
    read(engine.generate(&caller(tenant), wanted.clone()).unwrap())
}

/// The text that came with each token of an answer.
fn texts(engine: &EngineHandle, wanted: &Generation) -> Vec<String> {
    let mut stream = engine.generate(&caller("a"), wanted.clone()).unwrap();
    let mut texts = Vec::new();
    while let Some(event) = stream.blocking_recv() {
        if let TokenEvent::Token(token) = event {
            texts.push(token.text);
        }
    }
    texts
}

fn wanted(constraint: impl Into<Option<Constraint>>, salt: u32, seed: u64) -> Generation {
    let constraint = constraint.into();
    let sampling = Sampling { temperature: 1.5, seed: Some(seed), ..Sampling::default() };
    Generation { constraint, sampling, ..generation(prompt(5 + salt % 40, salt), 400) }
}

#[test]
fn whatever_the_model_would_say_an_answer_that_ends_is_of_its_schema() {
    let (engine, _folder) = tiny_engine(200);
    let mut runner =
        TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    runner
        .run(&(0..1000_u32, any::<u64>()), |(salt, seed)| {
            let answer = answer(&engine, "a", &wanted(person(), salt, seed));
            // Blanks between the tokens of JSON may be all there was room for.
            if answer.end.unwrap().0 == Finish::Stop {
                prop_assert!(is_person(&answer.text), "{}", answer.text);
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_regular_expression_and_a_grammar_are_kept_to() {
    let (engine, _folder) = tiny_engine(200);
    for seed in 0..10 {
        let answer_of = |constraint| answer(&engine, "a", &wanted(constraint, 1, seed));
        let date = answer_of(regex("[0-9]{4}-[0-9]{2}-[0-9]{2}"));
        assert_eq!(date.end.unwrap().0, Finish::Stop);
        let parts: Vec<usize> = date.text.split('-').map(str::len).collect();
        assert_eq!(parts, [4, 2, 2], "{}", date.text);

        let sum = answer_of(lark("start: N (\"+\" N){2}\nN: /[1-9]/"));
        assert_eq!(sum.end.unwrap().0, Finish::Stop);
        let numbers: Vec<u32> = sum.text.split('+').map(|n| n.parse().unwrap()).collect();
        assert_eq!(numbers.len(), 3, "{}", sum.text);
    }
}

#[test]
fn the_same_seed_and_place_give_the_same_answer_alone_or_among_others_and_across_a_cut() {
    let (engine, _folder) = tiny_engine(200);
    let alone: Vec<Answer> = (0..12)
        .map(|salt| answer(&engine, "a", &wanted(person(), salt, 5 + u64::from(salt))))
        .collect();
    // Sixty-four whole contexts would not fit: some of these are put back and computed again.
    let (small, _folder) = tiny_engine(20);
    let streams: Vec<_> = (0..12)
        .map(|salt| {
            let tenant = ["a", "b", "c"][salt as usize % 3];
            let other = Generation { tokens_max: Some(60), ..wanted(None, salt + 50, 1) };
            let other = small.generate(&caller("d"), other).unwrap();
            let wanted = wanted(person(), salt, 5 + u64::from(salt));
            (small.generate(&caller(tenant), wanted).unwrap(), other)
        })
        .collect();
    for ((stream, other), alone) in streams.into_iter().zip(&alone) {
        assert_eq!(read(stream).ids, alone.ids);
        assert!(read(other).end.is_ok());
    }

    let (whole, wanted) = (&alone[3].ids, wanted(person(), 3, 8));
    let texts = texts(&engine, &wanted);
    for cut in 0..=whole.len() {
        let had = u64::try_from(texts[..cut].concat().len()).unwrap();
        let resume = Some(Resume::new(whole[..cut].to_vec(), had, 0).unwrap());
        let resumed = Generation { resume, ..wanted.clone() };
        assert_eq!(answer(&engine, "a", &resumed).ids, whole[cut..], "cut at {cut}");
    }
}

#[test]
fn penalties_and_biases_choose_among_what_is_allowed() {
    let (engine, _folder) = tiny_engine(200);
    let id = |text: &str| engine.tokenize(text, false).unwrap()[0];
    let bias = vec![(id("z"), 100.0), (id("b"), 50.0), (id("a"), -100.0)];
    let biased = Generation { bias, ..wanted(regex("[abc]{3}"), 1, 1) };
    assert_eq!(answer(&engine, "a", &biased).text, "bbb");
    let banned = Generation { bias: vec![(id("a"), -100.0)], ..wanted(regex("a{3}"), 1, 1) };
    assert_eq!(answer(&engine, "a", &banned).text, "aaa", "nothing else is allowed");
    let greedy = Generation { sampling: Sampling::default(), ..wanted(person(), 1, 1) };
    let greedy = Generation { tokens_max: Some(12), ..greedy };
    assert!(answer(&engine, "a", &greedy).text.starts_with('{'));
}

#[test]
fn what_cannot_be_kept_to_is_refused_with_the_reason_and_costs_no_step() {
    let (engine, _folder) = tiny_engine(200);
    let refused = |wanted: &Generation| match answer(&engine, "a", wanted).end {
        Err(Refusal::Invalid(message)) => message,
        end => panic!("{end:?}"),
    };
    let message = refused(&wanted(regex("("), 1, 1));
    assert!(
        message.starts_with("`response_format`: ") && message.contains("unclosed"),
        "{message}"
    );
    let message = refused(&wanted(schema(&json!({"type": "strin"})), 1, 1));
    assert!(message.contains("strin"), "{message}");
    let resume = Some(Resume::new(engine.tokenize("ax", false).unwrap(), 2, 0).unwrap());
    let message = refused(&Generation { resume, ..wanted(regex("a{3}"), 1, 1) });
    assert!(message.contains("not of the grammar"), "{message}");
    let load = engine.load();
    assert_eq!((load.prompt_tokens_total, load.sequences_queued, load.kv_blocks_used), (0, 0, 0));

    // What it is about is not known before the tokens are: it ends where it is found out.
    let message = refused(&wanted(lark("start: a{1000000}\na: \"x\" a?"), 1, 1));
    assert!(message.contains("too complex"), "{message}");
    assert_eq!(engine.load().kv_blocks_used, 0);
}

#[test]
fn a_constraint_that_nobody_waits_for_any_more_is_not_compiled_for_long() {
    let (engine, _folder) = tiny_engine(200);
    for round in 0..40 {
        drop(engine.generate(&caller("a"), wanted(regex(&format!("a{{{round}}}b")), 1, 1)));
    }
    let last = answer(&engine, "b", &wanted(regex("ab"), 1, 1));
    assert_eq!((last.text.as_str(), last.end.unwrap().0), ("ab", Finish::Stop));
}

#[test]
fn a_tenant_has_no_more_answers_with_constraints_at_once_than_its_places_and_gets_them_back() {
    let (engine, _folder) = tiny_engine(200);
    let wanted = wanted(person(), 1, 1);
    let begin = |tenant| engine.generate(&caller(tenant), wanted.clone());
    let streams: Vec<_> = (0..16).map(|_| begin("a").unwrap()).collect();
    assert!(matches!(begin("a"), Err(Refusal::Busy { .. })), "its places are taken");
    assert!(read(begin("b").unwrap()).end.is_ok(), "others have their own");
    let free = Generation { constraint: None, ..wanted.clone() };
    assert!(engine.generate(&caller("a"), free).is_ok(), "without a constraint it needs none");

    drop(streams);
    let until = Instant::now() + PATIENCE;
    let mut again = begin("a");
    while again.is_err() && Instant::now() < until {
        thread::yield_now();
        again = begin("a");
    }
    assert!(read(again.unwrap()).end.is_ok());
}

#[test]
fn probabilities_are_what_the_model_says_whatever_an_answer_keeps_to() {
    let (engine, _folder) = tiny_engine(200);
    let first = |constraint| {
        let sampling = Sampling { logprobs: Some(2), ..Sampling::default() };
        let wanted = Generation { constraint, sampling, ..generation(prompt(8, 1), 1) };
        let mut stream = engine.generate(&caller("a"), wanted).unwrap();
        loop {
            match stream.blocking_recv().unwrap() {
                TokenEvent::Token(token) => return token.logprobs.unwrap(),
                TokenEvent::Cached(_) => {}
                event => panic!("{event:?}"),
            }
        }
    };
    let free = first(None);
    let unlike = if free.chosen.bytes == b"q" { "z" } else { "q" };
    let kept = first(Some(regex(unlike)));
    assert_eq!(kept.chosen.bytes, unlike.as_bytes());
    assert_eq!(kept.top, free.top);
    assert!(kept.chosen.logprob < free.chosen.logprob);
}

#[test]
fn an_engine_that_goes_ends_what_is_being_compiled() {
    let (engine, _folder) = tiny_engine(200);
    let stream = engine.generate(&caller("a"), wanted(person(), 1, 1)).unwrap();
    drop(engine);
    let end = read(stream).end;
    assert!(matches!(end, Err(Refusal::Draining) | Ok(_)), "{end:?}");
}

#[test]
fn a_tenant_with_hostile_grammars_holds_up_no_other() {
    let (engine, _folder) = tiny_engine(200);
    let hostile = "start: start start | start start start | \"a\" | \"b\" | ";
    let alone = answer(&engine, "b", &wanted(person(), 7, 7));
    let streams: Vec<_> = (0..8)
        .map(|salt| engine.generate(&caller("a"), wanted(lark(hostile), salt, 1)).unwrap())
        .collect();
    let beside = answer(&engine, "b", &wanted(person(), 7, 7));
    let free = answer(&engine, "b", &Generation { tokens_max: Some(40), ..wanted(None, 7, 7) });
    assert_eq!(beside.ids, alone.ids);
    assert!(free.end.is_ok());
    // They may go on, or have been ended for what they cost.
    drop(streams);
}

#[test]
fn a_real_model_answers_in_json_and_by_expressions() {
    let (engine, _) = realm_engine::open(&[smollm2()], options(256)).unwrap();
    let prompt = engine.tokenize("The person's name and age in JSON: ", false).unwrap();
    let wanted = |constraint| {
        let constraint = Some(constraint);
        Generation { constraint, ..generation(prompt.clone(), 120) }
    };
    let person = answer(&engine, "a", &wanted(person()));
    println!("{}", person.text);
    assert_eq!(person.end.unwrap().0, Finish::Stop);
    assert!(is_person(&person.text), "{}", person.text);
    let answer = answer(&engine, "a", &wanted(regex("(yes|no), because [a-z ]{5,40}\\.")));
    println!("{}", answer.text);
    assert!(answer.text.starts_with("yes, because") || answer.text.starts_with("no, because"));
    assert_eq!(answer.end.unwrap().0, Finish::Stop);
}
