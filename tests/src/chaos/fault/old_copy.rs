//! An old copy of a node's disk is put back, as from a backup.
//!
//! The node has voted and acknowledged since. It must not be believed: it would do both again, differently.

use std::path::PathBuf;

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};
use rand::RngExt as _;

use super::{Fault, Kind, Part, USUAL};
use crate::chaos::{command::line, health, world::World};

pub(super) const OLD_COPY: Kind = Kind {
    name: "old-copy",
    right: "a node with an old copy of its disk is refused and stops; with the right one it is welcome again",
    claims: &[Part::Disk, Part::Process],
    lasts_ms: 500..=2000,
    may_end: true,
    make: |victims, random| Box::new(OldCopy { victim: victims[0], starts: random.random_range(1..=2) }),
    ..USUAL
};

struct OldCopy {
    victim: usize,
    /// How often the node starts after the copy was made.
    starts: u32,
}

impl OldCopy {
    fn copy(&self, world: &World) -> PathBuf {
        world.machine(self.victim).disk.path().join("old-copy")
    }

    async fn take(&self, world: &World) -> Result<()> {
        let machine = world.machine(self.victim);
        machine.stop().await?;
        line(&format!("cp -a {} {}", machine.data_dir().display(), self.copy(world).display())).await?;
        for start in 0..self.starts {
            if start > 0 {
                machine.stop().await?;
            }
            machine.start().await;
            if let Err(why) = health::ready(machine).await {
                world.violation(format!("after a copy of its disk was made: {why}"));
            }
        }
        Ok(())
    }

    async fn put_back(&self, world: &World) -> Result<()> {
        let machine = world.machine(self.victim);
        machine.stop().await?;
        let (data, newest) = (machine.data_dir(), machine.disk.path().join("newest"));
        line(&format!("mv {} {}", data.display(), newest.display())).await?;
        line(&format!("mv {} {}", self.copy(world).display(), data.display())).await?;
        machine.start().await;
        if machine.ended().await.is_err() {
            world.violation(format!(
                "{} goes on with an old copy of its disk, made {} starts before",
                machine.name, self.starts
            ));
            machine.kill().await;
        }
        line(&format!("rm -r {}", data.display())).await?;
        line(&format!("mv {} {}", newest.display(), data.display())).await?;
        machine.start().await;
        Ok(())
    }
}

impl Fault for OldCopy {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.take(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.put_back(world).boxed_local()
    }
}
