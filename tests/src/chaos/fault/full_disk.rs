//! A disk without a byte to spare, and later with room again.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};

use super::{Fault, Kind, Need, Part, USUAL};
use crate::chaos::world::World;

pub(super) const FULL_DISK: Kind = Kind {
    name: "full-disk",
    right: "the node's writes are refused or led elsewhere, and it recovers without a restart once there is room",
    claims: &[Part::Disk, Part::Process],
    needs: &[Need { what: "fallocate", package: "util-linux" }],
    lasts_ms: 3000..=8000,
    make: |victims, _| Box::new(FullDisk { victims: victims.to_vec() }),
    ..USUAL
};

struct FullDisk {
    victims: Vec<usize>,
}

impl FullDisk {
    async fn fill(&self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            world.machine(victim).disk.fill().await?;
        }
        Ok(())
    }

    async fn free(&self, world: &World) -> Result<()> {
        self.victims.iter().try_for_each(|&victim| world.machine(victim).disk.free())
    }
}

impl Fault for FullDisk {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.fill(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.free(world).boxed_local()
    }
}
