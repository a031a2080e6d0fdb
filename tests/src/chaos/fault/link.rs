//! A cable that carries little: what goes to the node waits, then is dropped.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};
use rand::RngExt as _;

use super::{Fault, Kind, Part, USUAL};
use crate::chaos::{command::line, world::World};

pub(super) const SLOW_LINK: Kind = Kind {
    name: "slow-link",
    right: "correct; heartbeats keep their way through, or leaders move off the node",
    claims: &[Part::Network],
    lasts_ms: 3000..=6000,
    make: |victims, random| {
        Box::new(SlowLink { victims: victims.to_vec(), kbit: random.random_range(64..=512) })
    },
    ..USUAL
};

struct SlowLink {
    victims: Vec<usize>,
    kbit: u32,
}

impl SlowLink {
    async fn add(&self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            let shaper = world.machine(victim).host.shaper("add");
            line(&format!("{shaper} tbf rate {}kbit burst 4kb latency 400ms", self.kbit)).await?;
        }
        Ok(())
    }

    async fn remove(&self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            line(&world.machine(victim).host.shaper("del")).await?;
        }
        Ok(())
    }
}

impl Fault for SlowLink {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.add(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.remove(world).boxed_local()
    }
}
