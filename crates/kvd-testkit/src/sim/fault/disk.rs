//! Disks that fail, fill up, slow down, or are lost.

use std::io;

use kvd_storage::disk::Operation;
use rand::{RngExt as _, rngs::StdRng};

use super::Fault;
use crate::sim::cluster::Cluster;

/// One of the next syncs or writes of a node fails. It must stop, and may be started again: what it acknowledged is there.
#[derive(Default)]
pub(super) struct SyncFails;

impl Fault for SyncFails {
    fn name(&self) -> &'static str {
        "a write or sync fails"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        let node = cluster.any_node();
        let operation = if cluster.rng.random_bool(0.7) { Operation::Sync } else { Operation::Write };
        let nth = cluster.rng.random_range(0..4);
        cluster.cell(node).state.lock().disk.fail(operation, nth, io::ErrorKind::Other);
        Some(format!("{operation:?} of node {}", node + 1))
    }

    fn end(&mut self, _cluster: &mut Cluster) {}
}

/// Each sync of a node's log takes long.
pub(super) struct Slow {
    sync_us: (u64, u64),
    node: usize,
    before: (u64, u64),
}

impl Slow {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        let most = rng.random_range(20_000..800_000);
        Self { sync_us: (most / 4, most), node: 0, before: (50, 2000) }
    }
}

impl Fault for Slow {
    fn name(&self) -> &'static str {
        "a slow disk"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        self.node = cluster.any_node();
        cluster.cell(self.node).state.lock().sync_us = self.sync_us;
        Some(format!("node {}, {:?} us", self.node + 1, self.sync_us))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        cluster.cell(self.node).state.lock().sync_us = self.before;
    }
}

/// A node's disk has little room left, or none.
pub(super) struct Full {
    bytes: u64,
    node: usize,
}

impl Full {
    pub(super) fn draw(rng: &mut StdRng) -> Self {
        Self { bytes: rng.random_range(0..200_000), node: 0 }
    }
}

impl Fault for Full {
    fn name(&self) -> &'static str {
        "a full disk"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        self.node = cluster.any_node();
        cluster.cell(self.node).state.lock().disk.limit_space(Some(self.bytes));
        Some(format!("node {}, {} bytes left", self.node + 1, self.bytes))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        cluster.cell(self.node).state.lock().disk.limit_space(None);
    }
}

/// A node's disk is lost, and the node started on an empty one when this ends: it joins as a new node in its own place.
#[derive(Default)]
pub(super) struct Lost {
    node: usize,
}

impl Fault for Lost {
    fn name(&self) -> &'static str {
        "a disk lost"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        cluster.begin_destruction().then_some(())?;
        self.node = cluster.any_node();
        cluster.lose_disk(self.node);
        Some(format!("node {}", self.node + 1))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        cluster.start(self.node);
        cluster.end_destruction();
    }
}
