//! Deleting a range: many steps on many shards, none of it in one moment.
//!
//! # The approach
//! Each shard removes the first keys of the range, a bounded number at a time, until it has none left; several shards
//! at a time. Each step is a write in the session: it happens once, however often it is tried. A deletion that fails says how
//! far it came, and to ask again for the same range goes on.
//!
//! # What it deliberately does not do
//! It is no transaction: readers see keys go step by step, and a key that is written meanwhile may stay.

use std::{
    fmt,
    future::IntoFuture,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use kvd_types::{
    Error, Outcome, Result, ShardId, WriteOp,
    limits::DELETE_STEP_KEYS_MAX,
    operation::{Ack, Response},
};

use super::write::write;
use crate::{
    Client,
    attempts::{Attempts, unexpected},
    range::KeyRange,
};

/// Shards that are worked on at a time.
const SHARDS_AT_A_TIME: usize = 16;

/// A deletion of a range. Gives how many keys were deleted.
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct DeleteRange {
    client: Client,
    range: KeyRange,
    deadline: Option<Duration>,
}

/// A deletion of a range that failed: some keys are gone, others may be left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteRangeError {
    /// How many keys were deleted, at least: not counted are those of a step whose outcome is unknown.
    pub deleted: u64,
    /// Why it did not go on.
    pub error: Error,
}

/// How many keys a deletion has removed so far, after each of its steps.
pub type Deletions = BoxStream<'static, Result<u64, DeleteRangeError>>;

impl fmt::Display for DeleteRangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} keys were deleted, others may be left: {}", self.deleted, self.error)
    }
}

impl std::error::Error for DeleteRangeError {}

impl DeleteRange {
    pub(crate) const fn new(client: Client, range: KeyRange) -> Self {
        Self { client, range, deadline: None }
    }

    /// How long each step is tried; the client's deadline if not set.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Tells after each step how many keys have been deleted so far. Only where it ends without an error is the range empty of
    /// what was there at its start. Dropped, it stops.
    #[must_use]
    pub fn stream(self) -> Deletions {
        let stop = Arc::new(AtomicBool::new(false));
        let steps = stream::once(self.steps(Arc::clone(&stop))).try_flatten();
        let state = Some((Box::pin(steps), 0_u64));
        let told = stream::unfold(state, move |state| {
            let stop = Arc::clone(&stop);
            async move {
                let (mut steps, mut deleted) = state?;
                let mut error = match steps.next().await? {
                    Ok(step) => {
                        deleted += u64::from(step);
                        return Some((Ok(deleted), Some((steps, deleted))));
                    }
                    Err(error) => error,
                };
                // No more steps are begun; those of other shards that are under way come to their ends, and count.
                stop.store(true, Ordering::Relaxed);
                while let Some(step) = steps.next().await {
                    match step {
                        Ok(step) => deleted += u64::from(step),
                        Err(worse) if worse.outcome_unknown() => error = worse,
                        Err(_) => {}
                    }
                }
                Some((Err(DeleteRangeError { deleted, error }), None))
            }
        });
        told.boxed()
    }

    /// The steps of all shards.
    async fn steps(self, stop: Arc<AtomicBool>) -> Result<BoxStream<'static, Result<u32>>> {
        let patience = self.client.patience(self.deadline)?;
        if self.range.is_empty {
            return Ok(stream::empty().boxed());
        }
        let ring = Attempts::new(self.client.core(), patience).ring().await?;
        let shards = ring.shards_of_range(&self.range.start, &self.range.end);
        let steps = stream::iter(shards).map(move |shard| {
            let of_shard = ShardSteps {
                client: self.client.clone(),
                shard,
                start: Some(self.range.start.clone()),
                end: self.range.end.clone(),
                deadline: self.deadline,
                stop: Arc::clone(&stop),
            };
            Box::pin(stream::try_unfold(of_shard, ShardSteps::next))
        });
        Ok(steps.flatten_unordered(SHARDS_AT_A_TIME).boxed())
    }
}

/// What is left to do in one shard.
struct ShardSteps {
    client: Client,
    shard: ShardId,
    /// `None`: nothing.
    start: Option<Bytes>,
    end: Bytes,
    deadline: Option<Duration>,
    /// Another shard's step has failed.
    stop: Arc<AtomicBool>,
}

impl ShardSteps {
    async fn next(mut self) -> Result<Option<(u32, Self)>> {
        if self.stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let Some(start) = self.start.take().filter(|start| self.end.is_empty() || *start < self.end) else {
            return Ok(None);
        };
        let (shard, end) = (self.shard, self.end.clone());
        let op = WriteOp::DeleteRange { shard, start: start.clone(), end, limit: DELETE_STEP_KEYS_MAX };
        match write(&self.client, self.deadline, op, Ack::Majority).await? {
            Response::RangeDeleted(Outcome::RangeDeleted { deleted, next, .. }) => {
                if next.as_ref().is_some_and(|next| *next <= start) {
                    return Err(Error::internal(format!(
                        "shard {shard} deletes a range and does not get on"
                    )));
                }
                self.start = next;
                Ok(Some((deleted, self)))
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl IntoFuture for DeleteRange {
    type Output = Result<u64, DeleteRangeError>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let mut steps = self.stream();
            let mut deleted = 0;
            while let Some(so_far) = steps.try_next().await? {
                deleted = so_far;
            }
            Ok(deleted)
        })
    }
}
