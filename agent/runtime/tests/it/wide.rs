//! Programs whose parts hand each other values through a 64-bit memory, and who may have them.

use std::{fs, sync::Arc};

use proptest::prelude::*;
use realm_core::{
    desired::{DesiredTenant, Limits, ProgramLimits},
    refusal::{ProgramLimit, Refusal},
    reply::Reply,
    tenants::Tenants as _,
};
use realm_runtime::{Kept, Prepared, ProgramError, Runtime};
use serde_json::{Value, json};
use wasmtime::{
    Config, Engine, Store,
    component::{Component, Linker},
};

use crate::{
    components::prepare,
    town::{Citizen, LIMITS, Told, read, town},
};

const WIDE: &str = include_str!("../../../../tests/fuzz/examples/components/wide.wat");
const IDLE: &str = include_str!("../../../../tests/fuzz/examples/components/idle.wat");

/// Of a tenant that may have them.
const OPEN: ProgramLimits = ProgramLimits { memory64: true, ..LIMITS.program };
const CLOSED: ProgramLimits = LIMITS.program;

fn bytes(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

async fn prepared(runtime: &Runtime) -> Prepared {
    runtime.prepare_program(bytes(WIDE), &OPEN).await.unwrap()
}

async fn refused(text: &str, limits: &ProgramLimits) -> ProgramError {
    town().await.runtime.prepare_program(bytes(text), limits).await.unwrap_err()
}

fn tenant(name: &str, program: ProgramLimits) -> Citizen {
    let mut citizen = Citizen::new(name);
    citizen.tenant.limits = Limits { program, ..LIMITS };
    citizen
}

/// A tenant that runs the program, and a runtime for all that do.
struct Owner {
    runtime: &'static Runtime,
    citizen: Citizen,
    program: Prepared,
}

impl Owner {
    async fn new(name: &str, limits: ProgramLimits) -> Self {
        let runtime = &town().await.runtime;
        let program = prepared(runtime).await;
        let citizen = tenant(name, limits).moves_into(runtime, &program);
        Self { runtime, citizen, program }
    }

    async fn told(&self, function: &str, params: &Value) -> Told {
        self.citizen.done(self.runtime, function, params).await
    }

    async fn refused(&self, function: &str) -> Refusal {
        self.told(function, &json!({ "a": 1 })).await.end.unwrap_err()
    }

    async fn echoes(&self) {
        let params = json!({ "text": "héllo" });
        assert_eq!(self.told("echo", &params).await.end.unwrap().data, params);
    }

    /// Lets the tenant have other limits from now on, and the program that it has.
    fn limit(&self, program: ProgramLimits) {
        let limits = Limits { program, ..LIMITS };
        let tenant = Arc::new(DesiredTenant { limits, ..self.citizen.tenant.clone() });
        self.runtime.await_tenant(tenant);
    }
}

fn not_allowed() -> Refusal {
    Refusal::ProgramNotReady { reason: "failed: ProgramMemory64".to_owned() }
}

#[tokio::test]
async fn a_program_answers_through_a_64_bit_memory_what_it_was_asked() {
    let owner = Owner::new("wide", OPEN).await;
    let names =
        ["echo", "spin", "grow", "leap", "high", "past", "wrap", "much", "back", "deny", "tell"];
    let functions: Vec<_> = owner.program.functions().iter().map(|it| it.name.as_str()).collect();
    assert_eq!(functions, names);
    owner.echoes().await;
    // Every kind of character, and more than any page has.
    let long = json!({ "text": "aé€😀".repeat(10_000) });
    let told = owner.told("tell", &long).await;
    assert_eq!(told.text(), long.to_string());
    assert_eq!(told.end.unwrap().data, long);
    let expected = Refusal::TooLong { tokens: 1 << 33, tokens_max: 7 };
    assert_eq!(owner.refused("deny").await, expected);
}

#[tokio::test]
async fn of_two_tenants_with_one_component_only_that_may_run_it_which_is_allowed_to() {
    let owner = Owner::new("wide-may", OPEN).await;
    let error = refused(WIDE, &CLOSED).await;
    assert_eq!(error.reason(), "ProgramMemory64");
    assert!(error.to_string().contains("`limits.program.memory64`"), "{error}");
    // However it came to it.
    let other = tenant("wide-may-not", CLOSED).moves_into(owner.runtime, &owner.program);
    let refusal = other.refused(owner.runtime, "echo", &json!({})).await;
    assert_eq!(refusal, not_allowed());
    assert!(owner.runtime.functions(&other.caller()).await.is_empty());
    assert_eq!(owner.runtime.lacks(&other.tenant.name), Some(not_allowed()));
    owner.echoes().await;
}

#[tokio::test]
async fn a_program_that_nobody_may_run_is_never_compiled() {
    let runtime = Runtime::new().unwrap();
    // Whatever else is wrong with it: the compiler would say so.
    let broken = WIDE.replace("(local.set $letter (i32.load8_u (local.get $name)))", "drop");
    assert_ne!(broken, WIDE);
    let error = runtime.prepare_program(bytes(&broken), &CLOSED).await.unwrap_err();
    assert_eq!(error.reason(), "ProgramMemory64");
    let error = runtime.prepare_program(bytes(&broken), &OPEN).await.unwrap_err();
    assert_eq!(error.reason(), "ProgramInvalid");
}

#[tokio::test]
async fn a_tenant_that_may_no_longer_run_its_program_ends_what_it_has_begun_and_begins_nothing() {
    let owner = Owner::new("wide-closed", ProgramLimits { deadline_ms: 1000, ..OPEN }).await;
    let spinning = owner.citizen.call(owner.runtime, "spin", &json!({}));
    owner.limit(CLOSED);
    assert_eq!(owner.refused("echo").await, not_allowed());
    assert!(owner.runtime.program(&owner.citizen.tenant.name).is_none(), "it is asked for anew");
    let end = read(spinning).await.end.unwrap_err();
    assert_eq!(end, Refusal::DeadlineExceeded { deadline_ms: 1000 }, "it went on to its end");
    owner.limit(OPEN);
    owner.echoes().await;
}

#[tokio::test]
async fn a_64_bit_memory_ends_where_the_tenants_limit_does() {
    let max = 16 << 20;
    let owner = Owner::new("wide-grows", ProgramLimits { memory_bytes_max: max, ..OPEN }).await;
    for function in ["grow", "leap"] {
        let expected = Refusal::ProgramLimit { limit: ProgramLimit::Memory, max };
        assert_eq!(owner.refused(function).await, expected, "{function}");
    }
    owner.echoes().await;
    // And never beyond what one of 32 bits may have, whatever its tenant may.
    let most = ProgramLimits { memory_bytes_max: 1 << 40, ..OPEN };
    let owner = Owner::new("wide-grows-on", most).await;
    let expected = Refusal::ProgramLimit { limit: ProgramLimit::Memory, max: 1 << 30 };
    assert_eq!(owner.refused("grow").await, expected);
}

#[tokio::test]
async fn a_64_bit_pointer_to_where_nothing_is_ends_its_call_and_nothing_else() {
    let owner = Owner::new("wide-points", OPEN).await;
    for function in ["high", "past", "wrap", "much", "back"] {
        let refusal = owner.refused(function).await;
        let Refusal::ProgramFailed(message) = refusal else { panic!("{function}: {refusal:?}") };
        assert!(message.contains("bounds"), "{function}: {message}");
        owner.echoes().await;
    }
}

#[tokio::test]
async fn a_kept_program_is_for_those_who_may_run_it_too() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("compiled");
    let start = || {
        let kept = Kept::open(&folder, &dir.path().join("key")).unwrap();
        Runtime::with_kept(kept).unwrap()
    };
    let files = || fs::read_dir(&folder).unwrap().count();
    start().prepare_program(bytes(WIDE), &CLOSED).await.unwrap_err();
    assert_eq!(files(), 0, "it has not been compiled");
    prepared(&start()).await;
    assert_eq!(files(), 1);

    let again = start();
    let error = again.prepare_program(bytes(WIDE), &CLOSED).await.unwrap_err();
    assert_eq!(error.reason(), "ProgramMemory64");
    let program = prepared(&again).await;
    let citizen = tenant("wide-kept", OPEN).moves_into(&again, &program);
    let reply: Reply = citizen.call(&again, "echo", &json!({ "a": 1 }));
    assert_eq!(read(reply).await.end.unwrap().data, json!({ "a": 1 }));
    assert_eq!(files(), 1);
}

