//! Many agents in one process: the real link, ledgers and convergence, and nothing behind them.
//! For whoever measures an operator.
//!
//! `agents FOLDER OPERATOR COUNT` runs the agents of the nodes `n000` and on. FOLDER has `ca.crt`
//! and each agent's `token-NODE`; the ledgers go there. What they are told to hold is held at once.
//! A line `held TENANT WEIGHT GENERATION FIRST ALL` says when a tenant's weight was in the first
//! ledger and in all of them, in nanoseconds since the epoch, and in which generation it came.

#![expect(clippy::print_stdout, reason = "a program whose lines are its result")]

use std::{
    collections::{BTreeMap, HashMap},
    error::Error,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use realm_core::{
    config_maps,
    desired::{Desired, DesiredModel, DesiredPipeline, DesiredTenant, HostedProgram, Sha256},
    name::{ModelName, PipelineName, TenantName},
    report::{Failure, MemoryFacts, ModelFacts, ModelPhase, Report},
    residents::Residents,
    slices::Spends,
    supply::{Credentials, Device, DeviceKind, Supply},
};
use realm_link::{
    client::{self, Feeds, LinkOptions, LinkState, OperatorAddress, Sources},
    converge,
    ledger::Ledger,
    slices::SliceStore,
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Sightings that wait to be counted: what a hundred agents see when a thousand tenants come. Who
/// finds no room waits, and takes the next state later.
const SEEN_BUFFERED_MAX: usize = 100_000;

/// Memory of each node: room for every model.
const MEMORY_BYTES: u64 = 1 << 40;

type Failed = Box<dyn Error + Send + Sync>;

/// One agent's ledger holds a weight that it did not before.
struct Seen {
    tenant: TenantName,
    weight: u32,
    generation: u64,
    at: SystemTime,
}

#[tokio::main]
async fn main() -> Result<(), Failed> {
    let mut args = std::env::args().skip(1);
    let mut next = |what: &str| args.next().ok_or_else(|| format!("{what} is missing"));
    let folder = PathBuf::from(next("FOLDER")?);
    let operator: OperatorAddress = next("OPERATOR")?.parse()?;
    let count: u16 = next("COUNT")?.parse()?;
    let (seen, sightings) = mpsc::channel(SEEN_BUFFERED_MAX);
    for index in 0..count {
        start(&folder, &operator, index, seen.clone()).await?;
    }
    drop(seen);
    tally(sightings, count).await;
    Ok(())
}

/// Starts one agent, which runs as long as the process.
async fn start(
    folder: &Path,
    operator: &OperatorAddress,
    index: u16,
    seen: mpsc::Sender<Seen>,
) -> Result<(), Failed> {
    let node = format!("n{index:03}");
    let folder_of_ledger = folder.join(format!("ledger-{node}"));
    let (ledger, _) = Ledger::open(&folder_of_ledger).await?;
    let (slices, _) = SliceStore::open(&folder_of_ledger);
    let options = LinkOptions {
        operators: vec![operator.clone()],
        ca_file: folder.join("ca.crt"),
        token_file: folder.join(format!("token-{node}")),
        node,
        agent_version: "0.0.0".to_owned(),
        boot_id: "first".to_owned(),
    };
    let (report, reports) = watch::channel(Report::default());
    let (_, supply) = watch::channel(supply(index));
    let credentials = watch::Sender::new(Credentials::default());
    let sources = Sources { credentials, config_maps: config_maps::channel().1 };
    let state = watch::Sender::new(LinkState::default());
    tokio::spawn(converge::run(Arc::new(Nothing), ledger.subscribe(), report));
    tokio::spawn(look(ledger.subscribe(), seen));
    let (told, spends) = watch::channel(used(&slices));
    tokio::spawn(answer(slices.clone(), told));
    let uses = watch::channel(Vec::new()).1;
    let feeds = Feeds { report: reports, supply, uses, spends };
    let never = CancellationToken::new();
    tokio::spawn(client::run(options, (ledger, slices), feeds, sources, state, never));
    Ok(())
}

/// Answers for slices of limits, of which nobody uses anything.
async fn answer(slices: SliceStore, spends: watch::Sender<Spends>) {
    let mut held = slices.subscribe();
    while held.changed().await.is_ok() {
        held.mark_unchanged();
        spends.send_replace(used(&slices));
    }
}

fn used(slices: &SliceStore) -> Spends {
    Spends { epoch: slices.held().map_or(0, |held| held.epoch), ..Spends::default() }
}

fn supply(index: u16) -> Supply {
    let port = index.saturating_add(10_000);
    Supply {
        memory_bytes_total: MEMORY_BYTES,
        memory_bytes_free: MEMORY_BYTES,
        devices: vec![Device {
            name: "cpu".to_owned(),
            kind: DeviceKind::Cpu,
            product: "any".to_owned(),
            memory_bytes_total: 0,
            memory_bytes_free: 0,
        }],
        door: Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)),
        ..Supply::default()
    }
}

