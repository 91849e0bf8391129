//! Programs that keep what many of their generations begin with.

use std::sync::Arc;

use realm_core::{books::Way, engine::Prefix, refusal::Refusal, reply::ReplyEvent};
use serde_json::{Value, json};

use crate::{
    echo::{Echo, Mood},
    town::{Citizen, next, read, town, until},
};

fn questions() -> Value {
    json!({ "text": "abc", "questions": ["one?", "two?"], "max_tokens": 3 })
}

/// What the model's template makes of the text.
fn beginning() -> String {
    "system: Answer questions about this text with words of it.\n\nabc\nuser: ".to_owned()
}

fn ids(text: &str) -> Vec<u32> {
    text.bytes().map(u32::from).collect()
}

fn count(tokens: usize) -> u32 {
    u32::try_from(tokens).unwrap()
}

async fn reader(name: &str, mood: Mood) -> (Citizen, Arc<Echo>) {
    let town = town().await;
    let engine = Echo::new(&format!("tests/{name}"), mood);
    let citizen = Citizen::new(name).with_model(&town.runtime, engine.clone());
    (citizen.moves_into(&town.runtime, &town.reader), engine)
}

/// How many prefixes are kept now.
fn kept(engine: &Echo) -> usize {
    Arc::strong_count(&engine.held) - 1
}

fn prefix(tokens: &str, kept_tokens: usize) -> Prefix {
    let kept_tokens = count(kept_tokens);
    Prefix { tokens: ids(tokens), kept_tokens, shared_tokens: 0, way: Way::Direct }
}

#[tokio::test]
async fn a_prefix_is_computed_once_and_gone_on_from_in_several_ways() {
    let town = town().await;
    let (citizen, engine) = reader("prefix-forks", Mood::Echo).await;
    let done = citizen.done(&town.runtime, "ask", &questions()).await.end.unwrap();
    let beginning = beginning();
    assert_eq!(done.data, json!({ "prefix": beginning.len() }));

    let asked = engine.asked.lock().unwrap();
    let prompts: Vec<_> = asked.iter().map(|generation| generation.prompt.clone()).collect();
    let tails = ["", "one?\n", "two?\n"];
    assert_eq!(prompts, tails.map(|tail| ids(&format!("{beginning}{tail}"))));
    assert_eq!(asked[0].tokens_max, Some(1), "what computes the prefix");
    assert_eq!(*engine.kept.lock().unwrap(), [prefix(&beginning, 0)]);
    assert_eq!(kept(&engine), 0, "it went with the call");
    // The prefix costs what a prompt does, and a token; this engine finds two tokens of each.
    let usage = done.usage;
    assert_eq!(usage.prompt_tokens, count(prompts.iter().map(Vec::len).sum()));
    assert_eq!((usage.cached_tokens, usage.completion_tokens), (3 * 2, 1 + 2 * 3));
}

#[tokio::test]
async fn a_longer_prefix_counts_what_is_behind_the_shorter() {
    let town = town().await;
    let (citizen, engine) = reader("prefix-grows", Mood::Echo).await;
    citizen.done(&town.runtime, "discuss", &questions()).await.end.unwrap();
    // This engine says its prompt, of which three tokens were asked for.
    let first = beginning();
    let second = format!("{first}one?\nassistant: sys\nuser: ");
    let wanted = [prefix(&first, 0), prefix(&second, first.len())];
    assert_eq!(*engine.kept.lock().unwrap(), wanted);
    let asked = engine.asked.lock().unwrap();
    let prompts: Vec<_> = asked.iter().map(|generation| generation.prompt.clone()).collect();
    let all = [&first, &format!("{first}one?\n"), &second, &format!("{second}two?\n")];
    assert_eq!(prompts, all.map(|prompt| ids(prompt)));
    assert_eq!(kept(&engine), 0);
}

#[tokio::test]
async fn a_prefix_is_kept_for_as_long_as_its_program_holds_it() {
    let town = town().await;
    let (citizen, engine) = reader("prefix-held", Mood::Hold).await;
    engine.release.send_replace(true);
    read(citizen.call(&town.runtime, "ask", &questions())).await.end.unwrap();
    assert_eq!(kept(&engine), 0);

    engine.release.send_replace(false);
    let reply = citizen.call(&town.runtime, "ask", &questions());
    // It is asked for before it is computed, so that none of it goes in between.
    until(|| kept(&engine) == 1).await;
    drop(reply);
    until(|| kept(&engine) == 0).await;
}

#[tokio::test]
async fn a_prefix_that_cannot_be_kept_is_refused_before_it_is_computed() {
    let town = town().await;
    let (citizen, engine) = reader("prefix-busy", Mood::Busy).await;
    let refusal = citizen.refused(&town.runtime, "ask", &questions()).await;
    assert_eq!(refusal, Refusal::Busy { retry_after_ms: 77 });
    assert_eq!(engine.kept.lock().unwrap().len(), 1);
    assert!(engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn answers_that_begin_alike_are_told_one_by_one() {
    let town = town().await;
    let (citizen, _) = reader("prefix-streams", Mood::Echo).await;
    let mut reply = citizen.call(&town.runtime, "ask", &questions());
    for question in ["one?", "two?"] {
        let ReplyEvent::Chunk(chunk) = next(&mut reply).await else { panic!("{question}") };
        let told = format!("{chunk:?}");
        assert!(told.contains(question), "{told}");
    }
}
