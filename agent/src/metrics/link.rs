//! The agent's end of the link.

use std::time::{SystemTime, UNIX_EPOCH};

use realm_gateway::{Family, FamilyKind, Metrics, MetricsError, Sample};
use realm_link::client::LinkState;
use tokio::sync::watch;

type Read = fn(&LinkState) -> Vec<Sample>;

const FAMILIES: [(&str, &str, FamilyKind, &[&str], Read); 7] = [
    (
        "realm_link_up",
        "Whether an operator listens to this agent, 0 or 1.",
        FamilyKind::Gauge,
        &[],
        |link| vec![Sample::new([], f64::from(u8::from(link.connected.is_some())))],
    ),
    (
        "realm_link_last_heard_timestamp_seconds",
        "When an operator last said something, in seconds since the Unix epoch.",
        FamilyKind::Gauge,
        &[],
        last_heard,
    ),
    (
        "realm_link_accepted_generation",
        "The newest generation that this agent's ledger took.",
        FamilyKind::Gauge,
        &[],
        |link| vec![Sample::new([], link.generation as f64)],
    ),
    (
        "realm_link_slices_epoch",
        "The epoch of the slices of limits that this door spends by, 0 without any.",
        FamilyKind::Gauge,
        &[],
        |link| vec![Sample::new([], link.epoch as f64)],
    ),
    (
        "realm_link_failures",
        "Rounds over all operators since the last good stream.",
        FamilyKind::Gauge,
        &[],
        |link| vec![Sample::new([], f64::from(link.failures))],
    ),
    (
        "realm_link_errors_total",
        "Attempts that failed and streams that ended, by why.",
        FamilyKind::Counter,
        &["reason"],
        errors,
    ),
    (
        "realm_link_unknown_messages_total",
        "Messages of operators that were passed over, of a kind that this agent does not know.",
        FamilyKind::Counter,
        &[],
        |link| vec![Sample::new([], link.unknown as f64)],
    ),
];

/// Lets Prometheus see the link.
pub(crate) fn register(
    state: &watch::Receiver<LinkState>,
    metrics: &Metrics,
) -> Result<(), MetricsError> {
    for (name, help, kind, labels, read) in FAMILIES {
        let state = state.clone();
        let family = Family { name, help, kind, labels };
        metrics.register(family, move || read(&state.borrow()))?;
    }
    Ok(())
}

/// None before the first word: a time that never was is no number.
fn last_heard(link: &LinkState) -> Vec<Sample> {
    let at = link.heard_at.and_then(|heard_at| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
        Some(now.saturating_sub(heard_at.elapsed()).as_secs_f64())
    });
    at.map(|at| Sample::new([], at)).into_iter().collect()
}

fn errors(link: &LinkState) -> Vec<Sample> {
    let errors = link.errors.iter();
    errors.map(|(reason, count)| Sample::new([(*reason).to_owned()], *count as f64)).collect()
}
