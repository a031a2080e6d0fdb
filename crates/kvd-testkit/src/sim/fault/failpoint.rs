//! Crashes at named moments.

use std::time::Duration;

use rand::{RngExt as _, rngs::StdRng};

use super::Fault;
use crate::sim::{cluster::Cluster, failpoints};

/// A node crashes the next time it passes a failpoint, if it does so before this ends, and is started again a moment later.
pub(super) struct CrashAt {
    name: &'static str,
    node: usize,
}

impl CrashAt {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        let names: Vec<_> = failpoints::names().collect();
        let name = names.get(rng.random_range(0..names.len())).copied().unwrap_or_default();
        Self { name, node: 0 }
    }
}

impl Fault for CrashAt {
    fn name(&self) -> &'static str {
        "a crash at a failpoint"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        self.node = cluster.any_node();
        // Some are passed only as a node starts, or joins.
        if cluster.rng.random_bool(0.3) {
            cluster.crash(self.node, kvd_storage::disk::Crash::Killed);
            cluster.start_after(self.node, Duration::from_millis(50));
        }
        cluster.cell(self.node).state.lock().crash_at = Some(self.name);
        Some(format!("node {} at {}", self.node + 1, self.name))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        cluster.cell(self.node).state.lock().crash_at = None;
    }
}
