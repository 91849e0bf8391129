use proptest::prelude::*;
use realm_plan::{
    Demand, NodeSupply,
    desired::Accelerator,
    validate::{self, Site},
};
use serde_json::json;

use super::*;
use crate::link::report::ModelPhase;

fn name(index: u8) -> Name {
    Name::new("default", &format!("o{index}")).unwrap()
}

fn failure(message: &str) -> Failure {
    Failure { reason: "LoadFailed".to_owned(), message: message.to_owned() }
}

fn phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        Just(Phase::Pending),
        Just(Phase::Ready),
        "[a-b]".prop_map(|message| Phase::Failed(failure(&message)))
    ]
}

/// Any report, its objects in any order, each at most once as the link has it.
fn report() -> impl Strategy<Value = Report> {
    let models = proptest::collection::btree_map(0_u8..4, any::<bool>(), 0..4);
    let tenants = proptest::collection::btree_map(0_u8..6, (phase(), 0_u8..3), 0..6);
    let pipelines = proptest::collection::btree_map(0_u8..3, phase(), 0..3);
    (models, tenants, pipelines, any::<bool>()).prop_map(
        |(models, tenants, pipelines, is_turned)| {
            let model = |(index, is_loaded): (u8, bool)| ModelReport {
                name: name(index),
                phase: if is_loaded { ModelPhase::Ready } else { ModelPhase::Loading },
                stage: is_loaded.then_some(Stage::Load),
                kv_blocks: None,
                facts: None,
            };
            let tenant = |(index, (phase, program)): (u8, (Phase, u8))| TenantReport {
                name: name(index),
                phase,
                program: (program > 0).then_some(Sha256([program; 32])),
            };
            let pipeline = |(index, phase)| PipelineReport { name: name(index), phase };
            let mut report = Report {
                generation: 1,
                models: models.into_iter().map(model).collect(),
                tenants: tenants.into_iter().map(tenant).collect(),
                pipelines: pipelines.into_iter().map(pipeline).collect(),
            };
            if is_turned {
                report.tenants.reverse();
            }
            report
        },
    )
}

fn views(nodes: &BTreeMap<u8, (Report, bool)>) -> BTreeMap<String, NodeView> {
    let view = |(index, (report, is_connected)): (&u8, &(Report, bool))| {
        let report = Some(Arc::new(report.clone()));
        let view = NodeView { is_connected: *is_connected, report, ..NodeView::default() };
        (format!("n{index}"), view)
    };
    nodes.iter().map(view).collect()
}

/// Everything that can be asked of it.
fn answers(said: &Said) -> (BTreeSet<(Kind, Name)>, Vec<Standings>) {
    let fleet = Fleet::new(Site::Cluster, 1);
    let slicing = Slicing::new(1, Instant::now());
    let kinds = [Kind::Model, Kind::Tenant, Kind::Pipeline];
    let objects = kinds.into_iter().flat_map(|kind| (0..6).map(move |index| (kind, name(index))));
    let standings = objects.map(|(kind, name)| said.of_object((&fleet, &slicing), kind, &name, 0));
    (said.held(), standings.collect())
}

proptest! {
    /// Whatever nodes said before, what is kept is what they say now.
    #[test]
    fn what_is_kept_is_what_would_be_counted_anew(
        turns in proptest::collection::vec(
            proptest::collection::btree_map(0_u8..3, (report(), any::<bool>()), 0..3),
            1..6,
        )
    ) {
        let mut kept = Said::default();
        for turn in turns {
            let views = views(&turn);
            let is_there = |node: &str| views.get(node).is_some_and(|view| view.is_connected);
            kept.update(&views, is_there, Instant::now());
            let mut anew = Said::default();
            anew.update(&views, is_there, Instant::now());
            prop_assert_eq!(answers(&kept), answers(&anew));
        }
    }
}

#[test]
fn a_difference_is_what_changed_and_not_what_moved_along() {
    let (gone, come) = difference(&[1, 2, 3, 4], &[1, 3, 4]);
    assert_eq!((gone, come), (vec![&2], vec![]));
    let (gone, come) = difference(&[1, 2, 4], &[1, 9, 4]);
    assert_eq!((gone, come), (vec![&2], vec![&9]));
    let (gone, come) = difference::<i32>(&[], &[5]);
    assert_eq!((gone, come), (vec![], vec![&5]));
}

