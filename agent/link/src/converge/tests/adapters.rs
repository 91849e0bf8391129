use super::*;

fn adapted(generation: u64, context: Option<u32>) -> Desired {
    let base = DesiredModel { context, ..arbitrary::model("default/zoo") };
    let lora = DesiredModel {
        base: Some(ModelName::parse("default/zoo").unwrap()),
        ..arbitrary::model("default/lora")
    };
    Desired { generation, models: vec![lora, base], ..Desired::default() }
}

/// What was done, in its order.
fn done(agent: &Agent) -> Vec<String> {
    lock(&agent.residents.log).drain(..).map(|(event, _)| event).collect()
}

#[tokio::test(start_paused = true)]
async fn an_adapter_waits_for_its_model_and_takes_no_place_meanwhile() {
    let mut agent = agent();
    agent.residents.set("default/zoo", Some(Habit::Last(Duration::from_mins(1))));
    let mut wanted = adapted(1, None);
    for n in 0..2 * MODELS_AT_ONCE {
        let name = ModelName::parse(&format!("default/a{n}")).unwrap();
        wanted.models.push(DesiredModel { name, ..wanted.models[0].clone() });
    }
    agent.want(wanted);
    let begun = agent.report(|report| !report.models.is_empty()).await;
    let of = |report: &Report, name: &str| {
        report.models.iter().find(|model| model.name.as_str() == name).unwrap().phase.clone()
    };
    assert_eq!(of(&begun, "default/lora"), ModelPhase::Pending);
    let report = agent.ready(1).await;
    assert_eq!(of(&report, "default/lora"), ModelPhase::Ready);
    assert_eq!(done(&agent)[0], "put default/zoo");
}

#[tokio::test(start_paused = true)]
async fn an_adapter_is_put_again_once_its_model_has_been_and_not_otherwise() {
    let mut agent = agent();
    agent.want(adapted(1, None));
    agent.ready(1).await;
    assert_eq!(done(&agent), ["put default/zoo", "put default/lora"]);
    agent.want(adapted(2, Some(7)));
    agent.ready(2).await;
    assert_eq!(done(&agent), ["put default/zoo", "put default/lora"]);

    let mut another = adapted(3, Some(7));
    another.models[0].artifact.sha256 = Some(Sha256([8; 32]));
    agent.want(another);
    agent.ready(3).await;
    assert_eq!(done(&agent), ["put default/lora"], "the model goes on");
}

#[tokio::test(start_paused = true)]
async fn an_adapter_goes_with_its_model_and_comes_back_with_it() {
    let mut agent = agent();
    agent.want(adapted(1, None));
    agent.ready(1).await;
    done(&agent);
    agent.residents.lost.0.send(ModelName::parse("default/zoo").unwrap()).await.unwrap();
    let gone = agent.report(|report| report.models.iter().all(|model| model.stage.is_none())).await;
    let ModelPhase::Failed(failure) = &gone.models[0].phase else { panic!() };
    assert_eq!(failure.reason, "ModelMissing", "nobody is sent to it");
    agent.ready(1).await;
    assert_eq!(done(&agent), ["put default/zoo", "put default/lora"]);

    // It stays wanted while its model is only to be fetched.
    let mut fetched = adapted(2, None);
    fetched.models[1].stage = Stage::Prefetch;
    agent.want(fetched);
    let waits = agent
        .report(|report| report.generation == 2 && report.models[1].phase == ModelPhase::Ready)
        .await;
    assert_eq!((&waits.models[0].phase, waits.models[0].stage), (&ModelPhase::Pending, None));
    assert_eq!(done(&agent), ["put default/zoo"]);
    agent.want(adapted(3, None));
    agent.ready(3).await;
    assert_eq!(done(&agent), ["put default/zoo", "put default/lora"]);
}

#[tokio::test(start_paused = true)]
async fn an_adapter_under_way_begins_again_when_its_model_is_replaced() {
    let mut agent = agent();
    agent.want(adapted(1, None));
    agent.ready(1).await;
    agent.residents.set("default/lora", Some(Habit::Hang));
    let mut another = adapted(2, None);
    another.models[0].artifact.sha256 = Some(Sha256([8; 32]));
    agent.want(another.clone());
    agent.report(|report| matches!(report.models[0].phase, ModelPhase::Fetching { .. })).await;
    done(&agent);
    another.generation = 3;
    another.models[1].context = Some(7);
    agent.want(another);
    while agent.residents.count("put default/lora") == 0 {
        time::sleep(Duration::from_secs(1)).await;
    }
    agent.residents.set("default/lora", None);
    assert_eq!(done(&agent), ["put default/zoo", "put default/lora"]);
}

