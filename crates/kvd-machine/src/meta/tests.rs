//! The rules of the meta group, one at a time, and what holds after any commands.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use kvd_types::{
    ClusterId, Command, GroupId, Incarnation, NodeId, Outcome, ReplicaId, RingEpoch, ShardId,
    cluster::{
        Addresses, DataSettings, MetaCommand, MetaOutcome, NodeProfile, NodeState, Placement,
        Replica as PlacedReplica, Settings,
    },
    limits::{
        LABEL_BYTES_MAX, META_VOTERS_MAX, NODES_MAX, REPLACED_NODES_MAX, RETIRING_REPLICAS_MAX, SHARDS_MAX,
        WEIGHT_DEFAULT, WEIGHT_RANGE,
    },
};
use proptest::prelude::*;

use super::{MetaState, row};
use crate::tests::Replica;

mod replaced;

const DONE: MetaOutcome = MetaOutcome::Done;

fn profile(name: &str) -> NodeProfile {
    let address = |port| format!("{name}:{port}");
    NodeProfile {
        addresses: Addresses { client: address(1), peer: address(2), http: address(3) },
        zone: "zone".to_owned(),
        weight: 100,
    }
}

const fn settings(replication_factor: u32, shards: u32, initial_nodes: u32) -> Settings {
    Settings {
        replication_factor,
        shards,
        initial_nodes,
        data: DataSettings { history_retention_ms: 5000, history_bytes_max: 1 << 20, lease_reads: true },
    }
}

fn create(settings: Settings, profile: NodeProfile) -> MetaCommand {
    MetaCommand::CreateCluster { cluster: ClusterId(0xc1), settings, join_nonce: 101, profile }
}

fn register(nonce: u128) -> MetaCommand {
    MetaCommand::RegisterNode { join_nonce: nonce, profile: profile(&format!("n{nonce}")), replaces: None }
}

/// A node that comes in place of another one, at addresses of this name.
fn register_instead(nonce: u128, of: u64, name: &str) -> MetaCommand {
    MetaCommand::RegisterNode { join_nonce: nonce, profile: profile(name), replaces: Some(NodeId(of)) }
}

fn announce(node: u64, incarnation: u64, start_nonce: u128, profile: NodeProfile) -> MetaCommand {
    MetaCommand::AnnounceStart {
        node: NodeId(node),
        incarnation: Incarnation(incarnation),
        start_nonce,
        profile,
    }
}

fn place(shards: &[(u32, &[u64])]) -> MetaCommand {
    let nodes = |nodes: &[u64]| nodes.iter().copied().map(NodeId).collect();
    MetaCommand::PlaceShards {
        shards: shards.iter().map(|(shard, of)| (ShardId(*shard), nodes(of))).collect(),
    }
}

fn meta_voters(nodes: &[u64]) -> MetaCommand {
    MetaCommand::SetMetaVoters { nodes: nodes.iter().copied().map(NodeId).collect() }
}

const fn prefer(group: u32, replica: u64) -> MetaCommand {
    MetaCommand::PreferLeader { group: GroupId(group), replica: ReplicaId(replica) }
}

const fn replace(group: u32, lost: u64, node: u64) -> MetaCommand {
    MetaCommand::ReplaceReplica { group: GroupId(group), lost: ReplicaId(lost), node: NodeId(node) }
}

fn retired(group: u32, replicas: &[u64]) -> MetaCommand {
    let replicas = replicas.iter().copied().map(ReplicaId).collect();
    MetaCommand::DropRetired { group: GroupId(group), replicas }
}

const fn replica(id: u64, node: u64) -> PlacedReplica {
    PlacedReplica { id: ReplicaId(id), node: NodeId(node) }
}

const fn registered(node: u64, meta_replica: u64) -> MetaOutcome {
    MetaOutcome::NodeRegistered { node: NodeId(node), meta_replica: ReplicaId(meta_replica) }
}

impl Replica {
    fn run(&mut self, command: MetaCommand) -> MetaOutcome {
        match self.apply(Command::Meta(command)) {
            Outcome::Meta(outcome) => outcome,
            other => panic!("{other:?}"),
        }
    }

