//! The calling side.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_proto::{
    net::Dialer,
    peer::v1::{self as p, peer_client::PeerClient},
};
use kvd_storage::checkpoint::Checkpoint;
use kvd_types::{Error, NodeId, Result};
use parking_lot::{Mutex, RwLock};
use prost::Message as _;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Streaming,
    metadata::MetadataMap,
    transport::{Channel, Endpoint},
};

use super::{
    FRAME_BYTES_MAX, FRAME_BYTES_TARGET, FRAME_MESSAGES_MAX, Handshake, QUEUE_MAX, fence::LaneNumber,
};
use crate::{
    blocking::Blocking,
    transport::{CallError, Lane, Transport},
};

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(1000);
/// How long a node that could not be reached is left alone.
const CONNECT_PAUSE: Duration = Duration::from_millis(100);
/// A silent connection is asked for a sign of life this often…
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_millis(1000);
/// …and given up after this long without one.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1500);
/// HTTP/2 windows: enough for the frames in flight on one lane.
const WINDOW_BYTES: u32 = 8 << 20;
/// Frames that may wait in a connection.
const FRAMES_WAITING_MAX: usize = 4;
/// A checkpoint goes in pieces of this size.
const PIECE_BYTES: usize = 1 << 20;

/// Where nodes can be reached: kept up to date by whoever knows the registry.
#[derive(Clone, Debug, Default)]
pub struct AddressBook(Arc<RwLock<BTreeMap<NodeId, String>>>);

impl AddressBook {
    /// Sets a node's peer address, `host:port`.
    pub fn set(&self, node: NodeId, address: String) {
        self.0.write().insert(node, address);
    }

    /// Forgets a node that is in the cluster no more: nobody connects to its address in its name again.
    pub fn remove(&self, node: NodeId) {
        self.0.write().remove(&node);
    }

    /// A node's peer address.
    #[must_use]
    pub fn get(&self, node: NodeId) -> Option<String> {
        self.0.read().get(&node).cloned()
    }

    /// All nodes whose peer addresses are known.
    #[must_use]
    pub fn all(&self) -> Vec<(NodeId, String)> {
        self.0.read().iter().map(|(&node, address)| (node, address.clone())).collect()
    }
}

/// Connects to a node's peer port.
///
/// # Errors
/// Unavailable: the address is no address, or nobody answers there.
pub async fn connect(dialer: &Dialer, address: &str) -> Result<PeerClient<Channel>> {
    let failed = |error: tonic::transport::Error| {
        let cause =
            std::error::Error::source(&error).map_or_else(String::new, |source| format!(": {source}"));
        Error::unavailable(format!("no connection to {address}: {error}{cause}"))
    };
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(failed)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES);
    let channel = dialer.connect(&endpoint).await.map_err(failed)?;
    Ok(PeerClient::new(channel).max_decoding_message_size(FRAME_BYTES_MAX))
}

/// The gRPC transport.
pub struct PeerNetwork(Arc<Shared>);

/// Judges the node that answers a lane or a checkpoint: whether it is the one that was meant, and no earlier start or copy
/// of it.
pub type Verify = Arc<dyn Fn(&Handshake) -> Result<()> + Send + Sync>;

struct Shared {
    /// Ours, but for whom it is meant.
    handshake: Handshake,
    verify: Verify,
    addresses: AddressBook,
    dialer: Dialer,
    blocking: Blocking,
    lanes: Mutex<BTreeMap<(NodeId, Lane), mpsc::Sender<Call>>>,
    /// The number of the next lane that is opened.
    next_lane: AtomicU64,
    /// How many lanes to a node are open.
    connected: Mutex<BTreeMap<NodeId, usize>>,
}

/// A message that waits for its turn, and who waits for the answer.
struct Call {
    message: p::Envelope,
    caller: oneshot::Sender<Result<p::Envelope, CallError>>,
}

impl PeerNetwork {
    /// A transport that introduces itself so, and opens lanes to nodes that pass.
    #[must_use]
    pub fn new(
        handshake: Handshake,
        addresses: AddressBook,
        verify: Verify,
        dialer: Dialer,
        blocking: Blocking,
    ) -> Self {
        Self(Arc::new(Shared {
            handshake,
            verify,
            addresses,
            dialer,
            blocking,
            lanes: Mutex::default(),
            next_lane: AtomicU64::new(0),
            connected: Mutex::default(),
        }))
    }

    /// Whether a lane to this node is open: it has answered, and not been found silent since.
    #[must_use]
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.0.connected.lock().get(&node).is_some_and(|&lanes| lanes > 0)
    }

    /// Queues a call on its lane, starting the lane with its first call.
    fn enqueue(&self, to: NodeId, lane: Lane, call: Call) -> Result<(), CallError> {
        let mut lanes = self.0.lanes.lock();
        let queue = lanes.entry((to, lane)).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(QUEUE_MAX);
            // Weak, so that the lanes end when the transport is dropped.
            tokio::spawn(LaneTask { shared: Arc::downgrade(&self.0), to, lane, calls: receiver }.run());
            sender
        });
        queue.try_send(call).map_err(|refused| {
            let what = match refused {
                mpsc::error::TrySendError::Full(_) => format!("{QUEUE_MAX} calls wait for it already"),
                mpsc::error::TrySendError::Closed(_) => "the transport has stopped".to_owned(),
            };
            CallError::Unreachable(to, what)
        })
    }
}

