//! Which keys are asked for: all as often as each other, or a few far more often than the rest.

use rand::{RngExt as _, rngs::SmallRng};
use rand_distr::Zipf;
use xxhash_rust::xxh3::xxh3_64;

use crate::cli::Choice;

/// The exponent that YCSB has.
const ZIPF_THETA: f64 = 0.99;

/// Draws the numbers of keys.
#[derive(Clone, Copy, Debug)]
pub(super) enum Keys {
    Even(u64),
    /// The rank is drawn (by rejection: no sum over all keys is ever made, so that millions cost what ten do) and hashed, as in
    /// YCSB, so that the keys that are asked for most don't stand side by side. As there, some keys share a rank's place and
    /// some have none.
    Zipf(u64, Zipf<f64>),
}

impl Keys {
    pub(super) fn new(choice: Choice, keys: u64) -> anyhow::Result<Self> {
        #[expect(clippy::cast_precision_loss, reason = "there are fewer keys than 53 bits can count")]
        let ranks = || Zipf::new(keys as f64, ZIPF_THETA);
        Ok(match choice {
            Choice::Even => Self::Even(keys),
            Choice::Zipf => Self::Zipf(keys, ranks()?),
        })
    }

    pub(super) fn draw(&self, random: &mut SmallRng) -> u64 {
        match self {
            Self::Even(keys) => random.random_range(0..*keys),
            Self::Zipf(keys, ranks) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a rank from 1 on"
                )]
                let rank = random.sample(ranks) as u64;
                xxh3_64(&rank.to_le_bytes()) % keys
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::SeedableRng as _;

    use super::*;

    const DRAWS: u32 = 100_000;

    fn draw(choice: Choice, keys: u64) -> BTreeMap<u64, u32> {
        let (chooser, mut random) = (Keys::new(choice, keys).unwrap(), SmallRng::seed_from_u64(7));
        let mut drawn = BTreeMap::new();
        for _ in 0..DRAWS {
            *drawn.entry(chooser.draw(&mut random)).or_default() += 1;
        }
        assert!(drawn.keys().all(|&key| key < keys));
        drawn
    }

    #[test]
    fn an_even_choice_has_no_favourite() {
        let drawn = draw(Choice::Even, 10);
        assert!(drawn.values().all(|&times| times > DRAWS / 12), "{drawn:?}");
    }

    #[test]
    fn a_zipfian_choice_has_the_favourite_that_the_law_gives_it_wherever_it_stands() {
        for keys in [1000, 10_000_000] {
            let drawn = draw(Choice::Zipf, keys);
            let (favourite, times) = drawn.iter().max_by_key(|(_, times)| **times).unwrap();
            // One in the sum of the first n terms of rank ^ -0.99.
            let sum: f64 =
                (1..=u32::try_from(keys).unwrap()).map(|rank| f64::from(rank).powf(-ZIPF_THETA)).sum();
            let share = f64::from(*times) / f64::from(DRAWS) * sum;
            assert!((0.9..1.2).contains(&share), "{keys} keys: {share}");
            assert!(*favourite > 1, "not where its rank is");
        }
    }
}
