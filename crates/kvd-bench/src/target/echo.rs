//! The limit that the RPC layer sets: kvd's pipeline of frames, to a server with nothing behind it.
//!
//! What waits goes out as one frame whenever the connection can take more, as in the client library; but nothing is routed,
//! tried again or timed.

use std::{
    collections::HashMap,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use futures::Stream;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tonic::{Streaming, transport::Endpoint};

use super::Failure;
use crate::{
    echo::{FRAME_BYTES_TARGET, MESSAGE_BYTES_MAX},
    wire::{
        bench::v1::echo_client::EchoClient,
        v1::{
            GetRequest, Operation, PipelineRequest, PipelineResponse, PutRequest,
            operation::Request as Asked, operation_result::Response as Answered,
        },
    },
};

/// Operations that wait to be sent, at most; kvd's window.
const WAITING_MAX: usize = 4096;
/// Operations of a frame, at most; kvd's limit.
const FRAME_OPERATIONS_MAX: usize = 1024;
/// Bytes that the server may send ahead; as the client library's.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// As the client library's.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A stream to the server.
#[derive(Clone)]
pub(crate) struct Connection {
    operations: mpsc::Sender<Operation>,
    waiting: Arc<Mutex<Waiting>>,
}

/// Who waits for which answer.
#[derive(Default)]
struct Waiting {
    last_id: u64,
    ended: bool,
    by_id: HashMap<u64, oneshot::Sender<Answered>>,
}

impl Connection {
    pub(crate) async fn open(address: &str, timeout: Duration) -> anyhow::Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = endpoint.connect().await.with_context(|| format!("no echo answers at {address}"))?;
        let (operations, queue) = mpsc::channel(WAITING_MAX);
        let mut client = EchoClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let answers = client.pipeline(Frames { queue, waiting: Vec::new() }).await?.into_inner();
        let waiting = Arc::new(Mutex::default());
        tokio::spawn(read(answers, Arc::clone(&waiting)));
        Ok(Self { operations, waiting })
    }

    pub(crate) async fn put(&self, key: String, value: &Bytes) -> Result<(), Failure> {
        let put = PutRequest { key: key.into(), value: value.clone(), ..PutRequest::default() };
        self.ask(Asked::Put(put)).await
    }

    pub(crate) async fn get(&self, key: String) -> Result<(), Failure> {
        self.ask(Asked::Get(GetRequest { key: key.into(), ..GetRequest::default() })).await
    }

    async fn ask(&self, request: Asked) -> Result<(), Failure> {
        let ended = || "the stream has ended".to_owned();
        let (answer, answered) = oneshot::channel();
        let id = {
            let mut waiting = self.waiting.lock();
            if waiting.ended {
                return Err(ended());
            }
            waiting.last_id += 1;
            let id = waiting.last_id;
            waiting.by_id.insert(id, answer);
            id
        };
        let operation = Operation { id, deadline_ms: 0, request: Some(request) };
        self.operations.send(operation).await.map_err(|_closed| ended())?;
        answered.await.map(drop).map_err(|_dropped| ended())
    }
}

async fn read(mut answers: Streaming<PipelineResponse>, waiting: Arc<Mutex<Waiting>>) {
    // A broken stream is told to those who wait, each by its dropped answer.
    while let Ok(Some(frame)) = answers.message().await {
        let mut waiting = waiting.lock();
        for result in frame.results {
            if let (Some(answer), Some(response)) = (waiting.by_id.remove(&result.id), result.response) {
                // Whoever has gone away needs no answer.
                drop(answer.send(response));
            }
        }
    }
    let mut waiting = waiting.lock();
    waiting.ended = true;
    waiting.by_id.clear();
}

/// What waits, as frames: polled by the connection whenever it can take more.
struct Frames {
    queue: mpsc::Receiver<Operation>,
    /// Taken from the queue; what the last frame had no room for.
    waiting: Vec<Operation>,
}

impl Stream for Frames {
    type Item = PipelineRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { queue, waiting } = &mut *self;
        if waiting.is_empty() && ready!(queue.poll_recv_many(context, waiting, FRAME_OPERATIONS_MAX)) == 0 {
            return Poll::Ready(None);
        }
        let mut bytes = 0;
        let fitting = waiting.iter().take_while(|operation| {
            let fits = bytes < FRAME_BYTES_TARGET;
            bytes += operation.encoded_len();
            fits
        });
        let fitting = fitting.count();
        let rest = waiting.split_off(fitting);
        Poll::Ready(Some(PipelineRequest { operations: mem::replace(waiting, rest) }))
    }
}
