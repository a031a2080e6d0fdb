//! Bits that flip in the files of a node that is down.
//!
//! Its identity is spared: a node that doesn't know who it is needs a person, by design.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use futures::{FutureExt as _, future::LocalBoxFuture};
use rand::{Rng as _, RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{Fault, Kind, Part, USUAL};
use crate::chaos::world::World;

/// Counted per bit.
pub(crate) const COUNTED: &str = "bit_flips";

pub(in crate::chaos) const BIT_FLIPS: Kind = Kind {
    name: "bit-flips",
    right: "found, refused, or mended from the peers; never served",
    claims: &[Part::Disk, Part::Process],
    lasts_ms: 0..=1000,
    destroys: true,
    // It may meet the damage while it runs, stops, and mends it at the next start.
    may_end: true,
    make: |victims, random| {
        Box::new(BitFlips {
            victim: victims[0],
            flips: random.random_range(1..=20),
            random: StdRng::seed_from_u64(random.next_u64()),
        })
    },
    ..USUAL
};

struct BitFlips {
    victim: usize,
    flips: u32,
    random: StdRng,
}

impl BitFlips {
    async fn flip(&mut self, world: &World) -> Result<()> {
        let machine = world.machine(self.victim);
        machine.kill().await;
        let mut files = Vec::new();
        for dir in ["log", "state", "checkpoints"] {
            let mut found = Vec::new();
            list(&machine.data_dir().join(dir), &mut found)?;
            // A part of the store is as likely as another, however many files it has.
            found.sort();
            if !found.is_empty() {
                files.push(found);
            }
        }
        world.mark_damaged(self.victim);
        for _ in 0..self.flips {
            let dir = self.random.random_range(0..files.len());
            let file = self.random.random_range(0..files[dir].len());
            flip(&files[dir][file], &mut self.random)?;
            world.count(COUNTED, 1);
        }
        Ok(())
    }

    async fn start(&self, world: &World) -> Result<()> {
        world.machine(self.victim).start().await;
        Ok(())
    }
}

/// The files below a directory that hold anything.
fn list(dir: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            list(&entry.path(), found)?;
        } else if entry.metadata()?.len() > 0 {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// Flips one bit of a file, within what it holds: the zeros at its end are room for more.
fn flip(path: &Path, random: &mut StdRng) -> Result<()> {
    let mut bytes = fs::read(path)?;
    let end = bytes.iter().rposition(|&byte| byte != 0).map_or(bytes.len(), |last| last + 1);
    let at = random.random_range(0..end);
    bytes[at] ^= 1 << random.random_range(0..8);
    fs::write(path, bytes).with_context(|| path.display().to_string())
}

impl Fault for BitFlips {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.flip(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.start(world).boxed_local()
    }
}
