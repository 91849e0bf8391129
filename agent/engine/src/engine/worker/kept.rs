//! Prefixes that somebody wants kept, for as long as that somebody is there.

use std::{
    sync::{Weak, mpsc::SyncSender},
    time::Instant,
};

use realm_core::{books::Way, name::TenantName};

use super::Worker;
use crate::{constraint::places::Place, engine::Command, scheduler, turns::Limits};

/// As many as sequences run at once, and for a tenant as many as it has calls where nobody says
/// otherwise: one for each of them. All are looked at in every step, which costs less than a
/// microsecond.
pub(in crate::engine) const PLACES_MAX: Limits =
    Limits { all: crate::load::RUNNING_MAX, of_tenant: 16 };

/// A prefix on its way to the thread.
pub(in crate::engine) struct Keep {
    pub(in crate::engine) keep: scheduler::Keep,
    pub(in crate::engine) pinned: Pinned,
}

/// What the thread keeps of one.
pub(in crate::engine) struct Pinned {
    pub(in crate::engine) way: Way,
    /// Gone when nobody wants it any more.
    pub(in crate::engine) wanted: Weak<Interest>,
    /// Of prefixes and of their blocks. They are given back when the thread has let go, so that no
    /// more commands are on their way than there are places.
    pub(in crate::engine) places: [Place; 2],
}

impl Pinned {
    pub(super) fn tenant(&self) -> &TenantName {
        let [place, _] = &self.places;
        place.tenant()
    }
}

/// Held by whoever wants a prefix, or an adapter. A thread that sleeps is woken by its end.
pub(in crate::engine) struct Interest(pub(in crate::engine) Weak<SyncSender<Command>>);

impl Drop for Interest {
    fn drop(&mut self) {
        // A thread with a full queue does not sleep, and one that is gone has let go.
        let _ = self.0.upgrade().map(|commands| commands.try_send(Command::LetGo));
    }
}

impl Worker {
    pub(super) fn keep(&mut self, Keep { keep, pinned }: Keep) {
        if pinned.wanted.strong_count() == 0 {
            // Its hashes are work that nobody wants any more.
            return;
        }
        let id = keep.id;
        self.scheduler.keep(keep, Instant::now());
        self.book_blocks();
        self.kept.insert(id, pinned);
    }

    /// Lets go of those that nobody wants any more.
    pub(super) fn drop_unwanted(&mut self) {
        self.drop_kept(|pinned| pinned.wanted.strong_count() == 0);
    }

    /// Lets go of all, whoever wants them: there is no memory any more to keep them in, and nobody
    /// pays for it.
    pub(super) fn drop_all_kept(&mut self) {
        self.drop_kept(|_| true);
    }

    fn drop_kept(&mut self, is_unwanted: impl Fn(&Pinned) -> bool) {
        while let Some(id) =
            self.kept.iter().find(|(_, pinned)| is_unwanted(pinned)).map(|(id, _)| *id)
        {
            self.scheduler.let_go(id, Instant::now());
            self.book_blocks();
            self.kept.remove(&id);
        }
    }
}
