//! Two steps and more, as one call.

use std::sync::{Arc, atomic::Ordering};

use realm_core::{
    desired::{
        Choice, DesiredPipeline, InputKind, OnError, PipelineInput, PipelineOutput, PipelineStep,
        ProgramLimits, Template, TemplatePart,
    },
    engine::{Engine as _, Finish, Usage},
    name::{ModelName, PipelineName},
    refusal::{ProgramLimit, Refusal},
    reply::ReplyEvent,
};
use serde_json::{Value, json};

use crate::{
    echo::{Echo, Mood},
    town::{Citizen, Town, next, read, town, until},
};

fn step(name: &str, model: &ModelName, prompt: Vec<TemplatePart>) -> PipelineStep {
    PipelineStep {
        name: name.into(),
        model: model.clone(),
        system: None,
        prompt: Template(prompt),
        tokens_max: 1000,
        deadline_ms: 100_000,
        temperature: 0.5,
        choice: Choice::default(),
        on_error: OnError::Fail,
    }
}

fn text(text: &str) -> TemplatePart {
    TemplatePart::Text(text.into())
}

/// A tenant with the pipeline `digest`: `summary` of the input, then `headline` of the summary.
struct Press {
    town: &'static Town,
    citizen: Citizen,
    engine: Arc<Echo>,
}

impl Press {
    async fn new(name: &str, mood: Mood, change: impl FnOnce(&mut DesiredPipeline)) -> Self {
        let town = town().await;
        let engine = Echo::new(&format!("tests/{name}"), Mood::Echo);
        let broken = Echo::new(&format!("tests/{name}-first"), mood);
        let (first, second) = (broken.info().model.clone(), engine.info().model.clone());
        let mut pipeline = DesiredPipeline {
            name: PipelineName::new("tests", name).unwrap(),
            inputs: vec![PipelineInput {
                name: "text".into(),
                kind: InputKind::String,
                required: true,
            }],
            steps: vec![
                step("summary", &first, vec![text("sum up "), TemplatePart::Input("text".into())]),
                step(
                    "headline",
                    &second,
                    vec![text("<"), TemplatePart::Step("summary".into()), text(">")],
                ),
            ],
            outputs: vec![PipelineOutput { name: "title".into(), step: "headline".into() }],
        };
        change(&mut pipeline);
        let mut citizen = Citizen::new(name)
            .with_model(&town.runtime, broken.clone())
            .with_model(&town.runtime, engine);
        citizen.tenant.pipelines.insert("digest".into(), pipeline.name.clone());
        town.runtime.put_pipeline(Arc::new(pipeline));
        let citizen = citizen.moves_into(&town.runtime, &town.built_in);
        Self { town, citizen, engine: broken }
    }

    /// Changes what a call may spend.
    fn limit(&mut self, change: impl FnOnce(&mut ProgramLimits)) {
        change(&mut self.citizen.tenant.limits.program);
        let tenant = Arc::new(self.citizen.tenant.clone());
        self.town.runtime.put_tenant(tenant, self.town.built_in.clone());
    }

    fn params() -> Value {
        json!({ "pipeline": "digest", "input": { "text": "news" } })
    }

    async fn refused(&self, params: &Value) -> Refusal {
        self.citizen.refused(&self.town.runtime, "pipeline", params).await
    }
}

#[tokio::test]
async fn a_pipeline_streams_every_step_and_gives_its_outputs() {
    let press = Press::new("press", Mood::Echo, |pipeline| {
        pipeline.steps[0].system = Some(Template(vec![text("be brief")]));
    })
    .await;
    let told = press.citizen.done(&press.town.runtime, "pipeline", &Press::params()).await;
    let summary = "system: be brief\nuser: sum up news\n";
    let headline = format!("user: <{summary}>\n");
    assert_eq!(told.text_of(Some("summary")), summary);
    assert_eq!(told.text_of(Some("headline")), headline);
    assert_eq!(told.text(), "", "every chunk has its step");
    let done = told.end.unwrap();
    assert_eq!(done.data, json!({ "outputs": { "title": headline } }));
    let tokens = u32::try_from(summary.len() + headline.len()).unwrap();
    let usage = Usage { prompt_tokens: tokens, cached_tokens: 4, completion_tokens: tokens };
    assert_eq!((done.finish, done.usage), (Finish::Stop, usage));
    let asked = press.engine.asked.lock().unwrap().pop().unwrap();
    assert_eq!((asked.sampling.temperature, asked.tokens_max), (0.5, Some(1000)));
}