    /// Checks that a command is refused with a text that has a part, and changes nothing.
    fn refuses(&mut self, command: MetaCommand, part: &str) {
        let before = self.meta().state();
        let said = format!("{command:?}");
        match self.run(command) {
            MetaOutcome::Refused(text) => assert!(text.contains(part), "{said}: {text}"),
            other => panic!("{said}: {other:?}"),
        }
        assert!(Arc::ptr_eq(&before, &self.meta().state()), "{said} changed the state");
    }

    /// Checks what a command comes to, and whether it changes anything.
    fn runs(&mut self, command: MetaCommand, expected: &MetaOutcome, changes: bool) {
        let before = self.meta().state();
        let said = format!("{command:?}");
        assert_eq!(self.run(command), *expected, "{said}");
        let after = self.meta().state();
        assert_eq!(after.epoch.get() - before.epoch.get(), u64::from(changes), "{said}");
        assert_eq!(*after != *before, changes, "{said}");
    }

    fn placement(&self, group: u32) -> Placement {
        self.meta().state().placements[&GroupId(group)].clone()
    }
}

/// A cluster of four nodes, with replicas 1 to 4 of the meta group, and three shards of three replicas.
fn four_nodes() -> Replica {
    let mut cluster = Replica::new(GroupId::META);
    cluster.runs(create(settings(3, 3, 3), profile("n101")), &registered(1, 1), true);
    for node in 2..=4 {
        cluster.runs(register(100 + u128::from(node)), &registered(node, node), true);
    }
    cluster
}

#[test]
fn a_new_cluster_has_a_founder_a_ring_and_a_meta_group() {
    let mut cluster = Replica::new(GroupId::META);
    assert_eq!(*cluster.meta().state(), MetaState::default());
    for command in
        [register(1), announce(1, 1, 1, profile("a")), place(&[]), meta_voters(&[1]), retired(0, &[])]
    {
        cluster.refuses(command, "no cluster yet");
    }
    cluster.runs(create(settings(3, 2, 3), profile("n101")), &registered(1, 1), true);
    let state = cluster.meta().state();
    assert_eq!(state.cluster(), Some(ClusterId(0xc1)));
    assert_eq!(state.settings(), Some(&settings(3, 2, 3)));
    let ring = state.ring().unwrap();
    assert_eq!((ring.format, ring.epoch), (1, RingEpoch(1)));
    let shards: Vec<_> = ring.shards.iter().map(|shard| (shard.id.get(), shard.weight)).collect();
    assert_eq!(shards, [(1, WEIGHT_DEFAULT), (2, WEIGHT_DEFAULT)]);
    let node = &state.nodes[&NodeId(1)];
    assert_eq!((node.join_nonce, node.incarnation, node.state), (101, Incarnation(0), NodeState::Active));
    let founder = vec![replica(1, 1)];
    let expected = Placement {
        group: GroupId::META,
        voters: founder.clone(),
        learners: vec![],
        retiring: vec![],
        founders: founder,
        preferred_leader: ReplicaId(1),
    };
    assert_eq!(state.placements.values().collect::<Vec<_>>(), [&expected]);
    cluster.refuses(
        create(settings(3, 2, 3), profile("n101")),
        "cluster 000000000000000000000000000000c1 already",
    );
    // Asked by the founder, whose nonce is known.
    cluster.runs(register(101), &registered(1, 1), false);
}

#[test]
fn settings_are_checked() {
    let mut cluster = Replica::new(GroupId::META);
    let nodes_max = u32::try_from(NODES_MAX).unwrap();
    for (settings, part) in [
        (settings(0, 1, 3), "[1, 3, 5]"),
        (settings(2, 1, 3), "[1, 3, 5]"),
        (settings(7, 1, 7), "[1, 3, 5]"),
        (settings(3, 0, 3), "1 to 1024"),
        (settings(3, SHARDS_MAX + 1, 3), "1 to 1024"),
        (settings(3, 1, 2), "2 initial nodes can't hold 3"),
        (settings(3, 1, nodes_max + 1), "at most 1000"),
    ] {
        cluster.refuses(create(settings, profile("n")), part);
    }
    cluster.runs(create(settings(5, SHARDS_MAX, nodes_max), profile("n")), &registered(1, 1), true);
}

