//! Simulated clusters: the real server, the real client, a world that conspires against them, and one seed from which all
//! of it follows.
//!
//! # The problem
//! The bugs that lose data need three things to happen at once: a leader that is cut off while its successor's disk tears a
//! write and a client tries again. Real machines do this once a year. A simulation does it a thousand times an hour, and
//! again and again in the same way once it has.
//!
//! # The approach
//! All nodes, clients and the network between them live in one thread of one process, on turmoil, whose clock jumps from
//! event to event. Each node's process has a runtime of its own, so that it can be paused ([`process`]). A node is the real
//! one on a platform of ours: its network, disk, engine, clock and chance are simulated, its log is written when the
//! simulation says so, and what would wait for the disk on another thread is done in place. Faults overlap, drawn from the
//! seed: see [`fault`].
//!
//! A run has phases. The cluster forms; then faults rain on it while clients work, and nothing that was promised may be
//! broken; then all faults end, and within a bounded time the cluster must be whole, every client must get on and all replicas must be
//! equal, with no fault left to explain a stall. At last, when nobody has asked for anything in a while, so that groups may sleep,
//! a node that leads goes for good, and each of the others must give out all that was acknowledged. What nodes apply is held
//! against the invariants as it happens ([`witness`], [`invariant`]), what clients saw is checked at the end ([`crate::check`]).
//!
//! # Same seed, same run
//! The run's trace (what was applied where and when, what clients saw, every fault) is hashed, and the same seed gives the same hash.
//! That holds because the process draws all its randomness and time from the seed ([`entropy`]), so a process runs one
//! simulation.
//!
//! # What it deliberately does not do
//! - Threads: races between them are for the tests with real processes, and the real engine's crash safety is for the storage's.
//! - Reordering or duplication within a connection, which TCP rules out. Connections that are late bring both, each by itself.

use std::{collections::BTreeMap, time::Duration};

use rand::{SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

mod clients;
mod cluster;
pub mod entropy;
mod failpoints;
mod fault;
mod invariant;
mod network;
mod node;
mod process;
mod records;
mod witness;
mod workload;

use cluster::{Cluster, Shape};
use fault::Faults;
use witness::Witness;

use crate::{check, history::History};

/// Enough for the deepest of polls in a build without optimisation.
const STACK_BYTES: usize = 64 << 20;
/// How long a cluster may take to form.
const FORMS_WITHIN: Duration = Duration::from_secs(60);
/// How long after the last fault every client must have got on, and the cluster be whole; and how long after a leader's end all must
/// be readable again.
const RECOVERS_WITHIN: Duration = Duration::from_secs(60);
/// What every client must have had answered by then.
const PROGRESS: u64 = 5;
/// How long clients may take to end, and replicas to become equal.
const SETTLES_WITHIN: Duration = Duration::from_secs(30);
/// How long after the clients' end what has a lifetime may last: the longest there is, and twice as long again.
const LAPSES_WITHIN: Duration = Duration::from_secs(15);
/// Keys that are read at the end; of those of all the run, the last.
const FINAL_READS_MAX: usize = 60;

/// What to simulate.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// How long faults rain, in simulated time.
    pub faults_for: Duration,
    /// Keep the whole trace.
    pub keep_trace: bool,
}

/// What came of a run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Report {
    /// Its seed.
    pub seed: u64,
    /// How much time passed, in simulated milliseconds.
    pub simulated_ms: u64,
    /// Operations of clients.
    pub operations: u64,
    /// Those of them whose outcome stayed unknown.
    pub unknown: u64,
    /// Entries that nodes applied.
    pub entries_applied: u64,
    /// How often replicas fell asleep.
    pub slept: u64,
    /// What clients did that is recorded beside the history, by kind.
    pub recorded: BTreeMap<String, u64>,
    /// Faults, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Bits that flipped.
    pub bit_flips: u64,
    /// How often each failpoint was passed.
    pub failpoints: BTreeMap<String, u64>,
    /// From the last fault's end until every client had got on, in simulated milliseconds.
    pub progress_after_ms: u64,
    /// From the last fault's end until the cluster was whole, in simulated milliseconds.
    pub whole_after_ms: u64,
    /// Stands for all that happened.
    pub trace_hash: u64,
    /// What was broken.
    pub violations: Vec<String>,
}

/// The names of all failpoints that a run passes by.
#[must_use]
pub fn failpoints() -> Vec<&'static str> {
    failpoints::names().collect()
}

/// A finished run.
pub struct Run {
    /// What came of it.
    pub report: Report,
    /// What clients saw.
    pub history: History,
    /// All that happened, if it was to be kept.
    pub trace: Vec<String>,
}

