//! `kill -9`, of one node or of all at once, and a start some time later.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};

use super::{Fault, Kind, USUAL, Victims};
use crate::chaos::world::World;

pub(super) const ONE: Kind = Kind {
    name: "kill",
    right: "no acknowledged write is lost; the others lead within two election timeouts",
    make: |victims, _| Box::new(Kill { victims: victims.to_vec() }),
    ..USUAL
};

pub(super) const ALL: Kind = Kind {
    name: "kill-all",
    right: "no acknowledged write is lost; it serves again after a restart",
    victims: Victims::All,
    lasts_ms: 200..=1000,
    ..ONE
};

struct Kill {
    victims: Vec<usize>,
}

impl Kill {
    async fn kill(&self, world: &World) -> Result<()> {
        futures::future::join_all(self.victims.iter().map(|&victim| world.machine(victim).kill())).await;
        Ok(())
    }

    async fn start(&self, world: &World) -> Result<()> {
        futures::future::join_all(self.victims.iter().map(|&victim| world.machine(victim).start())).await;
        Ok(())
    }
}

impl Fault for Kill {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.kill(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.start(world).boxed_local()
    }
}
