//! One node after the other is asked to stop and started again, each once the one before is ready: an upgrade.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};

use super::{Fault, Kind, USUAL, Victims};
use crate::chaos::{health, world::World};

pub(super) const ROLLING: Kind = Kind {
    name: "rolling-restart",
    right: "leaders are handed over: hardly anybody notices, and nothing is lost",
    victims: Victims::All,
    lasts_ms: 0..=0,
    make: |victims, _| Box::new(Rolling { order: victims.to_vec() }),
    ..USUAL
};

struct Rolling {
    order: Vec<usize>,
}

impl Rolling {
    async fn restart(&self, world: &World) -> Result<()> {
        for &victim in &self.order {
            let machine = world.machine(victim);
            machine.stop().await?;
            machine.start().await;
            if let Err(why) = health::ready(machine).await {
                world.violation(format!("in a rolling restart: {why}"));
            }
        }
        Ok(())
    }
}

impl Fault for Rolling {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.restart(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, _world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        async { Ok(()) }.boxed_local()
    }
}
