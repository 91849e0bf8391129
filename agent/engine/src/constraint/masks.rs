//! Masks, computed on threads of their own while the forward pass computes logits.

use std::{
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use realm_core::name::TenantName;
use realm_grammar::{Grammar, Mask, Matcher, MatcherError, STACK_BYTES};

use super::places::{PLACES_MAX, Place};
use crate::{batch::SequenceId, turns::Turns};

/// Threads: a second one keeps a grammar whose masks take their longest, some twenty milliseconds,
/// from holding up the others. Most take less than a tenth of one.
const THREADS: usize = 2;

/// What an answer begins with.
pub(crate) enum Begin {
    /// From the start.
    Grammar(Arc<Grammar>, Place),
    /// Behind the tokens that it was resumed with.
    Progress(Box<Progress>),
}

/// How far an answer is in its grammar. It has its place for as long as there is anything of it.
pub(crate) struct Progress {
    matcher: Matcher,
    _place: Place,
}

impl Progress {
    pub(super) const fn new(matcher: Matcher, place: Place) -> Self {
        Self { matcher, _place: place }
    }
}

/// A mask to be computed.
struct Asked {
    id: SequenceId,
    of: Of,
}

enum Of {
    First(Begin),
    /// Of the next token, behind this one.
    Next(Box<Progress>, u32),
}

/// A mask, and where its sequence goes on.
pub(crate) struct Computed {
    pub(crate) id: SequenceId,
    pub(crate) progress: Box<Progress>,
    pub(crate) mask: Result<Mask, MatcherError>,
}

/// The masks of one engine. Its threads start with the first sequence that needs one, and end with
/// it.
#[derive(Default)]
pub(crate) struct Masks {
    threads: Option<Threads>,
    /// Masks that were asked for and have not come.
    asked: usize,
}

struct Threads {
    turns: Arc<Turns<Asked>>,
    computed: Receiver<Computed>,
}

impl Masks {
    /// Asks for the first mask of a sequence. `false` if nobody will compute it.
    pub(crate) fn begin(&mut self, id: SequenceId, tenant: &TenantName, begin: Begin) -> bool {
        if self.threads.is_none() {
            match Threads::start() {
                Ok(threads) => self.threads = Some(threads),
                Err(error) => {
                    tracing::error!(%error, "the threads that compute masks do not start");
                    return false;
                }
            }
        }
        self.ask(tenant, Asked { id, of: Of::First(begin) })
    }

    /// Asks for the mask behind `token`.
    pub(crate) fn next(
        &mut self,
        id: SequenceId,
        tenant: &TenantName,
        progress: Box<Progress>,
        token: u32,
    ) -> bool {
        self.ask(tenant, Asked { id, of: Of::Next(progress, token) })
    }

    fn ask(&mut self, tenant: &TenantName, asked: Asked) -> bool {
        let Some(threads) = &self.threads else { return false };
        let is_asked = threads.turns.push(tenant, asked).is_ok();
        self.asked += usize::from(is_asked);
        is_asked
    }

    /// Whether any will come, be it for a sequence that has ended.
    pub(crate) const fn are_awaited(&self) -> bool {
        self.asked > 0
    }

    /// A mask that is there, or comes within `wait`.
    pub(crate) fn take(&mut self, wait: Duration) -> Option<Computed> {
        if self.asked == 0 {
            return None;
        }
        let computed = self.threads.as_ref()?.computed.recv_timeout(wait).ok()?;
        self.asked -= 1;
        Some(computed)
    }
}

impl Threads {
    fn start() -> std::io::Result<Self> {
        // Each answer asks for one at a time, so neither is ever full.
        let turns = Arc::new(Turns::new(PLACES_MAX));
        let (sender, computed) = sync_channel(PLACES_MAX.all);
        // Before the first one starts: if the second does not, dropping this ends the first.
        let threads = Self { turns, computed };
        for _ in 0..THREADS {
            let (turns, sender) = (threads.turns.clone(), sender.clone());
            thread::Builder::new()
                .name("realm-masks".to_owned())
                .stack_size(STACK_BYTES)
                .spawn(move || work(&turns, &sender))?;
        }
        Ok(threads)
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.turns.close();
    }
}

/// Computes until nobody asks any more, or takes what was computed.
fn work(turns: &Turns<Asked>, sender: &SyncSender<Computed>) {
    while let Some(Asked { id, of }) = turns.pop() {
        let (mut progress, accepted) = match of {
            Of::First(Begin::Grammar(grammar, place)) => {
                (Box::new(Progress::new(grammar.matcher(), place)), Ok(()))
            }
            Of::First(Begin::Progress(progress)) => (progress, Ok(())),
            Of::Next(mut progress, token) => {
                let accepted = progress.matcher.accept(token);
                (progress, accepted)
            }
        };
        let mask = accepted.and_then(|()| progress.matcher.mask());
        if sender.send(Computed { id, progress, mask }).is_err() {
            return;
        }
    }
}
