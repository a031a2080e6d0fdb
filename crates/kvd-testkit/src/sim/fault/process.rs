//! Processes that end and are started again.

use std::time::Duration;

use kvd_storage::disk::Crash;
use rand::{RngExt as _, rngs::StdRng};

use super::Fault;
use crate::sim::cluster::Cluster;

/// One, some or all nodes are killed, and started again when this ends.
pub(super) struct Killed {
    chance: f64,
    nodes: Vec<usize>,
}

impl Killed {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        let chance = match rng.random_range(0..10) {
            0 => 1.0,
            1..4 => 0.5,
            _ => 0.0,
        };
        Self { chance, nodes: Vec::new() }
    }
}

impl Fault for Killed {
    fn name(&self) -> &'static str {
        "nodes killed"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        self.nodes = some_nodes(cluster, self.chance);
        for &node in &self.nodes {
            cluster.crash(node, Crash::Killed);
        }
        Some(format!("{:?}", self.nodes))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        for node in self.nodes.drain(..) {
            cluster.start(node);
        }
    }
}

/// One node, and each other one by that chance.
pub(super) fn some_nodes(cluster: &mut Cluster, chance: f64) -> Vec<usize> {
    let first = cluster.any_node();
    (0..cluster.nodes.len()).filter(|&node| node == first || cluster.rng.random_bool(chance)).collect()
}

/// A node is stopped in good order, and started again when this ends.
#[derive(Default)]
pub(super) struct Stopped {
    node: usize,
}

impl Fault for Stopped {
    fn name(&self) -> &'static str {
        "a node stopped"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        self.node = cluster.any_node();
        cluster.cell(self.node).stop();
        Some(format!("node {}", self.node + 1))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        // If it is still about it, that was its time.
        if cluster.cell(self.node).is_running() {
            cluster.crash(self.node, Crash::Killed);
        }
        cluster.start(self.node);
    }
}

/// All nodes are killed and started again, one soon after the other.
#[derive(Default)]
pub(super) struct RollingRestart;

impl Fault for RollingRestart {
    fn name(&self) -> &'static str {
        "a rolling restart"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        // All go down in this moment; what is rolling is their return, which overlaps as an impatient operator's would.
        let pause_ms = cluster.rng.random_range(100..1500);
        for (place, node) in (0..cluster.nodes.len()).enumerate() {
            cluster.crash(node, Crash::Killed);
            let after = pause_ms * u64::try_from(place + 1).unwrap_or(1);
            cluster.start_after(node, Duration::from_millis(after));
        }
        Some(format!("every {pause_ms} ms one returns"))
    }

    fn end(&mut self, _cluster: &mut Cluster) {}
}