#[test]
fn profiles_are_checked_wherever_they_come() {
    let with_peer = |peer: &str| {
        let mut changed = profile("x");
        changed.addresses.peer = peer.to_owned();
        changed
    };
    let long = "x".repeat(LABEL_BYTES_MAX + 1);
    for (bad, part) in [
        (with_peer(""), "peer address \"\" is none"),
        (with_peer("host"), "host:port"),
        (with_peer(":1"), "host:port"),
        (with_peer("host:"), "host:port"),
        (with_peer("host:0"), "1 to 65535"),
        (with_peer("host:65536"), "1 to 65535"),
        (with_peer("host:+1"), "host:port"),
        (with_peer("ho st:1"), "host:port"),
        (with_peer("ho\nst:1"), "ho\\nst"),
        (with_peer(&format!("{long}:1")), "258 bytes: it may have 255"),
        (NodeProfile { zone: long.clone(), ..profile("x") }, "256 bytes: it may have 255"),
        (NodeProfile { weight: 0, ..profile("x") }, "from 1 to 10000"),
        (NodeProfile { weight: WEIGHT_RANGE.end() + 1, ..profile("x") }, "from 1 to 10000"),
        (NodeProfile { addresses: Addresses::default(), ..profile("x") }, "client address \"\" is none"),
    ] {
        Replica::new(GroupId::META).refuses(create(settings(1, 1, 1), bad.clone()), part);
        let mut cluster = four_nodes();
        cluster
            .refuses(MetaCommand::RegisterNode { join_nonce: 9, profile: bad.clone(), replaces: None }, part);
        cluster.refuses(announce(2, 1, 1, bad), part);
    }
    let mut cluster = four_nodes();
    for good in ["[::1]:65535", "10.0.0.1:1", "a-b.example:80"] {
        let join_nonce = u128::from(cluster.next_index());
        let mut fine = profile(&format!("fine{join_nonce}"));
        fine.addresses.peer = good.to_owned();
        fine.zone = String::new();
        let MetaOutcome::NodeRegistered { .. } =
            cluster.run(MetaCommand::RegisterNode { join_nonce, profile: fine, replaces: None })
        else {
            panic!("{good} was refused")
        };
    }
}

#[test]
fn registering_twice_makes_one_node() {
    let mut cluster = four_nodes();
    cluster.runs(register(103), &registered(3, 3), false);
    cluster.runs(replace(0, 3, 3), &MetaOutcome::ReplicaReplaced { successor: ReplicaId(5) }, true);
    cluster.runs(register(103), &registered(3, 5), false);
    assert_eq!(cluster.placement(0).learners, [replica(2, 2), replica(5, 3), replica(4, 4)]);
}

#[test]
fn nodes_do_not_share_addresses() {
    let mut cluster = four_nodes();
    let mut twin = profile("x");
    twin.addresses.http = "n103:1".to_owned();
    let part = "http address n103:1 is already the client address of node 3";
    cluster.refuses(MetaCommand::RegisterNode { join_nonce: 9, profile: twin.clone(), replaces: None }, part);
    cluster.refuses(announce(4, 1, 1, twin.clone()), part);
    cluster.runs(announce(3, 1, 1, twin), &DONE, true);
}

#[test]
fn a_cluster_has_so_many_nodes() {
    let mut cluster = four_nodes();
    let max = u64::try_from(NODES_MAX).unwrap();
    for node in 5..=max {
        assert_eq!(cluster.run(register(100 + u128::from(node))), registered(node, node));
    }
    cluster.refuses(register(99), "has 1000 nodes");
    cluster.runs(register(100 + u128::from(max)), &registered(max, max), false);
}

#[test]
fn a_copied_data_directory_is_found_out() {
    let mut cluster = four_nodes();
    cluster.refuses(announce(9, 1, 1, profile("x")), "no node 9");
    cluster.refuses(announce(2, 0, 0, profile("n102")), "counted from 1");
    cluster.runs(announce(2, 1, 11, profile("n102")), &DONE, true);
    cluster.runs(announce(2, 1, 11, profile("n102")), &DONE, false);
    cluster
        .refuses(announce(2, 1, 12, profile("n102")), "another process uses a copy of this data directory");
    cluster.runs(
        announce(2, 5, 15, NodeProfile { zone: "other".to_owned(), ..profile("moved") }),
        &DONE,
        true,
    );
    cluster
        .refuses(announce(2, 4, 14, profile("n102")), "another process uses a copy of this data directory");
    let state = cluster.meta().state();
    let node = &state.nodes[&NodeId(2)];
    assert_eq!((node.incarnation, node.start_nonce), (Incarnation(5), 15));
    assert_eq!((node.profile.zone.as_str(), node.profile.addresses.peer.as_str()), ("other", "moved:2"));
}

