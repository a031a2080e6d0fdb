//! How long to wait before a retry: full jitter, after "Exponential Backoff And Jitter" (Brooker, 2015).
//!
//! The longest pause doubles with each failure; the actual one is drawn evenly from the shortest to the longest, so
//! that clients which failed together don't come back together.

use std::time::Duration;

/// The shortest pause.
const PAUSE_MIN: Duration = Duration::from_millis(5);
/// The longest first pause.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// The longest pause.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Counts failures in a row, and says how long to wait after each.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause after one more failure.
    pub(crate) fn pause(&mut self) -> Duration {
        let longest = PAUSE_FIRST.saturating_mul(1 << self.failures.min(16)).min(PAUSE_MAX);
        self.failures += 1;
        rand::random_range(PAUSE_MIN..=longest)
    }

    /// All is well again.
    pub(crate) const fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        let mut backoff = Backoff::default();
        assert!((PAUSE_MIN..=PAUSE_FIRST).contains(&backoff.pause()));
        let mut longest = Duration::ZERO;
        for _ in 0..1000 {
            let pause = backoff.pause();
            assert!((PAUSE_MIN..=PAUSE_MAX).contains(&pause), "{pause:?}");
            longest = longest.max(pause);
        }
        assert!(longest > PAUSE_FIRST);
        backoff.reset();
        assert!(backoff.pause() <= PAUSE_FIRST);
    }
}
