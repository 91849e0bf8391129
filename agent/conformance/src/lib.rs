//! What keeps tenants apart, as claims about any endpoint, and what was measured there as verdicts
//! on them. Pure: who measures is elsewhere, and chance is a seed.

pub mod draw;
pub mod exhaustion;
pub mod keys;
pub mod limits;
pub mod neighbour;
pub mod prompt;
pub mod report;
pub mod retry;
pub mod stats;
pub mod timing;
