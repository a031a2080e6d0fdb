//! What really happened: every entry that any node applied, every leader that any node heard, held against the invariants
//! as it happens. It believes no node's account of itself.

use std::{
    fmt,
    hash::Hasher as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use kvd_machine::{Machine, ShardStats};
use kvd_raft::observe::Observer;
use kvd_storage::{
    checkpoint::CheckpointStore,
    disk::{Crash, SimDisk},
};
use kvd_types::{Command, GroupId, LogIndex, Proposal, ReplicaId, Term};
use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use super::invariant::{self, Applied, Invariant, Purged, time::Counted};

/// Violations that are kept; those beyond are only counted.
const VIOLATIONS_KEPT: usize = 20;
/// Where a node keeps its replicas' checkpoints, below its data directory.
const CHECKPOINTS_DIR: &str = "checkpoints";

/// See the module.
pub(crate) struct Witness(Mutex<State>);

struct State {
    invariants: Vec<Box<dyn Invariant>>,
    violations: Vec<String>,
    violations_total: usize,
    entries_applied: u64,
    slept: u64,
    trace: Xxh3,
    lines: Option<Vec<String>>,
}

impl Witness {
    /// With `keep_lines` the whole trace is kept, not only its hash.
    pub(crate) fn new(keep_lines: bool) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            invariants: invariant::all(),
            violations: Vec::new(),
            violations_total: 0,
            entries_applied: 0,
            slept: 0,
            trace: Xxh3::new(),
            lines: keep_lines.then(Vec::new),
        })))
    }

    /// The watcher of one process of a node on its disk of that generation, with its data in that directory.
    pub(crate) fn observer(
        self: &Arc<Self>,
        node: usize,
        generation: u64,
        disk: SimDisk,
        data_dir: &Path,
    ) -> Arc<dyn Observer> {
        let checkpoints = data_dir.join(CHECKPOINTS_DIR);
        Arc::new(NodeObserver { witness: Arc::clone(self), node, generation, disk, checkpoints })
    }

    /// A process of a node has begun.
    pub(crate) fn started(&self, node: usize) {
        self.trace(format_args!("node {} starts", node + 1));
        self.0.lock().check(|invariant| {
            invariant.started(node);
            Ok(())
        });
    }

    /// Adds a line to the trace.
    pub(crate) fn trace(&self, what: fmt::Arguments<'_>) {
        let mut state = self.0.lock();
        let now = super::process::elapsed();
        state.note(&format!("{:.6} {what}", now.as_secs_f64()));
    }

    /// Notes a violation that was found elsewhere.
    pub(crate) fn violated(&self, what: String) {
        self.0.lock().violated(what);
    }

    pub(crate) fn has_violations(&self) -> bool {
        self.0.lock().violations_total > 0
    }

    pub(crate) fn violations(&self) -> Vec<String> {
        let state = self.0.lock();
        let mut violations = state.violations.clone();
        let more = state.violations_total - violations.len();
        if more > 0 {
            violations.push(format!("and {more} more"));
        }
        violations
    }

    pub(crate) fn trace_hash(&self) -> u64 {
        self.0.lock().trace.finish()
    }

    pub(crate) fn take_lines(&self) -> Vec<String> {
        self.0.lock().lines.take().unwrap_or_default()
    }

    /// How often a replica has fallen asleep.
    pub(crate) fn slept(&self) -> u64 {
        self.0.lock().slept
    }

    pub(crate) fn entries_applied(&self) -> u64 {
        self.0.lock().entries_applied
    }
}

impl State {
    fn note(&mut self, line: &str) {
        self.trace.update(line.as_bytes());
        if let Some(lines) = &mut self.lines {
            lines.push(line.to_owned());
        }
    }

    fn check(&mut self, look: impl Fn(&mut dyn Invariant) -> Result<(), String>) {
        let mut found = Vec::new();
        for invariant in &mut self.invariants {
            if let Err(what) = look(invariant.as_mut()) {
                found.push(format!("{}: {what}", invariant.name()));
            }
        }
        found.into_iter().for_each(|what| self.violated(what));
    }