#[test]
fn nodes_drain_and_return() {
    let mut cluster = four_nodes();
    let set = |node, state| MetaCommand::SetNodeState { node: NodeId(node), state };
    cluster.refuses(set(9, NodeState::Draining), "no node 9");
    cluster.runs(set(2, NodeState::Active), &DONE, false);
    cluster.runs(set(2, NodeState::Draining), &DONE, true);
    cluster.runs(announce(2, 1, 1, profile("n102")), &DONE, true);
    assert_eq!(
        cluster.meta().state().nodes[&NodeId(2)].state,
        NodeState::Draining,
        "a restart doesn't end it"
    );
    cluster.runs(set(2, NodeState::Active), &DONE, true);
}

#[test]
fn shards_are_placed_once() {
    let mut cluster = four_nodes();
    for (command, part) in [
        (place(&[(4, &[1, 2, 3])]), "no shard 4"),
        (place(&[(0, &[1, 2, 3])]), "no shard 0"),
        (place(&[(1, &[])]), "no node is named"),
        (place(&[(1, &[1, 2, 9])]), "no node 9"),
        (place(&[(1, &[1, 2, 2])]), "node 2 is named twice"),
        (place(&[(1, &[1, 2])]), "2 nodes: give it 3"),
        (place(&[(1, &[1, 2, 3, 4])]), "4 nodes: give it 3"),
        (place(&[(1, &[1, 2, 3]), (1, &[1, 2, 3])]), "shard 1 is named twice"),
        (place(&[(1, &[1, 2, 3]), (2, &[1, 2, 9])]), "shard 2 can't be placed"),
    ] {
        cluster.refuses(command, part);
    }
    cluster.runs(place(&[]), &DONE, false);
    cluster.runs(place(&[(2, &[3, 1, 2])]), &DONE, true);
    cluster.runs(place(&[(3, &[4, 3, 2]), (2, &[1, 2, 4]), (1, &[1, 2, 3])]), &DONE, true);
    cluster.runs(place(&[(3, &[4, 3, 2]), (2, &[1, 2, 4]), (1, &[1, 2, 3])]), &DONE, false);
    let expect = |group, voters: Vec<PlacedReplica>| Placement {
        group: GroupId(group),
        preferred_leader: voters[0].id,
        founders: voters.clone(),
        voters,
        learners: vec![],
        retiring: vec![],
    };
    assert_eq!(cluster.placement(2), expect(2, vec![replica(5, 3), replica(6, 1), replica(7, 2)]));
    assert_eq!(cluster.placement(3), expect(3, vec![replica(8, 4), replica(9, 3), replica(10, 2)]));
    assert_eq!(cluster.placement(1), expect(1, vec![replica(11, 1), replica(12, 2), replica(13, 3)]));
}

#[test]
fn meta_voters_move_between_voting_and_learning() {
    let mut cluster = four_nodes();
    cluster.refuses(meta_voters(&[]), "name at least one");
    cluster.refuses(meta_voters(&[1, 9]), "no node 9");
    cluster.refuses(meta_voters(&[1, 1]), "named twice");
    cluster.runs(meta_voters(&[3, 1, 2]), &DONE, true);
    cluster.runs(meta_voters(&[1, 2, 3]), &DONE, false);
    let placement = cluster.placement(0);
    assert_eq!(placement.voters, [replica(1, 1), replica(2, 2), replica(3, 3)]);
    assert_eq!(placement.learners, [replica(4, 4)]);
    assert_eq!(placement.preferred_leader, ReplicaId(1));
    cluster.runs(meta_voters(&[4, 2]), &DONE, true);
    let placement = cluster.placement(0);
    assert_eq!(placement.voters, [replica(2, 2), replica(4, 4)]);
    assert_eq!(placement.learners, [replica(1, 1), replica(3, 3)]);
    assert_eq!(placement.preferred_leader, ReplicaId(4), "the first that was named");
    assert_eq!(placement.founders, [replica(1, 1)]);
    for nonce in 105..=106 {
        cluster.run(register(nonce));
    }
    cluster.refuses(meta_voters(&[1, 2, 3, 4, 5, 6]), &format!("at most {META_VOTERS_MAX}"));
}

