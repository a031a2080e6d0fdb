//! What kvd promises, claimed of real processes. Each test is named for its claim.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails where it stands")]

mod availability;
mod bench;
mod catch_up;
mod corruption;
mod hostile;
mod identity;
mod kills;
mod kvctl;
mod local;
mod rest;
mod stopping;
mod watch;
mod wire;
