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
    /// To come to a call: one that was made ahead, or slots, memories and tables as the component has
    /// them at its start, and that start, where it has one.
    pub taken: Duration,
    /// To be back in the pool.
    pub returned: Duration,
}

impl Instances {
    pub fn of(program: &Prepared, limits: ProgramLimits) -> Self {
        Self { of: ahead::Instances::of(&program.0, &limits), limits }
    }

    /// How long one takes that is made for nobody.
    pub async fn make(&self) -> Result<Duration, ProgramError> {
        let begun_at = Instant::now();
        let made = self.of.calls.make().await;
        drop(made.map_err(|source| ProgramError::Start { source })?);
        Ok(begun_at.elapsed())
    }

    /// Takes one as a call does.
    pub async fn take(&self) -> Result<Instance, ProgramError> {
        let start = |source| ProgramError::Start { source };
        let begun_at = Instant::now();
        let host = Host::without_call(self.limits.memory_bytes_max);
        let fuel = Allowance::new(&self.limits, None, begun_at).fuel;
        let instance = pool::checkout(&self.of.calls, host, fuel).await.map_err(start)?;
        let taken_at = Instant::now();
        drop(instance);
        let taken = taken_at.duration_since(begun_at);
        Ok(Instance { taken, returned: taken_at.elapsed() })
    }
}
