//! What a program may try. Each attack ends with its own refusal, and a neighbour's stream, on the
//! same single thread, arrives whole and in order meanwhile.

use std::time::Duration;

use realm_core::{
    desired::Limits,
    engine::Engine as _,
    refusal::{ProgramLimit, Refusal},
    reply::Reply,
};
use realm_runtime::{ProgramError, bench::Instances};
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TryRecvError;

use crate::{
    components::IDLE,
    echo::{Echo, Mood},
    town::{Citizen, LIMITS, Told, Town, read, town},
};

/// A hostile tenant beside a quiet one.
struct Street {
    town: &'static Town,
    hostile: Citizen,
    quiet: Citizen,
}

impl Street {
    async fn new(name: &str, limits: Limits) -> Self {
        let town = town().await;
        let engine = Echo::new(&format!("tests/{name}"), Mood::Echo);
        let mut hostile =
            Citizen::new(&format!("{name}-hostile")).with_model(&town.runtime, engine.clone());
        hostile.tenant.limits = limits;
        let hostile = hostile.moves_into(&town.runtime, &town.hostile);
        let quiet = Citizen::new(&format!("{name}-quiet"))
            .with_model(&town.runtime, engine)
            .moves_into(&town.runtime, &town.built_in);
        Self { town, hostile, quiet }
    }

    /// Begins the neighbour's stream: what it should say, and what it says.
    fn neighbour(&self) -> (String, Reply) {
        let text = (0..300).map(|number| number.to_string()).collect::<Vec<_>>().join(" ");
        let params = json!({ "prompt": text, "max_tokens": text.len() });
        let reply = self.quiet.call(&self.town.runtime, "generate", &params);
        (text, reply)
    }

    /// Runs an attack beside the neighbour's stream.
    async fn attack(&self, function: &str, params: Value) -> Told {
        let attack = self.hostile.call(&self.town.runtime, function, &params);
        let (text, neighbour) = self.neighbour();
        let (attack, neighbour) = tokio::join!(read(attack), read(neighbour));
        assert_eq!(neighbour.text(), text);
        neighbour.end.unwrap();
        attack
    }
}

fn limited(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = LIMITS;
    change(&mut limits);
    limits
}

#[tokio::test]
async fn a_tenant_that_loops_for_ever_stops_nobody_else() {
    let street = Street::new("loops", LIMITS).await;
    let runtime = &street.town.runtime;
    let mut attack = street.hostile.call(runtime, "loop", &json!({}));
    let (text, neighbour) = street.neighbour();
    assert_eq!(read(neighbour).await.text(), text);
    assert_eq!(attack.try_recv().unwrap_err(), TryRecvError::Empty, "it loops on");
}

#[tokio::test]
async fn a_tenant_that_loops_runs_out_of_fuel() {
    let limits = limited(|limits| limits.program.fuel_max = 100_000_000);
    let street = Street::new("fuel", limits).await;
    let refusal = street.attack("loop", json!({})).await.end.unwrap_err();
    let max = 100_000_000;
    assert_eq!(refusal, Refusal::ProgramLimit { limit: ProgramLimit::Fuel, max });
}

#[tokio::test]
async fn a_tenant_that_loops_runs_out_of_time() {
    let limits = limited(|limits| limits.program.deadline_ms = 200);
    let street = Street::new("time", limits).await;
    let refusal = street.attack("loop", json!({})).await.end.unwrap_err();
    assert_eq!(refusal, Refusal::DeadlineExceeded { deadline_ms: 200 });
}

#[tokio::test]
async fn a_tenant_that_eats_memory_is_stopped_at_its_limit() {
    let limits = limited(|limits| limits.program.memory_bytes_max = 16 << 20);
    let street = Street::new("memory", limits).await;
    let refusal = street.attack("eat_memory", json!({})).await.end.unwrap_err();
    let max = 16 << 20;
    assert_eq!(refusal, Refusal::ProgramLimit { limit: ProgramLimit::Memory, max });
}

#[tokio::test]
async fn a_tenant_that_floods_host_calls_is_stopped_at_its_limit() {
    let limits = limited(|limits| limits.program.host_calls_max = 10_000);
    let street = Street::new("host-calls", limits).await;
    let refusal = street.attack("flood_host_calls", json!({})).await.end.unwrap_err();
    let max = 10_000;
    assert_eq!(refusal, Refusal::ProgramLimit { limit: ProgramLimit::HostCalls, max });
}

#[tokio::test]
async fn a_tenant_that_floods_output_is_stopped_at_its_limit() {
    let limits = limited(|limits| limits.program.output_bytes_max = 100_500);
    let street = Street::new("output", limits).await;
    let told = street.attack("flood_output", json!({})).await;
    assert_eq!(told.text().len(), 100_000);
    let max = 100_500;
    let expected = Refusal::ProgramLimit { limit: ProgramLimit::Output, max };
    assert_eq!(told.end.unwrap_err(), expected);
}

#[tokio::test]
async fn a_tenant_that_floods_probabilities_is_stopped_at_its_limit() {
    let limits = limited(|limits| limits.program.output_bytes_max = 100_500);
    let street = Street::new("logprobs", limits).await;
    let told = street.attack("flood_logprobs", json!({})).await;
    assert_eq!(told.logprobs.concat().len(), 1000);
    let max = 100_500;
    let expected = Refusal::ProgramLimit { limit: ProgramLimit::Output, max };
    assert_eq!(told.end.unwrap_err(), expected);
}

