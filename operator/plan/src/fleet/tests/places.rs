//! Which nodes models go to, and when they move.

use super::*;
use crate::{desired::Sha256, fleet::node::ZONE};

#[test]
fn replicas_spread_over_the_emptiest_nodes() {
    let world = World::new(3, [model("a", 2), model("b", 1), model("c", 3)]);
    assert_eq!(world.models(), ["n0: a c", "n1: a c", "n2: b c"]);
    assert_eq!(world.problems(), Vec::<String>::new());
}

/// Four nodes with fast disks, of which the first two are in one zone.
fn zoned(demands: impl IntoIterator<Item = Demand>) -> World {
    let mut world = World::empty(1);
    for (node, zone) in [("n0", "a"), ("n1", "a"), ("n2", "b"), ("n3", "c")] {
        world.join(node, 1000);
        world.change(node, |supply| {
            supply.labels.insert(ZONE.into(), zone.into());
            supply.labels.insert("disk".into(), "fast".into());
        });
    }
    world.demand(demands);
    world.settle();
    world
}

#[test]
fn replicas_of_a_model_spread_over_zones_before_nodes() {
    let mut world = zoned([model("a", 2), model("b", 3)]);
    assert_eq!(world.models(), ["n0: a", "n1: b", "n2: a b", "n3: b"]);
    world.demand([model("b", 4)]);
    world.settle();
    assert_eq!(world.models(), ["n0: a b", "n1: b", "n2: a b", "n3: b"], "a zone may have two");
    world.demand([model("b", 3)]);
    world.settle();
    assert_eq!(world.models(), ["n0: a", "n1: b", "n2: a b", "n3: b"], "one of which goes first");
}

#[test]
fn a_zone_that_is_empty_again_draws_nothing_that_serves() {
    let mut world = zoned([model("a", 3)]);
    assert_eq!(world.models(), ["n0: a", "n1:", "n2: a", "n3: a"]);
    world.lose("n3");
    world.settle();
    assert_eq!(world.models(), ["n0: a", "n1: a", "n2: a"]);
    world.join("n3", 1000);
    world.change("n3", |supply| drop(supply.labels.insert(ZONE.into(), "c".into())));
    world.settle();
    assert_eq!(world.models(), ["n0: a", "n1: a", "n2: a", "n3:"]);
}

#[test]
fn one_that_must_leave_keeps_its_successor_from_no_zone() {
    let mut world =
        zoned([model_with("a", "replicas: 2, placement: {nodeSelector: {disk: fast}}")]);
    assert_eq!(world.models(), ["n0: a", "n1:", "n2: a", "n3:"]);
    world.change("n0", |supply| drop(supply.labels.remove("disk")));
    world.settle();
    assert_eq!(world.models(), ["n0:", "n1: a", "n2: a", "n3:"]);
}

#[test]
fn of_equally_loaded_nodes_the_one_with_most_memory_comes_first() {
    let mut world = World::empty(1);
    world.join("small", 10);
    world.join("vast", 90);
    world.demand([model("a", 1)]);
    world.settle();
    assert_eq!(world.models(), ["small:", "vast: a"]);
}

#[test]
fn wanting_more_replicas_than_nodes_fills_every_node_and_is_reported() {
    let world = World::new(2, [model("a", 3)]);
    assert_eq!(world.models(), ["n0: a", "n1: a"]);
    assert_eq!(world.problems(), ["Model default/a spec.replicas NotEnoughNodes"]);
    assert_eq!(world.message("a"), "3 replicas, 2 nodes");
}

#[test]
fn one_node_for_two_replicas_is_told_as_one() {
    let world = World::new(1, [model("a", 2)]);
    assert_eq!(world.message("a"), "2 replicas, 1 node");
}

