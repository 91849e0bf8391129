//! Two looks become rows: what each tenant is entitled to at a model, what it gets, and what it waits
//! for. Pure.

use std::collections::BTreeMap;

use super::reading::{AtModel, Class, OfTenant, Reading};

/// Tenants named of those that one waits behind: whoever comes after gets little of what is missing.
const BEHIND_NAMED_MAX: usize = 3;

/// A tenant at a model, between two looks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Row {
    pub(crate) model: String,
    pub(crate) tenant: String,
    pub(crate) weight: f64,
    pub(crate) class: Class,
    pub(crate) running: f64,
    pub(crate) queued: f64,
    /// Its part of the model's time, by the weights of all that want some; `None` where it wants
    /// none.
    pub(crate) entitled: Option<f64>,
    /// Its part of the time that the model computed; `None` where it computed nothing.
    pub(crate) got: Option<f64>,
    pub(crate) tokens_per_second: f64,
    pub(crate) kv_used: f64,
    pub(crate) kv_cached: f64,
    pub(crate) kv_limit: f64,
    pub(crate) waits: Waits,
    /// Calls that a limit refused meanwhile, by the code; of the tenant, at whichever model.
    pub(crate) refused: Vec<(String, f64)>,
}

/// What keeps a tenant's sequences waiting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Waits {
    /// None waits.
    No,
    /// For the tenant's turn, behind these, first of whom others come before, and behind so many
    /// more.
    Behind { named: Vec<String>, others: usize },
    /// Nobody else has anything running: for its own quota of KV blocks, or for blocks and places
    /// that its own sequences hold.
    Itself,
}

/// The rows, busy tenants of each model first.
pub(crate) fn rows(before: &Reading, now: &Reading, seconds: f64) -> Vec<Row> {
    let mut models = BTreeMap::<&str, Vec<Seen<'_>>>::new();
    for (pair @ (model, tenant), at_model) in &now.pairs {
        let old = before.pairs.get(pair).copied().unwrap_or_default();
        let of_tenant = now.tenants.get(tenant).cloned().unwrap_or_default();
        let device_seconds = grown(old.device_seconds, at_model.device_seconds);
        let generated = grown(old.generated, at_model.generated);
        let seen = Seen { tenant, at_model: *at_model, of_tenant, device_seconds, generated };
        models.entry(model).or_default().push(seen);
    }
    let refused = refused(before, now);
    let row = |model: &str, all: &[Seen<'_>], seen: &Seen<'_>| Row {
        model: model.to_owned(),
        tenant: seen.tenant.to_owned(),
        weight: seen.of_tenant.weight,
        class: seen.of_tenant.class,
        running: seen.at_model.running,
        queued: seen.at_model.queued,
        entitled: seen.entitled(all),
        got: seen.got(all),
        tokens_per_second: if seconds > 0.0 { seen.generated / seconds } else { 0.0 },
        kv_used: seen.at_model.kv_used,
        kv_cached: seen.at_model.kv_cached,
        kv_limit: seen.of_tenant.kv_limit,
        waits: seen.waits(all),
        refused: refused.get(seen.tenant).cloned().unwrap_or_default(),
    };
    let mut rows = Vec::new();
    for (model, mut all) in models {
        all.sort_by(|a, b| b.rank().partial_cmp(&a.rank()).unwrap_or(std::cmp::Ordering::Equal));
        rows.extend(all.iter().map(|seen| row(model, &all, seen)));
    }
    rows
}

/// What a counter has grown by. One that began anew has grown by all that it says.
fn grown(before: f64, now: f64) -> f64 {
    if now < before { now } else { now - before }
}

fn refused(before: &Reading, now: &Reading) -> BTreeMap<String, Vec<(String, f64)>> {
    let of_tenant = |(tenant, of_tenant): (&String, &OfTenant)| {
        let old = before.tenants.get(tenant);
        let since = |(code, calls): (&String, &f64)| {
            let old = old.and_then(|old| old.refused.get(code)).copied().unwrap_or(0.0);
            let calls = grown(old, *calls);
            (calls > 0.0).then(|| (code.clone(), calls))
        };
        (tenant.clone(), of_tenant.refused.iter().filter_map(since).collect())
    };
    now.tenants.iter().map(of_tenant).collect()
}

/// A tenant at a model, and how its counters have grown.
struct Seen<'a> {
    tenant: &'a str,
    at_model: AtModel,
    of_tenant: OfTenant,
    device_seconds: f64,
    generated: f64,
}

