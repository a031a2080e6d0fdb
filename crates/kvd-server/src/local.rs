//! `kvd local`: a whole cluster on this machine, of real processes with real disks.
//!
//! Each node is a child process, `kvd serve`, of the same binary, just as on machines of their own: what is tried here
//! holds there. Node *i* listens on three ports from the base port + 10 (*i* - 1) on: gRPC, peers, HTTP; on loopback only.
//!
//! ```text
//! DIR/local.lock       held while a cluster runs here
//! DIR/node-1/data/     the node's data directory
//! DIR/node-1/kvd.log   what it says
//! DIR/node-1/pid       its process, while it runs
//! ```
//!
//! # How it ends
//! - Told to stop, it asks every child to stop, waits, kills those that don't, and leaves the data: started again on the
//!   same directory, the cluster is the same.
//! - A child that dies is told of, with the command that starts it again by hand; with `--restart` it is started again
//!   here. When all have died, so does the parent.
//! - Should the parent itself be killed, its end of each child's standard input closes, and the children, started with
//!   `--stop-on-stdin-close`, stop by themselves: no process is left holding ports.
//! - Children are process groups of their own, so that Ctrl-C reaches the parent alone and they are stopped once, in order.
//!
//! # What is deliberately absent
//! No faults, no load, no sandbox: those are the tests' affair.

use std::{
    ffi::OsString,
    io::Write,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

mod child;
mod directory;
mod plan;
mod ready;

pub use directory::Directory;
pub use plan::{NodePlan, Plan, command_text};

use child::Event;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Nodes; `None`: as many as the directory has, or [`NODES_DEFAULT`].
    pub nodes: Option<u16>,
    /// Where data, logs and pid files go.
    pub dir: PathBuf,
    /// The first node's gRPC port.
    pub base_port: u16,
    /// Shards of a new cluster.
    pub shards: Option<u32>,
    /// Replicas of each shard of a new cluster.
    pub replication_factor: Option<u32>,
    /// Start a child again that has died.
    pub restart: bool,
    /// The machine's cores, which the nodes share.
    pub cores: NonZeroUsize,
}

/// Nodes of a new cluster.
pub const NODES_DEFAULT: u16 = 3;
/// Most nodes on one machine.
pub const NODES_MAX: u16 = 32;
/// The first node's gRPC port, unless told otherwise.
pub const BASE_PORT_DEFAULT: u16 = 7400;

/// Why a local cluster can't be started or kept up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// More or fewer nodes than there can be.
    #[error("--nodes {0}: there can be 1 to {NODES_MAX}")]
    Nodes(u16),
    /// The ports would end beyond the last one.
    #[error("--base-port {base_port}: {nodes} nodes need ports up to {base_port} + {above}; choose one of at most {}", u16::MAX - above)]
    Ports {
        /// As asked for.
        base_port: u16,
        /// As asked for.
        nodes: u16,
        /// From the first port to the last one.
        above: u16,
    },
    /// The directory has a cluster of more nodes.
    #[error(
        "{dir} holds a cluster of {existing} nodes, and without some of them it may have no majority: start it with \
         --nodes {existing}, or another one in another --data-dir"
    )]
    FewerNodes {
        /// The directory.
        dir: String,
        /// Its nodes.
        existing: u16,
    },
    /// The directory can't be used.
    #[error("can't {what} {path}: {error}; choose a directory that can be written with --data-dir")]
    Directory {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: String,
        /// Why not.
        error: std::io::Error,
    },
    /// Another `kvd local` runs on the directory.
    #[error(
        "another `kvd local` runs on {0}; stop it, or choose another directory with --data-dir and other ports with --base-port"
    )]
    Running(String),
    /// A node's data is in use.
    #[error(
        "the data of node {node} is in use by another process{}; stop it, or choose another directory with --data-dir and \
         other ports with --base-port",
        pid.map_or_else(String::new, |pid| format!(" (process id {pid})"))
    )]
    InUse {
        /// The node.
        node: u16,
        /// Who uses it, where known.
        pid: Option<u32>,
    },
    /// A port is taken.
    #[error("port {port} of node {node} can't be had: {error}; choose other ports with --base-port")]
    Port {
        /// The port.
        port: u16,
        /// Whose it would be.
        node: u16,
        /// Why not.
        error: std::io::Error,
    },
    /// Every child has died.
    #[error("all nodes have ended; their logs are in {0}/node-*/kvd.log")]
    AllEnded(String),
    /// What is said can't be written.
    #[error("can't write to standard output: {0}")]
    Output(#[from] std::io::Error),
}

impl Error {
    /// Whether it was found out before anything was started.
    #[must_use]
    pub const fn is_refusal(&self) -> bool {
        !matches!(self, Self::AllEnded(_) | Self::Output(_))
    }
}

