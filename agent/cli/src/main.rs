//! The command line `realm`.

fn main() {}