#[test]
fn what_a_node_said_holds_while_it_is_away_and_not_once_it_is_lost() {
    let tenants = vec![TenantReport { name: name(0), phase: Phase::Ready, program: None }];
    let report = Report { tenants, ..Report::default() };
    let mut said = Said::default();
    let there = views(&BTreeMap::from([(0, (report.clone(), true))]));
    let away = views(&BTreeMap::from([(0, (report, false))]));
    for views in [&there, &away] {
        said.update(views, |_| true, Instant::now());
        assert_eq!(said.held(), BTreeSet::from([(Kind::Tenant, name(0))]));
    }
    said.update(&away, |_| false, Instant::now());
    assert!(said.held().is_empty());
}

#[test]
fn the_holders_of_an_object_are_named_up_to_a_number_and_counted_beyond() {
    let holding = |models: &[u8]| {
        let model = |index: &u8| ModelReport {
            name: name(*index),
            phase: ModelPhase::Loading,
            stage: None,
            kv_blocks: None,
            facts: None,
        };
        (Report { models: models.iter().map(model).collect(), ..Report::default() }, true)
    };
    let nodes = (0..12).map(|node| (node, holding(if node == 3 { &[1] } else { &[0, 1] })));
    let mut said = Said::default();
    said.update(&views(&nodes.collect()), |_| true, Instant::now());
    let object = (Kind::Model, name(0));
    let mut found = said.holders([&object, &(Kind::Tenant, name(0))].into_iter());
    let of_nobody = found.remove(&(Kind::Tenant, name(0)));
    assert_eq!(of_nobody, Some(Holders::default()), "no tenant has that name");
    let Holders { named, others } = found.remove(&object).unwrap();
    assert_eq!((named.len(), others), (8, 3));
    assert!(!named.iter().any(|node| node.ends_with('3')), "{named:?}");
    assert!(found.is_empty());
}

