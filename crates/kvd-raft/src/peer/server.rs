//! The receiving side.

use std::{collections::VecDeque, sync::Arc};

use futures::{
    FutureExt as _, StreamExt as _,
    future::BoxFuture,
    stream::{BoxStream, FuturesUnordered},
};
use kvd_proto::{
    error::to_status,
    peer::v1::{
        self as p,
        peer_server::{Peer, PeerServer},
    },
};
use kvd_types::{Error, ReplicaId, Result};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::{
    CALLS_PER_LANE_MAX, FRAME_BYTES_MAX, FRAME_BYTES_TARGET, FRAME_MESSAGES_MAX, Handshake,
    fence::{Fence, LaneNumber},
};
use crate::group::Group;

/// Frames of answers that may wait in a connection.
const FRAMES_WAITING_MAX: usize = 4;
/// Bytes of answers that may wait for a frame. At the bound no call is taken and none goes on, until some have been sent.
const ANSWERS_WAITING_BYTES_MAX: usize = 4 * FRAME_BYTES_TARGET;

/// What a node does with calls.
pub trait PeerHandler: Send + Sync + 'static {
    /// Whether a caller may talk to this node's groups, and until when: its lanes end when the token is cancelled.
    ///
    /// # Errors
    /// Whatever is wrong with it, in words that tell an operator what to do.
    fn admit(&self, caller: &Handshake) -> Result<CancellationToken>;

    /// Who this node is, for its callers to check before they believe what it answers.
    fn introduce(&self) -> Handshake;

    /// Says who this node is, to a caller that shows the cluster's token.
    ///
    /// # Errors
    /// Permission denied, for another token.
    fn probe(&self, caller: &Handshake) -> Result<p::ProbeResponse>;

    /// Takes a change to the meta group, or to the node that leads it.
    fn propose_meta(
        &self,
        caller: Handshake,
        request: p::ProposeMetaRequest,
    ) -> BoxFuture<'static, Result<p::ProposeMetaResponse>>;

    /// Serves a message. The future's first poll hands it over, so that messages polled in order arrive in order.
    fn handle(&self, message: p::Envelope) -> BoxFuture<'static, p::Envelope>;

    /// Whether this node has room for a checkpoint, asked before any of it is received.
    ///
    /// # Errors
    /// It hasn't.
    fn check_checkpoint(&self, header: &p::CheckpointHeader) -> BoxFuture<'static, Result<()>>;

    /// The replica of this id on this node.
    fn replica(&self, id: ReplicaId) -> Option<Group>;
}

/// The `Peer` service of a node.
pub struct PeerService<H> {
    handler: Arc<H>,
    serving: CancellationToken,
    fence: Fence,
}

impl<H: PeerHandler> PeerService<H> {
    /// The service, to be added to a tonic server. Its lanes end when `serving` is cancelled.
    #[must_use]
    pub fn server(handler: Arc<H>, serving: CancellationToken) -> PeerServer<Self> {
        PeerServer::new(Self { handler, serving, fence: Fence::default() })
            .max_decoding_message_size(FRAME_BYTES_MAX)
    }

    fn admit<T>(&self, request: &Request<T>) -> Result<(Handshake, CancellationToken), Status> {
        Handshake::read(request.metadata())
            .and_then(|caller| self.handler.admit(&caller).map(|admitted| (caller, admitted)))
            .map_err(|error| to_status(&error))
    }

    /// An answer that says whose it is.
    fn introduced<T>(&self, answer: T) -> Result<Response<T>, Status> {
        let mut response = Response::new(answer);
        let written = self.handler.introduce().write(response.metadata_mut());
        written.map_err(|error| to_status(&error))?;
        Ok(response)
    }
}

#[tonic::async_trait]
impl<H: PeerHandler> Peer for PeerService<H> {
    type LaneStream = BoxStream<'static, Result<p::Frame, Status>>;

    async fn probe(&self, request: Request<p::ProbeRequest>) -> Result<Response<p::ProbeResponse>, Status> {
        let caller = Handshake::read(request.metadata()).map_err(|error| to_status(&error))?;
        self.handler.probe(&caller).map(Response::new).map_err(|error| to_status(&error))
    }

    async fn propose_meta(
        &self,
        request: Request<p::ProposeMetaRequest>,
    ) -> Result<Response<p::ProposeMetaResponse>, Status> {
        let caller = Handshake::read(request.metadata()).map_err(|error| to_status(&error))?;
        let proposed = self.handler.propose_meta(caller, request.into_inner()).await;
        proposed.map(Response::new).map_err(|error| to_status(&error))
    }

    async fn lane(
        &self,
        request: Request<Streaming<p::Frame>>,
    ) -> Result<Response<Self::LaneStream>, Status> {
        let (caller, admitted) = self.admit(&request)?;
        let turn = LaneNumber::read(request.metadata())
            .map(|lane| self.fence.open(caller.from, caller.incarnation, lane))
            .transpose()
            .map_err(|error| to_status(&error))?;
        let (frames, outgoing) = mpsc::channel(FRAMES_WAITING_MAX);
        let lane = serve_lane(Arc::clone(&self.handler), request.into_inner(), frames);
        let serving = self.serving.clone();
        let lane = async move {
            match turn {
                Some(turn) => turn.serve(lane).await,
                None => lane.await,
            }
        };
        tokio::spawn(async move { serving.run_until_cancelled(admitted.run_until_cancelled(lane)).await });
        self.introduced(ReceiverStream::new(outgoing).boxed())
    }

