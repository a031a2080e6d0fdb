//! The wire: code generated from `proto/`, and the conversions between wire and domain types.
//!
//! Wire types are not domain types. What arrives is untrusted and becomes a domain value through one fallible
//! conversion, which checks every length and range; what leaves is made from domain values and can't be wrong. The
//! conversions of the public interface are in [`operation`], those of a node's status in [`topology`], those of the
//! persisted log in [`log`], the tokens that callers keep in [`token`], and the one mapping of error kinds to gRPC status codes is in [`error`]. What carries the
//! bytes, sockets or a simulation, is behind the seam in [`net`].
//!
//! # What is deliberately absent
//! No routing and no retry: who calls whom, and what happens when it fails, is the client's and the server's affair.

pub mod error;
pub mod log;
pub mod net;
pub mod operation;
pub mod token;
pub mod topology;

/// The public interface: package `kvd.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::pedantic,
    unused_qualifications,
    unreachable_pub,
    reason = "generated"
)]
pub mod v1 {
    tonic::include_proto!("kvd.v1");
}

/// What nodes say to each other: package `kvd.peer.v1`.
pub mod peer {
    /// Version 1.
    #[allow(
        missing_docs,
        clippy::all,
        clippy::pedantic,
        unused_qualifications,
        unreachable_pub,
        reason = "generated"
    )]
    pub mod v1 {
        tonic::include_proto!("kvd.peer.v1");
    }
}

/// The compiled descriptors of every file in `proto/`, for the reflection service.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
