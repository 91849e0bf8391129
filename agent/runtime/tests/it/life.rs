//! Tenants, programs and models that come, change and go while calls run.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use realm_core::{
    call::{Call, CallId, Deadline},
    desired::{DesiredTenant, HostedProgram},
    embed::Abilities,
    name::ModelName,
    refusal::Refusal,
    reply::{Reply, ReplyEvent},
    tenants::{ModelInfo, Tenants as _},
};
use realm_runtime::{Awaited, Runtime};
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TryRecvError;

use crate::{
    echo::{Echo, Mood},
    town::{Citizen, Town, next, read, town, until},
};

/// What a model that is there can be asked for.
const fn able(ready: bool) -> Option<Abilities> {
    let all = Abilities { generates: true, chats: true, embeds: None };
    if ready { Some(all) } else { None }
}

/// A tenant whose model answers after its first token only when it is told to.
struct Held {
    town: &'static Town,
    citizen: Citizen,
    engine: Arc<Echo>,
}

impl Held {
    async fn new(name: &str, calls_max: u32, input_tokens: u32) -> Self {
        let town = town().await;
        let engine = Echo::new(&format!("tests/{name}"), Mood::Hold);
        let mut citizen = Citizen::new(name).with_model(&town.runtime, engine.clone());
        citizen.tenant.limits.calls_max = calls_max;
        citizen.tenant.limits.input_tokens_per_minute = input_tokens;
        let citizen = citizen.moves_into(&town.runtime, &town.built_in);
        Self { town, citizen, engine }
    }

    fn params() -> Value {
        json!({ "messages": [{ "role": "user", "content": "hello" }] })
    }

    /// Begins a call and waits for its first chunk.
    async fn begin(&self) -> Reply {
        let mut reply = self.citizen.call(&self.town.runtime, "chat", &Self::params());
        let first = next(&mut reply).await;
        assert!(matches!(first, ReplyEvent::Chunk(_)), "{first:?}");
        reply
    }

    /// Lets so many of its program's instances answer at once.
    fn put_instances_max(&mut self, instances_max: u32) {
        self.citizen.tenant.limits.program.instances_max = instances_max;
        let tenant = Arc::new(self.citizen.tenant.clone());
        self.town.runtime.put_tenant(tenant, self.town.built_in.clone());
    }

    /// Begins a call that gets no instance: a neighbour's call passes from its begin to its end
    /// meanwhile.
    async fn begin_in_vain(&self) -> Reply {
        let running = self.engine.running.load(Ordering::SeqCst);
        let mut reply = self.citizen.call(&self.town.runtime, "chat", &Self::params());
        let echo = Echo::new("tests/beside", Mood::Echo);
        let neighbour = Citizen::new("beside").with_model(&self.town.runtime, echo);
        let neighbour = neighbour.moves_into(&self.town.runtime, &self.town.built_in);
        neighbour.done(&self.town.runtime, "chat", &Self::params()).await.end.unwrap();
        assert_eq!(reply.try_recv().unwrap_err(), TryRecvError::Empty);
        assert_eq!(self.engine.running.load(Ordering::SeqCst), running);
        reply
    }

    fn waits(&self) -> u64 {
        let spent = self.town.runtime.spent().into_iter();
        let mut own = spent.filter(|(tenant, _)| *tenant == self.citizen.tenant.name);
        own.next().unwrap().1.rows().map(|(_, spent)| spent.instance_waits).sum()
    }

    /// Calls that wait for an instance now.
    fn waiting(&self) -> u32 {
        let waiting = self.town.runtime.waiting().into_iter();
        let mut own = waiting.filter(|(tenant, _)| *tenant == self.citizen.tenant.name);
        own.next().unwrap().1
    }

