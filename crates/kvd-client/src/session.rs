//! Sessions: what makes the retry of a write harmless.
//!
//! # The problem
//! A write whose answer was lost may or may not have happened. The shard remembers the outcome of each write under the
//! number that its client gave it, so that a retry with the same number gets the first outcome; and it forgets the
//! outcomes below the lowest number that the client still waits for, which each write tells.
//!
//! # The approach
//! A client has one session per shard, opened with its first write there. [`Session::begin`] gives out the next number
//! as an [`OpenSequence`], which is held by the write's future and by each pipeline on which a try of it is in flight.
//! The number is settled when the write is decided, or when the last holder lets go.
//!
//! # Invariants
//! - `oldest_open` never passes a number whose outcome somebody waits for, or whose last try is in flight on a live
//!   pipeline: also when the caller has dropped the write's future. Pipelines let go of such writes at their deadline.
//! - Where a number is settled without its outcome (the pipeline broke after the caller left, or the deadline passed),
//!   no try of it is sent again, and the shard refuses stray ones below `oldest_open`: it happens once or never.
//! - Fewer than [`SESSION_OUTCOMES_MAX`] numbers lie between the oldest open one and the next: the shard has always room
//!   for the outcome of the oldest one, so a refused write can't be starved by those after it. At the bound, writes wait.

use std::{collections::VecDeque, sync::Arc};

use kvd_types::{SequenceNumber, SessionId, SessionPosition, ShardId, limits::SESSION_OUTCOMES_MAX};
use parking_lot::Mutex;
use tokio::{
    sync::Notify,
    time::{Instant, timeout_at},
};

/// This client's session with one shard.
#[derive(Debug)]
pub(crate) struct Session {
    shard: ShardId,
    id: SessionId,
    sequences: Mutex<Sequences>,
    room: Notify,
}

impl Session {
    pub(crate) fn new(shard: ShardId, id: SessionId) -> Self {
        Self { shard, id, sequences: Mutex::default(), room: Notify::new() }
    }

    pub(crate) const fn id(&self) -> SessionId {
        self.id
    }

    /// The next number, as soon as there is room for it; `None` at the deadline.
    pub(crate) async fn begin(self: &Arc<Self>, deadline: Instant) -> Option<Arc<OpenSequence>> {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            // From here on no notification is missed.
            room.as_mut().enable();
            if let Some(number) = self.sequences.lock().open() {
                return Some(Arc::new(OpenSequence { session: Arc::clone(self), number }));
            }
            timeout_at(deadline, room).await.ok()?;
        }
    }
}

/// The number of a write that isn't decided yet.
#[derive(Debug)]
pub(crate) struct OpenSequence {
    session: Arc<Session>,
    number: u64,
}

impl OpenSequence {
    /// The session in which the number counts.
    pub(crate) const fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(crate) fn shard(&self) -> ShardId {
        self.session.shard
    }

    /// What the next try of the write carries.
    pub(crate) fn position(&self) -> SessionPosition {
        SessionPosition {
            session: self.session.id,
            sequence: SequenceNumber(self.number),
            oldest_open: SequenceNumber(self.session.sequences.lock().oldest_open()),
        }
    }

    /// The write is decided: no other holder matters any more.
    pub(crate) fn settle(&self) {
        if self.session.sequences.lock().settle(self.number) {
            self.session.room.notify_waiters();
        }
    }
}

impl Drop for OpenSequence {
    fn drop(&mut self) {
        self.settle();
    }
}

/// Which numbers are open: a window that slides up as its lowest ones are settled.
#[derive(Debug, Default)]
struct Sequences {
    /// How many were settled and have left the window: the window's first number is one more.
    passed: u64,
    /// For each number in the window, whether it is settled. The first one never is.
    settled: VecDeque<bool>,
}

impl Sequences {
    fn open(&mut self) -> Option<u64> {
        if self.settled.len() >= SESSION_OUTCOMES_MAX {
            return None;
        }
        self.settled.push_back(false);
        Some(self.passed + self.settled.len() as u64)
    }

    /// The lowest open number; the next one if none is open.
    const fn oldest_open(&self) -> u64 {
        self.passed + 1
    }

    /// Settles a number, once or often; whether that made room.
    fn settle(&mut self, number: u64) -> bool {
        let place = number.checked_sub(self.passed + 1).and_then(|place| usize::try_from(place).ok());
        if let Some(settled) = place.and_then(|place| self.settled.get_mut(place)) {
            *settled = true;
        }
        let passed = self.passed;
        while self.settled.front() == Some(&true) {
            self.settled.pop_front();
            self.passed += 1;
        }
        self.passed > passed
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_oldest_open_number_is_the_lowest_not_settled(steps in proptest::collection::vec(any::<(bool, u8)>(), 1..200)) {
            let mut sequences = Sequences::default();
            let (mut open, mut next) = (BTreeSet::new(), 1);
            for (opens, number) in steps {
                if opens {
                    prop_assert_eq!(sequences.open(), Some(next));
                    open.insert(next);
                    next += 1;
                } else {
                    let before = open.first().copied().unwrap_or(next);
                    open.remove(&u64::from(number));
                    let after = open.first().copied().unwrap_or(next);
                    prop_assert_eq!(sequences.settle(u64::from(number)), after > before);
                }
                prop_assert_eq!(sequences.oldest_open(), open.first().copied().unwrap_or(next));
            }
        }
    }

    #[tokio::test]
    async fn at_the_bound_a_write_waits_for_the_oldest_one() {
        let session = Arc::new(Session::new(ShardId(1), SessionId(9)));
        let soon = || Instant::now() + std::time::Duration::from_secs(30);
        let oldest = session.begin(soon()).await.unwrap();
        let mut others = Vec::new();
        for _ in 1..SESSION_OUTCOMES_MAX {
            others.push(session.begin(soon()).await.unwrap());
        }
        assert!(session.begin(Instant::now()).await.is_none());
        others.clear();
        assert!(session.begin(Instant::now()).await.is_none(), "the oldest one is still open");
        let (next, ()) = tokio::join!(session.begin(soon()), async { drop(oldest) });
        let position = next.unwrap().position();
        assert_eq!(position.sequence.get(), SESSION_OUTCOMES_MAX as u64 + 1);
        assert_eq!(position.oldest_open, position.sequence);
    }

    #[tokio::test]
    async fn a_number_is_open_until_its_last_holder_lets_go() {
        let session = Arc::new(Session::new(ShardId(1), SessionId(9)));
        let first = session.begin(Instant::now()).await.unwrap();
        let second = session.begin(Instant::now()).await.unwrap();
        let in_flight = Arc::clone(&first);
        drop(first);
        assert_eq!(second.position().oldest_open.get(), 1);
        drop(in_flight);
        assert_eq!(second.position().oldest_open.get(), 2);
    }
}
