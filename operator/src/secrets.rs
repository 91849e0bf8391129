//! The Secrets that models and tenants name: keys of tenants, and what opens the sources of models.
//!
//! In each namespace that this operator may read, under a Role of its own, the metadata of Secrets
//! is watched and nothing else of them ([`namespace`]): it says which have changed. Of those that
//! somebody names the content is read, one by one ([`read`]), and kept while somebody does, up to a
//! limit for each namespace ([`known`], pure). Whoever may create Secrets in a namespace decides
//! neither what is read nor how much of it is kept.

mod known;
mod namespace;
mod read;

use std::{collections::BTreeSet, sync::Arc};

use futures_util::future::join_all;
use kube::Client;
use realm_plan::{Name, Reason};
use tokio::sync::Semaphore;

use self::{known::withheld, namespace::Namespace};
use crate::fleet::handle::{Command, Handle, Look};

/// Contents of Secrets that are read or on their way to the fleet at once: each has a megabyte at
/// most, and as many small ones as this are read in the time of one answer.
const READS_AT_ONCE: usize = 16;

/// Namespaces that are listed at once: each has a page in memory.
const LISTS_AT_ONCE: usize = 4;

/// What all namespaces share.
#[derive(Clone)]
struct Places {
    reads: Arc<Semaphore>,
    lists: Arc<Semaphore>,
}

/// Follows the Secrets of `namespaces` for as long as this operator leads.
pub(crate) async fn run(client: Client, namespaces: BTreeSet<String>, fleet: Handle) {
    let places = Places {
        reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
        lists: Arc::new(Semaphore::new(LISTS_AT_ONCE)),
    };
    let watches = namespaces
        .iter()
        .map(|name| Namespace::new(name, client.clone(), fleet.clone(), places.clone()).follow());
    tokio::join!(join_all(watches), refuse_elsewhere(&namespaces, &fleet));
}

/// Says of Secrets in any other namespace that they may not be read.
async fn refuse_elsewhere(namespaces: &BTreeSet<String>, fleet: &Handle) {
    let mut named = fleet.named();
    let mut refused = BTreeSet::new();
    loop {
        let now = named.borrow_and_update().clone();
        let elsewhere = now.iter().filter(|name| !namespaces.contains(name.namespace()));
        let elsewhere: BTreeSet<Name> = elsewhere.cloned().collect();
        for name in refused.difference(&elsewhere) {
            let name = Clone::clone(name);
            fleet.tell(Command::Look { name, look: Look::Unnamed }).await;
        }
        for name in elsewhere.difference(&refused) {
            let message = format!(
                "the operator may not read Secrets of namespace `{}`: add it to the value \
                 `tenantNamespaces` of the chart",
                name.namespace()
            );
            let look = withheld(name, Reason::SecretNotReadable, message);
            fleet.tell(Command::Look { name: name.clone(), look }).await;
        }
        refused = elsewhere;
        if named.changed().await.is_err() {
            return;
        }
    }
}
