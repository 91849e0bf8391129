//! Programs that stand beside their own generations, and hooks that attack whoever asks them. Each
//! attack ends its own answer, with a reason, and nobody else's.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use realm_core::{
    desired::{HostedProgram, Program},
    hook::Steer,
    refusal::{ProgramLimit, Refusal},
};
use realm_runtime::Prepared;
use serde_json::{Value, json};

use crate::{
    echo::{Echo, Mood},
    town::{Citizen, LIMITS, Told, next, read, town, until},
};

fn settings(citizen: &mut Citizen, settings: &[(&str, &str)]) {
    let own = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    let config = settings.iter().map(own).collect();
    citizen.tenant.program = Some(HostedProgram { code: Program::BuiltIn, config });
}

/// A tenant with settings and an engine of its own.
async fn citizen(name: &str, of: &[(&str, &str)], program: &Prepared) -> (Citizen, Arc<Echo>) {
    let town = town().await;
    let engine = Echo::new(&format!("tests/{name}"), Mood::Echo);
    let mut citizen = Citizen::new(name).with_model(&town.runtime, engine.clone());
    settings(&mut citizen, of);
    (citizen.moves_into(&town.runtime, program), engine)
}

fn prompt(text: &str) -> Value {
    json!({ "prompt": text, "max_tokens": text.len() })
}

async fn warden(name: &str, of: &[(&str, &str)], text: &str) -> (Told, Arc<Echo>) {
    let town = town().await;
    let (citizen, engine) = citizen(name, of, &town.warden).await;
    (citizen.done(&town.runtime, "generate", &prompt(text)).await, engine)
}

/// Lets one attack run beside a neighbour's stream.
async fn attack(name: &str) -> (Told, Arc<Echo>) {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let who = format!("hooks-{}", COUNT.fetch_add(1, Ordering::Relaxed));
    attack_as(&who, name).await
}

async fn attack_as(who: &str, name: &str) -> (Told, Arc<Echo>) {
    let town = town().await;
    let (hostile, engine) = citizen(who, &[("attack", name)], &town.hostile_hooks).await;
    let neighbour = Citizen::new(&format!("{who}-quiet"))
        .with_model(&town.runtime, engine.clone())
        .moves_into(&town.runtime, &town.built_in);
    let text = (0..50).map(|number| number.to_string()).collect::<Vec<_>>().join(" ");
    let quiet = neighbour.call(&town.runtime, "generate", &prompt(&text));
    let hostile = hostile.call(&town.runtime, "generate", &prompt("abcdefgh"));
    let (told, quiet) = tokio::join!(read(hostile), read(quiet));
    assert_eq!(quiet.text(), text, "{name}");
    quiet.end.unwrap();
    (told, engine)
}

#[track_caller]
fn check_failed(told: Told, said: &str) {
    let refusal = told.end.unwrap_err();
    let Refusal::ProgramFailed(message) = refusal else { panic!("{said}: {refusal:?}") };
    assert!(message.contains(said), "{message}");
}

#[tokio::test]
async fn a_program_without_hooks_is_not_asked_and_one_may_want_nothing_of_a_generation() {
    for (name, of) in [("warden-idle", &[][..]), ("warden-empty", &[("redact", "")])] {
        let (told, engine) = warden(name, of, "hello").await;
        assert_eq!((told.text().as_str(), engine.steers.lock().unwrap().len()), ("hello", 0));
        told.end.unwrap();
    }
    let (told, engine) = attack("none").await;
    assert_eq!((told.text().as_str(), engine.steers.lock().unwrap().len()), ("abcdefgh", 0));
}

#[tokio::test]
async fn a_word_is_blotted_out_however_its_tokens_fall() {
    let of = [("redact", "secret")];
    let (told, _) = warden("warden-redacts", &of, "a secret sec secrets, sec").await;
    assert_eq!(told.text(), "a ###### sec ######s, sec [2 blotted out]");
    told.end.unwrap();
}

#[tokio::test]
async fn a_word_is_banned_by_the_tokens_that_begin_it() {
    let (told, engine) = warden("warden-bans", &[("ban", "cat")], "the cat").await;
    told.end.unwrap();
    let steers = engine.steers.lock().unwrap();
    let Some(Some(Steer::Add(banned))) = steers.first() else { panic!("{steers:?}") };
    let mut ids: Vec<u32> = banned.iter().map(|(id, _)| *id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [u32::from(b' '), u32::from(b'c')], "a byte is a token here");
    assert!(banned.iter().all(|(_, by)| *by <= -100.0), "{banned:?}");
    assert!(steers.iter().skip(1).all(Option::is_none), "what was said holds: {steers:?}");
}

