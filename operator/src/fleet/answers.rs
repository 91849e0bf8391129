//! What agents say of the newest specs: who has yet to answer, and who has refused.

use std::collections::{BTreeMap, BTreeSet};

use realm_plan::{Kind, Name};

use crate::link::report::Failure;

type Object = (Kind, Name);

/// What became of the state of a generation, or of a later one, at an agent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// The agent has said nothing of it yet.
    Awaited,
    /// It holds it, or is lost.
    Taken,
    /// It cannot say, and is not waited for.
    Away,
    /// It goes on with an older one.
    Refused(Failure),
}

/// Turns that told agents of new specs, until all of those agents have answered.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// Objects whose newest spec has been told to nobody yet.
    untold: BTreeSet<Object>,
    /// As many as there are turns in the time that the slowest connected agent takes to answer or
    /// to be given up.
    rounds: Vec<Round>,
    /// By agent, until it has taken a later state.
    refusals: BTreeMap<String, Refusal>,
}

#[derive(Debug)]
struct Round {
    objects: BTreeSet<Object>,
    /// The generation of the state that each agent got.
    told: BTreeMap<String, u64>,
}

/// What an agent has of older specs than it was told.
#[derive(Debug)]
struct Refusal {
    objects: BTreeSet<Object>,
    /// The newest generation that it refused.
    generation: u64,
    failure: Failure,
}

impl Answers {
    /// Notes that an object has a new spec, or is not wanted any more.
    pub(super) fn expect(&mut self, object: Object) {
        self.untold.insert(object);
    }

    /// Notes whom a turn told of all that is new.
    pub(super) fn tell(&mut self, told: BTreeMap<String, u64>) {
        let objects = std::mem::take(&mut self.untold);
        if !objects.is_empty() && !told.is_empty() {
            self.rounds.push(Round { objects, told });
        }
    }

    /// Takes in what each agent answers to the state of a generation.
    pub(super) fn hear(&mut self, answer: impl Fn(&str, u64) -> Answer) {
        let Self { untold: _, rounds, refusals } = self;
        refusals.retain(|node, refusal| {
            !refusal.objects.is_empty() && answer(node, refusal.generation) != Answer::Taken
        });
        rounds.retain_mut(|Round { objects, told }| {
            told.retain(|node, generation| match answer(node, *generation) {
                Answer::Awaited => true,
                Answer::Taken | Answer::Away => false,
                Answer::Refused(failure) => {
                    refuse(refusals, node, objects, *generation, failure);
                    false
                }
            });
            !told.is_empty() && !objects.is_empty()
        });
    }

    /// Objects of which somebody has yet to answer.
    pub(super) fn awaited(&self) -> BTreeSet<&Object> {
        self.rounds.iter().flat_map(|round| &round.objects).chain(&self.untold).collect()
    }

    /// Objects of whose newest spec an agent has refused the state, with one such agent and why.
    pub(super) fn refused(&self) -> BTreeMap<&Object, (&str, &Failure)> {
        let refusals = self.refusals.iter().rev();
        let said = refusals.flat_map(|(node, Refusal { objects, generation: _, failure })| {
            objects.iter().map(move |object| (object, (node.as_str(), failure)))
        });
        said.collect()
    }
}

fn refuse(
    refusals: &mut BTreeMap<String, Refusal>,
    node: &str,
    objects: &BTreeSet<Object>,
    generation: u64,
    failure: Failure,
) {
    let objects = objects.iter().cloned();
    if let Some(refusal) = refusals.get_mut(node) {
        refusal.objects.extend(objects);
        refusal.generation = refusal.generation.max(generation);
        refusal.failure = failure;
    } else {
        let refusal = Refusal { objects: objects.collect(), generation, failure };
        refusals.insert(node.to_owned(), refusal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(name: &str) -> Object {
        (Kind::Tenant, Name::new("default", name).unwrap())
    }

    fn told(nodes: &[(&str, u64)]) -> BTreeMap<String, u64> {
        nodes.iter().map(|(node, generation)| ((*node).to_owned(), *generation)).collect()
    }

    fn awaited(answers: &Answers) -> Vec<String> {
        answers.awaited().into_iter().map(|(_, name)| name.to_string()).collect()
    }

    /// Takes every state for which this is so, and says nothing of the others.
    fn taken(is_taken: impl Fn(&str, u64) -> bool) -> impl Fn(&str, u64) -> Answer {
        move |node, generation| {
            if is_taken(node, generation) { Answer::Taken } else { Answer::Awaited }
        }
    }

    fn full() -> Failure {
        Failure { reason: "LedgerFull".to_owned(), message: "no space".to_owned() }
    }

    #[test]
    fn an_object_is_answered_when_everybody_who_was_told_has_said_so() {
        let mut answers = Answers::default();
        answers.expect(object("a"));
        assert_eq!(awaited(&answers), ["default/a"], "nobody has been told yet");
        answers.tell(told(&[("n1", 7), ("n2", 7)]));
        answers.expect(object("b"));
        answers.tell(told(&[("n2", 8)]));
        answers.hear(taken(|node, generation| node == "n1" && generation <= 8));
        assert_eq!(awaited(&answers), ["default/a", "default/b"]);
        answers.hear(taken(|_, generation| generation <= 7));
        assert_eq!(awaited(&answers), ["default/b"]);
        answers.hear(taken(|_, generation| generation <= 8));
        assert!(awaited(&answers).is_empty() && answers.rounds.is_empty());
    }

    #[test]
    fn what_nobody_is_told_of_needs_no_answer() {
        let mut answers = Answers::default();
        answers.expect(object("a"));
        answers.tell(told(&[]));
        assert!(awaited(&answers).is_empty());
    }

    #[test]
    fn a_newer_spec_waits_for_its_own_answer() {
        let mut answers = Answers::default();
        for generation in [7, 8] {
            answers.expect(object("a"));
            answers.tell(told(&[("n1", generation)]));
        }
        answers.hear(taken(|_, generation| generation <= 7));
        assert_eq!(awaited(&answers), ["default/a"]);
    }

    #[test]
    fn a_refusal_is_an_answer_that_stands_until_the_agent_takes_a_later_state() {
        let mut answers = Answers::default();
        answers.expect(object("a"));
        answers.tell(told(&[("n1", 7), ("n2", 7)]));
        answers.hear(|node, _| match node {
            "n1" => Answer::Taken,
            _ => Answer::Refused(full()),
        });
        assert!(awaited(&answers).is_empty());
        assert_eq!(answers.refused(), BTreeMap::from([(&object("a"), ("n2", &full()))]));

        answers.expect(object("b"));
        answers.tell(told(&[("n2", 8)]));
        answers.hear(taken(|_, _| false));
        assert_eq!(answers.refused().len(), 1, "a refuses until it has said otherwise");
        answers.hear(|_, _| Answer::Refused(full()));
        assert_eq!(answers.refused().len(), 2);
        answers.hear(taken(|_, generation| generation <= 7));
        assert_eq!(answers.refused().len(), 2, "what it has taken is older");
        answers.hear(|_, _| Answer::Away);
        assert_eq!(answers.refused().len(), 2, "it took nothing by going");
        answers.hear(taken(|_, generation| generation <= 8));
        assert!(answers.refused().is_empty() && answers.refusals.is_empty());
    }
}
