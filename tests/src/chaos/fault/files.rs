//! A node that may hardly open another file or connection.

use std::fs;

use anyhow::{Context as _, Result};
use futures::{FutureExt as _, future::LocalBoxFuture};
use rand::RngExt as _;

use super::{Fault, Kind, Need, USUAL};
use crate::chaos::{command::line, world::World};

pub(super) const FEW_FILES: Kind = Kind {
    name: "few-files",
    right: "what can't be opened fails loudly; nothing that was acknowledged is lost",
    needs: &[Need { what: "prlimit", package: "util-linux" }],
    lasts_ms: 3000..=6000,
    // A log that can't open its next file has failed.
    may_end: true,
    make: |victims, random| {
        Box::new(FewFiles {
            victims: victims.to_vec(),
            spare: random.random_range(0..=3),
            limits: Vec::new(),
        })
    },
    ..USUAL
};

struct FewFiles {
    victims: Vec<usize>,
    /// How many more than it has open.
    spare: usize,
    /// What each victim was allowed before.
    limits: Vec<String>,
}

impl FewFiles {
    async fn begin(&mut self, world: &World) -> Result<()> {
        for &victim in &self.victims {
            let process = world.machine(victim).process_id().await?;
            let limit = format!("prlimit --pid {process} --nofile --output SOFT,HARD --noheadings --raw");
            self.limits.push(line(&limit).await?.trim().replace(' ', ":"));
            let open = fs::read_dir(format!("/proc/{process}/fd")).context("its open files")?.count();
            line(&format!("prlimit --pid {process} --nofile={}:", open + self.spare)).await?;
        }
        Ok(())
    }

    async fn end(&mut self, world: &World) -> Result<()> {
        for (&victim, limit) in self.victims.iter().zip(&self.limits) {
            // If it has ended, its next start has the usual limit.
            if let Ok(process) = world.machine(victim).process_id().await {
                line(&format!("prlimit --pid {process} --nofile={limit}")).await?;
            }
        }
        Ok(())
    }
}

impl Fault for FewFiles {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.begin(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.end(world).boxed_local()
    }
}
