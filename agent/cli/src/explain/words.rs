//! What is known of an object, in sentences. Pure.

use std::collections::BTreeSet;

use realm_crds::{
    TenantSpec,
    tenant::{Limits, LimitsMode, Totals},
};

use crate::{
    conditions::{Said, is_true},
    manifests::one_line,
    top::{
        reading::SHADOWED,
        rows::{Row, Waits},
        screen::{limits, percent, waits},
    },
};

/// What a line is about, and the sentence.
fn line(about: &str, sentence: impl AsRef<str>) -> String {
    one_line(&format!("{about:<11} {}", sentence.as_ref()))
}

/// What a tenant's spec asks for.
pub(super) fn asked(name: &str, spec: &TenantSpec) -> Vec<String> {
    let TenantSpec { weight, priority, suspended, limits, limits_mode, cache, models, .. } = spec;
    let Limits {
        requests_per_minute,
        input_tokens_per_minute,
        output_tokens_per_minute,
        calls,
        context,
        output_tokens,
        kv_blocks,
        program: _,
    } = limits;
    let answer = output_tokens.map_or_else(String::new, |max| format!(" and {max} of answer"));
    let beyond = match limits_mode {
        LimitsMode::Enforce => "what is beyond is refused",
        LimitsMode::Shadow => "what is beyond is counted and served",
    };
    let mut lines = vec![line("tenant", name)];
    if *suspended {
        lines.push(line("suspended", "every call is refused until `realm tenant resume`"));
    }
    lines.push(line("weight", format!("{weight}, priority {priority:?}: {}", priority.turn())));
    lines.push(line(
        "a minute",
        format!(
            "{requests_per_minute} requests, {input_tokens_per_minute} tokens in and \
             {output_tokens_per_minute} out; {beyond}"
        ),
    ));
    lines.push(line(
        "at once",
        format!(
            "{calls} calls, each of {context} tokens at most{answer}, and {kv_blocks} KV blocks for \
             each model"
        ),
    ));
    if let Some(group) = cache.as_ref().and_then(|cache| cache.share_group.as_deref()) {
        lines.push(line("shares in", format!("{group}: what its programs make public")));
    }
    if models.is_empty() {
        lines.push(line("models", "none: it may call nothing"));
    }
    lines
}

/// Where nobody says where metrics are.
pub(super) fn unseen() -> Vec<String> {
    vec![line("now", "not looked at: `--metrics ADDRESS` of a server or of each agent shows it")]
}

/// What happened to a tenant in the last seconds, of which so many calls wait for an instance of its
/// program.
pub(super) fn seen(tenant: &str, rows: &[Row], (held_back, seconds): (f64, f64)) -> Vec<String> {
    let own: Vec<&Row> = rows.iter().filter(|row| row.tenant == tenant).collect();
    let at_models = own.iter().filter(|row| !row.model.is_empty());
    let mut lines: Vec<_> = at_models.flat_map(|row| at_model(row, rows)).collect();
    if lines.is_empty() {
        lines.push(line("now", "it has called no model since these were loaded"));
    }
    if held_back > 0.0 {
        let calls = if held_back > 1.0 { "calls wait" } else { "call waits" };
        let told = "to begin: as many instances as limits.program.instances has answer others";
        lines.push(line("waits", format!("{held_back} {calls} {told}")));
    }
    lines.extend(refusals(own.first().map_or(&[], |row| &row.refused), seconds));
    lines
}

/// What limits refused in so many seconds, and what they would have.
fn refusals(refused: &[(String, f64)], seconds: f64) -> Vec<String> {
    let (shadowed, refused): (Vec<_>, Vec<_>) =
        refused.iter().cloned().partition(|(code, _)| code.ends_with(SHADOWED));
    let told = |what: &str, codes: &[(String, f64)]| {
        let codes = limits(codes).replace(SHADOWED, "");
        line("limits", format!("calls {what} in the last {seconds:.0} s: {codes}"))
    };
    let mut lines = Vec::new();
    if !refused.is_empty() {
        lines.push(told("were refused", &refused));
    }
    if !shadowed.is_empty() {
        lines.push(told("were served that would have been refused", &shadowed));
    }
    if lines.is_empty() {
        let none = format!("no limit has refused a call in the last {seconds:.0} s");
        lines.push(line("limits", none));
    }
    lines
}

