//! Compiles the protobuf files in pure Rust, so that no `protoc` is needed on the machine.

use std::error::Error;

const LINK: &str = "link/v1/link.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={LINK}");
    let files = protox::compile([LINK], ["."])?;
    tonic_prost_build::configure()
        // The sockets and their TLS belong to the two ends.
        .build_transport(false)
        // Maps whose order is the order of their keys: equal states have equal bytes.
        .btree_map(".")
        // Copied as a whole, and not byte by byte.
        .bytes(".realm.link.v1.OperatorMessage.desired")
        // What is secret is never printed.
        .skip_debug([".realm.link.v1.Credential"])
        .compile_fds(files)?;
    Ok(())
}
