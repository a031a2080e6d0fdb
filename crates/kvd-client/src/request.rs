//! Requests as values: made by [`Client`](crate::Client), refined by their methods, carried out by `.await`.

use std::{future::IntoFuture, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use kvd_types::{
    Condition, Error, ErrorKind, Key, Outcome, Record, Result, Revision, ShardId, WriteOp,
    limits::{BATCH_KEYS_MAX, KEY_BYTES_MAX, REQUEST_BYTES_MAX, VALUE_BYTES_MAX},
    operation::{Reply, Request, Response},
};

use crate::{
    Client,
    attempts::{Attempts, unexpected},
};

/// Parts of a batch-get that are under way at a time.
const BATCH_PARTS_IN_FLIGHT: usize = 64;

/// Most keys in one part of a batch-get: even the longest ones stay well within a request.
const PART_KEYS_MAX: usize = REQUEST_BYTES_MAX / 2 / KEY_BYTES_MAX;

const _: () = assert!(PART_KEYS_MAX <= BATCH_KEYS_MAX && PART_KEYS_MAX > 0);

/// What can be a key or a value.
pub trait IntoBytes {
    /// The bytes; without a copy where they are owned.
    fn into_bytes(self) -> Bytes;
}

impl IntoBytes for Bytes {
    fn into_bytes(self) -> Bytes {
        self
    }
}

impl IntoBytes for &Bytes {
    fn into_bytes(self) -> Bytes {
        self.clone()
    }
}

impl IntoBytes for Vec<u8> {
    fn into_bytes(self) -> Bytes {
        self.into()
    }
}

impl IntoBytes for String {
    fn into_bytes(self) -> Bytes {
        self.into()
    }
}

impl IntoBytes for &String {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl IntoBytes for &str {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self.as_bytes())
    }
}

impl IntoBytes for &[u8] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl<const N: usize> IntoBytes for &[u8; N] {
    fn into_bytes(self) -> Bytes {
        Bytes::copy_from_slice(self)
    }
}

impl IntoBytes for Key {
    fn into_bytes(self) -> Bytes {
        Self::into_bytes(self)
    }
}

impl IntoBytes for &Key {
    fn into_bytes(self) -> Bytes {
        self.bytes().clone()
    }
}

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

/// A get. Gives the key's current version, `None` if it doesn't exist.
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Get {
    client: Client,
    key: Result<Key>,
    deadline: Option<Duration>,
}

impl Get {
    pub(crate) const fn new(client: Client, key: Result<Key>) -> Self {
        Self { client, key, deadline: None }
    }

    /// How long it is tried; the client's deadline if not set.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }
}

impl IntoFuture for Get {
    type Output = Result<Option<Record>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let key = self.key?;
            let mut attempts = Attempts::new(self.client.core(), self.client.patience(self.deadline)?);
            match attempts.read(&key, &Request::Get(key.clone())).await?.response {
                Response::Got(found) => Ok(found.map(|(_, record)| record)),
                other => Err(unexpected(&other)),
            }
        })
    }
}

/// A batch-get. Gives for each key, in the order asked for, what a [`Get`] gives.
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct BatchGet {
    client: Client,
    keys: Result<Vec<Key>>,
    deadline: Option<Duration>,
}

impl BatchGet {
    pub(crate) const fn new(client: Client, keys: Result<Vec<Key>>) -> Self {
        Self { client, keys, deadline: None }
    }

