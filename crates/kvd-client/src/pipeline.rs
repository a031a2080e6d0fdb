//! One stream of operations to one node.
//!
//! # The approach
//! A `Pipeline` call is a bidirectional stream of frames, and each frame carries many operations. Callers put operations
//! into a queue; whenever the connection can take more, everything that waits there (up to [`FRAME_OPERATIONS_MAX`] and
//! [`FRAME_BYTES_TARGET`]) goes out as one frame. No timer: an operation alone leaves at once, and frames grow by
//! themselves while the connection is busy. A task reads the answers, which come in any order, and wakes the callers.
//!
//! # Invariants
//! - At most [`PIPELINE_WINDOW_MAX`] operations are in flight; up to [`WAITING_MAX`] further callers wait their turn, up to their
//!   deadline. Who comes beyond those is refused at once: his turn would take long to come, and that of all after him longer.
//! - Each operation ends once: by its answer, by the end of the stream, or by its caller's leaving. A write whose caller
//!   was dropped stays in the table, and keeps its sequence number open, until it is answered or its deadline passes.
//! - A try is given up only when the node has sent nothing at all for as long as a try may take: one that is busy, but
//!   answers, is not asked again, nor are others in its place. That would add load where there is too much already.
//!
//! # What it deliberately does not do
//! It doesn't retry or reconnect: a broken pipeline stays broken, and its operations fail as *lost*.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use kvd_proto::v1::{
    self, kv_client::KvClient, operation::Request as WireRequest, operation_result::Response as WireResponse,
};
use kvd_types::{
    Error, ErrorKind,
    limits::{FRAME_OPERATIONS_MAX, MESSAGE_BYTES_MAX, PIPELINE_WINDOW_MAX},
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot},
    time::{Instant, MissedTickBehavior, timeout_at},
};
use tokio_stream::Stream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Streaming, transport::Channel};

use crate::session::OpenSequence;

/// Target size of one frame; a single larger operation still makes a frame.
const FRAME_BYTES_TARGET: usize = 1 << 20;
/// Callers that may wait until fewer operations are in flight: at a node that is busy their turn comes within a second or so.
const WAITING_MAX: usize = 16 * PIPELINE_WINDOW_MAX;
/// The pause that is asked of those for whom there is no room.
pub(crate) const CROWDED_RETRY_AFTER: Duration = Duration::from_millis(100);
/// How often writes whose callers have left are looked through for those past their deadline.
const SWEEP_INTERVAL: Duration = Duration::from_millis(500);

/// How a try ended without success.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The operation did not leave this process.
    NotSent(Error),
    /// The same, because so many wait that it should not.
    Crowded(Error),
    /// It may have been sent, and there is no answer.
    Lost(Error),
    /// The server answered with an error.
    Refused(Error),
}

/// A stream of operations to one node.
#[derive(Debug)]
pub(crate) struct Pipeline {
    operations: mpsc::Sender<v1::Operation>,
    table: Arc<Table>,
    _reader: AbortOnDropHandle<()>,
}

impl Pipeline {
    /// Opens the stream.
    ///
    /// # Errors
    /// Unavailable, if the node can't be reached or doesn't answer.
    pub(crate) async fn open(channel: Channel, address: &str) -> Result<Self, Error> {
        let (operations, queue) = mpsc::channel(PIPELINE_WINDOW_MAX);
        let mut client = KvClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let responses = client
            .pipeline(Frames { queue, waiting: Vec::new() })
            .await
            .map_err(|status| Error::unavailable(format!("node {address}: {}", describe(&status))))?
            .into_inner();
        let table = Arc::new(Table::default());
        let reader = tokio::spawn(read(responses, Arc::clone(&table), address.to_owned()));
        Ok(Self { operations, table, _reader: AbortOnDropHandle::new(reader) })
    }

    /// Whether operations may still be sent.
    pub(crate) fn is_open(&self) -> bool {
        self.table.is_open()
    }

    /// Sends an operation and waits for its answer until the end of the try, longer while others are answered. `sequence`
    /// is a write's, which the operation holds open until `deadline` even if the caller is dropped.
    pub(crate) async fn call(
        &self,
        request: WireRequest,
        sequence: Option<&Arc<OpenSequence>>,
        try_until: Instant,
        deadline: Instant,
    ) -> Result<WireResponse, Failure> {
        let permit = self.table.enter(try_until).await?;
        let (answer, mut answered) = oneshot::channel();
        let entry = Entry { answer, _sequence: sequence.map(Arc::clone), deadline, _permit: permit };
        let id = self.table.insert(entry)?;
        let waiter = Waiter { table: &self.table, id, is_write: sequence.is_some() };

        let try_time = try_until.saturating_duration_since(Instant::now());
        let deadline_ms = u32::try_from(try_time.as_millis()).unwrap_or(u32::MAX).max(1);
        let operation = v1::Operation { id, deadline_ms, request: Some(request) };
        if self.operations.try_send(operation).is_err() {
            self.table.remove(id);
            return Err(Failure::NotSent(self.table.window_full()));
        }
        let mut until = try_until;
        let answer = loop {
            let Ok(answer) = timeout_at(until, &mut answered).await else {
                let heard = self.table.entries.lock().heard + try_time;
                if until >= deadline || heard <= until {
                    // The caller goes on and holds the sequence number itself.
                    self.table.remove(id);
                    return Err(Failure::Lost(Error::unknown("the node did not answer in time")));
                }
                until = heard.min(deadline);
                continue;
            };
            break answer;
        };
        drop(waiter);
        answer.map_err(|_broken| {
            Failure::Lost(Error::unknown("the stream to the node broke before the answer"))
        })
    }
}

