use super::*;

fn adapter(name: &str, of: &str) -> Demand {
    model_with(name, &format!("adapterOf: {{name: {of}}}"))
}

#[test]
fn an_adapter_is_wherever_its_model_is() {
    let mut world = World::new(3, [model("base", 2), adapter("lora", "base"), model("other", 1)]);
    assert_eq!(world.models(), ["n0: base lora", "n1: base lora", "n2: other"]);
    assert_eq!(world.fleet.replicas(&name("lora")), 2);
    let [_, lora] = world.fleet.desired("n0").unwrap().models.as_slice() else { panic!() };
    assert_eq!(lora.base, Some(name("base")));
    world.lose("n0");
    world.settle();
    assert_eq!(world.models(), ["n1: base lora", "n2: base lora other"]);
    world.demand([model("base", 0)]);
    world.settle();
    assert_eq!(world.models(), ["n1:", "n2: other"]);
    assert_eq!(world.problems(), Vec::<String>::new());
    world.demand([model("base", 1)]);
    world.settle();
    assert_eq!(world.models(), ["n1: base lora", "n2: other"]);
}

#[test]
fn an_adapter_whose_model_is_not_there_says_so_and_the_others_stay() {
    let home = |name: &str, open_to: &str| {
        demand(&format!(
            "{{kind: Model, apiVersion: realm.dev/v1alpha1, metadata: {{name: {name}, namespace: home}}, \
              spec: {{sources: ['file:///{name}'], allowedNamespaces: [{open_to}]}}}}"
        ))
    };
    let of_home = |name: &str, base: &str| {
        model_with(name, &format!("adapterOf: {{name: {base}, namespace: home}}"))
    };
    let mut world = World::new(
        1,
        [
            home("open", "default"),
            home("closed", "elsewhere"),
            adapter("nobodys", "missing"),
            of_home("good", "open"),
            of_home("refused", "closed"),
            adapter("second", "good"),
        ],
    );
    assert_eq!(world.models(), ["n0: good closed open"]);
    let expected = [
        "Model default/nobodys spec.adapterOf UnknownModel",
        "Model default/refused spec.adapterOf ModelNotShared",
        "Model default/second spec.adapterOf InvalidValue",
    ];
    assert_eq!(world.problems(), expected);
    world.demand([model("missing", 1)]);
    world.settle();
    assert_eq!(world.problems(), expected[1..]);
    world.fleet.remove(Kind::Model, &Name::new("home", "open").unwrap());
    world.settle();
    assert!(world.problems().contains(&"Model default/good spec.adapterOf ModelNotShared".into()));
}

#[test]
fn a_model_that_has_no_room_says_so_of_its_adapters_too() {
    let mut world = World::empty(1);
    world.join("n0", 10);
    world.sizes.insert("base".to_owned(), 11);
    world.demand([model("base", 1), adapter("lora", "base")]);
    world.settle();
    let expected =
        ["Model default/base spec DoesNotFit", "Model default/lora spec.adapterOf DoesNotFit"];
    assert_eq!(world.problems(), expected);
    assert!(world.message("lora").starts_with("its model `default/base`: a replica needs"));
}

#[test]
fn an_adapter_that_has_no_room_beside_its_model_takes_nobody_elses_and_says_so() {
    let mut world = World::empty(1);
    world.join("n0", 100 << 20);
    for (name, mebibytes) in [("base", 40), ("huge", 1000), ("lora", 20), ("other", 20)] {
        world.sizes.insert(name.to_owned(), mebibytes << 20);
    }
    world.demand([
        model("base", 1),
        adapter("huge", "base"),
        adapter("lora", "base"),
        model("other", 1),
    ]);
    world.settle();
    assert_eq!(world.models(), ["n0: base lora other"]);
    assert_eq!(world.problems(), ["Model default/huge spec DoesNotFit"]);
    assert!(world.message("huge").starts_with("it needs 1000 MiB beside `default/base`"));
    // What was there first stays, whatever its name.
    world.sizes.insert("early".to_owned(), 25 << 20);
    world.demand([adapter("early", "base")]);
    world.settle();
    assert_eq!(world.models(), ["n0: base lora other"]);
    world.fleet.remove(Kind::Model, &name("other"));
    world.settle();
    assert_eq!(world.models(), ["n0: base early lora"]);
}

