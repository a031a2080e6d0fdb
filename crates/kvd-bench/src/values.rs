//! Values to write.
//!
//! # The problem
//! Engines compress blocks of many rows. If the same value stood under many keys, gigabytes of values would be a fraction of that
//! on disk, and whoever compresses would look faster than it is.
//!
//! # The approach
//! Values are slices of one pool of bytes without a pattern, each from a place that is drawn for it: nothing is made or copied for a
//! request. Slices overlap now and then, but hardly ever within what an engine compresses at once: the pool is far larger.

use bytes::Bytes;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

const POOL_BYTES: usize = 16 * 1024 * 1024;

/// Values of one size.
#[derive(Clone)]
pub(crate) struct Values {
    pool: Bytes,
    bytes: usize,
}

impl Values {
    pub(crate) fn new(bytes: usize) -> Self {
        let mut pool = vec![0; POOL_BYTES + bytes];
        SmallRng::seed_from_u64(0).fill(&mut pool[..]);
        Self { pool: pool.into(), bytes }
    }

    pub(crate) fn draw(&self, random: &mut SmallRng) -> Bytes {
        let start = random.random_range(0..=POOL_BYTES);
        self.pool.slice(start..start + self.bytes)
    }

    /// Always the same for the same number.
    pub(crate) fn numbered(&self, number: u64) -> Bytes {
        self.draw(&mut SmallRng::seed_from_u64(number))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const COUNT: u64 = 10_000;

    #[test]
    fn values_differ_and_have_their_size() {
        for bytes in [16, 256, 64 * 1024] {
            let values = Values::new(bytes);
            let mut random = SmallRng::seed_from_u64(1);
            let drawn: BTreeSet<Bytes> = (0..COUNT).map(|_| values.draw(&mut random)).collect();
            let numbered: BTreeSet<Bytes> = (0..COUNT).map(|number| values.numbered(number)).collect();
            for different in [drawn, numbered] {
                assert!(different.iter().all(|value| value.len() == bytes), "{bytes}");
                // Two in 16 million places may be the same one.
                assert!(different.len() > 9_900, "{} of {bytes} bytes", different.len());
            }
        }
        assert_eq!(Values::new(0).numbered(1), Bytes::new());
    }
}
