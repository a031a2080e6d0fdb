//! Keeps the topology fresh: follows one node's `WatchTopology`, and moves on to another node when it ends.

use std::{sync::Arc, time::Duration};

use kvd_proto::v1::WatchTopologyRequest;
use kvd_types::{Error, Result};
use tokio::time::timeout;

use crate::{backoff::Backoff, core::Core, peer::Peer, pipeline::describe, topology::Topology};

/// How long a node may take to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs as long as the client.
pub(crate) async fn follow_topology(core: Arc<Core>) {
    let (mut avoid, mut backoff) = (Vec::new(), Backoff::default());
    loop {
        let Some(address) = core.choose(None, &avoid) else {
            avoid.clear();
            tokio::time::sleep(backoff.pause()).await;
            continue;
        };
        let followed = match core.peer(&address) {
            Ok(peer) => follow(&core, &peer, &mut backoff).await,
            Err(error) => Err(error),
        };
        if let Err(error) = followed {
            tracing::debug!(%address, %error, "no topology from the node any more");
        }
        avoid.push(address);
    }
}

/// Takes what the node tells, until it ends.
async fn follow(core: &Core, peer: &Peer, backoff: &mut Backoff) -> Result<()> {
    let failed = |status: tonic::Status| {
        let error = Error::unavailable(describe(&status));
        peer.shun(&error);
        error
    };
    let mut cluster = peer.cluster();
    let mut topologies = timeout(BEGIN_TIMEOUT, cluster.watch_topology(WatchTopologyRequest {}))
        .await
        .map_err(|_elapsed| Error::unavailable("no answer in time"))?
        .map_err(failed)?
        .into_inner();
    while let Some(topology) = topologies.message().await.map_err(failed)? {
        core.take(Topology::from_wire(topology)?)?;
        backoff.reset();
    }
    Ok(())
}
