//! One machine: its place in the network, its disk, its clock, its boots, and the node that runs on it.
//!
//! The node sees a boot id of its own, mounted over the kernel's: a power cut changes it, as on a real machine, and
//! a kill doesn't.

use std::{fs, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use rand::RngExt as _;
use rustix::process::Signal;
use tokio::{
    sync::{Mutex, MutexGuard},
    task::block_in_place,
    time::{Instant, sleep},
};

use super::{disk::Disk, network::Host};
use crate::node::Node;

/// Starts what comes after it with another boot id. The process stays the same one through all of it.
const WITH_BOOT_ID: &str = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;
/// Where the directory of a node is on its disk. Not the root: a file system has entries of its own there.
const DATA_DIR: &str = "kvd";
/// How long a process may take to end when it should.
const END_DEADLINE: Duration = Duration::from_secs(40);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What all nodes are started with.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// Settings by their flags, without the dashes.
    pub(crate) flags: Vec<(&'static str, String)>,
    /// Libraries that come before the system's.
    pub(crate) preload: Vec<String>,
    /// Whether one of them lets wall clocks jump.
    pub(crate) clocks_jump: bool,
}

/// A machine.
#[derive(Debug)]
pub(crate) struct Machine {
    /// Its place in the network.
    pub(crate) host: Host,
    /// Its disk.
    pub(crate) disk: Disk,
    /// Its name, in logs and reports.
    pub(crate) name: String,
    node: Arc<Mutex<Node>>,
    boot_id: std::path::PathBuf,
    clock: std::path::PathBuf,
    log: std::path::PathBuf,
}

impl Machine {
    /// Makes a machine in a directory, with an empty disk and its node not started.
    pub(crate) async fn make(host: Host, dir: &Path, setup: &Setup) -> Result<Self> {
        let name = format!("node-{}", host.0);
        let disk = Disk::make(dir, &name).await?;
        let own = dir.join(&name);
        let mut node = Node::at(&name, own.clone(), disk.path().join(DATA_DIR), host.endpoints());
        let (boot_id, clock) = (own.join("boot_id"), own.join("clock"));
        let mut launcher: Vec<String> = host.entrance().split(' ').map(str::to_owned).collect();
        launcher.extend("unshare --mount --propagation slave sh -c".split(' ').map(str::to_owned));
        launcher.extend([WITH_BOOT_ID.to_owned(), boot_id.display().to_string()]);
        node.set_launcher(launcher);
        for (flag, value) in &setup.flags {
            node.set(flag, value);
        }
        node.set_variable("KVD_CLUSTER_TOKEN", "chaos");
        if !setup.preload.is_empty() {
            node.set_variable("LD_PRELOAD", &setup.preload.join(":"));
        }
        if setup.clocks_jump {
            node.set_variable("FAKETIME_TIMESTAMP_FILE", &clock.display().to_string());
            node.set_variable("FAKETIME_NO_CACHE", "1");
            node.set_variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        }
        let machine =
            Self { host, disk, name, node: Arc::new(Mutex::new(node)), boot_id, clock, log: own.join("log") };
        machine.boot()?;
        machine.set_clock(0)?;
        Ok(machine)
    }

    /// Gives it another boot id, as a start of the machine does. Its node must not run.
    fn boot(&self) -> Result<()> {
        let id: u128 = rand::rng().random();
        fs::write(&self.boot_id, format!("{id:032x}\n")).context("a boot id can't be written")
    }

    /// Sets its wall clock so many seconds ahead of, or behind, the host's.
    pub(crate) fn set_clock(&self, ahead_s: i64) -> Result<()> {
        // Replaced in one step: it is read all the time.
        let next = self.clock.with_extension("next");
        fs::write(&next, format!("{ahead_s:+}\n"))?;
        fs::rename(next, &self.clock).context("a clock can't be set")
    }

    /// Its node.
    pub(crate) async fn node(&self) -> MutexGuard<'_, Node> {
        self.node.lock().await
    }

    /// The node's data directory.
    pub(crate) fn data_dir(&self) -> std::path::PathBuf {
        self.disk.path().join(DATA_DIR)
    }

    /// Where the node's HTTP is.
    pub(crate) fn http_address(&self) -> std::net::SocketAddr {
        let [_client, _peer, http] = self.host.endpoints();
        http
    }

    /// Where clients reach it.
    pub(crate) fn client_address(&self) -> String {
        let [client, _peer, _http] = self.host.endpoints();
        client.to_string()
    }

    /// All that its node has said, in all its starts.
    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Starts its node, if it isn't running.
    pub(crate) async fn start(&self) {
        let mut node = self.node().await;
        if node.is_started() && !node.runs() {
            block_in_place(|| node.kill());
        }
        if !node.is_started() {
            node.start();
        }
    }

    /// Kills its node, as `kill -9` does, if it is running.
    pub(crate) async fn kill(&self) {
        let mut node = self.node().await;
        if node.is_started() {
            block_in_place(|| node.kill());
        }
    }

    /// Asks its node to stop, and waits until it has.
    pub(crate) async fn stop(&self) -> Result<()> {
        self.signal(Signal::TERM).await?;
        self.ended().await
    }

    /// Sends its node a signal.
    pub(crate) async fn signal(&self, signal: Signal) -> Result<()> {
        let mut node = self.node().await;
        ensure!(node.runs(), "{} does not run any more", self.name);
        node.process().signal(signal);
        Ok(())
    }

    /// The process of its node.
    pub(crate) async fn process_id(&self) -> Result<u32> {
        let mut node = self.node().await;
        ensure!(node.runs(), "{} does not run any more", self.name);
        Ok(node.process().id())
    }

    /// Whether its node has been started and runs.
    pub(crate) async fn runs(&self) -> bool {
        self.node().await.runs()
    }

    /// Waits until its node has ended.
    pub(crate) async fn ended(&self) -> Result<()> {
        let deadline = Instant::now() + END_DEADLINE;
        while self.runs().await {
            ensure!(Instant::now() < deadline, "{} has not ended within {END_DEADLINE:?}", self.name);
            sleep(LOOK_INTERVAL).await;
        }
        self.kill().await;
        Ok(())
    }

    /// Cuts its power: its disk fails from now on, and its node is gone.
    pub(crate) async fn cut_power(&self) -> Result<()> {
        self.disk.cut_power().await?;
        self.kill().await;
        Ok(())
    }

    /// Gives it power again, and starts its node.
    pub(crate) async fn power_on(&self) -> Result<()> {
        self.disk.power_on().await?;
        self.boot()?;
        self.start().await;
        Ok(())
    }
}
