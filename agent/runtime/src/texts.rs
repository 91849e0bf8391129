//! Places for work on text: what templates and tokenizers do for programs takes cores that the
//! weights want too.

use std::sync::Arc;

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// Texts worked on at once, over all tenants and calls: one takes some tens of milliseconds, a chat
/// whose template means harm some seconds, and the cores are there for the weights.
const TEXTS_AT_ONCE_MAX: usize = 4;

/// Of these, one tenant's: so that whoever floods leaves places for the others, and a tenant alone
/// still keeps two cores busy.
const TEXTS_PER_TENANT_MAX: usize = 2;

/// The places of one node. Whoever waits is served in order.
#[derive(Clone, Debug)]
pub(crate) struct Texts(Arc<Semaphore>);

impl Default for Texts {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TEXTS_AT_ONCE_MAX)))
    }
}

/// The places that one tenant may have of them.
#[derive(Clone, Debug)]
pub(crate) struct TenantTexts(Arc<Semaphore>);

impl Default for TenantTexts {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(TEXTS_PER_TENANT_MAX)))
    }
}

/// One text's place.
#[derive(Debug)]
pub(crate) struct TextPlace {
    _of_tenant: OwnedSemaphorePermit,
    _of_node: OwnedSemaphorePermit,
}

impl Texts {
    /// Waits for a place, in the tenant's own queue first.
    pub(crate) async fn take(&self, tenant: &TenantTexts) -> Result<TextPlace, AcquireError> {
        let of_tenant = tenant.0.clone().acquire_owned().await?;
        let of_node = self.0.clone().acquire_owned().await?;
        Ok(TextPlace { _of_tenant: of_tenant, _of_node: of_node })
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, pin::pin, task::Poll};

    use super::*;

    #[tokio::test]
    async fn a_tenant_that_floods_the_places_leaves_some_for_the_others() {
        let (texts, flood, other) =
            (Texts::default(), TenantTexts::default(), TenantTexts::default());
        let _held = (texts.take(&flood).await.unwrap(), texts.take(&flood).await.unwrap());
        let mut third = pin!(texts.take(&flood));
        poll_fn(|context| {
            assert!(third.as_mut().poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        texts.take(&other).await.unwrap();
    }
}
