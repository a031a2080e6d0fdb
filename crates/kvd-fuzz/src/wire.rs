//! What comes from clients and from other nodes.
//!
//! The check that all of these share: what a message was understood to mean, said again, is understood to mean the same.

use std::fmt::Debug;

use bytes::Bytes;
use kvd_proto::{
    error::{ERROR_METADATA, from_status, from_wire, to_status, to_wire},
    log,
    operation::{reply_from_wire, reply_to_wire, request_from_wire, request_to_wire},
    peer::v1 as p,
    v1,
};
use kvd_raft::{fuzzing as raft, peer::Handshake};
use kvd_types::{
    Error, ErrorKind, Key, Result,
    limits::{KEY_BYTES_MAX, REQUEST_BYTES_MAX, VALUE_BYTES_MAX},
};
use prost::Message;
use tonic::{
    Code, Status,
    metadata::{MetadataKey, MetadataMap, MetadataValue},
};

use crate::input::{Input, put_sized};

mod samples;

pub(crate) use samples::meta_commands;

/// Checks that what a decoder and its encoder make of something stays as it is from then on.
fn settles<T: Clone + Debug + PartialEq>(what: &str, again: impl Fn(T) -> Result<T>, given: T) {
    if let Ok(once) = again(given) {
        assert_eq!(again(once.clone()), Ok(once), "{what}: not what it was");
    }
}

fn decoded<M: Message + Default>(bytes: &[u8]) -> Option<M> {
    M::decode(Bytes::copy_from_slice(bytes)).ok()
}

/// Frames of a client's pipeline. Its requests are those of the unary calls as well.
pub fn client_requests(bytes: &[u8]) {
    let Some(frame) = decoded::<v1::PipelineRequest>(bytes) else { return };
    for operation in frame.operations {
        let Some(wire) = operation.request else { continue };
        let Ok(request) = request_from_wire(wire) else { continue };
        assert_eq!(request_from_wire(request_to_wire(request.clone())).as_ref(), Ok(&request));
        if request.check(VALUE_BYTES_MAX).is_ok() {
            // What is let through is what the rest of the node may count on.
            if let kvd_types::operation::Request::Write(write, _) = &request {
                assert!(write.op.keys().all(|key| (1..=KEY_BYTES_MAX).contains(&key.as_bytes().len())));
                assert!(write.op.size_bytes() <= REQUEST_BYTES_MAX + 1024);
            }
        }
    }
}

/// Valid ones.
#[must_use]
pub fn client_requests_seeds() -> Vec<Vec<u8>> {
    samples::requests()
        .into_iter()
        .map(|request| {
            let operation =
                v1::Operation { id: 7, deadline_ms: 1000, request: Some(request_to_wire(request)) };
            v1::PipelineRequest { operations: vec![operation.clone(), operation] }.encode_to_vec()
        })
        .collect()
}

/// Frames of answers, as a client reads them.
pub fn client_replies(bytes: &[u8]) {
    let Some(frame) = decoded::<v1::PipelineResponse>(bytes) else { return };
    for result in frame.results {
        let Some(wire) = result.response else { continue };
        settles(
            "a reply",
            |reply| reply_from_wire(reply_to_wire(Ok(reply))),
            match reply_from_wire(wire) {
                Ok(reply) => reply,
                Err(error) => {
                    assert_eq!(from_wire(to_wire(&error)), error);
                    continue;
                }
            },
        );
    }
}

/// Valid ones.
#[must_use]
pub fn client_replies_seeds() -> Vec<Vec<u8>> {
    samples::replies()
        .into_iter()
        .map(|reply| {
            let result = v1::OperationResult { id: 7, response: Some(reply_to_wire(reply)) };
            v1::PipelineResponse { results: vec![result] }.encode_to_vec()
        })
        .collect()
}

/// A node's status with its ring, as a client reads it.
pub fn client_topology(bytes: &[u8]) {
    let key = Key::try_from("{user:7}/name").expect("a key");
    let Ok((status, owner)) = kvd_client::fuzzing::status(Bytes::copy_from_slice(bytes), &key) else {
        return;
    };
    let ring = status.topology.ring.as_ref();
    assert_eq!(owner.is_some(), ring.is_some_and(|ring| !ring.shards.is_empty()));
    if let (Some(owner), Some(ring)) = (owner, ring) {
        assert!(ring.shards.iter().any(|shard| shard.id == owner));
    }
}

/// Valid ones.
#[must_use]
pub fn client_topology_seeds() -> Vec<Vec<u8>> {
    samples::statuses().iter().map(Message::encode_to_vec).collect()
}

/// The failure in a call's status: a byte for its code, then the detail in its metadata.
pub fn error_details(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut status = Status::new(Code::from(i32::from(input.byte() % 17)), "message");
    let detail = input.rest();
    status.metadata_mut().insert_bin(ERROR_METADATA, MetadataValue::from_bytes(detail));
    let error = from_status(&status);
    assert_eq!(from_status(&to_status(&error)), error, "a status");
    assert_eq!(from_wire(to_wire(&error)), error, "a wire error");
    let Some(wire) = decoded::<v1::Error>(detail) else { return };
    assert_eq!(from_wire(wire), error, "the detail counts, whatever the code says");
}

/// Valid ones.
#[must_use]
pub fn error_details_seeds() -> Vec<Vec<u8>> {
    samples::errors().iter().map(|error| [&[3], &*to_wire(error).encode_to_vec()].concat()).collect()
}

