//! Tokens: what a scan, a watch or a session has reached, handed to the caller as opaque bytes, to be handed back later.
//!
//! # The approach
//! A token is a kind byte, a checksum and a protobuf body. The checksum (XXH3-64, seed 0, of the kind byte and the body,
//! little-endian) finds tokens that were cut or mistyped. It is no signature: a token grants nothing that its bearer couldn't ask
//! for without it. The body names the cluster, and a scan's or watch's token the request that it belongs to, by hash: to go
//! on with another range would silently lose or repeat rows.
//!
//! Tokens outlive processes and versions: kinds and fields are part of the protocol. A change of meaning takes a new kind.
//!
//! # Invariants
//! - What is decoded is what was encoded, or an error: no flipped byte goes unnoticed.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::{BufMut as _, Bytes, BytesMut};
use kvd_types::{
    Error, Result, Revision, ShardId,
    operation::{Content, Filter},
};
use prost::Message;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::{operation::scan_options_to_wire, v1};

/// Bytes before the body: the kind and the checksum.
const HEADER_BYTES: usize = 9;

/// Where a scan is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScanToken {
    /// The cluster, as 32 hexadecimal digits.
    pub cluster_id: String,
    /// The range and options, by [`scan_request`].
    pub request: u64,
    /// As of when it reads.
    pub revision: Revision,
    /// The first key that it has not given yet, or a key before it; descending, the end of what it has not.
    pub next: Bytes,
}

/// Where a watch is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchToken {
    /// The cluster, as 32 hexadecimal digits.
    pub cluster_id: String,
    /// The range, by [`watch_request`].
    pub request: u64,
    /// What was told of each shard: everything up to this revision.
    pub positions: BTreeMap<ShardId, Revision>,
}

/// What a client has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionToken {
    /// The cluster, as 32 hexadecimal digits.
    pub cluster_id: String,
    /// The latest revision of each shard that an answer took into account.
    pub revisions: BTreeMap<ShardId, Revision>,
}

#[derive(Clone, PartialEq, Message)]
struct ScanBody {
    #[prost(string, tag = "1")]
    cluster_id: String,
    #[prost(fixed64, tag = "2")]
    request: u64,
    #[prost(uint64, tag = "3")]
    revision: u64,
    #[prost(bytes = "bytes", tag = "4")]
    next: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct WatchBody {
    #[prost(string, tag = "1")]
    cluster_id: String,
    #[prost(fixed64, tag = "2")]
    request: u64,
    #[prost(btree_map = "uint32, uint64", tag = "3")]
    positions: BTreeMap<u32, u64>,
}

#[derive(Clone, PartialEq, Message)]
struct SessionBody {
    #[prost(string, tag = "1")]
    cluster_id: String,
    #[prost(btree_map = "uint32, uint64", tag = "2")]
    revisions: BTreeMap<u32, u64>,
}

/// The kinds of token. The numbers are part of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Kind {
    Scan = 1,
    Watch = 2,
    Session = 3,
}

impl Kind {
    const fn of(byte: u8) -> Option<Self> {
        match byte {
            1 => Some(Self::Scan),
            2 => Some(Self::Watch),
            3 => Some(Self::Session),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Scan => "a scan",
            Self::Watch => "a watch",
            Self::Session => "a session",
        }
    }
}

impl ScanToken {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let Self { cluster_id, request, revision, next } = self.clone();
        seal(Kind::Scan, &ScanBody { cluster_id, request, revision: revision.get(), next })
    }

    /// From bytes.
    ///
    /// # Errors
    /// Invalid argument: it is damaged, of another kind, of another cluster, or of another request.
    pub fn decode(token: &[u8], cluster_id: &str, request: u64) -> Result<Self> {
        let body: ScanBody = open(Kind::Scan, token)?;
        check_cluster(&body.cluster_id, cluster_id)?;
        check_request(body.request, request)?;
        let ScanBody { cluster_id, request, revision, next } = body;
        Ok(Self { cluster_id, request, revision: Revision(revision), next })
    }
}

impl WatchToken {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let positions = to_numbers(&self.positions);
        let (cluster_id, request) = (self.cluster_id.clone(), self.request);
        seal(Kind::Watch, &WatchBody { cluster_id, request, positions })
    }

    /// From bytes.
    ///
    /// # Errors
    /// Invalid argument: it is damaged, of another kind, of another cluster, or of another request.
    pub fn decode(token: &[u8], cluster_id: &str, request: u64) -> Result<Self> {
        let body: WatchBody = open(Kind::Watch, token)?;
        check_cluster(&body.cluster_id, cluster_id)?;
        check_request(body.request, request)?;
        let positions = from_numbers(body.positions);
        Ok(Self { cluster_id: body.cluster_id, request: body.request, positions })
    }
}

