//! A program's hooks: an instance of their own beside each of its generations.
//!
//! It comes up and is asked about the request on the doors' runtime, within what its call may spend.
//! From then on it is the engine's: worked on by threads that know nothing of WebAssembly, a few
//! thousand instructions at a time.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use realm_core::{
    desired::ProgramLimits,
    engine::Finish,
    hook::{Answer, Hook, Hooked, Question, Stages, Steer, TEXT_BYTES_MAX, Verdict},
    refusal::Refusal,
};
use wasmtime::Store;

use crate::{
    ahead::{Ahead, Made},
    asks::Asked,
    bindings::{
        hooked::{
            Hooked as Bound, HookedPre,
            exports::realm::tenant::hooks::{self, Plan, Request},
        },
        realm::tenant::{
            model::{Bias, Params},
            types,
        },
    },
    host::{Host, HostCall},
    meter::{Left, Tally},
    pool,
    refusal::{Ended, HostError, internal, returned, trapped},
    spent::Booking,
};

/// Bytes that a hook may hand to the host at once between tokens: its text, or its tokens with what
/// is added to each, twice over.
const BYTES_MAX: usize = 2 * TEXT_BYTES_MAX;

/// What a generation is begun with.
pub(crate) struct Begun {
    pub(crate) params: Params,
    /// `None` where the program wants nothing more to do with it. The place is kept until the engine
    /// has given it one of its own, or refused to: an instance is counted for as long as it is there.
    pub(crate) hooked: Option<(Hooked, Asked)>,
}

/// Brings up an instance of its program's hooks for `call`, and asks it about a generation.
pub(crate) async fn begin(
    of: &Arc<Ahead<HookedPre<Host>>>,
    call: &HostCall,
    request: Request,
    vocabulary: u32,
) -> Result<Begun, HostError> {
    // Before there is anything of an instance, and dropped behind all of it.
    let asked = call.asks.take().await.map_err(|_| internal("the places for hooks are closed"))?;
    let limits = call.tenant.limits.program;
    let start = call.own.allowance.hook_start.clone();
    let ended = |error: wasmtime::Error| ended(&error, limits.fuel_max);
    let host = Host::of_call(call.of_hook());
    let (store, made) = stand_in(of, host, &start, &call.own.allowance.hook_fuel).map_err(ended)?;
    let mut fueled = Fueled::new(store, call.own.allowance.hook_fuel.clone());
    let booking = call.own.booking.clone();
    let starting = Starting::new(&mut fueled, start).map_err(ended)?;
    let (bound, planned) = starting.plan(of, made, &request).await.map_err(ended)?;
    let told = fueled.store.data_mut().take_told();
    let Plan { params, stages } = planned.map_err(|error| returned(error, told))?;
    let stages = stages_of(stages);
    if stages == Stages::default() {
        return Ok(Begun { params, hooked: None });
    }
    fueled.store.data_mut().begin_tokens();
    let stand = Stand { fueled, bound, stages, limits, vocabulary, _booking: booking };
    let hooked = Hooked {
        hook: Box::new(Standing(State::Idle(Box::new(stand)))),
        stages,
        deadline: Duration::from_millis(limits.token_deadline_ms),
        overruns: call.own.allowance.overruns.clone(),
    };
    Ok(Begun { params, hooked: Some((hooked, asked)) })
}

/// A store for the hooks' instance, and that instance where one was made ahead. What coming up has
/// burnt is then paid here.
fn stand_in(
    of: &Arc<Ahead<HookedPre<Host>>>,
    host: Host,
    start: &Left,
    spent: &Tally,
) -> wasmtime::Result<(Store<Host>, Option<Bound>)> {
    let Some(Made { mut store, bound, burnt }) = of.take() else {
        return Ok((of.store(host)?, None));
    };
    let left = start.get();
    let paid = pool::pay(start, burnt);
    spent.add(left.saturating_sub(start.get()));
    paid?;
    store.data_mut().serve(host);
    Ok((store, Some(bound)))
}

