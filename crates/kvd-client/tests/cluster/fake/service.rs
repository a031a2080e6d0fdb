//! The gRPC services of one fake node.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures::{Stream, StreamExt as _};
use kvd_proto::{
    operation::event_to_wire,
    token::{WatchToken, watch_request},
    v1::{self, cluster_server::Cluster, kv_server::Kv, watch_request::From},
};
use kvd_types::{Error, Key, Revision, ShardId};
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

/// Calls that the client library doesn't make.
macro_rules! not_for_clients {
    ($($name:ident($request:ident) -> $response:ident;)*) => {$(
        fn $name<'a, 'async_trait>(
            &'a self,
            _: Request<v1::$request>,
        ) -> Pin<Box<dyn Future<Output = Result<Response<v1::$response>, Status>> + Send + 'async_trait>>
        where
            'a: 'async_trait,
            Self: 'async_trait,
        {
            Box::pin(async { unary() })
        }
    )*};
}

/// A watch under way.
struct Watch {
    request: v1::WatchRequest,
    hash: u64,
    /// What was told already.
    position: Revision,
}

impl Node {
    fn begin_watch(&self, request: v1::WatchRequest) -> Result<Watch, Error> {
        let mut world = self.world.lock();
        world.watches += 1;
        let hash = watch_request(&request.start, &request.end);
        let position = match &request.from {
            None => Revision(world.store.revision),
            Some(From::AfterRevision(revision)) => Revision(*revision),
            Some(From::Resume(token)) => {
                WatchToken::decode(token, "fake", hash)?.positions.into_values().min().unwrap_or_default()
            }
        };
        if position < world.store.compacted {
            return Err(Error::compacted(position, world.store.compacted));
        }
        Ok(Watch { request, hash, position })
    }

    /// Tells one event per answer, a token only after the last one of each round, until it breaks.
    async fn tell(self, mut watch: Watch, answers: mpsc::Sender<Result<v1::WatchResponse, Status>>) {
        let mut changed = self.world.lock().store.changed.subscribe();
        let mut left = self.world.lock().watch_answers_max;
        loop {
            let (events, position) = {
                let world = self.world.lock();
                let events = world.store.changes(watch.position, &watch.request.start, &watch.request.end);
                (events, Revision(world.store.revision))
            };
            watch.position = position;
            let token = WatchToken {
                cluster_id: "fake".into(),
                request: watch.hash,
                positions: BTreeMap::from([(ShardId(1), position)]),
            };
            let single = events.into_iter().filter_map(|event| {
                let unwanted =
                    if event.record.is_some() { watch.request.no_puts } else { watch.request.no_deletes };
                let events = vec![event_to_wire(event)];
                (!unwanted).then(|| v1::WatchResponse { events, ..v1::WatchResponse::default() })
            });
            let last = v1::WatchResponse { resume: token.encode(), is_progress: true, ..Default::default() };
            for answer in single.chain([last]) {
                if left == 0 || answers.send(Ok(answer)).await.is_err() {
                    return;
                }
                left -= 1;
            }
            if changed.changed().await.is_err() {
                return;
            }
        }
    }
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

    type ScanAllStream = BoxStream<v1::ScanAllResponse>;
    type DeleteAllStream = BoxStream<v1::DeleteAllResponse>;
    type WatchStream = ReceiverStream<Result<v1::WatchResponse, Status>>;

    async fn scan_all(
        &self,
        _: Request<v1::ScanAllRequest>,
    ) -> Result<Response<Self::ScanAllStream>, Status> {
        unary()
    }

    async fn delete_all(
        &self,
        _: Request<v1::DeleteAllRequest>,
    ) -> Result<Response<Self::DeleteAllStream>, Status> {
        unary()
    }

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (answers, stream) = mpsc::channel(1);
        let watch =
            self.begin_watch(request.into_inner()).map_err(|error| kvd_proto::error::to_status(&error))?;
        tokio::spawn(self.clone().tell(watch, answers));
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    not_for_clients! {
        get(GetRequest) -> GetResponse;
        batch_get(BatchGetRequest) -> BatchGetResponse;
        put(PutRequest) -> PutResponse;
        delete(DeleteRequest) -> DeleteResponse;
        delete_range(DeleteRangeRequest) -> DeleteRangeResponse;
        txn(TxnRequest) -> TxnResponse;
        grant_lease(GrantLeaseRequest) -> GrantLeaseResponse;
        revoke_lease(RevokeLeaseRequest) -> RevokeLeaseResponse;
        keep_lease_alive(KeepLeaseAliveRequest) -> KeepLeaseAliveResponse;
        get_lease(GetLeaseRequest) -> GetLeaseResponse;
        list_leases(ListLeasesRequest) -> ListLeasesResponse;
        lease_keys(LeaseKeysRequest) -> LeaseKeysResponse;
        scan(ScanRequest) -> ScanResponse;
        snapshot(SnapshotRequest) -> SnapshotResponse;
        changes(ChangesRequest) -> ChangesResponse;
        open_session(OpenSessionRequest) -> OpenSessionResponse;
        close_session(CloseSessionRequest) -> CloseSessionResponse;
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