/// The least program, with the memory that it hands the host values through made wide.
fn idle() -> String {
    let (module, rest) = IDLE.split_once("(core instance").unwrap();
    let memory = r#"(memory (export "memory") 1)"#;
    assert!(module.contains(memory));
    let wide = module.replace(memory, r#"(memory (export "memory") i64 1)"#).replace("i32", "i64");
    format!("{wide}(core instance{rest}")
}

#[tokio::test]
async fn a_component_that_hands_the_host_values_through_a_64_bit_memory_is_refused() {
    let called_by = r#"(component
        (import "realm:tenant/reply@0.1.0" (instance $reply
            (export "write-text" (func (param "text" string)))))
        (core module $memory (memory (export "memory") i64 1))
        (core instance $memory (instantiate $memory))
        (core func $write
            (canon lower (func $reply "write-text") (memory (core memory $memory "memory"))))
        (core module $code (import "reply" "write" (func (param i64 i64))))
        (core instance (instantiate $code
            (with "reply" (instance (export "write" (func $write)))))))"#;
    for text in [&idle(), called_by] {
        assert_eq!(refused(text, &CLOSED).await.reason(), "ProgramMemory64");
        let error = refused(text, &OPEN).await;
        assert_eq!(error.reason(), "ProgramMemory64Unsupported");
        assert!(error.to_string().contains("the host"), "{error}");
    }
}

