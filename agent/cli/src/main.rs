//! The command line `realm`.

mod manifests;
mod serve;

fn main() {}
