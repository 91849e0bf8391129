//! What a fleet that starts anew does before it knows everything.

use super::*;

/// A fleet like that of `world` that knows its demands, recalls who held what, and knows the labels
/// of nodes.
pub(super) fn restarted(world: &World) -> World {
    let mut fleet = Fleet::new(Site::Cluster, 100);
    fleet.labelled();
    for node in world.agents.keys() {
        let models = world.fleet.desired(node).unwrap().models.iter();
        let loaded = models.filter(|model| model.stage == Stage::Load);
        fleet.recall(node, loaded.map(|model| model.name.clone()).collect::<Vec<_>>());
    }
    let Demands { models, tenants, pipelines, secrets } = world.fleet.demands.clone();
    let models = models.into_values().map(Demand::Model);
    let tenants = tenants.into_values().map(Demand::Tenant);
    let pipelines = pipelines.into_values().map(Demand::Pipeline);
    let secrets = secrets.into_values().map(Demand::Secret);
    for demand in models.chain(tenants).chain(pipelines).chain(secrets) {
        fleet.apply(demand);
    }
    World { fleet, ..world.clone() }
}

#[test]
fn nothing_is_planned_before_every_kind_has_been_read_once() {
    let kinds = [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret];
    for missing in kinds {
        let mut fleet = Fleet::new(Site::Cluster, 1);
        let mut world = World::new(1, [model("a", 1)]);
        for kind in kinds.into_iter().filter(|kind| *kind != missing) {
            fleet.synced(kind);
        }
        fleet.labelled();
        world.fleet = fleet;
        world.tell("n0");
        assert_eq!(world.plan(), [], "{missing} is not known");
        assert_eq!(world.fleet.desired("n0"), None);
        world.fleet.synced(missing);
        assert_eq!(world.plan().len(), 1);
    }
}

#[test]
fn a_model_keeps_its_place_at_a_leader_that_is_told_late_of_the_labels_it_is_there_for() {
    let spec = "replicas: 1, placement: {nodeSelector: {node: n1}}";
    let before = World::new(2, [model_with("a", spec)]);
    assert_eq!(before.models(), ["n0:", "n1: a"]);
    let mut after = restarted(&before);
    after.fleet.is_labelled = false;
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret] {
        after.fleet.synced(kind);
    }
    for node in ["n0", "n1"] {
        let agent = after.agents[node].clone();
        after.fleet.supply(NodeSupply { labels: BTreeMap::new(), ..agent.supply });
        after.fleet.report(node, agent.report);
        assert_eq!(after.plan(), [], "nobody knows what labels {node} has");
    }
    assert_eq!(after.problems(), Vec::<String>::new());
    after.fleet.labelled();
    after.tell("n0");
    after.tell("n1");
    after.plan();
    assert_eq!(after.models(), ["n0:", "n1: a"]);
    assert_eq!(after.problems(), Vec::<String>::new());
}

#[test]
fn a_node_is_told_nothing_before_it_has_said_what_it_holds() {
    let mut world = World::new(1, [model("a", 1)]);
    let supply = NodeSupply { name: "n1".to_owned(), ..world.agents["n0"].supply.clone() };
    let told = |plans: Vec<NodePlan>| plans.into_iter().map(|plan| plan.node).collect::<Vec<_>>();
    world.fleet.supply(supply);
    assert_eq!(told(world.plan()), ["n0"], "there is one more door");
    world.fleet.report("n1", NodeReport::default());
    assert_eq!(told(world.plan()), ["n1"]);
}

#[test]
fn recalled_models_wait_for_their_node_and_move_only_when_it_is_lost() {
    let world = World::new(3, [model("a", 1), model("b", 2)]);
    assert_eq!(world.models(), ["n0: a", "n1: b", "n2: b"]);
    let mut world = restarted(&world);
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret] {
        world.fleet.synced(kind);
    }
    assert_eq!(world.plan(), [], "nobody is there yet");
    assert_eq!(world.problems(), Vec::<String>::new());
    world.tell("n1");
    world.plan();
    world.tell("n2");
    world.plan();
    assert_eq!(world.models(), ["n1: b", "n2: b"], "a stays where it is recalled");
    assert_eq!(world.fleet.nodes_of(&name("a")).collect::<Vec<_>>(), ["n0"]);
    world.lose("n0");
    world.settle();
    assert_eq!(world.models(), ["n1: a b", "n2: b"]);
}

