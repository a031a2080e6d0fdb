//! The `Cluster` service: what the cluster looks like, and who leads.

use std::sync::Arc;

use futures::{StreamExt as _, stream::BoxStream};
use kvd_proto::{
    error::to_status,
    v1::{self, cluster_server::Cluster},
};
use kvd_types::{Error, Key, NodeId, ShardId};
use tokio_stream::wrappers::WatchStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, async_trait};

use super::deadline;
use crate::store::Store;

/// Answers questions about the cluster.
pub(super) struct ClusterService {
    store: Arc<dyn Store>,
    shutdown: CancellationToken,
}

impl ClusterService {
    pub(super) const fn new(store: Arc<dyn Store>, shutdown: CancellationToken) -> Self {
        Self { store, shutdown }
    }
}

#[async_trait]
impl Cluster for ClusterService {
    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(self.store.status().await))
    }

    type WatchTopologyStream = BoxStream<'static, Result<v1::Topology, Status>>;

    async fn watch_topology(
        &self,
        _: Request<v1::WatchTopologyRequest>,
    ) -> Result<Response<Self::WatchTopologyStream>, Status> {
        // A watch channel keeps the newest value only, so a slow client skips changes and holds nothing up.
        let changes =
            WatchStream::new(self.store.topology()).map(|topology| Ok(v1::Topology::clone(&topology)));
        Ok(Response::new(changes.take_until(self.shutdown.clone().cancelled_owned()).boxed()))
    }

    async fn locate(
        &self,
        request: Request<v1::LocateRequest>,
    ) -> Result<Response<v1::LocateResponse>, Status> {
        let located = Key::new(request.into_inner().key).and_then(|key| self.store.locate(&key));
        located.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn move_leader(
        &self,
        request: Request<v1::MoveLeaderRequest>,
    ) -> Result<Response<v1::MoveLeaderResponse>, Status> {
        let deadline = deadline::of(request.metadata()).map_err(|error| to_status(&error))?;
        let wanted = request.into_inner();
        let moved = self.store.move_leader(ShardId(wanted.shard), NodeId(wanted.node));
        let leader = tokio::time::timeout_at(deadline, moved).await.unwrap_or_else(|_| {
            Err(Error::unknown(format!("shard {}'s leader has not moved in time; it may yet", wanted.shard)))
        });
        leader
            .map(|node| Response::new(v1::MoveLeaderResponse { leader_node: node.get() }))
            .map_err(|error| to_status(&error))
    }
}
