//! Hooks that steer, rewrite and stop answers, that take too long, and that fail.

use realm_core::hook::{Answer, Hook, Hooked, Overruns, Question, Stages, Steer, Verdict};

use super::*;
use crate::hook::PLACES_MAX;

const ALL: Stages = TEXT.and(Stages::BIAS);
const TEXT: Stages = Stages::TOKEN.and(Stages::FINISH);

/// Longer than any test takes.
const NEVER: Duration = Duration::from_mins(10);

type Say = Box<dyn FnMut(Question) -> Result<Answer, Refusal> + Send>;

/// A hook that answers once it may.
struct Said {
    say: Say,
    question: Option<Question>,
    gate: Arc<Mutex<()>>,
    /// Shared by everything that is alive of it.
    _alive: Arc<()>,
}

impl Hook for Said {
    fn ask(&mut self, question: Question) {
        assert_eq!(self.question.replace(question), None, "it is asked one thing at a time");
    }

    fn work(&mut self) -> Option<Result<Answer, Refusal>> {
        if self.gate.try_lock().is_err() {
            thread::yield_now();
            return None;
        }
        Some((self.say)(self.question.take().unwrap()))
    }
}

/// A hook, its overruns, and what tells whether it is alive.
fn hook(
    stages: Stages,
    (deadline, gate): (Duration, &Arc<Mutex<()>>),
    say: impl FnMut(Question) -> Result<Answer, Refusal> + Send + 'static,
) -> (Hooked, Overruns, Arc<()>) {
    let (overruns, alive) = (Overruns::default(), Arc::new(()));
    let said =
        Said { say: Box::new(say), question: None, gate: gate.clone(), _alive: alive.clone() };
    let hooked = Hooked { hook: Box::new(said), stages, deadline, overruns: overruns.clone() };
    (hooked, overruns, alive)
}

