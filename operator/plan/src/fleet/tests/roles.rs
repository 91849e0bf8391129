//! What each node gets besides its models: stages, programs, limits, routes.

use super::*;
use crate::desired::Sha256;

fn tenants(world: &World, node: &str) -> Vec<String> {
    let tenants = world.fleet.desired(node).unwrap().tenants.iter();
    let show = |tenant: &std::sync::Arc<crate::desired::DesiredTenant>| {
        let role = if tenant.program.is_some() { "hosts" } else { "hands on" };
        format!("{role} {}", tenant.name.name())
    };
    tenants.map(show).collect()
}

fn routes(world: &World, node: &str) -> Vec<String> {
    let routes = world.fleet.desired(node).unwrap().routes.iter();
    let peers = |route: &crate::desired::Route| {
        let peers = route.peers.iter().map(|peer| format!("{} {}", peer.node, peer.address));
        format!("{}: {}", route.model.name(), peers.collect::<Vec<_>>().join(", "))
    };
    routes.map(peers).collect()
}

/// A Secret with a key for each of these, which ends at that second.
fn keys(name: &str, ends: &[(&str, &str)]) -> Demand {
    let entries = ends.iter().zip('a'..).map(|((key, end), digit)| {
        let digest = digit.to_string().repeat(64);
        format!("{key}: '{{\"sha256\": \"{digest}\", {end}}}'")
    });
    let entries = entries.collect::<Vec<_>>().join(", ");
    demand(&format!(
        "{{kind: Secret, apiVersion: v1, metadata: {{name: {name}}}, stringData: {{{entries}}}}}"
    ))
}

#[test]
fn keys_are_counted_as_of_a_second_and_the_next_that_ends_is_known() {
    let secret = keys(
        "k",
        &[
            ("ever", "\"disabled\": false"),
            ("first", "\"expiresAt\": \"1970-01-01T00:01:40Z\""),
            ("second", "\"expiresAt\": \"1970-01-01T00:03:20Z\""),
            ("off", "\"expiresAt\": \"1970-01-01T00:00:10Z\", \"disabled\": true"),
        ],
    );
    let world = World::new(1, [secret, tenant("t", "apiKeys: [{secretName: k}]")]);
    let at = |second| {
        let KeyCount { enabled, expired } = world.fleet.keys_of(&name("t"), second);
        (enabled, expired, world.fleet.next_expiry(second))
    };
    assert_eq!(at(0), (3, 0, Some(100)));
    assert_eq!(at(99), (3, 0, Some(100)));
    assert_eq!(at(100), (3, 1, Some(200)), "doors open to it no more from then on");
    assert_eq!(at(200), (3, 2, None));
    assert_eq!(world.fleet.keys_of(&name("nobody"), 0), KeyCount::default());
}

#[test]
fn one_node_reads_the_header_of_a_model_before_anybody_loads_it() {
    let mut world = World::empty(1);
    world.join("n0", 100);
    world.join("n1", 100);
    world.demand([model("a", 1), model("b", 2), model("off", 0)]);
    world.plan();
    assert_eq!(world.models(), ["n0: a?", "n1: b?"]);
    assert_eq!(world.problems(), Vec::<String>::new());
    assert_eq!(world.fleet.estimate(&name("a")), None);
    world.obey("n1");
    world.plan();
    assert_eq!(world.models(), ["n0: a? b", "n1: b"]);
    assert!(world.fleet.estimate(&name("b")).is_some());
}

#[test]
fn a_whole_file_knows_best_whatever_its_header_had_said() {
    let mut world = World::empty(1);
    world.join("n0", 1000);
    world.demand([model("a", 1)]);
    let say = |world: &mut World, weights_bytes: u64, sha256: Option<Sha256>| {
        let generation = world.fleet.desired("n0").unwrap().generation;
        let held = ModelHeld {
            name: name("a"),
            stage: Some(Stage::Inspect),
            kv_blocks: None,
            is_failed: false,
            sha256,
            estimate: Some(Estimate { weights_bytes, ..world.estimate(&name("a")) }),
        };
        world.fleet.report("n0", NodeReport { generation, models: vec![held] });
        let weights = |estimate: Option<&Estimate>| estimate.map(|e| e.weights_bytes);
        let (fleet, name) = (&world.fleet, name("a"));
        (weights(fleet.estimate(&name)), weights(fleet.claimed(&name)))
    };
    world.plan();
    assert_eq!(say(&mut world, 5, None), (Some(5), None));
    assert_eq!(say(&mut world, 6, None), (Some(6), None), "one header is as good as another");
    let file = Some(Sha256([7; 32]));
    assert_eq!(say(&mut world, 9, file), (Some(9), Some(6)));
    assert_eq!(say(&mut world, 5, None), (Some(9), Some(6)));
    assert_eq!(say(&mut world, 9, file), (Some(9), Some(6)));
}

