//! Whether a program that uses up what it can is stopped, and felt by nobody else.

use crate::report::{Check, Claim, Figure, Verdict};

pub const ABOUT: Claim = Claim {
    id: "program-exhaustion",
    claim: "a tenant's program that loops, eats memory, floods its host or is late for every token \
            is stopped at its limit, while another tenant streams on",
    threshold: "each attack ends with its own refusal, and no stream of the other tenant is cut",
};

/// What a program tries, and the refusals that may end it: that of its limit, or of one that the
/// tenant comes to before.
pub const ATTACKS: [(&str, &[&str]); 5] = [
    ("loop", &["program_fuel", "deadline_exceeded"]),
    ("eat_memory", &["program_memory"]),
    ("flood_host_calls", &["program_host_calls", "program_fuel", "deadline_exceeded"]),
    ("flood_output", &["program_output"]),
    ("overrun_hook", &["program_fuel", "deadline_exceeded"]),
];

/// How an attack ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// With a refusal of this code.
    Refused(String),
    Served,
    /// The call came to no end of its own.
    Lost(String),
}

/// One attack, and the other tenant's streams meanwhile.
#[derive(Clone, Debug, PartialEq)]
pub struct Attack {
    pub function: &'static str,
    pub may_end: &'static [&'static str],
    pub ended: Ended,
    pub took_ms: f64,
    /// Streams that came whole, in order, while it lasted.
    pub whole: usize,
    /// Why the others did not.
    pub cut: Vec<String>,
    /// The longest pause of these streams.
    pub pause_ms: f64,
}

impl Attack {
    /// What is wrong with how it went.
    fn fault(&self) -> Option<String> {
        let Self { function, may_end, ended, whole, cut, .. } = self;
        match ended {
            Ended::Refused(code) if may_end.contains(&code.as_str()) => {}
            Ended::Refused(code) => return Some(format!("`{function}` ended with `{code}`")),
            Ended::Served => return Some(format!("`{function}` was served")),
            Ended::Lost(why) => return Some(format!("`{function}` did not end: {why}")),
        }
        match cut.first() {
            Some(why) => {
                let streams = cut.len() + whole;
                let cut = cut.len();
                Some(format!("`{function}` cut {cut} of {streams} streams: {why}"))
            }
            None => None,
        }
    }
}

/// The verdict on some attacks.
pub fn judge(attacks: &[Attack]) -> Check {
    let faults: Vec<_> = attacks.iter().filter_map(Attack::fault).collect();
    let unseen = attacks.iter().find(|attack| attack.whole == 0);
    let (verdict, why) = match (faults.is_empty(), unseen) {
        (false, _) => (Verdict::Fail, faults.join("; ")),
        (true, Some(Attack { function, .. })) => {
            (Verdict::Inconclusive, format!("nobody streamed while `{function}` ran"))
        }
        (true, None) if attacks.is_empty() => {
            (Verdict::Inconclusive, "nothing was tried".to_owned())
        }
        (true, None) => (Verdict::Pass, "every attack was stopped, and felt by nobody".to_owned()),
    };
    let figures = attacks.iter().flat_map(|attack| {
        let Attack { function, took_ms, whole, pause_ms, .. } = attack;
        [
            Figure::plain(format!("`{function}` lasted"), "ms", *took_ms),
            Figure::plain(format!("streams beside `{function}`"), "", *whole as f64),
            Figure::plain(format!("longest pause beside `{function}`"), "ms", *pause_ms),
        ]
    });
    let figures = figures.collect();
    Check { about: ABOUT, verdict, why, trials: attacks.len(), figures }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut Attack)) -> (Verdict, String) {
        let mut attacks: Vec<_> = ATTACKS
            .iter()
            .map(|(function, may_end)| Attack {
                function,
                may_end,
                ended: Ended::Refused(may_end[0].to_owned()),
                took_ms: 5.0,
                whole: 2,
                cut: Vec::new(),
                pause_ms: 1.0,
            })
            .collect();
        change(&mut attacks[1]);
        let Check { verdict, why, .. } = judge(&attacks);
        (verdict, why)
    }

    #[test]
    fn attacks_that_end_at_their_limits_pass() {
        assert_eq!(check(|_| ()).0, Verdict::Pass);
    }

    #[test]
    fn an_attack_that_is_served_or_ends_otherwise_fails() {
        for ended in [
            Ended::Served,
            Ended::Refused("program_failed".to_owned()),
            Ended::Lost("the connection was lost".to_owned()),
        ] {
            let (verdict, why) = check(|attack| attack.ended = ended.clone());
            assert_eq!(verdict, Verdict::Fail, "{ended:?}");
            assert!(why.starts_with("`eat_memory`"), "{why}");
        }
    }

    #[test]
    fn one_stream_that_is_cut_fails_and_none_at_all_says_nothing() {
        let (verdict, why) = check(|attack| attack.cut = vec!["moved".to_owned()]);
        assert_eq!(
            (verdict, why.as_str()),
            (Verdict::Fail, "`eat_memory` cut 1 of 3 streams: moved")
        );
        assert_eq!(check(|attack| attack.whole = 0).0, Verdict::Inconclusive);
        assert_eq!(judge(&[]).verdict, Verdict::Inconclusive);
    }
}
