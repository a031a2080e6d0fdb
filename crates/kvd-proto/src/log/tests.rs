//! What is written to a log is read back alike, now and by later versions.

use kvd_types::{Compare, LeaseCommand, Lifetime, Relation, Subject, Txn, TxnOp, cluster::DataSettings};
use proptest::prelude::*;

use super::*;
use crate::operation::tests::strategies::{session, write_op};

fn profile() -> NodeProfile {
    NodeProfile {
        addresses: Addresses { client: "a:1".into(), peer: "a:2".into(), http: "a:3".into() },
        zone: "z".into(),
        weight: 100,
    }
}

fn every_meta_command() -> Vec<MetaCommand> {
    vec![
        MetaCommand::CreateCluster {
            cluster: ClusterId(1 << 100 | 7),
            settings: Settings {
                replication_factor: 3,
                shards: 12,
                initial_nodes: 3,
                data: DataSettings { lease_reads: true, ..DataSettings::default() },
            },
            join_nonce: 9,
            profile: profile(),
        },
        MetaCommand::RegisterNode { join_nonce: u128::MAX, profile: profile(), replaces: None },
        MetaCommand::RegisterNode { join_nonce: 8, profile: profile(), replaces: Some(NodeId(3)) },
        MetaCommand::AnnounceStart {
            node: NodeId(2),
            incarnation: Incarnation(3),
            start_nonce: 4,
            profile: profile(),
        },
        MetaCommand::SetNodeState { node: NodeId(2), state: NodeState::Draining },
        MetaCommand::SetNodeState { node: NodeId(2), state: NodeState::Active },
        MetaCommand::PlaceShards { shards: vec![(ShardId(1), vec![NodeId(1), NodeId(2)])] },
        MetaCommand::SetMetaVoters { nodes: vec![NodeId(3)] },
        MetaCommand::PreferLeader { group: GroupId(1), replica: ReplicaId(5) },
        MetaCommand::ReplaceReplica { group: GroupId(1), lost: ReplicaId(5), node: NodeId(2) },
        MetaCommand::DropRetired { group: GroupId(1), replicas: vec![ReplicaId(5)] },
    ]
}

fn every_command() -> Vec<Command> {
    let key = Key::try_from("k").unwrap();
    let session = Some(SessionPosition {
        session: SessionId(1),
        sequence: SequenceNumber(2),
        oldest_open: SequenceNumber(1),
    });
    let mut commands = vec![Command::OpenSession, Command::CloseSession(SessionId(8))];
    commands.extend(
        every_write(&key)
            .into_iter()
            .flat_map(|op| [session, None].map(|session| Command::Write(Write { session, op: op.clone() }))),
    );
    let (lease, shard) = (LeaseId(5), ShardId(3));
    let about_leases = [
        LeaseCommand::KeepAlive(lease),
        LeaseCommand::Expect { lease, shard },
        LeaseCommand::Attach { lease, not_after_ms: 99 },
        LeaseCommand::Detach { lease, limit: 7 },
        LeaseCommand::Detached { lease, shard },
    ];
    commands.extend(about_leases.map(Command::Lease));
    commands.extend(every_meta_command().into_iter().map(Command::Meta));
    commands
}

fn every_write(key: &Key) -> Vec<WriteOp> {
    let (key, value) = (key.clone(), Bytes::from("v"));
    let mut writes = vec![
        WriteOp::Delete {
            key: key.clone(),
            condition: Condition::RevisionIs(Revision(0)),
            want_previous: false,
        },
        WriteOp::DeleteRange { shard: ShardId(2), start: "a".into(), end: Bytes::new(), limit: 5 },
        WriteOp::GrantLease { lease: LeaseId(1), ttl_ms: 5000 },
        WriteOp::RevokeLease(LeaseId(1)),
    ];
    for condition in [Condition::Always, Condition::Absent, Condition::RevisionIs(Revision(7))] {
        for lifetime in [Lifetime::Forever, Lifetime::Ttl(100), Lifetime::Lease(LeaseId(1))] {
            let (key, value) = (key.clone(), value.clone());
            writes.push(WriteOp::Put { key, value, lifetime, condition, want_previous: true });
        }
    }
    let subjects = [
        Subject::Revision(Revision(1)),
        Subject::CreateRevision(Revision(0)),
        Subject::Version(3),
        Subject::Lease(LeaseId(0)),
        Subject::Value(value.clone()),
    ];
    let relations = [Relation::Equal, Relation::NotEqual, Relation::Less, Relation::Greater];
    let compare = |(subject, relation)| Compare { key: key.clone(), subject, relation };
    let lifetime = Lifetime::Ttl(1);
    writes.push(WriteOp::Txn(Txn {
        compares: subjects.into_iter().zip(relations.into_iter().cycle()).map(compare).collect(),
        then: vec![TxnOp::Put { key: key.clone(), value, lifetime, want_previous: true }],
        otherwise: vec![TxnOp::Get(key.clone()), TxnOp::Delete { key, want_previous: false }],
    }));
    writes
}

