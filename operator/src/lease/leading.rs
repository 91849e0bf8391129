//! Whether this operator leads, and until when.
//!
//! The Lease tells, and whoever is about to write or to say something asks, with the time that it
//! is: a process that was stopped goes on somewhere in the middle, and may be about to send what it
//! had in hand before anything in it has noticed what time it is.
//!
//! Times are `CLOCK_MONOTONIC`'s. It goes on while a process is stopped (SIGSTOP, a debugger, no
//! processor for it), and on Linux it stands still while the machine is suspended or its clock is
//! stopped with it, as that of a paused virtual machine may be. Who leads by such a clock finds out
//! with the next answer about the Lease, and until then others protect themselves: agents take no
//! older state than they have, and the new leader writes over a status that is not its own.

use tokio::{sync::watch, time::Instant};

/// The Lease's end.
#[derive(Debug)]
pub struct Lead(watch::Sender<Option<Instant>>);

/// The end of everybody else. Clones ask the same.
#[derive(Clone, Debug)]
pub struct Leading(watch::Receiver<Option<Instant>>);

impl Lead {
    /// Nobody leads yet.
    pub fn new() -> Self {
        Self(watch::Sender::new(None))
    }

    /// Leads until then, or until told anything else.
    pub fn until(&self, deadline: Instant) {
        // Who waits for an end need not hear of each renewal.
        self.0.send_if_modified(|until| until.replace(deadline).is_none());
    }

    /// Leads no more.
    pub fn end(&self) {
        self.0.send_replace(None);
    }

    pub fn subscribe(&self) -> Leading {
        Leading(self.0.subscribe())
    }
}

impl Default for Lead {
    fn default() -> Self {
        Self::new()
    }
}

impl Leading {
    /// Whether this operator leads at this moment: whatever it is said to, not beyond its Lease.
    pub fn leads(&self, now: Instant) -> bool {
        self.0.borrow().is_some_and(|until| now < until)
    }

    /// Returns when this operator is told that it leads no more.
    pub(crate) async fn ended(&mut self) {
        // An error means that there is nobody left to say otherwise.
        let _ = self.0.wait_for(Option::is_none).await;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_leads_beyond_the_deadline_though_nobody_has_ended_it() {
        let (lead, now) = (Lead::new(), Instant::now());
        let leading = lead.subscribe();
        assert!(!leading.leads(now));
        lead.until(now + Duration::from_secs(10));
        assert!(leading.leads(now) && leading.leads(now + Duration::from_millis(9_999)));
        assert!(!leading.leads(now + Duration::from_secs(10)));
        lead.until(now + Duration::from_secs(12));
        assert!(leading.leads(now + Duration::from_secs(11)));
        lead.end();
        assert!(!leading.leads(now));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_ends_nothing_and_an_end_does() {
        let lead = Lead::new();
        lead.until(Instant::now());
        let mut leading = lead.subscribe();
        lead.until(Instant::now() + Duration::from_secs(2));
        assert_eq!(leading.ended().now_or_never(), None);
        lead.end();
        assert_eq!(leading.ended().now_or_never(), Some(()));
    }
}
