//! From manifests to plans, with nodes that do what they are told.

use proptest::{prelude::*, sample::subsequence};
use serde::{Deserialize, de::DeserializeOwned};

use super::*;
use crate::{
    desired::{Accelerator, DesiredModel, Program, Stage},
    problem::Reason,
    validate,
};

mod adapters;
mod lives;
mod places;
mod restarts;
mod roles;

#[derive(Deserialize)]
struct Header {
    kind: String,
}

/// One demand from the text of one manifest, through the real types and validation.
fn demand(yaml: &str) -> Demand {
    let Header { kind } = read(yaml);
    match kind.as_str() {
        "Model" => Demand::Model(validate::model(&read(yaml), Site::Cluster).unwrap()),
        "Tenant" => Demand::Tenant(validate::tenant(&read(yaml), Site::Cluster).unwrap()),
        "Pipeline" => Demand::Pipeline(validate::pipeline(&read(yaml)).unwrap()),
        "Secret" => Demand::Secret(validate::secret(&read(yaml)).unwrap()),
        _ => panic!("{kind}"),
    }
}

fn read<T: DeserializeOwned>(yaml: &str) -> T {
    serde_saphyr::from_str(yaml).unwrap()
}

fn model(name: &str, replicas: u32) -> Demand {
    model_with(name, &format!("replicas: {replicas}"))
}

fn model_with(name: &str, spec: &str) -> Demand {
    demand(&format!(
        "{{kind: Model, apiVersion: realm.dev/v1alpha1, metadata: {{name: {name}}}, \
          spec: {{sources: ['file:///{name}'], {spec}}}}}"
    ))
}

fn shared_model(namespace: &str, allowed: &str) -> Demand {
    demand(&format!(
        "{{kind: Model, apiVersion: realm.dev/v1alpha1, metadata: {{name: m, namespace: {namespace}}}, \
          spec: {{sources: ['file:///m'], allowedNamespaces: [{allowed}]}}}}"
    ))
}

fn tenant(name: &str, spec: &str) -> Demand {
    demand(&format!(
        "{{kind: Tenant, apiVersion: realm.dev/v1alpha1, metadata: {{name: {name}}}, spec: {{{spec}}}}}"
    ))
}

/// A pipeline of one step for each of `models`.
fn pipeline(name: &str, models: &[&str], tenants: &str) -> Demand {
    let steps = models.iter().enumerate().map(|(i, model)| {
        format!("{{name: s{i}, model: {{name: {model}}}, prompt: x, maxTokens: 1}}")
    });
    let steps = steps.collect::<Vec<_>>().join(", ");
    demand(&format!(
        "{{kind: Pipeline, apiVersion: realm.dev/v1alpha1, metadata: {{name: {name}}}, \
          spec: {{steps: [{steps}], outputs: [{{name: o, step: s0}}], tenants: [{tenants}]}}}}"
    ))
}

/// A Secret with one key, `entry`, whose digest is `digit` 64 times.
fn secret(name: &str, digit: char) -> Demand {
    let digest = digit.to_string().repeat(64);
    demand(&format!(
        "{{kind: Secret, apiVersion: v1, metadata: {{name: {name}}}, \
          stringData: {{entry: '{{\"sha256\": \"{digest}\"}}'}}}}"
    ))
}

fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap_or(("default", text));
    Name::new(namespace, name).unwrap()
}

/// A node that does at once what it is told, as its operator knows it.
#[derive(Clone, Debug)]
struct Agent {
    supply: NodeSupply,
    /// What its models may take all together.
    memory_bytes: u64,
    report: NodeReport,
}

/// A fleet and its nodes.
#[derive(Clone, Debug)]
struct World {
    fleet: Fleet,
    agents: BTreeMap<String, Agent>,
    /// Bytes of the weights of models, by name; 1 where nothing is said.
    sizes: BTreeMap<String, u64>,
    /// Models that fail, each on a node.
    failures: BTreeSet<(String, String)>,
    now: Duration,
}

