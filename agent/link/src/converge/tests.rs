use std::{
    collections::{BTreeMap, HashSet},
    sync::{Mutex, PoisonError},
};

use realm_core::{
    desired::{DesiredModel, DesiredPipeline, DesiredTenant},
    name::{ModelName, PipelineName, TenantName},
    report::Phase,
};

use tokio::sync::mpsc;

use super::*;
use crate::arbitrary;

mod adapters;
mod told;

/// What a put of an item does from now on.
#[derive(Clone, Copy, Debug)]
enum Habit {
    Fail,
    Panic,
    /// Fetches for ever, one byte a second.
    Hang,
    /// Stops serving before the put has ended.
    Lose,
    /// Takes so long.
    Last(Duration),
}

/// Residents that keep a list of what was done to them.
#[derive(Default)]
struct Fake {
    habits: Mutex<BTreeMap<String, Habit>>,
    held: Mutex<BTreeMap<String, u64>>,
    log: Mutex<Vec<(String, Instant)>>,
    /// Models being put now, and the most at once.
    loading: Mutex<(HashSet<String>, usize)>,
    lost: Lost,
}

/// Models that stop serving by themselves.
struct Lost(mpsc::Sender<ModelName>, tokio::sync::Mutex<mpsc::Receiver<ModelName>>);

impl Default for Lost {
    fn default() -> Self {
        let (sender, receiver) = mpsc::channel(1);
        Self(sender, tokio::sync::Mutex::new(receiver))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes its model off the list of those being put, however the put ends.
struct Loading<'a>(&'a Fake, String);

impl Drop for Loading<'_> {
    fn drop(&mut self) {
        lock(&self.0.loading).0.remove(&self.1);
    }
}

impl Fake {
    fn set(&self, item: &str, habit: Option<Habit>) {
        match habit {
            Some(habit) => lock(&self.habits).insert(item.to_owned(), habit),
            None => lock(&self.habits).remove(item),
        };
    }

    fn log(&self, event: String) {
        lock(&self.log).push((event, Instant::now()));
    }

    fn count(&self, event: &str) -> usize {
        lock(&self.log).iter().filter(|(logged, _)| logged == event).count()
    }

    fn times(&self, event: &str) -> Vec<Instant> {
        let log = lock(&self.log);
        log.iter().filter(|(logged, _)| logged == event).map(|(_, at)| *at).collect()
    }

