//! A disk without a byte to spare, and later with room again. Sometimes the node is killed and started meanwhile.
//!
//! A store keeps some room for itself, so that a full disk is felt only once that is used up: large values are written all
//! the while.

use anyhow::Result;
use futures::{FutureExt as _, future::LocalBoxFuture};
use rand::RngExt as _;
use tokio::time::{Duration, sleep};
use tokio_util::task::AbortOnDropHandle;

use super::{Fault, Kind, Need, Part, USUAL};
use crate::chaos::world::World;

/// Of each large value.
const VALUE_BYTES: usize = 256 * 1024;
/// Keys that they are put to, so that the store doesn't grow. No history has them.
const KEYS: u32 = 100;
/// A node that doesn't start has ended by then.
const START_TIME: Duration = Duration::from_secs(3);
/// Large values under way at a time.
const WRITERS: u32 = 4;

pub(super) const FULL_DISK: Kind = Kind {
    name: "full-disk",
    right: "the node's writes are refused or led elsewhere, and it recovers without a restart once there is room",
    claims: &[Part::Disk, Part::Process],
    needs: &[Need { what: "fallocate", package: "util-linux" }],
    lasts_ms: 4000..=8000,
    make: |victims, random| {
        Box::new(FullDisk { victims: victims.to_vec(), is_restarted: random.random(), writers: Vec::new() })
    },
    ..USUAL
};

struct FullDisk {
    victims: Vec<usize>,
    /// Whether the nodes are killed and started while their disks are full.
    is_restarted: bool,
    writers: Vec<AbortOnDropHandle<()>>,
}

impl FullDisk {
    async fn fill(&mut self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            world.machine(victim).disk.fill().await?;
        }
        let client = world.client(|config| config).await?;
        for writer in 0..WRITERS {
            let client = client.clone();
            self.writers.push(AbortOnDropHandle::new(tokio::spawn(async move {
                for number in (writer..KEYS).step_by(WRITERS as usize).cycle() {
                    // Refused or not: it only has to be tried.
                    drop(client.put(format!("large/{number}"), vec![b'x'; VALUE_BYTES]).await);
                }
            })));
        }
        Ok(())
    }

    async fn free(&mut self, world: &World) -> Result<()> {
        if self.is_restarted {
            for &victim in &self.victims {
                let machine = world.machine(victim);
                machine.kill().await;
                machine.start().await;
                sleep(START_TIME).await;
                if !machine.runs().await {
                    world.violation(format!("{} does not start with a full disk", machine.name));
                    machine.start().await;
                }
            }
        }
        self.writers.clear();
        self.victims.iter().try_for_each(|&victim| world.machine(victim).disk.free())
    }
}

impl Fault for FullDisk {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.fill(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.free(world).boxed_local()
    }
}
