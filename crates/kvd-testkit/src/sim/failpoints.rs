//! Failpoints under simulation: counted wherever they are passed, and the moment of a crash where one was asked for.
//!
//! The registry of failpoints is the process's, and a simulation is many nodes in one process. Whose process passes a
//! failpoint is told by the runtime that it runs on, of which each process of a node has one.
//!
//! A crash at a failpoint: from that moment on the disk takes nothing any more, and before the next tick the process is gone.
//! What it still did in between was founded on nothing that happened after the failpoint, since whatever it would
//! have had to write failed.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;

use super::node::NodeCell;

/// All names, of all crates.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    let lists = [kvd_storage::failpoints::ALL, kvd_raft::failpoints::ALL, kvd_server::failpoints::ALL];
    lists.into_iter().flatten().copied()
}

/// How often each failpoint was passed.
#[derive(Clone, Default)]
pub(crate) struct Passed(Arc<Mutex<BTreeMap<&'static str, u64>>>);

impl Passed {
    /// Watches all failpoints, on all of these nodes.
    pub(crate) fn watch(nodes: &[Arc<NodeCell>]) -> Self {
        let passed = Self::default();
        for name in names() {
            let (counts, nodes) = (Arc::clone(&passed.0), nodes.to_vec());
            let watching = fail::cfg_callback(name, move || {
                *counts.lock().entry(name).or_default() += 1;
                let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
                if let Some(node) = nodes.iter().find(|node| node.runs_on(runtime.id())) {
                    node.pass(name);
                }
            });
            if let Err(error) = watching {
                unreachable!("failpoint {name} can't be watched: {error}");
            }
        }
        passed
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.0.lock().iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }
}
