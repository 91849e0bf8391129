use std::{collections::BTreeMap, fs};

use realm_core::{
    desired::{DesiredModel, DesiredPipeline, DesiredTenant, Sha256},
    name::{ModelName, PipelineName, TenantName},
    report::{Failure, ModelFacts, ModelPhase, Phase, Report},
    residents::Residents,
};
use realm_link::converge;
use tokio::{sync::mpsc, task::JoinHandle};

use super::*;

/// Residents that hold whatever they are given, and tell of every change.
struct Fake(watch::Sender<BTreeMap<String, String>>);

impl Fake {
    fn put(&self, item: String, form: String) {
        self.0.send_modify(|held| drop(held.insert(item, form)));
    }

    fn remove(&self, item: &str) {
        self.0.send_modify(|held| drop(held.remove(item)));
    }
}

impl Residents for Fake {
    async fn put_model(
        &self,
        model: &DesiredModel,
        _: &(dyn Fn(ModelPhase) + Send + Sync),
    ) -> Result<ModelFacts, Failure> {
        self.put(format!("model {}", model.name), model.artifact.sources.join(" "));
        Ok(ModelFacts {
            architecture: "llama".to_owned(),
            parameters: 1,
            format: "F32".to_owned(),
            context: 64,
            licence: None,
            weights_bytes: 4,
            memory: None,
            sha256: None,
        })
    }

    async fn lost_model(&self) -> ModelName {
        std::future::pending().await
    }

    async fn remove_model(&self, name: &ModelName) {
        self.remove(&format!("model {name}"));
    }

    async fn put_tenant(&self, tenant: &DesiredTenant) -> Result<Option<Sha256>, Failure> {
        let keys: Vec<_> = tenant.keys.iter().map(|key| key.name.as_str()).collect();
        let models: Vec<_> = tenant.models.iter().map(|grant| grant.alias.as_str()).collect();
        let form = format!("weight {} keys {keys:?} models {models:?}", tenant.weight);
        self.put(format!("tenant {}", tenant.name), form);
        Ok(Some(Sha256([0; 32])))
    }

    async fn remove_tenant(&self, name: &TenantName) {
        self.remove(&format!("tenant {name}"));
    }

    async fn put_pipeline(&self, pipeline: &DesiredPipeline) -> Result<(), Failure> {
        let models: Vec<_> = pipeline.steps.iter().map(|step| step.model.as_str()).collect();
        self.put(format!("pipeline {}", pipeline.name), models.join(" "));
        Ok(())
    }

    async fn remove_pipeline(&self, name: &PipelineName) {
        self.remove(&format!("pipeline {name}"));
    }
}

/// A folder of manifests and the folder of what is kept of them; both outlive a server.
struct Machine {
    manifests: tempfile::TempDir,
    kept: tempfile::TempDir,
}

/// A server that runs until it is dropped.
struct Server {
    held: watch::Receiver<BTreeMap<String, String>>,
    desired: watch::Receiver<Arc<Desired>>,
    report: watch::Receiver<Report>,
    notices: mpsc::Receiver<Notice>,
    /// The last generation that was told to be current.
    current: Option<u64>,
    tasks: [JoinHandle<()>; 2],
}

const MODEL: &str = "\
apiVersion: realm.dev/v1alpha1
kind: Model
metadata: {name: tiny}
spec:
  sources: ['file:///tiny.gguf']
";

const TENANT: &str = "\
apiVersion: realm.dev/v1alpha1
kind: Tenant
metadata: {name: acme}
spec:
  weight: 7
  models: [{name: tiny}]
  apiKeys: [{secretName: acme-keys}]
---
apiVersion: v1
kind: Secret
metadata: {name: acme-keys}
stringData:
  first: '{\"sha256\": \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\"}'
";

const PIPELINE: &str = "\
apiVersion: realm.dev/v1alpha1
kind: Pipeline
metadata: {name: echo}
spec:
  inputs: [{name: text}]
  steps:
  - name: say
    model: {name: tiny}
    prompt: 'Say {{ inputs.text }}'
    maxTokens: 8
  outputs: [{name: said, step: say}]
  tenants: [acme]
";

