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
fn a_model_goes_where_its_adapters_have_room_too() {
    let mut world = World::empty(1);
    world.join("large", 1 << 30);
    world.sizes.insert("base".to_owned(), 40 << 20);
    world.sizes.insert("lora".to_owned(), 20 << 20);
    world.demand([model("base", 0), adapter("lora", "base")]);
    world.settle();
    world.join("small", 50 << 20);
    world.change("large", |supply| supply.is_ready = false);
    world.demand([model("base", 1)]);
    world.settle();
    assert_eq!(world.problems()[0], "Model default/base spec DoesNotFit");
    assert!(world.message("base").contains("a replica needs 60 MiB"), "{}", world.message("base"));
    world.change("small", |supply| {
        supply.memory_bytes.insert(Accelerator::Cpu, 64 << 20);
    });
    world.agents.get_mut("small").unwrap().memory_bytes = 64 << 20;
    world.settle();
    assert_eq!(world.models(), ["large:", "small: base lora"]);
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