#[tokio::test]
async fn a_component_with_resources_of_64_bits_is_refused() {
    let text = "(component (type $thing (resource (rep i64)))
        (core func $new (canon resource.new $thing)))";
    assert_eq!(refused(text, &CLOSED).await.reason(), "ProgramMemory64");
    assert_eq!(refused(text, &OPEN).await.reason(), "ProgramMemory64Unsupported");
}

#[tokio::test]
async fn a_program_that_only_computes_in_a_64_bit_memory_needs_no_leave() {
    let within = "(core module $sums (memory i64 1)
        (func (export \"sum\") (result i64) (i64.load (i64.const 8))))
        (core instance (instantiate $sums))";
    let text = IDLE.replacen("(component", &format!("(component {within}"), 1);
    town().await.runtime.prepare_program(bytes(&text), &CLOSED).await.unwrap();
}

/// Why such components are refused. Once this fails the compiler reads all 64 bits, and the reason
/// `ProgramMemory64Unsupported` may go.
#[test]
fn the_compilers_host_side_still_reads_half_of_a_64_bit_pointer() {
    let text = r#"(component
        (core module $code
            (memory (export "memory") i64 1)
            (data (i64.const 64) "text")
            (func (export "text") (result i64)
                (i64.store (i64.const 8) (i64.const 64))
                (i64.store (i64.const 16) (i64.const 4))
                i64.const 8))
        (core instance $code (instantiate $code))
        (func (export "text") (result string)
            (canon lift (core func $code "text") (memory (core memory $code "memory")))))"#;
    let mut config = Config::new();
    config.wasm_component_model_memory64(true).concurrency_support(false);
    let engine = Engine::new(&config).unwrap();
    let component = Component::new(&engine, bytes(text)).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Linker::new(&engine).instantiate(&mut store, &component).unwrap();
    let said = instance.get_typed_func::<(), (String,)>(&mut store, "text").unwrap();
    assert_eq!(said.call(&mut store, ()).unwrap(), (String::new(),), "its length is read as 0");
}

proptest! {
    // Most fail in the validator at once; the rest are compiled.
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_wide_component_with_bytes_changed_is_refused_for_what_it_is(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut bytes = bytes(WIDE);
        for (at, byte) in changes {
            *at.get_mut(&mut bytes) = byte;
        }
        let refused = prepare(bytes, &OPEN).err();
        prop_assert!(!matches!(refused, Some(ProgramError::Compiler)), "something panicked");
    }
}