    fn violated(&mut self, what: String) {
        self.note(&what);
        self.violations_total += 1;
        if self.violations.len() < VIOLATIONS_KEPT {
            self.violations.push(what);
        }
    }
}

struct NodeObserver {
    witness: Arc<Witness>,
    node: usize,
    generation: u64,
    disk: SimDisk,
    checkpoints: PathBuf,
}

impl Observer for NodeObserver {
    fn taken_up(&self, group: GroupId, replica: ReplicaId, machine: &Machine) {
        // What the process had applied before to rows that it has given up counts no more.
        self.witness.0.lock().check(|invariant| {
            invariant.opened(self.node, replica);
            Ok(())
        });
        self.see(group, replica, machine, true);
    }

    fn applied(
        &self,
        group: GroupId,
        replica: ReplicaId,
        machine: &Machine,
        proposal: Option<&Proposal>,
        _took: Duration,
    ) {
        self.see(group, replica, machine, false);
        let mut state = self.witness.0.lock();
        for command in proposal.iter().flat_map(|proposal| &proposal.commands) {
            if let Command::Write(write) = command {
                for key in write.op.keys() {
                    state.check(|invariant| invariant.wrote(group, key));
                }
            }
        }
    }

    fn purged(&self, group: GroupId, replica: ReplicaId, upto: LogIndex) {
        let checkpoint = self.disk.faults_met().is_empty().then(|| self.durable_checkpoint(replica));
        let purged = Purged { node: self.node, group, replica, upto, checkpoint };
        self.witness.trace(format_args!("{purged}"));
        self.witness.0.lock().check(|invariant| invariant.purged(&purged));
    }

    fn slept(&self, group: GroupId, replica: ReplicaId) {
        self.witness.trace(format_args!("replica {replica} of group {group} sleeps"));
        self.witness.0.lock().slept += 1;
    }

    fn heard_leader(&self, group: GroupId, term: Term, leader: ReplicaId) {
        self.witness.0.lock().check(|invariant| invariant.heard_leader(group, term, leader));
    }
}

impl NodeObserver {
    fn see(&self, group: GroupId, replica: ReplicaId, machine: &Machine, is_taken_up: bool) {
        let Some(position) = machine.applied() else { return };
        let applied = Applied {
            node: self.node,
            generation: self.generation,
            group,
            replica,
            index: position.index,
            term: position.term,
            digest: digest(machine),
            is_taken_up,
            counted: counted(machine),
        };
        self.witness.trace(format_args!("{applied}"));
        let mut state = self.witness.0.lock();
        state.entries_applied += u64::from(!is_taken_up);
        state.check(|invariant| invariant.applied(&applied));
        if let Machine::Meta(meta) = machine
            && let Some(founding) = &meta.state().founding
        {
            state.check(|invariant| invariant.ring(&founding.ring));
        }
    }

    /// The last entry of the newest whole checkpoint that a power cut would leave now.
    fn durable_checkpoint(&self, replica: ReplicaId) -> Option<LogIndex> {
        let left = Arc::new(self.disk.crash_seeded(Crash::Synced, 0));
        let store = CheckpointStore::open(left, &self.checkpoints.join(replica.to_string())).ok()?;
        Some(store.latest().ok()??.manifest().applied_index)
    }
}

/// What a shard counts beside its contents.
fn counted(machine: &Machine) -> Option<Counted> {
    let Machine::Shard(shard) = machine else { return None };
    let ShardStats { last_revision, ceiling, compacted, age_ms, .. } = shard.reader().stats();
    Some(Counted { last_revision, ceiling, compacted, age_ms })
}

/// Of the contents, and of what a shard counts beside them, which must be as equal everywhere.
fn digest(machine: &Machine) -> u64 {
    match machine {
        Machine::Meta(_) => machine.digest(),
        Machine::Shard(shard) => {
            let stats = shard.reader().stats();
            let counts =
                [stats.digest, stats.keys, stats.bytes, stats.last_revision.get(), stats.sessions as u64];
            let bytes: Vec<u8> = counts.iter().flat_map(|count| count.to_le_bytes()).collect();
            xxhash_rust::xxh3::xxh3_64(&bytes)
        }
    }
}
