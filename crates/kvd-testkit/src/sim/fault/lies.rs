//! Disks that lie: a write is reported done, and was never done, or to another place.
//!
//! The log can't tell a lie about the very last write before a crash from a torn write, and says so (see
//! `kvd_storage::log`): no log can, and the node then has forgotten what it promised without knowing. So when this ends the
//! node is stopped in good order, but only once the last lie is told: as it stops it writes behind everything that all
//! before it was synced, which must itself be true, and it must find out when it is started on what there is. If anything else
//! brings it down before, whoever runs it puts in an empty disk, as one would if a disk was found to lie. Until it stops it goes
//! on, and answers from memory and what it finds whole.

use kvd_storage::disk;
use rand::RngExt as _;

use super::Fault;
use crate::sim::cluster::Cluster;

/// A node's disk lies about some writes.
pub(super) struct Lying {
    lie: disk::Fault,
    node: usize,
}

impl Lying {
    /// Writes are never done.
    pub(super) const fn vanishing() -> Self {
        Self { lie: disk::Fault::Vanish, node: 0 }
    }

    /// Writes are done to another place of the file, over whatever is there.
    pub(super) const fn misdirecting() -> Self {
        Self { lie: disk::Fault::Misdirect, node: 0 }
    }
}

impl Fault for Lying {
    fn name(&self) -> &'static str {
        match self.lie {
            disk::Fault::Misdirect => "misdirected writes",
            _ => "writes that vanish",
        }
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        cluster.begin_destruction().then_some(())?;
        self.node = cluster.any_node();
        let (after, count) = (cluster.rng.random_range(0..20), cluster.rng.random_range(1..4));
        cluster.cell(self.node).lie(self.lie, after, count);
        Some(format!("node {}, {count} operations after {after} more", self.node + 1))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        cluster.cycle(self.node);
    }
}
