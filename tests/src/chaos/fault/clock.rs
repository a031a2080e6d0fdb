//! A wall clock that jumps, forwards or backwards, and back again. The clock that only measures time stays true.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};
use rand::RngExt as _;

use super::{Fault, Kind, Need, Part, USUAL};
use crate::chaos::world::World;

/// Farthest jump, in seconds.
const JUMP_MAX_S: i64 = 3600;

pub(in crate::chaos) const CLOCK: Kind = Kind {
    name: "clock",
    right: "no effect on correctness",
    claims: &[Part::Clock],
    needs: &[Need { what: "faketime", package: "faketime" }],
    make: |victims, random| {
        let jumps = victims.iter().map(|&victim| (victim, random.random_range(-JUMP_MAX_S..=JUMP_MAX_S)));
        Box::new(Clock { jumps: jumps.collect() })
    },
    ..USUAL
};

struct Clock {
    jumps: Vec<(usize, i64)>,
}

impl Clock {
    async fn jump(&self, world: &World) -> Result<()> {
        self.jumps.iter().try_for_each(|&(victim, ahead_s)| world.machine(victim).set_clock(ahead_s))
    }

    async fn jump_back(&self, world: &World) -> Result<()> {
        self.jumps.iter().try_for_each(|&(victim, _)| world.machine(victim).set_clock(0))
    }
}

impl Fault for Clock {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.jump(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.jump_back(world).boxed_local()
    }
}
