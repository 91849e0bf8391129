//! The words of both paths, the ports between the rooms, and the pure gates `auth` and `limit`.
//!
//! A request passes, in order: [`auth::verify`] makes a [`auth::Caller`], [`limit::Limiter::admit`]
//! makes an [`limit::Admitted`], the port [`tenants::Tenants`] runs it beside the weights, and the
//! port [`engine::Engine`] turns prompts into tokens, with a [`hook::Hook`] of the tenant's beside
//! them where it has one. What a door may let in are its [`slices`] of the limits. Desired state
//! passes as a [`desired::Desired`] and comes back as a [`report::Report`], beside a
//! [`supply::Supply`]; [`split`] says which files a model in several parts is, and a program may
//! come from one of the cluster's [`config_maps`]. What all of it has cost whom is in an engine's
//! [`books::Books`].

pub mod name;

pub mod auth;
pub mod books;
pub mod call;
pub mod constraint;
pub mod embed;
pub mod engine;
pub mod hook;
pub mod limit;
pub mod refusal;
pub mod reply;
pub mod sampling;
pub mod tenants;
pub mod trace;
pub mod uses;

pub mod config_maps;
pub mod credentials;
pub mod desired;
pub mod report;
pub mod residents;
pub mod slices;
pub mod split;
pub mod supply;

#[cfg(test)]
mod fixtures;
