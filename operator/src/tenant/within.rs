//! `WithinLimits`: which of a tenant's limits refuse calls, in the words that `realm explain` has; and
//! what holds where nobody says so, of this and of whatever else a tenant comes up against. Pure.
//!
//! It says nothing that changes while the same limits do, so that a tenant which is at them for a
//! day is written once.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use realm_plan::{
    desired::{Limits, LimitsMode},
    reached::{Bites, Limit},
};

use crate::{
    fleet::standing::{Knowledge, TenantStanding},
    status::conditions::{Finding, NO_AGENTS, NO_DOOR, REFUSED_AT, Truth, WITHIN_LIMITS},
};

/// What holds; `None` where this leader does not know yet and nobody before it did.
pub(super) fn finding(tenant: &TenantStanding, before: &[Condition]) -> Option<Finding> {
    let bites = &tenant.reach.bites;
    if let Some(first) = bites.limits.first() {
        let message = refusing(bites, tenant.limits, tenant.doors.unwrap_or_default());
        return Some(Finding::new(WITHIN_LIMITS, Truth::False, reason(*first), message));
    }
    let within = match tenant.limits.map_or(LimitsMode::Enforce, |(_, mode)| mode) {
        LimitsMode::Enforce => "no limit has refused a call in the last minute",
        LimitsMode::Shadow => "no limit would have refused a call in the last minute",
    };
    unsaid(WITHIN_LIMITS, tenant, before, within)
}

/// What holds of a tenant of which nobody says that it has come up against what `type_` is about:
/// that it is `within` only where that is known.
pub(super) fn unsaid(
    type_: &'static str,
    tenant: &TenantStanding,
    before: &[Condition],
    within: &str,
) -> Option<Finding> {
    let unknown = |reason, message| Some(Finding::new(type_, Truth::Unknown, reason, message));
    match (tenant.doors, tenant.reach.knowledge) {
        (None, _) => unknown(NO_AGENTS, "there is no door to take a call"),
        (Some(0), _) => unknown(NO_DOOR, "there is no door to take a call"),
        (Some(_), Knowledge::NotYet) => kept(type_, before),
        (Some(_), Knowledge::InPart) => {
            unknown("NotTold", "some agent is of another release, which does not tell")
        }
        (Some(_), Knowledge::All) => Some(Finding::new(type_, Truth::True, type_, within)),
    }
}

/// What the last leader said.
fn kept(type_: &'static str, before: &[Condition]) -> Option<Finding> {
    let it = before.iter().find(|condition| condition.type_ == type_)?;
    let truths = [Truth::True, Truth::False, Truth::Unknown];
    let status = truths.into_iter().find(|truth| truth.as_str() == it.status)?;
    Some(Finding::new(type_, status, it.reason.clone(), it.message.clone()))
}

const fn reason(limit: Limit) -> &'static str {
    match limit {
        Limit::Requests => "RequestsPerMinute",
        Limit::InputTokens => "InputTokensPerMinute",
        Limit::OutputTokens => "OutputTokensPerMinute",
        Limit::Calls => "Calls",
        Limit::KvBlocks => "KvBlocks",
    }
}

/// What each limit does to calls that come up against it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Refuses,
    /// Only the limits per minute have a shadow.
    Counts,
    HoldsBack,
}

impl Act {
    const ALL: [Self; 3] = [Self::Refuses, Self::Counts, Self::HoldsBack];

    const fn of(limit: Limit, mode: LimitsMode) -> Self {
        match (limit, mode) {
            (Limit::KvBlocks, _) => Self::HoldsBack,
            (Limit::Calls, _) | (_, LimitsMode::Enforce) => Self::Refuses,
            (_, LimitsMode::Shadow) => Self::Counts,
        }
    }

    const fn told(self) -> &'static str {
        match self {
            Self::Refuses => "calls were refused in the last minute",
            Self::Counts => "calls would have been refused in the last minute",
            Self::HoldsBack => "sequences waited in the last minute for their own tenant's blocks",
        }
    }
}

/// Which limits did what to calls, and at how many of the doors.
fn refusing(bites: &Bites, limits: Option<(Limits, LimitsMode)>, doors: u32) -> String {
    let mode = limits.map_or(LimitsMode::Enforce, |(_, mode)| mode);
    let limits = limits.map(|(limits, _)| limits);
    let clause = |act: Act| {
        let of_act = bites.limits.iter().filter(|limit| Act::of(**limit, mode) == act);
        let named: Vec<String> = of_act.map(|limit| named(*limit, limits.as_ref())).collect();
        (!named.is_empty()).then(|| format!("{}: {}", act.told(), named.join(", ")))
    };
    let clauses: Vec<String> = Act::ALL.into_iter().filter_map(clause).collect();
    let told = clauses.join("; ");
    if bites.doors == 0 || doors < 2 {
        return told;
    }
    // Doors that are lost have refused calls, too.
    format!("{told}{REFUSED_AT}{} of {doors} doors", bites.doors.min(doors))
}

