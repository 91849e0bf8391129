//! What a status says of an object, in a word and in rows. Pure.

use realm_crds::Condition;

use crate::table::Table;

/// What the operator has said of an object.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Said<'a> {
    pub(crate) conditions: &'a [Condition],
    /// The generation of the spec that the status answers.
    pub(crate) observed: Option<i64>,
    /// The generation of the spec that is there.
    pub(crate) generation: Option<i64>,
}

impl<'a> Said<'a> {
    pub(crate) fn condition(self, type_: &str) -> Option<&'a Condition> {
        self.conditions.iter().find(|condition| condition.type_ == type_)
    }

    /// Whether the status answers the spec as it is now.
    pub(crate) fn is_current(self) -> bool {
        self.observed.is_some() && self.observed >= self.generation
    }

    pub(crate) fn is_ready(self) -> bool {
        self.is_current() && self.condition("Ready").is_some_and(is_true)
    }

    /// Whether something must change first, in the spec or in the cluster.
    pub(crate) fn is_stalled(self) -> bool {
        self.is_current() && self.condition("Stalled").is_some_and(is_true)
    }

    /// `Ready`, or the reason why not.
    pub(crate) fn state(self) -> String {
        match self.condition("Ready") {
            Some(ready) if !self.is_current() => format!("Unseen, was {}", word(ready)),
            Some(ready) => word(ready).to_owned(),
            None => "Unseen".to_owned(),
        }
    }

    /// The conditions as rows, and what to say of them where they answer another spec.
    pub(crate) fn lines(self) -> Vec<String> {
        let mut table = Table::<5>::plain();
        for Condition { type_, status, reason, message, .. } in self.conditions {
            let indent = String::from(" ");
            table.add([indent, type_.clone(), status.clone(), reason.clone(), message.clone()]);
        }
        let mut lines: Vec<String> = table.lines().collect();
        if self.conditions.is_empty() {
            lines.push("  none yet: the operator has not seen it, or does not run".to_owned());
        } else if !self.is_current() {
            let number = |n: Option<i64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
            lines.push(format!(
                "  of generation {}; generation {} has not been seen yet",
                number(self.observed),
                number(self.generation)
            ));
        }
        lines
    }
}

pub(crate) fn is_true(condition: &Condition) -> bool {
    condition.status == "True"
}

fn word(ready: &Condition) -> &str {
    if is_true(ready) { "Ready" } else { &ready.reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conditions(text: &str) -> Vec<Condition> {
        let condition = |line: &str| {
            let [type_, status, reason] = line.split(' ').collect::<Vec<_>>().try_into().unwrap();
            serde_json::from_value(serde_json::json!({
                "type": type_, "status": status, "reason": reason, "message": "because",
                "lastTransitionTime": "2026-01-01T00:00:00Z",
            }))
            .unwrap()
        };
        text.split(", ").filter(|line| !line.is_empty()).map(condition).collect()
    }

    #[test]
    fn a_state_is_one_word_and_says_when_it_is_of_an_older_spec() {
        for (text, observed, expected) in [
            ("", None, "Unseen"),
            ("Ready True Serving", Some(2), "Ready"),
            ("Ready False DoesNotFit, Stalled True DoesNotFit", Some(2), "DoesNotFit"),
            ("Ready True Serving", Some(1), "Unseen, was Ready"),
        ] {
            let conditions = conditions(text);
            let said = Said { conditions: &conditions, observed, generation: Some(2) };
            assert_eq!(said.state(), expected);
            assert_eq!(said.is_ready(), expected == "Ready");
            assert_eq!(said.is_stalled(), expected == "DoesNotFit");
        }
    }

    #[test]
    fn conditions_are_rows_of_what_why_and_the_cause() {
        let conditions = conditions("KeysValid True Valid, Ready False Loading");
        let said = Said { conditions: &conditions, observed: Some(1), generation: Some(1) };
        assert_eq!(
            said.lines(),
            ["   KeysValid  True   Valid    because", "   Ready      False  Loading  because"]
        );
        let said = Said { conditions: &conditions, observed: Some(1), generation: Some(2) };
        assert!(said.lines()[2].contains("generation 2 has not been seen yet"));
        let said = Said { conditions: &[], observed: None, generation: Some(1) };
        assert_eq!(said.lines().len(), 1);
    }
}