    async fn send_checkpoint(
        &self,
        request: Request<Streaming<p::CheckpointChunk>>,
    ) -> Result<Response<p::SendCheckpointResponse>, Status> {
        self.admit(&request)?;
        let mut chunks = request.into_inner();
        let first = chunks.message().await?.unwrap_or_default();
        let Some(header) = first.header else {
            return Err(to_status(&Error::invalid("the first piece of a checkpoint has no header")));
        };
        let to = ReplicaId(header.to_replica);
        let group = self.handler.replica(to).filter(|group| group.id().get() == header.group);
        let Some(group) = group else {
            return Err(to_status(&Error::unavailable(format!("replica {to} is not on this node"))));
        };
        self.handler.check_checkpoint(&header).await.map_err(|error| to_status(&error))?;
        let rest = chunks.map(|chunk| match chunk {
            Ok(chunk) => Ok(chunk.data),
            Err(status) => Err(Error::unavailable(format!("the checkpoint broke off: {}", status.message()))),
        });
        let pieces = futures::stream::iter([Ok(first.data)]).chain(rest);
        let installed = group.receive_checkpoint(header, pieces.boxed()).await;
        self.introduced(installed.map_err(|error| to_status(&error))?)
    }
}

/// Serves a lane's calls until the caller hangs up. Calls are handed over in the order of the frames.
async fn serve_lane<H: PeerHandler>(
    handler: Arc<H>,
    mut calls: Streaming<p::Frame>,
    answers: mpsc::Sender<Result<p::Frame, Status>>,
) {
    let mut serving: FuturesUnordered<BoxFuture<'static, p::Envelope>> = FuturesUnordered::new();
    let mut ready = Ready::default();
    loop {
        let is_full = ready.bytes >= ANSWERS_WAITING_BYTES_MAX;
        let room = serving.len() + ready.answers.len() < CALLS_PER_LANE_MAX && !is_full;
        tokio::select! {
            frame = calls.message(), if room => match frame {
                Ok(Some(frame)) => {
                    for message in frame.envelopes {
                        match hand_over(&handler, message) {
                            Ok(answer) => ready.push(answer),
                            Err(unfinished) => serving.push(unfinished),
                        }
                    }
                }
                Ok(None) | Err(_) => return,
            },
            Some(answer) = serving.next(), if !is_full => {
                ready.push(answer);
                // Whatever else is ready goes along.
                while ready.bytes < ANSWERS_WAITING_BYTES_MAX
                    && let Some(Some(answer)) = serving.next().now_or_never()
                {
                    ready.push(answer);
                }
            }
            slot = answers.reserve(), if !ready.answers.is_empty() => match slot {
                Ok(slot) => slot.send(Ok(ready.take_frame())),
                Err(_closed) => return,
            },
        }
    }
}

/// Answers that wait for a frame, in the order in which they came about.
#[derive(Default)]
struct Ready {
    answers: VecDeque<p::Envelope>,
    bytes: usize,
}

impl Ready {
    fn push(&mut self, answer: p::Envelope) {
        self.bytes += answer.encoded_len();
        self.answers.push_back(answer);
    }

    /// The next frame: at least one answer, and no more than the caller decodes, whatever each of them weighs.
    fn take_frame(&mut self) -> p::Frame {
        let mut frame = p::Frame::default();
        let mut bytes = 0;
        while frame.envelopes.len() < FRAME_MESSAGES_MAX
            && bytes < FRAME_BYTES_TARGET
            && let Some(answer) = self.answers.pop_front()
        {
            let answer_bytes = answer.encoded_len();
            bytes += answer_bytes;
            self.bytes = self.bytes.saturating_sub(answer_bytes);
            frame.envelopes.push(answer);
        }
        frame
    }
}

/// Hands a call over, here and now: its answer, or the rest of the way to it.
///
/// The order in which calls reach a group matters: an append that overtakes another is answered with a conflict, which
/// openraft takes for a log that has gone back. So the first step is not left to whatever polls the future first, nor
/// to tokio's budget for cooperating tasks, which would put off some of them.
fn hand_over<H: PeerHandler>(
    handler: &Arc<H>,
    message: p::Envelope,
) -> Result<p::Envelope, BoxFuture<'static, p::Envelope>> {
    let call = message.call;
    let mut serving = tokio::task::unconstrained(handler.handle(message)).boxed();
    match serving.as_mut().now_or_never() {
        Some(answer) => Ok(p::Envelope { call, ..answer }),
        None => Err(async move { p::Envelope { call, ..serving.await } }.boxed()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kvd_proto::v1;

    use super::*;

    fn answer(call: u64, value_bytes: usize) -> p::Envelope {
        use v1::operation_result::Response;

        let kv = v1::KeyValue { value: Bytes::from(vec![0; value_bytes]), ..Default::default() };
        let response = Response::Get(v1::GetResponse { kv: Some(kv), ..Default::default() });
        let result = v1::OperationResult { id: 0, response: Some(response) };
        p::Envelope { call, body: Some(p::envelope::Body::OperationResult(result)), ..Default::default() }
    }

    #[test]
    fn a_frame_of_answers_is_never_larger_than_what_its_receiver_decodes() {
        let mut ready = Ready::default();
        let sizes = (0..600).map(|call| if call % 3 == 0 { 1 << 20 } else { 10 });
        (0..).zip(sizes).for_each(|(call, bytes)| ready.push(answer(call, bytes)));
        let mut calls = Vec::new();
        while !ready.answers.is_empty() {
            let frame = ready.take_frame();
            assert!(!frame.envelopes.is_empty() && frame.envelopes.len() <= FRAME_MESSAGES_MAX);
            assert!(frame.encoded_len() <= FRAME_BYTES_MAX, "{} bytes", frame.encoded_len());
            calls.extend(frame.envelopes.iter().map(|answer| answer.call));
        }
        assert_eq!((calls, ready.bytes), ((0..600).collect(), 0));
    }
}
