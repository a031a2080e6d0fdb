//! A disk that does nothing for a while: no write, no sync ends.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};

use super::{Fault, Kind, Need, Part, USUAL};
use crate::chaos::world::World;

pub(super) const STALL: Kind = Kind {
    name: "disk-stall",
    right: "leaders move off the node; shards that are not on it don't notice",
    // A process that waits for its disk can't be killed.
    claims: &[Part::Disk, Part::Process],
    needs: &[Need { what: "fsfreeze", package: "util-linux" }],
    lasts_ms: 3000..=6000,
    make: |victims, _| Box::new(Stall { victims: victims.to_vec() }),
    ..USUAL
};

struct Stall {
    victims: Vec<usize>,
}

impl Stall {
    async fn freeze(&self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            world.machine(victim).disk.freeze().await?;
        }
        Ok(())
    }

    async fn thaw(&self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            world.machine(victim).disk.thaw().await?;
        }
        Ok(())
    }
}

impl Fault for Stall {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.freeze(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.thaw(world).boxed_local()
    }
}
