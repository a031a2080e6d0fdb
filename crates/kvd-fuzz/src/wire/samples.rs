//! Valid messages, each field of each kind set somewhere.

use std::time::Duration;

use bytes::Bytes;
use kvd_proto::{operation::request_to_wire, peer::v1 as p, v1};
use kvd_raft::peer::Handshake;
use kvd_types::{
    ClusterId, Command, Compare, Condition, Consistency, Error, ErrorKind, Event, GroupId, Incarnation, Key,
    LeaderHint, LeaseCommand, LeaseId, LeaseOutcome, Lifetime, LogIndex, NodeId, Outcome, Proposal, Read,
    Record, Relation, ReplicaId, Result, Revision, RingEpoch, SequenceNumber, SessionId, SessionPosition,
    ShardId, Subject, Txn, TxnOp, TxnResult, Write, WriteOp,
    cluster::{Addresses, DataSettings, MetaCommand, NodeProfile, NodeState, Settings},
    operation::{
        Changes, ChangesPage, Content, Filter, LeaseInfo, Page, ReadPoint, Reply, Request, Response,
        ScanPage, Served, Tell,
    },
};
use prost::Message as _;

fn key() -> Key {
    Key::try_from("{user:7}/name").expect("a key")
}

fn record() -> Record {
    Record {
        value: Bytes::from_static(b"Ada"),
        create_revision: Revision(1 << 40),
        revision: Revision((1 << 40) + 3),
        version: 4,
        lease: Some(LeaseId(5)),
        expires_at_age_ms: Some(1_800_000),
    }
}

fn session() -> SessionPosition {
    SessionPosition {
        session: SessionId(1 << 41),
        sequence: SequenceNumber(9),
        oldest_open: SequenceNumber(7),
    }
}

fn txn() -> Txn {
    let compare = |subject, relation| Compare { key: key(), subject, relation };
    let put = |lifetime| TxnOp::Put {
        key: key(),
        value: Bytes::from_static(b"Ada"),
        lifetime,
        want_previous: true,
    };
    Txn {
        compares: vec![
            compare(Subject::Value(Bytes::from_static(b"Ada")), Relation::Equal),
            compare(Subject::Version(3), Relation::Less),
            compare(Subject::Revision(Revision(9)), Relation::Greater),
            compare(Subject::CreateRevision(Revision(0)), Relation::NotEqual),
            compare(Subject::Lease(LeaseId(5)), Relation::Equal),
        ],
        then: vec![put(Lifetime::Ttl(7)), TxnOp::Get(key())],
        otherwise: vec![put(Lifetime::Lease(LeaseId(5))), TxnOp::Delete { key: key(), want_previous: true }],
    }
}

fn writes() -> Vec<Write> {
    let put = |condition, want_previous| WriteOp::Put {
        key: key(),
        value: Bytes::from_static(b"Ada"),
        lifetime: Lifetime::Forever,
        condition,
        want_previous,
    };
    let delete = |condition| WriteOp::Delete { key: key(), condition, want_previous: true };
    let range = WriteOp::DeleteRange {
        shard: ShardId(3),
        start: Bytes::from_static(b"a"),
        end: Bytes::from_static(b"b"),
        limit: 10,
    };
    vec![
        Write { session: Some(session()), op: WriteOp::Txn(txn()) },
        Write { session: Some(session()), op: range },
        Write { session: None, op: WriteOp::GrantLease { lease: LeaseId(5), ttl_ms: 5000 } },
        Write { session: None, op: WriteOp::RevokeLease(LeaseId(5)) },
        Write { session: None, op: put(Condition::Always, false) },
        Write { session: Some(session()), op: put(Condition::Absent, true) },
        Write { session: Some(session()), op: put(Condition::RevisionIs(Revision(12)), true) },
        Write { session: None, op: delete(Condition::Always) },
        Write { session: Some(session()), op: delete(Condition::RevisionIs(Revision(12))) },
    ]
}

