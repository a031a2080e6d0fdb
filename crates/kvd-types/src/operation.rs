//! What a client asks of the cluster, and what it gets.
//!
//! A [`Request`] names keys or a shard; whoever serves it finds the shard's leader. These are the words of both ends of
//! the wire: the client library makes requests, the server answers them, and a node that forwards one does both.

use bytes::Bytes;

use crate::{
    Error, Key, NodeId, Outcome, Record, RingEpoch, SessionId, ShardId, Write,
    limits::{BATCH_KEYS_MAX, REQUEST_BYTES_MAX, VALUE_BYTES_MAX},
};

/// One thing asked of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Read a key.
    Get(Key),
    /// Read many keys.
    BatchGet(Vec<Key>),
    /// Change a key.
    Write(Write),
    /// Read a page of a shard, in key order.
    Scan(ScanPage),
    /// Mint a session with a shard.
    OpenSession(ShardId),
    /// Forget a session of a shard.
    CloseSession(ShardId, SessionId),
}

/// A page of a shard's keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanPage {
    /// The shard.
    pub shard: ShardId,
    /// The first key that may be returned; empty: from the first one.
    pub start: Bytes,
    /// The first key that may not be returned; empty: to the last one.
    pub end: Bytes,
    /// Most rows; zero: as many as a page holds.
    pub limit: usize,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// To a get: the key and its current version, if it exists.
    Got(Option<(Key, Record)>),
    /// To a batch-get: the same for each key, in the order asked for.
    GotBatch(Vec<Option<(Key, Record)>>),
    /// To a put: what came of it.
    Put(Outcome),
    /// To a delete: what came of it.
    Deleted(Outcome),
    /// To a session request.
    Session(Outcome),
    /// To a scan.
    Page {
        /// The rows, in key order.
        rows: Vec<(Key, Record)>,
        /// There are more keys in the range.
        more: bool,
    },
}

/// An answer, and who gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The answer.
    pub response: Response,
    /// Who gave it.
    pub served: Served,
}

/// Who answered a request, for clients that route by themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Served {
    /// The shard; of a batch that spans several, the first one.
    pub shard: ShardId,
    /// The node that leads it.
    pub leader: NodeId,
    /// That node's client address; empty if it answered itself.
    pub leader_address: String,
    /// The ring that the request was routed by.
    pub ring_epoch: RingEpoch,
}

impl Request {
    /// Whether it changes anything: a failure may then leave its outcome unknown.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        matches!(self, Self::Write(_) | Self::OpenSession(_) | Self::CloseSession(..))
    }

    /// Checks the sizes that the types don't.
    ///
    /// # Errors
    /// Invalid argument, naming the limit.
    pub fn check(&self, value_bytes_max: usize) -> Result<(), Error> {
        match self {
            Self::Write(Write { op: crate::WriteOp::Put { key, value, .. }, .. }) => {
                let value_bytes_max = value_bytes_max.min(VALUE_BYTES_MAX);
                if value.len() > value_bytes_max {
                    return Err(Error::invalid(format!(
                        "the value of key {key} has {} bytes; a value has at most {value_bytes_max} bytes",
                        value.len()
                    )));
                }
                Ok(())
            }
            Self::BatchGet(keys) => check_batch(keys),
            Self::Get(_) | Self::Write(_) | Self::Scan(_) | Self::OpenSession(_) | Self::CloseSession(..) => {
                Ok(())
            }
        }
    }
}

fn check_batch(keys: &[Key]) -> Result<(), Error> {
    let bytes: usize = keys.iter().map(|key| key.as_bytes().len()).sum();
    if keys.len() > BATCH_KEYS_MAX {
        return Err(Error::invalid(format!(
            "the batch has {} keys; a batch has at most {BATCH_KEYS_MAX}",
            keys.len()
        )));
    }
    if bytes > REQUEST_BYTES_MAX {
        return Err(Error::invalid(format!(
            "the batch has {bytes} bytes; a request has at most {REQUEST_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}
