//! A network that loses packets, of one node, in both directions.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};
use rand::RngExt as _;

use super::{Fault, Kind, Part, USUAL};
use crate::chaos::world::World;

pub(super) const LOSS: Kind = Kind {
    name: "loss",
    right: "correct, and retries never apply twice",
    claims: &[Part::Network],
    lasts_ms: 3000..=6000,
    make: |victims, random| {
        Box::new(Loss { victims: victims.to_vec(), percent: random.random_range(5..=40) })
    },
    ..USUAL
};

struct Loss {
    victims: Vec<usize>,
    percent: u32,
}

impl Loss {
    fn rules(&self) -> [String; 2] {
        ["INPUT", "OUTPUT"].map(|chain| {
            format!("{chain} -m statistic --mode random --probability 0.{:02} -j DROP", self.percent)
        })
    }

    async fn add(&self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            for rule in self.rules() {
                world.machine(victim).host.add_rule(&rule).await?;
            }
        }
        Ok(())
    }

    async fn remove(&self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            for rule in self.rules() {
                world.machine(victim).host.remove_rule(&rule).await?;
            }
        }
        Ok(())
    }
}

impl Fault for Loss {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.add(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.remove(world).boxed_local()
    }
}