impl World {
    fn empty(first_generation: u64) -> Self {
        let mut fleet = Fleet::new(Site::Cluster, first_generation);
        for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret] {
            fleet.synced(kind);
        }
        fleet.labelled();
        Self {
            fleet,
            agents: BTreeMap::new(),
            sizes: BTreeMap::new(),
            failures: BTreeSet::new(),
            now: Duration::ZERO,
        }
    }

    /// Settled, with these demands on nodes `n0`, `n1`, … of equal memory.
    fn new(nodes: usize, demands: impl IntoIterator<Item = Demand>) -> Self {
        let mut world = Self::empty(1);
        for i in 0..nodes {
            world.join(&format!("n{i}"), 1000);
        }
        world.demand(demands);
        world.settle();
        world
    }

    fn demand(&mut self, demands: impl IntoIterator<Item = Demand>) {
        demands.into_iter().for_each(|demand| self.fleet.apply(demand));
    }

    /// A node comes, with what it held when it was last seen.
    fn join(&mut self, node: &str, memory_bytes: u64) {
        let supply = NodeSupply {
            name: node.to_owned(),
            labels: BTreeMap::from([("node".to_owned(), node.to_owned())]),
            memory_bytes: BTreeMap::from([(Accelerator::Cpu, memory_bytes)]),
            is_door: true,
            peer_address: Some(format!("{node}:1")),
            is_ready: true,
            calls: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        let agent = Agent { supply, memory_bytes, report: NodeReport::default() };
        self.agents.entry(node.to_owned()).or_insert(agent);
        self.tell(node);
    }

    /// A node is gone for good.
    fn lose(&mut self, node: &str) {
        self.agents.remove(node);
        self.fleet.withdraw(node);
    }

    fn change(&mut self, node: &str, change: impl FnOnce(&mut NodeSupply)) {
        change(&mut self.agents.get_mut(node).unwrap().supply);
        self.tell(node);
    }

    /// The node says what it has and holds.
    fn tell(&mut self, node: &str) {
        let agent = &self.agents[node];
        self.fleet.supply(agent.supply.clone());
        self.fleet.report(node, agent.report.clone());
    }

    /// The node does what it was told last, and says so.
    fn obey(&mut self, node: &str) {
        let Some(desired) = self.fleet.desired(node) else { return };
        let models: Vec<_> = desired.models.iter().map(|model| self.held(node, model)).collect();
        let loaded = models.iter().filter(|held| held.stage == Some(Stage::Load));
        let used: u64 =
            loaded.map(|held| self.estimate(&held.name).bytes(held.kv_blocks.unwrap_or(1))).sum();
        let report = NodeReport { generation: desired.generation, models };
        let agent = self.agents.get_mut(node).unwrap();
        let free = agent.memory_bytes.checked_sub(used).expect("a node has room for its models");
        agent.supply.memory_bytes.values_mut().for_each(|bytes| *bytes = free);
        agent.report = report;
        self.tell(node);
    }

    fn held(&self, node: &str, model: &DesiredModel) -> ModelHeld {
        let name = model.name.name();
        let is_failed = self.failures.contains(&(node.to_owned(), name.to_owned()));
        ModelHeld {
            name: model.name.clone(),
            stage: (!is_failed).then_some(model.stage),
            kv_blocks: model.kv_blocks,
            is_failed,
            sha256: None,
            estimate: (!is_failed).then(|| self.estimate(&model.name)),
        }
    }

    fn estimate(&self, model: &Name) -> Estimate {
        let weights_bytes = self.sizes.get(model.name()).copied().unwrap_or(1);
        let (kv_bytes_per_block, activation_bytes, kv_blocks_per_sequence) = (0, 0, None);
        Estimate {
            weights_bytes,
            kv_bytes_per_block,
            activation_bytes,
            context: 64,
            kv_blocks_per_sequence,
        }
    }

    fn plan(&mut self) -> Vec<NodePlan> {
        self.fleet.plan(self.now)
    }

    /// Everybody does as told until nothing changes any more.
    fn settle(&mut self) {
        self.settle_but("nobody");
    }

    /// The same while one node is away.
    fn settle_but(&mut self, away: &str) {
        // Inspect, load, route; and each node may fail once with each model.
        for round in 0..20 {
            if self.plan().is_empty() && round > 0 {
                return;
            }
            for node in self.agents.keys().filter(|node| *node != away).cloned().collect::<Vec<_>>()
            {
                self.obey(&node);
            }
        }
        panic!("it does not settle: {:?}", self.show());
    }

    /// What every node holds, a line each: models | tenants with what they may use | pipelines.
    /// A model that is only inspected has a `?`, one that is only fetched a `~`.
    fn show(&self) -> Vec<String> {
        let join = |items: Vec<String>| items.join(" ");
        let nodes = self.fleet.plans.iter().map(|(node, desired)| {
            let models = desired.models.iter().map(|model| {
                let mark = match model.stage {
                    Stage::Inspect => "?",
                    Stage::Prefetch => "~",
                    Stage::Load => "",
                };
                format!("{}{mark}", model.name.name())
            });
            let tenants = desired.tenants.iter().map(|tenant| {
                let grants = tenant.models.iter().map(|grant| grant.alias.clone());
                let pipelines = tenant.pipelines.keys().cloned();
                let keys = tenant.keys.iter().map(|key| key.name.clone());
                let rights = grants.chain(pipelines).chain(keys).collect::<Vec<_>>().join(",");
                format!("{}({rights})", tenant.name.name())
            });
            let pipelines =
                desired.pipelines.iter().map(|pipeline| pipeline.name.name().to_owned());
            let (models, tenants) = (join(models.collect()), join(tenants.collect()));
            format!("{node}: {models} | {tenants} | {}", join(pipelines.collect()))
        });
        nodes.collect()
    }

    /// The models of every node, a line each.
    fn models(&self) -> Vec<String> {
        let lines = self.show();
        lines.iter().map(|line| line.split('|').next().unwrap().trim_end().to_owned()).collect()
    }

    /// Everything that is wrong, a line each: kind, name, path, reason.
    fn problems(&self) -> Vec<String> {
        let all = self.fleet.all_problems();
        let lines = all.flat_map(|(kind, name, problems)| {
            problems.iter().map(move |p| format!("{kind} {name} {} {}", p.path, p.reason.as_str()))
        });
        lines.collect()
    }

    fn demand_models(&self) -> BTreeMap<Name, ValidModel> {
        self.fleet.demands.models.clone()
    }

    fn message(&self, model: &str) -> &str {
        let [problem] = self.fleet.problems(Kind::Model, &name(model)) else { panic!() };
        &problem.message
    }
}

