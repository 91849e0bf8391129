//! What one call spends: tokens for the tenant's account, host calls and memory for its limits.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use realm_core::{
    call::Deadline,
    desired::ProgramLimits,
    engine::Usage,
    hook::Overruns,
    limit::{Admitted, Reserve},
    refusal::{ProgramLimit, Refusal},
};
use wasmtime::ResourceLimiter;

use crate::{
    host::log,
    refusal::Ended,
    sandbox::{MEMORY_BYTES_MAX, TABLE_ELEMENTS_MAX},
    spent::ProgramSpent,
};

/// Charges a call's tokens as they are spent and adds them up for its reply.
pub(crate) struct TokenMeter {
    admitted: Arc<Admitted>,
    total: Mutex<Usage>,
}

impl TokenMeter {
    pub(crate) fn new(admitted: Arc<Admitted>) -> Self {
        Self { admitted, total: Mutex::default() }
    }

    pub(crate) fn admitted(&self) -> &Admitted {
        &self.admitted
    }

    /// A prompt, or texts, for which tokens were set aside is in work.
    pub(crate) fn spend_input(&self, reserve: &mut Reserve, prompt_tokens: u32) {
        reserve.spend_input(Instant::now());
        self.add(Usage { prompt_tokens, ..Usage::default() });
    }

    /// Takes a token of an answer for the program, or says why it is not to have it.
    pub(crate) fn take_token(&self, reserve: &mut Reserve) -> Result<(), Refusal> {
        reserve.take_token(Instant::now())?;
        self.add(Usage { completion_tokens: 1, ..Usage::default() });
        Ok(())
    }

    /// Pays for tokens that were made and that the program did not take. Where a hook has had them
    /// they are paid for whatever is left.
    pub(crate) fn spend_unread(&self, reserve: &mut Reserve, completion_tokens: u32, is_had: bool) {
        if is_had {
            reserve.spend_had(completion_tokens, Instant::now());
        } else {
            reserve.spend_unread(completion_tokens, Instant::now());
        }
        self.add(Usage { completion_tokens, ..Usage::default() });
    }

    /// Takes note that a prompt which was paid for was partly cached.
    pub(crate) fn found_cached(&self, tokens: u32) {
        self.admitted.refund(tokens);
        self.add(Usage { cached_tokens: tokens, ..Usage::default() });
    }

    /// Takes note that nothing of a prompt which was paid for has been computed.
    pub(crate) fn not_begun(&self, prompt_tokens: u32) {
        self.admitted.give_back(prompt_tokens);
        let mut total = self.lock();
        total.prompt_tokens = total.prompt_tokens.saturating_sub(prompt_tokens);
    }

    fn add(&self, usage: Usage) {
        let mut total = self.lock();
        total.prompt_tokens = total.prompt_tokens.saturating_add(usage.prompt_tokens);
        total.cached_tokens = total.cached_tokens.saturating_add(usage.cached_tokens);
        total.completion_tokens = total.completion_tokens.saturating_add(usage.completion_tokens);
    }

    fn lock(&self) -> MutexGuard<'_, Usage> {
        self.total.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn total(&self) -> Usage {
        *self.lock()
    }
}

/// What a call may spend, over all the instances that serve it one after the other. A clone
/// spends from the same.
#[derive(Clone)]
pub(crate) struct Allowance {
    pub(crate) begun_at: Instant,
    pub(crate) deadline: Deadline,
    pub(crate) fuel: Left,
    fuel_max: u64,
    pub(crate) host_calls: Countdown,
    pub(crate) output: Countdown,
    pub(crate) log_lines: Left,
    /// What its hooks may burn until they are asked about their first token: as much again.
    pub(crate) hook_start: Left,
    /// What they have burnt.
    pub(crate) hook_fuel: Tally,
    pub(crate) overruns: Overruns,
    /// How often it has waited for one of its tenant's instances to be free.
    pub(crate) instance_waits: Tally,
}

