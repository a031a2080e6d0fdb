//! Power cuts: what wasn't synced is gone, or half of it is there.

use kvd_storage::disk::Crash;
use rand::{RngExt as _, rngs::StdRng};

use super::{Fault, process::some_nodes};
use crate::sim::cluster::Cluster;

/// The power of one, some or all machines goes out, and returns when this ends.
pub(super) struct Cut {
    chance: f64,
    leaves: Crash,
    nodes: Vec<usize>,
}

impl Cut {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        let chance = match rng.random_range(0..10) {
            0..2 => 1.0,
            2..5 => 0.5,
            _ => 0.0,
        };
        let leaves = match rng.random_range(0..3) {
            0 => Crash::Synced,
            1 => Crash::Torn { block_bytes: 512 },
            _ => Crash::Torn { block_bytes: 4096 },
        };
        Self { chance, leaves, nodes: Vec::new() }
    }
}

impl Fault for Cut {
    fn name(&self) -> &'static str {
        "a power cut"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        self.nodes = some_nodes(cluster, self.chance);
        for &node in &self.nodes {
            cluster.crash(node, self.leaves);
        }
        Some(format!("{:?}, {:?}", self.nodes, self.leaves))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        for node in self.nodes.drain(..) {
            cluster.start(node);
        }
    }
}
