//! Clusters of real processes, for the tests beside it.
//!
//! # The problem
//! What a store promises shows only when its processes are killed, its disks changed and its ports taken. That can't be
//! had inside one process.
//!
//! # The approach
//! A [`Cluster`] is a number of `kvd serve` processes with data directories of their own on free loopback ports. A test
//! stops, kills, pauses and starts them as it likes, talks to them as users do, and looks at their logs and disks. When
//! it fails, the end of each process's log is shown. Nothing outlives the test: each process is killed when its handle
//! is dropped, and ends by itself should the test be killed, because its standard input closes then.
//!
//! A [`Record`] keeps what clients did and were told, and has it judged; [`Writers`] are such clients at work.
//!
//! # Invariants
//! - One cluster runs at a time on a machine, however many tests there are: see [`Turn`].
//! - Tests wait for conditions, with [`until`], and never for time to pass. Its deadline is generous: a test that runs
//!   into it has failed.
//! - The binaries are those of the sources: cargo brings them up to date first if they aren't, unless `KVD_BIN_DIR` says
//!   where they are.
//!
//! # What is deliberately absent
//! No faults of the network or of the disk while a process runs: those need machines of their own, and rights that a test
//! doesn't have. They are in [`chaos`], which is run by itself.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test's harness fails where it stands, and says so to whoever runs it"
)]

mod binaries;
pub mod chaos;
mod cluster;
mod http;
mod ledger;
mod node;
mod ports;
mod process;
mod turn;
mod wait;

pub use binaries::{kvctl, kvd, kvd_bench};
pub use cluster::{Builder, Cluster};
pub use http::{Answer, request};
pub use ledger::{Ledger, Record, Writers};
pub use node::Node;
pub use ports::free_ports;
pub use process::{Process, run, run_within, signal_process};
pub use turn::Turn;
pub use wait::{PATIENCE, until};
