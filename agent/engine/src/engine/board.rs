//! What the handle and the thread both see: how busy the engine is, and who has sequences in it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use realm_core::{
    books::{Books, nanoseconds},
    engine::{EngineLoad, Ledger, TenantLoad, Wait},
    name::{ModelName, TenantName},
    refusal::Refusal,
};

use tokio::sync::watch;

use super::figures::{Figures, Held};
use crate::{
    load::RUNNING_MAX,
    scheduler::{BUSY_RETRY_MS, Scheduler},
};

/// Sequences one tenant may have waiting and running in one engine: as many as could run if it
/// were alone, so that sixteen tenants that flood do not fill the queue for the others.
const OPEN_PER_TENANT_MAX: usize = RUNNING_MAX;

#[derive(Debug, Default)]
pub(super) struct Board {
    state: Mutex<State>,
    failed: watch::Sender<bool>,
}

#[derive(Debug, Default)]
struct State {
    load: EngineLoad,
    /// Sequences that are on their way to the thread.
    on_the_way: u32,
    open: HashMap<TenantName, usize>,
    /// Of tenants that have called, until they are forgotten.
    figures: HashMap<TenantName, Arc<Figures>>,
    books: Books,
    /// Since when nobody wants anything, where that is not in the books yet.
    idle_since: Option<Instant>,
    draining: bool,
}

/// What the thread has to tell besides its scheduler's numbers.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Sequences that have reached the scheduler.
    pub(super) arrived: u32,
    pub(super) failed: bool,
    /// What has been used since the last news.
    pub(super) books: Books,
    /// Where there is nothing to do, from when on.
    pub(super) idle_since: Option<Instant>,
}

impl News {
    /// Takes out what has been told; what is next to tell is mostly of the same tenants.
    pub(super) fn clear(&mut self) {
        let Self { arrived, failed, books, idle_since } = self;
        (*arrived, *failed, *idle_since) = (0, false, None);
        books.clear();
    }
}

impl Ledger for Board {
    fn books(&self) -> Books {
        Self::books(self)
    }

    fn forget(&self, tenant: &TenantName) {
        Self::forget(self, tenant);
    }
}

impl Board {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is plain numbers, each written whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn drain(&self) {
        self.state().draining = true;
    }

    /// Becomes `true` when nothing more will be served.
    pub(super) fn failed(&self) -> watch::Receiver<bool> {
        self.failed.subscribe()
    }

    /// Shows that nothing more will be served.
    pub(super) fn fail(&self) {
        let mut state = self.state();
        state.on_the_way = 0;
        state.idle_since = None;
        state.load = EngineLoad {
            sequences_queued: 0,
            sequences_running: 0,
            kv_blocks_used: 0,
            failed: true,
            ..state.load
        };
        for figures in state.figures.values() {
            figures.show(Held::default(), Duration::ZERO);
        }
        drop(state);
        // Told last: whoever hears of it looks here.
        self.failed.send_replace(true);
    }

    /// Counts a sequence in, if its tenant may have another. Gives where else to count it.
    pub(super) fn enter(
        &self,
        tenant: &TenantName,
        model: &ModelName,
    ) -> Result<Arc<Figures>, Refusal> {
        let mut state = self.state();
        if state.load.failed {
            let reason = "it failed and serves no more".to_owned();
            return Err(Refusal::ModelNotReady { model: model.to_string(), reason });
        }
        if state.draining {
            return Err(Refusal::Draining);
        }
        let open = state.open.entry(tenant.clone()).or_default();
        if *open >= OPEN_PER_TENANT_MAX {
            return Err(Refusal::Busy { retry_after_ms: BUSY_RETRY_MS });
        }
        *open += 1;
        state.on_the_way += 1;
        Ok(state.figures.entry(tenant.clone()).or_default().clone())
    }

    /// Counts out a sequence that never reached the thread.
    pub(super) fn turn_back(&self, tenant: &TenantName) {
        let mut state = self.state();
        state.on_the_way = state.on_the_way.saturating_sub(1);
        drop(state);
        self.leave(tenant);
    }