/// A limit as the spec has it, and as much as it says.
fn named(limit: Limit, limits: Option<&Limits>) -> String {
    let (field, value): (&str, fn(&Limits) -> u32) = match limit {
        Limit::Requests => ("requestsPerMinute", |limits| limits.requests_per_minute),
        Limit::InputTokens => ("inputTokensPerMinute", |limits| limits.input_tokens_per_minute),
        Limit::OutputTokens => ("outputTokensPerMinute", |limits| limits.output_tokens_per_minute),
        Limit::Calls => ("calls", |limits| limits.calls_max),
        Limit::KvBlocks => ("kvBlocks", |limits| limits.kv_blocks_max),
    };
    limits.map_or_else(|| field.to_owned(), |limits| format!("{field} {}", value(limits)))
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use realm_crds::Tenant;
    use realm_plan::validate::{self, Site};
    use serde_json::json;

    use super::*;
    use crate::{fleet::standing::Reach, status::conditions::conditions};

    /// The standing of a tenant with these limits at three doors.
    fn standing(mode: &str, limits: &[Limit], knowledge: Knowledge) -> TenantStanding {
        let tenant: Tenant = serde_json::from_value(json!({
            "apiVersion": "realm.dev/v1alpha1",
            "kind": "Tenant",
            "metadata": { "name": "acme", "namespace": "lab" },
            "spec": {
                "limitsMode": mode,
                "limits": { "requestsPerMinute": 60, "calls": 8, "kvBlocks": 64 },
            },
        }))
        .unwrap();
        let tenant = validate::tenant(&tenant, Site::Cluster).unwrap();
        TenantStanding {
            doors: Some(3),
            limits: Some((*tenant.limits(), tenant.limits_mode())),
            reach: Reach {
                bites: Bites { limits: limits.to_vec(), doors: 2, ..Bites::default() },
                knowledge,
            },
            ..TenantStanding::default()
        }
    }

    fn check(tenant: &TenantStanding, before: &[Condition], expected: &str) {
        let said = finding(tenant, before).map_or_else(
            || "nothing".to_owned(),
            |it| format!("{} {}: {}", it.status.as_str(), it.reason, it.message),
        );
        assert_eq!(said, expected);
    }

    #[test]
    fn limits_that_refuse_calls_are_named_as_the_spec_has_them_and_the_first_is_the_reason() {
        let requests = standing("Enforce", &[Limit::Requests], Knowledge::All);
        check(
            &requests,
            &[],
            "False RequestsPerMinute: calls were refused in the last minute: requestsPerMinute 60; \
             at 2 of 3 doors",
        );
        let more = [Limit::Calls, Limit::KvBlocks];
        let expected = "False Calls: calls were refused in the last minute: calls 8; sequences \
                        waited in the last minute for their own tenant's blocks: kvBlocks 64; at \
                        2 of 3 doors";
        check(&standing("Enforce", &more, Knowledge::InPart), &[], expected);
        let reasons = Limit::ALL.map(reason);
        assert_eq!(
            reasons,
            [
                "RequestsPerMinute",
                "InputTokensPerMinute",
                "OutputTokensPerMinute",
                "Calls",
                "KvBlocks"
            ]
        );
    }

    #[test]
    fn where_one_door_serves_all_or_none_refuses_doors_are_not_told() {
        let mut tenant = standing("Enforce", &[Limit::Requests], Knowledge::All);
        tenant.doors = Some(1);
        let expected = "False RequestsPerMinute: calls were refused in the last minute: \
                        requestsPerMinute 60";
        check(&tenant, &[], expected);
        (tenant.doors, tenant.reach.bites.limits) = (Some(3), vec![Limit::KvBlocks]);
        tenant.reach.bites.doors = 0;
        let expected = "False KvBlocks: sequences waited in the last minute for their own tenant's \
                        blocks: kvBlocks 64";
        check(&tenant, &[], expected);
    }

    #[test]
    fn in_shadow_calls_would_have_been_refused_and_those_beyond_calls_at_once_were() {
        let limits = [Limit::Requests, Limit::Calls];
        let expected = "False RequestsPerMinute: calls were refused in the last minute: calls 8; \
                        calls would have been refused in the last minute: requestsPerMinute 60; at \
                        2 of 3 doors";
        check(&standing("Shadow", &limits, Knowledge::All), &[], expected);
        let none = standing("Shadow", &[], Knowledge::All);
        let expected = "True WithinLimits: no limit would have refused a call in the last minute";
        check(&none, &[], expected);
    }

    #[test]
    fn a_new_leader_says_what_the_one_before_said_until_it_knows() {
        let told = |limits: &[Limit], knowledge, before: &[Condition]| {
            let found = finding(&standing("Enforce", limits, knowledge), before);
            conditions(found.into_iter().collect(), before, 1, Timestamp::UNIX_EPOCH)
        };
        assert_eq!(told(&[], Knowledge::NotYet, &[]), []);
        let refused = told(&[Limit::Calls], Knowledge::NotYet, &[]);
        assert_eq!((&*refused[0].status, &*refused[0].reason), ("False", "Calls"));
        assert_eq!(told(&[], Knowledge::NotYet, &refused), refused);
        let within = told(&[], Knowledge::All, &refused);
        assert_eq!((&*within[0].status, &*within[0].reason), ("True", "WithinLimits"));
        assert_eq!(told(&[], Knowledge::NotYet, &within), within);
    }

    #[test]
    fn who_is_not_told_of_or_has_no_door_is_not_said_to_be_within_limits() {
        let mut tenant = standing("Enforce", &[], Knowledge::InPart);
        check(
            &tenant,
            &[],
            "Unknown NotTold: some agent is of another release, which does not tell",
        );
        tenant.doors = Some(0);
        check(&tenant, &[], "Unknown NoDoor: there is no door to take a call");
        tenant.doors = None;
        check(&tenant, &[], "Unknown NoAgents: there is no door to take a call");
    }
}