    async fn engine_is_free(&self) {
        until(|| self.engine.running.load(Ordering::SeqCst) == 0).await;
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_the_generation_and_frees_its_place() {
    let held = Held::new("goes-away", 1, 20).await;
    let reply = held.begin().await;
    assert_eq!(held.engine.running.load(Ordering::SeqCst), 1);
    drop(reply);
    held.engine_is_free().await;
    let place_is_taken = || {
        let call = held.citizen.admit("chat", &Held::params());
        matches!(call, Err(Refusal::TooManyCalls { .. }))
    };
    until(|| !place_is_taken()).await;
    let left = held.citizen.quota().input_tokens;
    assert!((8..=9).contains(&left), "the prompt of twelve is paid for: {left}");
}

#[tokio::test]
async fn a_call_beyond_its_tenants_instances_waits_until_one_is_free_and_keeps_nobody_else() {
    let mut held = Held::new("crowded", 10, 1000).await;
    held.put_instances_max(2);
    let (first, second) = (held.begin().await, held.begin().await);
    let mut third = held.begin_in_vain().await;
    drop(first);
    assert!(matches!(next(&mut third).await, ReplyEvent::Chunk(_)));
    held.engine.release.send_replace(true);
    for reply in [second, third] {
        read(reply).await.end.unwrap();
    }
    until(|| held.waits() == 1).await;
}

#[tokio::test]
async fn a_call_that_waits_for_an_instance_ends_at_its_deadline_and_costs_nothing() {
    let mut held = Held::new("crowded-out", 10, 1000).await;
    held.put_instances_max(1);
    let _running = held.begin().await;
    let left = held.citizen.quota().input_tokens;
    held.citizen.tenant.limits.program.deadline_ms = 50;
    held.put_instances_max(1);
    let refusal = held.citizen.refused(&held.town.runtime, "chat", &Held::params()).await;
    assert_eq!(refusal, Refusal::DeadlineExceeded { deadline_ms: 50 });
    assert!(held.citizen.quota().input_tokens >= left);
    assert_eq!(held.engine.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_call_that_waits_begins_when_its_tenant_may_have_more_instances() {
    let mut held = Held::new("grown", 10, 1000).await;
    held.put_instances_max(1);
    let _first = held.begin().await;
    let mut second = held.begin_in_vain().await;
    assert_eq!(held.waiting(), 1);
    held.put_instances_max(2);
    assert!(matches!(next(&mut second).await, ReplyEvent::Chunk(_)));
    assert_eq!(held.waiting(), 0);
    drop(held.begin_in_vain().await);
    until(|| held.waiting() == 0).await;
}

#[tokio::test]
async fn where_a_tenant_may_have_fewer_instances_none_begins_until_as_many_have_ended() {
    let mut held = Held::new("shrunk", 10, 1000).await;
    held.put_instances_max(2);
    let (first, second) = (held.begin().await, held.begin().await);
    held.put_instances_max(1);
    drop(first);
    until(|| held.engine.running.load(Ordering::SeqCst) == 1).await;
    let mut third = held.begin_in_vain().await;
    drop(second);
    assert!(matches!(next(&mut third).await, ReplyEvent::Chunk(_)));
}

#[tokio::test]
async fn a_call_that_waits_for_an_instance_is_in_hand_and_ends_with_its_tenant() {
    let mut held = Held::new("suspended-waiting", 10, 1000).await;
    held.put_instances_max(1);
    let _first = held.begin().await;
    let waits = held.begin_in_vain().await;
    assert!(held.town.runtime.in_hand() >= 1);
    held.citizen.tenant.suspended = true;
    held.put_instances_max(1);
    assert_eq!(read(waits).await.end.unwrap_err(), Refusal::Suspended);
    until(|| held.waiting() == 0).await;
}

#[tokio::test]
async fn a_place_is_free_again_when_the_end_is_told() {
    let held = Held::new("place", 1, 1000).await;
    held.engine.release.send_replace(true);
    for _ in 0..50 {
        let told = held.citizen.done(&held.town.runtime, "chat", &Held::params()).await;
        told.end.unwrap();
    }
}

#[tokio::test]
async fn work_on_a_text_that_outlives_its_call_keeps_the_calls_place() {
    let town = town().await;
    let engine = Echo::new("tests/stalls", Mood::Stall);
    let mut citizen = Citizen::new("stalls").with_model(&town.runtime, engine.clone());
    citizen.tenant.limits.calls_max = 1;
    citizen.tenant.limits.program.deadline_ms = 2000;
    let citizen = citizen.moves_into(&town.runtime, &town.built_in);
    let params = json!({ "text": "a".repeat(5000) });
    let refusal = citizen.refused(&town.runtime, "tokenize", &params).await;
    assert_eq!(refusal, Refusal::DeadlineExceeded { deadline_ms: 2000 });
    assert_eq!(engine.running.load(Ordering::SeqCst), 1, "it goes on");
    let refusal = citizen.admit("tokenize", &params).unwrap_err();
    assert_eq!(refusal, Refusal::TooManyCalls { calls_max: 1 });
    engine.release.send_replace(true);
    until(|| citizen.admit("tokenize", &params).is_ok()).await;
}

#[tokio::test]
async fn a_running_call_ends_in_the_program_it_began_in() {
    let held = Held::new("replaced", 10, 1000).await;
    let reply = held.begin().await;
    let tenant = Arc::new(held.citizen.tenant.clone());
    held.town.runtime.put_tenant(tenant, held.town.pirate.clone());
    held.engine.release.send_replace(true);
    let told = read(reply).await;
    assert_eq!(told.text(), "ser: hello\n");
    told.end.unwrap();
    let told = held.citizen.done(&held.town.runtime, "chat", &Held::params()).await;
    assert!(told.text().ends_with("USER: HELLO\n"), "{}", told.text());
}

#[tokio::test]
async fn a_removed_tenants_calls_end_and_its_next_is_not_let_in() {
    let held = Held::new("removed", 10, 1000).await;
    let reply = held.begin().await;
    held.town.runtime.remove_tenant(&held.citizen.tenant.name);
    assert_eq!(read(reply).await.end.unwrap_err(), Refusal::Cancelled);
    held.engine_is_free().await;
    let refusal = held.citizen.refused(&held.town.runtime, "chat", &Held::params()).await;
    assert_eq!(refusal, Refusal::Unauthenticated);
    assert!(held.town.runtime.functions(&held.citizen.caller()).await.is_empty());
}

#[tokio::test]
async fn a_suspended_tenants_calls_end_and_its_next_is_refused_until_it_is_back() {
    let held = Held::new("suspended", 10, 1000).await;
    let reply = held.begin().await;
    let mut suspended = held.citizen.tenant.clone();
    suspended.suspended = true;
    held.town.runtime.put_tenant(Arc::new(suspended), held.town.built_in.clone());
    assert_eq!(read(reply).await.end.unwrap_err(), Refusal::Suspended);
    let refusal = held.citizen.refused(&held.town.runtime, "chat", &Held::params()).await;
    assert_eq!(refusal, Refusal::Suspended);
    let back = Arc::new(held.citizen.tenant.clone());
    held.town.runtime.put_tenant(back, held.town.built_in.clone());
    held.engine.release.send_replace(true);
    held.citizen.done(&held.town.runtime, "chat", &Held::params()).await.end.unwrap();
}

#[tokio::test]
async fn a_clients_own_deadline_ends_its_call() {
    let held = Held::new("deadline", 10, 1000).await;
    let deadline = Some(Deadline::after(Instant::now(), 300));
    let call = Call { deadline, ..Call::new(CallId("1".into()), "chat", Held::params()) };
    let caller = held.citizen.caller();
    let admitted = held.citizen.limiter.admit(caller, call, Instant::now()).unwrap();
    let refusal = read(held.town.runtime.start(admitted)).await.end.unwrap_err();
    assert_eq!(refusal, Refusal::DeadlineExceeded { deadline_ms: 300 });
    held.engine_is_free().await;
}

#[tokio::test]
async fn a_model_that_is_not_there_yet_says_why() {
    let town = town().await;
    let model = ModelName::parse("tests/slow").unwrap();
    let mut citizen = Citizen::new("waits");
    citizen.grant(&model);
    let citizen = citizen.moves_into(&town.runtime, &town.built_in);
    let not_ready =
        |reason: &str| Refusal::ModelNotReady { model: "slow".into(), reason: reason.into() };
    let params = json!({ "prompt": "a" });
    let refusal = citizen.refused(&town.runtime, "generate", &params).await;
    assert_eq!(refusal, not_ready("it is not on this node yet"));
    town.runtime.await_model(model.clone(), Awaited::Fetching);
    let refusal = citizen.refused(&town.runtime, "generate", &params).await;
    assert_eq!(refusal, not_ready("fetching"));
    let failed = Awaited::Failed("DigestMismatch");
    town.runtime.await_model(model.clone(), failed);
    let refusal = citizen.refused(&town.runtime, "generate", &params).await;
    assert_eq!(refusal, not_ready("failed: DigestMismatch"));
    let info =
        |ready, context| ModelInfo { alias: "slow".into(), ready, context, abilities: able(ready) };
    assert_eq!(town.runtime.models(&citizen.caller()), [info(false, None)]);

    town.runtime.put_model(model.clone(), Echo::new("tests/slow", Mood::Echo));
    town.runtime.await_model(model.clone(), failed);
    citizen.done(&town.runtime, "generate", &params).await.end.unwrap();
    assert_eq!(town.runtime.models(&citizen.caller()), [info(true, Some(50_000))]);
    town.runtime.remove_model(&model);
    citizen.refused(&town.runtime, "generate", &params).await;
}

#[tokio::test]
async fn a_tenant_is_as_desired_before_its_new_program_is_there() {
    let held = Held::new("awaiting", 10, 1000).await;
    let reply = held.begin().await;
    let mut suspended = held.citizen.tenant.clone();
    suspended.suspended = true;
    held.town.runtime.await_tenant(Arc::new(suspended));
    assert_eq!(read(reply).await.end.unwrap_err(), Refusal::Suspended);
    let mut bare = held.citizen.tenant.clone();
    bare.models.clear();
    held.town.runtime.await_tenant(Arc::new(bare));
    assert!(held.town.runtime.models(&held.citizen.caller()).is_empty());
    assert!(!held.town.runtime.functions(&held.citizen.caller()).await.is_empty());
}

#[tokio::test]
async fn calls_of_a_tenant_whose_first_program_is_not_there_are_told_why() {
    let runtime = Runtime::new().unwrap();
    let built_in = runtime.prepare_built_in().await.unwrap();
    let engine = Echo::new("tests/new", Mood::Echo);
    let citizen = Citizen::new("new").with_model(&runtime, engine);
    let (tenant, params) = (Arc::new(citizen.tenant.clone()), json!({ "prompt": "a" }));
    let (name, model) = (&tenant.name, &tenant.models[0].model);
    let not_ready = |reason: &str| Refusal::ProgramNotReady { reason: reason.into() };
    let mut arrivals = runtime.arrivals();

    runtime.await_tenant(tenant.clone());
    let refusal = citizen.refused(&runtime, "generate", &params).await;
    assert_eq!((refusal, runtime.lacks(name)), (not_ready("fetching"), None));
    runtime.miss_program(name, "SourceNotFound");
    assert!(arrivals.has_changed().unwrap(), "calls that wait look again");
    arrivals.mark_unchanged();
    let refusal = citizen.refused(&runtime, "generate", &params).await;
    assert_eq!(refusal, not_ready("failed: SourceNotFound"));
    assert_eq!(refusal.retry_after_ms(), Some(2000));
    assert_eq!(runtime.lacks(name), Some(refusal.clone()));
    // It is tried again, and fails again: nobody is told another thing, or woken.
    runtime.await_tenant(tenant.clone());
    assert_eq!(runtime.lacks(name), Some(refusal));
    runtime.miss_program(name, "SourceNotFound");
    assert!(!arrivals.has_changed().unwrap());
    // Another one might come.
    let other =
        HostedProgram { config: [("a".into(), "b".into())].into(), ..HostedProgram::built_in() };
    runtime
        .await_tenant(Arc::new(DesiredTenant { program: Some(other), ..citizen.tenant.clone() }));
    assert_eq!(runtime.lacks(name), None);
    assert!(!runtime.hosts(name, model));
    let info = |ready, context| {
        [ModelInfo { alias: "new".into(), ready, context, abilities: able(ready) }]
    };
    assert_eq!(runtime.models(&citizen.caller()), info(false, None));

    runtime.put_tenant(tenant.clone(), built_in);
    assert!(arrivals.has_changed().unwrap());
    citizen.done(&runtime, "generate", &params).await.end.unwrap();
    // It goes on with the one that it has.
    runtime.await_tenant(tenant.clone());
    runtime.miss_program(name, "SourceNotFound");
    assert_eq!((runtime.lacks(name), runtime.awaits_program(name)), (None, None));
    citizen.done(&runtime, "generate", &params).await.end.unwrap();
    runtime.remove_tenant(name);
    let refusal = citizen.refused(&runtime, "generate", &params).await;
    assert_eq!(refusal, Refusal::Unauthenticated);
}

#[tokio::test]
async fn a_node_whose_every_sandbox_is_taken_is_busy_and_serves_again() {
    let runtime = Runtime::new().unwrap();
    let built_in = runtime.prepare_built_in().await.unwrap();
    let engine = Echo::new("tests/full", Mood::Hold);
    let mut citizen = Citizen::new("full").with_model(&runtime, engine.clone());
    // More than there are, as several tenants may have together.
    citizen.tenant.limits.program.instances_max = 1000;
    let citizen = citizen.moves_into(&runtime, &built_in);
    let mut replies = Vec::new();
    let refusal = loop {
        let mut reply = citizen.call(&runtime, "chat", &Held::params());
        match next(&mut reply).await {
            ReplyEvent::Chunk(_) => replies.push(reply),
            ReplyEvent::Failed(refusal) => break refusal,
            other @ ReplyEvent::Done(_) => panic!("{} run: {other:?}", replies.len()),
        }
    };
    assert!(matches!(refusal, Refusal::Busy { .. }), "{refusal:?}");
    // The places of instances that are made ahead are beside those of the 512.
    assert!((512..=512 + 16).contains(&replies.len()), "{} run", replies.len());
    engine.release.send_replace(true);
    for reply in replies {
        read(reply).await.end.unwrap();
    }
    citizen.done(&runtime, "chat", &Held::params()).await.end.unwrap();
}
