//! Nodes that don't hear some of the others.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};

use super::{Fault, Kind, Part, USUAL, Victims};
use crate::chaos::world::World;

pub(super) const PAIR: Kind = Kind {
    name: "pair",
    right: "two nodes that don't hear each other: progress wherever a majority is mutually connected, no livelock",
    victims: Victims::Some(2),
    claims: &[Part::Network],
    lasts_ms: 3000..=6000,
    make: |victims, _| {
        let victims = victims.to_vec();
        Box::new(Rules::new(move |_| pairs(&victims[..1], &victims[1..])))
    },
    ..USUAL
};

pub(super) const ONE_WAY: Kind = Kind {
    name: "one-way",
    right: "one hears the other but not the reverse: no livelock, leaders that can't be heard give way",
    make: |victims, _| {
        let (deaf, mute) = (victims[0], victims[1]);
        Box::new(Rules::new(move |_| vec![(deaf, mute)]))
    },
    ..PAIR
};

pub(super) const HALVES: Kind = Kind {
    name: "halves",
    right: "two of the nodes against the others: a minority refuses within the deadline, a majority serves",
    make: |victims, _| {
        let victims = victims.to_vec();
        Box::new(Rules::new(move |nodes| {
            let others: Vec<usize> = (0..nodes).filter(|node| !victims.contains(node)).collect();
            pairs(&victims, &others)
        }))
    },
    ..PAIR
};

pub(super) const BRIDGE: Kind = Kind {
    name: "bridge",
    right: "two halves that only one node hears both of: whoever has a majority serves, no livelock",
    victims: Victims::All,
    make: |victims, _| {
        let order = victims.to_vec();
        Box::new(Rules::new(move |_| {
            let (one, rest) = order.split_at(order.len() / 2);
            // The first of the rest is the bridge.
            pairs(one, rest.get(1..).unwrap_or_default())
        }))
    },
    ..PAIR
};

/// Both ways between all of one side and all of the other.
fn pairs(one: &[usize], other: &[usize]) -> Vec<(usize, usize)> {
    one.iter().flat_map(|&a| other.iter().flat_map(move |&b| [(a, b), (b, a)])).collect()
}

/// Who doesn't hear whom, by rules in the packet filters.
pub(super) struct Rules {
    /// The pairs, deaf one first, for so many nodes.
    cuts: Box<dyn Fn(usize) -> Vec<(usize, usize)>>,
}

impl Rules {
    pub(super) fn new(cuts: impl Fn(usize) -> Vec<(usize, usize)> + 'static) -> Self {
        Self { cuts: Box::new(cuts) }
    }

    fn all(&self, world: &World) -> Vec<(usize, String)> {
        let cuts = (self.cuts)(world.machines.len());
        let rule = |mute: usize| format!("INPUT -s {} -j DROP", world.machine(mute).host.address());
        cuts.into_iter().map(|(deaf, mute)| (deaf, rule(mute))).collect()
    }

    async fn add(&self, world: &World) -> Result<()> {
        for (deaf, rule) in self.all(world) {
            world.machine(deaf).host.add_rule(&rule).await?;
        }
        Ok(())
    }

    async fn remove(&self, world: &World) -> Result<()> {
        for (deaf, rule) in self.all(world) {
            world.machine(deaf).host.remove_rule(&rule).await?;
        }
        Ok(())
    }
}

impl Fault for Rules {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.add(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.remove(world).boxed_local()
    }
}
