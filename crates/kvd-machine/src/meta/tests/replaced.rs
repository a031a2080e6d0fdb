//! A node that has lost its disk, and the new one in its place.

use super::*;

#[test]
fn a_node_that_lost_its_disk_is_replaced_at_its_addresses() {
    let mut cluster = four_nodes();
    cluster.run(meta_voters(&[1, 2, 3]));
    cluster.run(place(&[(1, &[2, 1, 3]), (2, &[1, 3, 4]), (3, &[1, 2, 4])]));
    cluster.run(prefer(0, 2));
    cluster.refuses(
        MetaCommand::RegisterNode { join_nonce: 200, profile: profile("n102"), replaces: None },
        "an empty directory at all of its addresses",
    );
    cluster.refuses(register_instead(200, 9, "n102"), "address of node 2");
    cluster.refuses(register_instead(200, 9, "new"), "no node 9");
    cluster.refuses(register_instead(200, 3, "n102"), "address of node 2");
    cluster.refuses(register_instead(200, 2, "new"), "node 2 is at the peer address n102:2");
    let mut half = profile("n102");
    half.addresses.http = "n104:3".to_owned();
    cluster.refuses(
        MetaCommand::RegisterNode { join_nonce: 200, profile: half, replaces: Some(NodeId(2)) },
        "address of node 4",
    );

    let founders: Vec<_> = (0..4).map(|group| cluster.placement(group).founders).collect();
    cluster.runs(register_instead(200, 2, "n102"), &registered(5, 14), true);
    let state = cluster.meta().state();
    assert_eq!(state.nodes.keys().map(|id| id.get()).collect::<Vec<_>>(), [1, 3, 4, 5]);
    assert_eq!(state.nodes[&NodeId(5)].profile, profile("n102"));
    let meta = cluster.placement(0);
    assert_eq!(meta.voters, [replica(1, 1), replica(14, 5), replica(3, 3)]);
    assert_eq!((meta.learners, meta.retiring), (vec![replica(4, 4)], vec![replica(2, 2)]));
    assert_eq!(meta.preferred_leader, ReplicaId(14), "as the lost one was");
    let first = cluster.placement(1);
    assert_eq!(first.voters, [replica(15, 5), replica(6, 1), replica(7, 3)]);
    assert_eq!((first.retiring, first.preferred_leader), (vec![replica(5, 2)], ReplicaId(15)));
    assert_eq!(cluster.placement(2).voters, [replica(8, 1), replica(9, 3), replica(10, 4)], "never there");
    let third = cluster.placement(3);
    assert_eq!(third.voters, [replica(11, 1), replica(16, 5), replica(13, 4)]);
    assert_eq!((third.retiring, third.preferred_leader), (vec![replica(12, 2)], ReplicaId(11)));
    let kept: Vec<_> = (0..4).map(|group| cluster.placement(group).founders).collect();
    assert_eq!(kept, founders, "history does not change");
}

#[test]
fn a_replaced_node_stays_out() {
    let mut cluster = four_nodes();
    cluster.run(place(&[(1, &[1, 2, 3])]));
    cluster.runs(register_instead(200, 2, "n102"), &registered(5, 8), true);
    // Asked again, whatever is said of whom it replaces.
    cluster.runs(register_instead(200, 2, "n102"), &registered(5, 8), false);
    cluster.runs(register_instead(200, 5, "n102"), &registered(5, 8), false);
    for refused in [
        announce(2, 7, 7, profile("n102")),
        register(102),
        register_instead(102, 5, "n102"),
        register_instead(201, 2, "n102x"),
        MetaCommand::SetNodeState { node: NodeId(2), state: NodeState::Draining },
        meta_voters(&[1, 2]),
        replace(1, 5, 2),
        place(&[(2, &[1, 2, 3])]),
    ] {
        cluster.refuses(refused, "node 2 was replaced by node 5, which took over its address");
    }
    assert_eq!(cluster.meta().state().farewell(NodeId(5)), None);
    assert_eq!(cluster.meta().state().farewell(NodeId(6)), None, "never was");
    // What it held goes as any retired replica does.
    cluster.runs(replace(1, 6, 4), &DONE, false);
    cluster.runs(retired(1, &[6]), &DONE, true);
    cluster.runs(retired(0, &[2]), &DONE, true);
    cluster.runs(announce(5, 1, 1, profile("n102")), &DONE, true);
    // Its successor loses its disk too.
    cluster.runs(register_instead(201, 5, "n102"), &registered(6, 10), true);
    assert_eq!(cluster.placement(1).retiring, [replica(9, 5)]);
    cluster.refuses(register(200), "node 5 was replaced by node 6");
}

#[test]
fn a_node_is_not_replaced_while_too_many_replicas_wait_for_their_removal() {
    let mut cluster = four_nodes();
    cluster.run(place(&[(1, &[1, 2, 3]), (2, &[1, 2, 3])]));
    let mut lost = 8;
    for _ in 0..RETIRING_REPLICAS_MAX {
        let MetaOutcome::ReplicaReplaced { successor } = cluster.run(replace(2, lost, 1)) else { panic!() };
        lost = successor.get();
    }
    cluster.refuses(register_instead(200, 2, "n102"), "group 2 has 16 replicas that wait for their removal");
    cluster.runs(retired(2, &[8]), &DONE, true);
    cluster.runs(register_instead(200, 2, "n102"), &registered(5, lost + 1), true);
}

#[test]
fn so_many_replaced_nodes_are_remembered() {
    let mut cluster = four_nodes();
    let first = 2;
    let max = u64::try_from(REPLACED_NODES_MAX).unwrap();
    let mut here = first;
    for round in 0..=max {
        let next = 5 + round;
        let MetaOutcome::NodeRegistered { node, .. } =
            cluster.run(register_instead(1000 + u128::from(round), here, "n102"))
        else {
            panic!("round {round}")
        };
        assert_eq!(node, NodeId(next));
        let retiring: Vec<u64> =
            cluster.placement(0).retiring.iter().map(|replica| replica.id.get()).collect();
        cluster.run(retired(0, &retiring));
        here = next;
    }
    let state = cluster.meta().state();
    assert_eq!(state.replaced.len(), REPLACED_NODES_MAX);
    assert!(!state.replaced.contains_key(&NodeId(first)));
    cluster.refuses(announce(first, 9, 9, profile("n102")), "node 2 was replaced by a node that");
}

#[test]
fn the_row_of_a_replaced_node_is_stable() {
    let mut cluster = Replica::new(GroupId::META);
    cluster.run(create(settings(1, 1, 1), profile("a")));
    cluster.run(register(2));
    let before = row::encode(&cluster.meta().state());
    assert!(!before.windows(2).any(|bytes| bytes == b"\x3a\x16"), "a state without any is written as ever");
    cluster.runs(register_instead(3, 2, "n2"), &registered(3, 3), true);
    let value = row::encode(&cluster.meta().state());
    let golden = b"\x3a\x16\x08\x02\x12\x10\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x02\x18\x03";
    assert!(value.ends_with(golden), "{}", value.escape_ascii());
    assert_eq!(row::decode(value).unwrap(), *cluster.meta().state());
}
