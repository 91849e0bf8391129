//! Two looks become rows: what each tenant is entitled to at a model, what it gets, and what it waits
//! for. Pure.
//!
//! Entitlements, waits and quotas are found agent by agent, where tenants meet; a row adds up what
//! is found of its tenant at its model.

use std::collections::BTreeMap;

use super::reading::{AtModel, Class, OfAgent, OfTenant, Reading};

/// Tenants named of those that one waits behind: whoever comes after gets little of what is missing.
const BEHIND_NAMED_MAX: usize = 3;

/// A tenant at a model, between two looks.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Row {
    /// Empty for a tenant that has come to none, but whose calls are refused.
    pub(crate) model: String,
    pub(crate) tenant: String,
    /// 0 where it is not told.
    pub(crate) weight: f64,
    pub(crate) class: Class,
    pub(crate) running: f64,
    pub(crate) queued: f64,
    /// Its part of the model's time, by the weights of all that want some; `None` where it wants
    /// none, or weights are not told. Each agent's time counts by how much it computed, as in `got`.
    pub(crate) entitled: Option<f64>,
    /// Its part of the time that the model computed; `None` where it computed nothing.
    pub(crate) got: Option<f64>,
    pub(crate) tokens_per_second: f64,
    pub(crate) kv_used: f64,
    pub(crate) kv_cached: f64,
    /// At all agents where it has come to the model.
    pub(crate) kv_limit: f64,
    pub(crate) waits: Waits,
    /// Calls that a limit refused meanwhile, by the code; of the tenant, at whichever model.
    pub(crate) refused: Vec<(String, f64)>,
}

impl Row {
    /// Whether it wants anything, or did meanwhile.
    pub(crate) fn is_active(&self) -> bool {
        self.running + self.queued > 0.0 || self.entitled.is_some()
    }
}

/// What keeps a tenant's sequences waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Waits {
    /// None waits.
    #[default]
    No,
    /// For the tenant's turn, behind these, first of whom others come before, and behind so many
    /// more.
    Behind { named: Vec<String>, others: usize },
    /// Nobody else has anything running, and all KV blocks are in use that it may hold.
    Quota,
    /// Nobody else has anything running: for room in the next steps, or blocks and places that its own
    /// sequences hold.
    Itself,
}

/// The rows, busy tenants of each model first, and last who has come to no model.
pub(crate) fn rows(before: &Reading, now: &Reading, seconds: f64) -> Vec<Row> {
    let nothing = OfAgent::default();
    let mut models = BTreeMap::<&str, Vec<Site<'_>>>::new();
    for (address, now) in &now.agents {
        let before = before.agents.get(address).unwrap_or(&nothing);
        for (model, all) in seen(before, now) {
            models.entry(model).or_default().push(Site { all });
        }
    }
    let mut refused = refused(before, now);
    let mut rows = Vec::new();
    for (model, sites) in models {
        let mut of_model = of_model(&sites, seconds);
        for row in &mut of_model {
            model.clone_into(&mut row.model);
            row.refused = refused.get(&row.tenant).cloned().unwrap_or_default();
        }
        rows.extend(of_model);
    }
    refused
        .retain(|tenant, calls| !calls.is_empty() && !rows.iter().any(|row| row.tenant == *tenant));
    rows.extend(refused.into_iter().map(|(tenant, refused)| Row {
        tenant,
        refused,
        ..Row::default()
    }));
    rows
}

/// Who has come to each model of an agent.
fn seen<'a>(before: &OfAgent, now: &'a OfAgent) -> BTreeMap<&'a str, Vec<Seen<'a>>> {
    let mut models = BTreeMap::<_, Vec<_>>::new();
    for (pair @ (model, tenant), at_model) in &now.pairs {
        let old = before.pairs.get(pair).copied().unwrap_or_default();
        let of_tenant = now.tenants.get(tenant).cloned().unwrap_or_default();
        let device_seconds = grown(old.device_seconds, at_model.device_seconds);
        let generated = grown(old.generated, at_model.generated);
        let seen = Seen { tenant, at_model: *at_model, of_tenant, device_seconds, generated };
        models.entry(model.as_str()).or_default().push(seen);
    }
    models
}