#[test]
fn what_a_header_had_claimed_is_known_to_the_next_leader_for_as_long_as_the_file_is_the_same() {
    let mut world = World::new(1, [model("a", 1)]);
    let weights = |world: &World| world.fleet.claimed(&name("a")).map(|claim| claim.weights_bytes);
    assert_eq!(weights(&world), None);
    let claimed = Estimate { weights_bytes: 5, ..world.estimate(&name("a")) };
    let mut world_after = restarts::restarted(&world);
    let after = &mut world_after.fleet;
    after.remove(Kind::Model, &name("a"));
    // Told before the model or after it, and either way before any node.
    for is_first in [true, false] {
        if is_first {
            after.recall_claimed(&name("a"), claimed);
            after.apply(model("a", 1));
        } else {
            after.remove(Kind::Model, &name("a"));
            after.apply(model("a", 1));
            after.recall_claimed(&name("a"), claimed);
        }
        let mut held = world.agents["n0"].report.clone();
        held.generation = 100;
        held.models[0].sha256 = Some(Sha256([7; 32]));
        after.supply(world.agents["n0"].supply.clone());
        after.report("n0", held);
        assert!(after.estimate(&name("a")).is_some());
        assert_eq!(after.claimed(&name("a")), Some(&claimed), "the whole file alone says nothing");
        after.apply(model("a", 3));
        assert_eq!(after.claimed(&name("a")), Some(&claimed), "it is the same file");
    }
    world.fleet = world_after.fleet;
    let changed = "{kind: Model, apiVersion: realm.dev/v1alpha1, metadata: {name: a}, \
                    spec: {sources: ['file:///other']}}";
    world.demand([demand(changed)]);
    assert_eq!(weights(&world), None);
}

#[test]
fn a_changed_file_is_another_model_but_stays_where_it_is() {
    let mut world = World::new(2, [model("a", 1)]);
    let changed = "{kind: Model, apiVersion: realm.dev/v1alpha1, metadata: {name: a}, \
                    spec: {sources: ['file:///other']}}";
    world.demand([demand(changed)]);
    world.plan();
    assert_eq!(world.models(), ["n0: a", "n1:"]);
    assert_eq!(world.fleet.estimate(&name("a")), None, "it is not known yet");
    let stale = world.agents["n0"].report.clone();
    world.fleet.report("n0", stale);
    assert_eq!(world.fleet.estimate(&name("a")), None, "that was the old file");
    world.obey("n0");
    assert!(world.fleet.estimate(&name("a")).is_some());
}

#[test]
fn every_admitted_node_fetches_ahead_what_is_to_be_prefetched() {
    let mut world = World::empty(1);
    for node in ["n0", "n1", "n2"] {
        world.join(node, 100);
    }
    world.change("n2", |supply| supply.memory_bytes = BTreeMap::from([(Accelerator::Cuda, 9)]));
    world.demand([model_with("a", "prefetch: Selected, placement: {accelerator: Cpu}")]);
    world.plan();
    assert_eq!(world.models(), ["n0: a?", "n1: a~", "n2:"]);
    world.settle();
    assert_eq!(world.models(), ["n0: a~", "n1: a", "n2:"]);
}

