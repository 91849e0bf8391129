//! Files that claim to be programs.

use std::sync::OnceLock;

use proptest::prelude::*;
use realm_core::desired::ProgramLimits;
use realm_runtime::{ProgramError, Runtime};

use crate::town::{LIMITS, PIRATE, town};

const BUILT_IN: &[u8] =
    include_bytes!("../../../../sdks/guest-rust/programs/built-in/built_in.wasm");

/// The least that is a program; fuzzing starts from it too.
pub(crate) const IDLE: &str = include_str!("../../../../tests/fuzz/examples/components/idle.wat");

async fn refused(bytes: Vec<u8>) -> ProgramError {
    town().await.runtime.prepare_program(bytes, &LIMITS.program).await.unwrap_err()
}

async fn refused_wat(text: &str) -> ProgramError {
    refused(wat::parse_str(text).unwrap()).await
}

#[tokio::test]
async fn the_same_component_is_compiled_once() {
    let town = town().await;
    let again = town.runtime.prepare_program(PIRATE.to_vec(), &LIMITS.program).await.unwrap();
    assert_eq!(again.digest(), town.pirate.digest());
    assert!(std::ptr::eq(again.functions(), town.pirate.functions()));
    assert_ne!(town.pirate.digest(), town.built_in.digest());
}

#[tokio::test]
async fn the_least_component_that_serves_a_function_is_a_program() {
    let bytes = wat::parse_str(IDLE).unwrap();
    let idle = town().await.runtime.prepare_program(bytes, &LIMITS.program).await.unwrap();
    assert_eq!(idle.functions()[0].name, "idle");
}