/// The rows of one model, from what each agent that has it says.
fn of_model(sites: &[Site<'_>], seconds: f64) -> Vec<Row> {
    let whole: f64 = sites.iter().map(Site::computed).sum();
    let busy = sites.iter().filter(|site| site.is_active()).count().max(1) as f64;
    let mut tenants = BTreeMap::<&str, Sum<'_>>::new();
    for site in sites {
        // Where nothing was computed, each agent that somebody wants something of counts alike.
        let part = if whole > 0.0 { site.computed() / whole } else { 1.0 / busy };
        for seen in &site.all {
            tenants.entry(seen.tenant).or_default().add(seen, &site.all, part);
        }
    }
    let mut sums: Vec<_> = tenants.into_iter().collect();
    sums.sort_by(|(_, a), (_, b)| {
        b.rank().partial_cmp(&a.rank()).unwrap_or(std::cmp::Ordering::Equal)
    });
    sums.into_iter().map(|(tenant, sum)| sum.row(tenant, whole, seconds)).collect()
}

/// What a counter has grown by. One that began anew has grown by all that it says.
fn grown(before: f64, now: f64) -> f64 {
    if now < before { now } else { now - before }
}

/// Calls of each tenant that limits refused meanwhile, at whichever agent.
fn refused(before: &Reading, now: &Reading) -> BTreeMap<String, Vec<(String, f64)>> {
    let mut refused = BTreeMap::<&str, BTreeMap<&str, f64>>::new();
    for (address, now) in &now.agents {
        let before = before.agents.get(address);
        for (tenant, of_tenant) in &now.tenants {
            let old = before.and_then(|before| before.tenants.get(tenant));
            for (code, calls) in &of_tenant.refused {
                let old = old.and_then(|old| old.refused.get(code)).copied().unwrap_or(0.0);
                let calls = grown(old, *calls);
                if calls > 0.0 {
                    *refused.entry(tenant).or_default().entry(code).or_default() += calls;
                }
            }
        }
    }
    let of_tenant = |(tenant, codes): (&str, BTreeMap<&str, f64>)| {
        let codes = codes.into_iter().map(|(code, calls)| (code.to_owned(), calls));
        (tenant.to_owned(), codes.collect())
    };
    refused.into_iter().map(of_tenant).collect()
}

/// A model at one agent: all that have come to it there.
struct Site<'a> {
    all: Vec<Seen<'a>>,
}

impl Site<'_> {
    /// Seconds.
    fn computed(&self) -> f64 {
        self.all.iter().map(|seen| seen.device_seconds).sum()
    }

    fn is_active(&self) -> bool {
        self.all.iter().any(Seen::is_active)
    }
}

/// A tenant at a model, over all agents.
#[derive(Default)]
struct Sum<'a> {
    at_model: AtModel,
    weight: f64,
    class: Class,
    kv_limit: f64,
    device_seconds: f64,
    generated: f64,
    entitled: Option<f64>,
    /// Those that it waits behind at some agent.
    behind: Vec<&'a str>,
    /// It waits at some agent where nobody else runs anything, for its quota of KV blocks.
    is_full: bool,
}

