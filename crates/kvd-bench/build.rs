//! Generates what a client in any language generates from the public interface, and the echo service, without `protoc`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let roots = ["../../proto", "proto"];
    for root in roots {
        println!("cargo:rerun-if-changed={root}");
    }
    let descriptors = protox::compile(["kvd/v1/kv.proto", "kvd/bench/v1/echo.proto"], roots)?;
    // As in `kvd-proto`: `Bytes` shares the receive buffer.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
