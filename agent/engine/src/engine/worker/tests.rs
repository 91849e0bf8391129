//! Masks that come when a sequence has moved on.

mod steps;

use std::sync::mpsc::sync_channel;

use realm_core::{
    books::Way,
    constraint::Constraint,
    desired::Priority,
    engine::{Generation, Sampling},
    name::{ModelName, TenantName},
};
use realm_grammar::Vocabulary;

use super::{
    super::tests::{scheduler, scripted, tokenizer},
    *,
};
use crate::{
    constraint::{
        masks::Begin,
        places::{PLACES_MAX, Places},
    },
    output::Output,
    scheduler::Terms,
};

/// Longer than a mask takes on any machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn tenant() -> TenantName {
    TenantName::new("default", "a").unwrap()
}

fn generation(tokens_max: u32) -> Generation {
    Generation {
        prompt: vec![0, 1],
        shared_tokens: 0,
        sampling: Sampling::default(),
        bias: Vec::new(),
        tokens_max: Some(tokens_max),
        stop: Vec::new(),
        constraint: None,
        deadline: None,
        resume: None,
        way: Way::Direct,
        milestones: None,
    }
}

fn constrained(worker: &Worker, regex: &str) -> Submitted {
    let generation = generation(3);
    let tokens = [&b"a"[..], b"b", b"c", b"d", b""];
    let vocabulary = Vocabulary::new(tokens.into_iter(), &[4]).unwrap();
    let grammar = vocabulary.compile(&Constraint::Regex(regex.to_owned())).unwrap();
    let place = Arc::new(Places::new(PLACES_MAX)).take(&tenant()).unwrap();
    let (output, stream) = Output::new(&generation, 1, &worker.tokenizer).unwrap();
    // Nothing here looks for a reader.
    drop(stream);
    Submitted {
        submission: Submission {
            public: None,
            adapter: None,
            id: ID,
            tenant: tenant(),
            terms: Terms { weight: 1, priority: Priority::Normal },
            kv_blocks_max: 64,
            context_max: 64,
            prompt: generation.prompt,
            resumed: 0,
            tokens_max: generation.tokens_max,
            deadline: None,
        },
        adapter: None,
        output,
        begin: Some(Begin::Grammar(Arc::new(grammar), place)),
        beside: None,
        way: Way::Direct,
        figures: worker
            .board
            .enter(&tenant(), &ModelName::new("default", "scripted").unwrap())
            .unwrap(),
        milestones: None,
        at: Instant::now(),
    }
}

const ID: SequenceId = SequenceId(7);

#[test]
fn logits_from_before_a_preemption_give_a_token_once() {
    let (_commands, received) = sync_channel(1);
    let (tokenizer, board) = (Arc::new(tokenizer()), Arc::new(Board::default()));
    let mut worker = Worker::new(received, scheduler(), scripted(), tokenizer, board);
    worker.submit(constrained(&worker, "b*"));
    let now = Instant::now();
    assert_eq!(worker.scheduler.plan_batch(now, &mut worker.batch), []);
    worker.tell_starts(now);
    let late = worker.masks.take(PATIENCE).unwrap();
    // As if all of this had been computed before, and preempted while its mask was awaited.
    worker.open.get_mut(&ID).unwrap().held.hold(&[0.0, 1.0, 0.0, 0.0, 0.0]);
    worker.executor.as_mut().unwrap().forward(&worker.batch).unwrap();
    worker.scheduler.commit();

    worker.guide(late);
    worker.advance(ID, 0, now);
    assert_eq!((worker.outbox.len(), worker.scheduler.position(ID)), (1, 1));
    assert_eq!(
        worker.open.get_mut(&ID).unwrap().held.take(),
        None,
        "they are of a place that is past"
    );
}