impl SessionToken {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let revisions = to_numbers(&self.revisions);
        seal(Kind::Session, &SessionBody { cluster_id: self.cluster_id.clone(), revisions })
    }

    /// From bytes.
    ///
    /// # Errors
    /// Invalid argument: it is damaged, of another kind, or of another cluster.
    pub fn decode(token: &[u8], cluster_id: &str) -> Result<Self> {
        let token = Self::decode_of_any_cluster(token)?;
        check_cluster(&token.cluster_id, cluster_id)?;
        Ok(token)
    }

    /// From bytes, where the cluster is not known yet.
    ///
    /// # Errors
    /// Invalid argument: it is damaged, or of another kind.
    pub fn decode_of_any_cluster(token: &[u8]) -> Result<Self> {
        let body: SessionBody = open(Kind::Session, token)?;
        Ok(Self { cluster_id: body.cluster_id, revisions: from_numbers(body.revisions) })
    }
}

/// Stands for a scan's range and options in its tokens.
#[must_use]
pub fn scan_request(start: &[u8], end: &[u8], descending: bool, content: Content, filter: Filter) -> u64 {
    let request = v1::ScanAllRequest {
        start: Bytes::copy_from_slice(start),
        end: Bytes::copy_from_slice(end),
        options: scan_options_to_wire(descending, content, filter),
        ..v1::ScanAllRequest::default()
    };
    xxh3_64(&request.encode_to_vec())
}

/// Stands for a watch's range in its tokens. A watch may go on with other filters.
#[must_use]
pub fn watch_request(start: &[u8], end: &[u8]) -> u64 {
    let request = v1::WatchRequest {
        start: Bytes::copy_from_slice(start),
        end: Bytes::copy_from_slice(end),
        ..v1::WatchRequest::default()
    };
    xxh3_64(&request.encode_to_vec())
}

/// A token as text: base64, safe in URLs, without padding.
#[must_use]
pub fn to_text(token: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(token)
}

/// A token from its text.
///
/// # Errors
/// Invalid argument: it is no such text.
pub fn from_text(text: &str) -> Result<Bytes> {
    let token = URL_SAFE_NO_PAD.decode(text.trim());
    token.map(Bytes::from).map_err(|error| Error::invalid(format!("the token is damaged: {error}")))
}

fn seal(kind: Kind, body: &impl Message) -> Bytes {
    let body = body.encode_to_vec();
    let mut token = BytesMut::with_capacity(HEADER_BYTES + body.len());
    token.put_u8(kind as u8);
    token.put_u64_le(checksum(kind as u8, &body));
    token.put_slice(&body);
    token.freeze()
}

fn open<B: Message + Default>(kind: Kind, token: &[u8]) -> Result<B> {
    let damaged = || Error::invalid("the token is damaged: use it as it was given, or begin anew without it");
    let (&first, rest) = token.split_first().ok_or_else(damaged)?;
    let (expected, body) = rest.split_first_chunk().ok_or_else(damaged)?;
    if u64::from_le_bytes(*expected) != checksum(first, body) {
        return Err(damaged());
    }
    match Kind::of(first) {
        Some(found) if found == kind => B::decode(body).map_err(|_malformed| damaged()),
        Some(found) => {
            Err(Error::invalid(format!("the token is of {}, not of {}", found.name(), kind.name())))
        }
        None => Err(Error::invalid("the token was made by a newer version")),
    }
}

fn checksum(kind: u8, body: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(&[kind]);
    hash.update(body);
    hash.digest()
}

fn check_cluster(of: &str, cluster_id: &str) -> Result<()> {
    if of == cluster_id {
        return Ok(());
    }
    Err(Error::invalid(format!("the token is of cluster {of}, this is cluster {cluster_id}")))
}

fn check_request(of: u64, request: u64) -> Result<()> {
    if of == request {
        return Ok(());
    }
    Err(Error::invalid(
        "the token is of another request: go on with the same range and options, or begin anew without it",
    ))
}

fn to_numbers(revisions: &BTreeMap<ShardId, Revision>) -> BTreeMap<u32, u64> {
    revisions.iter().map(|(shard, revision)| (shard.get(), revision.get())).collect()
}

fn from_numbers(numbers: BTreeMap<u32, u64>) -> BTreeMap<ShardId, Revision> {
    numbers.into_iter().map(|(shard, revision)| (ShardId(shard), Revision(revision))).collect()
}

#[cfg(test)]
mod tests;