/// How often it is said what a cluster still waits for.
const PATIENCE: Duration = Duration::from_secs(15);

/// Starts the nodes of a plan, says when the cluster is ready, and keeps it until told to stop.
///
/// `program` is what the children run. What was asked for goes to `out`, everything else to `log`.
///
/// # Errors
/// A directory or port is in use (nothing is started then), or all children have died.
pub async fn run(
    program: &Path,
    plan: &Plan,
    directory: &Directory,
    stop: CancellationToken,
    out: &mut (dyn Write + Send),
    log: &mut (dyn Write + Send),
) -> Result<(), Error> {
    until_unused(plan, &stop, log).await?;
    if stop.is_cancelled() {
        return Ok(());
    }
    plan.check_ports()?;
    for node in &plan.nodes {
        directory.prepare(node)?;
    }
    let shown = directory.path().display();
    tell(log, &format!("starting {} nodes; data and logs are in {shown}/node-*", plan.nodes.len()));

    let (events, mut happened) = mpsc::channel(EVENTS_MAX);
    let mut keepers = JoinSet::new();
    for node in &plan.nodes {
        let (program, events) = (program.to_owned(), events.clone());
        keepers.spawn(child::keep(program, node.clone(), plan.restart, events, stop.clone()));
    }
    drop(events);
    let mut ready = Some(Box::pin(ready::all(&plan.nodes)));
    let mut look = tokio::time::interval_at(tokio::time::Instant::now() + PATIENCE, PATIENCE);
    let mut outcome = Ok(());
    loop {
        tokio::select! {
            () = wait(&mut ready) => {
                ready = None;
                let welcome = plan.welcome(directory.path());
                if let Err(error) = out.write_all(welcome.as_bytes()).and_then(|()| out.flush()) {
                    // Whoever waits for it would wait for ever. The nodes are stopped like any others.
                    outcome = Err(error.into());
                    stop.cancel();
                }
            }
            event = happened.recv() => match event {
                Some(event) => tell(log, &describe(&event, program)),
                None if stop.is_cancelled() => return outcome,
                None => return Err(Error::AllEnded(shown.to_string())),
            },
            _ = look.tick(), if ready.is_some() => {
                for (node, reason) in ready::missing(&plan.nodes).await {
                    tell(log, &format!("still waiting for node {node}: {reason}"));
                }
            }
        }
    }
}

/// Says a line to whoever looks on. That nobody does any more is no reason to end the nodes.
fn tell(log: &mut (dyn Write + Send), line: &str) {
    drop(log.write_all(format!("{line}\n").as_bytes()));
}

/// Waits until the children of an earlier start, whose parent was killed, have stopped.
async fn until_unused(
    plan: &Plan,
    stop: &CancellationToken,
    log: &mut (dyn Write + Send),
) -> Result<(), Error> {
    for node in &plan.nodes {
        let started = tokio::time::Instant::now();
        let mut said = false;
        while let Some(pid) = Directory::user(node)? {
            if started.elapsed() > child::STOP_TIMEOUT {
                return Err(Error::InUse { node: node.number, pid });
            }
            if !std::mem::replace(&mut said, true) {
                tell(log, &format!("waiting for node {} of an earlier start to stop", node.number));
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
        }
    }
    Ok(())
}

/// How often it is looked whether a directory is still in use.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Deaths that may wait to be told of; those who report them wait beyond it.
const EVENTS_MAX: usize = 64;

/// Waits for a future that may be over already: then for ever.
async fn wait<F: Future<Output = ()> + Unpin>(future: &mut Option<F>) {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}

fn describe(event: &Event, program: &Path) -> String {
    match event {
        Event::Died { node, how, restarting_in: Some(pause) } => format!(
            "node {} has died ({how}); it is started again in {} s; its log is {}",
            node.number,
            pause.as_secs(),
            node.log_path().display()
        ),
        Event::Died { node, how, restarting_in: None } => format!(
            "node {} has died ({how}); its log is {}. Start it again by hand with:\n  {}",
            node.number,
            node.log_path().display(),
            command_text(program, &node.args)
        ),
        Event::Killed { node } => format!("node {} did not stop in time and was killed", node.number),
    }
}

/// A flag of `kvd serve` that is not for people: stop when standard input closes.
pub const STOP_ON_STDIN_CLOSE: &str = "stop-on-stdin-close";

/// The arguments that a child gets beside those of its plan.
fn child_args(node: &NodePlan) -> Vec<OsString> {
    let mut args = node.args.clone();
    args.push(format!("--{STOP_ON_STDIN_CLOSE}").into());
    args
}

#[cfg(test)]
mod tests;
