//! What this node has, told to the operator again and again.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use realm_core::{
    name::ModelName,
    report::Report,
    supply::{Device, DeviceKind, ModelLoad, Supply},
    uses::TenantUse,
};
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval},
};

use crate::{Agent, relay::held_calls};

/// How often memory and queues are looked at: scaling looks at minutes, and placement at models.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Where others reach this agent, and whether it takes anything new.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Presence {
    pub door: Option<SocketAddr>,
    pub peer: Option<SocketAddr>,
    pub is_draining: bool,
}

/// What is looked at when it changes.
pub(crate) struct Feed {
    pub(crate) report: watch::Receiver<Report>,
    /// Calls that wait here, by the model that they wait for.
    pub(crate) held: watch::Receiver<BTreeMap<ModelName, u32>>,
}

/// How often it is looked at what tenants have used, which the operator adds up.
const USES_EVERY: Duration = Duration::from_secs(2);

/// Keeps `uses` current for as long as anybody reads it.
pub(crate) async fn follow_uses(agent: Arc<Agent>, uses: watch::Sender<Vec<TenantUse>>) {
    let mut look = interval(USES_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !uses.is_closed() {
        look.tick().await;
        let next = agent.uses();
        uses.send_if_modified(|last| {
            let is_new = *last != next;
            *last = next;
            is_new
        });
    }
}

/// Keeps `supply` current for as long as anybody reads it. A report that changed is looked at at
/// once, so that what it calls loaded is no longer counted as free, and so are calls that begin to
/// wait, so that what they wait for is woken.
pub(crate) async fn follow(
    agent: Arc<Agent>,
    presence: watch::Receiver<Presence>,
    feed: Feed,
    supply: watch::Sender<Supply>,
) {
    let Feed { mut report, mut held } = feed;
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !supply.is_closed() {
        tokio::select! {
            _ = look.tick() => {}
            Ok(()) = report.changed() => drop(report.borrow_and_update()),
            Ok(()) = held.changed() => {}
        }
        let now = *presence.borrow();
        let waiting = held_calls(&held.borrow_and_update());
        let looked = spawn_blocking({
            let agent = agent.clone();
            move || Supply { held: waiting, ..agent.supply(now) }
        });
        match looked.await {
            Ok(next) => supply.send_if_modified(|last| {
                let is_new = *last != next;
                *last = next;
                is_new
            }),
            Err(panicked) => {
                tracing::error!(%panicked, "looking at this node's memory panicked");
                false
            }
        };
    }
}

impl Agent {
    /// What each tenant has used here since this agent started.
    pub(crate) fn uses(&self) -> Vec<TenantUse> {
        self.engines.uses(|| {
            let spent = self.runtime.spent().into_iter();
            spent.map(|(tenant, spent)| (tenant, spent.sum().fuel)).collect()
        })
    }

    /// What this node has now, but for the calls that wait. Reads what the system says of its memory.
    pub(crate) fn supply(&self, presence: Presence) -> Supply {
        let Presence { door, peer, is_draining } = presence;
        let device = Device {
            name: "cpu".to_owned(),
            kind: DeviceKind::Cpu,
            product: self.device.describe(),
            memory_bytes_total: 0,
            memory_bytes_free: 0,
        };
        let models = self.engines.loads().into_iter();
        Supply {
            memory_bytes_total: self.device.memory_bytes_total(),
            memory_bytes_free: self.device.memory_bytes(),
            devices: vec![device],
            door,
            peer,
            is_draining,
            models: models.map(|(model, load)| ModelLoad { model, load }).collect(),
            held: Vec::new(),
        }
    }
}