impl<'a> Sum<'a> {
    /// Adds what is seen at an agent among `all` there, which did `part` of what was computed.
    fn add(&mut self, seen: &Seen<'a>, all: &[Seen<'a>], part: f64) {
        let OfTenant { weight, class, kv_limit, refused: _, failures: _, held_back: _ } =
            &seen.of_tenant;
        if *weight > 0.0 {
            (self.weight, self.class) = (*weight, *class);
        }
        let AtModel { running, queued, kv_used, kv_cached, device_seconds: _, generated: _ } =
            seen.at_model;
        self.at_model.running += running;
        self.at_model.queued += queued;
        self.at_model.kv_used += kv_used;
        self.at_model.kv_cached += kv_cached;
        self.kv_limit += kv_limit;
        self.device_seconds += seen.device_seconds;
        self.generated += seen.generated;
        if let Some(entitled) = seen.entitled(all) {
            *self.entitled.get_or_insert_default() += entitled * part;
        }
        if queued > 0.0 {
            let behind = seen.behind(all);
            self.is_full |= behind.is_empty() && *kv_limit > 0.0 && kv_used >= *kv_limit;
            for tenant in behind {
                if !self.behind.contains(&tenant) {
                    self.behind.push(tenant);
                }
            }
        }
    }

    fn waits(&self) -> Waits {
        if self.at_model.queued <= 0.0 {
            return Waits::No;
        }
        if self.behind.is_empty() {
            return if self.is_full { Waits::Quota } else { Waits::Itself };
        }
        let named = self.behind.iter().take(BEHIND_NAMED_MAX).map(|&tenant| tenant.to_owned());
        let named: Vec<_> = named.collect();
        Waits::Behind { others: self.behind.len() - named.len(), named }
    }

    /// Who waits first, then who runs most, then who got most.
    const fn rank(&self) -> (f64, f64, f64) {
        (self.at_model.queued, self.at_model.running, self.device_seconds)
    }

    /// The row, for a look of so many seconds in which the model computed for `whole` ones.
    fn row(self, tenant: &str, whole: f64, seconds: f64) -> Row {
        Row {
            model: String::new(),
            tenant: tenant.to_owned(),
            weight: self.weight,
            class: self.class,
            running: self.at_model.running,
            queued: self.at_model.queued,
            entitled: self.entitled,
            got: (whole > 0.0).then(|| self.device_seconds / whole),
            tokens_per_second: if seconds > 0.0 { self.generated / seconds } else { 0.0 },
            kv_used: self.at_model.kv_used,
            kv_cached: self.at_model.kv_cached,
            kv_limit: self.kv_limit,
            waits: self.waits(),
            refused: Vec::new(),
        }
    }
}

/// A tenant at a model of one agent, and how its counters have grown.
struct Seen<'a> {
    tenant: &'a str,
    at_model: AtModel,
    of_tenant: OfTenant,
    device_seconds: f64,
    generated: f64,
}

impl<'a> Seen<'a> {
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

