//! Answers of other nodes to what this one has passed on, until somebody takes them.
//!
//! # The problem
//! A client that doesn't read its answers isn't asked for more work: its requests are simply not polled. But those that
//! were passed on to other nodes are answered all the same, and thousands of answers of a mebibyte each would then wait in
//! this node's memory for a client that may never read them.
//!
//! # The approach
//! Each call is made and its answer received by a task of its own, because whoever waits for it may not be polled. Before
//! the call is made it is given room: a share of [`BYTES_MAX`] by what its answer may weigh. Without room it waits for
//! [`ROOM_PATIENCE`], and then nothing has been asked. A small answer, as that to most writes, needs no room. An answer that
//! is there gives back what it doesn't need; one that weighs more than expected is kept all the same, so that
//! [`EXCESS_MAX`] times the room is what answers can take at worst. Nothing waits beyond the request's deadline: after that
//! it is of no use to anyone.
//!
//! # What is deliberately absent
//! No fairness among clients: while some stall the node, others are sent to the leaders instead of having their reads
//! passed on. What this node leads it serves all the same.

use std::{sync::Arc, time::Duration};

use futures::future::BoxFuture;
use kvd_proto::peer::v1 as p;
use kvd_raft::CallError;
use kvd_types::{
    Write, WriteOp,
    limits::{ANSWER_BYTES_MAX, SCAN_BYTES_MAX, TXN_ANSWER_BYTES_MAX, VALUE_BYTES_MAX},
    operation::Request,
};
use parking_lot::Mutex;
use prost::Message as _;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

/// The room for answers, in bytes.
const BYTES_MAX: usize = 48 << 20;
/// How long a call may wait for room: whoever makes it does better to ask the leader itself.
const ROOM_PATIENCE: Duration = Duration::from_millis(250);
/// The largest answer weighs at most so many times what is expected of it.
const EXCESS_MAX: usize = 4;
/// What is expected of an answer with one value.
const VALUE_BYTES: usize = VALUE_BYTES_MAX / EXCESS_MAX;
/// An answer that is there and no larger needs no room: there is one per request at most, and requests are bounded.
const BYTES_FREE: usize = 4 << 10;

/// What came of a call.
#[expect(clippy::large_enum_variant, reason = "each lives for a moment, on its way to its caller")]
pub(super) enum Received {
    /// This.
    Answer(Result<p::Envelope, CallError>),
    /// It was not made: there was no room.
    NotAsked,
    /// Nothing by the deadline, or something that nobody took until then.
    Late,
}

/// What an answer to a request is expected to weigh, in bytes.
pub(super) fn expected_bytes(request: &Request) -> usize {
    match request {
        Request::Get(..) => VALUE_BYTES,
        Request::Write(Write { op, .. }, _) => match op {
            WriteOp::Put { want_previous: true, .. } | WriteOp::Delete { want_previous: true, .. } => {
                VALUE_BYTES
            }
            WriteOp::Txn(txn) if txn.gives_values() => TXN_ANSWER_BYTES_MAX / EXCESS_MAX,
            WriteOp::Put { .. }
            | WriteOp::Delete { .. }
            | WriteOp::DeleteRange { .. }
            | WriteOp::Txn(_)
            | WriteOp::GrantLease { .. }
            | WriteOp::RevokeLease(_) => 0,
        },
        Request::BatchGet(keys, _) => keys.len().saturating_mul(VALUE_BYTES).min(ANSWER_BYTES_MAX),
        Request::Scan(_) | Request::Changes(_) | Request::LeaseKeys { .. } | Request::ListLeases { .. } => {
            SCAN_BYTES_MAX
        }
        Request::KeepLeaseAlive(_)
        | Request::GetLease(_)
        | Request::Snapshot(_)
        | Request::ReadPoint(_)
        | Request::Tell(..)
        | Request::OpenSession(_)
        | Request::CloseSession(..) => 0,
    }
}

/// The room for answers that wait. Cheap to clone.
#[derive(Clone)]
pub(super) struct Room(Arc<Semaphore>);

/// Where an answer waits.
#[derive(Default)]
struct Place {
    received: Mutex<Option<(Received, Option<OwnedSemaphorePermit>)>>,
    changed: Notify,
}

impl Room {
    pub(super) fn new() -> Self {
        Self(Arc::new(Semaphore::new(BYTES_MAX)))
    }

    /// Makes a call once there is room for its answer, and keeps that until it is taken, at most until the deadline.
    pub(super) async fn receive(
        &self,
        expected_bytes: usize,
        deadline: Instant,
        call: impl FnOnce() -> BoxFuture<'static, Result<p::Envelope, CallError>> + Send + 'static,
    ) -> Received {
        let place = Arc::new(Place::default());
        let gone = CancellationToken::new();
        // Whoever is dropped here wants no answer any more.
        let _guard = gone.clone().drop_guard();
        let kept = keep(Arc::clone(&place), Arc::clone(&self.0), expected_bytes, deadline, call);
        tokio::spawn(gone.run_until_cancelled_owned(kept));
        loop {
            let changed = place.changed.notified();
            if let Some((received, _room)) = place.received.lock().take() {
                return received;
            }
            changed.await;
        }
    }
}

