//! A process that stands still for longer than its lease and the others' election, and then goes on as if nothing had
//! happened.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};
use rustix::process::Signal;

use super::{Fault, Kind, USUAL};
use crate::chaos::world::World;

pub(super) const PAUSE: Kind = Kind {
    name: "pause",
    right: "an old leader that wakes answers nothing from its old leadership",
    make: |victims, _| Box::new(Pause { victims: victims.to_vec() }),
    ..USUAL
};

struct Pause {
    victims: Vec<usize>,
}

impl Pause {
    async fn signal(&self, world: &World, signal: Signal) -> Result<()> {
        for &victim in &self.victims {
            world.machine(victim).signal(signal).await?;
        }
        Ok(())
    }
}

impl Fault for Pause {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.signal(world, Signal::STOP).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.signal(world, Signal::CONT).boxed_local()
    }
}
