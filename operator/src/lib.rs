//! The operator: one fleet, planned from every object and every node.
//!
//! [`run`] contends for the Lease ([`lease`]) and, while it leads, follows objects ([`controller`]
//! with [`model`], [`tenant`], [`pipeline`]; [`secrets`], [`nodes`]), plans ([`fleet`]), speaks with
//! the agents ([`link`], [`review`], [`trust`]; [`config_maps`]), and writes what became of it ([`status`]).

pub mod args;
pub mod run;

pub mod lease;

mod context;
mod controller;
mod model;
mod nodes;
mod pipeline;
mod retries;
mod secrets;
mod tenant;
mod throttle;
mod warnings;

pub mod fleet;

pub mod config_maps;
pub mod link;
mod review;
mod trust;

mod status;

mod admin;
pub mod metrics;
