//! The pipeline: many operations in flight on one stream, answered as they finish.
//!
//! A call per operation costs more than the operation. Here a frame carries many, each starts at once, and whatever has
//! finished by the time the client can take a frame goes back in one.
//!
//! # Approach
//! The answering stream owns all that is in flight, and moves only when the transport asks it for a frame. So a client
//! that doesn't read its answers isn't read from either, and one that goes away takes its unfinished operations with it,
//! without a task that has to be told.
//!
//! # Bounds
//! At most [`PIPELINE_WINDOW_MAX`] operations and about [`WINDOW_BYTES_MAX`] bytes of requests are in flight; beyond
//! either, nothing is read and HTTP/2's windows fill up. A frame of the client's has at most [`FRAME_OPERATIONS_MAX`]
//! operations and [`REQUEST_BYTES_MAX`] bytes, or the stream fails with an error that names the limit. A frame of answers
//! is ended when it reaches [`FRAME_BYTES_TARGET`]. What answers weigh is not known when their operations start. Those that
//! this node gives are made one by one, when there is room for a frame; those of other nodes arrive by themselves, and
//! wait in a bounded room of the node's.
//!
//! # What fails what
//! An operation that makes no sense fails alone, by its id. A frame that breaks a limit fails the stream: its client is
//! broken, and what it thinks is in flight can't be told.

use std::{collections::VecDeque, time::Duration};

use futures::{
    FutureExt as _, StreamExt as _,
    stream::{self, BoxStream, FuturesUnordered},
};
use kvd_proto::{
    error::to_status,
    operation::{reply_to_wire, request_from_wire},
    v1::{Operation, OperationResult, PipelineRequest, PipelineResponse},
};
use kvd_types::{
    Error,
    limits::{FRAME_OPERATIONS_MAX, PIPELINE_WINDOW_MAX, REQUEST_BYTES_MAX},
};
use prost::Message as _;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};

use super::kv::method_of;
use crate::front::{Front, deadline_after};

/// Bytes of requests in flight beyond which no frame is read.
const WINDOW_BYTES_MAX: usize = 4 * REQUEST_BYTES_MAX;
/// A frame of answers takes no more results once it has so many bytes.
const FRAME_BYTES_TARGET: usize = 1 << 20;

/// Serves a client's pipeline until the client ends it, or until told to stop; what is in flight is answered first.
pub(super) fn serve(
    front: Front,
    frames: Streaming<PipelineRequest>,
    shutdown: CancellationToken,
) -> BoxStream<'static, Result<PipelineResponse, Status>> {
    // Boxed, so that the type of an operation's future needs no name.
    let start = move |operation: Operation, bytes: usize| {
        let front = front.clone();
        async move { Done { result: execute(&front, operation).await, request_bytes: bytes } }.boxed()
    };
    let pipeline = Pipeline {
        start,
        frames: Some(frames),
        backlog: VecDeque::new(),
        in_flight: FuturesUnordered::new(),
        in_flight_bytes: 0,
        carried: None,
        shutdown,
    };
    stream::unfold(pipeline, |mut pipeline| async move {
        let frame = pipeline.next_frame().await?;
        Some((frame, pipeline))
    })
    .boxed()
}

async fn execute(front: &Front, operation: Operation) -> OperationResult {
    let named = (operation.deadline_ms > 0).then(|| Duration::from_millis(operation.deadline_ms.into()));
    let deadline = deadline_after(named);
    let (method, request) = match operation.request {
        Some(wire) => (method_of(&wire), request_from_wire(wire)),
        None => {
            ("none", Err(Error::invalid("the operation says nothing that this version of the server knows")))
        }
    };
    let answer = front.execute(method, "pipeline", request, deadline).await;
    OperationResult { id: operation.id, response: Some(reply_to_wire(answer)) }
}

/// An operation's result, and how many bytes its request took of the window.
struct Done {
    result: OperationResult,
    request_bytes: usize,
}

