//! When the node's own loops look again.
//!
//! They look at what nobody tells them of a few times per second. Each wake-up of the processor costs more than what is then
//! looked at, so the loops rest until moments that they share: the multiples of their intervals, counted from the node's start.

use std::time::Duration;

use super::Node;

impl Node {
    /// Rests until the next multiple of an interval.
    pub(super) async fn rest(&self, interval: Duration) {
        tokio::time::sleep(until_next(self.started.elapsed(), interval)).await;
    }
}

/// How long it is to the next multiple of an interval: never more than the interval, and nothing only if that is nothing.
fn until_next(elapsed: Duration, interval: Duration) -> Duration {
    let into = elapsed.as_nanos().checked_rem(interval.as_nanos()).unwrap_or(0);
    interval.saturating_sub(Duration::from_nanos(u64::try_from(into).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_wake_together() {
        let ms = Duration::from_millis;
        assert_eq!(until_next(ms(0), ms(100)), ms(100));
        assert_eq!(until_next(ms(1), ms(100)), ms(99));
        assert_eq!(until_next(ms(1), ms(500)), ms(499));
        assert_eq!(until_next(ms(499), ms(100)), ms(1));
        assert_eq!(until_next(ms(499), ms(500)), ms(1));
        assert_eq!(until_next(ms(500), ms(500)), ms(500));
        assert_eq!(until_next(ms(7), Duration::ZERO), Duration::ZERO);
    }
}
