//! What is measured of a program apart from its calls.

use std::time::{Duration, Instant};

use realm_core::desired::ProgramLimits;

use crate::{Prepared, ProgramError, host::Host, meter::Allowance, pool};

/// How long the pool takes to make an instance, and to have it back: slots, memories and tables as the
/// component has them at its start, and that start, where it has one; nothing of a call.
pub async fn instance(
    program: &Prepared,
    limits: &ProgramLimits,
) -> Result<(Duration, Duration), ProgramError> {
    let begun_at = Instant::now();
    let host = Host::without_call(limits.memory_bytes_max);
    let fuel = Allowance::new(limits, None, begun_at).fuel;
    let instance = pool::checkout(&program.0.pre, host, limits, fuel).await;
    let instance = instance.map_err(|source| ProgramError::Start { source })?;
    let made_at = Instant::now();
    drop(instance);
    Ok((made_at.duration_since(begun_at), made_at.elapsed()))
}
