//! The `Kv` service: unary calls, and the door to the pipeline.

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

use super::{deadline, pipeline};
use crate::front::Front;

/// Answers clients' calls.
pub(super) struct KvService {
    front: Front,
    shutdown: CancellationToken,
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
        Wire::Scan(_) => "scan",
        Wire::OpenSession(_) => "open_session",
        Wire::CloseSession(_) => "close_session",
    }
}

/// A reply of the wrong kind is a bug of the core's.
fn mismatch() -> Status {
    to_status(&Error::internal("the store answered with a reply of another kind"))
}

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

    type PipelineStream = BoxStream<'static, Result<v1::PipelineResponse, Status>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<v1::PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let pipeline = pipeline::serve(self.front.clone(), request.into_inner(), self.shutdown.clone());
        Ok(Response::new(pipeline))
    }
}