impl Allowance {
    /// What `limits` leave to a call that begins now, and that its client wants to end by `asked`.
    pub(crate) fn new(limits: &ProgramLimits, asked: Option<Deadline>, now: Instant) -> Self {
        let deadline = Deadline::after(now, limits.deadline_ms);
        Self {
            begun_at: now,
            deadline: asked.map_or(deadline, |asked| asked.earliest(deadline)),
            fuel: Left::new(limits.fuel_max),
            fuel_max: limits.fuel_max,
            host_calls: Countdown::new(ProgramLimit::HostCalls, limits.host_calls_max),
            output: Countdown::new(ProgramLimit::Output, limits.output_bytes_max),
            log_lines: Left::new(log::LINES_MAX),
            hook_start: Left::new(limits.fuel_max),
            hook_fuel: Tally::default(),
            overruns: Overruns::default(),
            instance_waits: Tally::default(),
        }
    }

    pub(crate) fn spent(&self) -> ProgramSpent {
        ProgramSpent {
            fuel: self
                .fuel_max
                .saturating_sub(self.fuel.get())
                .saturating_add(self.hook_fuel.get()),
            host_calls: self.host_calls.spent(),
            hook_overruns: self.overruns.get(),
            instance_waits: self.instance_waits.get(),
        }
    }
}

/// What is counted of one call. A clone counts the same, from whichever thread.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<AtomicU64>);

impl Tally {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is left of something. One instance at a time spends it, so its loads and stores need no
/// order among other memory's.
#[derive(Clone)]
pub(crate) struct Left(Arc<AtomicU64>);

impl Left {
    fn new(count: u64) -> Self {
        Self(Arc::new(AtomicU64::new(count)))
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// Takes `count`, or nothing where less than that is left.
    #[must_use]
    pub(crate) fn take(&self, count: u64) -> bool {
        let left = |left: u64| left.checked_sub(count);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }
}

/// A limit that is counted down, and that ends the call which goes over it.
#[derive(Clone)]
pub(crate) struct Countdown {
    left: Left,
    max: u64,
    limit: ProgramLimit,
}

impl Countdown {
    pub(crate) fn new(limit: ProgramLimit, max: u64) -> Self {
        Self { left: Left::new(max), max, limit }
    }

    pub(crate) fn spent(&self) -> u64 {
        self.max.saturating_sub(self.left.get())
    }

    /// Takes `count`, or ends the call.
    pub(crate) fn take(&self, count: u64) -> Result<(), Ended> {
        if self.left.take(count) { Ok(()) } else { Err(Ended::limit(self.limit, self.max)) }
    }
}

/// The memory of one instance, over all its linear memories.
///
/// Going over ends the call there and then: a program that is only told so would end in some abort
/// of its own that says nothing.
pub(crate) struct MemoryMeter {
    bytes: usize,
    bytes_max: usize,
}

impl MemoryMeter {
    pub(crate) fn new(bytes_max: u64) -> Self {
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX).min(MEMORY_BYTES_MAX);
        Self { bytes: 0, bytes_max }
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    fn over(&self) -> wasmtime::Error {
        let max = u64::try_from(self.bytes_max).unwrap_or(u64::MAX);
        Ended(Refusal::ProgramLimit { limit: ProgramLimit::Memory, max }).into()
    }
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let bytes = self.bytes.saturating_add(desired.saturating_sub(current));
        if bytes > self.bytes_max {
            return Err(self.over());
        }
        // The program's own maximum: it knows what it does when that is reached.
        if maximum.is_some_and(|maximum| desired > maximum) {
            return Ok(false);
        }
        self.bytes = bytes;
        Ok(true)
    }

    fn table_growing(
        &mut self,
        _current: usize,
        desired: usize,
        _maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= TABLE_ELEMENTS_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_counted_over_all_memories_of_an_instance() {
        let mut meter = MemoryMeter::new(100);
        assert!(meter.memory_growing(0, 60, None).unwrap());
        assert!(!meter.memory_growing(0, 40, Some(30)).unwrap());
        assert!(meter.memory_growing(0, 40, None).unwrap());
        let error = meter.memory_growing(40, 41, None).unwrap_err();
        let Some(Ended(refusal)) = error.downcast_ref() else { panic!("{error}") };
        let expected = Refusal::ProgramLimit { limit: ProgramLimit::Memory, max: 100 };
        assert_eq!(*refusal, expected);
    }

    #[test]
    fn a_countdown_ends_the_call_that_takes_more_than_is_left() {
        let countdown = Countdown::new(ProgramLimit::Output, 3);
        countdown.clone().take(3).unwrap();
        countdown.take(0).unwrap();
        countdown.take(1).unwrap_err();
    }
}
