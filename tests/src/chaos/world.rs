//! Everything that faults act upon, and where they tell what they have seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    path::{Path, PathBuf},
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use kvd_client::{Client, Config};
use tokio::time::Instant;

use super::{
    disk, log,
    machine::{Machine, Setup},
    network::{self, Host},
};
use crate::wait::PATIENCE;

/// All machines, and what was found.
#[derive(Debug)]
pub(crate) struct World {
    /// The machines of the cluster.
    pub(crate) machines: Vec<Machine>,
    /// A machine that is not of the cluster.
    pub(crate) spare: Machine,
    /// Where everything is.
    pub(crate) dir: PathBuf,
    started: Instant,
    violations: Mutex<Vec<String>>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
    damaged: Mutex<BTreeSet<usize>>,
    has_failed: AtomicBool,
}

impl World {
    /// Makes the machines, after removing what an earlier run may have left in the same place.
    pub(crate) async fn make(dir: &Path, machines: u8, mut setup: Setup) -> Result<Self> {
        network::make(machines + 1).await?;
        disk::share(&dir.join("disks")).await?;
        let hosts: Vec<Host> = (1..=machines).map(Host).collect();
        let seeds: Vec<String> = hosts.iter().map(|host| host.endpoints()[1].to_string()).collect();
        setup.flags.push(("seeds", seeds.join(",")));
        let mut made = Vec::new();
        for host in hosts {
            made.push(Machine::make(host, dir, &setup).await?);
        }
        let spare = Machine::make(Host(machines + 1), dir, &setup).await?;
        Ok(Self {
            machines: made,
            spare,
            dir: dir.to_owned(),
            started: Instant::now(),
            violations: Mutex::default(),
            counts: Mutex::default(),
            damaged: Mutex::default(),
            has_failed: AtomicBool::new(false),
        })
    }

    /// Milliseconds since the world was made.
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// A machine, counted from zero.
    pub(crate) fn machine(&self, index: usize) -> &Machine {
        &self.machines[index]
    }

    /// A client of the cluster.
    pub(crate) async fn client(&self, config: impl Fn(Config) -> Config) -> Result<Client> {
        let deadline = Instant::now() + PATIENCE;
        let endpoints: Vec<String> = self.machines.iter().map(Machine::client_address).collect();
        loop {
            match Client::connect(config(Config::new(endpoints.clone()))).await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() > deadline => return Err(error.into()),
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            }
        }
    }

    /// Notes that something is not as it must be.
    pub(crate) fn violation(&self, what: impl Into<String>) {
        let what = what.into();
        log::say(&format!(
            "VIOLATION at {:.1} s: {what}",
            std::time::Duration::from_millis(self.now_ms()).as_secs_f64()
        ));
        self.violations.lock().unwrap().push(what);
    }

    /// All violations noted so far.
    pub(crate) fn violations(&self) -> Vec<String> {
        self.violations.lock().unwrap().clone()
    }

    /// Counts so many more of something.
    pub(crate) fn count(&self, what: &'static str, more: u64) {
        *self.counts.lock().unwrap().entry(what).or_default() += more;
    }

    /// How many of something were counted.
    pub(crate) fn counted(&self, what: &str) -> u64 {
        self.counts.lock().unwrap().get(what).copied().unwrap_or_default()
    }

    /// Notes that what a machine has stored is damaged: its node may meet that at any time, and end.
    pub(crate) fn mark_damaged(&self, index: usize) {
        self.damaged.lock().unwrap().insert(index);
    }

    /// Whether what a machine has stored may be damaged.
    pub(crate) fn is_damaged(&self, index: usize) -> bool {
        self.damaged.lock().unwrap().contains(&index)
    }

    /// Notes that a disk fails, or has failed.
    pub(crate) fn mark_failing(&self) {
        self.has_failed.store(true, Ordering::Relaxed);
    }

    /// Whether any disk has failed or may be damaged: requests that meet it may be told so.
    pub(crate) fn is_any_disk_bad(&self) -> bool {
        self.has_failed.load(Ordering::Relaxed) || !self.damaged.lock().unwrap().is_empty()
    }

    /// The ends of all nodes' logs, for whoever reads of a violation.
    pub(crate) fn ends_of_logs(&self, lines: usize) -> String {
        let mut shown = String::new();
        for machine in self.machines.iter().chain([&self.spare]) {
            let log = machine.log();
            let all: Vec<&str> = log.lines().collect();
            let end = all.get(all.len().saturating_sub(lines)..).unwrap_or_default();
            let _infallible = writeln!(
                shown,
                "---- {}, {} of {} lines\n{}",
                machine.name,
                end.len(),
                all.len(),
                end.join("\n")
            );
        }
        shown
    }
}

/// Removes all that a run makes outside of its directory.
pub(crate) async fn remove(dir: &Path) -> Result<()> {
    network::remove().await?;
    disk::unmount_all(dir).await
}
