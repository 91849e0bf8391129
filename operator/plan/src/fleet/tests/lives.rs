//! What holds whatever happens to a fleet.

use super::*;

/// One thing that may happen to a fleet.
#[derive(Clone, Debug)]
enum Event {
    Model(usize, u32),
    Place(usize, usize),
    RemoveModel(usize),
    Tenant(usize, Vec<usize>),
    RemoveTenant(usize),
    Join(usize),
    Lose(usize),
    Disconnect(usize),
    Fail(usize, usize),
    Obey(usize),
}

impl Event {
    fn happen(&self, world: &mut World) {
        match self {
            Self::Model(i, replicas) => world.demand([model(&format!("m{i}"), *replicas)]),
            Self::Place(i, node) => {
                let spec = format!("placement: {{nodeSelector: {{node: n{node}}}}}");
                world.demand([model_with(&format!("m{i}"), &spec)]);
            }
            Self::RemoveModel(i) => world.fleet.remove(Kind::Model, &name(&format!("m{i}"))),
            Self::Tenant(i, models) => world.demand([granted(*i, models)]),
            Self::RemoveTenant(i) => world.fleet.remove(Kind::Tenant, &name(&format!("t{i}"))),
            Self::Join(i) => world.join(&format!("n{i}"), MEMORY_BYTES),
            Self::Lose(i) => world.lose(&format!("n{i}")),
            Self::Disconnect(i) => world.fleet.disconnect(&format!("n{i}")),
            Self::Fail(i, node) => {
                world.failures.insert((format!("n{node}"), format!("m{i}")));
            }
            Self::Obey(i) => {
                let node = format!("n{i}");
                if world.agents.contains_key(&node) {
                    world.obey(&node);
                }
            }
        }
    }
}

/// Room for three of the five models on each node, whose sizes are 1 to 5.
const MEMORY_BYTES: u64 = 9;

fn granted(i: usize, models: &[usize]) -> Demand {
    let models = models.iter().map(|m| format!("{{name: m{m}}}")).collect::<Vec<_>>().join(", ");
    tenant(&format!("t{i}"), &format!("models: [{models}]"))
}

fn event() -> impl Strategy<Value = Event> {
    let models = || subsequence((0..5).collect::<Vec<usize>>(), 0..=5);
    prop_oneof![
        6 => (0..5_usize, 0..4_u32).prop_map(|(i, replicas)| Event::Model(i, replicas)),
        1 => (0..5_usize, 0..4_usize).prop_map(|(i, node)| Event::Place(i, node)),
        1 => (0..5_usize).prop_map(Event::RemoveModel),
        2 => (0..3_usize, models()).prop_map(|(i, models)| Event::Tenant(i, models)),
        1 => (0..3_usize).prop_map(Event::RemoveTenant),
        4 => (0..4_usize).prop_map(Event::Join),
        1 => (0..4_usize).prop_map(Event::Lose),
        1 => (0..4_usize).prop_map(Event::Disconnect),
        1 => (0..5_usize, 0..4_usize).prop_map(|(i, node)| Event::Fail(i, node)),
        4 => (0..4_usize).prop_map(Event::Obey),
    ]
}

/// Fleets after a few rounds of events, planned after each, in the middle of things.
fn lived_in() -> impl Strategy<Value = World> {
    prop::collection::vec(prop::collection::vec(event(), 1..6), 1..6).prop_map(|rounds| {
        let mut world = World::empty(1);
        world.sizes = (0..5).map(|i| (format!("m{i}"), i + 1)).collect();
        for round in rounds {
            for event in &round {
                event.happen(&mut world);
            }
            world.plan();
        }
        world
    })
}

/// Fleets whose nodes are all there and have done what they were told.
fn settled() -> impl Strategy<Value = World> {
    lived_in().prop_map(|mut world| {
        for node in world.agents.keys().cloned().collect::<Vec<_>>() {
            world.tell(&node);
        }
        world.settle();
        world
    })
}

/// What every node holds, without generations.
pub(super) fn contents(world: &World) -> BTreeMap<String, Desired> {
    let mut plans = world.fleet.plans.clone();
    for desired in plans.values_mut() {
        desired.generation = 0;
    }
    plans
}