#[test]
fn before_there_is_any_node_no_model_has_a_problem() {
    let mut world = World::empty(1);
    world.demand([
        model("a", 2),
        model_with("b", "placement: {nodeSelector: {disk: fast}, accelerator: Cuda}"),
    ]);
    world.plan();
    assert!(!world.fleet.has_nodes());
    assert_eq!(world.problems(), Vec::<String>::new());
    world.join("n0", 100);
    world.plan();
    assert!(world.fleet.has_nodes());
    let expected = [
        "Model default/a spec.replicas NotEnoughNodes",
        "Model default/b spec.placement NoNodeAdmits",
    ];
    assert_eq!(world.problems(), expected);
}

#[test]
fn a_model_that_may_sleep_is_woken_by_calls_and_one_that_is_switched_off_is_not() {
    let mut world = World::empty(1);
    world.demand([
        model_with("sleeps", "scaling: {min: 0, max: 2}"),
        model_with("stays", "scaling: {min: 1, max: 2}"),
        model("off", 0),
    ]);
    let woken = ["sleeps", "stays", "off", "unknown"].map(|it| world.fleet.is_woken(&name(it)));
    assert_eq!(woken, [true, false, false, false]);
}

#[test]
fn scaling_down_and_up_keeps_what_can_stay() {
    let mut world = World::new(3, [model("a", 3), model("b", 1)]);
    assert_eq!(world.models(), ["n0: a b", "n1: a", "n2: a"]);
    world.demand([model("a", 2)]);
    world.settle();
    assert_eq!(world.models(), ["n0: b", "n1: a", "n2: a"]);
    world.demand([model("a", 0)]);
    world.settle();
    assert_eq!(world.models(), ["n0: b", "n1:", "n2:"]);
}

#[test]
fn the_models_of_a_lost_node_move_and_no_others() {
    let mut world = World::new(3, [model("a", 1), model("b", 1), model("c", 1)]);
    assert_eq!(world.models(), ["n0: a", "n1: b", "n2: c"]);
    world.lose("n1");
    world.settle();
    assert_eq!(world.models(), ["n0: a b", "n2: c"]);
}

#[test]
fn a_node_that_cannot_be_reached_keeps_its_models_and_gets_no_others() {
    let mut world = World::new(2, [model("a", 1)]);
    assert_eq!(world.models(), ["n0: a", "n1:"]);
    world.fleet.disconnect("n0");
    world.demand([model("b", 1), model("c", 1)]);
    world.plan();
    assert_eq!(world.models(), ["n0: a", "n1: b? c?"]);
    world.obey("n1");
    world.plan();
    assert_eq!(world.models(), ["n0: a", "n1: b c"]);
}

#[test]
fn a_model_goes_only_where_labels_and_accelerator_are_as_it_asks() {
    let mut world = World::empty(1);
    for node in ["n0", "n1", "n2"] {
        world.join(node, 100);
    }
    world.change("n1", |supply| drop(supply.labels.insert("disk".into(), "fast".into())));
    world.change("n2", |supply| supply.memory_bytes = BTreeMap::from([(Accelerator::Cuda, 50)]));
    world.demand([
        model_with("a", "placement: {nodeSelector: {disk: fast}}"),
        model_with("b", "placement: {accelerator: Cuda}"),
        model_with("c", "placement: {accelerator: WebGpu, nodeSelector: {disk: fast}}"),
    ]);
    world.settle();
    assert_eq!(world.models(), ["n0:", "n1: a", "n2: b"]);
    assert_eq!(world.problems(), ["Model default/c spec.placement NoNodeAdmits"]);
    let message = "no node of 3 has the accelerator WebGpu and the labels disk=fast";
    assert_eq!(world.message("c"), message);
}