#[test]
fn a_program_goes_where_its_tenants_models_are_and_every_door_knows_every_tenant() {
    let mut world = World::new(
        3,
        [
            model("a", 1),
            model("b", 1),
            tenant("s", "models: [{name: a}]"),
            tenant("t", "models: [{name: a}, {name: b}]"),
            tenant("u", ""),
        ],
    );
    assert_eq!(world.models(), ["n0: a", "n1: b", "n2:"]);
    assert_eq!(tenants(&world, "n0"), ["hosts s", "hosts t", "hosts u"]);
    assert_eq!(tenants(&world, "n1"), ["hands on s", "hosts t", "hosts u"]);
    assert_eq!(tenants(&world, "n2"), ["hands on s", "hands on t", "hosts u"]);
    world.change("n1", |supply| supply.is_door = false);
    world.plan();
    assert_eq!(tenants(&world, "n1"), ["hosts t", "hosts u"]);
}

#[test]
fn limits_are_shared_out_over_the_doors_and_rounded_up() {
    let spec = "limits: {requestsPerMinute: 10, inputTokensPerMinute: 9, outputTokensPerMinute: 1, \
                calls: 4, context: 7, kvBlocks: 8}";
    let mut world = World::new(3, [tenant("t", spec)]);
    let limits = |world: &World, node: &str| {
        let desired = world.fleet.desired(node).unwrap();
        let limits = desired.tenants[0].limits.per_door(desired.doors);
        let spent = (
            limits.requests_per_minute,
            limits.input_tokens_per_minute,
            limits.output_tokens_per_minute,
            limits.calls_max,
        );
        (desired.doors, spent, (limits.context_max, limits.kv_blocks_max))
    };
    assert_eq!(limits(&world, "n0"), (3, (4, 3, 1, 2), (7, 8)));
    world.change("n2", |supply| supply.is_door = false);
    world.plan();
    assert_eq!(limits(&world, "n0"), (2, (5, 5, 1, 2), (7, 8)));
    world.fleet.disconnect("n1");
    world.plan();
    assert_eq!(limits(&world, "n0").0, 2, "it may still let calls in");
    world.lose("n1");
    world.plan();
    assert_eq!(limits(&world, "n0"), (1, (10, 9, 1, 4), (7, 8)));
}

#[test]
fn routes_lead_to_the_nodes_that_serve_a_model_now() {
    let mut world = World::new(3, [model("a", 2), model("b", 1)]);
    assert_eq!(world.models(), ["n0: a", "n1: a", "n2: b"]);
    let all = ["a: n0 n0:1, n1 n1:1", "b: n2 n2:1"];
    assert_eq!(routes(&world, "n0"), all);
    assert_eq!(routes(&world, "n2"), all);
    world.change("n0", |supply| supply.is_ready = false);
    world.change("n2", |supply| supply.peer_address = None);
    world.plan();
    assert_eq!(routes(&world, "n1"), ["a: n1 n1:1"]);
    world.change("n0", |supply| supply.is_ready = true);
    world.fleet.disconnect("n1");
    world.plan();
    assert_eq!(routes(&world, "n1"), ["a: n0 n0:1"]);
    world.tell("n1");
    world.plan();
    assert_eq!(routes(&world, "n1"), ["a: n0 n0:1, n1 n1:1"]);
}

#[test]
fn the_only_node_of_a_model_is_tried_while_it_is_away_and_waited_for_while_it_drains() {
    let mut world = World::new(2, [model("a", 1)]);
    world.fleet.disconnect("n0");
    world.plan();
    assert_eq!(routes(&world, "n1"), ["a: n0 n0:1"], "it may serve on");
    world.tell("n0");
    world.change("n0", |supply| supply.is_ready = false);
    world.plan();
    assert_eq!(routes(&world, "n1"), ["a: "]);
    world.fleet.disconnect("n0");
    world.plan();
    assert_eq!(routes(&world, "n1"), ["a: "], "it said that it would go");
}

#[test]
fn a_node_that_claims_generations_no_fleet_can_have_given_out_takes_none_from_the_others() {
    let mut world = World::new(2, [model("a", 1)]);
    let newest = |world: &World| world.fleet.desired("n1").unwrap().generation;
    world.fleet.outgrow(u64::MAX);
    world.demand([model("b", 1)]);
    world.plan();
    let before = newest(&world);
    assert!(before < 1_000, "{before}");
    world.fleet.outgrow(before + 1_000_000);
    world.demand([model("c", 1)]);
    world.plan();
    assert_eq!(newest(&world), before + 1_000_001, "one that lost count goes on above its nodes");
}

