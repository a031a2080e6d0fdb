//! Generates the wire types and services from `proto/`, without `protoc`.

use std::{env, path::PathBuf};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from("../../proto");
    let files =
        ["kvd/v1/kv.proto", "kvd/v1/cluster.proto", "kvd/peer/v1/peer.proto", "kvd/peer/v1/log.proto"];
    println!("cargo:rerun-if-changed={}", root.display());

    let descriptors = protox::compile(files, [&root])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), prost::Message::encode_to_vec(&descriptors))?;

    // `Bytes` shares the receive buffer instead of copying every key, value and log entry out of it.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
