//! Compiles the protobuf files in pure Rust, so that no `protoc` is needed on the machine.

use std::error::Error;

const LINK: &str = "link/v1/link.proto";
const PEER: &str = "peer/v1/peer.proto";

fn main() -> Result<(), Box<dyn Error>> {
    for file in [LINK, PEER] {
        println!("cargo::rerun-if-changed={file}");
    }
    let files = protox::compile([LINK, PEER], ["."])?;
    tonic_prost_build::configure()
        // The sockets and their TLS belong to the two ends.
        .build_transport(false)
        // Maps whose order is the order of their keys: equal states have equal bytes.
        .btree_map(".")
        // Copied as a whole, and not byte by byte.
        .bytes(".realm.link.v1.OperatorMessage.desired")
        // What is secret is never printed, and what a tenant says and hears is its own.
        .skip_debug([
            ".realm.link.v1.Credential",
            ".realm.link.v1.ConfigMapPiece",
            ".realm.peer.v1.CallRequest",
            ".realm.peer.v1.Chunk",
            ".realm.peer.v1.Done",
            ".realm.peer.v1.Resume",
        ])
        .compile_fds(files)?;
    Ok(())
}
