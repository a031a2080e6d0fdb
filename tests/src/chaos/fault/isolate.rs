//! A node that nobody reaches: its cable is pulled. Or one that only its peers don't reach, while clients still ask it:
//! an old leader that answers them shows here.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};

use super::{Fault, Kind, Part, USUAL, partition::Rules};
use crate::chaos::world::World;

pub(super) const ISOLATE: Kind = Kind {
    name: "isolate",
    right: "the others lead; the node refuses, or does not answer, until it is back",
    claims: &[Part::Network],
    lasts_ms: 2500..=5000,
    make: |victims, _| Box::new(Isolate { victims: victims.to_vec() }),
    ..USUAL
};

pub(super) const CUT_OFF: Kind = Kind {
    name: "cut-off",
    right: "a leader without its peers answers no read and acknowledges no write, though clients reach it",
    make: |victims, _| {
        let victims = victims.to_vec();
        Box::new(Rules::new(move |nodes| {
            let others = move |victim: usize| (0..nodes).filter(move |&other| other != victim);
            victims
                .iter()
                .flat_map(|&victim| others(victim).flat_map(move |it| [(victim, it), (it, victim)]))
                .collect()
        }))
    },
    ..ISOLATE
};

struct Isolate {
    victims: Vec<usize>,
}

impl Isolate {
    async fn set_cables(&self, world: &World, plugged: bool) -> Result<()> {
        for &victim in &self.victims {
            world.machine(victim).host.set_cable(plugged).await?;
        }
        Ok(())
    }
}

impl Fault for Isolate {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.set_cables(world, false).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.set_cables(world, true).boxed_local()
    }
}