impl Seen<'_> {
    /// Whether it wants anything, or did meanwhile.
    fn is_active(&self) -> bool {
        self.at_model.running + self.at_model.queued > 0.0 || self.device_seconds > 0.0
    }

    /// By weight among the active of its class; the classes above leave what they do not want.
    fn entitled(&self, all: &[Self]) -> Option<f64> {
        if !self.is_active() {
            return None;
        }
        let active = || all.iter().filter(|seen| seen.is_active());
        if active().any(|seen| seen.of_tenant.class > self.of_tenant.class) {
            return Some(0.0);
        }
        let peers = active().filter(|seen| seen.of_tenant.class == self.of_tenant.class);
        let weights: f64 = peers.map(|seen| seen.of_tenant.weight).sum();
        (weights > 0.0).then(|| self.of_tenant.weight / weights)
    }

    fn got(&self, all: &[Self]) -> Option<f64> {
        let whole: f64 = all.iter().map(|seen| seen.device_seconds).sum();
        (whole > 0.0).then(|| self.device_seconds / whole)
    }

    fn waits(&self, all: &[Self]) -> Waits {
        if self.at_model.queued <= 0.0 {
            return Waits::No;
        }
        let others = all.iter().filter(|seen| seen.tenant != self.tenant);
        let before = |seen: &&Self| {
            seen.at_model.running > 0.0 && seen.of_tenant.class >= self.of_tenant.class
        };
        let mut before: Vec<&Self> = others.filter(before).collect();
        if before.is_empty() {
            return Waits::Itself;
        }
        // Who is of a higher class first, then who holds most for its weight.
        let load = |seen: &Self| seen.at_model.running / seen.of_tenant.weight.max(1.0);
        before.sort_by(|a, b| {
            let rank = |seen: &Self| (seen.of_tenant.class, load(seen));
            rank(b).partial_cmp(&rank(a)).unwrap_or(std::cmp::Ordering::Equal)
        });
        let named = before.iter().take(BEHIND_NAMED_MAX).map(|seen| seen.tenant.to_owned());
        let named: Vec<_> = named.collect();
        Waits::Behind { others: before.len() - named.len(), named }
    }

    /// Who waits first, then who runs most, then who got most.
    const fn rank(&self) -> (f64, f64, f64) {
        (self.at_model.queued, self.at_model.running, self.device_seconds)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::reading::tests::reading, *};

    /// One line for each tenant: name, weight, class, running, queued, device seconds.
    fn look(tenants: &[(&str, u32, &str, u32, u32, f64)]) -> Reading {
        let of_tenant = |(name, weight, class, running, queued, seconds): &(
            &str,
            u32,
            &str,
            u32,
            u32,
            f64,
        )| {
            format!(
                "realm_agent_tenant_weight{{tenant=\"d/{name}\",priority=\"{class}\"}} {weight}\n\
                 realm_engine_tenant_sequences_running{{model=\"d/m\",tenant=\"d/{name}\"}} {running}\n\
                 realm_engine_tenant_sequences_queued{{model=\"d/m\",tenant=\"d/{name}\"}} {queued}\n\
                 realm_engine_tenant_device_seconds_total{{model=\"d/m\",tenant=\"d/{name}\"}} {seconds}\n"
            )
        };
        reading(&tenants.iter().map(of_tenant).collect::<String>())
    }

    fn of<'a>(rows: &'a [Row], tenant: &str) -> &'a Row {
        rows.iter().find(|row| row.tenant == format!("d/{tenant}")).unwrap()
    }

    #[test]
    fn shares_are_by_weight_among_those_that_want_any_and_got_is_of_what_was_computed() {
        let before = look(&[("a", 100, "normal", 0, 0, 5.0), ("b", 300, "normal", 0, 0, 1.0)]);
        let now = look(&[
            ("a", 100, "normal", 1, 0, 5.5),
            ("b", 300, "normal", 4, 2, 2.5),
            ("idle", 1000, "normal", 0, 0, 0.0),
        ]);
        let rows = rows(&before, &now, 2.0);
        assert_eq!(of(&rows, "a").entitled, Some(0.25));
        assert_eq!(of(&rows, "a").got, Some(0.25));
        assert_eq!(of(&rows, "b").got, Some(0.75));
        assert_eq!((of(&rows, "idle").entitled, of(&rows, "idle").got), (None, Some(0.0)));
        assert_eq!(rows[0].tenant, "d/b", "who waits comes first");
    }

    #[test]
    fn who_waits_does_so_behind_those_that_run_and_a_higher_class_comes_first() {
        let now = look(&[
            ("low", 100, "low", 1, 1, 1.0),
            ("a", 100, "normal", 9, 0, 1.0),
            ("b", 300, "normal", 9, 0, 1.0),
            ("high", 1, "high", 1, 0, 1.0),
            ("last", 100, "normal", 0, 5, 0.0),
        ]);
        let rows = rows(&Reading::default(), &now, 1.0);
        let named = |names: &[&str]| names.iter().map(|name| format!("d/{name}")).collect();
        let behind = Waits::Behind { named: named(&["high", "a", "b"]), others: 0 };
        assert_eq!(of(&rows, "last").waits, behind);
        assert_eq!(of(&rows, "low").waits, behind);
        assert_eq!(of(&rows, "low").entitled, Some(0.0), "it has what the others leave");
        assert_eq!(of(&rows, "a").waits, Waits::No);
    }

    #[test]
    fn who_waits_beside_nobody_waits_for_itself() {
        let now = look(&[("a", 100, "normal", 2, 3, 1.0), ("low", 100, "low", 5, 0, 1.0)]);
        assert_eq!(of(&rows(&Reading::default(), &now, 1.0), "a").waits, Waits::Itself);
    }

    #[test]
    fn refusals_since_the_last_look_are_told_and_those_before_are_not() {
        let line = |calls| {
            reading(&format!(
                "realm_agent_generation 1\n\
                 realm_engine_tenant_sequences_running{{model=\"d/m\",tenant=\"d/a\"}} 0\n\
                 realm_gateway_requests_total{{tenant=\"d/a\",code=\"too_many_calls\"}} {calls}\n"
            ))
        };
        let told = |before, now| rows(&line(before), &line(now), 1.0)[0].refused.clone();
        assert_eq!(told(3, 3), []);
        assert_eq!(told(3, 5), [("too_many_calls".to_owned(), 2.0)]);
        assert_eq!(told(3, 1), [("too_many_calls".to_owned(), 1.0)], "the agent began anew");
    }

    proptest! {
        #[test]
        fn shares_add_up_to_one_model(
            tenants in prop::collection::vec((1..1000_u32, 0..3_u32, 0..3_u32, 0..9_u32), 1..9),
        ) {
            let names: Vec<String> = (0..tenants.len()).map(|n| format!("t{n}")).collect();
            let of_tenant = |(name, it): (&'static str, &(u32, u32, u32, u32))| {
                (name, it.0, "normal", it.1, it.2, f64::from(it.3))
            };
            let names: Vec<&'static str> = names.into_iter().map(|name| &*name.leak()).collect();
            let all: Vec<_> = names.into_iter().zip(&tenants).map(of_tenant).collect();
            let rows = rows(&Reading::default(), &look(&all), 1.0);
            for sum in [
                rows.iter().filter_map(|row| row.entitled).sum::<f64>(),
                rows.iter().filter_map(|row| row.got).sum(),
            ] {
                prop_assert!(sum == 0.0 || (sum - 1.0).abs() < 1e-9, "{sum}");
            }
        }
    }
}
