//! The client against a cluster that does as it is told.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on says why and stops")]

mod chaos;
mod fake;
mod faults;
mod leases;
mod locks;
mod namespaces;
mod ranges;
mod reads;
mod requests;
mod txns;
mod watches;
