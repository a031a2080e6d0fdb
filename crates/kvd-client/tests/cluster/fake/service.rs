//! The gRPC services of one fake node.

use std::{pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use kvd_proto::v1::{self, cluster_server::Cluster, kv_server::Kv};
use kvd_types::Key;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, WatchStream};
use tonic::{Request, Response, Status, Streaming};

use super::{Verdict, World};

#[derive(Clone)]
pub(super) struct Node {
    pub(super) node: usize,
    pub(super) world: Arc<Mutex<World>>,
    pub(super) topology: watch::Receiver<u64>,
}

impl Node {
    async fn serve(
        self,
        mut frames: Streaming<v1::PipelineRequest>,
        answers: mpsc::Sender<Result<v1::PipelineResponse, Status>>,
    ) {
        while let Ok(Some(frame)) = frames.message().await {
            let mut results = Vec::new();
            let mut breaks = false;
            {
                let mut world = self.world.lock();
                world.frames_of_many += usize::from(frame.operations.len() > 1);
                for operation in frame.operations {
                    match world.serve(self.node, operation.request.unwrap()) {
                        Verdict::Answer(response) => {
                            results.push(v1::OperationResult { id: operation.id, response: Some(response) });
                        }
                        Verdict::Nothing => {}
                        Verdict::Break => {
                            breaks = true;
                            break;
                        }
                    }
                }
            }
            if !results.is_empty() && answers.send(Ok(v1::PipelineResponse { results })).await.is_err() {
                return;
            }
            if breaks {
                return;
            }
        }
    }
}

type BoxStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn unary<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("the client library pipelines"))
}

#[tonic::async_trait]
impl Kv for Node {
    type PipelineStream = ReceiverStream<Result<v1::PipelineResponse, Status>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<v1::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let (answers, stream) = mpsc::channel(64);
        tokio::spawn(self.clone().serve(request.into_inner(), answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn get(&self, _: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        unary()
    }

    async fn batch_get(
        &self,
        _: Request<v1::BatchGetRequest>,
    ) -> Result<Response<v1::BatchGetResponse>, Status> {
        unary()
    }

    async fn put(&self, _: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        unary()
    }

    async fn delete(&self, _: Request<v1::DeleteRequest>) -> Result<Response<v1::DeleteResponse>, Status> {
        unary()
    }

    async fn scan(&self, _: Request<v1::ScanRequest>) -> Result<Response<v1::ScanResponse>, Status> {
        unary()
    }

    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        unary()
    }

    async fn close_session(
        &self,
        _: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        unary()
    }
}

#[tonic::async_trait]
impl Cluster for Node {
    type WatchTopologyStream = BoxStream<v1::Topology>;

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let topology = self.world.lock().topology();
        Ok(Response::new(v1::StatusResponse {
            topology: Some(topology),
            node: self.node as u64 + 1,
            version: "fake".into(),
            uptime_ms: 1,
            replicas: Vec::new(),
        }))
    }

    async fn watch_topology(
        &self,
        _: Request<v1::WatchTopologyRequest>,
    ) -> Result<Response<Self::WatchTopologyStream>, Status> {
        let world = Arc::clone(&self.world);
        let stream = WatchStream::new(self.topology.clone()).map(move |_| Ok(world.lock().topology()));
        Ok(Response::new(Box::pin(stream)))
    }

    async fn locate(
        &self,
        request: Request<v1::LocateRequest>,
    ) -> Result<Response<v1::LocateResponse>, Status> {
        let world = self.world.lock();
        let key = Key::new(request.into_inner().key).map_err(|error| kvd_proto::error::to_status(&error))?;
        let shard = world.ring.shard_of(&key);
        let shard = world.topology().shards.into_iter().find(|it| it.id == shard.get());
        Ok(Response::new(v1::LocateResponse { shard, hash: world.ring.hash_of(&key) }))
    }

    async fn move_leader(
        &self,
        request: Request<v1::MoveLeaderRequest>,
    ) -> Result<Response<v1::MoveLeaderResponse>, Status> {
        let request = request.into_inner();
        let leader = usize::try_from(request.node).unwrap() - 1;
        self.world.lock().leaders.insert(request.shard.into(), leader);
        Ok(Response::new(v1::MoveLeaderResponse { leader_node: request.node }))
    }
}
