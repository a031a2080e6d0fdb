//! Openraft's generics, spelled once.

use std::fmt;

use bytes::Bytes;
use kvd_types::{NodeId, Outcome, ReplicaId};
use openraft::{EntryPayload, OptionalSend, RaftTypeConfig, impls};

/// What a group's log entries, votes and answers are made of. Written by hand because openraft's macro can't name the
/// responder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = EncodedProposal;
    type R = Applied;
    type NodeId = ReplicaId;
    type Node = NodeId;
    type Term = u64;
    type LeaderId = impls::leader_id_std::LeaderId<u64, ReplicaId>;
    type Vote = impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<EncodedProposal, ReplicaId, NodeId>;
    type Entry = openraft::Entry<CommittedLeaderId, Self::Payload>;
    type AsyncRuntime = impls::TokioRuntime;
    type Responder<T>
        = impls::OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = impls::InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = impls::BoxedErrorSource;
}

/// A proposal as it stands in the log: encoded once, by the leader, tag byte included.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct EncodedProposal(pub(crate) Bytes);

impl fmt::Debug for EncodedProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "EncodedProposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for EncodedProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What came of the commands of one entry, in their order; empty for blank and membership entries.
#[derive(Debug, Default)]
pub(crate) struct Applied(pub(crate) Vec<Outcome>);

pub(crate) type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Membership = openraft::Membership<ReplicaId, NodeId>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
pub(crate) type Snapshot = openraft::alias::SnapshotOf<TypeConfig, kvd_storage::checkpoint::Checkpoint>;
pub(crate) type Metrics = openraft::RaftMetrics<TypeConfig>;
