//! Calls with texts, however they end.

use std::time::Duration;

use realm_core::embed::{Embedded, EmbeddedReply, Text};

use super::*;

fn batch(texts: &[&[u32]]) -> TextBatch {
    let texts = texts.iter().map(|text| Text::Tokens(text.to_vec())).collect();
    TextBatch {
        texts,
        dimensions: None,
        normalize: true,
        deadline: None,
        way: Way::Direct,
        milestones: None,
    }
}

pub(super) fn ask(engine: &EngineHandle, texts: &[&[u32]]) -> EmbeddedReply {
    engine.embed(&caller("a"), batch(texts), &mut |_| Ok(())).unwrap().reply
}

pub(super) fn answer(reply: EmbeddedReply) -> Result<Embedded, Refusal> {
    reply.blocking_recv().expect("a call says how it ends")
}

#[test]
fn a_forward_that_fails_or_panics_ends_its_own_calls_only() {
    let (engine, _) = engine();
    for bad in [ERROR, PANIC] {
        // The first text is computed with the second, and its call ends once.
        assert_eq!(answer(ask(&engine, &[&[1], &[0, bad]])), Err(Refusal::Internal));
        let good = answer(ask(&engine, &[&[1, 1], &[1]])).unwrap();
        assert_eq!(good.vectors, [[1.0, 0.0], [1.0, 0.0]]);
        assert_eq!(good.tokens, [2, 1]);
        assert!(!engine.load().failed);
    }
}

#[test]
fn a_vector_without_direction_fails_its_own_call() {
    let (engine, _) = engine();
    assert_eq!(answer(ask(&engine, &[&[1], &[0]])), Err(Refusal::Internal));
    assert!(answer(ask(&engine, &[&[1]])).is_ok());
    assert!(!engine.load().failed);
}

#[test]
fn texts_whose_reply_is_gone_are_computed_no_further() {
    let gate = Arc::new(Mutex::new(()));
    let (engine, forwards) = gated(gate.clone());
    let closed = gate.lock().unwrap();
    // Each is a step of its own.
    let reply = ask(&engine, &[&[1; 40][..]; 100]);
    while forwards.load(Ordering::SeqCst) < 1 {
        thread::yield_now();
    }
    drop(reply);
    drop(closed);
    assert!(answer(ask(&engine, &[&[1]])).is_ok());
    let steps = forwards.load(Ordering::SeqCst);
    assert!(steps <= 3, "{steps}");
    let [(_, load)] = &engine.tenants()[..] else { panic!("one tenant has called") };
    assert_eq!((load.sequences_queued, engine.load().sequences_queued), (0, 0));
}

#[test]
fn texts_whose_time_is_over_are_refused() {
    let (engine, _) = engine();
    let late = TextBatch { deadline: Some(Instant::now()), ..batch(&[&[1]]) };
    let taken = engine.embed(&caller("a"), late, &mut |_| Ok(())).unwrap();
    assert_eq!(answer(taken.reply), Err(Refusal::DeadlineExceeded { deadline_ms: 0 }));
    let roomy = Some(Instant::now() + Duration::from_mins(10));
    let early = TextBatch { deadline: roomy, ..batch(&[&[1]]) };
    assert!(answer(engine.embed(&caller("a"), early, &mut |_| Ok(())).unwrap().reply).is_ok());
}

#[test]
fn texts_are_counted_to_their_tenant_once() {
    let (engine, _) = engine();
    answer(ask(&engine, &[&[1; 20], &[1; 30], &[1; 7]])).unwrap();
    let [(_, load)] = &engine.tenants()[..] else { panic!("one tenant has called") };
    let used = engine.books().sum();
    assert_eq!((used.prompt_tokens, used.generated_tokens), (57, 0));
    assert_eq!((load.queue.count, load.sequences_queued), (1, 0));
    assert_eq!(engine.load().prompt_tokens_total, 57);
}

#[test]
fn a_tenant_may_not_fill_the_queue_with_calls() {
    let gate = Arc::new(Mutex::new(()));
    let (engine, _) = gated(gate.clone());
    let closed = gate.lock().unwrap();
    let open: Vec<_> = (0..crate::load::RUNNING_MAX).map(|_| ask(&engine, &[&[1]])).collect();
    let refused = engine.embed(&caller("a"), batch(&[&[1]]), &mut |_| Ok(()));
    assert!(matches!(refused, Err(EmbedError::Refused(Refusal::Busy { .. }))), "{refused:?}");
    let other = engine.embed(&caller("b"), batch(&[&[1]]), &mut |_| Ok(())).unwrap();
    drop(closed);
    assert!(answer(other.reply).is_ok());
    for reply in open {
        assert!(answer(reply).is_ok());
    }
}

#[test]
fn an_engine_that_drains_finishes_its_texts_and_takes_no_more() {
    let gate = Arc::new(Mutex::new(()));
    let (engine, forwards) = gated(gate.clone());
    let closed = gate.lock().unwrap();
    let reply = ask(&engine, &[&[1; 40][..]; 3]);
    while forwards.load(Ordering::SeqCst) < 1 {
        thread::yield_now();
    }
    engine.drain();
    let refused = engine.embed(&caller("a"), batch(&[&[1]]), &mut |_| Ok(())).unwrap_err();
    assert_eq!(refused, EmbedError::Refused(Refusal::Draining));
    drop(closed);
    assert_eq!(answer(reply).unwrap().vectors.len(), 3);
}

#[test]
fn texts_of_an_engine_that_gave_up_or_panicked_are_refused() {
    let (failed, _) = engine();
    for _ in 0..3 {
        assert_eq!(answer(ask(&failed, &[&[PANIC]])), Err(Refusal::Internal));
    }
    let (panicked, _) = engine();
    assert_eq!(answer(ask(&panicked, &[&[LATE_PANIC]])), Err(Refusal::Internal));
    for engine in [failed, panicked] {
        assert!(engine.load().failed);
        let refused = engine.embed(&caller("a"), batch(&[&[1]]), &mut |_| Ok(()));
        assert!(matches!(refused, Err(EmbedError::Refused(Refusal::ModelNotReady { .. }))));
    }
}