#[test]
fn what_fits_nowhere_is_reported_with_numbers_and_holds_nobody_up() {
    let mut world = World::empty(1);
    world.join("n0", 5 << 20);
    world.join("n1", 7 << 20);
    world.sizes.insert("big".to_owned(), 8 << 20);
    world.demand([model("big", 1), model("small", 2)]);
    world.settle();
    assert_eq!(world.models(), ["n0: small", "n1: small"]);
    assert_eq!(world.problems(), ["Model default/big spec DoesNotFit"]);
    assert_eq!(
        world.message("big"),
        "a replica needs 8 MiB (8 MiB of weights, 0 MiB to compute in); \
         the largest free is 7 MiB on node n1"
    );
    world.join("n2", 9 << 20);
    world.settle();
    assert_eq!(world.models(), ["n0: small", "n1: small", "n2: big"]);
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn memory_promised_to_a_model_that_is_still_loading_is_not_given_away() {
    let mut world = World::empty(1);
    world.join("n0", 100);
    world.sizes = BTreeMap::from([("a".to_owned(), 60), ("b".to_owned(), 60)]);
    world.demand([model("a", 1), model("b", 1)]);
    world.plan();
    world.obey("n0");
    world.plan();
    assert_eq!(world.models(), ["n0: a"]);
    // The node has said nothing of the load yet, and the memory it measured is still all free.
    world.plan();
    assert_eq!(world.models(), ["n0: a"]);
    assert_eq!(world.problems(), ["Model default/b spec DoesNotFit"]);
}

#[test]
fn blocks_of_another_kind_are_planned_by_what_is_said_of_them_and_not_of_those_before() {
    let digest = Sha256([7; 32]);
    let spec = |kv_cache| format!("sha256: '{digest}', kvCache: {kv_cache}");
    let mut world = World::empty(1);
    world.join("n0", 42);
    world.demand([model_with("a", &spec("F16"))]);
    world.plan();
    let told = |world: &mut World, generation, kv_bytes_per_block| {
        let estimate = Estimate {
            weights_bytes: 10,
            kv_bytes_per_block,
            activation_bytes: 2,
            context: 64,
            kv_blocks_per_sequence: None,
        };
        let held = ModelHeld {
            name: name("a"),
            stage: Some(Stage::Inspect),
            kv_blocks: None,
            is_failed: false,
            sha256: Some(digest),
            estimate: Some(estimate),
        };
        world.fleet.report("n0", NodeReport { generation, models: vec![held] });
        world.plan();
        world.fleet.estimate(&name("a")).map(|estimate| estimate.kv_bytes_per_block)
    };
    assert_eq!(told(&mut world, 1, 5), Some(5));
    world.demand([model_with("a", &spec("Q8_0"))]);
    world.plan();
    let generation = world.fleet.desired("n0").unwrap().generation;
    // The digest is the right one, and the size of a block is that of the blocks before.
    assert_eq!(told(&mut world, generation - 1, 5), None);
    assert_eq!(told(&mut world, generation, 3), Some(3));
}

#[test]
fn a_model_gets_kv_cache_for_four_contexts_or_as_many_as_there_is_room_for() {
    let blocks = |memory_bytes, spec: &str, kv_blocks_per_sequence| {
        let mut world = World::empty(1);
        world.join("n0", memory_bytes);
        world.demand([model_with("a", spec)]);
        world.plan();
        let estimate = Estimate {
            weights_bytes: 10,
            kv_bytes_per_block: 5,
            activation_bytes: 2,
            context: 64,
            kv_blocks_per_sequence,
        };
        let held = ModelHeld {
            name: name("a"),
            stage: Some(Stage::Inspect),
            kv_blocks: None,
            is_failed: false,
            sha256: None,
            estimate: Some(estimate),
        };
        world.fleet.report("n0", NodeReport { generation: 1, models: vec![held] });
        world.plan();
        let models = &world.fleet.desired("n0").unwrap().models;
        models.first().and_then(|model| model.kv_blocks)
    };
    // 12 bytes without KV cache, 10 for each context of two blocks.
    // A window that holds one of them, and one that holds more than there are.
    let windowed = |most| Some(SequenceBlocks { bands: 1, whole: 0, windowed_max: most });
    assert_eq!(blocks(1000, "", windowed(1)), Some(4));
    assert_eq!(blocks(17, "", windowed(1)), Some(1));
    assert_eq!(blocks(1000, "", windowed(9)), Some(8));
    // A window in half of the layers: of four blocks a sequence holds two and a half.
    let half = Some(SequenceBlocks { bands: 2, whole: 1, windowed_max: 1 });
    assert_eq!(blocks(1000, "context: 128", half), Some(12));
    assert_eq!(blocks(27, "context: 128", half), Some(3));
    assert_eq!(blocks(26, "context: 128", half), None);
    let blocks = |memory_bytes, spec| blocks(memory_bytes, spec, None);
    assert_eq!(blocks(1000, ""), Some(8));
    assert_eq!(blocks(42, ""), Some(6));
    assert_eq!(blocks(22, ""), Some(2));
    assert_eq!(blocks(21, ""), None);
    assert_eq!(blocks(1000, "context: 32"), Some(4));
    assert_eq!(blocks(1000, "kvBlocks: 3"), Some(3));
    assert_eq!(blocks(26, "kvBlocks: 3"), None);
}

#[test]
fn a_node_that_has_the_file_is_taken_before_an_emptier_one() {
    let mut world = World::empty(1);
    world.join("n0", 100);
    world.join("n1", 90);
    world.demand([model_with(
        "a",
        "replicas: 0, prefetch: Selected, placement: {nodeSelector: {node: n1}}",
    )]);
    world.settle();
    assert_eq!(world.models(), ["n0:", "n1: a~"]);
    world.demand([model("a", 1)]);
    world.settle();
    assert_eq!(world.models(), ["n0:", "n1: a"]);
}

#[test]
fn a_model_that_must_leave_a_node_serves_there_until_it_serves_elsewhere() {
    let mut world = World::new(2, [model("a", 1)]);
    assert_eq!(world.models(), ["n0: a", "n1:"]);
    world.demand([model_with("a", "placement: {nodeSelector: {node: n1}}")]);
    world.plan();
    assert_eq!(world.models(), ["n0: a", "n1: a"]);
    world.obey("n1");
    world.plan();
    assert_eq!(world.models(), ["n0:", "n1: a"]);

    world.demand([model_with("a", "placement: {nodeSelector: {node: n9}}")]);
    world.settle();
    assert_eq!(world.models(), ["n0:", "n1: a"], "there is no better place");
    assert_eq!(world.problems(), ["Model default/a spec.placement NoNodeAdmits"]);
}

#[test]
fn a_model_that_must_leave_stays_where_the_only_other_node_cannot_load_it() {
    let mut world = World::new(2, [model("a", 1)]);
    assert_eq!(world.models(), ["n0: a", "n1:"]);
    world.failures.insert(("n1".to_owned(), "a".to_owned()));
    world.demand([model_with("a", "placement: {nodeSelector: {node: n1}}")]);
    world.settle();
    assert_eq!(world.models(), ["n0: a", "n1:"]);
}

#[test]
fn a_model_that_is_still_to_be_loaded_leaves_at_once_where_it_may_not_be() {
    let mut world = World::empty(1);
    world.join("n0", 100);
    world.demand([model("a", 1)]);
    world.plan();
    world.obey("n0");
    world.plan();
    assert_eq!(world.models(), ["n0: a"]);
    world.demand([model_with("a", "placement: {nodeSelector: {node: n1}}")]);
    world.plan();
    assert_eq!(world.models(), ["n0:"]);
    assert_eq!(world.problems(), ["Model default/a spec.placement NoNodeAdmits"]);
}

#[test]
fn a_model_that_fails_on_one_node_is_tried_once_on_each_other() {
    let mut world = World::empty(1);
    for node in ["n0", "n1", "n2"] {
        world.join(node, 100);
    }
    for node in ["n0", "n1"] {
        world.failures.insert((node.to_owned(), "a".to_owned()));
    }
    world.demand([model("a", 1), model("b", 1)]);
    world.settle();
    assert!(world.models().iter().any(|line| line.starts_with("n2: a")), "{:?}", world.models());

    world.failures.insert(("n2".to_owned(), "b".to_owned()));
    for node in ["n0", "n1"] {
        world.failures.insert((node.to_owned(), "b".to_owned()));
    }
    world.demand([model_with("b", "context: 32")]);
    world.settle();
    let holders = world.models().iter().filter(|line| line.contains('b')).count();
    assert_eq!(holders, 1, "{:?}", world.models());
}