pub(super) fn requests() -> Vec<Request> {
    let page = ScanPage {
        shard: ShardId(3),
        start: Bytes::from_static(b"a"),
        end: Bytes::from_static(b"b"),
        limit: 10,
        descending: true,
        content: Content::KeysOnly,
        filter: Filter { revision_min: Some(Revision(4)), ..Filter::default() },
        read: Read::at(Revision(1 << 40)),
    };
    let bounded =
        Read { consistency: Consistency::Bounded(Duration::from_secs(2)), any_replica: true, at: None };
    let session = Read { consistency: Consistency::Session(Revision(9)), ..bounded };
    let changes = ChangesPage {
        shard: ShardId(3),
        after: Revision(9),
        want_previous: true,
        wait_ms: 100,
        ..ChangesPage::default()
    };
    let others = [
        Request::get(key()),
        Request::Get(key(), bounded),
        Request::BatchGet(vec![key(), key()], session),
        Request::Scan(page),
        Request::Snapshot(vec![ShardId(3), ShardId(4)]),
        Request::ReadPoint(ReadPoint { shard: ShardId(3), at: Some(Revision(9)), ..ReadPoint::default() }),
        Request::Changes(changes),
        Request::KeepLeaseAlive(LeaseId(5)),
        Request::GetLease(LeaseId(5)),
        Request::ListLeases { shard: ShardId(3), from: LeaseId(0), limit: 10 },
        Request::LeaseKeys { shard: ShardId(3), lease: LeaseId(5), after: Some(key()), limit: 10 },
        Request::Tell(ShardId(3), LeaseId(5), Tell::Expect(ShardId(4))),
        Request::Tell(ShardId(3), LeaseId(5), Tell::Detach(10)),
        Request::Tell(ShardId(3), LeaseId(5), Tell::Detached(ShardId(4))),
        Request::OpenSession(ShardId(3)),
        Request::CloseSession(ShardId(3), SessionId(1 << 41)),
    ];
    writes().into_iter().map(Request::write).chain(others).collect()
}

pub(super) fn replies() -> Vec<Result<Reply>> {
    let served = Served {
        shard: ShardId(3),
        leader: NodeId(2),
        leader_address: "host:7400".to_owned(),
        ring_epoch: RingEpoch(4),
        shard_age_ms: 70_000,
        revision: Revision(9),
    };
    let row = || Some((key(), record()));
    let put = Outcome::Put {
        revision: Revision(9),
        create_revision: Revision(8),
        version: 2,
        previous: Some(record()),
    };
    let deleted = Outcome::Deleted { revision: Revision(9), previous: Some(record()) };
    let txn_outcome = Outcome::Txn {
        succeeded: true,
        revision: Revision(9),
        results: vec![
            TxnResult::Got(Some(record())),
            TxnResult::Put { create_revision: Revision(8), version: 2, previous: Some(record()) },
            TxnResult::Deleted { existed: true, previous: None },
        ],
    };
    let event = Event { key: key(), revision: Revision(9), record: Some(record()), previous: Some(record()) };
    let lease = || LeaseInfo { id: LeaseId(5), ttl_ms: 5000, remaining_ms: 400, shards: vec![ShardId(4)] };
    let failed = || Outcome::ConditionFailed { current: Some(record()) };
    let good = [
        Response::Got(row()),
        Response::Got(None),
        Response::GotBatch(vec![row(), None, row()]),
        Response::Put(put),
        Response::Put(failed()),
        Response::Deleted(deleted),
        Response::Deleted(Outcome::NotFound),
        Response::Deleted(failed()),
        Response::Session(Outcome::SessionOpened(SessionId(1 << 41))),
        Response::Session(Outcome::SessionClosed),
        Response::Page(Page { rows: vec![(key(), record())], count: 1, next: Some("b".into()) }),
        Response::RangeDeleted(Outcome::RangeDeleted { revision: Revision(9), deleted: 3, next: None }),
        Response::Txn(txn_outcome),
        Response::Lease(Outcome::Lease(LeaseOutcome::Granted { ttl_ms: 5000 })),
        Response::LeaseKept(Outcome::Lease(LeaseOutcome::Alive { ttl_ms: 5000 })),
        Response::Lease(Outcome::Lease(LeaseOutcome::Revoked)),
        Response::LeaseInfo(Some(lease())),
        Response::Leases(vec![lease()]),
        Response::LeaseKeys(vec![key()]),
        Response::Told { lives: true, more: false },
        Response::Snapshot(Revision(9)),
        Response::ReadPoint { log_index: LogIndex(7), revision: Revision(9) },
        Response::Changes(Changes { events: vec![event], upto: Revision(9), more: true }),
    ];
    let good = good.into_iter().map(|response| Ok(Reply { response, served: served.clone() }));
    good.chain(errors().into_iter().map(Err)).collect()
}

pub(super) fn errors() -> Vec<Error> {
    let hint = LeaderHint { shard: ShardId(3), node: NodeId(2), address: "host:7400".to_owned() };
    [
        ErrorKind::InvalidArgument,
        ErrorKind::NotLeader(None),
        ErrorKind::NotLeader(Some(hint)),
        ErrorKind::WrongShard(RingEpoch(9)),
        ErrorKind::Overloaded { retry_after: Duration::from_millis(250) },
        ErrorKind::OutcomeUnknown,
        ErrorKind::Internal,
    ]
    .map(|kind| Error::new(kind, "what to do"))
    .into()
}

