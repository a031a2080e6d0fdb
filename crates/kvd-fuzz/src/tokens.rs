//! Tokens that callers hand back: where a scan or a watch stands, and what a session has seen.
//!
//! An input is a kind byte and a body. Around them stands a sound checksum, made here after the documented format, so that the
//! bodies are looked at.

use bytes::Bytes;
use kvd_proto::token::{ScanToken, SessionToken, WatchToken, from_text, to_text};
use kvd_types::{Revision, ShardId};
use xxhash_rust::xxh3::xxh3_64;

const CLUSTER: &str = "0123456789abcdef0123456789abcdef";
const REQUEST: u64 = 77;

/// A token with a sound checksum around what the input says, and the input as it is.
pub fn run(bytes: &[u8]) {
    read(bytes);
    let Some((kind, body)) = bytes.split_first() else { return };
    let sum = xxh3_64(bytes).to_le_bytes();
    read(&[&[*kind], &sum[..], body].concat());
}

/// What is understood is said again so that it is understood alike.
fn read(token: &[u8]) {
    if let Ok(scan) = ScanToken::decode(token, CLUSTER, REQUEST) {
        assert_eq!(ScanToken::decode(&scan.encode(), CLUSTER, REQUEST), Ok(scan));
    }
    if let Ok(watch) = WatchToken::decode(token, CLUSTER, REQUEST) {
        assert_eq!(WatchToken::decode(&watch.encode(), CLUSTER, REQUEST), Ok(watch));
    }
    if let Ok(session) = SessionToken::decode_of_any_cluster(token) {
        let again = SessionToken::decode_of_any_cluster(&session.encode());
        assert_eq!(again.as_ref(), Ok(&session));
        assert_eq!(SessionToken::decode(token, CLUSTER).is_ok(), session.cluster_id == CLUSTER);
    }
    assert_eq!(from_text(&to_text(token)), Ok(Bytes::copy_from_slice(token)));
    if let Ok(text) = std::str::from_utf8(token)
        && let Ok(meant) = from_text(text)
    {
        assert_eq!(from_text(&to_text(&meant)), Ok(meant));
    }
}

/// Valid ones, without their checksums.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let cluster_id = CLUSTER.to_owned();
    let positions = [(ShardId(1), Revision(1 << 60)), (ShardId(900), Revision(3))];
    let scan = ScanToken {
        cluster_id: cluster_id.clone(),
        request: REQUEST,
        revision: Revision(1 << 60),
        next: Bytes::from_static(b"next\x00"),
    };
    let watch = WatchToken { cluster_id: cluster_id.clone(), request: REQUEST, positions: positions.into() };
    let session = SessionToken { cluster_id, revisions: positions.into() };
    [scan.encode(), watch.encode(), session.encode()]
        .iter()
        .map(|token| [&token[..1], &token[9..]].concat())
        .collect()
}
