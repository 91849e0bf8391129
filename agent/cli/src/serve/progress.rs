//! What `realm serve` says while it converges: each change once, on standard error.

use std::collections::BTreeMap;

use realm_core::report::{self, Failure, ModelPhase, Phase, Report};
use tokio::sync::{mpsc, watch};

use super::state::{Change, ChangeKind, Notice};
use crate::output;

/// Tells until both channels are gone.
pub(crate) async fn tell(mut report: watch::Receiver<Report>, mut notices: mpsc::Receiver<Notice>) {
    let mut told = BTreeMap::new();
    loop {
        tokio::select! {
            Ok(()) = report.changed() => {
                for (item, line) in lines(&report.borrow_and_update()) {
                    if told.insert(item.clone(), line.clone()).as_ref() != Some(&line) {
                        output::note(format!("{item}: {line}"));
                    }
                }
            }
            Some(notice) = notices.recv() => {
                if let Some(line) = notice_line(&notice) {
                    output::note(line);
                }
            }
            else => return,
        }
    }
}

fn lines(report: &Report) -> Vec<(String, String)> {
    let Report { generation: _, models, tenants, pipelines } = report;
    let models = models.iter().map(|m| (format!("model {}", m.name), model_line(&m.phase)));
    let tenants = tenants.iter().map(|t| (format!("tenant {}", t.name), phase_line(&t.phase)));
    let pipelines =
        pipelines.iter().map(|p| (format!("pipeline {}", p.name), phase_line(&p.phase)));
    models.chain(tenants).chain(pipelines).collect()
}

fn model_line(phase: &ModelPhase) -> String {
    match phase {
        ModelPhase::Pending => "pending".to_owned(),
        // In tenths, so that a long download says something now and then and not all the time.
        ModelPhase::Fetching { bytes_done, bytes_total: Some(total) } if *total > 0 => {
            let tenths = bytes_done.saturating_mul(10) / total;
            format!("fetching, {tenths}0% of {} MB", total / 1_000_000)
        }
        ModelPhase::Fetching { .. } => "fetching".to_owned(),
        ModelPhase::Loading => "loading".to_owned(),
        ModelPhase::Ready => "ready".to_owned(),
        ModelPhase::Failed(failure) => failure_line(failure),
    }
}

fn phase_line(phase: &Phase) -> String {
    match phase {
        Phase::Pending => "pending".to_owned(),
        Phase::Ready => "ready".to_owned(),
        Phase::Failed(failure) => failure_line(failure),
    }
}

fn failure_line(Failure { reason, message }: &Failure) -> String {
    format!("failed, {reason}: {message}")
}

fn notice_line(notice: &Notice) -> Option<String> {
    match notice {
        Notice::Problem(problem) => Some(format!("{problem}")),
        Notice::Solved(problem) => Some(format!("solved: {problem}")),
        Notice::Current { generation } => {
            tracing::info!(generation, "the folder has been read");
            None
        }
        Notice::Accepted(Change { id: (kind, name), kind: change, file }) => {
            let kind = kind.to_string().to_lowercase();
            let change = match change {
                ChangeKind::Added => format!("added in {file}"),
                ChangeKind::Changed => format!("changed in {file}"),
                ChangeKind::Removed => format!("removed from {file}"),
            };
            Some(format!("{kind} {name}: accepted, {change}"))
        }
        Notice::NotAccepted(error) => Some(format!("not accepted: {}", report::chain(error))),
        Notice::NotKept(error) => Some(format!("not kept for the next start: {error}")),
        Notice::Unwatched(error) => {
            Some(format!("the folder cannot be watched and is read every second: {error}"))
        }
    }
}