#[tokio::test]
async fn a_step_that_is_cut_says_so_in_the_finish() {
    let press = Press::new("cut", Mood::Echo, |pipeline| pipeline.steps[0].tokens_max = 3).await;
    let told = press.citizen.done(&press.town.runtime, "pipeline", &Press::params()).await;
    let done = told.end.unwrap();
    assert_eq!(done.data, json!({ "outputs": { "title": "user: <use>\n" } }));
    assert_eq!(done.finish, Finish::Length);
}

#[tokio::test]
async fn a_step_that_fails_ends_the_pipeline_or_is_replaced() {
    let press = Press::new("fails", Mood::Fail, |_| {}).await;
    let refusal = press.refused(&Press::params()).await;
    assert_eq!(refusal, Refusal::DeadlineExceeded { deadline_ms: 42 });

    let replaced = |pipeline: &mut DesiredPipeline| {
        pipeline.steps[0].on_error = OnError::Use("nothing".into());
    };
    let press = Press::new("replaces", Mood::Fail, replaced).await;
    let told = press.citizen.done(&press.town.runtime, "pipeline", &Press::params()).await;
    let expected = json!({ "outputs": { "title": "user: <nothing>\n" } });
    assert_eq!(told.end.unwrap().data, expected);
}

#[tokio::test]
async fn a_steps_own_deadline_ends_it_and_what_comes_after_goes_on() {
    let slow = |pipeline: &mut DesiredPipeline| {
        pipeline.steps[0].deadline_ms = 200;
        pipeline.steps[0].on_error = OnError::Use("late".into());
    };
    let press = Press::new("slow-step", Mood::Hold, slow).await;
    let told = press.citizen.done(&press.town.runtime, "pipeline", &Press::params()).await;
    assert_eq!(told.end.unwrap().data, json!({ "outputs": { "title": "user: <late>\n" } }));
}

#[tokio::test]
async fn the_calls_deadline_ends_a_pipeline_whatever_its_steps_say() {
    let slow = |pipeline: &mut DesiredPipeline| {
        pipeline.steps[0].on_error = OnError::Use("late".into());
    };
    let mut press = Press::new("slow-call", Mood::Hold, slow).await;
    press.limit(|limits| limits.deadline_ms = 200);
    let refusal = press.refused(&Press::params()).await;
    assert_eq!(refusal, Refusal::DeadlineExceeded { deadline_ms: 200 });
}

#[tokio::test]
async fn the_steps_of_a_pipeline_share_one_limit_of_output() {
    let mut press = Press::new("wordy", Mood::Echo, |pipeline| {
        pipeline.steps[1].on_error = OnError::Use("nothing".into());
    })
    .await;
    let (summary, headline) = ("user: sum up news\n", "user: <user: sum up news\n>\n");
    for (max, is_enough) in
        [(summary.len() + headline.len(), true), (summary.len() + headline.len() - 1, false)]
    {
        let max = u64::try_from(max).unwrap();
        press.limit(|limits| limits.output_bytes_max = max);
        let told = press.citizen.done(&press.town.runtime, "pipeline", &Press::params()).await;
        let expected = Refusal::ProgramLimit { limit: ProgramLimit::Output, max };
        assert_eq!(told.end.err(), (!is_enough).then_some(expected));
    }
}