#[tokio::test]
async fn a_component_may_have_as_many_memories_as_toolchains_make_and_no_more() {
    let with_memories = |more: usize| {
        let empty = "(core module $empty (memory 0))";
        let instances = "(core instance (instantiate $empty))".repeat(more);
        let text = IDLE.replacen("(component", &format!("(component {empty} {instances}"), 1);
        wat::parse_str(&text).unwrap()
    };
    town().await.runtime.prepare_program(with_memories(2), &LIMITS.program).await.unwrap();
    let error = refused(with_memories(3)).await;
    assert!(matches!(error, ProgramError::Invalid { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_not_a_component_is_refused_by_its_form() {
    for bytes in [&b""[..], b"\0asm", b"(component)", &[0xff; 100]] {
        let error = refused(bytes.to_vec()).await;
        assert!(matches!(error, ProgramError::NotWebAssembly), "{error:?}");
    }
    let error = refused_wat("(module)").await;
    assert!(matches!(error, ProgramError::CoreModule), "{error:?}");
    let error = refused(vec![0; (64 << 20) + 1]).await;
    assert!(matches!(error, ProgramError::TooLarge { .. }), "{error:?}");
}

#[tokio::test]
async fn machine_code_is_refused_before_it_is_read() {
    let component = wat::parse_str("(component)").unwrap();
    let code = wasmtime::Engine::default().precompile_component(&component).unwrap();
    let error = refused(code).await;
    assert!(matches!(error, ProgramError::Precompiled), "{error:?}");
}

#[tokio::test]
async fn a_truncated_component_is_refused() {
    for length in (8..BUILT_IN.len()).step_by(BUILT_IN.len() / 40) {
        let error = refused(BUILT_IN[..length].to_vec()).await;
        let expected = matches!(
            error,
            ProgramError::Invalid { .. }
                | ProgramError::Export { .. }
                | ProgramError::Import { .. }
        );
        assert!(expected, "{length} bytes: {error:?}");
    }
}

#[tokio::test]
async fn a_component_of_another_world_is_refused() {
    let wasi = r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#;
    let error = refused_wat(wasi).await;
    let expected = matches!(&error, ProgramError::Import { name } if name.starts_with("wasi:cli"));
    assert!(expected, "{error:?}");

    let error = refused_wat("(component)").await;
    assert!(matches!(error, ProgramError::Export { .. }), "{error:?}");

    let mistyped = r#"(component
        (core module $m (func (export "f") (result i32) i32.const 1))
        (core instance $i (instantiate $m))
        (func $f (result u32) (canon lift (core func $i "f")))
        (instance $handler (export "functions" (func $f)) (export "handle" (func $f)))
        (export "realm:tenant/handler@0.1.0" (instance $handler)))"#;
    let error = refused_wat(mistyped).await;
    assert!(matches!(error, ProgramError::Link { .. }), "{error:?}");
}

#[tokio::test]
async fn a_component_that_declares_more_than_a_slot_holds_is_refused() {
    for declared in [
        "(memory 65536)",
        "(table 1000000000 funcref)",
        "(memory 1) (memory 1) (memory 1)",
        "(table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref) (table 1 funcref)",
    ] {
        let text =
            format!("(component (core module $m {declared}) (core instance (instantiate $m)))");
        let error = refused_wat(&text).await;
        assert!(matches!(error, ProgramError::Invalid { .. }), "{declared}: {error:?}");
    }
}

#[tokio::test]
async fn a_program_that_does_not_come_up_is_refused() {
    for start in ["(loop (br 0))", "unreachable"] {
        let text = format!(
            r#"(component
                (core module $m
                    (func $start {start}) (start $start)
                    (func (export "f") (result i32) i32.const 1))
                (core instance $i (instantiate $m))
                (func $f (result u32) (canon lift (core func $i "f")))
                (instance $handler (export "functions" (func $f)) (export "handle" (func $f)))
                (export "realm:tenant/handler@0.1.0" (instance $handler)))"#
        );
        let error = refused_wat(&text).await;
        // Where the machine does other things, the time of a loop is up before its fuel is.
        let is_late = start.contains("loop") && matches!(error, ProgramError::StartSlow { .. });
        assert!(is_late || matches!(error, ProgramError::Start { .. }), "{start}: {error:?}");
    }
}

/// A runtime of its own: proptest is not asynchronous.
pub(crate) fn prepare(bytes: Vec<u8>, limits: &ProgramLimits) -> Result<(), ProgramError> {
    static RUNTIME: OnceLock<(tokio::runtime::Runtime, Runtime)> = OnceLock::new();
    let (tokio, runtime) = RUNTIME.get_or_init(|| {
        let tokio = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        (tokio, Runtime::new().unwrap())
    });
    tokio.block_on(runtime.prepare_program(bytes, limits)).map(drop)
}

proptest! {
    // Most mutants fail in the validator at once; the few that pass take seconds to compile.
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_component_with_bytes_changed_never_breaks_the_host(
        changes in prop::collection::vec((0..BUILT_IN.len(), any::<u8>()), 4..64),
    ) {
        let mut bytes = BUILT_IN.to_vec();
        for (at, byte) in changes {
            bytes[at] = byte;
        }
        drop(prepare(bytes, &LIMITS.program));
    }
}

proptest! {
    #[test]
    fn bytes_of_any_kind_behind_a_components_head_never_break_the_host(
        tail in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let head = [0x00, 0x61, 0x73, 0x6d, 0x0d, 0x00, 0x01, 0x00];
        let bytes = [head.as_slice(), &tail].concat();
        prop_assert!(prepare(bytes, &LIMITS.program).is_err());
    }
}

/// A program whose check of its health is this: the body of a function in a core module.
fn checked(check: &str) -> String {
    let code = format!(r#"(func (export "check") (result i32) {check})"#);
    let within = "(func (export \"realloc\")";
    let lifted = r#"
      (func $check (result (result (error string)))
        (canon lift (core func $code "check") (memory $memory)))
      (instance $health (export "check" (func $check)))
      (export "realm:tenant/health@0.1.0" (instance $health)))"#;
    assert!(IDLE.contains(within));
    let with_code = IDLE.replace(within, &format!("{code}\n    {within}"));
    let whole = with_code.trim_end().strip_suffix(')').unwrap();
    format!("{whole}\n{lifted}")
}

/// Writes a result to the memory, whose error is so many bytes of text at 64.
fn says(is_error: bool, bytes: u32) -> String {
    format!(
        "(i32.store8 (i32.const 512) (i32.const {}))
         (i32.store (i32.const 516) (i32.const 64))
         (i32.store (i32.const 520) (i32.const {bytes}))
         i32.const 512",
        u8::from(is_error),
    )
}

#[tokio::test]
async fn a_program_that_says_that_it_works_is_taken() {
    let bytes = wat::parse_str(checked(&says(false, 0))).unwrap();
    let program = town().await.runtime.prepare_program(bytes, &LIMITS.program).await.unwrap();
    assert_eq!(program.functions()[0].name, "idle");
}

#[tokio::test]
async fn a_program_that_says_that_it_does_not_work_is_refused_in_its_own_words() {
    let error = refused_wat(&checked(&says(true, 4))).await;
    assert_eq!(error.reason(), "ProgramUnhealthy");
    assert_eq!(error.to_string(), "the program says that it does not work: idle");
    let error = refused_wat(&checked(&says(true, 0))).await;
    assert!(error.to_string().ends_with(": it does not say why"), "{error}");
    // 48 KiB, most of them zeros.
    let error = refused_wat(&checked(&says(true, 48 << 10))).await;
    assert!(error.to_string().len() < 2 << 10, "{} bytes", error.to_string().len());
    assert!(!error.to_string().contains('\0'), "{error}");
}

#[tokio::test]
async fn a_program_that_fails_when_it_is_asked_whether_it_works_is_refused() {
    // It traps, loops until its fuel is used up, and says what lies beyond its memory.
    for check in ["unreachable", "(loop (br 0)) unreachable", "i32.const 65535"] {
        let error = refused_wat(&checked(check)).await;
        let expected =
            matches!(error, ProgramError::Health { .. } | ProgramError::HealthSlow { .. });
        assert!(expected, "{check}: {error:?}");
        assert_eq!(error.reason(), "ProgramUnhealthy");
    }
    let mistyped =
        checked("i32.const 1").replace("(result (result (error string)))", "(result u32)");
    let error = refused_wat(&mistyped).await;
    assert!(matches!(error, ProgramError::Link { .. }), "{error:?}");
}
