//! What really happened: every entry that any node applied, every leader that any node heard, held against the invariants
//! as it happens. It believes no node's account of itself.

use std::{fmt, hash::Hasher as _, sync::Arc, time::Duration};

use kvd_machine::Machine;
use kvd_raft::observe::Observer;
use kvd_types::{GroupId, LogIndex, ReplicaId, Term};
use parking_lot::Mutex;
use xxhash_rust::xxh3::Xxh3;

use super::invariant::{self, Applied, Invariant};

/// Violations that are kept; those beyond are only counted.
const VIOLATIONS_KEPT: usize = 20;

/// See the module.
pub(crate) struct Witness(Mutex<State>);

struct State {
    invariants: Vec<Box<dyn Invariant>>,
    violations: Vec<String>,
    violations_total: usize,
    entries_applied: u64,
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
            trace: Xxh3::new(),
            lines: keep_lines.then(Vec::new),
        })))
    }

    /// The watcher of one process of a node on its disk of that generation.
    pub(crate) fn observer(self: &Arc<Self>, node: usize, generation: u64) -> Arc<dyn Observer> {
        Arc::new(NodeObserver { witness: Arc::clone(self), node, generation })
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
        let now = turmoil::sim_elapsed().unwrap_or_default();
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
}

impl Observer for NodeObserver {
    fn taken_up(&self, group: GroupId, replica: ReplicaId, machine: &Machine) {
        self.see(group, replica, machine, true);
    }

    fn applied(&self, group: GroupId, replica: ReplicaId, machine: &Machine, _took: Duration) {
        self.see(group, replica, machine, false);
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
            digest: machine.digest(),
            is_taken_up,
        };
        self.witness.trace(format_args!("{applied}"));
        let mut state = self.witness.0.lock();
        state.entries_applied += u64::from(!is_taken_up);
        state.check(|invariant| invariant.applied(&applied));
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, group, replica, index: LogIndex(index), term: Term(term), digest, .. } = self;
        let what = if self.is_taken_up { "took up" } else { "applied" };
        write!(
            f,
            "node {} {what} {index}@{term} of group {group} as replica {replica}: {digest:016x}",
            node + 1
        )
    }
}