fn stages_of(wanted: hooks::Stages) -> Stages {
    let known = [
        (hooks::Stages::BIAS, Stages::BIAS),
        (hooks::Stages::TOKEN, Stages::TOKEN),
        (hooks::Stages::FINISH, Stages::FINISH),
    ];
    let wanted = known.into_iter().filter(|(stage, _)| wanted.contains(*stage));
    wanted.fold(Stages::default(), |all, (_, stage)| all.and(stage))
}

fn ended(error: &wasmtime::Error, fuel_max: u64) -> HostError {
    Ended(trapped(error, fuel_max)).into()
}

/// A store that books what is burnt in it, even where it is dropped half-way.
struct Fueled {
    store: Store<Host>,
    granted: u64,
    spent: Tally,
}

impl Fueled {
    const fn new(store: Store<Host>, spent: Tally) -> Self {
        Self { store, granted: 0, spent }
    }

    fn grant(&mut self, fuel: u64) -> wasmtime::Result<()> {
        self.book();
        self.store.set_fuel(fuel)?;
        self.granted = fuel;
        Ok(())
    }

    fn left(&self) -> u64 {
        // Every store counts fuel; one that did not would have none left.
        self.store.get_fuel().unwrap_or(0)
    }

    fn book(&mut self) {
        let left = self.left();
        self.spent.add(self.granted.saturating_sub(left));
        self.granted = left;
    }
}

impl Drop for Fueled {
    fn drop(&mut self) {
        self.book();
    }
}

/// Hooks that are coming up. What they leave of their call's fuel for that goes back to it, even
/// where they are dropped half-way: a step that went over its deadline has spent what it has spent.
struct Starting<'a> {
    fueled: &'a mut Fueled,
    /// What those of one call may spend on that together.
    start: Left,
}

impl Drop for Starting<'_> {
    fn drop(&mut self) {
        self.start.set(self.fueled.left());
    }
}

impl<'a> Starting<'a> {
    fn new(fueled: &'a mut Fueled, start: Left) -> wasmtime::Result<Self> {
        fueled.grant(start.get())?;
        Ok(Self { fueled, start })
    }

    async fn plan(
        self,
        of: &Arc<Ahead<HookedPre<Host>>>,
        made: Option<Bound>,
        request: &Request,
    ) -> wasmtime::Result<(Bound, Result<Plan, types::Error>)> {
        let store = &mut self.fueled.store;
        let bound = match made {
            Some(bound) => bound,
            None => of.bring_up(store).await?,
        };
        let planned = bound.realm_tenant_hooks().call_on_request(store, request).await?;
        Ok((bound, planned))
    }
}

/// Hooks that stand beside a generation. What they have burnt is booked before their call is.
struct Stand {
    fueled: Fueled,
    bound: Bound,
    stages: Stages,
    limits: ProgramLimits,
    vocabulary: u32,
    _booking: Arc<Booking>,
}

impl Stand {
    async fn answer(&mut self, question: Question) -> Result<Answer, Refusal> {
        let fuel_max = self.limits.token_fuel_max;
        let answer = self.ask(question).await.map_err(|error| trapped(&error, fuel_max))?;
        if let Some(steer) = &answer.steer {
            steer.check(self.vocabulary)?;
        }
        if let Verdict::Rewrite(text) | Verdict::Stop(text) = &answer.verdict
            && text.len() > TEXT_BYTES_MAX
        {
            let bytes = text.len();
            let message = format!("its hook wrote {bytes} bytes; {TEXT_BYTES_MAX} are the most");
            return Err(Refusal::ProgramFailed(message));
        }
        Ok(answer)
    }

