//! Power that is gone, for one machine or for all, and comes back.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};

use super::{Fault, Kind, Part, USUAL, Victims, XFS_IO};
use crate::chaos::world::World;

/// Counted per machine.
pub(crate) const COUNTED: &str = "power_cuts";

pub(in crate::chaos) const ONE: Kind = Kind {
    name: "power-cut",
    right: "no acknowledged write is lost; it comes back with what it had synced",
    claims: &[Part::Disk, Part::Process],
    needs: &[XFS_IO],
    lasts_ms: 200..=2000,
    // It sees its disk fail before it is gone.
    may_end: true,
    make: |victims, _| Box::new(PowerCut { victims: victims.to_vec() }),
    ..USUAL
};

pub(in crate::chaos) const ALL: Kind = Kind {
    name: "power-cut-all",
    right: "no acknowledged write is lost, though nobody has more than what was synced",
    victims: Victims::All,
    lasts_ms: 100..=500,
    ..ONE
};

struct PowerCut {
    victims: Vec<usize>,
}

impl PowerCut {
    async fn cut(&self, world: &World) -> Result<()> {
        world.mark_failing();
        let cuts = self.victims.iter().map(|&victim| world.machine(victim).cut_power());
        futures::future::try_join_all(cuts).await?;
        world.count(COUNTED, u64::try_from(self.victims.len())?);
        Ok(())
    }

    async fn power_on(&self, world: &World) -> Result<()> {
        let starts = self.victims.iter().map(|&victim| world.machine(victim).power_on());
        futures::future::try_join_all(starts).await.map(drop)
    }
}

impl Fault for PowerCut {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.cut(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.power_on(world).boxed_local()
    }
}
