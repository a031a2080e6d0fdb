//! Clocks that are wrong.

use rand::{RngExt as _, rngs::StdRng};

use super::Fault;
use crate::sim::cluster::Cluster;

/// A node's time of day jumps, and jumps back when this ends.
pub(super) struct Jump {
    by_ms: i64,
    node: usize,
}

impl Jump {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self { by_ms: rng.random_range(-3_600_000..=600_000), node: 0 }
    }

    fn add(&self, cluster: &Cluster, by_ms: i64) {
        let mut state = cluster.cell(self.node).state.lock();
        state.clock_offset_ms = state.clock_offset_ms.saturating_add(by_ms);
    }
}

impl Fault for Jump {
    fn name(&self) -> &'static str {
        "a clock jumps"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        self.node = cluster.any_node();
        self.add(cluster, self.by_ms);
        Some(format!("node {}, by {} ms", self.node + 1, self.by_ms))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        self.add(cluster, -self.by_ms);
    }
}
