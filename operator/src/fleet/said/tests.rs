use proptest::prelude::*;
use realm_plan::validate::Site;

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
    let kinds = [Kind::Model, Kind::Tenant, Kind::Pipeline];
    let objects = kinds.into_iter().flat_map(|kind| (0..6).map(move |index| (kind, name(index))));
    let standings = objects.map(|(kind, name)| said.of_object(&fleet, kind, &name));
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
