//! Whether this machine's GPU computes what the contract of backends asks: `contract`, with NVRTC's
//! library in `REALM_TEST_NVRTC` and a folder for compiled kernels in `REALM_TEST_KERNELS`, if any.

#![expect(clippy::print_stdout, reason = "it is a program for a terminal")]

use std::{env, error::Error, path::PathBuf};

use realm_kernels::{backend::Backend, contract};
use realm_kernels_cuda::{Cuda, OpenOptions};

/// Breaches that are worth reading.
const SHOWN_MAX: usize = 40;

fn main() -> Result<(), Box<dyn Error>> {
    let nvrtc = env::var_os("REALM_TEST_NVRTC").map(PathBuf::from);
    let cache = env::var_os("REALM_TEST_KERNELS").map(PathBuf::from);
    let mut cuda = Cuda::open(&OpenOptions { ordinal: 0, nvrtc, cache })?;
    println!("{}: {:?}", cuda.describe(), cuda.facts());
    let outcome = contract::run(&mut cuda);
    for breach in outcome.breaches.iter().take(SHOWN_MAX) {
        println!("{}: {}: {:?}", breach.op, breach.case, breach.fault);
    }
    println!("{} checks, {} breaches", outcome.checks, outcome.breaches.len());
    if outcome.breaches.is_empty() { Ok(()) } else { Err("the contract is broken".into()) }
}