/// A status for people: what tonic says and why.
pub(crate) fn describe(status: &tonic::Status) -> String {
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// The operations in flight.
#[derive(Debug)]
struct Table {
    entries: Mutex<Entries>,
    /// A permit for each operation in flight; closed when the stream has ended.
    window: Arc<Semaphore>,
    /// A permit for each caller that waits for one of those.
    waiting: Semaphore,
}

#[derive(Debug)]
struct Entries {
    ended: bool,
    /// When the last frame came.
    heard: Instant,
    last_id: u64,
    by_id: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    answer: oneshot::Sender<WireResponse>,
    /// A write's number, which stays open as long as this entry.
    _sequence: Option<Arc<OpenSequence>>,
    deadline: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Default for Table {
    fn default() -> Self {
        let entries = Entries { ended: false, heard: Instant::now(), last_id: 0, by_id: HashMap::new() };
        let window = Arc::new(Semaphore::new(PIPELINE_WINDOW_MAX));
        Self { entries: Mutex::new(entries), window, waiting: Semaphore::new(WAITING_MAX) }
    }
}

impl Table {
    fn is_open(&self) -> bool {
        !self.window.is_closed()
    }

    /// Waits until one more may be in flight.
    async fn enter(&self, until: Instant) -> Result<OwnedSemaphorePermit, Failure> {
        if let Ok(permit) = Arc::clone(&self.window).try_acquire_owned() {
            return Ok(permit);
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            let message = format!("{WAITING_MAX} callers wait already to ask the node, the most that may");
            return Err(Failure::Crowded(Error::overloaded(CROWDED_RETRY_AFTER, message)));
        };
        timeout_at(until, Arc::clone(&self.window).acquire_owned())
            .await
            .map_err(|_elapsed| Failure::NotSent(self.window_full()))?
            .map_err(|_closed| Failure::NotSent(Error::unavailable("the stream to the node has broken")))
    }

    fn window_full(&self) -> Error {
        if self.is_open() {
            let message =
                format!("{PIPELINE_WINDOW_MAX} operations are in flight to the node, the most that may be");
            Error::overloaded(Duration::ZERO, message)
        } else {
            Error::unavailable("the stream to the node has broken")
        }
    }

    fn insert(&self, entry: Entry) -> Result<u64, Failure> {
        let mut entries = self.entries.lock();
        if entries.ended {
            return Err(Failure::NotSent(Error::unavailable("the stream to the node has broken")));
        }
        entries.last_id += 1;
        let id = entries.last_id;
        entries.by_id.insert(id, entry);
        Ok(id)
    }

    fn remove(&self, id: u64) {
        let entry = self.entries.lock().by_id.remove(&id);
        // Its sequence number is settled only now, outside the lock.
        drop(entry);
    }

    fn complete(&self, frame: v1::PipelineResponse) {
        let mut answered = Vec::with_capacity(frame.results.len());
        {
            let mut entries = self.entries.lock();
            entries.heard = Instant::now();
            for result in frame.results {
                if let Some(entry) = entries.by_id.remove(&result.id) {
                    answered.push((entry, result.response));
                }
            }
        }
        for (entry, response) in answered {
            let response = response.unwrap_or_else(|| {
                let error = Error::new(
                    ErrorKind::Internal,
                    "the server sent a result of a kind unknown to this client",
                );
                WireResponse::Error(kvd_proto::error::to_wire(&error))
            });
            if entry.answer.send(response).is_err() {
                tracing::trace!("an answer came after its caller had left");
            }
        }
    }

    /// Lets go of operations whose callers have left and whose deadlines have passed.
    fn sweep(&self, now: Instant) {
        let mut expired = Vec::new();
        let mut entries = self.entries.lock();
        expired
            .extend(entries.by_id.extract_if(|_, entry| entry.answer.is_closed() && entry.deadline <= now));
        drop(entries);
    }

    fn end(&self) {
        self.window.close();
        let lost = {
            let mut entries = self.entries.lock();
            entries.ended = true;
            std::mem::take(&mut entries.by_id)
        };
        drop(lost);
    }
}

/// A caller in wait. If it is dropped, a read leaves the table with it; a write stays until it is decided.
struct Waiter<'a> {
    table: &'a Table,
    id: u64,
    is_write: bool,
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        if !self.is_write {
            self.table.remove(self.id);
        }
    }
}