#[tokio::test]
async fn hooks_refuse_a_generation_before_an_engine_hears_of_it() {
    let (told, engine) = warden("warden-refuses", &[("prompt-tokens", "3")], "four").await;
    let expected = Refusal::Invalid("the prompt has more than 3 tokens".into());
    assert_eq!(told.end.unwrap_err(), expected);
    assert!(engine.asked.lock().unwrap().is_empty());
    let (told, _) = warden("warden-lets-in", &[("prompt-tokens", "4")], "four").await;
    told.end.unwrap();
}

#[tokio::test]
async fn hooks_hear_each_token_once_and_have_the_last_word() {
    let (told, _) = attack("shout").await;
    assert_eq!(told.text(), "ABCDEFGH (8)");
    told.end.unwrap();
    let (told, _) = attack("stop").await;
    assert_eq!(told.text(), "ab!");
    told.end.unwrap();
}

#[tokio::test]
async fn text_waits_for_hooks_that_take_long_and_never_goes_past_them() {
    let town = town().await;
    let (told, _) = attack("slow_text").await;
    assert_eq!(told.text(), "ABCDEFGH", "it is late, and what they made of it");
    told.end.unwrap();

    let name = "hooks-slow-text";
    let engine = Echo::new(&format!("tests/{name}"), Mood::Echo);
    let mut citizen = Citizen::new(name).with_model(&town.runtime, engine);
    settings(&mut citizen, &[("attack", "slow_text")]);
    let max = 1_000_000;
    citizen.tenant.limits.program.token_fuel_max = max;
    let citizen = citizen.moves_into(&town.runtime, &town.hostile_hooks);
    let told = read(citizen.call(&town.runtime, "generate", &prompt("abcdefgh"))).await;
    let expected = Refusal::ProgramLimit { limit: ProgramLimit::Fuel, max };
    assert_eq!((told.text().as_str(), told.end.unwrap_err()), ("", expected));
}

#[tokio::test]
async fn a_hook_that_loops_burns_what_a_token_may_and_ends() {
    let max = LIMITS.program.token_fuel_max;
    for (name, told_before) in [("loop", ""), ("loop_on_token", "")] {
        let (told, _) = attack(name).await;
        assert_eq!(told.text(), told_before);
        let expected = Refusal::ProgramLimit { limit: ProgramLimit::Fuel, max };
        assert_eq!(told.end.unwrap_err(), expected, "{name}");
    }
}

#[tokio::test]
async fn what_hooks_burn_is_their_tenants() {
    let town = town().await;
    let (told, _) = attack_as("hooks-burn", "loop").await;
    told.end.unwrap_err();
    let spent = || {
        let all = town.runtime.spent();
        let own = all.into_iter().find(|(name, _)| name.name() == "hooks-burn");
        own.unwrap().1.sum()
    };
    // It is booked when the engine has let the hook go.
    until(|| spent().fuel >= LIMITS.program.token_fuel_max).await;
    assert!(spent().fuel < 3 * LIMITS.program.token_fuel_max, "{:?}", spent());
}

