//! Openraft's values, to and from the bytes of the wire and of the log.
//!
//! A log entry's payload is encoded once: the same bytes stand in the leader's log, travel to the followers and stand in
//! theirs. Everything decoded here may come from the network or the disk, so every conversion from outside is fallible.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut as _, Bytes, BytesMut};
use kvd_proto::{
    log::{TAG_BLANK, TAG_MEMBERSHIP, TAG_PROPOSAL},
    peer::v1 as p,
};
use kvd_storage::log;
use kvd_types::{Error, LogIndex, NodeId, ReplicaId, Result, Term};
use openraft::{
    EntryPayload,
    raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest, VoteResponse},
};
use prost::Message as _;

use crate::types::{
    CommittedLeaderId, EncodedProposal, Entry, LogId, Membership, SnapshotMeta, StoredMembership, TypeConfig,
    Vote,
};

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

pub(crate) fn log_id_to_wire(id: &LogId) -> p::LogId {
    p::LogId { term: id.committed_leader_id().term, index: id.index() }
}

pub(crate) fn log_id_from_wire(wire: p::LogId) -> LogId {
    log_id(wire.term, wire.index)
}

pub(crate) fn entry_id(id: &LogId) -> log::EntryId {
    log::EntryId { index: LogIndex(id.index()), term: Term(id.committed_leader_id().term) }
}

pub(crate) fn log_id_of(id: log::EntryId) -> LogId {
    log_id(id.term.get(), id.index.get())
}

pub(crate) fn vote_to_wire(vote: &Vote) -> p::Vote {
    let leader = vote.leader_id();
    p::Vote { term: leader.term, voted_for: leader.voted_for.get(), committed: vote.is_committed() }
}

pub(crate) fn vote_from_wire(wire: p::Vote) -> Vote {
    if wire.committed {
        Vote::new_committed(wire.term, ReplicaId(wire.voted_for))
    } else {
        Vote::new(wire.term, ReplicaId(wire.voted_for))
    }
}

pub(crate) fn encode_vote(vote: &Vote) -> Bytes {
    vote_to_wire(vote).encode_to_vec().into()
}

pub(crate) fn decode_vote(bytes: Bytes) -> Result<Vote> {
    p::Vote::decode(bytes)
        .map(vote_from_wire)
        .map_err(|error| Error::corruption(format!("a vote in the log: {error}")))
}

pub(crate) fn encode_log_id(id: Option<&LogId>) -> Bytes {
    id.map(|id| log_id_to_wire(id).encode_to_vec().into()).unwrap_or_default()
}

pub(crate) fn decode_log_id(bytes: Bytes) -> Result<Option<LogId>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let wire = p::LogId::decode(bytes)
        .map_err(|error| Error::corruption(format!("a log id in the log: {error}")))?;
    Ok(Some(log_id_from_wire(wire)))
}

/// An entry's payload as it stands in the log.
pub(crate) fn encode_payload(payload: EntryPayload<EncodedProposal, ReplicaId, NodeId>) -> Bytes {
    match payload {
        EntryPayload::Blank => Bytes::from_static(&[TAG_BLANK]),
        EntryPayload::Normal(proposal) => proposal.0,
        EntryPayload::Membership(membership) => {
            let wire = membership_to_wire(&membership);
            let mut bytes = BytesMut::with_capacity(1 + wire.encoded_len());
            bytes.put_u8(TAG_MEMBERSHIP);
            bytes.put_slice(&wire.encode_to_vec());
            bytes.freeze()
        }
    }
}

/// An entry from its id and the payload that stands in the log.
pub(crate) fn decode_entry(id: LogId, payload: Bytes) -> Result<Entry> {
    let payload = match payload.first() {
        Some(&TAG_BLANK) => EntryPayload::Blank,
        Some(&TAG_PROPOSAL) => EntryPayload::Normal(EncodedProposal(payload)),
        Some(&TAG_MEMBERSHIP) => {
            let wire = p::Membership::decode(payload.slice(1..))
                .map_err(|error| Error::corruption(format!("the membership in log entry {id}: {error}")))?;
            EntryPayload::Membership(membership_from_wire(wire)?)
        }
        tag => return Err(Error::corruption(format!("log entry {id} has the unknown tag {tag:?}"))),
    };
    Ok(Entry { log_id: id, payload })
}

