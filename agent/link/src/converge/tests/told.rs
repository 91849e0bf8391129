//! What is told of changes, and when.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_change_that_is_there_at_once_is_never_told_to_be_on_its_way() {
    let mut agent = agent();
    agent.want(arbitrary::sample());
    agent.ready(1).await;
    // Longer than any pause between two reports.
    time::sleep(Duration::from_mins(1)).await;
    let mut changed = arbitrary::sample();
    changed.generation = 2;
    changed.tenants[0].weight = 5;
    agent.want(changed);
    let first = agent.report(|report| report.generation == 2).await;
    assert_eq!(first.tenants[0].phase, Phase::Ready);
}

/// What is told of a tenant that has another weight, and when, if its put takes so long.
async fn told_first_of_a_change(long: Duration) -> (Phase, Duration) {
    let mut agent = agent();
    agent.want(arbitrary::sample());
    agent.ready(1).await;
    time::sleep(Duration::from_mins(1)).await;
    agent.residents.set("default/acme", Some(Habit::Last(long)));
    let mut changed = arbitrary::sample();
    changed.generation = 2;
    changed.tenants[0].weight = 5;
    let began = Instant::now();
    agent.want(changed);
    let first = agent.report(|report| report.generation == 2).await;
    (first.tenants[0].phase.clone(), began.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_report_waits_for_steps_that_are_short_and_not_for_others() {
    let tenth = Duration::from_millis(100);
    let (phase, after) = told_first_of_a_change(SHORT_STEP / 2).await;
    assert_eq!(phase, Phase::Ready);
    assert!(after < SHORT_STEP, "{after:?}");
    let (phase, after) = told_first_of_a_change(Duration::from_mins(1)).await;
    assert_eq!(phase, Phase::Pending);
    assert!(after < SHORT_STEP + tenth, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn steps_that_are_short_one_after_the_other_hold_up_no_report() {
    let agent = agent();
    let mut report = agent.report.clone();
    let changes = async {
        for generation in 1.. {
            let mut changed = arbitrary::sample();
            changed.generation = generation;
            changed.tenants[0].weight = u32::try_from(generation).unwrap();
            agent.residents.set("default/acme", Some(Habit::Last(SHORT_STEP * 2)));
            agent.want(changed);
            time::sleep(SHORT_STEP / 4).await;
        }
    };
    let told = async {
        for _ in 0..5 {
            let new = time::timeout(SHORT_STEP * 2, report.changed()).await;
            new.expect("a report comes all the same").unwrap();
        }
    };
    tokio::select! {
        () = changes => {}
        () = told => {}
    }
}

#[tokio::test(start_paused = true)]
async fn what_became_of_a_model_waits_for_no_step_of_a_tenant() {
    let mut agent = agent();
    agent.want(arbitrary::sample());
    agent.ready(1).await;
    let mut changed = arbitrary::sample();
    changed.generation = 2;
    changed.tenants[0].weight = 5;
    changed.models[0].kv_blocks = Some(7);
    agent.residents.set("default/acme", Some(Habit::Last(SHORT_STEP / 2)));
    let began = Instant::now();
    agent.want(changed);
    let is_loaded =
        |report: &Report| report.generation == 2 && report.models[0].phase == ModelPhase::Ready;
    agent.report(is_loaded).await;
    assert!(began.elapsed() < SHORT_STEP / 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn what_is_being_removed_is_told_to_be_held_until_it_is_gone() {
    let mut agent = agent();
    agent.want(arbitrary::sample());
    agent.ready(1).await;
    agent.residents.set("default/acme", Some(Habit::Last(SHORT_STEP * 3)));
    agent.want(Desired { generation: 2, ..Desired::default() });
    let report = agent.report(|report| report.generation == 2).await;
    assert_eq!(report.tenants[0].phase, Phase::Pending);
    assert!(report.pipelines.is_empty(), "{report:?}");
    agent.report(|report| report.tenants.is_empty()).await;
    assert!(lock(&agent.residents.held).is_empty());
}
