//! Writes of single keys.

use std::{future::IntoFuture, time::Duration};

use bytes::Bytes;
use futures::future::BoxFuture;
use kvd_types::{
    Condition, Error, Key, LeaseId, Lifetime, Outcome, Record, Result, Revision, WriteOp,
    operation::{Ack, Response},
};

use crate::{
    Client,
    attempts::{Attempts, unexpected},
};

/// What came of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutResult {
    /// The revision of the write.
    pub revision: Revision,
    /// The revision at which the key came into being.
    pub create_revision: Revision,
    /// The key's version after the write.
    pub version: u64,
    /// The version that it replaced, if asked for and there was one.
    pub previous: Option<Record>,
}

/// What came of a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteResult {
    /// The revision of the delete; `None`: there was no such key.
    pub revision: Option<Revision>,
    /// The version that it removed, if asked for.
    pub previous: Option<Record>,
}

impl DeleteResult {
    /// Whether there was such a key.
    #[must_use]
    pub const fn deleted(&self) -> bool {
        self.revision.is_some()
    }
}

/// What came of a write with a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "the condition may have failed"]
pub enum Conditional<T> {
    /// The condition held, and the write was made.
    Done(T),
    /// The condition did not hold. Nothing changed.
    Failed {
        /// The key's current version, with its value only if the previous one was asked for; `None`: it doesn't exist.
        current: Option<Record>,
    },
}

impl<T> Conditional<T> {
    /// Whether the write was made.
    pub const fn is_done(&self) -> bool {
        matches!(self, Self::Done(_))
    }

    /// What came of the write, if it was made.
    pub fn done(self) -> Option<T> {
        match self {
            Self::Done(result) => Some(result),
            Self::Failed { .. } => None,
        }
    }
}

/// What all writes have in common.
#[derive(Debug)]
struct Draft {
    client: Client,
    key: Result<Key>,
    condition: Condition,
    want_previous: bool,
    ack: Ack,
    deadline: Option<Duration>,
}

impl Draft {
    const fn new(client: Client, key: Result<Key>) -> Self {
        let (condition, ack) = (Condition::Always, Ack::Majority);
        Self { client, key, condition, want_previous: false, ack, deadline: None }
    }

    async fn put(self, value: Bytes, lifetime: Lifetime) -> Result<Conditional<PutResult>> {
        let (condition, want_previous) = (self.condition, self.want_previous);
        let op = WriteOp::Put { key: self.key?, value, lifetime, condition, want_previous };
        match write(&self.client, self.deadline, op, self.ack).await? {
            Response::Put(Outcome::Put { revision, create_revision, version, previous }) => {
                Ok(Conditional::Done(PutResult { revision, create_revision, version, previous }))
            }
            Response::Put(Outcome::ConditionFailed { current }) => Ok(Conditional::Failed { current }),
            other => Err(unexpected(&other)),
        }
    }

    async fn delete(self) -> Result<Conditional<DeleteResult>> {
        let (condition, want_previous) = (self.condition, self.want_previous);
        let op = WriteOp::Delete { key: self.key?, condition, want_previous };
        match write(&self.client, self.deadline, op, self.ack).await? {
            Response::Deleted(Outcome::Deleted { revision, previous }) => {
                Ok(Conditional::Done(DeleteResult { revision: Some(revision), previous }))
            }
            Response::Deleted(Outcome::NotFound) => {
                Ok(Conditional::Done(DeleteResult { revision: None, previous: None }))
            }
            Response::Deleted(Outcome::ConditionFailed { current }) => Ok(Conditional::Failed { current }),
            other => Err(unexpected(&other)),
        }
    }
}

pub(crate) async fn write(
    client: &Client,
    deadline: Option<Duration>,
    op: WriteOp,
    ack: Ack,
) -> Result<Response> {
    let mut attempts = Attempts::new(client.core(), client.patience(deadline)?);
    Ok(attempts.write(op, ack).await?.response)
}

/// Without a condition: what came of the write.
fn unconditional<T>(result: Conditional<T>) -> Result<T> {
    result
        .done()
        .ok_or_else(|| Error::internal("the server says that a condition failed where there was none"))
}

/// A put. Gives a [`PutResult`].
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Put {
    draft: Draft,
    value: Bytes,
    lifetime: Lifetime,
}

/// A put with a condition. Gives a [`Conditional`] [`PutResult`].
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct PutIf(Put);

/// A delete. Gives a [`DeleteResult`].
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Delete {
    draft: Draft,
}

/// A delete with a condition. Gives a [`Conditional`] [`DeleteResult`].
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct DeleteIf(Delete);