fn membership_to_wire(membership: &Membership) -> p::Membership {
    p::Membership {
        configurations: membership
            .get_joint_config()
            .iter()
            .map(|voters| p::VoterSet { replicas: voters.iter().map(|replica| replica.get()).collect() })
            .collect(),
        members: membership
            .nodes()
            .map(|(replica, node)| p::Member { replica: replica.get(), node: node.get() })
            .collect(),
    }
}

fn membership_from_wire(wire: p::Membership) -> Result<Membership> {
    let configurations: Vec<BTreeSet<ReplicaId>> = wire
        .configurations
        .into_iter()
        .map(|set| set.replicas.into_iter().map(ReplicaId).collect())
        .collect();
    let members: BTreeMap<ReplicaId, NodeId> =
        wire.members.into_iter().map(|member| (ReplicaId(member.replica), NodeId(member.node))).collect();
    if configurations.is_empty() && members.is_empty() {
        return Ok(Membership::default());
    }
    Membership::new(configurations, members)
        .map_err(|error| Error::corruption(format!("a membership that openraft refuses: {error}")))
}

/// A replica's place in its log: what its machine keeps with the data, and a checkpoint carries.
pub(crate) fn encode_header(last: Option<&LogId>, membership: &StoredMembership) -> Bytes {
    header_to_wire(last, membership).encode_to_vec().into()
}

pub(crate) fn decode_header(bytes: Bytes) -> Result<SnapshotMeta> {
    let wire = p::SnapshotMeta::decode(bytes)
        .map_err(|error| Error::corruption(format!("a replica's applied position: {error}")))?;
    snapshot_meta_from_wire(wire)
}

pub(crate) fn snapshot_meta_to_wire(meta: &SnapshotMeta) -> p::SnapshotMeta {
    header_to_wire(meta.last_log_id.as_ref(), &meta.last_membership)
}

fn header_to_wire(last: Option<&LogId>, membership: &StoredMembership) -> p::SnapshotMeta {
    p::SnapshotMeta {
        last: last.map(log_id_to_wire),
        membership_log_id: membership.log_id().as_ref().map(log_id_to_wire),
        membership: Some(membership_to_wire(membership.membership())),
    }
}

pub(crate) fn snapshot_meta_from_wire(wire: p::SnapshotMeta) -> Result<SnapshotMeta> {
    let membership = membership_from_wire(wire.membership.unwrap_or_default())?;
    Ok(SnapshotMeta {
        last_log_id: wire.last.map(log_id_from_wire),
        last_membership: StoredMembership::new(wire.membership_log_id.map(log_id_from_wire), membership),
    })
}

pub(crate) fn append_to_wire(request: AppendEntriesRequest<TypeConfig>) -> p::AppendRequest {
    p::AppendRequest {
        vote: Some(vote_to_wire(&request.vote)),
        previous: request.prev_log_id.as_ref().map(log_id_to_wire),
        committed: request.leader_commit.as_ref().map(log_id_to_wire),
        entries: request
            .entries
            .into_iter()
            .map(|entry| p::Entry {
                id: Some(log_id_to_wire(&entry.log_id)),
                payload: encode_payload(entry.payload),
            })
            .collect(),
    }
}

pub(crate) fn append_from_wire(wire: p::AppendRequest) -> Result<AppendEntriesRequest<TypeConfig>> {
    let entries = wire.entries.into_iter().map(|entry| {
        let id = entry.id.ok_or_else(|| Error::invalid("an entry without an id"))?;
        decode_entry(log_id_from_wire(id), entry.payload)
    });
    Ok(AppendEntriesRequest {
        vote: required_vote(wire.vote)?,
        prev_log_id: wire.previous.map(log_id_from_wire),
        entries: entries.collect::<Result<_>>()?,
        leader_commit: wire.committed.map(log_id_from_wire),
    })
}

