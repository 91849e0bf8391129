//! What is measured of a program apart from its calls.

use std::time::{Duration, Instant};

use realm_core::desired::ProgramLimits;

use crate::{Prepared, ProgramError, ahead, host::Host, meter::Allowance, pool};

/// What a program comes up as for some tenant.
#[derive(Clone)]
pub struct Instances {
    of: ahead::Instances,
    limits: ProgramLimits,
}

/// How long an instance takes, without anything that the program does for a call.
#[derive(Clone, Copy, Debug)]
pub struct Instance {
    /// To be made: slots, memories and tables as the component has them at its start, and that start,
    /// where it has one.
    pub made: Duration,
    /// To come to a call, which may be one that was made ahead.
    pub taken: Duration,
    /// To be back in the pool.
    pub returned: Duration,
}

impl Instances {
    pub fn of(program: &Prepared, limits: ProgramLimits) -> Self {
        Self { of: ahead::Instances::of(&program.0, &limits), limits }
    }

    /// Makes an instance for nobody, and then takes one as a call does.
    pub async fn time(&self) -> Result<Instance, ProgramError> {
        let start = |source| ProgramError::Start { source };
        let begun_at = Instant::now();
        drop(self.of.calls.make().await.map_err(start)?);
        let made = begun_at.elapsed();
        let begun_at = Instant::now();
        let host = Host::without_call(self.limits.memory_bytes_max);
        let fuel = Allowance::new(&self.limits, None, begun_at).fuel;
        let instance = pool::checkout(&self.of.calls, host, fuel).await.map_err(start)?;
        let taken_at = Instant::now();
        drop(instance);
        let taken = taken_at.duration_since(begun_at);
        Ok(Instance { made, taken, returned: taken_at.elapsed() })
    }
}