impl Transport for PeerNetwork {
    fn call(
        &self,
        to: NodeId,
        lane: Lane,
        message: p::Envelope,
        patience: Duration,
    ) -> BoxFuture<'static, Result<p::Envelope, CallError>> {
        let (caller, answer) = oneshot::channel();
        let queued = self.enqueue(to, lane, Call { message, caller });
        async move {
            queued?;
            match tokio::time::timeout(patience, answer).await {
                Ok(Ok(answer)) => answer.and_then(|envelope| refused(to, envelope)),
                Ok(Err(_dropped)) => Err(CallError::NoAnswer(to, "the transport has stopped".to_owned())),
                Err(_elapsed) => Err(CallError::NoAnswer(to, format!("none within {patience:?}"))),
            }
        }
        .boxed()
    }

    fn send_checkpoint(
        &self,
        to: NodeId,
        header: p::CheckpointHeader,
        checkpoint: Checkpoint,
    ) -> BoxFuture<'static, Result<p::SendCheckpointResponse, CallError>> {
        let shared = Arc::clone(&self.0);
        async move {
            let mut client = shared.client(to).await?;
            let (pieces, stream) = mpsc::channel(2);
            let reader = tokio::spawn(read_pieces(header, checkpoint, pieces, shared.blocking));
            let request = shared.request(to, ReceiverStream::new(stream))?;
            let sent = client.send_checkpoint(request).await;
            match (reader.await, sent) {
                (_, Ok(response)) => {
                    // A copy of the node's disk that has it is not the node.
                    shared.verify(to, response.metadata())?;
                    Ok(response.into_inner())
                }
                (Ok(Err(error)), Err(_)) => {
                    Err(CallError::NoAnswer(to, format!("the checkpoint can't be read: {error}")))
                }
                (_, Err(status)) => Err(CallError::NoAnswer(to, status.message().to_owned())),
            }
        }
        .boxed()
    }
}

/// Turns a refusal into an error.
fn refused(from: NodeId, envelope: p::Envelope) -> Result<p::Envelope, CallError> {
    match envelope.body {
        Some(p::envelope::Body::Refusal(refusal)) => Err(CallError::Refused(from, refusal.message)),
        _ => Ok(envelope),
    }
}

async fn read_pieces(
    header: p::CheckpointHeader,
    checkpoint: Checkpoint,
    pieces: mpsc::Sender<p::CheckpointChunk>,
    blocking: Blocking,
) -> io::Result<()> {
    let checkpoint = Arc::new(checkpoint);
    let mut header = Some(header);
    let mut offset = 0;
    while offset < checkpoint.size_bytes() {
        let from = Arc::clone(&checkpoint);
        let read = blocking.run(move || from.read_chunk(offset, PIECE_BYTES).map_err(io::Error::other));
        let data = read.await?;
        offset += data.len() as u64;
        if pieces.send(p::CheckpointChunk { header: header.take(), data }).await.is_err() {
            // The receiver has hung up; its answer says why.
            return Ok(());
        }
    }
    Ok(())
}

impl Shared {
    async fn client(&self, to: NodeId) -> Result<PeerClient<Channel>, CallError> {
        let unknown = || CallError::Unreachable(to, "its address is not known".to_owned());
        let address = self.addresses.get(to).ok_or_else(unknown)?;
        connect(&self.dialer, &address).await.map_err(|error| CallError::Unreachable(to, error.message))
    }

    fn request<T>(&self, to: NodeId, message: T) -> Result<Request<T>, CallError> {
        let mut request = Request::new(message);
        let handshake = Handshake { to, ..self.handshake.clone() };
        handshake.write(request.metadata_mut()).map_err(|error| CallError::Unreachable(to, error.message))?;
        Ok(request)
    }

    /// Judges the node that has answered. What a copy of its disk would answer must not count: it may have forgotten what the
    /// node promised.
    fn verify(&self, to: NodeId, answer: &MetadataMap) -> Result<(), CallError> {
        let verified = Handshake::read(answer).and_then(|answering| (self.verify)(&answering));
        verified.map_err(|error| CallError::Refused(to, error.message))
    }