async fn keep(
    place: Arc<Place>,
    room: Arc<Semaphore>,
    expected_bytes: usize,
    deadline: Instant,
    call: impl FnOnce() -> BoxFuture<'static, Result<p::Envelope, CallError>> + Send,
) {
    let put = |received| {
        *place.received.lock() = Some(received);
        place.changed.notify_one();
    };
    let mut given = None;
    if expected_bytes > 0 {
        let permits = u32::try_from(expected_bytes).unwrap_or(u32::MAX);
        let patience = deadline.min(Instant::now() + ROOM_PATIENCE);
        match tokio::time::timeout_at(patience, room.acquire_many_owned(permits)).await {
            Ok(Ok(room)) => given = Some(room),
            _ => return put((Received::NotAsked, None)),
        }
    }
    let Ok(answer) = tokio::time::timeout_at(deadline, call()).await else {
        return put((Received::Late, None));
    };
    let bytes = answer.as_ref().map_or(0, p::Envelope::encoded_len);
    let needed = if bytes <= BYTES_FREE { 0 } else { bytes.min(expected_bytes) };
    if let Some(given) = &mut given {
        drop(given.split(expected_bytes - needed));
    }
    put((Received::Answer(answer), given));
    tokio::time::sleep_until(deadline).await;
    put((Received::Late, None));
}

#[cfg(test)]
mod tests {
    use std::{
        future::poll_fn,
        sync::atomic::{AtomicBool, Ordering},
        task::Poll,
    };

    use bytes::Bytes;
    use futures::FutureExt as _;
    use kvd_types::NodeId;

    use super::*;

    fn answer(bytes: usize) -> p::Envelope {
        let entries = vec![p::Entry { id: None, payload: Bytes::from(vec![0; bytes]) }];
        let append = p::AppendRequest { entries, ..Default::default() };
        p::Envelope { body: Some(p::envelope::Body::Append(append)), ..Default::default() }
    }

    fn within(time: Duration) -> Instant {
        Instant::now() + time
    }

    const LONG: Duration = Duration::from_secs(60);
    const SHORT: Duration = Duration::from_millis(30);

    /// Asks for an answer of so many bytes, and is then left alone: a client that does not read.
    async fn ask(room: &Room, bytes: usize, deadline: Instant) -> BoxFuture<'static, Received> {
        let room = room.clone();
        let call = move || async move { Ok(answer(bytes)) }.boxed();
        let mut received = async move { room.receive(bytes, deadline, call).await }.boxed();
        poll_fn(|cx| Poll::Ready(received.as_mut().poll(cx).is_pending())).await;
        received
    }

    /// Lets tasks run until there is so much room, or no more than so much.
    async fn until_room(room: &Room, is_so: impl Fn(usize) -> bool) {
        let there_is = async {
            while !is_so(room.0.available_permits()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(LONG, there_is).await.expect("the room never was so");
    }

    #[tokio::test]
    async fn nothing_is_asked_without_room_for_the_answer() {
        const ANSWER_BYTES: usize = 1 << 20;
        let room = Room::new();
        let mut waiting = Vec::new();
        for _ in 0..BYTES_MAX / ANSWER_BYTES {
            waiting.push(ask(&room, ANSWER_BYTES, within(LONG)).await);
        }
        until_room(&room, |bytes| bytes < ANSWER_BYTES).await;
        let asked = Arc::new(AtomicBool::new(false));
        let call = {
            let asked = Arc::clone(&asked);
            move || {
                asked.store(true, Ordering::Relaxed);
                async { Ok(answer(10)) }.boxed()
            }
        };
        assert!(matches!(room.receive(VALUE_BYTES, within(SHORT), call).await, Received::NotAsked));
        assert!(!asked.load(Ordering::Relaxed), "it would be a lie that nothing was asked");
        // What needs none goes on, and whoever takes answers makes some.
        let small = room.receive(0, within(LONG), || async { Ok(answer(10)) }.boxed()).await;
        assert!(matches!(small, Received::Answer(Ok(_))));
        for received in waiting {
            assert!(matches!(received.await, Received::Answer(Ok(_))));
        }
        until_room(&room, |bytes| bytes == BYTES_MAX).await;
    }

    #[tokio::test]
    async fn a_small_answer_gives_its_room_back_while_it_waits() {
        let room = Room::new();
        let call = || async { Ok(answer(10)) }.boxed();
        let mut small = room.receive(BYTES_MAX, within(LONG), call).boxed();
        poll_fn(|cx| Poll::Ready(small.as_mut().poll(cx).is_pending())).await;
        // All of the room is needed by the next one.
        let next = room.receive(BYTES_MAX, within(LONG), || async { Ok(answer(10)) }.boxed()).await;
        assert!(matches!(next, Received::Answer(Ok(_))));
        assert!(matches!(small.await, Received::Answer(Ok(_))));
    }

    #[tokio::test]
    async fn an_answer_that_nobody_takes_goes_at_the_deadline() {
        let room = Room::new();
        let late = ask(&room, 1 << 20, within(Duration::from_secs(2))).await;
        until_room(&room, |bytes| bytes < BYTES_MAX).await;
        until_room(&room, |bytes| bytes == BYTES_MAX).await;
        assert!(matches!(late.await, Received::Late));
    }

    #[tokio::test]
    async fn a_call_ends_at_its_deadline_and_with_whoever_waits_for_it() {
        let room = Room::new();
        let running = Arc::new(());
        let call = || {
            let running = Arc::clone(&running);
            move || {
                async move {
                    let _running = running;
                    std::future::pending().await
                }
                .boxed()
            }
        };
        assert!(matches!(room.receive(1, within(SHORT), call()).await, Received::Late));
        let given_up = tokio::time::timeout(SHORT, room.receive(1, within(LONG), call())).await;
        assert!(given_up.is_err());
        while Arc::strong_count(&running) > 1 {
            tokio::task::yield_now().await;
        }
        let failed = || async { Err(CallError::Unreachable(NodeId(1), "away".to_owned())) }.boxed();
        assert!(matches!(room.receive(1, within(LONG), failed).await, Received::Answer(Err(_))));
    }
}
