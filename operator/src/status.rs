//! How a status is written: conditions that are the truth, server-side apply, events.
//!
//! [`conditions`] and [`event`] are pure; [`apply`] alone writes.

pub(crate) mod apply;
pub(crate) mod conditions;
pub(crate) mod event;