/// Tells which weights are new in one ledger.
async fn look(mut desired: watch::Receiver<Arc<Desired>>, seen: mpsc::Sender<Seen>) {
    let mut weights = BTreeMap::new();
    while desired.changed().await.is_ok() {
        let (state, at) = (desired.borrow_and_update().clone(), SystemTime::now());
        for tenant in &state.tenants {
            if weights.insert(tenant.name.clone(), tenant.weight) == Some(tenant.weight) {
                continue;
            }
            let (tenant, weight) = (tenant.name.clone(), tenant.weight);
            let one = Seen { tenant, weight, generation: state.generation, at };
            if seen.send(one).await.is_err() {
                return;
            }
        }
    }
}

/// Says of each weight when the first and when all ledgers held it.
async fn tally(mut sightings: mpsc::Receiver<Seen>, count: u16) {
    let mut open: HashMap<(TenantName, u32), (u16, u64, SystemTime, SystemTime)> = HashMap::new();
    while let Some(Seen { tenant, weight, generation, at }) = sightings.recv().await {
        let known = open.entry((tenant.clone(), weight)).or_insert((0, generation, at, at));
        let (ledgers, first_generation, first, all) = known;
        *ledgers = ledgers.saturating_add(1);
        *first_generation = generation.min(*first_generation);
        (*first, *all) = (at.min(*first), at.max(*all));
        if *ledgers == count {
            let (first, all) = (nanoseconds(*first), nanoseconds(*all));
            println!("held {tenant} {weight} {first_generation} {first} {all}");
            open.remove(&(tenant, weight));
        }
    }
}

fn nanoseconds(at: SystemTime) -> u128 {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos()
}

/// Holds whatever it is told to, in name.
struct Nothing;

impl Residents for Nothing {
    async fn put_model(
        &self,
        _: &DesiredModel,
        _: &(dyn Fn(ModelPhase) + Send + Sync),
    ) -> Result<ModelFacts, Failure> {
        Ok(ModelFacts {
            architecture: "llama".to_owned(),
            parameters: 1 << 30,
            format: "Q4_1".to_owned(),
            context: 4096,
            licence: None,
            weights_bytes: 1 << 30,
            memory: Some(MemoryFacts {
                kv_bytes_per_block: 1 << 20,
                activation_bytes: 1 << 26,
                kv_blocks_per_sequence: None,
            }),
            sha256: Some(Sha256([7; 32])),
        })
    }

    async fn lost_model(&self) -> ModelName {
        std::future::pending().await
    }

    async fn remove_model(&self, _: &ModelName) {}

    async fn put_tenant(&self, tenant: &DesiredTenant) -> Result<Option<Sha256>, Failure> {
        let DesiredTenant { program, .. } = tenant;
        Ok(program.as_ref().map(|HostedProgram { .. }| Sha256([8; 32])))
    }

    async fn remove_tenant(&self, _: &TenantName) {}

    async fn put_pipeline(&self, _: &DesiredPipeline) -> Result<(), Failure> {
        Ok(())
    }

    async fn remove_pipeline(&self, _: &PipelineName) {}
}