/// Why the newest form of something does not work at an agent.
pub(super) fn failures(reasons: &BTreeSet<String>) -> Vec<String> {
    let told = |reason| {
        format!("{reason}: the newest spec does not work, and the log of the server says why")
    };
    reasons.iter().map(told).collect()
}

fn at_model(row: &Row, all: &[Row]) -> Vec<String> {
    let Row { model, running, queued, entitled, got, kv_used, kv_cached, kv_limit, .. } = row;
    if !row.is_active() {
        return vec![line("now", format!("{model}: it wants nothing"))];
    }
    let others = all
        .iter()
        .filter(|other| other.model == *model && other.tenant != row.tenant && other.is_active());
    let others = others.count();
    let beside = match others {
        0 => "as long as nobody else wants any".to_owned(),
        1 => "beside one other tenant that wants some".to_owned(),
        _ => format!("beside {others} other tenants that want some"),
    };
    let got = got
        .map_or_else(|| "nothing was computed".to_owned(), |got| format!("got {}", percent(got)));
    let entitled = entitled.map_or_else(
        || "what it is entitled to is not told".to_owned(),
        |entitled| format!("entitled to {} of its time {beside}", percent(entitled)),
    );
    let mut of_model = all.iter().filter(|other| other.model == *model);
    let is_free = others > 0 && of_model.all(|row| row.queued <= 0.0);
    let free = if is_free { ", and no sequence waits to start" } else { "" };
    let mut lines = vec![
        line("now", format!("{model}: {entitled}; {got}{free}")),
        line(
            "",
            format!(
                "{running} sequences run and {queued} wait; {kv_used} of {kv_limit} KV blocks are \
                 in use, {kv_cached} more are kept"
            ),
        ),
    ];
    lines.extend(waits(&row.waits).map(|behind| match row.waits {
        Waits::Quota => line("waits", "for its own KV blocks: the limit kvBlocks is reached"),
        Waits::Itself => line(
            "waits",
            format!("for {behind}, or its own sequences: nobody else runs anything there"),
        ),
        Waits::Behind { .. } | Waits::No => line("waits", format!("behind {behind}")),
    }));
    lines
}

/// What the tenant has used since it was made.
pub(super) fn totals(totals: Option<&Totals>) -> Vec<String> {
    let Some(totals) = totals else { return Vec::new() };
    let Totals {
        prompt_tokens,
        cached_tokens,
        generated_tokens,
        device_ms,
        kv_block_ms,
        program_fuel,
        nodes: _,
    } = totals;
    vec![line(
        "has used",
        format!(
            "{prompt_tokens} prompt tokens, of which {cached_tokens} were cached, and \
             {generated_tokens} generated ones; {} s of devices, {} s of KV blocks, {program_fuel} \
             fuel",
            device_ms / 1000,
            kv_block_ms / 1000
        ),
    )]
}

/// The conditions that say what a tenant has come up against, and what their lines are about.
const OF_USE: [(&str, &str); 2] = [("WithinLimits", "limits"), ("ServedPromptly", "waited")];

/// Which limits have refused calls at any door, and whether calls waited behind those of others on
/// any node, in the operator's words.
pub(super) fn of_use(said: Said<'_>) -> Vec<String> {
    let told = |(type_, about): (&str, &str)| {
        let it = said.condition(type_)?;
        let is_known = if it.status == "Unknown" { "not known: " } else { "" };
        Some(line(about, format!("{is_known}{}", it.message)))
    };
    OF_USE.into_iter().filter_map(told).collect()
}

