//! `ServedPromptly`: whether a tenant's calls wait behind those of others. Pure.
//!
//! As of limits, it says nothing that changes while it is so: how much of which model a tenant gets at
//! a moment is for metrics, and `realm top`, to tell.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use realm_plan::desired::Priority;

use super::within::unsaid;
use crate::{
    fleet::standing::TenantStanding,
    status::conditions::{Finding, SERVED_PROMPTLY, Truth},
};

/// The reason of a tenant whose calls waited.
const BEHIND_OTHERS: &str = "BehindOthers";

/// What holds; `None` where this leader does not know yet and nobody before it did.
pub(super) fn finding(tenant: &TenantStanding, before: &[Condition]) -> Option<Finding> {
    if tenant.reach.bites.is_behind_others {
        let message = behind(tenant.turn);
        return Some(Finding::new(SERVED_PROMPTLY, Truth::False, BEHIND_OTHERS, message));
    }
    let promptly = "no call has waited for long, lately, behind those of other tenants";
    unsaid(SERVED_PROMPTLY, tenant, before, promptly)
}

/// That calls waited, and by what their turn comes.
fn behind(turn: Option<(u32, Priority)>) -> String {
    let waited = "calls waited in the last five minutes, for a second or longer, behind those of other \
                  tenants";
    turn.map_or_else(
        || waited.to_owned(),
        |(weight, priority)| {
            format!("{waited}: weight {weight}, priority {priority:?}: {}", priority.turn())
        },
    )
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use realm_plan::reached::Bites;

    use super::*;
    use crate::{
        fleet::standing::{Knowledge, Reach},
        status::conditions::conditions,
    };

    const WAITED: &str = "calls waited in the last five minutes, for a second or longer, behind those of other tenants";

    fn tenant(is_behind_others: bool, knowledge: Knowledge) -> TenantStanding {
        let bites = Bites { is_behind_others, ..Bites::default() };
        TenantStanding {
            doors: Some(1),
            reach: Reach { bites, knowledge },
            ..TenantStanding::default()
        }
    }

    fn check(tenant: &TenantStanding, before: &[Condition], expected: Option<(Truth, &str, &str)>) {
        let found = finding(tenant, before).map(|it| (it.status, it.reason, it.message));
        let expected =
            expected.map(|(status, reason, message)| (status, reason.into(), message.into()));
        assert_eq!(found, expected);
    }

    #[test]
    fn who_waits_behind_others_is_told_by_what_its_turn_comes() {
        let waiting = tenant(true, Knowledge::All);
        check(&waiting, &[], Some((Truth::False, BEHIND_OTHERS, WAITED)));
        for (priority, turn) in [
            (Priority::Low, "it has what tenants of the other priorities leave, by its weight"),
            (
                Priority::Normal,
                "those of priority High come first, and then its turn comes by its weight",
            ),
            (
                Priority::High,
                "it comes before those of other priorities, and by its weight among High",
            ),
        ] {
            let told = format!("{WAITED}: weight 7, priority {priority:?}: {turn}");
            for knowledge in [Knowledge::NotYet, Knowledge::InPart, Knowledge::All] {
                let turn = Some((7, priority));
                let waiting = TenantStanding { turn, ..tenant(true, knowledge) };
                check(&waiting, &[], Some((Truth::False, BEHIND_OTHERS, &told)));
            }
        }
    }

    #[test]
    fn of_whom_nobody_says_that_it_waits_does_not_where_all_is_known() {
        let promptly = "no call has waited for long, lately, behind those of other tenants";
        let told = Some((Truth::True, SERVED_PROMPTLY, promptly));
        check(&tenant(false, Knowledge::All), &[], told);
        let untold = "some agent is of another release, which does not tell";
        check(&tenant(false, Knowledge::InPart), &[], Some((Truth::Unknown, "NotTold", untold)));
        let unknown = tenant(false, Knowledge::NotYet);
        check(&unknown, &[], None);
        let before = finding(&tenant(true, Knowledge::All), &[]).into_iter().collect();
        let before = conditions(before, &[], 1, Timestamp::UNIX_EPOCH);
        check(&unknown, &before, Some((Truth::False, BEHIND_OTHERS, WAITED)));
    }
}
