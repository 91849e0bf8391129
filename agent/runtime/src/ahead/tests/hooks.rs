//! Instances that wait for the hooks of the next generation.

use std::collections::BTreeMap;

use realm_core::{
    books::Way,
    desired::{DesiredTenant, HostedProgram, Limits, LimitsMode, Priority, Program as Code},
    hook::{Answer, Question, Verdict},
    name::TenantName,
    refusal::{ProgramLimit, Refusal},
    trace::Scope,
};
use tracing::Span;

use super::*;
use crate::{
    asks::Asks,
    bindings::{
        hooked::{HookedPre, exports::realm::tenant::hooks::Request},
        realm::tenant::model::{Params, Sampling},
    },
    hook::{self, Begun},
    host::{HostCall, Own, Role},
    refusal::{Ended, HostError},
    spent::Spent,
    store,
    texts::{TenantTexts, Texts},
};

const LIMITS: ProgramLimits =
    ProgramLimits { host_calls_max: 100, token_fuel_max: 1_000_000, ..super::LIMITS };

type Hooks = Arc<Ahead<HookedPre<Host>>>;

/// A program whose hooks blot out the word that its tenant's settings name.
async fn warden() -> Prepared {
    let warden = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../sdks/guest-rust/programs/warden/warden.wasm");
    let bytes = fs::read(warden).unwrap();
    Runtime::new().unwrap().prepare_program(bytes, &LIMITS).await.unwrap()
}

/// Where one of its hooks waits.
fn hooks(program: &Prepared, places: &Places) -> Hooks {
    let linked = program.0.hooks.clone().unwrap();
    Arc::new(Ahead::new(linked, &LIMITS, places))
}

fn tenant() -> DesiredTenant {
    let config = BTreeMap::from([("redact".to_owned(), "secret".to_owned())]);
    DesiredTenant {
        name: TenantName::new("tests", "ahead").unwrap(),
        weight: 1,
        priority: Priority::Normal,
        suspended: false,
        limits_mode: LimitsMode::Enforce,
        share_group: None,
        limits: Limits {
            requests_per_minute: 1,
            input_tokens_per_minute: 1,
            output_tokens_per_minute: 1,
            calls_max: 1,
            context_max: 1,
            output_tokens_max: 1,
            kv_blocks_max: 1,
            program: LIMITS,
        },
        models: Vec::new(),
        pipelines: BTreeMap::new(),
        keys: Vec::new(),
        program: Some(HostedProgram { code: Code::BuiltIn, config }),
    }
}

/// A call of which hooks may burn `fuel` until they have been asked about a generation.
fn call(program: &Prepared, fuel: u64) -> HostCall {
    let limits = ProgramLimits { fuel_max: fuel, ..LIMITS };
    let allowance = Allowance::new(&limits, None, Instant::now());
    let Allowance { deadline, host_calls, log_lines, .. } = allowance.clone();
    let booking = Arc::new(Spent::default().book(&Way::Direct, &allowance));
    let instances = Instances::of(&program.0, &LIMITS);
    HostCall {
        tenant: Arc::new(tenant()),
        models: Arc::default(),
        way: Way::Direct,
        tokens: None,
        texts: (Texts::default(), TenantTexts::default()),
        asks: Asks::default(),
        store: store::Store::default(),
        deadline,
        role: Role::Hooks { between_tokens: false },
        own: Own { instances, allowance, booking },
        host_calls,
        log_lines,
        span: Span::none(),
        trace: Scope::OFF,
    }
}

fn request() -> Request {
    let sampling = Sampling {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        typical_p: 1.0,
        repetition_penalty: 1.0,
        frequency_penalty: 0.0,
        presence_penalty: 0.0,
        seed: None,
    };
    let params = Params {
        sampling,
        bias: Vec::new(),
        logprobs: None,
        tokens_max: None,
        stop: Vec::new(),
        constraint: None,
        shared_tokens: 0,
    };
    Request { model: "echo".to_owned(), prompt: vec![1], params }
}

