//! The decoders of what comes from peers and out of the log, for `kvd-fuzz`.
//!
//! Each of these decodes bytes and encodes what they meant. What it gives, given again, must come back as it is.

use bytes::Bytes;
use kvd_proto::peer::v1 as p;
use kvd_types::{Error, Result};
use prost::Message;

use crate::codec;

fn wire<M: Message + Default>(bytes: Bytes) -> Result<M> {
    M::decode(bytes).map_err(|error| Error::invalid(error.to_string()))
}

fn bytes(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// The payload of a log entry.
///
/// # Errors
/// It is none.
pub fn payload(payload: Bytes) -> Result<Bytes> {
    codec::decode_entry(codec::log_id(1, 1), payload).map(|entry| codec::encode_payload(entry.payload))
}

/// A vote as it stands in the log.
///
/// # Errors
/// It is none.
pub fn vote(vote: Bytes) -> Result<Bytes> {
    codec::decode_vote(vote).map(|vote| codec::encode_vote(&vote))
}

/// A committed position as it stands in the log.
///
/// # Errors
/// It is none.
pub fn log_id(id: Bytes) -> Result<Bytes> {
    codec::decode_log_id(id).map(|id| codec::encode_log_id(id.as_ref()))
}

/// A replica's applied position and membership, as its machine and a checkpoint keep it.
///
/// # Errors
/// It is none.
pub fn header(header: Bytes) -> Result<Bytes> {
    codec::decode_header(header)
        .map(|meta| codec::encode_header(meta.last_log_id.as_ref(), &meta.last_membership))
}

/// What a snapshot says of itself.
///
/// # Errors
/// It is nothing of the kind.
pub fn snapshot_meta(meta: Bytes) -> Result<Bytes> {
    codec::snapshot_meta_from_wire(wire(meta)?).map(|meta| bytes(&codec::snapshot_meta_to_wire(&meta)))
}

/// Entries for a follower.
///
/// # Errors
/// They make no sense.
pub fn append(request: Bytes) -> Result<Bytes> {
    codec::append_from_wire(wire(request)?).map(|request| bytes(&codec::append_to_wire(request)))
}

/// A follower's answer.
///
/// # Errors
/// It makes no sense.
pub fn append_response(response: Bytes) -> Result<Bytes> {
    codec::append_response_from_wire(wire(response)?)
        .map(|response| bytes(&codec::append_response_to_wire(&response)))
}

/// A candidate's request.
///
/// # Errors
/// It makes no sense.
pub fn vote_request(request: Bytes) -> Result<Bytes> {
    codec::vote_request_from_wire(wire(request)?).map(|request| bytes(&codec::vote_request_to_wire(&request)))
}

/// The answer to a candidate.
///
/// # Errors
/// It makes no sense.
pub fn vote_response(response: Bytes) -> Result<Bytes> {
    codec::vote_response_from_wire(wire(response)?)
        .map(|response| bytes(&codec::vote_response_to_wire(&response)))
}

/// A leader's wish to be followed.
///
/// # Errors
/// It makes no sense.
pub fn transfer(request: Bytes) -> Result<Bytes> {
    codec::transfer_from_wire(wire::<p::TransferLeaderRequest>(request)?)
        .map(|request| bytes(&codec::transfer_to_wire(&request)))
}