/// Runs a simulation. Once in a process.
///
/// On a thread of its own, since hash maps draw their seed once for each thread, and this one may have drawn already.
///
/// # Errors
/// The thread can't be started.
///
/// # Panics
/// Something in the simulation panicked, which is a bug.
pub fn run(options: Options) -> std::io::Result<Run> {
    entropy::begin(options.seed, node::EPOCH_MS * 1_000_000);
    let thread = std::thread::Builder::new().name("simulation".to_owned()).stack_size(STACK_BYTES);
    match thread.spawn(move || run_here(options))?.join() {
        Ok(run) => Ok(run),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

#[expect(
    clippy::mem_forget,
    reason = "what still runs in the cluster must not go on without a world around it"
)]
fn run_here(options: Options) -> Run {
    let mut rng = StdRng::seed_from_u64(options.seed);
    let shape = Shape::draw(&mut rng);
    let witness = Witness::new(options.keep_trace);
    let mut cluster = Cluster::new(options.seed ^ 0x6b76_645f_7369_6d00, shape, witness);
    let mut report = Report { seed: options.seed, ..Report::default() };
    tracing::info!(?shape, "a simulation begins");
    if let Err(what) = phases(options, &mut cluster, rng, &mut report) {
        cluster.witness.violated(what);
    }
    let history = cluster.clients.recorder.history();
    report.simulated_ms = millis(cluster.now());
    report.operations = history.operations.len() as u64;
    report.unknown = history.operations.iter().filter(|operation| operation.is_unknown()).count() as u64;
    report.entries_applied = cluster.witness.entries_applied();
    report.slept = cluster.witness.slept();
    report.bit_flips = cluster.bit_flips;
    report.failpoints = cluster.failpoints.counts();
    report.trace_hash = cluster.witness.trace_hash();
    report.violations = cluster.witness.violations();
    report.violations.extend(check::check(&history).violations.iter().map(ToString::to_string));
    report.violations.extend(cluster.clients.judge());
    report.recorded = cluster.clients.records.counts();
    let trace = cluster.witness.take_lines();
    std::mem::forget(cluster);
    Run { report, history, trace }
}

fn phases(options: Options, cluster: &mut Cluster, rng: StdRng, report: &mut Report) -> Result<(), String> {
    let shape = cluster.shape;
    let founders = shape.nodes - shape.late_nodes;
    wait(cluster, FORMS_WITHIN, "the cluster has not formed", |cluster| {
        cluster.clients.not_whole(shape, founders)
    })?;

    cluster.note(format_args!("faults begin"));
    let mut faults = Faults::new(rng, cluster.now());
    let until = cluster.now() + options.faults_for;
    while cluster.now() < until && !cluster.witness.has_violations() {
        cluster.step()?;
        faults.turn(cluster);
    }
    faults.end_all(cluster);
    report.faults = faults.counts.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect();
    for index in 0..cluster.nodes.len() {
        cluster.cell(index).state.lock().is_wanted = true;
        cluster.start(index);
    }

    cluster.note(format_args!("faults have ended"));
    let healed = cluster.now();
    let before = cluster.clients.answered();
    wait(cluster, RECOVERS_WITHIN, "clients don't get on, and no fault is left", |cluster| {
        stalled(cluster, &before)
    })?;
    report.progress_after_ms = millis(cluster.now() - healed);
    wait(cluster, RECOVERS_WITHIN, "the cluster is not whole, and no fault is left", |cluster| {
        if cluster.is_settled() {
            cluster.clients.not_whole(shape, shape.nodes)
        } else {
            Some("a node is down".to_owned())
        }
    })?;
    report.whole_after_ms = millis(cluster.now() - healed);

    cluster.clients.stop();
    wait(cluster, SETTLES_WITHIN, "clients don't end", |cluster| {
        let working = cluster.clients.working();
        (working > 0).then(|| format!("{working} are still at work"))
    })?;
    wait(cluster, SETTLES_WITHIN, "replicas are not equal, and nobody writes", |cluster| {
        cluster.clients.not_equal()
    })?;
    wait(cluster, LAPSES_WITHIN, "what was to lapse, and nothing else, is not gone", |cluster| {
        cluster.clients.not_as_left()
    })?;
    read_without_a_leader(cluster, report)?;
    match cluster.clients.key_with_two_owners() {
        Some(key) => Err(format!("key {key} has two owners")),
        None => Ok(()),
    }
}

/// Leaves groups the time to fall asleep, takes a leader's node away and has the last keys and a scan read through each of the
/// others: what was acknowledged is on those that are left, they have to notice by themselves that somebody is missing, and each
/// has to find who leads now.
fn read_without_a_leader(cluster: &mut Cluster, report: &mut Report) -> Result<(), String> {
    let until = cluster.now() + fault::gone::asleep_after(cluster.shape);
    while cluster.now() < until {
        cluster.step()?;
    }
    let (gone, what) = fault::gone::take_leader_away(cluster);
    cluster.note(format_args!("begins: {}: {what}", fault::gone::NAME));
    *report.faults.entry(fault::gone::NAME.to_owned()).or_default() += 1;

    let left = (0..cluster.nodes.len()).filter(|&node| node != gone).collect();
    cluster.clients.ask_to_read(last_keys(&cluster.clients.recorder.history()), left);
    wait(cluster, RECOVERS_WITHIN, &format!("the last keys can't be read without {what}"), |cluster| {
        let node = cluster.clients.not_read_through()?;
        Some(format!("they have not been, through node {}", node + 1))
    })
}

/// Lets time pass until nothing is missing any more.
fn wait(
    cluster: &mut Cluster,
    within: Duration,
    what: &str,
    missing: impl Fn(&Cluster) -> Option<String>,
) -> Result<(), String> {
    let until = cluster.now() + within;
    loop {
        let Some(why) = missing(cluster) else { return Ok(()) };
        if cluster.witness.has_violations() {
            return Err("stopped at the violation".to_owned());
        }
        if cluster.now() >= until {
            return Err(format!("{what} within {within:?}: {why}"));
        }
        cluster.step()?;
    }
}

fn stalled(cluster: &Cluster, before: &[u64]) -> Option<String> {
    let now = cluster.clients.answered();
    let process = now.iter().zip(before).position(|(now, before)| *now < before + PROGRESS)?;
    Some(format!("process {process} has had no {PROGRESS} answers"))
}

fn last_keys(history: &History) -> Vec<String> {
    let mut keys = Vec::new();
    for operation in history.operations.iter().rev() {
        let key = String::from_utf8_lossy(operation.key.as_bytes()).into_owned();
        if !keys.contains(&key) {
            keys.push(key);
        }
        if keys.len() == FINAL_READS_MAX {
            break;
        }
    }
    keys
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