#[tokio::test]
async fn a_hook_that_loops_before_its_generation_burns_its_calls_fuel() {
    let town = town().await;
    let name = "hooks-loop-on-request";
    let engine = Echo::new(&format!("tests/{name}"), Mood::Echo);
    let mut citizen = Citizen::new(name).with_model(&town.runtime, engine.clone());
    settings(&mut citizen, &[("attack", "loop_on_request")]);
    citizen.tenant.limits.program.fuel_max = 50_000_000;
    let citizen = citizen.moves_into(&town.runtime, &town.hostile_hooks);
    let refusal = citizen.refused(&town.runtime, "generate", &prompt("abc")).await;
    let expected = Refusal::ProgramLimit { limit: ProgramLimit::Fuel, max: 50_000_000 };
    assert_eq!(refusal, expected);
    assert!(engine.asked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_bias_of_a_million_entries_is_not_even_taken_over() {
    for name in ["million_biases", "million_only"] {
        let (told, engine) = attack(name).await;
        let refusal = told.end.unwrap_err();
        assert!(matches!(refusal, Refusal::ProgramFailed(_)), "{name}: {refusal:?}");
        assert!(engine.steers.lock().unwrap().is_empty(), "{name}");
    }
}

#[tokio::test]
async fn a_bias_that_is_too_much_or_of_no_token_is_the_programs_failure() {
    check_failed(attack("many_biases").await.0, "1024 are the most");
    check_failed(attack("outside_the_vocabulary").await.0, "of a vocabulary of 256");
    check_failed(attack("no_number").await.0, "from -100 to 100");
    check_failed(attack("twice").await.0, "token 1 twice");
    check_failed(attack("nothing_left").await.0, "no token that may come next");
}

#[tokio::test]
async fn a_text_of_megabytes_in_a_tokens_place_is_not_taken_over() {
    for name in ["megabytes", "endless_end"] {
        let (told, _) = attack(name).await;
        assert!(told.text().len() <= 8, "{name}");
        assert!(matches!(told.end.unwrap_err(), Refusal::ProgramFailed(_)), "{name}");
    }
    check_failed(attack("pages").await.0, "16385 bytes; 16384 are the most");
}

#[tokio::test]
async fn hooks_that_trap_end_their_own_answer() {
    check_failed(attack("trap_on_request").await.0, "unreachable");
    let (told, _) = attack("trap_on_token").await;
    assert_eq!(told.text(), "ab");
    check_failed(told, "unreachable");
}

#[tokio::test]
async fn hooks_may_not_do_what_a_function_may() {
    for name in ["generate", "reply"] {
        check_failed(attack(name).await.0, "its hooks");
    }
    let (told, _) = attack("long_text").await;
    assert_eq!(told.text(), "abcdefgh", "it was told that such text is too long");
    told.end.unwrap();
}

#[tokio::test]
async fn hooks_spend_the_host_calls_of_their_call() {
    let (told, _) = attack("flood_host_calls").await;
    let refusal = told.end.unwrap_err();
    // Whichever is used up first.
    assert!(matches!(refusal, Refusal::ProgramLimit { .. }), "{refusal:?}");
}

#[tokio::test]
async fn hooks_give_way_before_each_work_that_the_host_does_for_them() {
    let (told, engine) = attack("flood_text").await;
    assert_eq!(told.text(), "abcdefgh");
    told.end.unwrap();
    // One is asked about the beginning and all eight, of which the last steers nothing.
    assert!(engine.turns.load(Ordering::SeqCst) >= 8 * 200, "{:?}", engine.turns);
}

#[tokio::test]
async fn params_that_hooks_make_up_are_checked_as_any() {
    let (told, engine) = attack("garbage_params").await;
    let refusal = told.end.unwrap_err();
    let Refusal::Invalid(message) = &refusal else { panic!("{refusal:?}") };
    assert!(message.contains("temperature"), "{message}");
    assert_eq!(engine.asked.lock().unwrap().len(), 1, "the neighbour's");
    let (told, _) = attack("refuse").await;
    assert_eq!(told.end.unwrap_err(), Refusal::Invalid("not with me".into()));
}

#[tokio::test]
async fn hooks_are_asked_about_few_generations_at_once_and_the_others_wait_their_turn() {
    let town = town().await;
    let name = "hooks-asked-at-once";
    let engine = Echo::new(&format!("tests/{name}"), Mood::Echo);
    let mut citizen = Citizen::new(name).with_model(&town.runtime, engine.clone());
    settings(&mut citizen, &[("attack", "loop_on_request")]);
    let mut citizen = citizen.moves_into(&town.runtime, &town.hostile_hooks);
    let mut stuck: Vec<_> =
        (0..4).map(|_| citizen.call(&town.runtime, "generate", &prompt("abc"))).collect();
    // Each has come as far as its loop.
    tokio::time::sleep(Duration::from_millis(500)).await;

    settings(&mut citizen, &[("attack", "shout")]);
    let citizen = citizen.moves_into(&town.runtime, &town.hostile_hooks);
    let mut waits = citizen.call(&town.runtime, "generate", &prompt("abc"));
    let early = tokio::time::timeout(Duration::from_secs(2), next(&mut waits)).await;
    assert!(early.is_err(), "four instances are up, and a fifth: {early:?}");
    let (other, _) = attack("shout").await;
    assert_eq!(other.text(), "ABCDEFGH (8)", "another tenant's are its own");

    drop(stuck.pop());
    let told = read(waits).await;
    assert_eq!(told.text(), "ABC (3)");
    told.end.unwrap();
}
