//! Whoever plans steps: the engine's scheduler, or one of the orders that it is compared with.

use std::time::Instant;

use realm_core::desired::Sha256;
use realm_kernels::backend::KvType;

use super::{Order, baseline::Baseline};
use crate::{
    batch::{Batch, SequenceId},
    kv::{BlockPool, Layout, Namespace, Secret},
    load::BLOCK_TOKENS,
    scheduler::{Limits, Prices, Scheduler, Submission},
};

/// Rows of one call in a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    pub(super) call: SequenceId,
    pub(super) count: usize,
    /// Tokens of the call that were computed before.
    pub(super) past: usize,
    pub(super) gives_token: bool,
}

pub(super) trait Planner {
    fn submit(&mut self, submission: Submission);
    /// Plans the next step into `rows`.
    fn plan(&mut self, now: Instant, rows: &mut Vec<Row>);
    /// Takes note that the step has been computed.
    fn commit(&mut self);
    /// Gives a call its next token; says whether it was the last.
    fn advance(&mut self, call: SequenceId) -> bool;
    fn pool(&self) -> &BlockPool;
}

pub(super) fn of(order: Order, limits: Limits, blocks: u32, prices: Prices) -> Box<dyn Planner> {
    let namespace = Namespace::new(Secret([0; 32]), Sha256([0; 32]), KvType::F16);
    let layout = Layout::of_one_kind(BLOCK_TOKENS, None);
    let pool = BlockPool::new(blocks, layout, namespace);
    match order {
        Order::Arrival | Order::TokenCounters => Box::new(Baseline::new(order, limits, pool)),
        Order::Shares => Box::new(Shares {
            scheduler: Scheduler::new(limits, pool, prices),
            batch: Batch::default(),
        }),
    }
}

struct Shares {
    scheduler: Scheduler,
    batch: Batch,
}

impl Planner for Shares {
    fn submit(&mut self, submission: Submission) {
        // A call that the scheduler refuses is one that a simulation should not have made.
        let refused = self.scheduler.submit(submission).err();
        assert_eq!(refused, None, "simulated calls fit the engine");
    }

    fn plan(&mut self, now: Instant, rows: &mut Vec<Row>) {
        self.scheduler.plan_batch(now, &mut self.batch);
        let mut outputs = self.batch.outputs.iter().peekable();
        rows.extend(self.batch.spans.iter().map(|span| {
            let last = span.first_row + span.count - 1;
            let gives_token = outputs.next_if(|&&row| row as usize == last).is_some();
            Row { call: span.sequence, count: span.count, past: span.past, gives_token }
        }));
    }

    fn commit(&mut self) {
        self.scheduler.commit();
    }

    fn advance(&mut self, call: SequenceId) -> bool {
        let is_over = self.scheduler.advance(call, 0).is_some();
        if is_over {
            self.scheduler.end(call);
        }
        is_over
    }

    fn pool(&self) -> &BlockPool {
        self.scheduler.pool()
    }
}
