//! How a store behaves.

use std::{ffi::OsString, path::PathBuf, time::Duration};

/// Largest artifact taken by default.
///
/// Four times the largest open weights of today (about a trillion parameters at one byte each fit
/// in 1 TiB), so it stops an endless body, not a model.
const BYTES_MAX: u64 = 4 << 40;

/// Where a store stands, which decides what sources it may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// A machine whose owner runs Realm: its own `pip` may be asked.
    OneMachine,
    /// A node shared by many: nothing outside the store's own code runs.
    Cluster,
}

/// What a [`crate::Store`] may do and how patient it is.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    pub site: Site,
    /// PEM file of certificate authorities to trust beside the platform's own.
    pub ca_file: Option<PathBuf>,
    /// The model hub that `hf` sources are of: an address, or that of a mirror of it.
    pub hub_endpoint: String,
    /// What an `s3` source that says no more is of.
    pub s3: S3Options,
    /// The folder that persistent volume claims are mounted in, each at `<namespace>/<claim>`.
    pub pvc_dir: Option<PathBuf>,
    /// Larger artifacts are refused.
    pub bytes_max: u64,
    pub connect_timeout: Duration,
    /// A server that sends nothing for so long has stalled.
    pub stall_timeout: Duration,
    /// A server that sends, but less than this, has stalled too.
    pub pace_min: Pace,
    pub retry: Retry,
    pub pip: PipOptions,
}

/// The object store that `s3` sources are of where they name none.
#[derive(Clone, Debug)]
pub struct S3Options {
    pub region: String,
    /// An address; `None` is Amazon's own store of the region.
    pub endpoint: Option<String>,
}

/// How fast a body comes.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub bytes: u64,
    /// The time in which that many come.
    pub within: Duration,
}

/// How often one mirror is asked again.
#[derive(Clone, Copy, Debug)]
pub struct Retry {
    /// Attempts in a row that bring nothing new.
    pub attempts_max: u32,
    /// The first pause; each one after is twice as long.
    pub pause_min: Duration,
    pub pause_max: Duration,
}

/// How the machine's `pip` is asked.
#[derive(Clone, Debug)]
pub struct PipOptions {
    /// The interpreter whose `pip` is used.
    pub python: OsString,
    /// Set for `pip` beside what it inherits, such as `PIP_INDEX_URL`.
    pub env: Vec<(OsString, OsString)>,
    /// All the time `pip` may take.
    pub timeout: Duration,
}

impl StoreOptions {
    /// The defaults for `site`.
    pub fn new(site: Site) -> Self {
        Self {
            site,
            ca_file: None,
            hub_endpoint: "https://huggingface.co".to_owned(),
            // What most stores that are not Amazon's take too.
            s3: S3Options { region: "us-east-1".to_owned(), endpoint: None },
            pvc_dir: None,
            bytes_max: BYTES_MAX,
            // Two lost SYN packets are sent again after 1 s and 3 s; more says nobody is there.
            connect_timeout: Duration::from_secs(10),
            // Long enough for an object store that wakes a cold object.
            stall_timeout: Duration::from_secs(30),
            // Half of a line of 128 kbit/s, for a minute: no line that a model is fetched over is
            // so slow, and a gigabyte cannot be drawn out over more than a day and a half.
            pace_min: Pace { bytes: 512 << 10, within: Duration::from_mins(1) },
            retry: Retry {
                // About 0.5 + 1 + 2 seconds of pauses: over a restart of a load balancer, and
                // short enough that the next mirror gets its turn.
                attempts_max: 4,
                pause_min: Duration::from_millis(500),
                pause_max: Duration::from_secs(10),
            },
            pip: PipOptions {
                python: "python3".into(),
                env: Vec::new(),
                // A wheel of 4 GB, the most a wheel can be without zip64, at 10 Mbit/s.
                timeout: Duration::from_hours(1),
            },
        }
    }
}
