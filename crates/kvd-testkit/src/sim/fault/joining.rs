//! Nodes that join a cluster that is at work.

use super::Fault;
use crate::sim::cluster::Cluster;

/// A node that has not been there before is started, and stays.
#[derive(Default)]
pub(super) struct Joined;

impl Fault for Joined {
    fn name(&self) -> &'static str {
        "a node joins"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        let new = cluster.nodes.iter().find(|node| node.never_ran())?.index;
        cluster.cell(new).state.lock().is_wanted = true;
        cluster.start(new);
        Some(format!("node {}", new + 1))
    }

    fn end(&mut self, _cluster: &mut Cluster) {}
}