    /// How long it is tried; the client's deadline if not set.
    pub const fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Reads keys of one shard: at once, or in halves where the answer is larger than a message.
    async fn part(client: &Client, patience: Duration, keys: Vec<Key>) -> Result<Vec<Option<Record>>> {
        let mut records = Vec::with_capacity(keys.len());
        let mut waiting = vec![keys];
        while let Some(mut keys) = waiting.pop() {
            let Some(first) = keys.first().cloned() else { continue };
            let mut attempts = Attempts::new(client.core(), patience);
            match attempts.read(&first, &Request::BatchGet(keys.clone())).await {
                Ok(Reply { response: Response::GotBatch(found), .. }) if found.len() == keys.len() => {
                    records.extend(found.into_iter().map(|found| found.map(|(_, record)| record)));
                }
                Ok(reply) => return Err(unexpected(&reply.response)),
                // The keys are right: what is wrong is the size of the answer.
                Err(error) if error.kind == ErrorKind::InvalidArgument && keys.len() > 1 => {
                    let rest = keys.split_off(keys.len() / 2);
                    waiting.extend([rest, keys]);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(records)
    }
}

impl IntoFuture for BatchGet {
    type Output = Result<Vec<Option<Record>>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move {
            let keys = self.keys?;
            let patience = self.client.patience(self.deadline)?;
            let Some(first) = keys.first() else { return Ok(Vec::new()) };
            Attempts::new(self.client.core(), patience).route(first).await?;
            let parts = parts(&keys, |key| self.client.core().router.shard_of(key).unwrap_or_default());
            let client = self.client.clone();
            let mut found = vec![None; keys.len()];
            let mut answers = stream::iter(parts)
                .map(|(places, keys)| {
                    let client = client.clone();
                    async move { Result::Ok((places, Self::part(&client, patience, keys).await?)) }
                })
                .buffer_unordered(BATCH_PARTS_IN_FLIGHT);
            while let Some((places, records)) = answers.try_next().await? {
                for (place, record) in places.into_iter().zip(records) {
                    if let Some(slot) = found.get_mut(place) {
                        *slot = record;
                    }
                }
            }
            Ok(found)
        })
    }
}

/// The keys by shard and in parts of at most [`PART_KEYS_MAX`], each with its place among them all.
fn parts(keys: &[Key], shard_of: impl Fn(&Key) -> ShardId) -> Vec<(Vec<usize>, Vec<Key>)> {
    let mut placed: Vec<_> =
        keys.iter().enumerate().map(|(place, key)| (shard_of(key), place, key)).collect();
    // Stable: each shard's keys stay in the order asked for.
    placed.sort_by_key(|&(shard, ..)| shard);
    let mut parts = Vec::new();
    for of_shard in placed.chunk_by(|one, other| one.0 == other.0) {
        for part in of_shard.chunks(PART_KEYS_MAX) {
            parts.push(part.iter().map(|&(_, place, key)| (place, key.clone())).unzip());
        }
    }
    parts
}

/// What all writes have in common.
#[derive(Debug)]
struct Draft {
    client: Client,
    key: Result<Key>,
    condition: Condition,
    want_previous: bool,
    deadline: Option<Duration>,
}

impl Draft {
    const fn new(client: Client, key: Result<Key>) -> Self {
        Self { client, key, condition: Condition::Always, want_previous: false, deadline: None }
    }

    async fn put(self, value: Bytes) -> Result<Conditional<PutResult>> {
        // Sent, it could break the stream, and with it whatever else is in flight.
        if value.len() > VALUE_BYTES_MAX {
            let bytes = value.len();
            return Err(Error::invalid(format!(
                "the value has {bytes} bytes; a value has at most {VALUE_BYTES_MAX} bytes"
            )));
        }
        let (condition, want_previous) = (self.condition, self.want_previous);
        let op = WriteOp::Put { key: self.key?, value, condition, want_previous };
        match write(&self.client, self.deadline, op).await? {
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
        match write(&self.client, self.deadline, op).await? {
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

async fn write(client: &Client, deadline: Option<Duration>, op: WriteOp) -> Result<Response> {
    let mut attempts = Attempts::new(client.core(), client.patience(deadline)?);
    Ok(attempts.write(op).await?.response)
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
        Self { draft: Draft::new(client, key), value }
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
        Box::pin(async move { unconditional(self.draft.put(self.value).await?) })
    }
}

impl IntoFuture for PutIf {
    type Output = Result<Conditional<PutResult>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.0.draft.put(self.0.value))
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