/// The conditions that are not as they should be, in the operator's words. That calls are refused by
/// limits, and that they wait for their turn, is as it was agreed.
pub(super) fn wrong(said: Said<'_>) -> Vec<String> {
    if said.conditions.is_empty() {
        return vec![line("wrong", "the operator has not seen it, or does not run")];
    }
    // Where these hold, something is on its way or stuck; of the others it is the contrary.
    let holds_up = |type_: &str| matches!(type_, "Stalled" | "Reconciling");
    let is_of_use = |type_: &str| OF_USE.iter().any(|(of_use, _)| *of_use == type_);
    let others = said.conditions.iter().filter(|it| !is_of_use(&it.type_));
    let bad = others.filter(|it| is_true(it) == holds_up(&it.type_));
    let mut lines: Vec<_> = bad
        .map(|it| line("wrong", format!("{} {}: {}", it.type_, it.reason, it.message)))
        .collect();
    if !said.is_current() {
        lines.push(line("wrong", "the operator has not seen its newest spec yet"));
    }
    if lines.is_empty() {
        lines.push(line("wrong", "nothing"));
    }
    lines
}

/// What is wrong with a manifest.
pub(super) fn problems(problems: &[String]) -> Vec<String> {
    if problems.is_empty() {
        return vec![line("wrong", "nothing")];
    }
    problems.iter().map(|problem| line("wrong", problem)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::top::reading::Class;

    fn row(tenant: &str) -> Row {
        Row {
            model: "d/m".to_owned(),
            tenant: format!("d/{tenant}"),
            weight: 100.0,
            class: Class::Normal,
            running: 2.0,
            queued: 0.0,
            entitled: Some(0.25),
            got: Some(0.5),
            tokens_per_second: 1.0,
            kv_used: 8.0,
            kv_cached: 4.0,
            kv_limit: 64.0,
            waits: Waits::No,
            refused: Vec::new(),
        }
    }

    #[test]
    fn what_a_tenant_asks_for_is_told_in_words() {
        let spec: TenantSpec = serde_saphyr::from_str(
            "{priority: High, limitsMode: Shadow, suspended: true, cache: {shareGroup: g}}",
        )
        .unwrap();
        let lines = asked("d/a", &spec).join("\n");
        for told in
            ["suspended   every call", "before those", "counted and served", "g: what", "none: it"]
        {
            assert!(lines.contains(told), "{told} in {lines}");
        }
    }

    #[test]
    fn what_happens_now_says_share_wait_and_refusals() {
        let waiting = Row {
            queued: 3.0,
            waits: Waits::Behind { named: vec!["d/b".to_owned()], others: 2 },
            refused: vec![("too_many_calls".to_owned(), 7.0)],
            ..row("a")
        };
        let lines = seen("d/a", &[waiting, row("b")], (0.0, 2.0));
        assert_eq!(
            lines,
            [
                "now         d/m: entitled to 25% of its time beside one other tenant that wants \
                 some; got 50%",
                "            2 sequences run and 3 wait; 8 of 64 KV blocks are in use, 4 more are \
                 kept",
                "waits       behind d/b and 2 more",
                "limits      calls were refused in the last 2 s: too_many_calls 7",
            ]
        );
        assert!(seen("d/c", &[row("a")], (0.0, 2.0))[0].contains("called no model"));
    }

    #[test]
    fn calls_that_wait_for_an_instance_are_told_where_no_sequence_does() {
        let told = |held_back| seen("d/a", &[row("a")], (held_back, 2.0))[2].clone();
        let rest = "as many instances as limits.program.instances has answer others";
        assert_eq!(told(3.0), format!("waits       3 calls wait to begin: {rest}"));
        assert_eq!(told(1.0), format!("waits       1 call waits to begin: {rest}"));
    }

    #[test]
    fn where_no_sequence_waits_to_start_that_is_told() {
        let lines = seen("d/a", &[row("a"), row("b")], (0.0, 2.0));
        assert!(lines[0].ends_with("got 50%, and no sequence waits to start"));
        let waiting = Row { queued: 1.0, ..row("b") };
        assert!(seen("d/a", &[row("a"), waiting], (0.0, 2.0))[0].ends_with("got 50%"));
        assert!(
            seen("d/a", &[row("a")], (0.0, 2.0))[0].ends_with("got 50%"),
            "there is nobody else"
        );
    }

    #[test]
    fn what_a_shadow_counts_was_not_refused() {
        let codes =
            |codes: &[&str]| codes.iter().map(|code| ((*code).to_owned(), 3.0)).collect::<Vec<_>>();
        let shadowed = codes(&["too_many_tokens (shadow)"]);
        let told = "limits      calls were served that would have been refused in the last 2 s: \
                    too_many_tokens 3";
        assert_eq!(refusals(&shadowed, 2.0), [told]);
        let both = codes(&["too_many_calls", "too_many_tokens (shadow)"]);
        let refused = "limits      calls were refused in the last 2 s: too_many_calls 3";
        assert_eq!(refusals(&both, 2.0), [refused, told]);
    }

    #[test]
    fn what_does_not_work_is_wrong_by_its_reason() {
        let lines = failures(&["ProgramUnhealthy".to_owned()].into());
        let expected = "wrong       ProgramUnhealthy: the newest spec does not work, and the log of \
                        the server says why";
        assert_eq!(problems(&lines), [expected]);
    }

    #[test]
    fn refusals_are_told_where_no_model_was_called() {
        let refused = Row {
            tenant: "d/a".to_owned(),
            refused: vec![("too_many_requests".to_owned(), 2.0)],
            ..Row::default()
        };
        assert_eq!(
            seen("d/a", &[refused], (0.0, 2.0)),
            [
                "now         it has called no model since these were loaded",
                "limits      calls were refused in the last 2 s: too_many_requests 2",
            ]
        );
    }

    #[test]
    fn who_runs_wants_something_whatever_it_is_entitled_to() {
        let untold = Row { entitled: None, ..row("a") };
        assert!(
            seen("d/a", std::slice::from_ref(&untold), (0.0, 2.0))[0]
                .contains("is not told; got 50%")
        );
        let idle = Row { running: 0.0, ..untold };
        assert!(seen("d/a", &[idle], (0.0, 2.0))[0].contains("wants nothing"));
    }

    #[test]
    fn who_waits_for_its_own_quota_is_told_so() {
        let full = Row { queued: 1.0, waits: Waits::Quota, ..row("a") };
        assert!(seen("d/a", &[full], (0.0, 2.0))[2].contains("limit kvBlocks is reached"));
    }

    fn condition(type_: &str, status: &str) -> realm_crds::Condition {
        serde_json::from_value(serde_json::json!({
            "type": type_, "status": status, "reason": "Why", "message": "because",
            "lastTransitionTime": "2026-01-01T00:00:00Z",
        }))
        .unwrap()
    }

    #[test]
    fn what_a_tenant_comes_up_against_is_told_as_such_and_is_nothing_wrong() {
        for (status, cause) in
            [("False", "because"), ("True", "because"), ("Unknown", "not known: because")]
        {
            let conditions = ["Ready", "ServedPromptly", "WithinLimits"];
            let conditions = conditions
                .map(|type_| condition(type_, if type_ == "Ready" { "True" } else { status }));
            let said = Said { conditions: &conditions, observed: Some(1), generation: Some(1) };
            let expected = ["limits", "waited"].map(|about| format!("{about:<11} {cause}"));
            assert_eq!(of_use(said), expected);
            assert_eq!(wrong(said), ["wrong       nothing"]);
        }
        let said = Said { conditions: &[], observed: None, generation: Some(1) };
        assert_eq!(of_use(said), [""; 0]);
    }

    #[test]
    fn conditions_that_hold_things_up_are_wrong_where_they_are_true() {
        let told = |conditions: &[realm_crds::Condition]| {
            wrong(Said { conditions, observed: Some(1), generation: Some(1) })
        };
        assert_eq!(told(&[condition("Ready", "True")]), ["wrong       nothing"]);
        let both = [condition("Ready", "False"), condition("Stalled", "True")];
        assert_eq!(
            told(&both),
            ["wrong       Ready Why: because", "wrong       Stalled Why: because"]
        );
        assert!(told(&[])[0].contains("has not seen it"));
    }
}