async fn read(mut responses: Streaming<v1::PipelineResponse>, table: Arc<Table>, address: String) {
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            frame = responses.message() => match frame {
                Ok(Some(frame)) => table.complete(frame),
                Ok(None) => {
                    tracing::debug!(address, "the node ended the stream");
                    break;
                }
                Err(status) => {
                    tracing::debug!(address, error = describe(&status), "the stream broke");
                    break;
                }
            },
            _ = sweep.tick() => table.sweep(Instant::now()),
        }
    }
    table.end();
}

/// The operations that wait, as frames: polled by the connection whenever it can take more.
struct Frames {
    queue: mpsc::Receiver<v1::Operation>,
    /// Taken from the queue; those that the last frame had no room for.
    waiting: Vec<v1::Operation>,
}

impl Stream for Frames {
    type Item = v1::PipelineRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        if this.waiting.is_empty() {
            let taken = ready!(this.queue.poll_recv_many(context, &mut this.waiting, FRAME_OPERATIONS_MAX));
            if taken == 0 {
                return Poll::Ready(None);
            }
        }
        let fitting = fitting(this.waiting.iter().map(v1::Operation::encoded_len));
        let operations = if fitting >= this.waiting.len() {
            std::mem::take(&mut this.waiting)
        } else {
            this.waiting.drain(..fitting).collect()
        };
        Poll::Ready(Some(v1::PipelineRequest { operations }))
    }
}

/// How many operations of these sizes make a frame: at least one.
fn fitting(sizes: impl Iterator<Item = usize>) -> usize {
    let within_target = sizes
        .scan(0_usize, |total, size| {
            *total += size;
            Some(*total)
        })
        .take_while(|&total| total <= FRAME_BYTES_TARGET)
        .count();
    within_target.max(1)
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, StreamExt as _};

    use super::*;

    fn operation(id: u64, bytes: usize) -> v1::Operation {
        let request = WireRequest::Put(v1::PutRequest { value: vec![0; bytes].into(), ..Default::default() });
        v1::Operation { id, deadline_ms: 0, request: Some(request) }
    }

    #[tokio::test]
    async fn a_frame_takes_what_waits_up_to_its_size() {
        let (sender, queue) = mpsc::channel(16);
        let mut frames = Frames { queue, waiting: Vec::new() };
        assert!(frames.next().now_or_never().is_none(), "nothing waits");
        for (id, bytes) in [(1, 10), (2, 10), (3, FRAME_BYTES_TARGET), (4, FRAME_BYTES_TARGET), (5, 10)] {
            sender.try_send(operation(id, bytes)).unwrap();
        }
        drop(sender);
        let mut sent = Vec::new();
        while let Some(frame) = frames.next().await {
            sent.push(frame.operations.iter().map(|operation| operation.id).collect::<Vec<_>>());
        }
        assert_eq!(sent, [vec![1, 2], vec![3], vec![4], vec![5]]);
    }

    #[tokio::test]
    async fn who_would_wait_behind_too_many_is_refused_at_once() {
        let (table, many) = (Table::default(), |count: usize| u32::try_from(count).unwrap());
        let soon = Instant::now() + Duration::from_secs(10);
        let in_flight = Arc::clone(&table.window).try_acquire_many_owned(many(PIPELINE_WINDOW_MAX)).unwrap();
        let others = table.waiting.try_acquire_many(many(WAITING_MAX - 1)).unwrap();
        let mut last = Box::pin(table.enter(soon));
        assert!((&mut last).now_or_never().is_none(), "one more may wait");
        let refused = table.enter(soon).now_or_never().expect("at once").unwrap_err();
        let Failure::Crowded(error) = refused else { panic!("{refused:?}") };
        assert_eq!(error.kind, ErrorKind::Overloaded { retry_after: CROWDED_RETRY_AFTER });
        drop(others);
        drop(in_flight);
        let permit = last.await.unwrap();
        drop(permit);
        assert_eq!(table.waiting.available_permits(), WAITING_MAX);
        assert_eq!(table.window.available_permits(), PIPELINE_WINDOW_MAX);
    }

    #[tokio::test]
    async fn a_frame_has_at_most_so_many_operations() {
        let (sender, queue) = mpsc::channel(PIPELINE_WINDOW_MAX);
        let mut frames = Frames { queue, waiting: Vec::new() };
        for id in 0..=FRAME_OPERATIONS_MAX as u64 {
            sender.try_send(operation(id, 1)).unwrap();
        }
        assert_eq!(frames.next().await.unwrap().operations.len(), FRAME_OPERATIONS_MAX);
        assert_eq!(frames.next().await.unwrap().operations.len(), 1);
    }
}
