//! Compiles the protobuf files in pure Rust, so that no `protoc` is needed on the machine.

use std::error::Error;

const LINK: &str = "link/v1/link.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={LINK}");
    let files = protox::compile([LINK], ["."])?;
    // Maps whose order is the order of their keys: equal states have equal bytes.
    prost_build::Config::new().btree_map(["."]).compile_fds(files)?;
    Ok(())
}
