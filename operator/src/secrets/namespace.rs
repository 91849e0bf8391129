//! One namespace: its Secrets are watched by their metadata, and read where somebody names them.

use std::collections::BTreeSet;

use futures_util::{
    FutureExt as _, Stream, StreamExt as _,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use kube::{
    Api, Client,
    core::PartialObjectMeta,
    runtime::{
        WatchStreamExt as _,
        watcher::{self, Event},
    },
};
use realm_crds::Secret;
use realm_plan::Name;
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};

use super::{
    Places, READS_AT_ONCE,
    known::{Known, Looks, Task},
    read::{Read, ReadError, read},
};
use crate::fleet::handle::{Command, Handle};

/// Secrets on one page of a list. What is asked for of each has a kilobyte as a rule, and as much
/// as the API server stores of one object, a megabyte and a half, where somebody wants it so.
const PAGE_LEN: u32 = 16;

type Meta = PartialObjectMeta<Secret>;

/// What the watch says, and the place of a list that begins.
type Seen = (watcher::Result<Event<Meta>>, Option<OwnedSemaphorePermit>);

pub(super) struct Namespace {
    name: String,
    api: Api<Secret>,
    fleet: Handle,
    places: Places,
    events: BoxStream<'static, Seen>,
    /// While this namespace is listed.
    listing: Option<OwnedSemaphorePermit>,
    known: Known,
    reads: FuturesUnordered<BoxFuture<'static, (Task, Read)>>,
    /// Whether the last read failed: that it does is said once.
    is_failing: bool,
}

impl Namespace {
    pub(super) fn new(name: &str, client: Client, fleet: Handle, places: Places) -> Self {
        let events = watch(Api::namespaced(client.clone(), name), places.clone()).boxed();
        Self {
            name: name.to_owned(),
            api: Api::namespaced(client, name),
            fleet,
            places,
            events,
            listing: None,
            known: Known::default(),
            reads: FuturesUnordered::new(),
            is_failing: false,
        }
    }

    /// Follows it for as long as this operator leads.
    pub(super) async fn follow(mut self) {
        let mut named = self.fleet.named();
        named.mark_changed();
        loop {
            self.begin_reads();
            let due = self.known.due();
            tokio::select! {
                Some((event, place)) = self.events.next() => self.see(event, place),
                Ok(()) = named.changed() => {
                    let named = named.borrow_and_update().clone();
                    self.name(&named).await;
                }
                Some((task, read)) = self.reads.next() => self.take(&task, read).await,
                () = sleep_until_some(due) => {}
            }
        }
    }

    fn begin_reads(&mut self) {
        while self.reads.len() < READS_AT_ONCE
            && let Some(task) = self.known.next(Instant::now())
        {
            let read = read(self.api.clone(), task.name.clone(), self.places.reads.clone());
            self.reads.push(async move { (task, read.await) }.boxed());
        }
    }

    async fn name(&mut self, named: &BTreeSet<Name>) {
        let here = named.iter().filter(|name| name.namespace() == self.name);
        let looks = self.known.name(&here.cloned().collect(), Instant::now());
        self.tell(looks).await;
    }

    fn see(&mut self, event: watcher::Result<Event<Meta>>, place: Option<OwnedSemaphorePermit>) {
        let now = Instant::now();
        match event {
            Ok(Event::Init) => {
                self.listing = place;
                self.known.list();
            }
            Ok(Event::InitApply(secret)) => {
                if let Ok(name) = Name::of(&secret.metadata) {
                    self.known.see(&name, secret.metadata.resource_version.as_deref(), now);
                }
            }
            Ok(Event::InitDone) => {
                self.listing = None;
                self.known.listed(now);
            }
            Ok(Event::Apply(secret)) => self.change(&secret, now),
            Ok(Event::Delete(mut secret)) => {
                secret.metadata.resource_version = None;
                self.change(&secret, now);
            }
            Err(error) => {
                self.listing = None;
                self.watch_failed(&error);
            }
        }
    }

    fn change(&mut self, secret: &Meta, now: Instant) {
        // Nobody can refer to a Secret whose name is none.
        if let Ok(name) = Name::of(&secret.metadata) {
            self.known.change(&name, secret.metadata.resource_version.as_deref(), now);
        }
    }

    async fn take(&mut self, task: &Task, read: Read) {
        let is_failing = matches!(read, Read::Failed(_));
        if let Read::Failed(error) = &read
            && !self.is_failing
        {
            self.read_failed(error);
        }
        self.is_failing = is_failing;
        let looks = self.known.take(task, read, Instant::now());
        self.tell(looks).await;
    }

    async fn tell(&self, looks: Looks) {
        for (name, look) in looks {
            self.fleet.tell(Command::Look { name, look }).await;
        }
    }

    fn read_failed(&self, error: &ReadError) {
        let (namespace, error) = (&self.name, error as &dyn std::error::Error);
        tracing::warn!(namespace, error, "Secrets cannot be read; whoever names them waits");
    }

    fn watch_failed(&self, error: &watcher::Error) {
        let (namespace, error) = (&self.name, error as &dyn std::error::Error);
        tracing::warn!(namespace, error, "Secrets are not watched");
    }
}

/// Follows the metadata of all Secrets; a list begins when it has a place.
fn watch(api: Api<Meta>, places: Places) -> impl Stream<Item = Seen> + Send {
    let config = watcher::Config::default().page_size(PAGE_LEN);
    watcher::watcher(api, config).default_backoff().then(move |event| {
        let lists = places.lists.clone();
        async move {
            let place = match &event {
                // The semaphore is never closed.
                Ok(Event::Init) => lists.acquire_owned().await.ok(),
                _ => None,
            };
            (event, place)
        }
    })
}

async fn sleep_until_some(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}