#[test]
fn a_model_that_moves_leaves_when_its_adapters_are_there_too() {
    let on =
        |node: &str| model_with("base", &format!("placement: {{nodeSelector: {{node: {node}}}}}"));
    let mut world = World::new(2, [on("n0"), adapter("lora", "base"), adapter("broken", "base")]);
    assert_eq!(world.models(), ["n0: base broken lora", "n1:"]);
    world.failures.insert(("n1".to_owned(), "broken".to_owned()));
    world.demand([on("n1")]);
    world.plan();
    // The model alone is there at first.
    world.obey("n1");
    let held = |world: &World| world.models()[0].clone();
    for model in ["lora", "broken"] {
        let report = &mut world.agents.get_mut("n1").unwrap().report;
        report.models.retain(|held| held.name != name(model));
    }
    world.tell("n1");
    world.plan();
    assert_eq!(held(&world), "n0: base broken lora", "they serve on meanwhile");
    world.settle();
    assert_eq!(world.models(), ["n0:", "n1: base broken lora"]);
}

#[test]
fn a_model_that_moves_does_not_wait_for_an_adapter_that_has_no_room_there() {
    let on =
        |node: &str| model_with("base", &format!("placement: {{nodeSelector: {{node: {node}}}}}"));
    let mut world = World::empty(1);
    world.join("n0", 100);
    world.join("n1", 50);
    for (name, bytes) in [("base", 40), ("lora", 20)] {
        world.sizes.insert(name.to_owned(), bytes);
    }
    world.demand([on("n0"), adapter("lora", "base")]);
    world.settle();
    assert_eq!(world.models(), ["n0: base lora", "n1:"]);
    world.demand([on("n1")]);
    world.settle();
    assert_eq!(world.models(), ["n0:", "n1: base"]);
    assert_eq!(world.problems(), ["Model default/lora spec DoesNotFit"]);
}

#[test]
fn an_adapter_opens_its_model_to_nobody_and_is_fetched_wherever_that_is() {
    let of = |name: &str, namespace: &str, spec: &str| {
        demand(&format!(
            "{{kind: Model, apiVersion: realm.dev/v1alpha1, \
              metadata: {{name: {name}, namespace: {namespace}}}, \
              spec: {{sources: ['file:///{name}'], {spec}}}}}"
        ))
    };
    let base = |open_to: &str| {
        of("base", "home", &format!("allowedNamespaces: [{open_to}], prefetch: Selected"))
    };
    let lora = of(
        "lora",
        "labs",
        "adapterOf: {name: base, namespace: home}, allowedNamespaces: [default]",
    );
    let user = tenant("t", "models: [{name: lora, namespace: labs}]");
    let mut world = World::new(2, [base("labs"), lora, user]);
    assert_eq!(world.problems(), ["Tenant default/t spec.models[0] ModelNotShared"]);
    assert_eq!(world.models(), ["n0: base~ lora~", "n1: base lora"]);
    world.demand([base("labs, default")]);
    world.settle();
    assert_eq!(world.problems(), Vec::<String>::new());
}

