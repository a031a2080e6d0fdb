//! A machine that loses its disk and gets an empty one.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};

use super::{Fault, Kind, Part, USUAL};
use crate::chaos::world::World;

pub(super) const EMPTY_DISK: Kind = Kind {
    name: "empty-disk",
    right: "it is not taken for the node that it was: it joins as a new one and takes the old one's place",
    claims: &[Part::Disk, Part::Process],
    lasts_ms: 500..=2000,
    destroys: true,
    make: |victims, _| Box::new(EmptyDisk { victims: victims.to_vec() }),
    ..USUAL
};

struct EmptyDisk {
    victims: Vec<usize>,
}

impl EmptyDisk {
    async fn replace(&self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            world.machine(victim).kill().await;
            world.machine(victim).disk.replace().await?;
        }
        Ok(())
    }

    async fn start(&self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            world.machine(victim).start().await;
        }
        Ok(())
    }
}

impl Fault for EmptyDisk {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.replace(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.start(world).boxed_local()
    }
}
