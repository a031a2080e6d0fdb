//! The `Kv` service: unary calls, and the door to the pipeline.

use std::sync::Arc;

use futures::stream::BoxStream;
use kvd_proto::{
    error::{from_wire, to_status},
    operation::{reply_to_wire, request_from_wire},
    v1::{self, kv_server::Kv, operation::Request as Wire, operation_result::Response as WireReply},
};
use kvd_types::{Error, limits::REQUEST_BYTES_MAX};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{
    deadline, pipeline,
    ranges::{self, Streamed},
};
use crate::front::Front;

/// Answers clients' calls.
pub(super) struct KvService {
    pub(super) front: Front,
    pub(super) shutdown: CancellationToken,
}

impl KvService {
    pub(super) const fn new(front: Front, shutdown: CancellationToken) -> Self {
        Self { front, shutdown }
    }

    async fn call<M: Message>(&self, request: Request<M>, wrap: fn(M) -> Wire) -> Result<WireReply, Status> {
        let (metadata, _, message) = request.into_parts();
        let bytes = message.encoded_len();
        let wire = wrap(message);
        let method = method_of(&wire);
        let (deadline, checked) = match deadline::of(&metadata) {
            Ok(deadline) => (deadline, check_bytes(bytes).and_then(|()| request_from_wire(wire))),
            Err(error) => (crate::front::deadline_after(None), Err(error)),
        };
        match reply_to_wire(self.front.execute(method, "grpc", checked, deadline).await) {
            WireReply::Error(error) => Err(to_status(&from_wire(error))),
            reply => Ok(reply),
        }
    }
}

