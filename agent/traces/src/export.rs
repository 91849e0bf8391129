//! The task that exports: it gathers, sends and gives up, and no call ever waits for it.

use std::time::Duration;

use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use realm_core::trace::Queue;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};

use crate::{client::EXPORT_WAIT, convert};

/// Spans of one request; some hundred kilobytes, where collectors take four megabytes.
const BATCH_SPANS_MAX: usize = 512;

/// How long a batch may wait for more: a person who has just made a call wants to see it.
const GATHER_WAIT: Duration = Duration::from_secs(1);

/// Longest that the end of the process waits for a collector: of the five seconds that an agent's
/// last goodbyes may take, most are left.
const END_WAIT: Duration = Duration::from_secs(2);

/// How often it is said at most that spans are lost. Tenants make them, and not the log.
const TOLD_EVERY: Duration = Duration::from_mins(1);

/// The task, and the way to end it.
#[derive(Debug)]
pub(crate) struct Exporting {
    task: JoinHandle<()>,
    end: oneshot::Sender<()>,
}

impl Exporting {
    pub(crate) fn start(queue: Queue, collector: SpanExporter) -> Self {
        let (end, ended) = oneshot::channel();
        let export = Export { queue, collector, losses: Losses::default() };
        Self { task: tokio::spawn(export.run(ended)), end }
    }

    /// Exports what is there, for as long as that may take.
    pub(crate) async fn end(self) {
        let Self { mut task, end } = self;
        // Fails only when the task has ended by itself.
        let _ = end.send(());
        if timeout(END_WAIT, &mut task).await.is_err() {
            task.abort();
            tracing::warn!("the collector took too long for the last traces");
        }
    }
}

struct Export {
    queue: Queue,
    collector: SpanExporter,
    losses: Losses,
}

impl Export {
    async fn run(mut self, mut ended: oneshot::Receiver<()>) {
        let mut goes_on = true;
        while goes_on {
            let mut batch = Vec::new();
            goes_on = tokio::select! {
                goes_on = gather(&mut self.queue, &mut batch) => goes_on,
                _ = &mut ended => false,
            };
            self.send_all(batch).await;
        }
        // What has come by now, and nothing more.
        self.queue.finished.close();
        while let Some(batch) = next_batch(&mut self.queue) {
            self.send_all(batch).await;
        }
    }

    async fn send_all(&mut self, mut batch: Vec<SpanData>) {
        while !batch.is_empty() {
            let rest = batch.split_off(batch.len().min(BATCH_SPANS_MAX));
            self.send(std::mem::replace(&mut batch, rest)).await;
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let problem = match timeout(EXPORT_WAIT, self.collector.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {EXPORT_WAIT:?}")),
        };
        let traces = self.queue.take_lost();
        self.losses.count(problem.as_ref().map_or(0, |_| spans), traces);
        if let Some(lost) = self.losses.take_due(Instant::now()) {
            let Lost { spans, traces } = lost;
            let problem = problem.unwrap_or_else(|| "more came than it takes".to_owned());
            tracing::warn!(problem, spans, traces, "traces do not reach the collector");
        }
    }
}

/// Waits for a trace, and for what comes soon after it. `false` once nothing can come any more;
/// dropped half-way, what has come is in `batch`.
async fn gather(queue: &mut Queue, batch: &mut Vec<SpanData>) -> bool {
    let Some(first) = queue.finished.recv().await else { return false };
    batch.extend(convert::spans(&first));
    let due = Instant::now() + GATHER_WAIT;
    while batch.len() < BATCH_SPANS_MAX {
        match timeout_at(due, queue.finished.recv()).await {
            Ok(Some(next)) => batch.extend(convert::spans(&next)),
            Ok(None) => return false,
            Err(_) => break,
        }
    }
    true
}

/// What is there, as far as one request holds it.
fn next_batch(queue: &mut Queue) -> Option<Vec<SpanData>> {
    let mut batch = convert::spans(&queue.finished.try_recv().ok()?);
    while batch.len() < BATCH_SPANS_MAX
        && let Ok(next) = queue.finished.try_recv()
    {
        batch.extend(convert::spans(&next));
    }
    Some(batch)
}

/// What did not reach the collector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Lost {
    /// That it did not take.
    spans: u64,
    /// That found no room to wait for it.
    traces: u64,
}

/// What was lost, until it is told.
#[derive(Debug, Default)]
struct Losses {
    untold: Lost,
    told_at: Option<Instant>,
}

impl Losses {
    const fn count(&mut self, spans: u64, traces: u64) {
        self.untold.spans = self.untold.spans.saturating_add(spans);
        self.untold.traces = self.untold.traces.saturating_add(traces);
    }

    /// What is to be told now, if anything is.
    fn take_due(&mut self, now: Instant) -> Option<Lost> {
        let is_due = self.told_at.is_none_or(|told_at| now >= told_at + TOLD_EVERY);
        if self.untold == Lost::default() || !is_due {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_are_told_at_once_and_then_once_a_minute() {
        let (mut losses, now) = (Losses::default(), Instant::now());
        assert_eq!(losses.take_due(now), None);
        losses.count(3, 0);
        assert_eq!(losses.take_due(now), Some(Lost { spans: 3, traces: 0 }));
        losses.count(2, 1);
        losses.count(2, 0);
        assert_eq!(losses.take_due(now + TOLD_EVERY / 2), None);
        assert_eq!(losses.take_due(now + TOLD_EVERY), Some(Lost { spans: 4, traces: 1 }));
        assert_eq!(losses.take_due(now + TOLD_EVERY * 3), None);
    }
}