    async fn ask(&mut self, question: Question) -> wasmtime::Result<Answer> {
        self.fueled.grant(self.limits.token_fuel_max)?;
        self.fueled.store.set_hostcall_fuel(BYTES_MAX);
        let answer = match question {
            Question::Begin => Answer { steer: self.bias(None).await?, ..Answer::default() },
            Question::Token { id, text, finish } => {
                let verdict = self.on_token(id, &text).await?;
                match (&verdict, finish) {
                    (Verdict::Stop(_), _) => Answer { verdict, steer: None },
                    (_, Some(finish)) => {
                        let verdict = self.on_finish(verdict, text, finish).await?;
                        Answer { verdict, steer: None }
                    }
                    (_, None) => Answer { verdict, steer: self.bias(Some(id)).await? },
                }
            }
        };
        self.fueled.book();
        Ok(answer)
    }

    async fn bias(&mut self, last: Option<u32>) -> wasmtime::Result<Option<Steer>> {
        if !self.stages.have(Stages::BIAS) {
            return Ok(None);
        }
        let hooks = self.bound.realm_tenant_hooks();
        Ok(match hooks.call_bias(&mut self.fueled.store, last).await? {
            hooks::Steer::Same => None,
            hooks::Steer::Add(biases) => {
                Some(Steer::Add(biases.into_iter().map(|Bias { id, by }| (id, by)).collect()))
            }
            hooks::Steer::Only(ids) => Some(Steer::Only(ids)),
        })
    }

    async fn on_token(&mut self, id: u32, text: &str) -> wasmtime::Result<Verdict> {
        if !self.stages.have(Stages::TOKEN) {
            return Ok(Verdict::Pass);
        }
        let hooks = self.bound.realm_tenant_hooks();
        Ok(match hooks.call_on_token(&mut self.fueled.store, id, text).await? {
            hooks::Verdict::Pass => Verdict::Pass,
            hooks::Verdict::Rewrite(text) => Verdict::Rewrite(text),
            hooks::Verdict::Stop(text) => Verdict::Stop(text),
        })
    }

    /// The last token's verdict with what comes behind it.
    async fn on_finish(
        &mut self,
        verdict: Verdict,
        text: String,
        finish: Finish,
    ) -> wasmtime::Result<Verdict> {
        if !self.stages.have(Stages::FINISH) {
            return Ok(verdict);
        }
        let finish = match finish {
            Finish::Stop => types::Finish::Stop,
            Finish::Length => types::Finish::Length,
        };
        let hooks = self.bound.realm_tenant_hooks();
        let more = hooks.call_on_finish(&mut self.fueled.store, finish).await?;
        Ok(match verdict {
            Verdict::Pass if more.is_empty() => Verdict::Pass,
            Verdict::Pass => Verdict::Rewrite(text + &more),
            Verdict::Rewrite(text) | Verdict::Stop(text) => Verdict::Rewrite(text + &more),
        })
    }
}

type Work = Pin<Box<dyn Future<Output = (Box<Stand>, Result<Answer, Refusal>)> + Send>>;

enum State {
    Idle(Box<Stand>),
    Working(Work),
    /// It was asked while it worked, which nobody does.
    Lost,
}

/// Hooks in the hands of an engine.
struct Standing(State);

impl Hook for Standing {
    fn ask(&mut self, question: Question) {
        self.0 = match std::mem::replace(&mut self.0, State::Lost) {
            State::Idle(mut stand) => State::Working(Box::pin(async move {
                let answer = stand.answer(question).await;
                (stand, answer)
            })),
            State::Working(_) | State::Lost => State::Lost,
        };
    }

    fn work(&mut self) -> Option<Result<Answer, Refusal>> {
        let State::Working(work) = &mut self.0 else {
            return Some(Err(internal("a hook was not asked anything")));
        };
        // It waits for nothing but its next turn: between tokens, nothing that it may call waits.
        match work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => None,
            Poll::Ready((stand, answer)) => {
                self.0 = State::Idle(stand);
                Some(answer)
            }
        }
    }
}

/// How hooks end that do what only their program's functions may.
pub(crate) fn forbidden(what: &str) -> Ended {
    Ended(Refusal::ProgramFailed(format!("its hooks {what}")))
}
