//! A node with hardly any processor time, by a quota of a control group of its own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use futures::{FutureExt as _, future::LocalBoxFuture};
use rand::RngExt as _;

use super::{Fault, Kind, USUAL};
use crate::chaos::{health, log::say, machine::Machine, world::World};

const PERIOD_US: u32 = 100_000;
/// Where the controllers are, in both versions of the interface.
const ROOT_V2: &str = "/sys/fs/cgroup";
const ROOT_V1: &str = "/sys/fs/cgroup/cpu";

pub(super) const FEW_CPU: Kind = Kind {
    name: "few-cpu",
    right: "heartbeats keep priority or leaders move off the node; correct",
    lasts_ms: 3000..=6000,
    make: |victims, random| {
        Box::new(FewCpu { victims: victims.to_vec(), percent: random.random_range(1..=6), homes: Vec::new() })
    },
    ..USUAL
};

struct FewCpu {
    victims: Vec<usize>,
    percent: u32,
    /// The group that each victim came from.
    homes: Vec<PathBuf>,
}

/// The root of the processor's groups, and whether it is that of the second version.
fn root() -> Result<(&'static Path, bool)> {
    if Path::new(ROOT_V2).join("cgroup.controllers").exists() {
        Ok((Path::new(ROOT_V2), true))
    } else if Path::new(ROOT_V1).join("cgroup.procs").exists() {
        Ok((Path::new(ROOT_V1), false))
    } else {
        bail!("there are no control groups for the processor below {ROOT_V2}")
    }
}

/// The group that a process is in.
fn home(process: u32) -> Result<PathBuf> {
    let (root, is_v2) = root()?;
    let groups = fs::read_to_string(format!("/proc/{process}/cgroup"))?;
    let path = groups.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let controllers = parts.next()?;
        let is_it = if is_v2 { controllers.is_empty() } else { controllers.split(',').any(|it| it == "cpu") };
        is_it.then(|| parts.next())?
    });
    Ok(root.join(path.with_context(|| format!("no group in {groups:?}"))?.trim_start_matches('/')))
}

fn group(machine: &Machine) -> Result<PathBuf> {
    Ok(root()?.0.join(machine.host.namespace()))
}

fn write(path: &Path, value: &str) -> Result<()> {
    fs::write(path, value).with_context(|| format!("{value} can't be written to {}", path.display()))
}

impl FewCpu {
    async fn begin(&mut self, world: &World) -> Result<()> {
        let (root, is_v2) = root()?;
        let quota_us = PERIOD_US / 100 * self.percent;
        for &victim in &self.victims {
            let machine = world.machine(victim);
            let group = group(machine)?;
            if is_v2 {
                write(&root.join("cgroup.subtree_control"), "+cpu")?;
            }
            fs::create_dir_all(&group)?;
            if is_v2 {
                write(&group.join("cpu.max"), &format!("{quota_us} {PERIOD_US}"))?;
            } else {
                write(&group.join("cpu.cfs_period_us"), &PERIOD_US.to_string())?;
                write(&group.join("cpu.cfs_quota_us"), &quota_us.to_string())?;
            }
            let process = machine.process_id().await?;
            self.homes.push(home(process)?);
            write(&group.join("cgroup.procs"), &process.to_string())?;
        }
        Ok(())
    }

    async fn end(&mut self, world: &World) -> Result<()> {
        for (&victim, home) in self.victims.iter().zip(&self.homes) {
            let machine = world.machine(victim);
            let stat = fs::read_to_string(group(machine)?.join("cpu.stat"))?;
            if stat.lines().any(|line| line == "nr_throttled 0") {
                // On a machine that is busy with something else it may not have got more than that anyway.
                let what =
                    format!("{} has not missed the processor time that was taken from it", machine.name);
                if !health::is_overloaded() {
                    bail!("{what}: {stat}");
                }
                say(&what);
            }
            write(&home.join("cgroup.procs"), &machine.process_id().await?.to_string())?;
            fs::remove_dir(group(machine)?)?;
        }
        Ok(())
    }
}

impl Fault for FewCpu {
    fn inject<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.begin(world).boxed_local()
    }

    fn heal<'a>(&'a mut self, world: &'a World) -> LocalBoxFuture<'a, Result<()>> {
        self.end(world).boxed_local()
    }
}
