//! The operator: plans the fleet, tells the agents over the link, and hears what they hold.

pub mod link;
