//! How long a plan takes against the size of a cluster, for whoever changes the planner.
//!
//! `cargo run --release -p realm-plan --example plan_time` prints, for a few sizes, the time of
//! the first plan, of one after a report, of one after a change of a tenant, and of one that
//! changes nothing.

#![expect(clippy::print_stdout, clippy::unwrap_used, reason = "a program that prints and may fail")]

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use realm_plan::{
    Demand, Estimate, Fleet, Kind, ModelHeld, NodeReport, NodeSupply,
    desired::{Accelerator, Stage},
    validate::{self, Site},
};

struct Size {
    tenants: usize,
    models: usize,
    pipelines: usize,
    nodes: usize,
}

fn main() {
    println!("tenants models pipelines nodes |  first | report | tenant | nothing  (ms)");
    for size in [
        Size { tenants: 10, models: 5, pipelines: 5, nodes: 3 },
        Size { tenants: 100, models: 50, pipelines: 20, nodes: 20 },
        Size { tenants: 1000, models: 200, pipelines: 100, nodes: 100 },
    ] {
        measure(&size);
    }
}

fn measure(size: &Size) {
    let mut fleet = Fleet::new(Site::Cluster, 1);
    for kind in [Kind::Model, Kind::Tenant, Kind::Pipeline, Kind::Secret] {
        fleet.synced(kind);
    }
    fleet.labelled();
    demands(size, &mut fleet);
    for node in 0..size.nodes {
        fleet.supply(supply(node));
        fleet.report(&format!("n{node}"), NodeReport::default());
    }
    // Headers first, so that the plan that is measured places everything.
    fleet.plan(Duration::ZERO);
    answer(&mut fleet, size.nodes);
    let first = time(&mut fleet);
    answer(&mut fleet, size.nodes);
    time(&mut fleet);

    let held = NodeSupply { is_ready: false, ..supply(0) };
    fleet.supply(held);
    let report = time(&mut fleet);
    fleet.apply(tenant(0, 7, size.models));
    let tenant = time(&mut fleet);
    let nothing = time(&mut fleet);
    let Size { tenants, models, pipelines, nodes } = size;
    println!(
        "{tenants:7} {models:6} {pipelines:9} {nodes:5} | {first:6.2} | {report:6.2} | {tenant:6.2} | {nothing:6.2}"
    );
}

/// Milliseconds of one plan.
fn time(fleet: &mut Fleet) -> f64 {
    let start = Instant::now();
    std::hint::black_box(fleet.plan(Duration::ZERO));
    start.elapsed().as_secs_f64() * 1000.0
}

/// Two models of three are on two nodes, every tenant may use five, and every pipeline has two
/// steps and five tenants.
fn demands(size: &Size, fleet: &mut Fleet) {
    for i in 0..size.models {
        let replicas = 1 + usize::from(i % 3 != 0);
        let yaml = format!(
            "{{apiVersion: realm.dev/v1alpha1, kind: Model, metadata: {{name: m{i}}}, \
              spec: {{sources: ['file:///m{i}'], replicas: {replicas}, prefetch: {}}}}}",
            if i % 10 == 0 { "Selected" } else { "None" }
        );
        let model = validate::model(&serde_saphyr::from_str(&yaml).unwrap(), Site::Cluster);
        fleet.apply(Demand::Model(model.unwrap()));
    }
    for i in 0..size.tenants {
        fleet.apply(tenant(i, 1, size.models));
        let yaml = format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{name: k{i}}}, \
              stringData: {{a: '{{\"sha256\": \"{i:064x}\"}}'}}}}"
        );
        let secret = validate::secret(&serde_saphyr::from_str(&yaml).unwrap());
        fleet.apply(Demand::Secret(secret.unwrap()));
    }
    for i in 0..size.pipelines {
        let tenants: Vec<_> = (0..5).map(|n| format!("t{}", (i + n) % size.tenants)).collect();
        let step = |name: &str| {
            format!(
                "{{name: {name}, model: {{name: m{}}}, prompt: 'Say it.', maxTokens: 9}}",
                i % size.models
            )
        };
        let yaml = format!(
            "{{apiVersion: realm.dev/v1alpha1, kind: Pipeline, metadata: {{name: p{i}}}, \
              spec: {{steps: [{}, {}], outputs: [{{name: o, step: b}}], tenants: [{}]}}}}",
            step("a"),
            step("b"),
            tenants.join(", ")
        );
        let pipeline = validate::pipeline(&serde_saphyr::from_str(&yaml).unwrap());
        fleet.apply(Demand::Pipeline(pipeline.unwrap()));
    }
}

fn tenant(i: usize, weight: u32, models: usize) -> Demand {
    let mut granted: Vec<_> = (0..5).map(|n| (i + n * 7) % models).collect();
    granted.sort_unstable();
    granted.dedup();
    let granted: Vec<_> = granted.iter().map(|m| format!("{{name: m{m}}}")).collect();
    let yaml = format!(
        "{{apiVersion: realm.dev/v1alpha1, kind: Tenant, metadata: {{name: t{i}}}, \
          spec: {{weight: {weight}, models: [{}], apiKeys: [{{secretName: k{i}}}]}}}}",
        granted.join(", ")
    );
    let tenant = validate::tenant(&serde_saphyr::from_str(&yaml).unwrap(), Site::Cluster);
    Demand::Tenant(tenant.unwrap())
}

fn supply(node: usize) -> NodeSupply {
    NodeSupply {
        name: format!("n{node}"),
        labels: (0..20).map(|i| (format!("example.org/label-{i}"), "value".to_owned())).collect(),
        memory_bytes: BTreeMap::from([(Accelerator::Cpu, 64 << 30)]),
        is_door: true,
        peer_address: Some(format!("10.0.0.{node}:9000")),
        is_ready: true,
        calls: BTreeMap::new(),
        held: BTreeMap::new(),
    }
}

/// Every node does what it was told.
fn answer(fleet: &mut Fleet, nodes: usize) {
    for node in (0..nodes).map(|node| format!("n{node}")) {
        let Some(desired) = fleet.desired(&node) else { continue };
        let held = |stage: Stage, model: &realm_plan::desired::DesiredModel| ModelHeld {
            name: model.name.clone(),
            stage: Some(stage),
            kv_blocks: model.kv_blocks,
            is_failed: false,
            sha256: None,
            estimate: Some(Estimate {
                weights_bytes: 1 << 30,
                kv_bytes_per_block: 1 << 20,
                kv_blocks_per_sequence: None,
                activation_bytes: 1 << 26,
                context: 4096,
            }),
        };
        let models = desired.models.iter().map(|model| held(model.stage, model)).collect();
        let report = NodeReport { generation: desired.generation, models };
        fleet.report(&node, report);
    }
}