/// One that is never late.
fn prompt_hook(
    stages: Stages,
    say: impl FnMut(Question) -> Result<Answer, Refusal> + Send + 'static,
) -> Hooked {
    hook(stages, (NEVER, &Arc::default()), say).0
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

fn hooked(engine: &EngineHandle, tokens_max: u32, hooked: Hooked) -> Result<TokenStream, Refusal> {
    engine.generate_hooked(&caller("a"), generation(tokens_max), hooked)
}

type Read = (Vec<(u32, String)>, Result<(Finish, u32), Refusal>);

/// The tokens of a stream with their texts, and how it ends with how many tokens made; all of which
/// are of its answer.
fn read(stream: TokenStream) -> Read {
    let (read, unsaid) = read_all(stream);
    assert_eq!(unsaid, 0);
    read
}

/// The same, and how many tokens were made behind the answer.
fn read_all(mut stream: TokenStream) -> (Read, u32) {
    let (mut tokens, mut unsaid) = (Vec::new(), 0);
    loop {
        match stream.blocking_recv().unwrap() {
            TokenEvent::Token(token) => tokens.push((token.id, token.text)),
            TokenEvent::Unsaid(made) => unsaid += made,
            TokenEvent::Finished { finish, usage } => {
                return ((tokens, Ok((finish, usage.completion_tokens))), unsaid);
            }
            TokenEvent::Failed(refusal) => return ((tokens, Err(refusal)), unsaid),
            TokenEvent::Cached(_) | TokenEvent::Rest(_) => {}
        }
    }
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a hook says")]
fn steer(steer: Steer) -> Result<Answer, Refusal> {
    Ok(Answer { steer: Some(steer), ..Answer::default() })
}

#[expect(clippy::unnecessary_wraps, reason = "it is what a hook says")]
fn verdict(verdict: Verdict) -> Result<Answer, Refusal> {
    Ok(Answer { verdict, ..Answer::default() })
}

fn texts(tokens: &[(u32, &str)]) -> Vec<(u32, String)> {
    tokens.iter().map(|(id, text)| (*id, (*text).to_owned())).collect()
}

#[test]
fn what_a_hook_says_of_the_next_token_counts_until_it_says_something_else() {
    let (engine, _) = engine();
    let mut at = 0;
    let said = prompt_hook(ALL, move |question| {
        at += 1;
        match (at, question) {
            (1, Question::Begin) => steer(Steer::Only(vec![0])),
            (2, Question::Token { id: 0, .. }) => Ok(Answer::default()),
            (3, Question::Token { id: 0, .. }) => steer(Steer::Add(vec![(4, -1.0)])),
            (4, Question::Token { id: 1, .. }) => steer(Steer::Add(vec![(0, 50.0)])),
            (5, Question::Token { id: 0, .. }) => steer(Steer::Add(Vec::new())),
            (6, Question::Token { id: 1, finish: Some(Finish::Length), .. }) => {
                Ok(Answer::default())
            }
            other => panic!("{other:?}"),
        }
    });
    let (tokens, end) = read(hooked(&engine, 5, said).unwrap());
    assert_eq!(tokens, texts(&[(0, "a"), (0, "a"), (1, "b"), (0, "a"), (1, "b")]));
    assert_eq!(end, Ok((Finish::Length, 5)));
}

#[test]
fn a_hook_rewrites_text_adds_to_it_and_ends_the_answer() {
    let (engine, _) = engine();
    let said = |stops: bool| {
        let mut at = 0;
        prompt_hook(TEXT, move |question| {
            let Question::Token { text, finish, .. } = question else { panic!("{question:?}") };
            at += 1;
            verdict(match (at, finish) {
                (2, _) if stops => Verdict::Stop("!".to_owned()),
                (_, Some(_)) => Verdict::Rewrite(format!("{text}, the end")),
                _ => Verdict::Rewrite(text.to_uppercase()),
            })
        })
    };
    let (tokens, end) = read(hooked(&engine, 3, said(false)).unwrap());
    assert_eq!(tokens, texts(&[(1, "B"), (1, "B"), (1, "b, the end")]));
    assert_eq!(end, Ok((Finish::Length, 3)));

    let ((tokens, end), unsaid) = read_all(hooked(&engine, 40, said(true)).unwrap());
    assert_eq!(tokens, texts(&[(1, "B"), (1, "!")]));
    assert_eq!(end, Ok((Finish::Stop, 2 + unsaid)), "all that was made is told, and paid for");
    assert_eq!((engine.load().kv_blocks_used, engine.load().sequences_running), (0, 0));
}

#[test]
fn a_hook_that_hears_of_the_end_alone_is_asked_once() {
    let (engine, _) = engine();
    let mut asked = 0;
    let said = prompt_hook(Stages::FINISH, move |question| {
        asked += 1;
        assert_eq!(asked, 1, "{question:?}");
        let Question::Token { text, finish: Some(_), .. } = question else { panic!() };
        verdict(Verdict::Rewrite(text + "."))
    });
    let (tokens, end) = read(hooked(&engine, 2, said).unwrap());
    assert_eq!((tokens, end), (texts(&[(1, "b"), (1, "b.")]), Ok((Finish::Length, 2))));
}

#[test]
fn text_waits_for_no_hook_that_has_no_say_in_it() {
    for (stages, told) in [(Stages::BIAS, 4), (Stages::BIAS.and(Stages::FINISH), 3)] {
        let (engine, _) = engine();
        let gate = Arc::new(Mutex::new(()));
        let deadline = Duration::from_millis(1);
        let (said, overruns, _) = hook(stages, (deadline, &gate), |_| Ok(Answer::default()));
        let closed = gate.lock().unwrap();
        let mut stream = hooked(&engine, 4, said).unwrap();
        for _ in 0..told {
            let TokenEvent::Token(token) = stream.blocking_recv().unwrap() else { panic!() };
            assert_eq!((token.id, token.text.as_str()), (1, "b"));
        }
        while overruns.get() < 4 {
            thread::yield_now();
        }
        if told < 4 {
            assert!(stream.is_empty(), "what the end adds comes behind the last one");
            drop(closed);
        }
        let (tokens, end) = read(stream);
        assert_eq!((tokens.len(), end), (4 - told, Ok((Finish::Length, 4))));
    }
}

#[test]
fn a_hook_that_takes_too_long_holds_up_no_token_and_is_counted() {
    let (engine, _) = engine();
    let gate = Arc::new(Mutex::new(()));
    let deadline = Duration::from_millis(1);
    let (said, overruns, _) = hook(ALL, (deadline, &gate), |question| match question {
        Question::Begin => steer(Steer::Only(vec![3])),
        Question::Token { .. } => Ok(Answer::default()),
    });
    let closed = gate.lock().unwrap();
    let stream = hooked(&engine, 8, said).unwrap();
    // The last of its tokens is chosen while it has said nothing.
    while overruns.get() < 8 {
        thread::yield_now();
    }
    assert_eq!(run(&engine, &[0, 1]), Ok(Finish::Length), "nobody else waits for it");
    assert!(stream.is_empty(), "no text goes past it");
    drop(closed);
    let (tokens, end) = read(stream);
    assert_eq!((tokens, end), (texts(&[(1, "b"); 8]), Ok((Finish::Length, 8))));
    assert_eq!(overruns.get(), 8);
}

#[test]
fn a_hook_that_answers_during_a_long_step_is_heard_for_the_very_next_token() {
    let engine = with(Scripted { takes: Duration::from_millis(50), ..Scripted::default() });
    let deadline = Duration::from_millis(1);
    let mut next = [0, 1, 0, 0].into_iter();
    let (said, overruns, _) = hook(Stages::BIAS, (deadline, &Arc::default()), move |_| {
        next.next().map_or_else(|| Ok(Answer::default()), |id| steer(Steer::Only(vec![id])))
    });
    let (tokens, end) = read(hooked(&engine, 4, said).unwrap());
    assert_eq!(tokens, texts(&[(0, "a"), (1, "b"), (0, "a"), (0, "a")]));
    assert_eq!((end, overruns.get()), (Ok((Finish::Length, 4)), 0));
}

#[test]
fn a_hook_is_late_by_when_it_answered_and_not_by_when_it_was_heard() {
    let engine = with(Scripted { takes: Duration::from_millis(200), ..Scripted::default() });
    let deadline = Duration::from_millis(100);
    let (said, overruns, _) = hook(Stages::TOKEN, (deadline, &Arc::default()), |_| {
        verdict(Verdict::Rewrite("x".to_owned()))
    });
    let (tokens, end) = read(hooked(&engine, 3, said).unwrap());
    assert_eq!((tokens, end), (texts(&[(1, "x"); 3]), Ok((Finish::Length, 3))));
    assert_eq!(overruns.get(), 0);
}

#[test]
fn an_answer_goes_no_further_ahead_of_its_hook_than_it_may() {
    let (engine, _) = engine();
    let gate = Arc::new(Mutex::new(()));
    let (said, overruns, _) =
        hook(Stages::TOKEN, (Duration::ZERO, &gate), |_| verdict(Verdict::Rewrite("x".to_owned())));
    let closed = gate.lock().unwrap();
    let stream = hooked(&engine, 40, said).unwrap();
    let made = || engine.load().generated_tokens_total;
    while made() < 16 {
        thread::yield_now();
    }
    for _ in 0..3 {
        assert_eq!(run(&engine, &[0, 1]), Ok(Finish::Length), "others go on");
    }
    assert_eq!(made(), 16 + 9, "and this one does not");
    drop(closed);
    let (tokens, end) = read(stream);
    assert_eq!((tokens, end), (texts(&[(1, "x"); 40]), Ok((Finish::Length, 40))));
    assert_eq!(overruns.get(), 40);
}

#[test]
fn a_hook_that_fails_panics_or_leaves_no_token_ends_its_own_answer() {
    let (engine, _) = engine();
    let failed = Refusal::ProgramFailed("on purpose".to_owned());
    let refusal = failed.clone();
    let said = prompt_hook(ALL, move |question| match question {
        Question::Begin => Ok(Answer::default()),
        Question::Token { .. } => Err(refusal.clone()),
    });
    let ((tokens, end), unsaid) = read_all(hooked(&engine, 8, said).unwrap());
    assert_eq!((tokens, end), (Vec::new(), Err(failed)));
    assert_eq!(unsaid, 1, "what was made is paid for");

    let said = prompt_hook(ALL, |_| panic!("told to"));
    assert_eq!(read(hooked(&engine, 8, said).unwrap()).1, Err(Refusal::Internal));

    let said = prompt_hook(ALL, |_| steer(Steer::Only(vec![99])));
    let (_, end) = read(hooked(&engine, 8, said).unwrap());
    assert!(matches!(end, Err(Refusal::ProgramFailed(_))), "{end:?}");

    assert_eq!(run(&engine, &[0, 1]), Ok(Finish::Length));
    let load = engine.load();
    assert_eq!((load.kv_blocks_used, load.sequences_running, load.failed), (0, 0, false));
}

#[test]
fn all_that_was_made_ahead_of_a_hook_that_fails_is_paid_for_and_says_nothing() {
    let (engine, _) = engine();
    let gate = Arc::new(Mutex::new(()));
    let failed = Refusal::ProgramFailed("on purpose".to_owned());
    let refusal = failed.clone();
    let (said, ..) = hook(TEXT, (NEVER, &gate), move |_| Err(refusal.clone()));
    let closed = gate.lock().unwrap();
    let stream = hooked(&engine, 8, said).unwrap();
    while engine.load().generated_tokens_total < 8 {
        thread::yield_now();
    }
    drop(closed);
    assert_eq!(read_all(stream), ((Vec::new(), Err(failed)), 8));
}

#[test]
fn what_was_made_behind_the_end_that_a_hook_makes_is_told_as_that() {
    let (engine, _) = engine();
    let gate = Arc::new(Mutex::new(()));
    let stop = || verdict(Verdict::Stop("!".to_owned()));
    let (said, ..) = hook(TEXT, (NEVER, &gate), move |_| stop());
    let closed = gate.lock().unwrap();
    let stream = hooked(&engine, 8, said).unwrap();
    while engine.load().generated_tokens_total < 8 {
        thread::yield_now();
    }
    drop(closed);
    assert_eq!(read_all(stream), ((texts(&[(1, "!")]), Ok((Finish::Stop, 8))), 7));
}

#[test]
fn an_answer_that_nobody_reads_lets_its_hook_go() {
    let (engine, _) = engine();
    let gate = Arc::new(Mutex::new(()));
    let (said, _, alive) = hook(ALL, (NEVER, &gate), |_| Ok(Answer::default()));
    let closed = gate.lock().unwrap();
    let stream = hooked(&engine, 8, said).unwrap();
    while engine.load().sequences_running == 0 {
        thread::yield_now();
    }
    drop(stream);
    while engine.load().sequences_running > 0 {
        thread::yield_now();
    }
    assert_eq!(Arc::strong_count(&alive), 2, "it is at work");
    drop(closed);
    while Arc::strong_count(&alive) > 1 {
        thread::yield_now();
    }
}

#[test]
fn a_hook_is_asked_nothing_more_of_an_answer_whose_reader_leaves_an_idle_engine() {
    let (engine, _) = engine();
    let gate = Arc::new(Mutex::new(()));
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let (said, _, alive) = hook(TEXT, (NEVER, &gate), move |_| {
        count.fetch_add(1, Ordering::SeqCst);
        Ok(Answer::default())
    });
    let closed = gate.lock().unwrap();
    let stream = hooked(&engine, 8, said).unwrap();
    while engine.load().generated_tokens_total < 8 || engine.load().sequences_running > 0 {
        thread::yield_now();
    }
    drop(stream);
    while engine.tenants().iter().any(|(_, load)| load.sequences_queued > 0) {
        thread::yield_now();
    }
    drop(closed);
    while Arc::strong_count(&alive) > 1 {
        thread::yield_now();
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "of what it was at work on");
}

#[test]
fn an_engine_that_gives_up_lets_hooks_go_that_are_at_work_or_have_answered() {
    for answers in [false, true] {
        let (engine, forwards) = engine();
        let gate = Arc::new(Mutex::new(()));
        let (said, _, alive) = hook(ALL, (NEVER, &gate), |_| Ok(Answer::default()));
        let closed = gate.lock().unwrap();
        let stream = hooked(&engine, 8, said).unwrap();
        while forwards.load(Ordering::SeqCst) < 1 {
            thread::yield_now();
        }
        for _ in 0..3 {
            assert_eq!(run(&engine, &[PANIC]), Err(Refusal::Internal));
        }
        assert_eq!(read(stream).1, Err(Refusal::Internal));
        let closed = (!answers).then_some(closed);
        while Arc::strong_count(&alive) > 1 {
            thread::yield_now();
        }
        drop(closed);
    }
}

#[test]
fn a_tenant_has_so_many_answers_with_hooks_at_once_and_no_more() {
    let (engine, _) = engine();
    let gate = Arc::new(Mutex::new(()));
    let closed = gate.lock().unwrap();
    let (mut streams, mut alive) = (Vec::new(), Vec::new());
    let mut begin = || {
        let (said, _, lives) = hook(ALL, (NEVER, &gate), |_| Ok(Answer::default()));
        alive.push(lives);
        hooked(&engine, 8, said)
    };
    for _ in 0..PLACES_MAX.of_tenant {
        streams.push(begin().unwrap());
    }
    assert!(matches!(begin(), Err(Refusal::Busy { .. })));
    let (others, ..) = hook(ALL, (NEVER, &gate), |_| Ok(Answer::default()));
    let other = engine.generate_hooked(&caller("b"), generation(1), others);
    other.unwrap();
    drop(closed);
    for stream in streams {
        assert_eq!(read(stream).1, Ok((Finish::Length, 8)));
    }
    while alive.iter().any(|alive| Arc::strong_count(alive) > 1) {
        thread::yield_now();
    }
    let (said, ..) = hook(ALL, (NEVER, &gate), |_| Ok(Answer::default()));
    assert_eq!(read(hooked(&engine, 2, said).unwrap()).1, Ok((Finish::Length, 2)));
}