#[test]
fn a_proposal_is_read_as_it_was_written() {
    let proposal = Proposal {
        clock: Revision(77),
        age_ms: 5,
        ceiling: Revision(99),
        compacted: Revision(11),
        commands: every_command(),
    };
    assert_eq!(decode_proposal(&encode_proposal(proposal.clone())).unwrap(), proposal);
}

proptest! {
    #[test]
    fn any_write_is_read_as_it_was_written(writes in proptest::collection::vec((session(), write_op()), 0..5)) {
        let write = |(session, (op, _))| Command::Write(Write { session, op });
        let proposal = Proposal { commands: writes.into_iter().map(write).collect(), ..Proposal::default() };
        prop_assert_eq!(decode_proposal(&encode_proposal(proposal.clone())).unwrap(), proposal);
    }
}

#[test]
fn what_the_data_model_brought_is_persisted_as_ever() {
    let commands = every_command().into_iter().filter(|command| !matches!(command, Command::Meta(_)));
    let proposal = Proposal {
        clock: Revision(77),
        age_ms: 5,
        ceiling: Revision(99),
        compacted: Revision(11),
        commands: commands.collect(),
    };
    let payload = encode_proposal(proposal);
    // A change of this number is a change of the log's format: it must still read what earlier versions have written.
    assert_eq!(xxhash_rust::xxh3::xxh3_64(&payload), 1_045_890_005_723_219_844, "{}", payload.escape_ascii());
}

#[test]
fn the_persisted_bytes_do_not_change() {
    let op = WriteOp::Put {
        key: Key::try_from("k").unwrap(),
        value: "v".into(),
        lifetime: Lifetime::Forever,
        condition: Condition::RevisionIs(Revision(7)),
        want_previous: true,
    };
    let session = Some(SessionPosition {
        session: SessionId(1),
        sequence: SequenceNumber(2),
        oldest_open: SequenceNumber(1),
    });
    let commands = vec![Command::Write(Write { session, op })];
    let proposal = Proposal { clock: Revision(77), commands, ..Proposal::default() };
    let golden = b"\x01\x08\x4d\x12\x16\x0a\x14\x0a\x01k\x12\x01v\x1a\x02\x10\x07\x20\x01\x2a\x06\x08\x01\x10\x02\x18\x01";
    assert_eq!(encode_proposal(proposal).as_ref(), golden);
}

#[test]
fn a_join_is_persisted_as_ever_with_or_without_a_node_that_it_replaces() {
    let golden = b"\x01\x08\x4d\x12\x25\x2a\x23\x12\x21\x0a\x09\x11\x05\0\0\0\0\0\0\0\x12\x14\x0a\x03a:1\x12\x03a:2\x1a\x03a:3\x22\x01z\x28\x64";
    let joins = |replaces| {
        let join = MetaCommand::RegisterNode { join_nonce: 5, profile: profile(), replaces };
        Proposal { clock: Revision(77), commands: vec![Command::Meta(join)], ..Proposal::default() }
    };
    assert_eq!(
        encode_proposal(joins(None)).as_ref(),
        golden,
        "{}",
        encode_proposal(joins(None)).escape_ascii()
    );
    assert_eq!(decode_proposal(&Bytes::from_static(golden)).unwrap(), joins(None));
    // Three lengths and the field itself.
    let mut longer = [&golden[..], b"\x18\x09"].concat();
    for length in [4, 6, 8] {
        longer[length] += 2;
    }
    assert_eq!(encode_proposal(joins(Some(NodeId(9)))).as_ref(), longer);
}

#[test]
fn what_is_no_proposal_is_corruption() {
    for payload in [&b""[..], b"\x00", b"\x02", b"\x01\xff", b"\x01\x12\x00"] {
        let error = decode_proposal(&Bytes::from_static(payload)).unwrap_err();
        assert_eq!(error.kind, kvd_types::ErrorKind::Corruption, "{payload:?}");
    }
}

#[test]
fn meta_outcomes_survive_the_wire() {
    for outcome in [
        MetaOutcome::Done,
        MetaOutcome::NodeRegistered { node: NodeId(4), meta_replica: ReplicaId(9) },
        MetaOutcome::ReplicaReplaced { successor: ReplicaId(12) },
        MetaOutcome::Refused("no".into()),
    ] {
        assert_eq!(meta_outcome_from_wire(meta_outcome_to_wire(outcome.clone())).unwrap(), outcome);
    }
}