/// What a fleet of these demands on one node holds and what is wrong with it.
fn check(demands: impl IntoIterator<Item = Demand>, holds: &str, wrong: &[&str]) {
    let world = World::new(1, demands);
    assert_eq!((world.show(), world.problems()), (vec![format!("n0: {holds}")], to_strings(wrong)));
}

fn to_strings(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

#[test]
fn a_tenant_gets_its_models_keys_and_pipelines() {
    check(
        [
            pipeline("p", &["b", "a"], "t"),
            tenant("t", "models: [{name: b}, {name: a}], apiKeys: [{secretName: k}]"),
            secret("k", 'a'),
            model("a", 1),
            model("b", 1),
        ],
        "a b | t(b,a,p,k/entry) | p",
        &[],
    );
}

#[test]
fn an_unknown_model_or_secret_is_absent_and_reported_and_the_rest_stays() {
    check(
        [
            model("a", 1),
            secret("k", 'a'),
            tenant(
                "t",
                "models: [{name: x}, {name: a}], apiKeys: [{secretName: y}, {secretName: k}]",
            ),
        ],
        "a | t(a,k/entry) | ",
        &[
            "Tenant default/t spec.models[0] UnknownModel",
            "Tenant default/t spec.apiKeys[0] UnknownSecret",
        ],
    );
}

#[test]
fn a_model_of_another_namespace_must_allow_this_one() {
    let tenant = || tenant("t", "models: [{name: m, namespace: home}]");
    check([shared_model("home", "default"), tenant()], "m | t(home/m) | ", &[]);
    let refused = ["Tenant default/t spec.models[0] ModelNotShared"];
    check([shared_model("home", "other"), tenant()], "m | t() | ", &refused);
    // Whether the model exists does not show.
    check([tenant()], " | t() | ", &refused);
}

#[test]
fn a_pipeline_goes_to_those_of_its_tenants_that_have_all_its_models() {
    check(
        [
            model("a", 1),
            model("b", 1),
            pipeline("p", &["a", "b"], "all, some, none"),
            tenant("all", "models: [{name: a}, {name: b}]"),
            tenant("some", "models: [{name: a}]"),
            tenant("stranger", "models: [{name: a}, {name: b}]"),
        ],
        "a b | all(a,b,p) some(a) stranger(a,b) | p",
        &[
            "Pipeline default/p spec.tenants[1] ModelNotGranted",
            "Pipeline default/p spec.tenants[2] UnknownTenant",
        ],
    );
}

#[test]
fn a_pipeline_with_an_unknown_model_is_not_served() {
    check(
        [model("a", 1), pipeline("p", &["a", "x"], "t"), tenant("t", "models: [{name: a}]")],
        "a | t(a) | ",
        &["Pipeline default/p spec.steps[1].model UnknownModel"],
    );
}

#[test]
fn a_pipeline_names_tenants_of_its_own_namespace_only() {
    let elsewhere = "{kind: Tenant, apiVersion: realm.dev/v1alpha1, metadata: {name: t, namespace: n}, \
                      spec: {models: [{name: a, namespace: default}]}}";
    check(
        [model("a", 1), pipeline("p", &["a"], "t"), demand(elsewhere)],
        "a | t() | ",
        &[
            "Tenant n/t spec.models[0] ModelNotShared",
            "Pipeline default/p spec.tenants[0] UnknownTenant",
        ],
    );
}

#[test]
fn a_key_that_two_tenants_claim_is_reported_of_both() {
    check(
        [
            secret("k", 'a'),
            secret("l", 'a'),
            tenant("s", "apiKeys: [{secretName: k}]"),
            tenant("t", "apiKeys: [{secretName: l}]"),
            tenant("u", ""),
        ],
        " | s(k/entry) t(l/entry) u() | ",
        &[
            "Tenant default/s spec.apiKeys KeyNotUnique",
            "Tenant default/t spec.apiKeys KeyNotUnique",
        ],
    );
}

#[test]
fn a_broken_key_is_reported_of_the_tenants_that_name_its_secret() {
    let broken = "{kind: Secret, apiVersion: v1, metadata: {name: k}, stringData: {e: nonsense}}";
    check(
        [demand(broken), tenant("t", "apiKeys: [{secretName: k}]"), tenant("u", "")],
        " | t() u() | ",
        &["Tenant default/t spec.apiKeys[0] InvalidKey"],
    );
}

#[test]
fn a_refused_object_stays_as_it_was_until_it_is_good_again_or_gone() {
    let mut world = World::new(1, [model("a", 1), tenant("t", "models: [{name: a}]")]);
    let problem = Problem {
        path: "spec.weight".to_owned(),
        reason: Reason::OutOfRange,
        message: String::new(),
    };
    world.fleet.refuse(Kind::Tenant, name("t"), vec![problem]);
    assert_eq!(world.plan(), []);
    assert_eq!(world.problems(), ["Tenant default/t spec.weight OutOfRange"]);
    world.demand([tenant("t", "weight: 7")]);
    assert_eq!(world.plan().len(), 1);
    assert_eq!((world.show(), world.problems()), (to_strings(&["n0: a | t() | "]), vec![]));
    world.fleet.remove(Kind::Tenant, &name("t"));
    world.plan();
    assert_eq!(world.show(), ["n0: a |  | "]);
}

#[test]
fn limits_program_and_configuration_reach_the_node() {
    let spec = "weight: 3, suspended: true, limits: {calls: 2}, \
                program: {sources: ['file:///p.wasm'], config: {tone: dry}}";
    let world = World::new(1, [tenant("t", spec)]);
    let [tenant] = world.fleet.desired("n0").unwrap().tenants.as_slice() else { panic!() };
    assert_eq!((tenant.weight, tenant.suspended, tenant.limits.calls_max), (3, true, 2));
    let program = tenant.program.as_ref().unwrap();
    assert!(
        matches!(&program.code, Program::Component(artifact) if artifact.sources == ["file:///p.wasm"])
    );
    assert_eq!(program.config.get("tone").map(String::as_str), Some("dry"));
}

#[test]
fn a_model_whose_secret_is_missing_is_planned_and_reported() {
    let spec = "sourceSecret: {name: hub}";
    let wrong = "Model default/a spec.sourceSecret UnknownSecret";
    check([model_with("a", spec)], "a |  | ", &[wrong]);
    let world = World::new(1, [model_with("a", spec), secret("hub", 'a')]);
    assert_eq!(world.problems(), Vec::<String>::new());
    let [model] = world.fleet.desired("n0").unwrap().models.as_slice() else { panic!() };
    assert_eq!(model.secret, Some(name("hub")));
}