#[test]
fn a_leader_is_preferred_among_the_voters() {
    let mut cluster = four_nodes();
    cluster.run(place(&[(1, &[1, 2, 3])]));
    cluster.runs(prefer(1, 7), &DONE, true);
    cluster.runs(prefer(1, 7), &DONE, false);
    assert_eq!(cluster.placement(1).preferred_leader, ReplicaId(7));
    cluster.refuses(prefer(1, 1), "replica 1 is no voter of group 1");
    cluster.refuses(prefer(0, 2), "replica 2 is no voter of group 0");
    cluster.refuses(prefer(2, 1), "group 2 has no replicas yet");
}

#[test]
fn a_lost_replica_is_replaced_and_dropped() {
    let mut cluster = four_nodes();
    cluster.run(place(&[(1, &[1, 2, 3])]));
    cluster.refuses(replace(2, 5, 4), "group 2 has no replicas yet");
    cluster.refuses(replace(1, 1, 4), "group 1 has no replica 1");
    cluster.refuses(replace(1, 5, 9), "no node 9");
    cluster.refuses(replace(1, 5, 2), "node 2 has replica 6 of group 1 already");
    let successor = |id| MetaOutcome::ReplicaReplaced { successor: ReplicaId(id) };
    cluster.runs(replace(1, 5, 4), &successor(8), true);
    cluster.runs(replace(1, 5, 4), &DONE, false);
    cluster.runs(replace(1, 6, 2), &successor(9), true);
    let placement = cluster.placement(1);
    assert_eq!(placement.voters, [replica(8, 4), replica(9, 2), replica(7, 3)]);
    assert_eq!(placement.retiring, [replica(5, 1), replica(6, 2)]);
    assert_eq!(placement.founders, [replica(5, 1), replica(6, 2), replica(7, 3)]);
    assert_eq!(placement.preferred_leader, ReplicaId(8), "as the lost one was");
    cluster.refuses(prefer(1, 5), "no voter");

    cluster.refuses(retired(2, &[1]), "group 2 has no replicas yet");
    cluster.refuses(retired(1, &[5, 7]), "replica 7 of group 1 isn't retiring");
    cluster.runs(retired(1, &[5, 99]), &DONE, true);
    cluster.runs(retired(1, &[5]), &DONE, false);
    assert_eq!(cluster.placement(1).retiring, [replica(6, 2)]);
    cluster.refuses(replace(1, 5, 4), "group 1 has no replica 5");
    // A learner of the meta group.
    cluster.runs(replace(0, 3, 3), &successor(10), true);
    assert_eq!(cluster.placement(0).learners, [replica(2, 2), replica(10, 3), replica(4, 4)]);
    assert_eq!(cluster.placement(0).preferred_leader, ReplicaId(1));
}

#[test]
fn so_many_replicas_may_wait_for_their_removal() {
    let mut cluster = four_nodes();
    cluster.run(place(&[(1, &[1, 2, 3])]));
    let mut lost = 5;
    let mut dropped = Vec::new();
    for _ in 0..RETIRING_REPLICAS_MAX {
        dropped.push(lost);
        let MetaOutcome::ReplicaReplaced { successor } = cluster.run(replace(1, lost, 1)) else { panic!() };
        lost = successor.get();
    }
    cluster.refuses(replace(1, lost, 1), "wait for their removal");
    cluster.runs(retired(1, &dropped[..1]), &DONE, true);
    let MetaOutcome::ReplicaReplaced { .. } = cluster.run(replace(1, lost, 1)) else { panic!() };
}

#[test]
fn the_state_row_is_stable() {
    let mut cluster = Replica::new(GroupId::META);
    cluster.run(create(settings(1, 2, 1), profile("a")));
    cluster.run(register(2));
    cluster.run(announce(2, 3, 4, profile("b")));
    cluster.run(MetaCommand::SetNodeState { node: NodeId(2), state: NodeState::Draining });
    cluster.run(place(&[(2, &[2])]));
    cluster.run(replace(2, 3, 1));
    let rows = cluster.rows();
    let (_, value) = rows.iter().find(|(row, _)| row == &b"\0\x02"[..]).unwrap();
    assert_eq!(value.escape_ascii().to_string(), GOLDEN_STATE);
    assert_eq!(row::decode(value.clone()).unwrap(), *cluster.meta().state());
    assert_eq!(cluster.machine.digest(), 7_838_566_337_962_581_180);
}

