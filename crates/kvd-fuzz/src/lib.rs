//! What every decoder of network and disk bytes must stand.
//!
//! # The problem
//! Whatever arrives at a port or comes off a disk may be anything. A decoder that panics lets one bad byte stop a node;
//! one that believes a length lets a few bytes take all memory; one that reads a value otherwise than it was written
//! makes two replicas disagree.
//!
//! # The approach
//! A [`Target`] is a function of bytes that must return, whatever they are, with the assertions that hold for every
//! input: mostly that decoding, encoding and decoding again changes nothing more. The functions are called from two
//! places: from the coverage-guided fuzzer in `tests/fuzz` (`cargo xtask fuzz`), for as long as one likes, and from this
//! crate's own tests, which replay the corpora that the fuzzer has gathered in `tests/fuzz/corpus` and a few thousand
//! seeded mutations of them.
//!
//! What is protected by a checksum would turn every random input away at the door. So those targets ([`disk`]) build
//! bytes with sound checksums around whatever the input says, with encoders of their own that were written after the
//! documented formats, not after the code.
//!
//! # What is deliberately absent
//! No connections: what a port does with its clients as a whole is tested with real processes, in `tests`.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    reason = "a target fails where it stands; that is its answer"
)]

pub mod disk;
pub mod input;
pub mod mutate;
pub mod people;
pub mod rows;
pub mod tokens;
pub mod wire;

/// One decoder, and what must hold of it.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: of the fuzzer's binary and of the directory of its corpus.
    pub name: &'static str,
    /// Returns, whatever the bytes are. Panics if something does not hold.
    pub run: fn(&[u8]),
    /// Valid inputs, from which a corpus begins.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All targets.
pub const TARGETS: &[Target] = &[
    Target { name: "client_requests", run: wire::client_requests, seeds: wire::client_requests_seeds },
    Target { name: "client_replies", run: wire::client_replies, seeds: wire::client_replies_seeds },
    Target { name: "client_topology", run: wire::client_topology, seeds: wire::client_topology_seeds },
    Target { name: "error_details", run: wire::error_details, seeds: wire::error_details_seeds },
    Target { name: "peer_frames", run: wire::peer_frames, seeds: wire::peer_frames_seeds },
    Target { name: "peer_handshake", run: wire::peer_handshake, seeds: wire::peer_handshake_seeds },
    Target { name: "raft_messages", run: wire::raft_messages, seeds: wire::raft_messages_seeds },
    Target { name: "log_entries", run: wire::log_entries, seeds: wire::log_entries_seeds },
    Target { name: "log_segments", run: disk::log::run, seeds: disk::log::seeds },
    Target { name: "checkpoints", run: disk::checkpoint::run, seeds: disk::checkpoint::seeds },
    Target { name: "identity", run: disk::identity::run, seeds: disk::identity::seeds },
    Target { name: "engine_rows", run: disk::engine::run, seeds: disk::engine::seeds },
    Target { name: "shard_rows", run: rows::shard, seeds: rows::shard_seeds },
    Target { name: "meta_rows", run: rows::meta, seeds: rows::meta_seeds },
    Target { name: "tokens", run: tokens::run, seeds: tokens::seeds },
    Target { name: "rest", run: people::rest::run, seeds: people::rest::seeds },
    Target { name: "config", run: people::config, seeds: people::config_seeds },
    Target { name: "import_lines", run: people::import_lines, seeds: people::import_lines_seeds },
];

/// The target of this name.
///
/// # Panics
/// There is none.
#[must_use]
pub fn target(name: &str) -> Target {
    *TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("there is no target {name}"))
}