struct Pipeline<S> {
    start: S,
    /// `None` once there is nothing more to read.
    frames: Option<Streaming<PipelineRequest>>,
    /// Operations of the last frame that the window had no room for yet.
    backlog: VecDeque<Operation>,
    in_flight: FuturesUnordered<futures::future::BoxFuture<'static, Done>>,
    in_flight_bytes: usize,
    /// A result that didn't fit the last frame.
    carried: Option<OperationResult>,
    shutdown: CancellationToken,
}

impl<S> Pipeline<S>
where
    S: Fn(Operation, usize) -> futures::future::BoxFuture<'static, Done>,
{
    /// The next frame of answers: as soon as there is one result, with all others that are there by then.
    async fn next_frame(&mut self) -> Option<Result<PipelineResponse, Status>> {
        loop {
            self.admit();
            if let Some(carried) = self.carried.take() {
                return Some(Ok(self.gather(carried)));
            }
            let has_room = self.backlog.is_empty() && self.in_flight_bytes < WINDOW_BYTES_MAX;
            let frames =
                self.frames.as_mut().filter(|_| has_room && self.in_flight.len() < PIPELINE_WINDOW_MAX);
            if frames.is_none() && self.in_flight.is_empty() {
                return None;
            }
            // Reading first lets operations meet in the core's batches; the window keeps it from starving answers.
            tokio::select! {
                biased;
                frame = read(frames, &self.shutdown) => match frame {
                    Ok(Some(frame)) => match check(&frame) {
                        Ok(()) => self.backlog.extend(frame.operations),
                        Err(error) => return Some(Err(self.fail(to_status(&error)))),
                    },
                    Ok(None) => self.frames = None,
                    Err(status) => return Some(Err(self.fail(status))),
                },
                Some(done) = self.in_flight.next() => {
                    let result = self.landed(done);
                    return Some(Ok(self.gather(result)));
                }
            }
        }
    }

    /// Starts operations of the backlog while the window has room.
    fn admit(&mut self) {
        while self.in_flight.len() < PIPELINE_WINDOW_MAX && self.in_flight_bytes < WINDOW_BYTES_MAX {
            let Some(operation) = self.backlog.pop_front() else { return };
            let bytes = operation.encoded_len();
            self.in_flight_bytes += bytes;
            self.in_flight.push((self.start)(operation, bytes));
        }
    }

    fn landed(&mut self, done: Done) -> OperationResult {
        self.in_flight_bytes = self.in_flight_bytes.saturating_sub(done.request_bytes);
        done.result
    }

    /// A frame that begins with this result, with whatever else has finished.
    fn gather(&mut self, first: OperationResult) -> PipelineResponse {
        let mut bytes = first.encoded_len();
        let mut results = vec![first];
        while results.len() < FRAME_OPERATIONS_MAX && bytes < FRAME_BYTES_TARGET {
            let Some(Some(done)) = self.in_flight.next().now_or_never() else { break };
            let result = self.landed(done);
            bytes += result.encoded_len();
            if bytes > FRAME_BYTES_TARGET {
                self.carried = Some(result);
                break;
            }
            results.push(result);
        }
        PipelineResponse { results }
    }

    /// Ends the stream with this status: nothing more is read or answered.
    fn fail(&mut self, status: Status) -> Status {
        self.frames = None;
        self.backlog.clear();
        self.in_flight = FuturesUnordered::new();
        status
    }
}

/// The client's next frame; `None` at its end, or when the server stops. Waits for ever if there is nothing to read from.
async fn read(
    frames: Option<&mut Streaming<PipelineRequest>>,
    shutdown: &CancellationToken,
) -> Result<Option<PipelineRequest>, Status> {
    let Some(frames) = frames else { return std::future::pending().await };
    tokio::select! {
        biased;
        () = shutdown.cancelled() => Ok(None),
        frame = frames.message() => frame,
    }
}

fn check(frame: &PipelineRequest) -> Result<(), Error> {
    let operations = frame.operations.len();
    if operations > FRAME_OPERATIONS_MAX {
        return Err(Error::invalid(format!(
            "the frame has {operations} operations; a frame has at most {FRAME_OPERATIONS_MAX}"
        )));
    }
    let bytes = frame.encoded_len();
    if bytes > REQUEST_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the frame has {bytes} bytes; a frame has at most {REQUEST_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}
