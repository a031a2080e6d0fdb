//! What is left to chance, from a seed: the same on every machine and with every version of every library, so that a seed
//! which found something finds it for ever. Libraries' generators promise that only for as long as their version stays.

/// `SplitMix64` (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
#[derive(Clone, Debug)]
pub struct Chance(pub(super) u64);

impl Chance {
    /// Chance of its own for whatever the numbers name.
    #[must_use]
    pub fn of(numbers: &[u64]) -> Self {
        let mut chance = Self(0);
        for number in numbers {
            chance.0 ^= *number;
            chance.0 = chance.next();
        }
        chance
    }

    /// A number.
    #[expect(
        clippy::should_implement_trait,
        reason = "it has no end, which an iterator's callers must be able to expect"
    )]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// From 0 up to, and not including, a number.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }

    /// Once in so many times.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub(super) fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// From 0 up to and including a number.
    pub(super) fn up_to(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % (most as u64).saturating_add(1)).unwrap_or(most)
    }
}

/// What the generator's state grows by with each number.
pub const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// The number that a state of the generator stands for.
#[must_use]
pub const fn mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
