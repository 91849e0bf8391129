//! What a component is asked before it takes a call, once and outside any tenant.

use std::time::Duration;

use realm_core::desired::ProgramLimits;
use tokio::time::{Instant, timeout_at};
use wasmtime::{Store, component::Instance};

use crate::{
    bindings::{self, ProgramPre, checked::Checked, exports::realm::tenant::handler::FunctionInfo},
    host::Host,
    program::ProgramError,
    refusal::cut,
    sandbox,
};

/// What a program may spend on saying what it does and whether it works, together. It may call
/// nothing, and an interpreter needs some tens of millions of instructions to come up.
pub(crate) const LIMITS: ProgramLimits = ProgramLimits {
    memory_bytes_max: 512 << 20,
    fuel_max: 1_000_000_000,
    host_calls_max: 0,
    output_bytes_max: 0,
    deadline_ms: 10_000,
    token_fuel_max: 1_000_000,
    token_deadline_ms: 1_000,
    instances_max: 64,
    memory64: false,
};

/// Brings a program up, and returns what it says that it serves. One that `has_health` must say
/// too that it works.
pub(crate) async fn pass(
    pre: &ProgramPre<Host>,
    has_health: bool,
) -> Result<Vec<FunctionInfo>, ProgramError> {
    let ms = LIMITS.deadline_ms;
    let deadline = Instant::now() + Duration::from_millis(ms);
    let start = |source| ProgramError::Start { source };
    let host = Host::without_call(LIMITS.memory_bytes_max);
    let mut store = sandbox::store(pre.engine(), host, &LIMITS).map_err(start)?;
    let asked = timeout_at(deadline, declared(pre, &mut store)).await;
    let (instance, functions) = asked.map_err(|_elapsed| ProgramError::StartSlow { ms })??;
    if has_health {
        let asked = timeout_at(deadline, works(&mut store, &instance)).await;
        asked.map_err(|_elapsed| ProgramError::HealthSlow { ms })??;
    }
    Ok(functions)
}

async fn declared(
    pre: &ProgramPre<Host>,
    store: &mut Store<Host>,
) -> Result<(Instance, Vec<FunctionInfo>), ProgramError> {
    let start = |source| ProgramError::Start { source };
    let instance = pre.instance_pre().instantiate_async(&mut *store).await.map_err(start)?;
    let program = bindings::Program::new(&mut *store, &instance)
        .map_err(|source| ProgramError::Link { source })?;
    let functions = program.realm_tenant_handler().call_functions(store).await.map_err(start)?;
    Ok((instance, functions))
}

async fn works(store: &mut Store<Host>, instance: &Instance) -> Result<(), ProgramError> {
    let checked = Checked::new(&mut *store, instance);
    let checked = checked.map_err(|source| ProgramError::Link { source })?;
    let said = checked.realm_tenant_health().call_check(store).await;
    match said.map_err(|source| ProgramError::Health { source })? {
        Ok(()) => Ok(()),
        Err(why) => Err(ProgramError::Unhealthy { why: one_line(why) }),
    }
}

/// A program's own words as they may stand in a log, a condition and a terminal: so many at most, and
/// none that begin a line, move a cursor or turn the direction of what follows.
fn one_line(words: String) -> String {
    let plain: String = cut(words).chars().map(|c| if turns(c) { ' ' } else { c }).collect();
    match plain.trim() {
        "" => "it does not say why".to_owned(),
        said => said.to_owned(),
    }
}

fn turns(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_own_words_are_one_bounded_line() {
        let of = |words: &str| one_line(words.to_owned());
        assert_eq!(of("no dictionary"), "no dictionary");
        assert_eq!(
            of(" a\ntenant default/b: ready\r\u{1b}[2J\u{202e} "),
            "a tenant default/b: ready  [2J"
        );
        assert_eq!(of("\n\u{2028}"), "it does not say why");
        assert_eq!(of(&"é".repeat(4000)).len(), 1024);
    }
}