/// Frames of a lane between nodes, and the changes that a node proposes.
pub fn peer_frames(bytes: &[u8]) {
    if let Some(frame) = decoded::<p::Frame>(bytes) {
        for envelope in frame.envelopes {
            match envelope.body {
                Some(p::envelope::Body::Operation(v1::Operation { request: Some(wire), .. })) => {
                    settles("an operation", |wire| request_from_wire(wire).map(request_to_wire), wire);
                }
                Some(p::envelope::Body::Append(append)) => {
                    settles("an append", raft::append, append.encode_to_vec().into());
                }
                _ => {}
            }
        }
    }
    if let Some(request) = decoded::<p::ProposeMetaRequest>(bytes) {
        let again = |wire| log::meta_command_from_wire(wire).map(log::meta_command_to_wire);
        settles("a change", again, request.command.unwrap_or_default());
    }
    if let Some(response) = decoded::<p::ProposeMetaResponse>(bytes) {
        let again = |wire| log::meta_outcome_from_wire(wire).map(log::meta_outcome_to_wire);
        settles("an outcome", again, response.outcome.unwrap_or_default());
    }
}

/// Valid ones.
#[must_use]
pub fn peer_frames_seeds() -> Vec<Vec<u8>> {
    let frames = samples::envelopes().into_iter();
    let frames = frames.map(|envelope| p::Frame { envelopes: vec![envelope] }.encode_to_vec());
    let changes = meta_commands().into_iter().map(|command| {
        p::ProposeMetaRequest { command: Some(log::meta_command_to_wire(command)) }.encode_to_vec()
    });
    frames.chain(changes).collect()
}

/// The names of a handshake's parts, and one that is none of them.
const PARTS: [&str; 7] = [
    "kvd-cluster",
    "kvd-cluster-token",
    "kvd-from-node",
    "kvd-to-node",
    "kvd-incarnation",
    "kvd-start-nonce",
    "other",
];

/// The metadata of a call between nodes: for each entry a byte for its name, and its value after its length.
pub fn peer_handshake(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let mut metadata = MetadataMap::new();
    while !input.is_empty() {
        let name = PARTS[usize::from(input.byte()) % PARTS.len()];
        let length = input.byte();
        if let Ok(value) = MetadataValue::try_from(input.bytes(length.into())) {
            metadata.append(MetadataKey::from_static(name), value);
        }
    }
    let again = |shown: Handshake| {
        let mut metadata = MetadataMap::new();
        shown.write(&mut metadata)?;
        Handshake::read(&metadata)
    };
    if let Ok(shown) = Handshake::read(&metadata) {
        assert_eq!(again(shown.clone()), Ok(shown), "a handshake: not what it was");
    }
}

/// Valid ones.
#[must_use]
pub fn peer_handshake_seeds() -> Vec<Vec<u8>> {
    samples::handshakes()
        .iter()
        .map(|shown| {
            let mut metadata = MetadataMap::new();
            shown.write(&mut metadata).expect("a good token");
            let mut seed = Vec::new();
            for (number, name) in (0..).zip(PARTS) {
                if let Some(value) = metadata.get(name) {
                    seed.push(number);
                    seed.push(u8::try_from(value.len()).expect("a short value"));
                    seed.extend(value.as_bytes());
                }
            }
            seed
        })
        .collect()
}

/// A decoder and its encoder, one after the other.
type Again = fn(Bytes) -> Result<Bytes>;

const RAFT: [(&str, Again); 9] = [
    ("a vote", raft::vote),
    ("a log id", raft::log_id),
    ("a header", raft::header),
    ("a snapshot's meta", raft::snapshot_meta),
    ("an append", raft::append),
    ("an append's answer", raft::append_response),
    ("a vote request", raft::vote_request),
    ("a vote's answer", raft::vote_response),
    ("a transfer", raft::transfer),
];

/// Raft's messages, and what the log and a checkpoint keep of it: a byte for the kind, then the message.
pub fn raft_messages(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let (what, again) = RAFT[usize::from(input.byte()) % RAFT.len()];
    settles(what, again, Bytes::copy_from_slice(input.rest()));
}

/// Valid ones.
#[must_use]
pub fn raft_messages_seeds() -> Vec<Vec<u8>> {
    let seeds = samples::raft_messages().into_iter();
    seeds.map(|(kind, message)| [&[kind], &*message].concat()).collect()
}

/// The payloads of log entries: what is in the log is also applied.
pub fn log_entries(bytes: &[u8]) {
    let payload = Bytes::copy_from_slice(bytes);
    settles("a payload", raft::payload, payload.clone());
    match log::decode_proposal(&payload) {
        Ok(proposal) => {
            let encoded = log::encode_proposal(proposal.clone());
            assert_eq!(log::decode_proposal(&encoded), Ok(proposal), "a proposal: not what it was");
        }
        Err(Error { kind: ErrorKind::Corruption, .. }) => {}
        Err(error) => panic!("damage in the log is corruption, and not {error:?}"),
    }
}

/// Valid ones.
#[must_use]
pub fn log_entries_seeds() -> Vec<Vec<u8>> {
    let proposals = samples::proposals().into_iter().map(|proposal| log::encode_proposal(proposal).to_vec());
    let membership = [&[log::TAG_MEMBERSHIP], &*samples::membership().encode_to_vec()].concat();
    proposals.chain([vec![log::TAG_BLANK], membership]).collect()
}

/// Pieces after their lengths.
pub(crate) fn sized<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
    let mut all = Vec::new();
    pieces.into_iter().for_each(|piece| put_sized(&mut all, piece));
    all
}