#[test]
fn nobody_reads_the_header_of_a_model_whose_node_is_there_and_has_yet_to_say_what_it_holds() {
    let before = World::new(2, [model("a", 1), model("b", 1)]);
    assert_eq!(before.models(), ["n0: a", "n1: b"]);
    let mut after = restarted(&before);
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret] {
        after.fleet.synced(kind);
    }
    after.tell("n0");
    after.fleet.supply(after.agents["n1"].supply.clone());
    after.plan();
    assert_eq!(after.models(), ["n0: a"], "n1 will tell of b, and n0 is not asked to");
    after.tell("n1");
    after.plan();
    assert_eq!(after.models(), ["n0: a", "n1: b"]);
}

#[test]
fn limits_are_not_raised_before_the_doors_of_before_are_back_or_lost() {
    let calls = |world: &World| {
        let desired = world.fleet.desired("n0").unwrap();
        desired.tenants[0].limits.per_door(desired.doors).calls_max
    };
    let before = World::new(3, [tenant("t", "limits: {calls: 12}")]);
    assert_eq!((before.fleet.doors(), calls(&before)), (3, 4));
    let mut after = World::empty(100);
    after.agents = before.agents.clone();
    after.demand([tenant("t", "limits: {calls: 12}")]);
    after.fleet.recall_doors(3);
    for node in ["n0", "n1"] {
        after.tell(node);
        after.plan();
        assert_eq!((after.fleet.doors(), calls(&after)), (3, 4), "{node} is not all");
    }
    after.tell("n2");
    after.join("n3", 1000);
    after.plan();
    assert_eq!((after.fleet.doors(), calls(&after)), (4, 3), "one more is there at once");
    after.lose("n2");
    after.lose("n3");
    after.plan();
    assert_eq!(after.fleet.doors(), 3, "which of before are still away nobody knows");
    after.fleet.recall_doors(0);
    after.plan();
    assert_eq!((after.fleet.doors(), calls(&after)), (2, 6));
}

#[test]
fn what_a_recalled_model_takes_is_asked_of_another_node_while_its_own_still_loads() {
    let before = World::new(2, [model("a", 1)]);
    assert_eq!(before.models(), ["n0: a", "n1:"]);
    let mut after = restarted(&before);
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret] {
        after.fleet.synced(kind);
    }
    // The agent has started anew too.
    after.agents.get_mut("n0").unwrap().report = NodeReport::default();
    after.tell("n0");
    after.tell("n1");
    after.plan();
    assert_eq!(after.models(), ["n0: a", "n1: a?"]);
    after.obey("n1");
    after.plan();
    assert_eq!(after.models(), ["n0: a", "n1:"]);
}

#[test]
fn a_restart_changes_nothing_but_generations() {
    let spec = "models: [{name: a}, {name: b}], apiKeys: [{secretName: k}]";
    let demands =
        [model("a", 2), model("b", 1), model("c", 3), tenant("t", spec), secret("k", 'a')];
    let before = World::new(4, demands);
    let mut after = restarted(&before);
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret] {
        after.fleet.synced(kind);
    }
    for node in ["n2", "n0", "n3", "n1"] {
        after.tell(node);
        after.plan();
    }
    assert_eq!(lives::contents(&after), lives::contents(&before));
    let generations = after.fleet.plans.values().map(|desired| desired.generation);
    assert!(generations.min() >= Some(100));
}

#[test]
fn a_model_that_nobody_recalls_stays_with_a_node_that_holds_it() {
    let before = World::new(2, [model("a", 1)]);
    assert_eq!(before.models(), ["n0: a", "n1:"]);
    let mut after = World::empty(100);
    after.agents = before.agents.clone();
    after.demand([model("b", 1), model("a", 1)]);
    after.tell("n0");
    after.tell("n1");
    after.plan();
    assert_eq!(after.models(), ["n0: a b?", "n1:"]);
    let kv_blocks = |world: &World| world.fleet.desired("n0").unwrap().models[0].kv_blocks;
    assert_eq!(kv_blocks(&after), kv_blocks(&before));
}

#[test]
fn a_scaled_model_starts_anew_with_the_replicas_it_has() {
    let spec = "scaling: {min: 0, max: 4, idleAfterSeconds: 60}";
    let mut before = World::new(2, [model_with("a", spec)]);
    before.change("n1", |supply| supply.held = BTreeMap::from([(name("a"), 1)]));
    before.settle();
    before.change("n1", |supply| supply.held.clear());
    assert_eq!(before.models(), ["n0: a", "n1:"]);
    let mut after = restarted(&before);
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret] {
        after.fleet.synced(kind);
    }
    after.now = Duration::from_secs(5);
    after.tell("n0");
    after.tell("n1");
    after.settle();
    assert_eq!(after.models(), ["n0: a", "n1:"]);
    assert_eq!(after.fleet.due(), Some(Duration::from_secs(65)));
    after.now = Duration::from_secs(65);
    after.settle();
    assert_eq!(after.models(), ["n0:", "n1:"]);
    assert_eq!(after.fleet.due(), None);
}
