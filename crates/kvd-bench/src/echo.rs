//! `echo`: a server that answers frames of operations with nothing behind them.
//!
//! It speaks the frames of kvd's pipeline, with results of the size that kvd's have: what is measured against it is what
//! encoding, the RPC layer and the loopback interface leave to any server that is built on them. A put is remembered as the
//! stream's last value, and that is what gets are answered with.

use std::{mem, pin::Pin};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{Stream, StreamExt as _, stream};
use prost::Message as _;
use tonic::{Request, Response, Result, Status, Streaming, transport::Server};

use crate::{
    cli,
    wire::{
        bench::v1::echo_server::{Echo, EchoServer},
        v1::{
            GetResponse, KeyValue, Operation, OperationResult, PipelineRequest, PipelineResponse,
            PutResponse, ResponseHeader, operation::Request as Asked, operation_result::Response as Answered,
        },
    },
};

/// As those of kvd's servers.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// As those of kvd's servers.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest frame: kvd's limit.
pub(crate) const MESSAGE_BYTES_MAX: usize = 8 << 20;
/// A frame ends with the operation that makes it so large: as kvd's.
pub(crate) const FRAME_BYTES_TARGET: usize = 1 << 20;

/// Serves until it is killed.
pub(crate) async fn run(arguments: &cli::Echo) -> anyhow::Result<()> {
    let service = EchoServer::new(Frames)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .add_service(service)
        .serve(arguments.listen)
        .await
        .with_context(|| format!("can't listen on {}; choose another --listen", arguments.listen))
}

struct Frames;

#[tonic::async_trait]
impl Echo for Frames {
    type PipelineStream = Pin<Box<dyn Stream<Item = Result<PipelineResponse>> + Send>>;

    async fn pipeline(
        &self,
        request: Request<Streaming<PipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>> {
        let mut last = Bytes::new();
        let answers = request.into_inner().flat_map(move |frame| {
            stream::iter(match frame {
                Ok(frame) => answer(frame, &mut last),
                Err(status) => vec![Err(status)],
            })
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// The answers to a frame, in as many frames as their size asks for.
fn answer(frame: PipelineRequest, last: &mut Bytes) -> Vec<Result<PipelineResponse>> {
    let (mut frames, mut results, mut bytes) = (Vec::new(), Vec::new(), 0);
    for operation in frame.operations {
        match answer_one(operation, last) {
            Ok(result) => {
                bytes += result.encoded_len();
                results.push(result);
            }
            Err(status) => return vec![Err(status)],
        }
        if bytes >= FRAME_BYTES_TARGET {
            frames.push(Ok(PipelineResponse { results: mem::take(&mut results) }));
            bytes = 0;
        }
    }
    if !results.is_empty() {
        frames.push(Ok(PipelineResponse { results }));
    }
    frames
}

fn answer_one(operation: Operation, last: &mut Bytes) -> Result<OperationResult> {
    let header = Some(ResponseHeader { shard: 1, leader_node: 1, ..ResponseHeader::default() });
    let response = match operation.request {
        Some(Asked::Put(put)) => {
            *last = put.value;
            Answered::Put(PutResponse { header, succeeded: true, version: 1, ..PutResponse::default() })
        }
        Some(Asked::Get(get)) => {
            let kv = KeyValue { key: get.key, value: last.clone(), ..KeyValue::default() };
            Answered::Get(GetResponse { header, kv: Some(kv) })
        }
        _ => return Err(Status::unimplemented("puts and gets are echoed, nothing else")),
    };
    Ok(OperationResult { id: operation.id, response: Some(response) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::v1::{DeleteRequest, GetRequest, PutRequest};

    #[test]
    fn each_operation_is_answered_in_its_kind() {
        let value = Bytes::from_static(b"value");
        let requests = [
            Asked::Put(PutRequest { value: value.clone(), ..PutRequest::default() }),
            Asked::Get(GetRequest { key: "key".into(), ..GetRequest::default() }),
        ];
        let operations =
            (7..).zip(requests).map(|(id, request)| Operation { id, deadline_ms: 0, request: Some(request) });
        let frame = PipelineRequest { operations: operations.collect() };
        let answers = answer(frame, &mut Bytes::new()).remove(0).unwrap().results;
        assert_eq!(answers.iter().map(|answer| answer.id).collect::<Vec<_>>(), [7, 8]);
        let Some(Answered::Get(got)) = &answers[1].response else { panic!("{answers:?}") };
        assert_eq!(got.kv.as_ref().unwrap().value, value);
        let delete = Some(Asked::Delete(DeleteRequest::default()));
        let operation = Operation { id: 1, deadline_ms: 0, request: delete };
        answer_one(operation, &mut Bytes::new()).unwrap_err();
    }
    #[test]
    fn large_answers_come_in_frames_that_a_client_takes() {
        let get = Operation { id: 1, deadline_ms: 0, request: Some(Asked::Get(GetRequest::default())) };
        let frame = PipelineRequest { operations: vec![get; 1024] };
        let frames = answer(frame, &mut vec![0; 64 << 10].into());
        let sizes = frames.iter().map(|frame| frame.as_ref().unwrap().encoded_len());
        assert!(sizes.max().unwrap() < MESSAGE_BYTES_MAX);
        assert_eq!(frames.iter().map(|frame| frame.as_ref().unwrap().results.len()).sum::<usize>(), 1024);
    }
}