/// What the three manifests come to.
const ALL: [(&str, &str); 3] = [
    ("model default/tiny", "file:///tiny.gguf"),
    ("pipeline default/echo", "default/tiny"),
    ("tenant default/acme", "weight 7 keys [\"acme-keys/first\"] models [\"tiny\"]"),
];

impl Machine {
    fn new() -> Self {
        let machine =
            Self { manifests: tempfile::tempdir().unwrap(), kept: tempfile::tempdir().unwrap() };
        machine.write("model.yaml", MODEL);
        machine.write("tenant.yaml", TENANT);
        machine.write("pipeline.yaml", PIPELINE);
        machine
    }

    fn write(&self, file: &str, text: &str) {
        fs::write(self.manifests.path().join(file), text).unwrap();
    }

    fn remove(&self, file: &str) {
        fs::remove_file(self.manifests.path().join(file)).unwrap();
    }

    async fn serve(&self) -> Server {
        let opened = State::open(self.manifests.path().to_owned(), self.kept.path()).await;
        let (state, warnings) = opened.unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        let (holder, held) = watch::channel(BTreeMap::new());
        let residents = Arc::new(Fake(holder));
        let (reports, report) = watch::channel(Report::default());
        // More than any test here makes happen.
        let (teller, notices) = mpsc::channel(64);
        let desired = state.subscribe();
        let converge = tokio::spawn(converge::run(residents, desired.clone(), reports));
        let run = tokio::spawn(state.run(move |notice| teller.try_send(notice).unwrap()));
        Server { held, desired, report, notices, current: None, tasks: [run, converge] }
    }
}

impl Server {
    async fn notice(&mut self) -> Notice {
        let notice = time::timeout(Duration::from_mins(1), self.notices.recv()).await;
        let notice = notice.expect("a notice comes within a minute").unwrap();
        if let Notice::Current { generation } = notice {
            self.current = Some(generation);
        }
        notice
    }

    /// Waits for the next problem, whatever else happens.
    async fn problem(&mut self) -> String {
        loop {
            if let Notice::Problem(problem) = self.notice().await {
                return problem.to_string();
            }
        }
    }

    /// Waits for the next change that is accepted.
    async fn accepted(&mut self) -> String {
        loop {
            if let Notice::Accepted(Change { id: (kind, name), kind: change, file }) =
                self.notice().await
            {
                return format!("{change:?} {kind} {name} {file}");
            }
        }
    }

    async fn solved(&mut self) {
        while !matches!(self.notice().await, Notice::Solved(_)) {}
    }

    /// Waits until exactly this is held and reported ready; gives the generation.
    async fn holds(&mut self, expected: &[(&str, &str)]) -> u64 {
        let expected: BTreeMap<_, _> =
            expected.iter().map(|(item, form)| ((*item).to_owned(), (*form).to_owned())).collect();
        loop {
            let report = self.report.borrow_and_update().clone();
            let is_newest = report.generation == self.desired.borrow().generation;
            let is_ready = report.models.iter().all(|model| model.phase == ModelPhase::Ready)
                && report.tenants.iter().all(|tenant| tenant.phase == Phase::Ready);
            if is_newest && is_ready && *self.held.borrow_and_update() == expected {
                return report.generation;
            }
            tokio::select! {
                changed = self.report.changed() => changed.unwrap(),
                changed = self.held.changed() => changed.unwrap(),
            }
        }
    }

    /// Stops between two turns, when nothing is being written.
    async fn stop(mut self) {
        while self.current < Some(self.report.borrow().generation) {
            self.notice().await;
        }
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            drop(task.await);
        }
    }
}

/// Runs a test with an end: what should come from the system's watch may never come.
async fn within_a_minute(test: impl Future<Output = ()>) {
    time::timeout(Duration::from_mins(1), test).await.expect("done within a minute");
}