/// A generation's hooks that are asked about it and told a token, and what its call pays for that.
struct Generation {
    call: HostCall,
    begun: Result<Begun, HostError>,
}

impl Generation {
    async fn begin(hooks: &Hooks, call: HostCall) -> Self {
        let begun = hook::begin(hooks, &call, request(), 256).await;
        Self { call, begun }
    }

    /// What hooks have burnt until they had been asked.
    fn paid(&self) -> u64 {
        LIMITS.fuel_max - self.call.own.allowance.hook_start.get()
    }

    fn blots_out(&mut self) -> bool {
        let Ok(Begun { hooked: Some((hooked, _)), .. }) = &mut self.begun else { return false };
        let text = "secret".to_owned();
        hooked.hook.ask(Question::Token { id: 7, text, finish: None });
        let answers = std::iter::repeat_with(|| hooked.hook.work());
        let Answer { verdict, .. } = answers.flatten().next().unwrap().unwrap();
        verdict == Verdict::Rewrite("######".to_owned())
    }
}

#[tokio::test]
async fn the_next_generations_hooks_have_the_one_that_was_made_for_them_and_pay_for_it() {
    let (program, places) = (warden().await, places(Duration::ZERO));
    let hooks = hooks(&program, &places);
    let mut first = Generation::begin(&hooks, call(&program, LIMITS.fuel_max)).await;
    assert!(first.blots_out());
    let usual = first.paid();
    assert!(usual > 0);

    until_made(&hooks).await;
    // By which it is known again.
    let mark = 1000;
    hooks.state().made.as_mut().unwrap().burnt += mark;
    let mut second = Generation::begin(&hooks, call(&program, LIMITS.fuel_max)).await;
    assert!(second.blots_out(), "it serves the call that it has come to");
    assert_eq!(second.paid(), usual + mark);

    until_made(&hooks).await;
    let mut third = Generation::begin(&hooks, call(&program, LIMITS.fuel_max)).await;
    assert!(third.blots_out());
    assert_eq!([first.paid(), third.paid()], [usual; 2], "nobody pays for another's");
}

#[tokio::test]
async fn hooks_that_cannot_pay_for_what_was_made_for_them_do_not_come_up() {
    let (program, places) = (warden().await, places(Duration::from_hours(1)));
    let hooks = hooks(&program, &places);
    let mut made = hooks.make().await.unwrap();
    // More than it has taken, so that they have enough for all but that.
    made.burnt = LIMITS.fuel_max + 1;
    hooks.put(made);
    let call = call(&program, LIMITS.fuel_max);
    let Generation { call, begun } = Generation::begin(&hooks, call).await;
    let Err(HostError::Ended(error)) = begun else { panic!("they have come up") };
    let Some(Ended(refusal)) = error.downcast_ref() else { panic!("{error}") };
    let expected = Refusal::ProgramLimit { limit: ProgramLimit::Fuel, max: LIMITS.fuel_max };
    assert_eq!(*refusal, expected);
    assert_eq!(call.own.allowance.spent().fuel, LIMITS.fuel_max, "all that they had");
    assert!(hooks.take().is_none(), "nobody else gets it");
}

#[tokio::test]
async fn hooks_that_turn_out_to_be_quick_to_make_are_not_kept() {
    let (program, places) = (warden().await, places(Duration::from_hours(1)));
    let hooks = hooks(&program, &places);
    // As if the first had been slow.
    hooks.keep();
    assert_eq!(free(&places), PLACES as usize - 1);
    until(|| free(&places) == PLACES as usize).await;
    assert!(hooks.take().is_none());
    let mut next = Generation::begin(&hooks, call(&program, LIMITS.fuel_max)).await;
    assert!(next.blots_out(), "they come up when they are wanted");
    hooks.keep();
    assert_eq!(free(&places), PLACES as usize, "none is made for nothing again");
}
