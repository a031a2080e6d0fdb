//! Clients that die in the middle of a request.

use rand::RngExt as _;

use super::Fault;
use crate::sim::cluster::Cluster;

/// A host of clients dies; other clients are started there when this ends. What was under way stays unknown for ever.
#[derive(Default)]
pub(super) struct Restarted {
    host: Option<std::sync::Arc<str>>,
}

impl Fault for Restarted {
    fn name(&self) -> &'static str {
        "clients restarted"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        // The last one is the administrator's.
        let place = cluster.rng.random_range(0..cluster.clients.hosts.len().saturating_sub(1));
        let host = std::sync::Arc::clone(cluster.clients.hosts.get(place)?);
        cluster.sim.crash(&*host);
        self.host = Some(std::sync::Arc::clone(&host));
        Some(host.to_string())
    }

    fn end(&mut self, cluster: &mut Cluster) {
        if let Some(host) = self.host.take() {
            cluster.sim.bounce(&*host);
        }
    }
}