#[test]
fn calls_in_hand_add_replicas_and_quiet_takes_them_away() {
    let spec = "scaling: {min: 1, max: 2, targetQueue: 4}";
    let mut world = World::new(3, [model_with("a", spec)]);
    assert_eq!(world.models(), ["n0: a", "n1:", "n2:"]);
    world.change("n0", |supply| supply.calls = BTreeMap::from([(name("a"), 5)]));
    world.settle();
    assert_eq!(world.models(), ["n0: a", "n1: a", "n2:"]);
    assert_eq!(world.fleet.replicas(&name("a")), 2);
    world.change("n0", |supply| supply.calls.clear());
    world.settle();
    assert_eq!(world.models(), ["n0: a", "n1: a", "n2:"]);
    world.now += world.fleet.due().unwrap();
    world.settle();
    assert_eq!(world.fleet.replicas(&name("a")), 1);
}

#[test]
fn a_model_at_zero_is_inspected_ahead_and_loaded_when_a_call_waits() {
    let spec = "scaling: {min: 0, max: 2, idleAfterSeconds: 10}";
    let mut world = World::new(1, [model_with("a", spec)]);
    assert_eq!(world.models(), ["n0:"]);
    assert!(world.fleet.estimate(&name("a")).is_some());
    let held = [(name("a"), 1), (name("unknown"), 7)];
    world.change("n0", |supply| supply.held = BTreeMap::from(held));
    world.settle();
    assert_eq!(world.models(), ["n0: a"]);
    world.change("n0", |supply| supply.held.clear());
    world.now = world.fleet.due().unwrap();
    world.settle();
    assert_eq!(world.models(), ["n0:"]);
}

#[test]
fn calls_held_at_all_doors_count_together_and_keep_a_model_from_going_to_sleep() {
    let spec = "scaling: {min: 0, max: 3, targetQueue: 4, idleAfterSeconds: 10}";
    let mut world = World::new(4, [model_with("a", spec)]);
    for node in ["n2", "n3"] {
        world.change(node, |supply| supply.held = BTreeMap::from([(name("a"), 4)]));
    }
    world.change("n1", |supply| supply.held = BTreeMap::from([(name("a"), u32::MAX)]));
    world.fleet.disconnect("n1");
    world.settle_but("n1");
    assert_eq!(world.fleet.replicas(&name("a")), 2, "nobody waits at a door that is away");
    world.change("n3", |supply| supply.held.clear());
    world.now += Duration::from_hours(1);
    world.settle_but("n1");
    assert_eq!(world.fleet.replicas(&name("a")), 2, "down slowly, and not to nothing");
    world.now += Duration::from_hours(1);
    world.settle_but("n1");
    assert_eq!(world.fleet.replicas(&name("a")), 1);
    world.change("n2", |supply| supply.held.clear());
    world.now = world.fleet.due().unwrap();
    world.settle_but("n1");
    assert_eq!(world.fleet.replicas(&name("a")), 0);
}

#[test]
fn a_door_is_told_of_models_that_sleep_by_routes_to_nowhere() {
    let scaled = "scaling: {min: 0, max: 1}";
    let mut world = World::new(2, [model_with("a", scaled), model("off", 0)]);
    assert_eq!(routes(&world, "n1"), ["a: "]);
    world.change("n1", |supply| supply.held = BTreeMap::from([(name("a"), 1)]));
    world.settle();
    assert_eq!(routes(&world, "n1"), ["a: n0 n0:1"]);
}

#[test]
fn a_door_is_told_of_a_model_that_is_on_its_way_and_not_of_one_that_cannot_load() {
    let mut world = World::new(2, [model("a", 1)]);
    assert_eq!(routes(&world, "n1"), ["a: n0 n0:1"]);
    world.lose("n0");
    world.plan();
    assert_eq!(routes(&world, "n1"), ["a: "]);
    world.settle();
    assert_eq!(routes(&world, "n1"), ["a: n1 n1:1"]);
    world.failures.insert(("n1".to_owned(), "b".to_owned()));
    world.demand([model("b", 1)]);
    world.settle();
    assert_eq!(routes(&world, "n1"), ["a: n1 n1:1"]);
}