    async fn put(
        &self,
        item: String,
        value: u64,
        progress: &(dyn Fn(ModelPhase) + Send + Sync),
    ) -> Result<(), Failure> {
        self.log(format!("put {item}"));
        let habit = lock(&self.habits).get(&item).copied();
        match habit {
            None => {}
            Some(Habit::Fail) => {
                return Err(Failure { reason: "Broken", message: "as told".to_owned() });
            }
            Some(Habit::Panic) => panic!("as told"),
            Some(Habit::Last(long)) => time::sleep(long).await,
            Some(Habit::Lose) => {
                self.lost.0.send(ModelName::parse(&item).unwrap()).await.unwrap();
                // There is room again once it has been heard.
                drop(self.lost.0.reserve().await);
            }
            Some(Habit::Hang) => {
                for bytes_done in 1.. {
                    progress(ModelPhase::Fetching { bytes_done, bytes_total: None });
                    time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
        lock(&self.held).insert(item, value);
        Ok(())
    }

    async fn remove(&self, item: &str) {
        self.log(format!("remove {item}"));
        let habit = lock(&self.habits).get(item).copied();
        if let Some(Habit::Last(long)) = habit {
            time::sleep(long).await;
        }
        assert!(!lock(&self.loading).0.contains(item), "removed while it is being put");
        lock(&self.held).remove(item);
    }
}

impl Residents for Fake {
    async fn put_model(
        &self,
        model: &DesiredModel,
        progress: &(dyn Fn(ModelPhase) + Send + Sync),
    ) -> Result<ModelFacts, Failure> {
        let item = model.name.to_string();
        {
            let mut loading = lock(&self.loading);
            assert!(loading.0.insert(item.clone()), "put twice at once");
            loading.1 = loading.1.max(loading.0.len());
        }
        let _loading = Loading(self, item.clone());
        progress(ModelPhase::Fetching { bytes_done: 0, bytes_total: Some(10) });
        tokio::task::yield_now().await;
        self.put(item, model.context.unwrap_or_default().into(), progress).await?;
        Ok(ModelFacts {
            architecture: "llama".to_owned(),
            parameters: 1,
            format: "F32".to_owned(),
            context: 64,
            licence: None,
            weights_bytes: 4,
            memory: None,
            sha256: model.artifact.sha256,
        })
    }

    async fn lost_model(&self) -> ModelName {
        let name = self.lost.1.lock().await.recv().await.unwrap();
        lock(&self.held).remove(name.as_str());
        name
    }

    async fn remove_model(&self, name: &ModelName) {
        self.remove(name.as_str()).await;
    }

    async fn put_tenant(&self, tenant: &DesiredTenant) -> Result<Option<Sha256>, Failure> {
        self.put(tenant.name.to_string(), tenant.weight.into(), &|_| {}).await?;
        Ok(tenant.program.as_ref().map(|_| Sha256([9; 32])))
    }

    async fn remove_tenant(&self, name: &TenantName) {
        self.remove(name.as_str()).await;
    }

    async fn put_pipeline(&self, pipeline: &DesiredPipeline) -> Result<(), Failure> {
        self.put(pipeline.name.to_string(), 0, &|_| {}).await
    }

    async fn remove_pipeline(&self, name: &PipelineName) {
        self.remove(name.as_str()).await;
    }
}

struct Agent {
    residents: Arc<Fake>,
    desired: watch::Sender<Arc<Desired>>,
    report: watch::Receiver<Report>,
}

fn agent() -> Agent {
    let residents = Arc::new(Fake::default());
    let (desired, desires) = watch::channel(Arc::new(Desired::default()));
    let (reports, report) = watch::channel(Report::default());
    tokio::spawn(run(residents.clone(), desires, reports));
    Agent { residents, desired, report }
}

impl Agent {
    fn want(&self, desired: Desired) {
        self.desired.send_replace(Arc::new(desired));
    }

    async fn report(&mut self, is_awaited: impl FnMut(&Report) -> bool) -> Report {
        let awaited = time::timeout(Duration::from_hours(1), self.report.wait_for(is_awaited));
        awaited.await.expect("the report comes within the hour").unwrap().clone()
    }

    /// Waits until all of `generation` is ready.
    async fn ready(&mut self, generation: u64) -> Report {
        self.report(|report| {
            report.generation == generation
                && report.models.iter().all(|model| model.phase == ModelPhase::Ready)
                && report.tenants.iter().all(|tenant| tenant.phase == Phase::Ready)
                && report.pipelines.iter().all(|pipeline| pipeline.phase == Phase::Ready)
        })
        .await
    }
}

fn models(generation: u64, names: &[&str]) -> Desired {
    let models = names.iter().map(|name| arbitrary::model(name)).collect();
    Desired { generation, models, ..Desired::default() }
}

fn is_failed(phase: &ModelPhase) -> bool {
    matches!(phase, ModelPhase::Failed(Failure { reason: "Broken", .. }))
}

#[tokio::test(start_paused = true)]
async fn everything_desired_becomes_held_and_the_report_says_so() {
    let mut agent = agent();
    agent.want(arbitrary::sample());
    let report = agent.ready(1).await;
    assert_eq!(report.models[0].facts.as_ref().unwrap().architecture, "llama");
    assert_eq!(report.tenants[0].program, Some(Sha256([9; 32])));
    let held: Vec<_> = lock(&agent.residents.held).keys().cloned().collect();
    assert_eq!(held, ["default/acme", "default/digest", "default/tiny"]);

    agent.want(Desired { generation: 2, ..Desired::default() });
    agent.ready(2).await;
    while !lock(&agent.residents.held).is_empty() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_item_that_did_not_change_is_left_alone() {
    let mut agent = agent();
    agent.want(arbitrary::sample());
    agent.ready(1).await;
    let mut changed = arbitrary::sample();
    changed.generation = 2;
    changed.tenants[0].weight = 5;
    agent.want(changed);
    agent.ready(2).await;
    assert_eq!(agent.residents.count("put default/tiny"), 1);
    assert_eq!(agent.residents.count("put default/digest"), 1);
    assert_eq!(agent.residents.count("put default/acme"), 2);
    assert_eq!(lock(&agent.residents.held)["default/acme"], 5);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_does_not_wait_for_its_model() {
    let mut agent = agent();
    agent.residents.set("default/tiny", Some(Habit::Hang));
    agent.want(arbitrary::sample());
    let report = agent
        .report(|report| report.tenants.first().is_some_and(|tenant| tenant.phase == Phase::Ready));
    assert_ne!(report.await.models[0].phase, ModelPhase::Ready);
}

#[tokio::test(start_paused = true)]
async fn progress_in_bytes_flows_into_the_report() {
    let mut agent = agent();
    agent.residents.set("default/tiny", Some(Habit::Hang));
    agent.want(arbitrary::sample());
    for awaited in [1, 2, 3] {
        agent
            .report(|report| {
                let phase = report.models.first().map(|model| model.phase.clone());
                matches!(phase, Some(ModelPhase::Fetching { bytes_done, .. }) if awaited <= bytes_done)
            })
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_step_is_tried_again_after_longer_and_longer_waits() {
    let mut agent = agent();
    agent.residents.set("default/tiny", Some(Habit::Fail));
    agent.want(models(1, &["default/tiny"]));
    while agent.residents.count("put default/tiny") < 9 {
        time::advance(Duration::from_millis(100)).await;
        tokio::task::yield_now().await;
    }
    let times = agent.residents.times("put default/tiny");
    let waits: Vec<_> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (failures, wait) in waits.iter().enumerate() {
        let full = Duration::from_secs((1 << failures).min(120));
        let slack = Duration::from_millis(200);
        assert!(full / 2 <= *wait && *wait <= full + slack, "{failures}: {wait:?}");
    }
    let report = agent.report(|report| report.models.first().is_some_and(|m| is_failed(&m.phase)));
    report.await;

    agent.residents.set("default/tiny", None);
    agent.ready(1).await;
}

#[tokio::test(start_paused = true)]
async fn a_model_that_stops_serving_is_put_again_and_later_each_time() {
    let mut agent = agent();
    agent.want(arbitrary::sample());
    agent.ready(1).await;
    for losses in 1..=4 {
        let before = Instant::now();
        agent.residents.lost.0.send(ModelName::parse("default/tiny").unwrap()).await.unwrap();
        let lost = |phase: &ModelPhase| matches!(phase, ModelPhase::Failed(f) if f.reason == "EngineFailed");
        agent.report(|report| lost(&report.models[0].phase)).await;
        assert!(!lock(&agent.residents.held).contains_key("default/tiny"));
        agent.ready(1).await;
        let full = Duration::from_secs(1 << (losses - 1));
        assert!(before.elapsed() >= full / 2, "{losses}: {:?}", before.elapsed());
        assert!(lock(&agent.residents.held).contains_key("default/tiny"));
    }
    assert_eq!(agent.residents.count("put default/tiny"), 5);
    assert_eq!(agent.residents.count("put default/acme"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_stops_serving_before_its_put_has_ended_is_put_again() {
    let mut agent = agent();
    agent.residents.set("default/tiny", Some(Habit::Lose));
    agent.want(models(1, &["default/tiny"]));
    let lost =
        |phase: &ModelPhase| matches!(phase, ModelPhase::Failed(f) if f.reason == "EngineFailed");
    agent.report(|report| report.models.first().is_some_and(|model| lost(&model.phase))).await;
    agent.residents.set("default/tiny", None);
    agent.ready(1).await;
    assert!(lock(&agent.residents.held).contains_key("default/tiny"));
}

#[tokio::test(start_paused = true)]
async fn a_changed_item_does_not_wait_for_the_back_off_of_its_old_form() {
    let mut agent = agent();
    agent.residents.set("default/tiny", Some(Habit::Fail));
    agent.want(models(1, &["default/tiny"]));
    agent.report(|report| report.models.first().is_some_and(|m| is_failed(&m.phase))).await;
    agent.residents.set("default/tiny", None);
    let before = Instant::now();
    let mut changed = models(2, &["default/tiny"]);
    changed.models[0].context = Some(32);
    agent.want(changed);
    agent.ready(2).await;
    assert!(Instant::now() - before < Duration::from_millis(400));
}

#[tokio::test(start_paused = true)]
async fn the_failure_or_panic_of_one_item_blocks_no_other() {
    let mut agent = agent();
    agent.residents.set("default/broken", Some(Habit::Fail));
    agent.residents.set("default/worse", Some(Habit::Panic));
    let mut desired = arbitrary::sample();
    desired.models.extend(models(0, &["default/broken", "default/worse"]).models);
    agent.want(desired);
    let report = agent.report(|report| {
        report.generation == 1
            && report.models[0].phase == ModelPhase::Ready
            && report.tenants[0].phase == Phase::Ready
            && is_failed(&report.models[1].phase)
            && matches!(&report.models[2].phase, ModelPhase::Failed(f) if f.reason == "Internal")
    });
    report.await;
}

#[tokio::test(start_paused = true)]
async fn a_fetch_that_is_no_longer_wanted_is_cancelled_and_its_place_is_free() {
    let mut agent = agent();
    let names = ["default/a", "default/b", "default/c", "default/d", "default/e"];
    for name in &names[..4] {
        agent.residents.set(name, Some(Habit::Hang));
    }
    agent.want(models(1, &names));
    agent
        .report(|report| {
            let fetching = |model: &&realm_core::report::ModelReport| {
                matches!(model.phase, ModelPhase::Fetching { .. })
            };
            report.models.iter().filter(fetching).count() == MODELS_AT_ONCE
        })
        .await;
    assert_eq!(agent.residents.count("put default/e"), 0);

    agent.want(models(2, &names[3..]));
    agent
        .report(|report| report.generation == 2 && report.models[1].phase == ModelPhase::Ready)
        .await;
    while agent.residents.count("remove default/a") == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(lock(&agent.residents.loading).0.len(), 1);
    assert_eq!(agent.residents.count("put default/d"), 1);
}

#[tokio::test(start_paused = true)]
async fn the_newest_form_of_an_item_wins_over_one_still_under_way() {
    let mut agent = agent();
    agent.residents.set("default/tiny", Some(Habit::Hang));
    agent.want(models(1, &["default/tiny"]));
    agent
        .report(|report| {
            report.models.first().is_some_and(|model| model.phase != ModelPhase::Pending)
        })
        .await;
    agent.residents.set("default/tiny", None);
    let mut changed = models(2, &["default/tiny"]);
    changed.models[0].context = Some(32);
    agent.want(changed);
    agent.ready(2).await;
    assert_eq!(lock(&agent.residents.held)["default/tiny"], 32);
}

#[tokio::test(start_paused = true)]
async fn models_load_at_once_up_to_the_bound() {
    let mut agent = agent();
    let names: Vec<_> = (0..10).map(|n| format!("default/m{n}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    agent.want(models(1, &names));
    agent.ready(1).await;
    assert_eq!(lock(&agent.residents.loading).1, MODELS_AT_ONCE);
}

#[tokio::test(start_paused = true)]
async fn a_change_and_a_removal_wait_for_no_other_tenants_put() {
    let mut agent = agent();
    let mut desired = arbitrary::sample();
    let mut gone = desired.tenants[0].clone();
    gone.name = TenantName::parse("default/gone").unwrap();
    desired.tenants.push(gone.clone());
    agent.want(desired.clone());
    agent.ready(1).await;

    desired.generation = 2;
    desired.tenants.pop();
    desired.tenants[0].weight = 5;
    for n in 0..200 {
        // Their names come before the others'.
        let name = format!("aaa/slow-{n}");
        agent.residents.set(&name, Some(Habit::Hang));
        let name = TenantName::parse(&name).unwrap();
        desired.tenants.push(DesiredTenant { name, ..gone.clone() });
    }
    agent.want(desired);
    agent.report(|report| report.generation == 2 && report.tenants[0].phase == Phase::Ready).await;
    assert_eq!(lock(&agent.residents.held)["default/acme"], 5);
    while agent.residents.count("remove default/gone") == 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_failed_change_the_old_form_is_put_again_when_it_is_desired_again() {
    let mut agent = agent();
    agent.want(models(1, &["default/tiny"]));
    agent.ready(1).await;
    agent.residents.set("default/tiny", Some(Habit::Fail));
    let mut changed = models(2, &["default/tiny"]);
    changed.models[0].context = Some(32);
    agent.want(changed);
    let failed =
        agent.report(|report| report.generation == 2 && is_failed(&report.models[0].phase));
    assert!(failed.await.models[0].facts.is_some(), "the old one still serves");

    agent.residents.set("default/tiny", None);
    agent.want(models(3, &["default/tiny"]));
    agent.ready(3).await;
    assert_eq!(agent.residents.count("put default/tiny"), 3);
}

fn staged(generation: u64, stage: Stage) -> Desired {
    let mut desired = models(generation, &["default/tiny"]);
    desired.models[0].stage = stage;
    desired.models[0].kv_blocks = (stage == Stage::Load).then_some(7);
    desired
}

#[tokio::test(start_paused = true)]
async fn a_model_is_put_anew_at_each_stage_and_the_report_says_how_far_it_is() {
    let mut agent = agent();
    for (generation, stage) in (1..).zip([Stage::Inspect, Stage::Prefetch, Stage::Load]) {
        agent.want(staged(generation, stage));
        let report = agent.ready(generation).await;
        assert_eq!(report.models[0].stage, Some(stage));
        assert!(report.models[0].facts.is_some());
        assert_eq!(report.models[0].kv_blocks, (stage == Stage::Load).then_some(7));
    }
    assert_eq!(agent.residents.count("put default/tiny"), 3);
    assert_eq!(agent.residents.count("remove default/tiny"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_model_that_is_to_be_less_is_no_longer_loaded_even_if_that_fails() {
    let mut agent = agent();
    agent.want(staged(1, Stage::Load));
    agent.ready(1).await;
    agent.residents.set("default/tiny", Some(Habit::Fail));
    agent.want(staged(2, Stage::Prefetch));
    let failed =
        agent.report(|report| report.generation == 2 && is_failed(&report.models[0].phase)).await;
    assert_eq!((failed.models[0].stage, failed.models[0].kv_blocks), (Some(Stage::Prefetch), None));
}

#[tokio::test(start_paused = true)]
async fn a_loaded_model_stays_loaded_while_its_successor_fails() {
    let mut agent = agent();
    agent.want(staged(1, Stage::Load));
    agent.ready(1).await;
    agent.residents.set("default/tiny", Some(Habit::Fail));
    let mut changed = staged(2, Stage::Load);
    changed.models[0].kv_blocks = Some(8);
    agent.want(changed);
    let failed =
        agent.report(|report| report.generation == 2 && is_failed(&report.models[0].phase)).await;
    assert_eq!((failed.models[0].stage, failed.models[0].kv_blocks), (Some(Stage::Load), Some(7)));
}

#[tokio::test(start_paused = true)]
async fn a_load_waits_for_no_prefetch_or_inspection() {
    let mut agent = agent();
    let mut desired = models(1, &["default/z"]);
    for (stage, count) in [(Stage::Prefetch, 5), (Stage::Inspect, 20)] {
        for n in 0..count {
            let name = format!("default/{}-{n}", if stage == Stage::Inspect { "i" } else { "p" });
            agent.residents.set(&name, Some(Habit::Hang));
            let mut model = arbitrary::model(&name);
            model.stage = stage;
            desired.models.push(model);
        }
    }
    agent.want(desired);
    agent
        .report(|report| report.models.first().is_some_and(|m| m.phase == ModelPhase::Ready))
        .await;
    let under_way = lock(&agent.residents.loading).0.len();
    assert_eq!(under_way, PREFETCHES_AT_ONCE + INSPECTIONS_AT_ONCE);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_without_a_program_here_is_put_and_reports_none() {
    let mut agent = agent();
    let mut desired = arbitrary::sample();
    desired.tenants[0].program = None;
    agent.want(desired);
    let report = agent.ready(1).await;
    assert_eq!(report.tenants[0].program, None);
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_its_source_and_cancels_what_is_under_way() {
    let residents = Arc::new(Fake::default());
    residents.set("default/tiny", Some(Habit::Hang));
    let (desired, desires) = watch::channel(Arc::new(models(1, &["default/tiny"])));
    let (reports, mut report) = watch::channel(Report::default());
    let running = tokio::spawn(run(residents.clone(), desires, reports));
    report.wait_for(|report| report.generation == 1).await.unwrap();
    drop(desired);
    running.await.unwrap();
    while !lock(&residents.loading).0.is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(!lock(&residents.held).contains_key("default/tiny"));
}