fn check_bytes(bytes: usize) -> kvd_types::Result<()> {
    if bytes > REQUEST_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the request has {bytes} bytes; a request has at most {REQUEST_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

/// What a request on the wire is called in metrics, whether or not it makes sense.
pub(super) const fn method_of(wire: &Wire) -> &'static str {
    match wire {
        Wire::Get(_) => "get",
        Wire::BatchGet(_) => "batch_get",
        Wire::Put(_) => "put",
        Wire::Delete(_) => "delete",
        Wire::DeleteRange(_) => "delete_range",
        Wire::Txn(_) => "txn",
        Wire::GrantLease(_) => "grant_lease",
        Wire::RevokeLease(_) => "revoke_lease",
        Wire::KeepLeaseAlive(_) => "keep_lease_alive",
        Wire::GetLease(_) => "get_lease",
        Wire::ListLeases(_) => "list_leases",
        Wire::LeaseKeys(_) => "lease_keys",
        Wire::Snapshot(_) => "snapshot",
        Wire::ReadPoint(_) => "read_point",
        Wire::Changes(_) => "changes",
        Wire::Tell(_) => "tell",
        Wire::Scan(_) => "scan",
        Wire::OpenSession(_) => "open_session",
        Wire::CloseSession(_) => "close_session",
    }
}

/// A reply of the wrong kind is a bug of the core's.
fn mismatch() -> Status {
    to_status(&Error::internal("the store answered with a reply of another kind"))
}

/// Unary calls that are operations: what is asked and what is answered go by the same name.
macro_rules! unary {
    ($self:ident, $request:ident, $kind:ident) => {
        match $self.call($request, Wire::$kind).await? {
            WireReply::$kind(reply) => Ok(Response::new(reply)),
            _ => Err(mismatch()),
        }
    };
}

#[async_trait]
impl Kv for KvService {
    async fn get(&self, request: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        unary!(self, request, Get)
    }

    async fn batch_get(
        &self,
        request: Request<v1::BatchGetRequest>,
    ) -> Result<Response<v1::BatchGetResponse>, Status> {
        unary!(self, request, BatchGet)
    }

    async fn put(&self, request: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        unary!(self, request, Put)
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::DeleteResponse>, Status> {
        unary!(self, request, Delete)
    }

    async fn scan(&self, request: Request<v1::ScanRequest>) -> Result<Response<v1::ScanResponse>, Status> {
        unary!(self, request, Scan)
    }

    async fn open_session(
        &self,
        request: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        unary!(self, request, OpenSession)
    }

    async fn close_session(
        &self,
        request: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        unary!(self, request, CloseSession)
    }

    async fn delete_range(
        &self,
        request: Request<v1::DeleteRangeRequest>,
    ) -> Result<Response<v1::DeleteRangeResponse>, Status> {
        unary!(self, request, DeleteRange)
    }

    async fn txn(&self, request: Request<v1::TxnRequest>) -> Result<Response<v1::TxnResponse>, Status> {
        unary!(self, request, Txn)
    }

    async fn grant_lease(
        &self,
        request: Request<v1::GrantLeaseRequest>,
    ) -> Result<Response<v1::GrantLeaseResponse>, Status> {
        unary!(self, request, GrantLease)
    }

    async fn revoke_lease(
        &self,
        request: Request<v1::RevokeLeaseRequest>,
    ) -> Result<Response<v1::RevokeLeaseResponse>, Status> {
        unary!(self, request, RevokeLease)
    }

    async fn keep_lease_alive(
        &self,
        request: Request<v1::KeepLeaseAliveRequest>,
    ) -> Result<Response<v1::KeepLeaseAliveResponse>, Status> {
        unary!(self, request, KeepLeaseAlive)
    }

    async fn get_lease(
        &self,
        request: Request<v1::GetLeaseRequest>,
    ) -> Result<Response<v1::GetLeaseResponse>, Status> {
        unary!(self, request, GetLease)
    }

    async fn list_leases(
        &self,
        request: Request<v1::ListLeasesRequest>,
    ) -> Result<Response<v1::ListLeasesResponse>, Status> {
        unary!(self, request, ListLeases)
    }

    async fn lease_keys(
        &self,
        request: Request<v1::LeaseKeysRequest>,
    ) -> Result<Response<v1::LeaseKeysResponse>, Status> {
        unary!(self, request, LeaseKeys)
    }

    async fn snapshot(
        &self,
        request: Request<v1::SnapshotRequest>,
    ) -> Result<Response<v1::SnapshotResponse>, Status> {
        unary!(self, request, Snapshot)
    }

    async fn changes(
        &self,
        request: Request<v1::ChangesRequest>,
    ) -> Result<Response<v1::ChangesResponse>, Status> {
        unary!(self, request, Changes)
    }

    type ScanAllStream = Streamed<v1::ScanAllResponse>;

    async fn scan_all(
        &self,
        request: Request<v1::ScanAllRequest>,
    ) -> Result<Response<Self::ScanAllStream>, Status> {
        let spec = ranges::scan_from_wire(request.into_inner());
        let parts = Arc::clone(&self.front.store).scan(spec);
        Ok(Response::new(ranges::streamed(self, "scan_all", parts, ranges::scan_part_to_wire)))
    }

    type DeleteAllStream = Streamed<v1::DeleteAllResponse>;

    async fn delete_all(
        &self,
        request: Request<v1::DeleteAllRequest>,
    ) -> Result<Response<Self::DeleteAllStream>, Status> {
        let v1::DeleteAllRequest { start, end } = request.into_inner();
        let parts = Arc::clone(&self.front.store).delete_range(start, end);
        Ok(Response::new(ranges::streamed(self, "delete_all", parts, ranges::delete_part_to_wire)))
    }

    type WatchStream = Streamed<v1::WatchResponse>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let spec = ranges::watch_from_wire(request.into_inner());
        let parts = Arc::clone(&self.front.store).watch(spec);
        Ok(Response::new(ranges::streamed(self, "watch", parts, ranges::watch_part_to_wire)))
    }

    type PipelineStream = BoxStream<'static, Result<v1::PipelineResponse, Status>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<v1::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let pipeline = pipeline::serve(self.front.clone(), request.into_inner(), self.shutdown.clone());
        Ok(Response::new(pipeline))
    }
}
