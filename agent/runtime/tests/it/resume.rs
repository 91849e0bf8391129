//! Answers that are cut in one place and go on in another.

use realm_core::{
    call::{Call, CallId, Resume},
    engine::{Finish, Usage},
    refusal::Refusal,
    tenants::Tenants as _,
};
use realm_runtime::Prepared;
use serde_json::{Value, json};

use crate::{
    echo::{Echo, Mood},
    town::{Citizen, Told, Town, read, town},
};

const TEXT: &str = "hello there";

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn settle(town: &'static Town, name: &str, program: &Prepared) -> (Citizen, std::sync::Arc<Echo>) {
    let engine = Echo::new(&format!("tests/{name}"), Mood::Echo);
    let citizen = Citizen::new(name).with_model(&town.runtime, engine.clone());
    (citizen.moves_into(&town.runtime, program), engine)
}

fn call(function: &str, resume: Option<Resume>) -> Call {
    let params = json!({ "prompt": TEXT, "seed": 5 });
    Call { resumable: true, resume, ..Call::new(CallId("1".into()), function, params) }
}

async fn told(town: &Town, citizen: &Citizen, call: Call) -> Told {
    read(town.runtime.start(citizen.admit_call(call).unwrap())).await
}

#[tokio::test]
async fn a_resumable_answer_says_which_tokens_its_text_came_from() {
    let town = town().await;
    let (citizen, engine) = settle(town, "says-tokens", &town.built_in);
    let mut asked = call("generate", None);
    asked.params = json!({ "prompt": TEXT });
    let answer = told(town, &citizen, asked).await;
    assert_eq!(answer.text(), TEXT);
    assert_eq!(answer.progress.len(), answer.chunks.len());
    let mut tokens: Vec<u32> = Vec::new();
    for progress in &answer.progress {
        assert_eq!(usize::try_from(progress.first).unwrap(), tokens.len());
        tokens.extend(&progress.tokens);
    }
    assert_eq!(tokens, ids(TEXT));
    // One that no reader of numbers rounds.
    let seeds: Vec<_> = answer.progress.iter().map(|progress| progress.seed).collect();
    assert_eq!(seeds[0], Some((1 << 53) - 1));
    assert!(seeds[1..].iter().all(Option::is_none), "{seeds:?}");
    assert_eq!(engine.asked.lock().unwrap()[0].sampling.seed, seeds[0]);

    let plain = Call { resumable: false, ..call("generate", None) };
    assert_eq!(told(town, &citizen, plain).await.progress, []);
}

#[tokio::test]
async fn an_answer_goes_on_wherever_it_was_cut() {
    let town = town().await;
    let (citizen, engine) = settle(town, "goes-on", &town.built_in);
    for cut in 0..=TEXT.len() {
        // A client may have a little less of the text than of the tokens.
        let had = cut.saturating_sub(cut % 3);
        let resume = Resume::new(ids(&TEXT[..cut]), u64::try_from(had).unwrap(), 7).unwrap();
        let answer = told(town, &citizen, call("generate", Some(resume.clone()))).await;
        assert_eq!(answer.text(), TEXT[had..], "cut at {cut}");
        let made: Vec<u32> = answer.progress.iter().flat_map(|p| p.tokens.clone()).collect();
        assert_eq!(made, ids(&TEXT[cut..]), "cut at {cut}");
        let first = answer.progress.first().map(|progress| progress.first);
        assert!(first.is_none_or(|first| first == u64::try_from(cut).unwrap()), "cut at {cut}");
        let count = |tokens: usize| u32::try_from(tokens).unwrap();
        let usage = Usage {
            prompt_tokens: count(TEXT.len() + cut),
            cached_tokens: 2,
            completion_tokens: count(TEXT.len() - cut),
        };
        assert_eq!(answer.end.unwrap().usage, usage, "resumed tokens cost what a prompt costs");
        let asked = engine.asked.lock().unwrap().pop().unwrap();
        // The seed it was drawn with so far, not the one that the call names.
        assert_eq!((asked.sampling.seed, asked.resume), (Some(7), Some(resume)));
    }
}

#[tokio::test]
async fn an_answer_beyond_a_limit_that_was_lowered_meanwhile_ends_at_once() {
    let town = town().await;
    let engine = Echo::new("tests/lowered", Mood::Echo);
    let mut citizen = Citizen::new("lowered").with_model(&town.runtime, engine);
    for (output_tokens_max, context_max) in [(3, 50_000), (5, 50_000), (50_000, 14)] {
        citizen.tenant.limits.output_tokens_max = output_tokens_max;
        citizen.tenant.limits.context_max = context_max;
        citizen = citizen.moves_into(&town.runtime, &town.built_in);
        for asked in [json!({ "prompt": TEXT }), json!({ "prompt": TEXT, "max_tokens": 9 })] {
            let resume = Resume::new(ids(&TEXT[..5]), 2, 7).unwrap();
            let call = Call { params: asked, ..call("generate", Some(resume)) };
            let answer = told(town, &citizen, call).await;
            assert_eq!(answer.text(), TEXT[2..5], "what the client lacked of its text");
            let end = answer.end.unwrap();
            assert_eq!(end.finish, Finish::Length);
            assert_eq!(end.usage.completion_tokens, 0);
        }
    }
}

#[tokio::test]
async fn a_program_of_a_tenants_own_is_neither_followed_nor_resumed() {
    let town = town().await;
    let (citizen, _) = settle(town, "pirate-resumed", &town.pirate);
    let mut asked = call("chat", None);
    asked.params = json!({ "messages": [{ "role": "user", "content": TEXT }] });
    let answer = told(town, &citizen, asked).await;
    assert!(answer.end.is_ok() && !answer.chunks.is_empty(), "{answer:?}");
    assert_eq!(answer.progress, []);

    let resume = Resume::new(ids("h"), 1, 7).unwrap();
    let refused = told(town, &citizen, call("chat", Some(resume))).await.end.unwrap_err();
    assert!(matches!(refused, Refusal::Invalid(_)), "{refused:?}");
}

#[tokio::test]
async fn only_answers_are_resumed() {
    let town = town().await;
    let (citizen, _) = settle(town, "only-answers", &town.built_in);
    for function in ["tokenize", "pipeline", "nonsense"] {
        let mut asked = call(function, Some(Resume::default()));
        asked.params = Value::Null;
        let refused = told(town, &citizen, asked).await.end.unwrap_err();
        let Refusal::Invalid(message) = &refused else { panic!("{refused:?}") };
        assert!(message.contains(function), "{message}");
    }
}

#[tokio::test]
async fn going_through_a_long_answer_again_costs_host_calls() {
    let town = town().await;
    let engine = Echo::new("tests/long-resumed", Mood::Echo);
    let mut citizen = Citizen::new("long-resumed").with_model(&town.runtime, engine);
    citizen.tenant.limits.program.host_calls_max = 50;
    let citizen = citizen.moves_into(&town.runtime, &town.built_in);
    let resume = Resume::new(ids(&"a".repeat(20_000)), 0, 7).unwrap();
    let refused = told(town, &citizen, call("generate", Some(resume))).await.end.unwrap_err();
    assert!(matches!(refused, Refusal::ProgramLimit { .. }), "{refused:?}");
}
