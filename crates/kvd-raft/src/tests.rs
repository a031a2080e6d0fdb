//! The crate against openraft's own conformance suite, and groups against each other in one process.

mod applying;
mod calls;
mod conformance;
mod durability;
mod groups;
mod harness;
mod openings;
mod peers;
mod reads;
mod sleeping;
mod snapshots;
mod time;