#[tokio::test]
async fn a_probability_that_is_no_number_is_the_programs_failure() {
    let street = Street::new("no-number", LIMITS).await;
    let told = street.attack("garbage_logprobs", json!({})).await;
    let refusal = told.end.unwrap_err();
    let Refusal::ProgramFailed(message) = refusal else { panic!("{refusal:?}") };
    assert!(message.contains("logprob"), "{message}");
    assert!(told.chunks.is_empty());
}

#[tokio::test]
async fn a_tenant_that_floods_the_log_gains_nothing() {
    let street = Street::new("log", LIMITS).await;
    street.attack("flood_log", json!({})).await.end.unwrap();
}

#[tokio::test]
async fn a_program_that_traps_fails_alone() {
    let street = Street::new("traps", LIMITS).await;
    for (attack, named) in [("trap", "unreachable"), ("overflow_stack", "call stack exhausted")] {
        let refusal = street.attack(attack, json!({})).await.end.unwrap_err();
        let Refusal::ProgramFailed(message) = refusal else { panic!("{refusal:?}") };
        assert!(message.contains(named), "{message}");
    }
}

#[tokio::test]
async fn a_model_without_a_grant_does_not_exist() {
    let street = Street::new("steals", LIMITS).await;
    let secret = Echo::new("others/secret", Mood::Echo);
    street.town.runtime.put_model(secret.info().model.clone(), secret);
    for name in ["secret", "others/secret", "", "steals\0", "../others/secret"] {
        let told = street.attack("steal_model", json!({ "model": name })).await;
        assert_eq!(told.end.unwrap_err(), Refusal::UnknownModel(name.into()));
    }
}

#[tokio::test]
async fn garbage_in_place_of_json_is_the_programs_failure() {
    let street = Street::new("garbage", LIMITS).await;
    for attack in ["garbage_json", "garbage_data"] {
        let told = street.attack(attack, json!({})).await;
        let refusal = told.end.unwrap_err();
        let Refusal::ProgramFailed(message) = refusal else { panic!("{refusal:?}") };
        assert!(message.contains("not JSON"), "{message}");
        assert!(told.chunks.is_empty());
    }
}

#[tokio::test]
async fn a_tenant_that_hoards_handles_is_stopped() {
    let street = Street::new("hoards", LIMITS).await;
    for attack in ["hoard_handles", "hoard_prefixes"] {
        let refusal = street.attack(attack, json!({})).await.end.unwrap_err();
        assert!(matches!(refusal, Refusal::ProgramFailed(_)), "{attack}: {refusal:?}");
    }
}

#[tokio::test]
async fn a_program_may_go_on_after_a_refusal_and_cannot_reword_one() {
    let street = Street::new("rewords", LIMITS).await;
    let done = street.attack("swallow_refusal", json!({})).await.end.unwrap();
    assert_eq!(done.data, json!(true));
    let refusal = street.attack("disguise_refusal", json!({})).await.end.unwrap_err();
    assert_eq!(refusal, Refusal::UnknownModel("no-such-model".into()));
}

#[tokio::test]
async fn an_instance_that_looks_for_what_others_left_finds_nothing() {
    // It traps at its start where a word of its memory or an entry of its table is set, and sets
    // all of them: what of a table is wiped, and what is given back.
    let look = r#"(table $table 4000 funcref)
    (func $mark)
    (elem declare func $mark)
    (func $look (local $at i32)
      (local.set $at (i32.const 4096))
      (loop $words
        (if (i64.ne (i64.load (local.get $at)) (i64.const 0)) (then unreachable))
        (i64.store (local.get $at) (i64.const -1))
        (local.set $at (i32.add (local.get $at) (i32.const 8)))
        (br_if $words (i32.lt_u (local.get $at) (i32.const 524288))))
      (local.set $at (i32.const 0))
      (loop $entries
        (if (ref.is_null (table.get $table (local.get $at))) (then) (else unreachable))
        (table.set $table (local.get $at) (ref.func $mark))
        (local.set $at (i32.add (local.get $at) (i32.const 1)))
        (br_if $entries (i32.lt_u (local.get $at) (i32.const 4000)))))
    (start $look)
    (memory (export "memory") 8)"#;
    let text = IDLE.replacen("(memory (export \"memory\") 1)", look, 1);
    assert!(text.contains("$look"));
    let mut limits = LIMITS.program;
    limits.fuel_max = 10_000_000;
    let prepare = async |text: &str| {
        town().await.runtime.prepare_program(wat::parse_str(text).unwrap(), &limits).await
    };
    let twice = text.replace("(start $look)", "(func $twice call $look call $look) (start $twice)");
    let error = prepare(&twice).await.unwrap_err();
    assert!(matches!(error, ProgramError::Start { .. }), "what is there is found: {error:?}");
    let instances = Instances::of(&prepare(&text).await.unwrap(), limits);
    for _ in 0..8 {
        assert!(instances.make().await.unwrap() > Duration::ZERO);
    }
}
