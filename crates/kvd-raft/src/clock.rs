//! The seam between groups and the wall clock.
//!
//! Only proposals read it: the leader's reading goes into the log entry, and the state machine raises it above every
//! revision given before, so a clock that jumps can't break anything but the meaning of revisions as times.

use std::time::{SystemTime, UNIX_EPOCH};

/// Tells the time of day.
pub trait Clock: Send + Sync + 'static {
    /// Milliseconds since the Unix epoch.
    fn unix_ms(&self) -> u64;
}

/// The operating system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn unix_ms(&self) -> u64 {
        // A clock set before 1970 reads as 1970: revisions still grow, by the state machine's rule.
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX)
    }
}
