//! What is new in a status for whoever sees what the object shows. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    fleet::standing::Standing,
    status::conditions::{MODEL_NOT_SERVED, OF_USE, PREPARING},
    throttle::News,
};

/// What `now` says that `before` did not, of an object of this standing.
///
/// A spec is called ready when its agents have answered, or have had their time to; and what was
/// ready stays so while it is on its way to a newer form, or to a node that is back, and serves; and
/// while the nodes have it and its models are on their way, or may be back in a moment.
pub(super) fn of(before: &[Condition], now: &[Condition], standing: &Standing) -> News {
    let [before, now] = [before, now].map(without_use);
    let (before, now) = (&*before, &*now);
    let said = |each: &Condition| (each.type_.clone(), each.status.clone(), each.reason.clone());
    let generation = |each: &Condition| each.observed_generation;
    let is_of_another_spec = !before.iter().map(generation).eq(now.iter().map(generation));
    let is_early = is_of_another_spec && is_ready(now) && !standing.is_answered;
    let is_served = is_ready(before) && is_on_its_way(now) && standing.nodes.is_somewhere();
    if is_served && misses_models(now) && standing.nodes.are_models_coming() {
        News::Absence
    } else if is_early || is_served {
        News::Change { is_answered: false }
    } else if !before.iter().map(said).eq(now.iter().map(said)) {
        News::Turn
    } else if is_of_another_spec {
        News::Change { is_answered: standing.is_answered }
    } else {
        News::Progress
    }
}

/// What tenants come up against is told by turns: it may change by the minute, and for all tenants
/// together where agents come or go.
fn without_use(conditions: &[Condition]) -> Vec<Condition> {
    conditions.iter().filter(|each| !OF_USE.contains(&&*each.type_)).cloned().collect()
}

fn is_ready(conditions: &[Condition]) -> bool {
    conditions.iter().any(|each| each.type_ == "Ready" && each.status == "True")
}

fn is_on_its_way(conditions: &[Condition]) -> bool {
    has_reason(conditions, PREPARING) || misses_models(conditions)
}

fn misses_models(conditions: &[Condition]) -> bool {
    has_reason(conditions, MODEL_NOT_SERVED)
}

fn has_reason(conditions: &[Condition], reason: &str) -> bool {
    conditions.iter().any(|each| each.type_ == "Ready" && each.reason == reason)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::{
        fleet::standing::{Standings, Tally, TenantStanding},
        status::conditions::{Finding, SERVED_PROMPTLY, Truth, WITHIN_LIMITS, conditions},
    };

    const READY: (Truth, &str) = (Truth::True, "Serving");
    const ON_ITS_WAY: (Truth, &str) = (Truth::False, PREPARING);
    const WAITS: (Truth, &str) = (Truth::False, MODEL_NOT_SERVED);
    const WRONG: (Truth, &str) = (Truth::False, "UnknownModel");

    fn said((status, reason): (Truth, &str), generation: i64) -> Vec<Condition> {
        let findings = vec![Finding::new("Ready", status, reason, "")];
        conditions(findings, &[], generation, Timestamp::UNIX_EPOCH)
    }

    /// A tenant that so many nodes have.
    fn standing(ready: u32, is_answered: bool) -> Standing {
        let tally = Tally { ready, ..Tally::default() };
        let nodes = Standings::Tenant(TenantStanding { tally, ..TenantStanding::default() });
        Standing {
            generation: 2,
            is_answered,
            is_young: false,
            refused: None,
            problems: Vec::new(),
            nodes,
        }
    }

    const UNANSWERED: News = News::Change { is_answered: false };

    #[test]
    fn a_spec_is_not_called_ready_before_its_agents_have_answered() {
        for before in [Vec::new(), said(WRONG, 1), said(ON_ITS_WAY, 1), said(READY, 1)] {
            assert_eq!(of(&before, &said(READY, 2), &standing(1, false)), UNANSWERED);
        }
        assert_eq!(of(&said(WRONG, 1), &said(READY, 2), &standing(1, true)), News::Turn);
        let answered = News::Change { is_answered: true };
        assert_eq!(of(&said(READY, 1), &said(READY, 2), &standing(1, true)), answered);
    }

    #[test]
    fn what_is_wrong_is_told_at_once() {
        assert_eq!(of(&said(READY, 1), &said(WRONG, 2), &standing(1, false)), News::Turn);
        assert_eq!(of(&[], &said(ON_ITS_WAY, 1), &standing(0, false)), News::Turn, "it is new");
    }

    #[test]
    fn what_serves_somewhere_has_time_to_come_to_the_other_nodes() {
        for generation in [1, 2] {
            let now = said(ON_ITS_WAY, generation);
            assert_eq!(of(&said(READY, 1), &now, &standing(1, true)), UNANSWERED);
            assert_eq!(of(&said(READY, 1), &now, &standing(0, true)), News::Turn, "nobody has it");
        }
    }

    #[test]
    fn a_model_that_is_gone_has_time_to_come_back_before_its_tenants_are_told() {
        assert_eq!(of(&said(READY, 1), &said(WAITS, 1), &standing(1, true)), UNANSWERED);
        assert_eq!(of(&[], &said(WAITS, 1), &standing(1, true)), News::Turn, "it never served");
        let mut coming = standing(1, true);
        let Standings::Tenant(tenant) = &mut coming.nodes else { panic!("{coming:?}") };
        tenant.is_model_coming = true;
        assert_eq!(of(&said(READY, 1), &said(WAITS, 1), &coming), News::Absence);
        assert_eq!(of(&[], &said(WAITS, 1), &coming), News::Turn, "it never served");
    }

    #[test]
    fn what_tenants_come_up_against_is_told_by_turns() {
        let with = |status, reason| {
            let limits = Finding::new(WITHIN_LIMITS, status, reason, "");
            let limits = conditions(vec![limits], &[], 2, Timestamp::UNIX_EPOCH);
            [said(READY, 2), limits].concat()
        };
        let (within, refused) = (with(Truth::True, WITHIN_LIMITS), with(Truth::False, "Calls"));
        let others = with(Truth::False, "RequestsPerMinute");
        let unknown = with(Truth::Unknown, "NotTold");
        let standing = standing(1, true);
        for (before, now) in [
            (&within, &refused),
            (&unknown, &refused),
            (&said(READY, 2), &refused),
            (&refused, &within),
            (&refused, &others),
            (&within, &unknown),
            (&said(READY, 2), &within),
        ] {
            assert_eq!(of(before, now, &standing), News::Progress, "{before:?} {now:?}");
        }
        let behind = Finding::new(SERVED_PROMPTLY, Truth::False, "BehindOthers", "");
        let behind = conditions(vec![behind], &[], 2, Timestamp::UNIX_EPOCH);
        let behind = [within.clone(), behind].concat();
        assert_eq!(of(&within, &behind, &standing), News::Progress);
    }

    #[test]
    fn numbers_and_messages_are_progress() {
        assert_eq!(of(&said(READY, 2), &said(READY, 2), &standing(1, true)), News::Progress);
    }
}