const GOLDEN_STATE: &str = concat!(
    r"\x08\x06\x121\n\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xc1\x10",
    r"\x01\x18\x02 \x01(\x010\x01:\x04\x08\x01\x10d:\x04\x08\x02\x10d@\x88\'H\x80\x80@P\x01",
    r"\x1a?\x08\x01\x12\x10\x00",
    r#"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00e\x1a\x03a:1\"\x03a:2*\x03a:32\x04"#,
    r"zone8d@\x01R\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x1aA\x08",
    r#"\x02\x12\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x1a\x03b:1\""#,
    r"\x03b:2*\x03b:32\x04zone8d@\x02H\x03R\x10\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
    r#"\x00\x00\x00\x04\"\x14\x12\x04\x08\x01\x10\x01\x1a\x04\x08\x02\x10\x02*\x04\x08\x01\x10"#,
    r#"\x010\x01\"\x16\x08\x02\x12\x04\x08\x04\x10\x01\"\x04\x08\x03\x10\x02*\x04\x08\x03\x10\x02"#,
    r"0\x04(\x030\x05"
);

#[test]
fn damaged_state_is_corruption() {
    let mut cluster = four_nodes();
    let (_, value) = cluster.rows().remove(1);
    for damaged in [
        value.slice(..value.len() - 1),
        // A node without a state, a nonce of one byte.
        Bytes::from_static(b"\x1a\x02\x08\x01"),
        Bytes::from_static(b"\x1a\x05\x12\x01\x01\x40\x01"),
        // A replaced node without a nonce.
        Bytes::from_static(b"\x3a\x02\x08\x01"),
    ] {
        let error = row::decode(damaged).unwrap_err();
        assert!(matches!(error, crate::Error::Corrupt { .. }), "{error}");
    }
}

fn small_profile() -> impl Strategy<Value = NodeProfile> {
    (0..12_u8, prop_oneof![9 => Just(100_u32), 1 => Just(0)])
        .prop_map(|(name, weight)| NodeProfile { weight, ..profile(&format!("p{name}")) })
}

fn command() -> impl Strategy<Value = MetaCommand> {
    let nodes = || proptest::collection::vec((1..8_u64).prop_map(NodeId), 0..5);
    let three =
        Just((1..7_u64).map(NodeId).collect::<Vec<_>>()).prop_shuffle().prop_map(|nodes| nodes[..3].to_vec());
    let shard_nodes = prop_oneof![5 => three, 1 => nodes()];
    let groups = || (0..6_u32).prop_map(GroupId);
    let replicas = || (1..40_u64).prop_map(ReplicaId);
    let factor = prop_oneof![Just(3_u32), 0..6_u32];
    prop_oneof![
        1 => (factor, 1..6_u32, 1..6_u32, small_profile()).prop_map(|(factor, shards, initial_nodes, profile)| {
            create(settings(factor, shards, initial_nodes), profile)
        }),
        6 => (0..12_u128, small_profile())
            .prop_map(|(join_nonce, profile)| MetaCommand::RegisterNode { join_nonce, profile, replaces: None }),
        // At the address of the node that registered under the name, if it has not moved.
        4 => (0..12_u128, 0..12_u8, 1..8_u64).prop_map(|(join_nonce, name, lost)| {
            register_instead(join_nonce, lost, &format!("p{name}"))
        }),
        3 => (1..8_u64, 0..4_u64, 0..3_u128, small_profile())
            .prop_map(|(node, incarnation, nonce, profile)| announce(node, incarnation, nonce, profile)),
        1 => (1..8_u64, any::<bool>()).prop_map(|(node, draining)| MetaCommand::SetNodeState {
            node: NodeId(node),
            state: if draining { NodeState::Draining } else { NodeState::Active },
        }),
        4 => proptest::collection::vec(((0..6_u32).prop_map(ShardId), shard_nodes), 0..4)
            .prop_map(|shards| MetaCommand::PlaceShards { shards }),
        2 => nodes().prop_map(|nodes| MetaCommand::SetMetaVoters { nodes }),
        2 => (groups(), replicas()).prop_map(|(group, replica)| MetaCommand::PreferLeader { group, replica }),
        6 => (groups(), replicas(), (1..8_u64).prop_map(NodeId))
            .prop_map(|(group, lost, node)| MetaCommand::ReplaceReplica { group, lost, node }),
        3 => (groups(), proptest::collection::vec(replicas(), 0..4))
            .prop_map(|(group, replicas)| MetaCommand::DropRetired { group, replicas }),
    ]
}

