//! From manifests to plans.

use proptest::{prelude::*, sample::subsequence};
use serde::{Deserialize, de::DeserializeOwned};

use super::*;
use crate::{
    desired::Program,
    problem::Reason,
    validate::{self, Site},
};

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
    demand(&format!(
        "{{kind: Model, apiVersion: realm.dev/v1alpha1, metadata: {{name: {name}}}, \
          spec: {{sources: ['file:///{name}'], replicas: {replicas}}}}}"
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

fn node(name: &str, memory_bytes: u64) -> NodeSupply {
    NodeSupply { name: name.to_owned(), memory_bytes }
}

fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').unwrap();
    Name::new(namespace, name).unwrap()
}

/// A planned fleet of these demands on nodes `n0`, `n1`, … of equal memory.
fn fleet(nodes: usize, demands: impl IntoIterator<Item = Demand>) -> Fleet {
    let mut fleet = Fleet::new(1);
    for i in 0..nodes {
        fleet.supply(node(&format!("n{i}"), 1));
    }
    for demand in demands {
        fleet.apply(demand);
    }
    fleet.plan();
    fleet
}

/// What every node holds, a line each: models | tenants with what they may use | pipelines.
fn show(fleet: &Fleet) -> Vec<String> {
    let join = |items: Vec<String>| items.join(" ");
    let nodes = fleet.plans.iter().map(|(node, desired)| {
        let models = desired.models.iter().map(|model| model.name.name().to_owned());
        let tenants = desired.tenants.iter().map(|tenant| {
            let grants = tenant.models.iter().map(|grant| grant.alias.clone());
            let pipelines = tenant.pipelines.keys().cloned();
            let keys = tenant.keys.iter().map(|key| key.name.clone());
            let rights = grants.chain(pipelines).chain(keys).collect::<Vec<_>>().join(",");
            format!("{}({rights})", tenant.name.name())
        });
        let pipelines = desired.pipelines.iter().map(|pipeline| pipeline.name.name().to_owned());
        let (models, tenants) = (join(models.collect()), join(tenants.collect()));
        format!("{node}: {models} | {tenants} | {}", join(pipelines.collect()))
    });
    nodes.collect()
}

/// Everything that is wrong, a line each: kind, name, path, reason.
fn problems(fleet: &Fleet) -> Vec<String> {
    let all = fleet.all_problems();
    let lines = all.flat_map(|(kind, name, problems)| {
        problems.iter().map(move |p| format!("{kind} {name} {} {}", p.path, p.reason.as_str()))
    });
    lines.collect()
}

/// What a fleet of these demands on one node holds and what is wrong with it.
fn check(demands: impl IntoIterator<Item = Demand>, holds: &str, wrong: &[&str]) {
    let fleet = fleet(1, demands);
    assert_eq!((show(&fleet), problems(&fleet)), (vec![format!("n0: {holds}")], to_strings(wrong)));
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
    let mut fleet = fleet(1, [model("a", 1), tenant("t", "models: [{name: a}]")]);
    let problem = Problem {
        path: "spec.weight".to_owned(),
        reason: Reason::OutOfRange,
        message: String::new(),
    };
    fleet.refuse(Kind::Tenant, name("default/t"), vec![problem]);
    assert_eq!(fleet.plan(), []);
    assert_eq!(problems(&fleet), ["Tenant default/t spec.weight OutOfRange"]);
    fleet.apply(tenant("t", "weight: 7"));
    assert_eq!(fleet.plan().len(), 1);
    assert_eq!((show(&fleet), problems(&fleet)), (to_strings(&["n0: a | t() | "]), vec![]));
    fleet.remove(Kind::Tenant, &name("default/t"));
    fleet.plan();
    assert_eq!(show(&fleet), ["n0: a |  | "]);
}

#[test]
fn replicas_spread_over_the_emptiest_nodes() {
    let fleet = fleet(3, [model("a", 2), model("b", 1), model("c", 3)]);
    assert_eq!(show(&fleet), ["n0: a c |  | ", "n1: a c |  | ", "n2: b c |  | "]);
    assert_eq!(problems(&fleet), Vec::<String>::new());
}

#[test]
fn of_equally_loaded_nodes_the_one_with_most_memory_comes_first() {
    let mut fleet = Fleet::new(1);
    fleet.supply(node("small", 1));
    fleet.supply(node("vast", 9));
    fleet.apply(model("a", 1));
    fleet.plan();
    assert_eq!(show(&fleet), ["small:  |  | ", "vast: a |  | "]);
}

#[test]
fn wanting_more_replicas_than_nodes_fills_every_node_and_is_reported() {
    let fleet = fleet(2, [model("a", 3)]);
    assert_eq!(show(&fleet), ["n0: a |  | ", "n1: a |  | "]);
    let [problem] = fleet.problems(Kind::Model, &name("default/a")) else { panic!() };
    assert_eq!(
        (problem.reason, problem.message.as_str()),
        (Reason::NotEnoughNodes, "3 replicas, 2 nodes")
    );
}

#[test]
fn scaling_down_and_up_keeps_what_can_stay() {
    let mut fleet = fleet(3, [model("a", 3), model("b", 1)]);
    assert_eq!(show(&fleet), ["n0: a b |  | ", "n1: a |  | ", "n2: a |  | "]);
    fleet.apply(model("a", 2));
    fleet.plan();
    assert_eq!(show(&fleet), ["n0: b |  | ", "n1: a |  | ", "n2: a |  | "]);
    fleet.apply(model("a", 0));
    fleet.plan();
    assert_eq!(show(&fleet), ["n0: b |  | ", "n1:  |  | ", "n2:  |  | "]);
}

#[test]
fn a_fleet_that_starts_anew_leaves_models_where_nodes_hold_them() {
    let mut fleet = Fleet::new(41);
    fleet.recall("n1", [name("default/a"), name("default/gone")]);
    fleet.supply(node("n0", 9));
    fleet.supply(node("n1", 1));
    fleet.apply(model("a", 1));
    let plans = fleet.plan();
    assert_eq!(show(&fleet), ["n0:  |  | ", "n1: a |  | "]);
    assert!(plans.iter().all(|plan| plan.desired.generation == 41));
}

#[test]
fn the_models_of_a_lost_node_move_and_no_others() {
    let mut fleet = fleet(3, [model("a", 1), model("b", 1), model("c", 1)]);
    assert_eq!(show(&fleet), ["n0: a |  | ", "n1: b |  | ", "n2: c |  | "]);
    fleet.withdraw("n1");
    let plans = fleet.plan();
    assert_eq!(plans.iter().map(|plan| plan.node.as_str()).collect::<Vec<_>>(), ["n0"]);
    assert_eq!(show(&fleet), ["n0: a b |  | ", "n2: c |  | "]);
}

#[test]
fn limits_program_and_configuration_reach_the_node() {
    let spec = "weight: 3, suspended: true, limits: {calls: 2}, \
                program: {sources: ['file:///p.wasm'], config: {tone: dry}}";
    let fleet = fleet(1, [tenant("t", spec)]);
    let [tenant] = fleet.desired("n0").unwrap().tenants.as_slice() else { panic!() };
    assert_eq!((tenant.weight, tenant.suspended, tenant.limits.calls_max), (3, true, 2));
    assert!(
        matches!(&tenant.program, Program::Component(artifact) if artifact.sources == ["file:///p.wasm"])
    );
    assert_eq!(tenant.config.get("tone").map(String::as_str), Some("dry"));
}

/// One thing that may happen to a fleet.
#[derive(Clone, Debug)]
enum Event {
    Model(usize, u32),
    RemoveModel(usize),
    Tenant(usize, Vec<usize>),
    RemoveTenant(usize),
    Supply(usize),
    Withdraw(usize),
}

impl Event {
    fn happen(&self, fleet: &mut Fleet) {
        match self {
            Self::Model(i, replicas) => fleet.apply(model(&format!("m{i}"), *replicas)),
            Self::RemoveModel(i) => fleet.remove(Kind::Model, &name(&format!("default/m{i}"))),
            Self::Tenant(i, models) => fleet.apply(granted(*i, models)),
            Self::RemoveTenant(i) => fleet.remove(Kind::Tenant, &name(&format!("default/t{i}"))),
            Self::Supply(i) => fleet.supply(node(&format!("n{i}"), 1)),
            Self::Withdraw(i) => fleet.withdraw(&format!("n{i}")),
        }
    }
}

fn granted(i: usize, models: &[usize]) -> Demand {
    let models = models.iter().map(|m| format!("{{name: m{m}}}")).collect::<Vec<_>>().join(", ");
    tenant(&format!("t{i}"), &format!("models: [{models}]"))
}

fn event() -> impl Strategy<Value = Event> {
    let models = || subsequence((0..5).collect::<Vec<usize>>(), 0..=5);
    prop_oneof![
        4 => (0..5_usize, 0..4_u32).prop_map(|(i, replicas)| Event::Model(i, replicas)),
        1 => (0..5_usize).prop_map(Event::RemoveModel),
        2 => (0..3_usize, models()).prop_map(|(i, models)| Event::Tenant(i, models)),
        1 => (0..3_usize).prop_map(Event::RemoveTenant),
        3 => (0..4_usize).prop_map(Event::Supply),
        1 => (0..4_usize).prop_map(Event::Withdraw),
    ]
}

/// Fleets after a few rounds of events, planned after each.
fn lived_in() -> impl Strategy<Value = Fleet> {
    prop::collection::vec(prop::collection::vec(event(), 1..5), 1..5).prop_map(|rounds| {
        let mut fleet = Fleet::new(1);
        for round in rounds {
            for event in &round {
                event.happen(&mut fleet);
            }
            fleet.plan();
        }
        fleet
    })
}

/// What every node holds, without generations.
fn contents(fleet: &Fleet) -> BTreeMap<String, Desired> {
    let mut plans = fleet.plans.clone();
    for desired in plans.values_mut() {
        desired.generation = 0;
    }
    plans
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_model_has_its_replicas_and_none_moves_without_need(
        fleet in lived_in(),
        events in prop::collection::vec(event(), 0..5),
    ) {
        let before = fleet.placement.clone();
        let mut after = fleet;
        for event in &events {
            event.happen(&mut after);
        }
        after.plan();
        for (name, model) in &after.demands.models {
            let held = &after.placement[name];
            let wanted = (model.replicas as usize).min(after.nodes.len());
            prop_assert_eq!(held.len(), wanted);
            let could_stay = before.get(name).into_iter().flatten();
            let could_stay =
                could_stay.filter(|node| after.nodes.contains_key(*node)).collect::<Vec<_>>();
            let stayed = could_stay.iter().filter(|node| held.contains(**node)).count();
            prop_assert_eq!(stayed, could_stay.len().min(wanted));
        }
        prop_assert_eq!(after.placement.len(), after.demands.models.len());
    }

    #[test]
    fn generations_grow_when_and_only_when_something_changed(
        fleet in lived_in(),
        events in prop::collection::vec(event(), 0..5),
    ) {
        let before = fleet.plans.clone();
        let newest = before.values().map(|desired| desired.generation).max().unwrap_or(0);
        let mut after = fleet;
        for event in &events {
            event.happen(&mut after);
        }
        let changed = after.plan();
        for NodePlan { node, desired } in &changed {
            prop_assert!(desired.generation > newest);
            prop_assert!(before.get(node).is_none_or(|last| !has_same_content(last, desired)));
            prop_assert_eq!(after.desired(node), Some(desired));
        }
        for (node, desired) in &after.plans {
            let is_changed = changed.iter().any(|plan| plan.node == *node);
            prop_assert!(is_changed || before.get(node) == Some(desired));
        }
        prop_assert_eq!(after.plan(), []);
    }

    #[test]
    fn the_order_in_which_demands_arrive_does_not_matter(
        fleet in lived_in(),
        demands in Just((0..4_u32).map(|i| model(&format!("x{i}"), i)).chain((0..3).map(|i| granted(i, &[0, 1]))).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let (mut one, mut other) = (fleet.clone(), fleet);
        let mut sorted = demands.clone();
        sorted.sort_by_key(|demand| format!("{demand:?}"));
        for demand in demands {
        one.apply(demand);
    }
        for demand in sorted {
        other.apply(demand);
    }
        prop_assert_eq!(one.plan(), other.plan());
    }

    #[test]
    fn what_comes_and_goes_leaves_no_trace(fleet in lived_in(), replicas in 0..4_u32) {
        let mut after = fleet.clone();
        after.apply(model("passing", replicas));
        after.apply(tenant("passing", "models: [{name: passing}, {name: m0}]"));
        after.apply(pipeline("passing", &["passing"], "passing"));
        after.plan();
        for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline] {
            after.remove(kind, &name("default/passing"));
        }
        after.plan();
        prop_assert_eq!(contents(&after), contents(&fleet));
        prop_assert_eq!(problems(&after), problems(&fleet));
    }

    #[test]
    fn a_broken_object_changes_nobody_elses_plan(fleet in lived_in()) {
        let mut after = fleet.clone();
        after.apply(tenant("broken", "models: [{name: nowhere}], apiKeys: [{secretName: nowhere}]"));
        after.apply(pipeline("broken", &["nowhere"], "broken, t0, t1"));
        let problem = Problem { path: "spec".to_owned(), reason: Reason::Cycle, message: String::new() };
        after.refuse(Kind::Pipeline, name("default/refused"), vec![problem]);
        after.plan();
        let mut others = contents(&after);
        for desired in others.values_mut() {
            desired.tenants.retain(|tenant| tenant.name.name() != "broken");
        }
        prop_assert_eq!(others, contents(&fleet));
        let mut wrong = problems(&after);
        wrong.retain(|line| !line.contains("default/broken") && !line.contains("default/refused"));
        prop_assert_eq!(wrong, problems(&fleet));
    }
}