pub(crate) fn append_response_to_wire(response: &AppendEntriesResponse<TypeConfig>) -> p::AppendResponse {
    use p::append_response::Result as Wire;
    let result = match response {
        AppendEntriesResponse::Success => Wire::Success(true),
        AppendEntriesResponse::PartialSuccess(matching) => {
            Wire::Partial(p::PartialSuccess { matching: matching.as_ref().map(log_id_to_wire) })
        }
        AppendEntriesResponse::Conflict => Wire::Conflict(true),
        AppendEntriesResponse::HigherVote(vote) => Wire::HigherVote(vote_to_wire(vote)),
    };
    p::AppendResponse { result: Some(result) }
}

pub(crate) fn append_response_from_wire(
    wire: p::AppendResponse,
) -> Result<AppendEntriesResponse<TypeConfig>> {
    use p::append_response::Result as Wire;
    Ok(match wire.result.ok_or_else(|| Error::invalid("an append answer without a result"))? {
        Wire::Success(_) => AppendEntriesResponse::Success,
        Wire::Partial(partial) => {
            AppendEntriesResponse::PartialSuccess(partial.matching.map(log_id_from_wire))
        }
        Wire::Conflict(_) => AppendEntriesResponse::Conflict,
        Wire::HigherVote(vote) => AppendEntriesResponse::HigherVote(vote_from_wire(vote)),
    })
}

pub(crate) fn vote_request_to_wire(request: &VoteRequest<TypeConfig>) -> p::VoteRequest {
    p::VoteRequest {
        vote: Some(vote_to_wire(&request.vote)),
        last_log: request.last_log_id.as_ref().map(log_id_to_wire),
        leader_transfer: request.leadership_transfer,
    }
}

pub(crate) fn vote_request_from_wire(wire: p::VoteRequest) -> Result<VoteRequest<TypeConfig>> {
    let mut request = VoteRequest::new(required_vote(wire.vote)?, wire.last_log.map(log_id_from_wire));
    request.leadership_transfer = wire.leader_transfer;
    Ok(request)
}

pub(crate) fn vote_response_to_wire(response: &VoteResponse<TypeConfig>) -> p::VoteResponse {
    p::VoteResponse {
        vote: Some(vote_to_wire(&response.vote)),
        granted: response.vote_granted,
        last_log: response.last_log_id.as_ref().map(log_id_to_wire),
    }
}

pub(crate) fn vote_response_from_wire(wire: p::VoteResponse) -> Result<VoteResponse<TypeConfig>> {
    Ok(VoteResponse {
        vote: required_vote(wire.vote)?,
        vote_granted: wire.granted,
        last_log_id: wire.last_log.map(log_id_from_wire),
    })
}

pub(crate) fn transfer_to_wire(request: &TransferLeaderRequest<TypeConfig>) -> p::TransferLeaderRequest {
    p::TransferLeaderRequest {
        from_leader: Some(vote_to_wire(request.from_leader())),
        to_replica: request.to_node_id().get(),
        last_log: request.last_log_id().map(log_id_to_wire),
    }
}

pub(crate) fn transfer_from_wire(
    wire: p::TransferLeaderRequest,
) -> Result<TransferLeaderRequest<TypeConfig>> {
    Ok(TransferLeaderRequest::new(
        required_vote(wire.from_leader)?,
        ReplicaId(wire.to_replica),
        wire.last_log.map(log_id_from_wire),
    ))
}

pub(crate) fn required_vote(wire: Option<p::Vote>) -> Result<Vote> {
    wire.map(vote_from_wire).ok_or_else(|| Error::invalid("a message without a vote"))
}