    /// Those that run in front of it: who is of a higher class first, then who holds most for its
    /// weight.
    fn behind(&self, all: &[Self]) -> Vec<&'a str> {
        let others = all.iter().filter(|seen| seen.tenant != self.tenant);
        let before = |seen: &&Self| {
            seen.at_model.running > 0.0 && seen.of_tenant.class >= self.of_tenant.class
        };
        let mut before: Vec<&Self> = others.filter(before).collect();
        before.sort_by(|a, b| {
            let load = |seen: &Self| seen.at_model.running / seen.of_tenant.weight.max(1.0);
            let rank = |seen: &Self| (seen.of_tenant.class, load(seen));
            rank(b).partial_cmp(&rank(a)).unwrap_or(std::cmp::Ordering::Equal)
        });
        before.into_iter().map(|seen| seen.tenant).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::reading::tests::reading, *};

    /// Name, weight, class, running, queued, device seconds.
    type Line<'a> = (&'a str, u32, &'a str, u32, u32, f64);

    /// What an agent says of tenants that hold 40 KV blocks of 64 each.
    fn text(tenants: &[Line<'_>]) -> String {
        let of_tenant = |(name, weight, class, running, queued, seconds): &Line<'_>| {
            let at_model = format!("{{model=\"d/m\",tenant=\"d/{name}\"}}");
            format!(
                "realm_agent_tenant_weight{{tenant=\"d/{name}\",priority=\"{class}\"}} {weight}\n\
                 realm_agent_tenant_kv_blocks_limit{{tenant=\"d/{name}\"}} 64\n\
                 realm_engine_tenant_kv_blocks_used{at_model} 40\n\
                 realm_engine_tenant_sequences_running{at_model} {running}\n\
                 realm_engine_tenant_sequences_queued{at_model} {queued}\n\
                 realm_engine_tenant_device_seconds_total{at_model} {seconds}\n"
            )
        };
        tenants.iter().map(of_tenant).collect()
    }

    fn look(tenants: &[Line<'_>]) -> Reading {
        reading(&[&text(tenants)])
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
    fn who_waits_does_so_behind_those_that_run_at_the_same_agent() {
        let first = text(&[("a", 100, "normal", 1, 2, 3.0)]);
        let second = text(&[("a", 100, "normal", 1, 0, 0.5), ("b", 100, "normal", 4, 0, 0.5)]);
        let found = rows(&Reading::default(), &reading(&[&first, &second]), 1.0);
        let a = of(&found, "a");
        assert_eq!(a.waits, Waits::Itself, "b runs elsewhere");
        assert_eq!((a.running, a.queued, a.kv_used, a.kv_limit), (2.0, 2.0, 80.0, 128.0));
        assert_eq!((a.got, a.entitled), (Some(0.875), Some(0.875)), "all of the one, half of one");
        let b = of(&found, "b");
        assert_eq!((b.kv_limit, b.entitled), (64.0, Some(0.125)), "it has come to one agent");
    }

    #[test]
    fn a_quota_is_reached_at_one_agent_whatever_is_free_at_another() {
        let full = text(&[("a", 100, "normal", 1, 2, 3.0)]).replace("} 40", "} 64");
        let free = text(&[("a", 100, "normal", 1, 0, 0.5)]);
        let found = rows(&Reading::default(), &reading(&[&full, &free]), 1.0);
        assert_eq!(of(&found, "a").waits, Waits::Quota);
    }

    #[test]
    fn who_has_come_to_no_model_is_there_where_its_calls_are_refused() {
        let line = |calls: u32| {
            let line = "realm_gateway_requests_total{tenant=\"d/a\",code=\"too_many_tokens\"}";
            let text = format!("{line} {calls}\n");
            reading(&[&text, &text])
        };
        assert_eq!(rows(&line(3), &line(3), 1.0), []);
        let refused = Row {
            tenant: "d/a".to_owned(),
            refused: vec![("too_many_tokens".to_owned(), 4.0)],
            ..Row::default()
        };
        assert_eq!(rows(&line(3), &line(5), 1.0), [refused]);
    }

    #[test]
    fn refusals_since_the_last_look_are_told_and_those_before_are_not() {
        let line = |calls| {
            reading(&[&format!(
                "realm_engine_tenant_sequences_running{{model=\"d/m\",tenant=\"d/a\"}} 0\n\
                 realm_gateway_requests_total{{tenant=\"d/a\",code=\"too_many_calls\"}} {calls}\n"
            )])
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
            cut in any::<prop::sample::Index>(),
        ) {
            let names: Vec<String> = (0..tenants.len()).map(|n| format!("t{n}")).collect();
            let all: Vec<Line<'_>> = names
                .iter()
                .zip(&tenants)
                .map(|(name, it)| (name.as_str(), it.0, "normal", it.1, it.2, f64::from(it.3)))
                .collect();
            let (first, second) = all.split_at(cut.index(all.len()));
            let seen = reading(&[&text(first), &text(second)]);
            let rows = rows(&Reading::default(), &seen, 1.0);
            for sum in [
                rows.iter().filter_map(|row| row.entitled).sum::<f64>(),
                rows.iter().filter_map(|row| row.got).sum(),
            ] {
                prop_assert!(sum == 0.0 || (sum - 1.0).abs() < 1e-9, "{sum}");
            }
        }
    }
}