pub(super) fn statuses() -> Vec<v1::StatusResponse> {
    let node = v1::Node {
        id: 1,
        client_address: "host:7400".to_owned(),
        peer_address: "host:7401".to_owned(),
        http_address: "host:7402".to_owned(),
        zone: "north".to_owned(),
        weight: 100,
        state: "active".to_owned(),
        incarnation: 3,
        reachable: true,
    };
    let shard = |id| v1::Shard {
        id,
        share: 0.5,
        replicas: vec![v1::Replica { id: 10, node: 1, role: "voter".to_owned() }],
        leader_node: 1,
        preferred_leader_node: 1,
    };
    let ring_shards = |weight| [1, 2].map(|id| v1::RingShard { id, weight }).into();
    let status = |ring| v1::StatusResponse {
        topology: Some(v1::Topology {
            cluster_id: "0123456789abcdef0123456789abcdef".to_owned(),
            epoch: 5,
            replication_factor: 3,
            ring,
            nodes: vec![node.clone()],
            shards: vec![shard(1), shard(2)],
        }),
        node: 1,
        version: "0.1.0".to_owned(),
        uptime_ms: 1000,
        replicas: vec![v1::ReplicaStatus {
            group: 1,
            replica: 10,
            role: "leader".to_owned(),
            term: 3,
            leader_replica: 10,
            last_log_index: 7,
            committed_index: 7,
            applied_index: 6,
            checkpoint_index: 2,
            log_bytes: 4096,
            digest: 99,
            changes_voters: true,
        }],
    };
    vec![
        status(None),
        status(Some(v1::Ring { format: 1, epoch: 1, shards: ring_shards(1) })),
        status(Some(v1::Ring { format: 2, epoch: 1, shards: ring_shards(1) })),
    ]
}

fn profile() -> NodeProfile {
    NodeProfile {
        addresses: Addresses {
            client: "host:7400".to_owned(),
            peer: "host:7401".to_owned(),
            http: "host:7402".to_owned(),
        },
        zone: "north".to_owned(),
        weight: 100,
    }
}

pub(crate) fn meta_commands() -> Vec<MetaCommand> {
    let settings =
        Settings { replication_factor: 3, shards: 2, initial_nodes: 1, data: DataSettings::default() };
    vec![
        MetaCommand::CreateCluster {
            cluster: ClusterId(77),
            settings,
            join_nonce: 1 << 100,
            profile: profile(),
        },
        MetaCommand::RegisterNode { join_nonce: 5, profile: profile(), replaces: Some(NodeId(1)) },
        MetaCommand::AnnounceStart {
            node: NodeId(1),
            incarnation: Incarnation(2),
            start_nonce: 3,
            profile: profile(),
        },
        MetaCommand::SetNodeState { node: NodeId(1), state: NodeState::Draining },
        MetaCommand::PlaceShards {
            shards: vec![(ShardId(1), vec![NodeId(1)]), (ShardId(2), vec![NodeId(1)])],
        },
        MetaCommand::SetMetaVoters { nodes: vec![NodeId(1)] },
        MetaCommand::PreferLeader { group: GroupId(1), replica: ReplicaId(2) },
        MetaCommand::ReplaceReplica { group: GroupId(1), lost: ReplicaId(2), node: NodeId(1) },
        MetaCommand::DropRetired { group: GroupId(1), replicas: vec![ReplicaId(2)] },
    ]
}

pub(super) fn proposals() -> Vec<Proposal> {
    let clock = Revision::from_unix_ms(1_800_000_000_000);
    let stamped = Proposal {
        clock,
        age_ms: 70_000,
        ceiling: clock.next(),
        compacted: Revision(12),
        commands: Vec::new(),
    };
    let one = |command| Proposal { commands: vec![command], ..stamped.clone() };
    let mut proposals: Vec<Proposal> = writes().into_iter().map(Command::Write).map(one).collect();
    proposals.push(one(Command::OpenSession));
    proposals.push(one(Command::CloseSession(SessionId(4))));
    proposals.extend(meta_commands().into_iter().map(Command::Meta).map(one));
    let lease = LeaseId(5);
    let leases = [
        LeaseCommand::KeepAlive(lease),
        LeaseCommand::Expect { lease, shard: ShardId(4) },
        LeaseCommand::Attach { lease, not_after_ms: 80_000 },
        LeaseCommand::Detach { lease, limit: 10 },
        LeaseCommand::Detached { lease, shard: ShardId(4) },
    ];
    proposals.extend(leases.map(Command::Lease).map(one));
    let all = writes().into_iter().map(Command::Write).collect();
    proposals.push(Proposal { commands: all, ..stamped.clone() });
    proposals.push(stamped);
    proposals
}

