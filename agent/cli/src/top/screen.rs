//! Rows as lines for people, and as JSON. Pure.

use serde_json::{Value, json};

use super::rows::{Row, Waits};
use crate::table::Table;

const COLUMNS: [&str; 10] = [
    "TENANT",
    "MODEL",
    "RUNS",
    "WAITS",
    "ENTITLED",
    "GOT",
    "TOKENS/S",
    "KV BLOCKS",
    "WAITS FOR",
    "LIMITS",
];

pub(super) fn table(rows: &[Row]) -> Table<{ COLUMNS.len() }> {
    let mut table = Table::headed(COLUMNS);
    for row in rows {
        table.add([
            row.tenant.clone(),
            row.model.clone(),
            row.running.to_string(),
            row.queued.to_string(),
            row.entitled.map_or_else(String::new, percent),
            row.got.map_or_else(String::new, percent),
            format!("{:.1}", row.tokens_per_second),
            blocks(row),
            waits(&row.waits).unwrap_or_default(),
            limits(&row.refused),
        ]);
    }
    table
}

pub(crate) fn percent(part: f64) -> String {
    format!("{:.0}%", part * 100.0)
}

/// Used of those that it may hold, and what it keeps besides; nothing of who has come to no model.
fn blocks(row: &Row) -> String {
    let Row { model, kv_used, kv_cached, kv_limit, .. } = row;
    if model.is_empty() {
        return String::new();
    }
    format!("{kv_used}+{kv_cached}/{kv_limit}")
}

/// Behind whom a tenant waits; `None` where it does not.
pub(crate) fn waits(waits: &Waits) -> Option<String> {
    match waits {
        Waits::No => None,
        Waits::Quota => Some("its own quota of KV blocks".to_owned()),
        Waits::Itself => Some("room in the next steps".to_owned()),
        Waits::Behind { named, others: 0 } => Some(named.join(", ")),
        Waits::Behind { named, others } => Some(format!("{} and {others} more", named.join(", "))),
    }
}

/// What limits refused.
pub(crate) fn limits(refused: &[(String, f64)]) -> String {
    let refused = refused.iter().map(|(code, calls)| format!("{code} {calls}"));
    refused.collect::<Vec<_>>().join(", ")
}

pub(super) fn json(rows: &[Row]) -> Value {
    rows.iter().map(object).collect()
}

fn object(row: &Row) -> Value {
    let Row {
        model,
        tenant,
        weight,
        class,
        running,
        queued,
        entitled,
        got,
        tokens_per_second,
        kv_used,
        kv_cached,
        kv_limit,
        waits: waits_for,
        refused,
    } = row;
    let behind = match waits_for {
        Waits::Behind { named, .. } => named.as_slice(),
        Waits::No | Waits::Quota | Waits::Itself => &[],
    };
    let is_told = *weight > 0.0;
    json!({
        "model": (!model.is_empty()).then_some(model),
        "tenant": tenant,
        "weight": is_told.then_some(weight),
        "priority": is_told.then_some(class.as_str()),
        "running": running,
        "queued": queued,
        "entitled": entitled,
        "got": got,
        "tokens_per_second": tokens_per_second,
        "kv_blocks_used": kv_used,
        "kv_blocks_cached": kv_cached,
        "kv_blocks_limit": kv_limit,
        "waits_for": waits(waits_for),
        "behind": behind,
        "refused": refused.iter().cloned().collect::<std::collections::BTreeMap<_, _>>(),
    })
}
