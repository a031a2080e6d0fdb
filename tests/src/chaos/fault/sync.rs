//! Syncs that take long, or fail: `strace` stands between the node and the kernel.
//!
//! A failed sync fails once; were it asked for again, it would succeed, though what it should have brought to the
//! disk may be lost. So the node must stop at the first failure. Afterwards its disk loses its power, so that
//! what was acknowledged on the strength of a failed sync is gone.

use std::process::Command;

use anyhow::{Result, bail};
use futures::{FutureExt as _, future::LocalBoxFuture};
use rand::RngExt as _;
use rustix::process::Signal;

use super::{Fault, Kind, Part, STRACE, USUAL, XFS_IO};
use crate::{
    chaos::{machine::Machine, world::World},
    process::Process,
};

const SYNCS: &str = "fdatasync,fsync,sync_file_range,msync";

pub(super) const SLOW_SYNC: Kind = Kind {
    name: "slow-sync",
    right: "leaders move off the node or it is slow; shards that are not on it don't notice",
    claims: &[Part::Disk, Part::Process],
    needs: &[STRACE],
    lasts_ms: 3000..=6000,
    make: |victims, random| {
        Box::new(SlowSync {
            victims: victims.to_vec(),
            delay_us: random.random_range(20_000..=600_000),
            tracers: Vec::new(),
        })
    },
    ..USUAL
};

pub(super) const FAILED_SYNC: Kind = Kind {
    name: "failed-sync",
    right: "the node stops at once, and acknowledges nothing that was not synced",
    needs: &[STRACE, XFS_IO],
    lasts_ms: 1000..=2000,
    may_end: true,
    make: |victims, _| Box::new(FailedSync { victims: victims.to_vec(), tracers: Vec::new() }),
    ..SLOW_SYNC
};

/// Has a machine's syncs go through a tracer that does this to them.
async fn trace(world: &World, machine: &Machine, what: &str) -> Result<Process> {
    let mut command = Command::new("strace");
    command.args(["-qq", "-f", "-p", &machine.process_id().await?.to_string()]);
    command.args(["-e", &format!("trace={SYNCS}"), "-e", &format!("inject={SYNCS}:{what}")]);
    Ok(Process::start("strace", command, &world.dir.join(format!("{}-strace.log", machine.name))))
}

/// Lets a tracer take its hands off.
async fn detach(mut tracer: Process) {
    if tracer.ended().is_none() {
        tracer.signal(Signal::TERM);
    }
    tracer.wait().await;
}

struct SlowSync {
    victims: Vec<usize>,
    delay_us: u32,
    tracers: Vec<Process>,
}

impl SlowSync {
    async fn begin(&mut self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            let what = format!("delay_enter={}", self.delay_us);
            self.tracers.push(trace(world, world.machine(victim), &what).await?);
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        futures::future::join_all(self.tracers.drain(..).map(detach)).await;
        Ok(())
    }
}

impl Fault for SlowSync {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.begin(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, _world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.end().boxed_local()
    }
}

struct FailedSync {
    victims: Vec<usize>,
    tracers: Vec<Process>,
}

impl FailedSync {
    async fn begin(&mut self, world: &World) -> Result<()> {
        world.mark_failing();
        for &victim in &self.victims {
            self.tracers.push(trace(world, world.machine(victim), "error=EIO:when=1").await?);
        }
        Ok(())
    }

    async fn end(&mut self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            let machine = world.machine(victim);
            if machine.ended().await.is_err() {
                world.violation(format!("{} goes on after a sync has failed", machine.name));
            }
        }
        if let Some(tracer) = self.tracers.iter_mut().find(|tracer| tracer.log().contains("attach")) {
            bail!("strace could not attach: {}", tracer.log());
        }
        futures::future::join_all(self.tracers.drain(..).map(detach)).await;
        for &victim in &self.victims {
            let machine = world.machine(victim);
            machine.cut_power().await?;
            machine.power_on().await?;
        }
        Ok(())
    }
}

impl Fault for FailedSync {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.begin(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.end(world).boxed_local()
    }
}