pub(super) fn handshakes() -> Vec<Handshake> {
    let shown = |cluster, token: &str| Handshake {
        cluster,
        token: token.to_owned(),
        from: NodeId(3),
        to: NodeId(1),
        incarnation: Incarnation(9),
        start_nonce: 1 << 90,
    };
    vec![shown(None, ""), shown(Some(ClusterId(u128::MAX)), "secret")]
}

pub(super) fn membership() -> p::Membership {
    p::Membership {
        configurations: vec![
            p::VoterSet { replicas: vec![1, 2, 3] },
            p::VoterSet { replicas: vec![2, 3, 4] },
        ],
        members: (1..=5).map(|replica| p::Member { replica, node: replica }).collect(),
    }
}

const ID: Option<p::LogId> = Some(p::LogId { term: 3, index: 8 });
const ERA: Option<p::Era> = Some(p::Era { incarnation: 5, generation: 1 });
const VOTE: Option<p::Vote> = Some(p::Vote { term: 3, voted_for: 2, committed: true });

fn append() -> p::AppendRequest {
    let proposal = proposals().remove(0);
    p::AppendRequest {
        vote: VOTE,
        previous: ID,
        committed: ID,
        entries: vec![
            p::Entry {
                id: Some(p::LogId { term: 3, index: 9 }),
                payload: kvd_proto::log::encode_proposal(proposal),
            },
            p::Entry { id: Some(p::LogId { term: 3, index: 10 }), payload: Bytes::from_static(b"\0") },
        ],
    }
}

fn vote_request() -> p::VoteRequest {
    p::VoteRequest { vote: VOTE, last_log: ID, leader_transfer: true }
}

fn transfer() -> p::TransferLeaderRequest {
    p::TransferLeaderRequest { from_leader: VOTE, to_replica: 2, last_log: ID }
}

pub(super) fn envelopes() -> Vec<p::Envelope> {
    use p::{append_response::Result as Appended, envelope::Body};
    let operations = requests().into_iter().map(|request| {
        Body::Operation(v1::Operation { id: 1, deadline_ms: 5, request: Some(request_to_wire(request)) })
    });
    let bodies = [
        Body::Append(append()),
        Body::AppendResponse(p::AppendResponse { result: Some(Appended::Success(true)) }),
        Body::Vote(vote_request()),
        Body::PreVote(vote_request()),
        Body::VoteResponse(p::VoteResponse { vote: VOTE, granted: true, last_log: ID }),
        Body::TransferLeader(transfer()),
        Body::Refusal(p::Refusal { reason: 1, message: "not here".to_owned() }),
        Body::Sleep(p::SleepRequest { term: 4, leader: 2, node: 1, last_log: ID, number: 3, era: ERA }),
        Body::SleepResponse(p::SleepResponse { sleeps: true }),
        Body::Wake(p::WakeRequest {}),
        Body::Pulse(p::PulseRequest { node: 1 }),
        Body::PulseResponse(p::PulseResponse { era: ERA }),
    ];
    let envelope = |body| p::Envelope { call: 7, group: 1, from_replica: 2, to_replica: 3, body: Some(body) };
    bodies.into_iter().chain(operations).map(envelope).collect()
}

/// With the numbers of their kinds.
pub(super) fn raft_messages() -> Vec<(u8, Vec<u8>)> {
    use p::append_response::Result as Appended;
    let meta = p::SnapshotMeta { last: ID, membership_log_id: ID, membership: Some(membership()) };
    let mut messages = vec![
        (0, VOTE.expect("a vote").encode_to_vec()),
        (1, ID.expect("an id").encode_to_vec()),
        (2, meta.encode_to_vec()),
        (3, meta.encode_to_vec()),
        (4, append().encode_to_vec()),
        (6, vote_request().encode_to_vec()),
        (7, p::VoteResponse { vote: VOTE, granted: true, last_log: ID }.encode_to_vec()),
        (8, transfer().encode_to_vec()),
    ];
    let answers = [
        Appended::Success(true),
        Appended::Partial(p::PartialSuccess { matching: ID }),
        Appended::Conflict(true),
        Appended::HigherVote(VOTE.expect("a vote")),
    ];
    for result in answers {
        messages.push((5, p::AppendResponse { result: Some(result) }.encode_to_vec()));
    }
    messages
}
