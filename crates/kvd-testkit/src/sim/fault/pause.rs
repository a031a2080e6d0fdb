//! Processes that are stopped where they stand, and go on.

use rand::{RngExt as _, rngs::StdRng};

use super::Fault;
use crate::sim::cluster::Cluster;

/// A node's process does nothing until this ends, and then finds that time has jumped. Every other time a leader's.
pub(super) struct Paused {
    wants_leader: bool,
    /// Whether all timers that are due fire before anything is read that has arrived meanwhile.
    timers_first: bool,
    node: Option<usize>,
}

impl Paused {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self { wants_leader: rng.random(), timers_first: rng.random_bool(0.7), node: None }
    }
}

impl Fault for Paused {
    fn name(&self) -> &'static str {
        "a node paused"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        let leader = if self.wants_leader { cluster.any_leader() } else { None };
        let node = leader.unwrap_or_else(|| cluster.any_node());
        if !cluster.pause(node, self.timers_first) {
            return None;
        }
        self.node = Some(node);
        let leads = if leader.is_some() { ", a leader" } else { "" };
        let first = if self.timers_first { "timers" } else { "messages" };
        Some(format!("node {}{leads}, {first} first", node + 1))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        let Some(node) = self.node.take() else { return };
        if let Some(stood) = cluster.resume(node) {
            cluster.note(format_args!("node {} goes on after {stood:?}", node + 1));
        }
    }
}
