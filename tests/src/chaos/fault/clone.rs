//! A copy of a node's disk, started on another machine beside the node itself.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};

use super::{Fault, Kind, Part, USUAL};
use crate::chaos::{command::line, health, world::World};

pub(super) const CLONE: Kind = Kind {
    name: "clone",
    right: "one of the two is refused and stops; the healthy one goes on",
    claims: &[Part::Disk, Part::Process, Part::Spare],
    lasts_ms: 1000..=2000,
    make: |victims, _| Box::new(Clone { victim: victims[0] }),
    ..USUAL
};

struct Clone {
    victim: usize,
}

impl Clone {
    async fn start(&self, world: &World) -> Result<()> {
        let machine = world.machine(self.victim);
        machine.stop().await?;
        let (from, to) = (machine.data_dir(), world.spare.data_dir());
        line(&format!("cp -a {} {}", from.display(), to.display())).await?;
        machine.start().await;
        if let Err(why) = health::ready(machine).await {
            world.violation(format!("after a copy of its disk was made: {why}"));
        }
        world.spare.start().await;
        Ok(())
    }

    async fn check(&self, world: &World) -> Result<()> {
        let name = &world.machine(self.victim).name;
        if world.spare.ended().await.is_err() {
            world.violation(format!("a clone of {name} goes on beside it"));
            world.spare.kill().await;
        }
        line(&format!("rm -r {}", world.spare.data_dir().display())).await.map(drop)
    }
}

impl Fault for Clone {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.start(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.check(world).boxed_local()
    }
}
