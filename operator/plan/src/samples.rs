//! The samples are accepted, fit together, and are served on one machine.

use std::{collections::BTreeMap, fs, path::Path, time::Duration};

use serde::de::DeserializeOwned;

use crate::{
    Demand, Fleet, Kind, Name, NodeSupply, Reason,
    desired::{Accelerator, Stage},
    validate::{self, Site},
};

fn sample(file: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/samples");
    fs::read_to_string(folder.join(file)).unwrap()
}

fn read<T: DeserializeOwned>(file: &str) -> T {
    serde_saphyr::from_str(&sample(file)).unwrap()
}

#[test]
fn every_sample_is_served_on_one_machine() {
    let keys = format!(
        "{{apiVersion: v1, kind: Secret, metadata: {{name: sample-keys}}, \
          stringData: {{first: '{{\"sha256\": \"{}\"}}'}}}}",
        "a".repeat(64)
    );
    let keys = serde_saphyr::from_str(&keys).unwrap();
    let site = Site::OneMachine;
    let mut fleet = Fleet::new(site, 1);
    fleet.supply(NodeSupply {
        name: "here".to_owned(),
        labels: BTreeMap::new(),
        memory_bytes: BTreeMap::from([(Accelerator::Cpu, 0)]),
        is_door: true,
        peer_address: None,
        is_ready: true,
        calls: BTreeMap::new(),
        held: BTreeMap::new(),
    });
    for demand in [
        Demand::Model(validate::model(&read("model-smollm2.yaml"), site).unwrap()),
        Demand::Tenant(validate::tenant(&read("tenant-sample.yaml"), site).unwrap()),
        Demand::Pipeline(validate::pipeline(&read("pipeline-digest.yaml")).unwrap()),
        Demand::Secret(validate::secret(&keys).unwrap()),
    ] {
        fleet.apply(demand);
    }
    fleet.plan(Duration::ZERO);
    assert_eq!(fleet.all_problems().count(), 0);
    let desired = fleet.desired("here").unwrap();
    let [tenant] = desired.tenants.as_slice() else { panic!("{:?}", desired.tenants) };
    assert_eq!((tenant.models.len(), tenant.keys.len()), (1, 1));
    assert!(tenant.pipelines.contains_key("digest"));
    assert_eq!((desired.models.len(), desired.pipelines.len()), (1, 1));
    assert_eq!(desired.models[0].stage, Stage::Load);
    assert!(tenant.program.is_some() && desired.routes.is_empty());
    assert_eq!(desired.doors, 1);
}

#[test]
fn the_sample_model_is_refused_in_a_cluster_for_its_source() {
    let problems = validate::model(&read("model-smollm2.yaml"), Site::Cluster).unwrap_err();
    assert_eq!(problems.iter().map(|p| p.reason).collect::<Vec<_>>(), [Reason::SourceNotAllowed]);
}

#[test]
fn the_sample_tenant_says_that_its_keys_are_missing() {
    let tenant = validate::tenant(&read("tenant-sample.yaml"), Site::OneMachine).unwrap();
    let mut fleet = Fleet::new(Site::OneMachine, 1);
    fleet.apply(Demand::Tenant(tenant));
    fleet.plan(Duration::ZERO);
    let name = Name::new("default", "sample").unwrap();
    let reasons = fleet.problems(Kind::Tenant, &name).iter().map(|p| p.reason).collect::<Vec<_>>();
    assert_eq!(reasons, [Reason::UnknownModel, Reason::UnknownSecret]);
}