    async fn open_lane(
        &self,
        to: NodeId,
        lane: Lane,
    ) -> Result<(mpsc::Sender<p::Frame>, Streaming<p::Frame>), CallError> {
        let mut client = self.client(to).await?;
        let (frames, outgoing) = mpsc::channel(FRAMES_WAITING_MAX);
        let mut request = self.request(to, ReceiverStream::new(outgoing))?;
        LaneNumber::new(lane, self.next_lane.fetch_add(1, Ordering::Relaxed)).write(request.metadata_mut());
        let opened = tokio::time::timeout(CONNECT_TIMEOUT, client.lane(request)).await;
        match opened {
            Ok(Ok(response)) => {
                self.verify(to, response.metadata())?;
                Ok((frames, response.into_inner()))
            }
            Ok(Err(status)) => Err(CallError::Refused(to, status.message().to_owned())),
            Err(_elapsed) => Err(CallError::Unreachable(to, "it does not open the lane".to_owned())),
        }
    }
}

/// Keeps one lane to one peer open while there are calls.
struct LaneTask {
    shared: std::sync::Weak<Shared>,
    to: NodeId,
    lane: Lane,
    calls: mpsc::Receiver<Call>,
}

impl LaneTask {
    async fn run(mut self) {
        while let Some(first) = self.calls.recv().await {
            let Some(shared) = self.shared.upgrade() else { return };
            match shared.open_lane(self.to, self.lane).await {
                Ok((frames, answers)) => {
                    *shared.connected.lock().entry(self.to).or_default() += 1;
                    drop(shared);
                    self.carry(first, frames, answers).await;
                    let Some(shared) = self.shared.upgrade() else { return };
                    *shared.connected.lock().entry(self.to).or_default() -= 1;
                }
                Err(error) => {
                    drop(shared);
                    self.refuse(first, &error).await;
                }
            }
        }
    }

    /// Fails what waits, and what comes within the pause.
    async fn refuse(&mut self, first: Call, error: &CallError) {
        tracing::debug!(to = %self.to, %error, "no lane");
        let until = Instant::now() + CONNECT_PAUSE;
        answer(first.caller, Err(error.clone()));
        while let Ok(Some(call)) = tokio::time::timeout_at(until, self.calls.recv()).await {
            answer(call.caller, Err(error.clone()));
        }
    }

    /// Sends calls and receives answers until the stream breaks; what is unanswered then fails.
    async fn carry(&mut self, first: Call, frames: mpsc::Sender<p::Frame>, mut answers: Streaming<p::Frame>) {
        let mut pending = Pending::default();
        let mut frame = p::Frame::default();
        pending.add(first, &mut frame);
        let why = loop {
            let waiting = !frame.envelopes.is_empty();
            tokio::select! {
                answered = answers.message() => match answered {
                    Ok(Some(answered)) => pending.complete(answered),
                    Ok(None) => break "it closed the lane".to_owned(),
                    Err(status) => break status.message().to_owned(),
                },
                slot = frames.reserve(), if waiting => match slot {
                    Ok(slot) => {
                        self.fill(&mut pending, &mut frame);
                        slot.send(std::mem::take(&mut frame));
                    }
                    Err(_closed) => break "the connection was closed".to_owned(),
                },
                call = self.calls.recv(), if !waiting => match call {
                    Some(call) => pending.add(call, &mut frame),
                    None => return,
                },
            }
        };
        tracing::debug!(to = %self.to, why, "a lane broke");
        pending.fail(&CallError::NoAnswer(self.to, why));
    }

    /// Takes what else waits into the frame.
    fn fill(&mut self, pending: &mut Pending, frame: &mut p::Frame) {
        let mut bytes: usize = frame.envelopes.iter().map(prost::Message::encoded_len).sum();
        while frame.envelopes.len() < FRAME_MESSAGES_MAX && bytes < FRAME_BYTES_TARGET {
            let Ok(call) = self.calls.try_recv() else { return };
            bytes += call.message.encoded_len();
            pending.add(call, frame);
        }
    }
}

/// Calls that were sent and not yet answered.
#[derive(Default)]
struct Pending {
    next_call: u64,
    callers: BTreeMap<u64, oneshot::Sender<Result<p::Envelope, CallError>>>,
}

impl Pending {
    fn add(&mut self, call: Call, frame: &mut p::Frame) {
        if call.caller.is_closed() {
            // Nobody waits any more: its time has passed while it waited.
            return;
        }
        self.next_call += 1;
        self.callers.insert(self.next_call, call.caller);
        frame.envelopes.push(p::Envelope { call: self.next_call, ..call.message });
        if self.callers.len() > QUEUE_MAX {
            self.callers.retain(|_, caller| !caller.is_closed());
        }
    }

    fn complete(&mut self, answered: p::Frame) {
        for envelope in answered.envelopes {
            if let Some(caller) = self.callers.remove(&envelope.call) {
                answer(caller, Ok(envelope));
            }
        }
    }

    fn fail(self, error: &CallError) {
        for caller in self.callers.into_values() {
            answer(caller, Err(error.clone()));
        }
    }
}

fn answer(caller: oneshot::Sender<Result<p::Envelope, CallError>>, result: Result<p::Envelope, CallError>) {
    if caller.send(result).is_err() {
        tracing::trace!("a call's caller has gone away");
    }
}