    /// Counts out a sequence that has ended.
    pub(super) fn leave(&self, tenant: &TenantName) {
        let mut state = self.state();
        if let Some(open) = state.open.get_mut(tenant) {
            *open -= 1;
            if *open == 0 {
                state.open.remove(tenant);
            }
        }
    }

    /// Shows the scheduler's numbers and what has been used.
    pub(super) fn publish(&self, scheduler: &Scheduler, news: &News) {
        let News { arrived, failed, ref books, idle_since } = *news;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let pool = scheduler.pool();
        let layout = pool.layout();
        let totals = scheduler.totals();
        let mut state = self.state();
        state.on_the_way -= arrived;
        state.books.absorb(books);
        state.books.block_ns = totals.block_ns;
        state.idle_since = idle_since;
        state.load = EngineLoad {
            sequences_queued: count(scheduler.queued()),
            sequences_running: count(scheduler.running()),
            kv_blocks_used: count(layout.in_all_layers(pool.used())),
            kv_blocks_cached: count(layout.whole_blocks(pool.idle())),
            kv_blocks_total: count(pool.in_all_layers()),
            prompt_tokens_total: totals.prompt,
            cached_tokens_total: totals.cached,
            generated_tokens_total: totals.generated,
            failed,
        };
        drop(state);
        if failed {
            self.failed.send_replace(true);
        }
    }

    /// Books the end of a time in which nobody wanted anything.
    pub(super) fn wake(&self, idle_ns: u64) {
        let mut state = self.state();
        state.idle_since = None;
        state.books.time.idle_ns = state.books.time.idle_ns.saturating_add(idle_ns);
    }

    /// Who has used how much. Of an engine that is idle the time until now is idle time.
    pub(super) fn books(&self) -> Books {
        let state = self.state();
        let mut books = state.books.clone();
        if let Some(since) = state.idle_since {
            let idle_ns = &mut books.time.idle_ns;
            *idle_ns = idle_ns.saturating_add(nanoseconds(since.elapsed()));
        }
        books
    }

    /// Shows what every tenant holds, so long after it was shown the last time.
    pub(super) fn show_tenants(&self, scheduler: &Scheduler, since_last: Duration) {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let pool = scheduler.pool();
        let layout = pool.layout();
        for (tenant, figures) in &self.state().figures {
            let held = Held {
                running: count(scheduler.running_of(tenant)),
                kv_blocks_used: count(layout.in_all_layers(pool.used_by(tenant))),
                kv_blocks_cached: count(layout.whole_blocks(pool.idle_of(tenant))),
                waits_for_own_blocks: scheduler.waits_for_own_blocks(tenant),
                kept_back: scheduler.kept_back(tenant, figures.followed()),
            };
            figures.show(held, since_last);
        }
    }

    pub(super) fn tenants(&self) -> Vec<(TenantName, TenantLoad)> {
        let state = self.state();
        let load = |(tenant, figures): (&TenantName, &Arc<Figures>)| {
            let open = state.open.get(tenant).copied().unwrap_or(0);
            (tenant.clone(), figures.load(open))
        };
        state.figures.iter().map(load).collect()
    }

    pub(super) fn take_waits(&self) -> Vec<(TenantName, Wait)> {
        let mut waits = Vec::new();
        for (tenant, figures) in &self.state().figures {
            waits.extend(figures.take_waits().map(|wait| (tenant.clone(), wait)));
        }
        waits
    }

    pub(super) fn forget(&self, tenant: &TenantName) {
        let mut state = self.state();
        state.figures.remove(tenant);
        state.books.forget(tenant);
    }

    pub(super) fn load(&self) -> EngineLoad {
        let state = self.state();
        let sequences_queued = state.load.sequences_queued + state.on_the_way;
        EngineLoad { sequences_queued, ..state.load }
    }
}
