//! One agent: the rooms wired together.
//!
//! [`Agent`] holds what is resident and is the state path's end (`residents`); `inspect` reads what
//! models say of themselves ahead of that; `beside` knows which adapters are loaded beside which
//! model; `roster` owns the snapshot of keys that the doors read;
//! in a cluster, `slices` says what part of the limits this door may spend, and [`relay`] runs
//! every call where its model is; `devices` alone knows which backends this build has.

mod agent;
pub mod args;
mod beside;
pub mod cluster;
mod devices;
mod inspect;
mod losses;
mod metrics;
mod proven;
pub mod relay;
mod residents;
mod roster;
mod slices;
mod sources;
mod supply;

pub use crate::{
    agent::{Agent, AgentError, AgentOptions},
    devices::{Device, DeviceError, DeviceOptions},
};
