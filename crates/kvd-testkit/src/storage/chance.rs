//! What is left to chance, from a seed: the same on every machine, for ever.

/// `SplitMix64`.
#[derive(Clone, Debug)]
pub(super) struct Chance(u64);

impl Chance {
    /// Chance of its own for whatever the numbers name.
    pub(super) fn of(numbers: &[u64]) -> Self {
        let mut chance = Self(0);
        for number in numbers {
            chance.0 ^= *number;
            chance.0 = chance.next();
        }
        chance
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From 0 up to, and not including, a number.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Once in so many times.
    pub(super) fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}
