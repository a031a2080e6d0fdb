//! What is written to a log is read back alike, now and by later versions.

use super::*;

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
            settings: Settings { replication_factor: 3, shards: 12, initial_nodes: 3 },
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
    let mut commands = vec![
        Command::OpenSession,
        Command::CloseSession(SessionId(8)),
        Command::Write(Write {
            session: None,
            op: WriteOp::Delete {
                key: key.clone(),
                condition: Condition::RevisionIs(Revision(0)),
                want_previous: false,
            },
        }),
    ];
    for condition in [Condition::Always, Condition::Absent, Condition::RevisionIs(Revision(7))] {
        let op = WriteOp::Put { key: key.clone(), value: "v".into(), condition, want_previous: true };
        commands.push(Command::Write(Write { session, op }));
    }
    commands.extend(every_meta_command().into_iter().map(Command::Meta));
    commands
}

#[test]
fn a_proposal_is_read_as_it_was_written() {
    let proposal = Proposal { clock: Revision(77), commands: every_command() };
    assert_eq!(decode_proposal(&encode_proposal(proposal.clone())).unwrap(), proposal);
}

#[test]
fn the_persisted_bytes_do_not_change() {
    let op = WriteOp::Put {
        key: Key::try_from("k").unwrap(),
        value: "v".into(),
        condition: Condition::RevisionIs(Revision(7)),
        want_previous: true,
    };
    let session = Some(SessionPosition {
        session: SessionId(1),
        sequence: SequenceNumber(2),
        oldest_open: SequenceNumber(1),
    });
    let proposal = Proposal { clock: Revision(77), commands: vec![Command::Write(Write { session, op })] };
    let golden = b"\x01\x08\x4d\x12\x16\x0a\x14\x0a\x01k\x12\x01v\x1a\x02\x10\x07\x20\x01\x2a\x06\x08\x01\x10\x02\x18\x01";
    assert_eq!(encode_proposal(proposal).as_ref(), golden);
}

#[test]
fn a_join_is_persisted_as_ever_with_or_without_a_node_that_it_replaces() {
    let golden = b"\x01\x08\x4d\x12\x25\x2a\x23\x12\x21\x0a\x09\x11\x05\0\0\0\0\0\0\0\x12\x14\x0a\x03a:1\x12\x03a:2\x1a\x03a:3\x22\x01z\x28\x64";
    let joins = |replaces| {
        let join = MetaCommand::RegisterNode { join_nonce: 5, profile: profile(), replaces };
        Proposal { clock: Revision(77), commands: vec![Command::Meta(join)] }
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
