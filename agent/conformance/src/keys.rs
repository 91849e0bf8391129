//! Whether a key opens its own tenant's door and nothing else does.

use crate::report::{Check, Claim, Figure, Verdict};

pub const ABOUT: Claim = Claim {
    id: "keys",
    claim: "each key opens the door as its own tenant, and what is no key opens none and is told \
            nothing",
    threshold: "every wrong key is refused, at each door with the same words, which do not hold it",
};

/// A wrong key at a door, and what it was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// What is wrong with the key.
    pub key: &'static str,
    pub door: &'static str,
    pub is_refused: bool,
    /// Everything that a client can tell one refusal from another by.
    pub told: String,
    /// Whether the key, or a part of it that gives it away, came back.
    pub is_repeated: bool,
}

/// The verdict on the tenants that two keys stand for, and on wrong keys.
pub fn judge([one, other]: [&str; 2], tried: &[Tried]) -> Check {
    let mut faults = Vec::new();
    if one == other {
        faults.push(format!("both keys are of {one}"));
    }
    for Tried { key, door, is_refused, is_repeated, told } in tried {
        if !is_refused {
            faults.push(format!("{key} opens {door}"));
        } else if *is_repeated {
            faults.push(format!("{door} repeats {key}"));
        } else if let Some(first) = tried.iter().find(|first| first.door == *door)
            && first.told != *told
        {
            faults.push(format!("{door} refuses {key} in other words than {}", first.key));
        }
    }
    let (verdict, why) = match (faults.is_empty(), tried.is_empty()) {
        (false, _) => (Verdict::Fail, faults.join("; ")),
        (true, true) => (Verdict::Inconclusive, "nothing was tried".to_owned()),
        (true, false) => (Verdict::Pass, "only the keys open a door".to_owned()),
    };
    let refused = tried.iter().filter(|tried| tried.is_refused).count();
    let figures = vec![Figure::plain("wrong keys refused", "", refused as f64)];
    Check { about: ABOUT, verdict, why, trials: tried.len() + 2, figures }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Tried)) -> (Verdict, String) {
        let refused = |key, door| Tried {
            key,
            door,
            is_refused: true,
            told: "401".to_owned(),
            is_repeated: false,
        };
        let mut tried = [refused("no key", "/v1/ws"), refused("a wrong key", "/v1/ws")];
        change(&mut tried[1]);
        let Check { verdict, why, .. } = judge(["a/one", "a/other"], &tried);
        (verdict, why)
    }

    #[test]
    fn a_wrong_key_that_opens_shows_or_differs_fails() {
        assert_eq!(check(|_| ()).0, Verdict::Pass);
        for (change, fault) in [
            (
                (|tried: &mut Tried| tried.is_refused = false) as fn(&mut Tried),
                "a wrong key opens /v1/ws",
            ),
            (|tried| tried.is_repeated = true, "/v1/ws repeats a wrong key"),
            (
                |tried| tried.told = "expired".to_owned(),
                "/v1/ws refuses a wrong key in other words than no key",
            ),
        ] {
            assert_eq!(check(change), (Verdict::Fail, fault.to_owned()));
        }
    }

    #[test]
    fn two_keys_of_one_tenant_are_said() {
        let check = judge(["a/one", "a/one"], &[]);
        assert_eq!((check.verdict, check.why.as_str()), (Verdict::Fail, "both keys are of a/one"));
        assert_eq!(judge(["a", "b"], &[]).verdict, Verdict::Inconclusive);
    }
}