fn loaded_on(world: &World, model: &Name) -> BTreeSet<String> {
    let nodes = world.fleet.nodes.iter().filter(|(_, node)| node.has_loaded(model));
    nodes.map(|(name, _)| name.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// `obey` asserts that no node is ever told to hold more than it has room for.
    #[test]
    fn it_settles_and_models_have_their_replicas_as_far_as_there_is_room(world in settled()) {
        for (name, model) in &world.fleet.demands.models {
            let seats = &world.fleet.placement[name];
            let Replicas::Fixed(wanted) = model.replicas else { panic!() };
            prop_assert!(seats.len() <= wanted as usize, "{name}: {seats:?}");
            let is_short = seats.len() < wanted as usize;
            let reasons = world.fleet.problems(Kind::Model, name);
            // One that nobody could read yet, or that there is no node for, is on its way, and one
            // that must leave may stay.
            let is_known = world.fleet.has_nodes() && world.fleet.estimate(name).is_some();
            let is_told = is_known && model.node_selector.is_empty();
            prop_assert!(!is_told || is_short != reasons.is_empty(), "{name}: {reasons:?}");
        }
    }

    #[test]
    fn nothing_that_is_loaded_moves_without_need(
        world in settled(),
        events in prop::collection::vec(event(), 0..6),
    ) {
        let before: BTreeMap<_, _> = world.fleet.demands.models.iter()
            .map(|(name, model)| (name.clone(), (model.clone(), loaded_on(&world, name))))
            .collect();
        let mut after = world;
        for event in &events {
            event.happen(&mut after);
        }
        after.plan();
        for (name, model) in &after.demand_models() {
            let Some((old, loaded)) = before.get(name) else { continue };
            // A removed and re-made model, or a moved one, is another.
            if old != model || events.iter().any(|e| matches!(e, Event::RemoveModel(_))) {
                continue;
            }
            let is_there = |node: &&String| {
                after.fleet.nodes.get(*node).is_some_and(|node| node.has_loaded(name))
            };
            for node in loaded.iter().filter(is_there) {
                prop_assert!(after.fleet.placement[name].contains_key(node), "{name} left {node}");
            }
        }
    }

    #[test]
    fn generations_grow_when_and_only_when_something_changed(
        world in lived_in(),
        events in prop::collection::vec(event(), 0..5),
    ) {
        let before = world.fleet.plans.clone();
        let newest = before.values().map(|desired| desired.generation).max().unwrap_or(0);
        let mut after = world;
        for event in &events {
            event.happen(&mut after);
        }
        let changed = after.plan();
        for NodePlan { node, desired } in &changed {
            prop_assert!(desired.generation > newest);
            prop_assert!(before.get(node).is_none_or(|last| !last.has_same_content(desired)));
            prop_assert_eq!(after.fleet.desired(node), Some(desired));
        }
        for (node, desired) in &after.fleet.plans {
            let is_changed = changed.iter().any(|plan| plan.node == *node);
            prop_assert!(is_changed || before.get(node) == Some(desired));
        }
        prop_assert_eq!(after.plan(), []);
    }

    #[test]
    fn the_order_in_which_demands_arrive_does_not_matter(
        world in lived_in(),
        demands in Just((0..4_u32).map(|i| model(&format!("x{i}"), i)).chain((0..3).map(|i| granted(i, &[0, 1]))).collect::<Vec<_>>()).prop_shuffle(),
    ) {
        let (mut one, mut other) = (world.clone(), world);
        let mut sorted = demands.clone();
        sorted.sort_by_key(|demand| format!("{demand:?}"));
        one.demand(demands);
        other.demand(sorted);
        prop_assert_eq!(one.plan(), other.plan());
    }

    #[test]
    fn what_comes_and_goes_leaves_no_trace(world in settled(), replicas in 0..4_u32) {
        let mut after = world.clone();
        after.demand([
            model("passing", replicas),
            tenant("passing", "models: [{name: passing}, {name: m0}]"),
            pipeline("passing", &["passing"], "passing"),
        ]);
        after.plan();
        for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline] {
            after.fleet.remove(kind, &name("passing"));
        }
        after.plan();
        prop_assert_eq!(contents(&after), contents(&world));
        prop_assert_eq!(after.problems(), world.problems());
    }

    #[test]
    fn a_broken_object_changes_nobody_elses_plan(world in settled()) {
        let mut after = world.clone();
        after.demand([
            tenant("broken", "models: [{name: nowhere}], apiKeys: [{secretName: nowhere}]"),
            pipeline("broken", &["nowhere"], "broken, t0, t1"),
        ]);
        let problem = Problem { path: "spec".to_owned(), reason: Reason::Cycle, message: String::new() };
        after.fleet.refuse(Kind::Pipeline, name("refused"), vec![problem]);
        after.plan();
        let mut others = contents(&after);
        for desired in others.values_mut() {
            desired.tenants.retain(|tenant| tenant.name.name() != "broken");
        }
        prop_assert_eq!(others, contents(&world));
        let mut wrong = after.problems();
        wrong.retain(|line| !line.contains("default/broken") && !line.contains("default/refused"));
        prop_assert_eq!(wrong, world.problems());
    }

    #[test]
    fn a_restart_gives_the_same_plan_in_whatever_order_nodes_come_back(
        world in settled(),
        order in Just(vec!["n0", "n1", "n2", "n3"]).prop_shuffle(),
    ) {
        let mut after = restarts::restarted(&world);
        for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret] {
            after.fleet.synced(kind);
        }
        for node in order.into_iter().filter(|node| world.agents.contains_key(*node)) {
            after.tell(node);
            for plan in after.plan() {
                let before = world.fleet.desired(&plan.node).unwrap();
                let loads = |desired: &Desired| -> Vec<_> {
                    let models = desired.models.iter().filter(|model| model.stage == Stage::Load);
                    models.cloned().collect()
                };
                for model in loads(before).iter().filter(|model| world.fleet.nodes[&plan.node].has_loaded(&model.name)) {
                    prop_assert!(plan.desired.models.contains(model), "{} lost {model:?}", plan.node);
                }
            }
        }
        after.settle();
        for (name, loaded) in world.demand_models().keys().map(|name| (name, loaded_on(&world, name))) {
            prop_assert!(loaded.is_subset(&loaded_on(&after, name)), "{name}");
        }
    }
}
