//! What kvd promises, claimed of real processes. Each test is named for its claim.

#![expect(clippy::unwrap_used, reason = "a test fails where it stands")]

mod availability;
mod catch_up;
mod identity;
mod kills;
mod stopping;