fn commands() -> impl Strategy<Value = Vec<MetaCommand>> {
    proptest::collection::vec(command(), 0..60).prop_map(|mut commands| {
        commands.insert(0, create(settings(3, 4, 3), profile("p0")));
        commands
    })
}

/// What always holds of a state.
fn check(state: &MetaState) {
    let mut ids = BTreeSet::new();
    for (group, placement) in &state.placements {
        assert_eq!(*group, placement.group);
        let mut nodes = BTreeSet::new();
        for member in placement.voters.iter().chain(&placement.learners) {
            assert!(nodes.insert(member.node), "{group} has two replicas on {}", member.node);
        }
        for member in placement.replicas() {
            assert!(ids.insert(member.id), "{} is there twice", member.id);
            assert!(member.id < state.next_replica);
            let here = state.nodes.contains_key(&member.node);
            assert!(here || (placement.retiring.contains(&member) && state.is_replaced(member.node)));
        }
        assert!(placement.voters.iter().any(|voter| voter.id == placement.preferred_leader));
        assert!(placement.retiring.len() <= RETIRING_REPLICAS_MAX);
        assert!(group.shard().is_none() || (placement.voters.len() == 3 && placement.learners.is_empty()));
    }
    let mut addresses = BTreeSet::new();
    for (id, node) in &state.nodes {
        assert!(*id == node.id && *id < state.next_node);
        let Addresses { client, peer, http } = &node.profile.addresses;
        assert!([client, peer, http].into_iter().all(|address| addresses.insert(address)));
        assert!(state.placements[&GroupId::META].on_node(*id).is_some());
    }
    for (id, replaced) in &state.replaced {
        assert!(state.is_replaced(*id) && *id < replaced.successor && replaced.successor < state.next_node);
        assert!(state.nodes.values().all(|node| node.join_nonce != replaced.join_nonce));
    }
    for id in (1..state.next_node.get()).map(NodeId) {
        assert_eq!(state.nodes.contains_key(&id), state.farewell(id).is_none());
    }
}

proptest! {
    #[test]
    fn what_is_refused_changes_nothing_and_the_rest_keeps_the_rules(commands in commands()) {
        let mut cluster = Replica::new(GroupId::META);
        for command in commands {
            let before = cluster.meta().state();
            let outcome = cluster.run(command.clone());
            let after = cluster.meta().state();
            if let MetaOutcome::Refused(text) = outcome {
                prop_assert!(!text.is_empty());
                prop_assert_eq!(&*before, &*after);
            } else {
                prop_assert_eq!(after.epoch.get() - before.epoch.get(), u64::from(before != after));
                prop_assert!(after.next_replica >= before.next_replica && after.next_node >= before.next_node);
                // Once more at once: whatever it was, it stands already.
                if !matches!(command, MetaCommand::CreateCluster { .. }) {
                    let again = cluster.run(command);
                    prop_assert!(!matches!(again, MetaOutcome::Refused(_)), "{:?}", again);
                    prop_assert_eq!(&*cluster.meta().state(), &*after);
                }
            }
            check(&after);
        }
    }

    #[test]
    fn a_state_survives_its_row_and_a_crash(commands in commands(), save_after in 0..60_usize) {
        let mut steady = Replica::new(GroupId::META);
        let mut shaken = Replica::new(GroupId::META);
        let mut outcomes = Vec::new();
        for (index, command) in commands.iter().enumerate() {
            outcomes.push(steady.run(command.clone()));
            shaken.run(command.clone());
            if index == save_after {
                shaken.save();
            }
        }
        shaken = shaken.crash();
        let replayed = usize::try_from(shaken.next_index()).unwrap();
        prop_assert_eq!(replayed, if save_after < commands.len() { save_after + 1 } else { 0 });
        for (command, outcome) in commands.iter().zip(&outcomes).skip(replayed) {
            prop_assert_eq!(&shaken.run(command.clone()), outcome);
        }
        prop_assert_eq!(&*shaken.meta().state(), &*steady.meta().state());
        prop_assert_eq!(shaken.machine.digest(), steady.machine.digest());
        prop_assert_eq!(shaken.rows(), steady.rows());
        prop_assert_eq!(row::decode(row::encode(&steady.meta().state())).unwrap(), (*steady.meta().state()).clone());
    }
}