#[tokio::test]
async fn manifests_become_residents() {
    within_a_minute(async {
        let machine = Machine::new();
        let mut server = machine.serve().await;
        server.holds(&ALL).await;
        assert!(matches!(server.notice().await, Notice::Current { generation: 1 }));
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_changed_an_added_and_a_removed_file_take_effect_while_running() {
    within_a_minute(async {
        let machine = Machine::new();
        let mut server = machine.serve().await;
        server.holds(&ALL).await;
        let keyed = "keys [\"acme-keys/first\"] models [\"tiny\"]";

        machine.write("tenant.yaml", &TENANT.replace("weight: 7", "weight: 9"));
        let weight = format!("weight 9 {keyed}");
        let changed = server.holds(&[ALL[0], ALL[1], ("tenant default/acme", &weight)]).await;
        assert_eq!(server.accepted().await, "Changed Tenant default/acme tenant.yaml");

        machine.write("other.yml", &MODEL.replace("tiny", "other"));
        let other = ("model default/other", "file:///other.gguf");
        let added = server.holds(&[other, ALL[0], ALL[1], ("tenant default/acme", &weight)]).await;
        assert!(changed < added);
        assert_eq!(server.accepted().await, "Added Model default/other other.yml");

        machine.remove("other.yml");
        assert_eq!(server.accepted().await, "Removed Model default/other other.yml");
        machine.remove("pipeline.yaml");
        server.holds(&[ALL[0], ("tenant default/acme", &weight)]).await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_broken_manifest_is_told_once_and_its_last_good_state_goes_on() {
    within_a_minute(async {
        let machine = Machine::new();
        let mut server = machine.serve().await;
        server.holds(&ALL).await;
        let generation = server.report.borrow().generation;

        machine.write("pipeline.yaml", &PIPELINE.replace("inputs.text }}", "inputs.tex }}"));
        let problem = server.problem().await;
        assert!(problem.starts_with("pipeline.yaml:9: spec.steps[0].prompt: "), "{problem}");
        assert!(problem.ends_with("(UnknownInput)"), "{problem}");

        // Another file changes: the first problem is not told again, and is still bridged.
        machine.write("tenant.yaml", "spec: [\n");
        let problem = server.problem().await;
        assert!(problem.starts_with("tenant.yaml:"), "{problem}");
        assert!(problem.ends_with("(Syntax)"), "{problem}");
        assert_eq!(server.holds(&ALL).await, generation);

        machine.write("pipeline.yaml", PIPELINE);
        server.solved().await;
        machine.remove("tenant.yaml");
        server.holds(&ALL[..1]).await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_pipeline_that_starts_to_name_an_unknown_model_is_refused() {
    within_a_minute(async {
        let machine = Machine::new();
        let mut server = machine.serve().await;
        server.holds(&ALL).await;
        machine.write("pipeline.yaml", &PIPELINE.replace("{name: tiny}", "{name: huge}"));
        let problem = server.problem().await;
        assert!(problem.starts_with("pipeline.yaml:8: spec.steps[0].model: "), "{problem}");
        assert!(problem.ends_with("(UnknownModel)"), "{problem}");
        // What changes next does take effect, and the refused change still does not.
        machine.write("other.yaml", &MODEL.replace("tiny", "other"));
        let other = ("model default/other", "file:///other.gguf");
        server.holds(&[other, ALL[0], ALL[1], ALL[2]]).await;
        machine.remove("other.yaml");

        // It is taken as soon as what it names is there, too.
        machine.write("huge.yaml", &MODEL.replace("tiny", "huge"));
        machine.write("tenant.yaml", &TENANT.replace("[{name: tiny}]", "[{name: huge}]"));
        server
            .holds(&[
                ("model default/huge", "file:///huge.gguf"),
                ALL[0],
                ("pipeline default/echo", "default/huge"),
                ("tenant default/acme", "weight 7 keys [\"acme-keys/first\"] models [\"huge\"]"),
            ])
            .await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn one_object_in_two_files_is_refused_and_both_are_named() {
    within_a_minute(async {
        let machine = Machine::new();
        let mut server = machine.serve().await;
        server.holds(&ALL).await;
        machine.write("twin.yaml", &format!("# A twin.\n{MODEL}").replace("/tiny.", "/twin."));
        let problems = [server.problem().await, server.problem().await];
        assert_eq!(
            problems,
            [
                "model.yaml:1: Model default/tiny is also in twin.yaml:2 (DuplicateObject)",
                "twin.yaml:2: Model default/tiny is also in model.yaml:1 (DuplicateObject)",
            ]
        );
        server.holds(&ALL).await;
        machine.remove("model.yaml");
        server.holds(&[("model default/tiny", "file:///twin.gguf"), ALL[1], ALL[2]]).await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_bad_entry_of_a_secret_is_told_with_its_line_and_the_other_keys_open() {
    within_a_minute(async {
        let machine = Machine::new();
        machine.write("tenant.yaml", &format!("{TENANT}  second: 'secret words'\n"));
        let mut server = machine.serve().await;
        let problem = server.problem().await;
        assert!(problem.starts_with("tenant.yaml:14: data[second]: "), "{problem}");
        assert!(problem.ends_with("(InvalidKey)") && !problem.contains("words"), "{problem}");
        server.holds(&ALL).await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn the_generation_goes_on_after_a_restart_and_does_not_grow_without_need() {
    within_a_minute(async {
        let machine = Machine::new();
        let mut server = machine.serve().await;
        let generation = server.holds(&ALL).await;
        server.stop().await;

        let mut server = machine.serve().await;
        let current = server.notice().await;
        assert!(matches!(current, Notice::Current { generation: g } if g == generation));
        assert_eq!(server.holds(&ALL).await, generation);
        machine.remove("pipeline.yaml");
        assert!(generation < server.holds(&[ALL[0], ALL[2]]).await);
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn after_a_restart_a_broken_folder_serves_what_it_served() {
    within_a_minute(async {
        let machine = Machine::new();
        let mut server = machine.serve().await;
        server.holds(&ALL).await;
        server.stop().await;

        machine.write("model.yaml", "kind: [\n");
        machine.write("pipeline.yaml", &PIPELINE.replace("maxTokens: 8", "maxTokens: 0"));
        let mut server = machine.serve().await;
        let problems = [server.problem().await, server.problem().await];
        assert!(problems[0].starts_with("model.yaml:"), "{problems:?}");
        assert!(
            problems[1].starts_with("pipeline.yaml:10: spec.steps[0].maxTokens"),
            "{problems:?}"
        );
        server.holds(&ALL).await;

        // What has been removed meanwhile is gone, broken neighbours or not.
        machine.remove("tenant.yaml");
        server.holds(&ALL[..1]).await;
        server.stop().await;
    })
    .await;
}

#[tokio::test]
async fn a_folder_that_is_gone_serves_on_and_is_followed_when_it_is_back() {
    within_a_minute(async {
        let machine = Machine::new();
        let mut server = machine.serve().await;
        let generation = server.holds(&ALL).await;
        server.stop().await;

        let (folder, away) = (machine.manifests.path(), machine.kept.path().join("away"));
        fs::rename(folder, &away).unwrap();
        // Not even what was kept of the manifests is left: the ledger alone has to do.
        fs::remove_file(machine.kept.path().join("manifests.json")).unwrap();
        let mut server = machine.serve().await;
        assert!(server.problem().await.ends_with("(Unreadable)"));
        let current = server.notice().await;
        assert!(matches!(current, Notice::Current { generation: g } if g == generation));
        server.holds(&ALL).await;
        server.stop().await;

        fs::rename(&away, folder).unwrap();
        let mut server = machine.serve().await;
        assert!(matches!(server.notice().await, Notice::Current { .. }));
        server.holds(&ALL).await;
        server.stop().await;
    })
    .await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_full_disk_is_told_and_what_was_accepted_goes_on() {
    within_a_minute(async {
        let machine = Machine::new();
        let mut server = machine.serve().await;
        server.holds(&ALL).await;
        // A device that has no space left, in the place of the ledger's temporary file.
        let temporary = machine.kept.path().join("desired.new");
        std::os::unix::fs::symlink("/dev/full", &temporary).unwrap();
        machine.remove("pipeline.yaml");
        loop {
            match server.notice().await {
                Notice::NotAccepted(AcceptError::Ledger(LedgerError::DiskFull { .. })) => break,
                Notice::Current { generation: 1 } => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(server.report.borrow().generation, 1);
        assert!(server.held.borrow().contains_key("pipeline default/echo"));
        // The failed write took the temporary file away, and so made space.
        server.holds(&[ALL[0], ALL[2]]).await;
        server.stop().await;
    })
    .await;
}
