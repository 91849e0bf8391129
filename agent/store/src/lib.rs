//! Model artifacts: sources, resume, verification and the content-addressed cache.
//!
//! [`parts`] takes a split file apart and puts it together again. For each part, or a file that is one,
//! [`fetch`] drives it, in order: [`source`] reads where a mirror is, [`cache`] says whether the
//! bytes are already here and, if not, hands out the one [`partial`] file that may be written;
//! [`https`], which asks what [`resolve`] makes of a remote source, [`pip`], or whoever reads a
//! [`config_map`] for this node brings the bytes; the partial file becomes a blob only when its digest
//! is right. A [`file`] of this machine, or of a [`volume`], is used where it lies. The first bytes
//! alone ([`Store::head`]) are read by the same ways, and kept nowhere.

mod error;
mod options;
mod store;

mod parts;

mod fetch;
mod source;

mod cache;
mod disk;
mod hash;
mod partial;
mod state;

mod config_map;
mod file;
mod https;
mod pip;
mod resolve;
mod volume;
mod web;

pub use crate::{
    error::{Attempt, FetchError, SourceError, StoreError},
    options::{Pace, PipOptions, Retry, S3Options, Site, StoreOptions},
    store::{Head, Owner, Progress, ProgressFn, Store, Stored, Verdict, sources},
};