/// The least fuel, to a quarter more, that serves the larger step alone is too little for both.
#[tokio::test]
async fn the_steps_of_a_pipeline_share_one_tank_of_fuel() {
    let mut press = Press::new("thirsty", Mood::Echo, |_| {}).await;
    let chat = json!({
        "messages": [{ "role": "user", "content": "<user: sum up news\n>" }],
        "model": "thirsty", "max_tokens": 1000, "temperature": 0.5,
    });
    let mut max = 1 << 14;
    loop {
        press.limit(|limits| limits.fuel_max = max);
        match press.citizen.done(&press.town.runtime, "chat", &chat).await.end {
            Ok(_) => break,
            Err(refusal) => {
                assert_eq!(refusal, Refusal::ProgramLimit { limit: ProgramLimit::Fuel, max });
            }
        }
        max += max / 4;
    }
    let refusal = press.refused(&Press::params()).await;
    assert_eq!(refusal, Refusal::ProgramLimit { limit: ProgramLimit::Fuel, max });
}

#[tokio::test]
async fn a_step_is_not_begun_while_the_tenant_is_in_debt() {
    let mut press = Press::new("indebted", Mood::Echo, |_| {}).await;
    press.citizen.tenant.limits.output_tokens_per_minute = 1;
    press.limit(|_| {});
    let refusal = press.refused(&Press::params()).await;
    assert!(matches!(refusal, Refusal::TooManyTokens { per_minute: 1, .. }), "{refusal:?}");
}

#[tokio::test]
async fn a_pipeline_is_cancelled_as_one() {
    let press = Press::new("cancelled", Mood::Hold, |_| {}).await;
    let mut reply = press.citizen.call(&press.town.runtime, "pipeline", &Press::params());
    let first = next(&mut reply).await;
    assert!(matches!(first, ReplyEvent::Chunk(_)), "{first:?}");
    drop(reply);
    until(|| press.engine.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn one_tenants_pipeline_does_not_exist_for_another() {
    let press = Press::new("own-press", Mood::Echo, |_| {}).await;
    let mut other = Citizen::new("other-press");
    other.tenant.models = press.citizen.tenant.models.clone();
    let other = other.moves_into(&press.town.runtime, &press.town.built_in);
    for name in ["digest", "own-press", "tests/own-press"] {
        let params = json!({ "pipeline": name, "input": { "text": "a" } });
        let refusal = other.refused(&press.town.runtime, "pipeline", &params).await;
        assert_eq!(refusal, Refusal::UnknownPipeline(name.into()));
    }
    press.town.runtime.remove_pipeline(&PipelineName::parse("tests/own-press").unwrap());
    let refusal = press.refused(&Press::params()).await;
    assert_eq!(refusal, Refusal::UnknownPipeline("digest".into()));
}

#[tokio::test]
async fn a_steps_model_without_a_grant_does_not_exist() {
    let secret = ModelName::parse("others/secret-step").unwrap();
    let press = Press::new("no-grant", Mood::Echo, |pipeline| {
        pipeline.steps[0].model = secret.clone();
    })
    .await;
    press.town.runtime.put_model(secret, Echo::new("others/secret-step", Mood::Echo));
    let refusal = press.refused(&Press::params()).await;
    assert_eq!(refusal, Refusal::UnknownModel("others/secret-step".into()));
}

#[tokio::test]
async fn a_pipeline_runs_in_the_tenants_own_program() {
    let press = Press::new("pirate-press", Mood::Echo, |_| {}).await;
    let tenant = Arc::new(press.citizen.tenant.clone());
    press.town.runtime.put_tenant(tenant, press.town.pirate.clone());
    let reply = press.citizen.call(&press.town.runtime, "pipeline", &Press::params());
    let told = read(reply).await;
    assert!(told.text_of(Some("summary")).ends_with("USER: SUM UP NEWS\n"), "{told:?}");
}

#[tokio::test]
async fn a_pipeline_in_a_program_without_chat_names_what_is_missing() {
    let press = Press::new("no-chat", Mood::Echo, |_| {}).await;
    let tenant = Arc::new(press.citizen.tenant.clone());
    press.town.runtime.put_tenant(tenant, press.town.hostile.clone());
    let refusal = press.refused(&Press::params()).await;
    let Refusal::ProgramFailed(message) = refusal else { panic!("{refusal:?}") };
    assert!(message.contains("`chat`"), "{message}");
}
