//! Names of servers to addresses that may be asked.
//!
//! What a source or a redirect names is looked at before it is asked ([`crate::source::is_local`]),
//! but a name does not show where it leads, and may lead elsewhere a moment later. So a node that
//! is shared looks at the very addresses that it is about to connect to. Private addresses are no
//! such places: the registries and object stores of a cluster have them.

use std::{io, net::SocketAddr, pin::Pin};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;

use crate::{options::Site, source::is_local_ip};

/// What is known of a name, once it is.
pub(super) type Answer = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

/// Who knows names.
pub(super) type Lookup = fn(String) -> Answer;

/// A name leads where a shared node asks nobody.
#[derive(Debug, Error)]
#[error("the name leads to this machine or its link")]
pub(super) struct LocalAddress;

/// Resolves names for a store at `site`.
#[derive(Clone, Copy)]
pub(super) struct Resolver {
    site: Site,
    lookup: Lookup,
}

impl Resolver {
    pub(super) const fn new(site: Site, lookup: Lookup) -> Self {
        Self { site, lookup }
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let Self { site, lookup } = *self;
        Box::pin(async move {
            let addresses = lookup(name.as_str().to_owned()).await?;
            // One local address among others is no accident either.
            let is_local = addresses.iter().any(|address| is_local_ip(address.ip()));
            if site == Site::Cluster && is_local {
                return Err(LocalAddress.into());
            }
            let addresses: Addrs = Box::new(addresses.into_iter());
            Ok(addresses)
        })
    }
}

/// Asks the system. The port is whoever connects' to choose.
pub(super) fn system(name: String) -> Answer {
    Box::pin(async move { Ok(tokio::net::lookup_host((name, 0)).await?.collect()) })
}
