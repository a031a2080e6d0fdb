//! The code generated from kvd's public interface, as a client in any language has it, and from the echo service.
//!
//! `kvd-proto` is not used: its conversions belong to the client library and the server, and what is measured here is what
//! somebody has who knows nothing but the `.proto` files.

/// kvd's public interface: package `kvd.v1`.
#[allow(
    dead_code,
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unused_qualifications,
    unreachable_pub,
    reason = "generated"
)]
pub(crate) mod v1 {
    tonic::include_proto!("kvd.v1");
}

/// Our own.
pub(crate) mod bench {
    /// The echo service: package `kvd.bench.v1`.
    #[allow(
        dead_code,
        missing_docs,
        clippy::all,
        clippy::pedantic,
        unused_qualifications,
        unreachable_pub,
        reason = "generated"
    )]
    pub(crate) mod v1 {
        tonic::include_proto!("kvd.bench.v1");
    }
}
