//! Seeded mutations, for the ordinary tests: what a fuzzer does, without what it learns.

use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

/// The longest input that mutations make, in bytes.
const BYTES_MAX: usize = 16 << 10;

/// Makes inputs from others. The same seed makes the same ones.
#[derive(Debug)]
pub struct Mutator(StdRng);

impl Mutator {
    /// Of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(StdRng::seed_from_u64(seed))
    }

    /// One of the inputs, changed in a few places, and sometimes continued with another one.
    ///
    /// # Panics
    /// There are no inputs.
    pub fn next(&mut self, inputs: &[Vec<u8>]) -> Vec<u8> {
        let mut made = self.pick(inputs).clone();
        if self.0.random_bool(0.1) {
            let other = self.pick(inputs).clone();
            made.truncate(self.place(made.len()));
            made.extend_from_slice(&other[self.place(other.len())..]);
        }
        for _ in 0..self.0.random_range(1..=4) {
            self.change(&mut made);
        }
        made.truncate(BYTES_MAX);
        made
    }

    fn pick<'a>(&mut self, inputs: &'a [Vec<u8>]) -> &'a Vec<u8> {
        &inputs[self.0.random_range(0..inputs.len())]
    }

    /// A place in so many bytes, their end included.
    fn place(&mut self, length: usize) -> usize {
        self.0.random_range(0..=length)
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.place(bytes.len());
        match self.0.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => {
                let mut noise = vec![0; self.0.random_range(1..16)];
                self.0.fill_bytes(&mut noise);
                bytes.splice(at..at, noise);
            }
            2 => {
                let to = at + self.place(bytes.len() - at).min(16);
                bytes.drain(at..to);
            }
            3 => {
                let to = at + self.place(bytes.len() - at);
                let copy = bytes[at..to].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let bit = self.0.random_range(0..8);
                let interesting = [0x00, 0x01, 0x7f, 0x80, 0xff][self.0.random_range(0..5)];
                let flips = self.0.random_bool(0.5);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = if flips { *byte ^ (1 << bit) } else { interesting };
                }
            }
        }
    }
}