#[test]
fn an_adapter_learns_nothing_of_a_model_that_it_may_not_be_of() {
    let secret = demand(
        "{kind: Model, apiVersion: realm.dev/v1alpha1, metadata: {name: secret, namespace: home}, \
          spec: {sources: ['file:///s'], scaling: {min: 0, max: 1}}}",
    );
    let mut world =
        World::new(1, [secret, model_with("lora", "adapterOf: {name: secret, namespace: home}")]);
    assert!(!world.fleet.is_woken(&name("lora")));
    let routed = |world: &World| {
        let desired = world.fleet.desired("n0").unwrap();
        desired.routes.iter().map(|route| route.model.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(routed(&world), ["home/secret"]);
    world.fleet.remove(Kind::Model, &Name::new("home", "secret").unwrap());
    world.settle();
    assert_eq!(routed(&world), Vec::<String>::new());
}

#[test]
fn calls_that_wait_for_an_adapter_wake_its_model() {
    let mut world = World::new(1, []);
    world.demand([
        model_with("base", "scaling: {min: 0, max: 1, idleAfterSeconds: 60}"),
        adapter("lora", "base"),
        tenant("t", "models: [{name: lora}]"),
    ]);
    world.settle();
    assert_eq!(world.models(), ["n0:"]);
    assert!(world.fleet.is_woken(&name("lora")));
    let routed = |world: &World| {
        let desired = world.fleet.desired("n0").unwrap();
        desired.routes.iter().map(|route| route.model.name().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(routed(&world), ["base", "lora"], "doors hold the calls of both");
    world.change("n0", |supply| {
        supply.held.insert(name("lora"), 1);
    });
    world.settle();
    assert_eq!(world.models(), ["n0: base lora"]);
    let [tenant] = world.fleet.desired("n0").unwrap().tenants.as_slice() else { panic!() };
    assert!(tenant.program.is_some(), "its calls run where the adapter is");
}

/// What an agent has promised to what it loads is missing of what is free before it reports that.
#[test]
fn an_adapter_keeps_its_seat_while_its_model_takes_the_memory_that_both_were_given() {
    let mut world = World::empty(1);
    world.join("n0", 100);
    for (name, bytes) in [("base", 60), ("lora", 30)] {
        world.sizes.insert(name.to_owned(), bytes);
    }
    world.demand([model("base", 0), adapter("lora", "base")]);
    world.settle();
    world.demand([model("base", 1)]);
    world.plan();
    assert_eq!(world.models(), ["n0: base?"]);
    world.obey("n0");
    world.plan();
    assert_eq!(world.models(), ["n0: base lora"]);
    world.change("n0", |supply| {
        supply.memory_bytes.insert(Accelerator::Cpu, 40);
    });
    world.plan();
    assert_eq!((world.models(), world.problems()), (to_strings(&["n0: base lora"]), vec![]));
    world.settle();
    assert_eq!(world.models(), ["n0: base lora"]);
}

#[test]
fn an_adapter_of_a_model_that_fails_has_not_failed_itself() {
    let mut world = World::new(1, [model("base", 0), adapter("lora", "base")]);
    for name in ["base", "lora"] {
        world.failures.insert(("n0".to_owned(), name.to_owned()));
    }
    let routed = |world: &World| {
        let desired = world.fleet.desired("n0").unwrap();
        desired.routes.iter().map(|route| route.model.name().to_owned()).collect::<Vec<_>>()
    };
    world.demand([model("base", 1)]);
    world.plan();
    let estimate = Some(world.estimate(&name("base")));
    let header = ModelHeld {
        name: name("base"),
        stage: Some(Stage::Inspect),
        kv_blocks: None,
        is_failed: false,
        sha256: None,
        estimate,
    };
    let generation = world.fleet.desired("n0").unwrap().generation;
    world.fleet.report("n0", NodeReport { generation, models: vec![header] });
    world.plan();
    assert_eq!(routed(&world), ["base", "lora"], "both are on their way");
    world.obey("n0");
    world.plan();
    assert_eq!(routed(&world), Vec::<String>::new(), "nobody waits for either");
    // The model comes up at last, and its adapter is still to be tried.
    world.failures.clear();
    world.obey("n0");
    let report = &mut world.agents.get_mut("n0").unwrap().report;
    report.models.retain(|held| held.name != name("lora"));
    world.tell("n0");
    world.plan();
    assert_eq!(routed(&world), ["base", "lora"], "calls are held for it");
}

#[test]
fn an_adapter_tells_nobody_whether_a_closed_model_is_there() {
    let closed = "{kind: Model, apiVersion: realm.dev/v1alpha1, \
                   metadata: {name: closed, namespace: home}, spec: {sources: ['file:///s']}}";
    let probe = || {
        let of = "{name: closed, namespace: home}";
        [model_with("probe", &format!("adapterOf: {of}")), tenant("t", "models: [{name: probe}]")]
    };
    let problems = |world: &World| (world.problems(), world.fleet.desired("n0").unwrap().clone());
    let there = World::new(1, [demand(closed)].into_iter().chain(probe()));
    let missing = World::new(1, probe());
    let ((there, of_there), (missing, of_missing)) = (problems(&there), problems(&missing));
    assert_eq!(there, missing);
    assert_eq!(there, ["Model default/probe spec.adapterOf ModelNotShared"]);
    assert_eq!(of_there.tenants, of_missing.tenants);
}