#[tokio::test(start_paused = true)]
async fn an_adapter_is_beside_what_serves_while_the_newest_form_of_its_model_fails() {
    let mut agent = agent();
    let mut wanted = adapted(1, None);
    let lora = wanted.models.remove(0);
    agent.want(wanted);
    agent.ready(1).await;
    agent.residents.set("default/zoo", Some(Habit::Fail));
    agent.want(adapted(2, Some(7)));
    agent.report(|report| report.models.iter().any(|model| is_failed(&model.phase))).await;
    let held = |report: &Report| report.models[0].stage == Some(Stage::Load);
    let report = agent.report(held).await;
    assert_eq!((&report.models[0].name, &report.models[0].phase), (&lora.name, &ModelPhase::Ready));
    // What it fails for beside the old form it is not kept waiting for beside the new one.
    agent.residents.set("default/lora", Some(Habit::Fail));
    let mut another = adapted(3, Some(7));
    another.models[0].artifact.sha256 = Some(Sha256([8; 32]));
    agent.want(another);
    agent.report(|report| is_failed(&report.models[0].phase)).await;
    time::sleep(Duration::from_mins(10)).await;
    agent.residents.set("default/lora", None);
    agent.residents.set("default/zoo", None);
    let began = Instant::now();
    let loaded = agent.report(|report| report.models[1].phase == ModelPhase::Ready).await;
    assert!(began.elapsed() <= Duration::from_mins(3), "{loaded:?}");
    let began = Instant::now();
    agent.ready(3).await;
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_adapter_of_a_model_that_fails_says_so_and_keeps_no_node_waiting() {
    let mut agent = agent();
    agent.residents.set("default/zoo", Some(Habit::Fail));
    agent.want(adapted(1, None));
    let is_tried = |report: &Report| {
        report.models.iter().all(|model| matches!(model.phase, ModelPhase::Failed(_)))
    };
    let report = agent.report(|report| report.models.len() == 2 && is_tried(report)).await;
    let ModelPhase::Failed(failure) = &report.models[0].phase else { panic!() };
    assert_eq!(failure.reason, "ModelMissing");
    assert!(failure.message.contains("Broken: as told"), "{}", failure.message);
    assert_eq!(agent.residents.count("put default/lora"), 0);
    agent.residents.set("default/zoo", None);
    agent.ready(1).await;
}

#[tokio::test(start_paused = true)]
async fn an_adapter_whose_next_form_fails_is_not_served_beside_a_model_that_is_gone() {
    let mut agent = agent();
    agent.want(adapted(1, None));
    agent.ready(1).await;
    agent.residents.set("default/lora", Some(Habit::Fail));
    let mut another = adapted(2, None);
    another.models[0].artifact.sha256 = Some(Sha256([8; 32]));
    agent.want(another);
    let failed = agent.report(|report| is_failed(&report.models[0].phase)).await;
    assert_eq!(failed.models[0].stage, Some(Stage::Load), "the one before serves on");
    agent.residents.lost.0.send(ModelName::parse("default/zoo").unwrap()).await.unwrap();
    agent.report(|report| report.models.iter().all(|model| model.stage.is_none())).await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_lost_while_its_next_form_comes_is_served_by_nobody_nor_are_its_adapters() {
    let mut agent = agent();
    agent.want(adapted(1, None));
    agent.ready(1).await;
    agent.residents.set("default/zoo", Some(Habit::Hang));
    agent.want(adapted(2, Some(7)));
    agent.report(|report| matches!(report.models[1].phase, ModelPhase::Fetching { .. })).await;
    agent.residents.lost.0.send(ModelName::parse("default/zoo").unwrap()).await.unwrap();
    let lost = agent.report(|report| report.models.iter().all(|model| model.stage.is_none())).await;
    assert!(matches!(lost.models[1].phase, ModelPhase::Fetching { .. }), "it goes on");
    assert_eq!(lost.models[0].phase, ModelPhase::Pending);
}