impl Put {
    pub(crate) const fn new(client: Client, key: Result<Key>, value: Bytes) -> Self {
        Self { draft: Draft::new(client, key), value, lifetime: Lifetime::Forever }
    }

    /// Only if the key does not exist.
    pub const fn if_absent(mut self) -> PutIf {
        self.draft.condition = Condition::Absent;
        PutIf(self)
    }

    /// Only if the key's current version was written at this revision.
    pub const fn if_revision(mut self, revision: Revision) -> PutIf {
        self.draft.condition = Condition::RevisionIs(revision);
        PutIf(self)
    }

    /// Give the version that the write replaces.
    pub const fn return_previous(mut self) -> Self {
        self.draft.want_previous = true;
        self
    }

    /// The key lapses after this long, in time for which its shard is led, unless it is written again before.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.lifetime = Lifetime::Ttl(millis(ttl));
        self
    }

    /// The key goes when the lease ends, unless it is written again before.
    pub const fn lease(mut self, lease: LeaseId) -> Self {
        self.lifetime = Lifetime::Lease(lease);
        self
    }

    /// Answer only once all of the shard's voters have it on disk, not just a majority. If one of them doesn't until the
    /// deadline, the outcome is unknown: the write is applied all the same.
    pub const fn ack_all(mut self) -> Self {
        self.draft.ack = Ack::All;
        self
    }

    /// How long it is tried; the client's deadline if not set.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.draft.deadline = Some(deadline);
        self
    }
}

impl PutIf {
    /// Give the version that the write replaces, or if the condition fails the current value.
    pub const fn return_previous(mut self) -> Self {
        self.0.draft.want_previous = true;
        self
    }

    /// The key lapses after this long, in time for which its shard is led, unless it is written again before.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.0.lifetime = Lifetime::Ttl(millis(ttl));
        self
    }

    /// The key goes when the lease ends, unless it is written again before.
    pub const fn lease(mut self, lease: LeaseId) -> Self {
        self.0.lifetime = Lifetime::Lease(lease);
        self
    }

    /// Answer only once all of the shard's voters have it on disk, not just a majority. If one of them doesn't until the
    /// deadline, the outcome is unknown: the write is applied all the same.
    pub const fn ack_all(mut self) -> Self {
        self.0.draft.ack = Ack::All;
        self
    }

    /// How long it is tried; the client's deadline if not set.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.0.draft.deadline = Some(deadline);
        self
    }
}

impl Delete {
    pub(crate) const fn new(client: Client, key: Result<Key>) -> Self {
        Self { draft: Draft::new(client, key) }
    }

    /// Only if the key's current version was written at this revision.
    pub const fn if_revision(mut self, revision: Revision) -> DeleteIf {
        self.draft.condition = Condition::RevisionIs(revision);
        DeleteIf(self)
    }

    /// Give the version that the delete removes.
    pub const fn return_previous(mut self) -> Self {
        self.draft.want_previous = true;
        self
    }

    /// Answer only once all of the shard's voters have it on disk, not just a majority. If one of them doesn't until the
    /// deadline, the outcome is unknown: the write is applied all the same.
    pub const fn ack_all(mut self) -> Self {
        self.draft.ack = Ack::All;
        self
    }

    /// How long it is tried; the client's deadline if not set.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.draft.deadline = Some(deadline);
        self
    }
}

impl DeleteIf {
    /// Give the version that the delete removes, or if the condition fails the current value.
    pub const fn return_previous(mut self) -> Self {
        self.0.draft.want_previous = true;
        self
    }

    /// Answer only once all of the shard's voters have it on disk, not just a majority. If one of them doesn't until the
    /// deadline, the outcome is unknown: the write is applied all the same.
    pub const fn ack_all(mut self) -> Self {
        self.0.draft.ack = Ack::All;
        self
    }

    /// How long it is tried; the client's deadline if not set.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.0.draft.deadline = Some(deadline);
        self
    }
}

impl IntoFuture for Put {
    type Output = Result<PutResult>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { unconditional(self.draft.put(self.value, self.lifetime).await?) })
    }
}

impl IntoFuture for PutIf {
    type Output = Result<Conditional<PutResult>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.0.draft.put(self.0.value, self.0.lifetime))
    }
}

impl IntoFuture for Delete {
    type Output = Result<DeleteResult>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { unconditional(self.draft.delete().await?) })
    }
}

impl IntoFuture for DeleteIf {
    type Output = Result<Conditional<DeleteResult>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.0.draft.delete())
    }
}

/// A time to live in whole milliseconds, at least one unless it is zero.
pub(crate) fn millis(ttl: Duration) -> u64 {
    u64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}
