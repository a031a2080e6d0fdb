//! An old copy of a node's disk is put back, as from a backup: one that was made while the node was stopped, or one that
//! was made in a moment while it ran.
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
    make: |victims, random| {
        let made = Made::Stopped { starts: random.random_range(1..=2) };
        Box::new(OldCopy { victim: victims[0], made })
    },
    ..USUAL
};

pub(super) const SNAPSHOT: Kind = Kind {
    name: "snapshot",
    right: "as old-copy, with a copy that was made in a moment while the node ran",
    make: |victims, _| Box::new(OldCopy { victim: victims[0], made: Made::Running }),
    ..OLD_COPY
};

/// How the copy was made.
#[derive(Debug)]
enum Made {
    /// While the node was stopped; it has started so often since.
    Stopped { starts: u32 },
    /// While the node ran, as all of the disk was at one moment.
    Running,
}

struct OldCopy {
    victim: usize,
    made: Made,
}

impl OldCopy {
    fn copy(&self, world: &World) -> PathBuf {
        world.dir.join(format!("{}-copy", world.machine(self.victim).name))
    }

    async fn copy_now(&self, world: &World) -> Result<()> {
        let data = world.machine(self.victim).data_dir();
        line(&format!("cp -a {} {}", data.display(), self.copy(world).display())).await.map(drop)
    }

    async fn take(&self, world: &World) -> Result<()> {
        let machine = world.machine(self.victim);
        match self.made {
            Made::Running => {
                machine.disk.freeze().await?;
                let copied = self.copy_now(world).await;
                machine.disk.thaw().await?;
                copied?;
            }
            Made::Stopped { starts } => {
                machine.stop().await?;
                self.copy_now(world).await?;
                for start in 0..starts {
                    if start > 0 {
                        machine.stop().await?;
                    }
                    machine.start().await;
                    if let Err(why) = health::ready(machine).await {
                        world.violation(format!("after a copy of its disk was made: {why}"));
                    }
                }
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
            world
                .violation(format!("{} goes on with an old copy of its disk: {:?}", machine.name, self.made));
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
