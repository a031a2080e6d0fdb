//! Reads of single keys, and of many.

use std::{future::IntoFuture, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use kvd_types::{
    Error, ErrorKind, Key, Record, Result, ShardId,
    limits::{BATCH_KEYS_MAX, KEY_BYTES_MAX, REQUEST_BYTES_MAX},
    operation::{Reply, Request, Response, Served},
};

use super::{ReadMode, read_mode::read_methods};
use crate::{
    Client,
    attempts::{Attempts, unexpected},
};

/// Parts of a batch-get that are under way at a time.
const BATCH_PARTS_IN_FLIGHT: usize = 64;

/// Most keys in one part of a batch-get: even the longest ones stay well within a request.
const PART_KEYS_MAX: usize = REQUEST_BYTES_MAX / 2 / KEY_BYTES_MAX;

const _: () = assert!(PART_KEYS_MAX <= BATCH_KEYS_MAX && PART_KEYS_MAX > 0);

/// A get. Gives the key's current version, `None` if it doesn't exist.
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct Get {
    client: Client,
    key: Result<Key>,
    mode: ReadMode,
    deadline: Option<Duration>,
}

impl Get {
    pub(crate) fn new(client: Client, key: Result<Key>) -> Self {
        Self { client, key, mode: ReadMode::default(), deadline: None }
    }

    read_methods!();
}

impl Get {
    /// Gives a [`Found`]: the same with who served it, as of when.
    pub const fn with_served(self) -> GetServed {
        GetServed(self)
    }

    async fn served(self) -> Result<Found> {
        let key = self.key?;
        let core = self.client.core();
        let mut attempts = Attempts::new(core, self.client.patience(self.deadline)?);
        let request = |shard| Request::Get(key.clone(), self.mode.read(core, shard));
        let reply = attempts.read(&key, request).await?;
        match reply.response {
            Response::Got(found) => {
                Ok(Found { record: found.map(|(_, record)| record), served: reply.served })
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl IntoFuture for Get {
    type Output = Result<Option<Record>>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async move { Ok(self.served().await?.record) })
    }
}

/// A get that tells who served it. Gives a [`Found`].
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct GetServed(Get);

impl IntoFuture for GetServed {
    type Output = Result<Found>;
    type IntoFuture = BoxFuture<'static, Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.0.served())
    }
}

/// What a get found, and who served it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The key's version; `None`: it doesn't exist.
    pub record: Option<Record>,
    /// Who served it, as of when.
    pub served: Served,
}

impl Found {
    /// How long the key lasts still, if it was put with a time to live; a lease's end is the lease's to know.
    #[must_use]
    pub fn time_left(&self) -> Option<Duration> {
        let expires_at_age_ms = self.record.as_ref()?.expires_at_age_ms?;
        Some(Duration::from_millis(expires_at_age_ms.saturating_sub(self.served.shard_age_ms)))
    }
}

/// A batch-get. Gives for each key, in the order asked for, what a [`Get`] gives.
#[derive(Debug)]
#[must_use = "a request does nothing until it is awaited"]
pub struct BatchGet {
    client: Client,
    keys: Result<Vec<Key>>,
    mode: ReadMode,
    deadline: Option<Duration>,
}

impl BatchGet {
    pub(crate) fn new(client: Client, keys: Result<Vec<Key>>) -> Self {
        Self { client, keys, mode: ReadMode::default(), deadline: None }
    }

    read_methods!();

    /// Reads keys of one shard: at once, or in halves where the answer is larger than a message.
    async fn part(
        client: &Client,
        mode: ReadMode,
        patience: Duration,
        keys: Vec<Key>,
    ) -> Result<Vec<Option<Record>>> {
        let mut records = Vec::with_capacity(keys.len());
        let mut waiting = vec![keys];
        while let Some(mut keys) = waiting.pop() {
            let Some(first) = keys.first().cloned() else { continue };
            let mut attempts = Attempts::new(client.core(), patience);
            let request = |shard| Request::BatchGet(keys.clone(), mode.read(client.core(), shard));
            match attempts.read(&first, request).await {
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
            if keys.is_empty() {
                return Ok(Vec::new());
            }
            let ring = Attempts::new(self.client.core(), patience).ring().await?;
            let parts = parts(&keys, |key| ring.shard_of(key));
            let mode = self.mode;
            let client = self.client.clone();
            let mut found = vec![None; keys.len()];
            let mut answers = stream::iter(parts)
                .map(|(places, keys)| {
                    let client = client.clone();
                    async move { Ok::<_, Error>((places, Self::part(&client, mode, patience, keys).await?)) }
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
