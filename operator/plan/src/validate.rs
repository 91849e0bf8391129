//! From a raw object to a proven one, or to everything that is wrong with it.
//!
//! What the API server's schema and CEL rules refuse is refused here again, with the same
//! bounds: one machine has no API server. References to other objects are not looked at: those
//! come and go, so [`crate::Fleet`] resolves them each time it plans.

mod artifact;
mod field;
mod model;
mod pipeline;
mod secret;
mod template;
mod tenant;

pub(crate) use model::{Replicas, Scaling};
pub use model::{ValidModel, model};
pub use pipeline::{ValidPipeline, pipeline};
pub use secret::{ValidSecret, secret, withheld};
pub use tenant::{ValidTenant, tenant};

/// Where the object will be served, for what only some places can serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// One machine with its own `pip`.
    OneMachine,
    /// A cluster, whose nodes have no `pip` and should run none.
    Cluster,
}
