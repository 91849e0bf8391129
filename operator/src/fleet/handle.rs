//! How objects reach the fleet, and how what became of them comes back.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use futures_util::{Stream, stream};
use realm_crds::tenant::Totals;
use realm_plan::{Demand, Estimate, Kind, Name, Problem, validate::ValidSecret};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::standing::{Hold, Snapshot, Standing};

/// What the fleet is told.
#[derive(Debug)]
pub enum Command {
    /// An object is wanted, in the form of this generation of its spec.
    Apply { demand: Box<Demand>, generation: i64 },
    /// An object cannot be served as this generation of its spec says.
    Refuse { kind: Kind, name: Name, problems: Vec<Problem>, generation: i64 },
    /// An object is no longer wanted.
    Remove { kind: Kind, name: Name },
    /// What became of a look at a Secret that is named.
    Look { name: Name, look: Look },
    /// Objects of the kind that are not among `names` are no longer wanted.
    Retain { kind: Kind, names: BTreeSet<Name> },
    /// Every object of the kind has been told once.
    Synced(Kind),
    /// The node held these models when the last leader wrote it down.
    Recall { node: String, models: Vec<Name> },
    /// What the header of a model's file alone had said, by the last leader, where the whole file
    /// says otherwise.
    Claimed { model: Name, claimed: Estimate },
    /// What the tenant had used by the last leader's time.
    Totals { tenant: Name, told: Totals },
    /// Some node held something when the last leader wrote it down.
    Expect,
    /// A leader before this one has said what became of the object.
    Told { kind: Kind, name: Name },
    /// The labels of a node; none once it is gone.
    Labels { node: String, labels: Option<BTreeMap<String, String>> },
    /// The labels of every node have been told once.
    Labelled,
}

/// What is seen of a Secret that is named.
#[derive(Debug)]
pub enum Look {
    /// There is none.
    Absent,
    Found(Content),
    /// Nothing of it is kept, and the Secret says why.
    Withheld(ValidSecret),
    /// Nobody names it any more, so nobody looks.
    Unnamed,
}

/// What a Secret holds.
pub struct Content {
    pub secret: ValidSecret,
    /// What it holds for the sources of models, if it opens any.
    pub opening: Option<Vec<u8>>,
    /// One of few, for as long as this is on its way.
    pub place: OwnedSemaphorePermit,
}

impl fmt::Debug for Content {
    /// Says whose it is, never what.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Content").field(self.secret.name()).finish()
    }
}

/// The fleet as others see it. Clones are handles to the same fleet.
#[derive(Clone, Debug)]
pub struct Handle {
    commands: mpsc::Sender<Command>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
    named: watch::Receiver<Arc<BTreeSet<Name>>>,
}

impl Handle {
    pub(super) const fn new(
        commands: mpsc::Sender<Command>,
        snapshot: watch::Receiver<Arc<Snapshot>>,
        named: watch::Receiver<Arc<BTreeSet<Name>>>,
    ) -> Self {
        Self { commands, snapshot, named }
    }

    /// The Secrets that some object names: whoever can look at them is to, and at no others.
    pub(crate) fn named(&self) -> watch::Receiver<Arc<BTreeSet<Name>>> {
        self.named.clone()
    }

    /// Tells the fleet something, and waits for room where many do.
    pub async fn tell(&self, command: Command) {
        // The loop ends with the term, and so does whoever tells it anything.
        let _ = self.commands.send(command).await;
    }

    /// What the last plan and the nodes say of an object; `None` until it has been planned.
    pub fn standing(&self, kind: Kind, name: &Name) -> Option<Arc<Standing>> {
        self.snapshot.borrow().get(kind, name).cloned()
    }

    /// The standing of every object, as one.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Whether a node still says that it holds the object.
    pub fn hold(&self, kind: Kind, name: &Name) -> Hold {
        self.snapshot.borrow().hold(kind, name)
    }

    /// The objects of `kind` of which there is news, again and again. What changes several times
    /// before anybody looks is told once.
    pub fn changes(&self, kind: Kind) -> impl Stream<Item = Name> + Send + use<> {
        let start = (self.snapshot.clone(), Arc::<Snapshot>::default());
        let turns = stream::unfold(start, move |(mut snapshot, seen)| async move {
            snapshot.changed().await.ok()?;
            let next = snapshot.borrow_and_update().clone();
            let changed = next.changed_since(&seen, kind);
            Some((stream::iter(changed), (snapshot, next)))
        });
        futures_util::StreamExt::flatten(turns)
    }
}

/// Which object a demand is of.
pub(crate) fn object_of(demand: &Demand) -> (Kind, Name) {
    match demand {
        Demand::Model(model) => (Kind::Model, model.name().clone()),
        Demand::Tenant(tenant) => (Kind::Tenant, tenant.name().clone()),
        Demand::Pipeline(pipeline) => (Kind::Pipeline, pipeline.name().clone()),
        Demand::Secret(secret) => (Kind::Secret, secret.name().clone()),
    }
}