/// What the fleet wants: a tenant of these models, one of which sleeps until it is called.
fn wanting(models: &[u8]) -> Fleet {
    let mut fleet = Fleet::new(Site::Cluster, 1);
    let object = |kind: &str, index, spec| {
        let metadata = json!({ "name": name(index).name(), "namespace": "default" });
        json!({ "apiVersion": "realm.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec })
    };
    for (index, scaling) in [(0, json!(null)), (1, json!(null)), (2, json!({ "min": 0, "max": 1 }))]
    {
        let spec = json!({ "sources": ["file:///m"], "scaling": scaling });
        let model = serde_json::from_value(object("Model", index, spec)).unwrap();
        fleet.apply(Demand::Model(validate::model(&model, Site::Cluster).unwrap()));
    }
    let models: Vec<_> =
        models.iter().map(|index| json!({ "name": name(*index).name() })).collect();
    let spec = json!({ "models": models, "suspended": true });
    let tenant = serde_json::from_value(object("Tenant", 0, spec)).unwrap();
    fleet.apply(Demand::Tenant(validate::tenant(&tenant, Site::Cluster).unwrap()));
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret] {
        fleet.synced(kind);
    }
    fleet.labelled();
    fleet
}

#[test]
fn a_tenant_misses_its_models_when_none_of_them_is_served_and_none_wakes() {
    let served = ModelReport {
        name: name(1),
        phase: ModelPhase::Ready,
        stage: Some(Stage::Load),
        kv_blocks: None,
        facts: None,
    };
    let tenants = vec![TenantReport { name: name(0), phase: Phase::Ready, program: None }];
    let report = Report { models: vec![served], tenants, ..Report::default() };
    let mut said = Said::default();
    said.update(&views(&BTreeMap::from([(0, (report, true))])), |_| true, Instant::now());
    let missing = |models: &[u8]| {
        let mut fleet = wanting(models);
        join(&mut fleet, true);
        let standing = said.tenant(&fleet, &name(0), 0);
        assert_eq!((standing.tally.ready, standing.hosts, standing.program), (1, 0, None));
        assert!(standing.is_suspended);
        standing.models_missing
    };
    assert_eq!(missing(&[0]), [name(0)]);
    assert_eq!(missing(&[0, 3]), [name(0), name(3)]);
    assert!(missing(&[0, 1]).is_empty(), "one is served");
    assert!(missing(&[0, 2]).is_empty(), "one wakes");
    assert!(missing(&[]).is_empty(), "it asks for none");
}

/// A node that is a door, or not, and a plan with it.
fn join(fleet: &mut Fleet, is_door: bool) {
    fleet.supply(NodeSupply {
        name: "n0".to_owned(),
        labels: BTreeMap::new(),
        memory_bytes: BTreeMap::from([(Accelerator::Cpu, 1 << 30)]),
        is_door,
        peer_address: None,
        is_ready: true,
        calls: BTreeMap::new(),
        held: BTreeMap::new(),
    });
    fleet.plan(Duration::ZERO);
}

#[test]
fn a_model_that_sleeps_and_cannot_wake_is_missed() {
    let mut fleet = wanting(&[2]);
    fleet.plan(Duration::ZERO);
    let missing = |said: &Said, fleet: &Fleet| said.tenant(fleet, &name(0), 0).models_missing;
    assert_eq!(missing(&Said::default(), &fleet), [name(2)], "there is no agent");
    join(&mut fleet, true);
    assert!(missing(&Said::default(), &fleet).is_empty());
    let failed = ModelReport {
        name: name(2),
        phase: ModelPhase::Failed(failure("no such file")),
        stage: None,
        kv_blocks: None,
        facts: None,
    };
    let report = Report { models: vec![failed], ..Report::default() };
    let mut said = Said::default();
    said.update(&views(&BTreeMap::from([(0, (report, true))])), |_| true, Instant::now());
    let standing = said.tenant(&fleet, &name(0), 0);
    assert_eq!((standing.models_missing, standing.is_model_coming), (vec![name(2)], false));
}

#[test]
fn a_pipeline_is_not_told_of_each_sleep_of_its_models() {
    let mut fleet = wanting(&[]);
    let step = json!({
        "name": "s", "model": { "name": name(2).name() }, "prompt": "x", "maxTokens": 1
    });
    let pipeline = json!({
        "apiVersion": "realm.dev/v1alpha1",
        "kind": "Pipeline",
        "metadata": { "name": name(0).name(), "namespace": "default" },
        "spec": { "steps": [step], "outputs": [{ "name": "o", "step": "s" }], "tenants": ["o0"] },
    });
    let pipeline = serde_json::from_value(pipeline).unwrap();
    fleet.apply(Demand::Pipeline(validate::pipeline(&pipeline).unwrap()));
    let missing = |fleet: &Fleet| Said::default().pipeline(fleet, &name(0)).models_missing;
    assert_eq!(missing(&fleet), [name(2)], "there is no agent");
    join(&mut fleet, true);
    assert!(missing(&fleet).is_empty(), "a call wakes it");
}

#[test]
fn limits_are_shared_over_no_door_while_no_agent_is_one() {
    let mut fleet = wanting(&[]);
    join(&mut fleet, false);
    assert_eq!(Said::default().tenant(&fleet, &name(0), 0).doors, Some(0));
    join(&mut fleet, true);
    assert_eq!(Said::default().tenant(&fleet, &name(0), 0).doors, Some(1));
}

#[test]
fn limits_are_shared_over_no_door_while_there_is_no_agent() {
    let mut fleet = wanting(&[]);
    fleet.plan(Duration::ZERO);
    assert_eq!(fleet.doors(), 1, "what the first one to come would have");
    assert_eq!(Said::default().tenant(&fleet, &name(0), 0).doors, None);
    assert!(!Said::default().model(&fleet, &name(0)).has_agents);
}

#[test]
fn the_nodes_that_run_a_program_are_counted_apart_from_those_that_hand_calls_on() {
    let report = |program| {
        let tenants = vec![TenantReport { name: name(0), phase: Phase::Ready, program }];
        (Report { tenants, ..Report::default() }, true)
    };
    let nodes = BTreeMap::from([(0, report(Some(Sha256([1; 32])))), (1, report(None))]);
    let mut said = Said::default();
    said.update(&views(&nodes), |_| true, Instant::now());
    let standing = said.tenant(&wanting(&[]), &name(0), 0);
    assert_eq!((standing.tally.ready, standing.hosts), (2, 1));
}
