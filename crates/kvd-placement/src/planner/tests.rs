use kvd_types::{GroupId, cluster::Replica, limits::META_VOTERS_MAX};
use proptest::{prelude::*, sample::subsequence};

use super::*;

fn node(id: u64, zone: &str, weight: u32) -> NodeView<'_> {
    NodeView { id: NodeId(id), zone, weight, state: NodeState::Active, alive: true }
}

fn draining(node: NodeView<'_>) -> NodeView<'_> {
    NodeView { state: NodeState::Draining, ..node }
}

fn dead(node: NodeView<'_>) -> NodeView<'_> {
    NodeView { alive: false, ..node }
}

fn shards(count: u32) -> Vec<ShardId> {
    (1..=count).map(ShardId).collect()
}

type Plan = Vec<(ShardId, Vec<NodeId>)>;

fn replicas(plan: &Plan, node: NodeId) -> usize {
    plan.iter().filter(|(_, list)| list.contains(&node)).count()
}

fn leaders(plan: &Plan, node: NodeId) -> usize {
    plan.iter().filter(|(_, list)| list[0] == node).count()
}

#[test]
fn three_nodes_hold_everything_and_lead_a_third_each() {
    let nodes = [node(1, "a", 100), node(2, "b", 100), node(3, "c", 100)];
    let plan = initial_placement(&nodes, &shards(12), 3).unwrap();
    assert_eq!(plan.iter().map(|(shard, _)| *shard).collect::<Vec<_>>(), shards(12));
    for node in nodes {
        assert_eq!(replicas(&plan, node.id), 12);
        assert_eq!(leaders(&plan, node.id), 4);
    }
}

#[test]
fn too_few_active_nodes() {
    let nodes = [node(1, "", 100), draining(node(2, "", 100)), dead(node(3, "", 100)), node(4, "", 100)];
    let error = initial_placement(&nodes, &shards(1), 5).unwrap_err();
    assert_eq!(error, PlanError::TooFewNodes { active: 2, replication_factor: 5 });
    assert!(error.to_string().contains("start 3 more"), "{error}");
    let plan = initial_placement(&nodes, &shards(4), 1).unwrap();
    assert_eq!(leaders(&plan, NodeId(1)), 2);
    assert_eq!(leaders(&plan, NodeId(4)), 2);
}

#[test]
fn what_can_not_be_planned_is_refused() {
    let twice = [node(1, "", 100), node(1, "", 100)];
    for factor in [0, 2, 7] {
        let error = initial_placement(&twice, &shards(1), factor).unwrap_err();
        assert_eq!(error, PlanError::ReplicationFactor(factor));
    }
    assert_eq!(initial_placement(&twice, &shards(1), 1).unwrap_err(), PlanError::DuplicateNode(NodeId(1)));
}

#[test]
fn zones_go_before_weights() {
    // Zone a has one weak node; it still gets a replica of every shard, as there are only three zones.
    let nodes = [
        node(1, "a", 10),
        node(2, "b", 100),
        node(3, "b", 100),
        node(4, "c", 100),
        node(5, "c", 300),
        node(6, "c", 100),
    ];
    let plan = initial_placement(&nodes, &shards(50), 3).unwrap();
    let counts = nodes.map(|node| replicas(&plan, node.id));
    assert_eq!(counts, [50, 25, 25, 10, 30, 10]);
}

#[test]
fn a_zone_too_few_is_made_up_for_evenly() {
    let nodes = [node(1, "a", 100), node(2, "a", 100), node(3, "b", 100), node(4, "b", 100)];
    let plan = initial_placement(&nodes, &shards(12), 3).unwrap();
    for (_, list) in &plan {
        let in_a = list.iter().filter(|id| id.get() <= 2).count();
        assert!((1..=2).contains(&in_a), "{list:?}");
    }
    for node in nodes {
        assert_eq!(replicas(&plan, node.id), 9);
        assert_eq!(leaders(&plan, node.id), 3);
    }
}

#[test]
fn replicas_and_leaders_follow_weights() {
    let nodes: Vec<_> = (1..=8).map(|id| node(id, "", if id <= 4 { 100 } else { 200 })).collect();
    let plan = initial_placement(&nodes, &shards(120), 3).unwrap();
    for node in &nodes {
        let heavy = usize::from(node.weight == 200) + 1;
        assert_eq!(replicas(&plan, node.id), 30 * heavy);
        assert_eq!(leaders(&plan, node.id), 10 * heavy);
    }
}

#[test]
fn what_a_dead_node_leaves_behind_falls_on_all_others() {
    for zones in [["", "", ""], ["a", "b", "c"]] {
        let nodes: Vec<_> =
            (1..=6).zip(zones.into_iter().cycle()).map(|(id, zone)| node(id, zone, 100)).collect();
        let plan = initial_placement(&nodes, &shards(60), 3).unwrap();
        for one in &nodes {
            let partners = || nodes.iter().filter(|node| node.domain() != one.domain());
            // Each node has 30 shards, each of them with two other replicas.
            let ideal = 60 / partners().count();
            for other in partners() {
                let both = |list: &[NodeId]| list.contains(&one.id) && list.contains(&other.id);
                let shared = plan.iter().filter(|(_, list)| both(list)).count();
                assert!(
                    shared.abs_diff(ideal) <= 2,
                    "nodes {} and {} share {shared} shards",
                    one.id,
                    other.id
                );
            }
        }
    }
}

#[test]
fn the_largest_cluster_is_planned() {
    let zones = ["a", "b", "c", "d"];
    let nodes: Vec<_> = (1..=1000).zip(zones.iter().cycle()).map(|(id, zone)| node(id, zone, 100)).collect();
    let plan = initial_placement(&nodes, &shards(1024), 3).unwrap();
    for node in &nodes {
        assert!((3..=4).contains(&replicas(&plan, node.id)));
        assert!((1..=2).contains(&leaders(&plan, node.id)));
    }
}

#[test]
fn meta_voters_by_the_number_of_nodes() {
    for (nodes, expected) in [(0, 0), (1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (6, 5), (9, 5)] {
        let nodes: Vec<_> = (1..=nodes).map(|id| node(id, "", 100)).collect();
        assert_eq!(meta_voters(&nodes, &[], META_VOTERS_MAX).len(), expected, "{} nodes", nodes.len());
    }
    let nodes: Vec<_> = (1..=9).map(|id| node(id, "", 100)).collect();
    assert_eq!(meta_voters(&nodes, &[], 4).len(), 3);
    assert!(meta_voters(&nodes, &[], 0).is_empty());
}

#[test]
fn meta_voters_change_for_death_and_zones_only() {
    let ids = |ids: &[u64]| ids.iter().copied().map(NodeId).collect::<Vec<_>>();
    let mut nodes: Vec<_> = (1..=4).map(|id| node(id, "", 100)).collect();
    assert_eq!(meta_voters(&nodes, &ids(&[2, 3, 4]), 5), ids(&[2, 3, 4]));
    // A draining voter stays, a dead one goes, a dead one without a replacement stays.
    nodes[1] = draining(nodes[1]);
    assert_eq!(meta_voters(&nodes, &ids(&[2, 3, 4]), 5), ids(&[2, 3, 4]));
    nodes[1] = dead(nodes[1]);
    assert_eq!(meta_voters(&nodes, &ids(&[2, 3, 4]), 5), ids(&[1, 3, 4]));
    nodes[0] = dead(nodes[0]);
    assert_eq!(meta_voters(&nodes, &ids(&[2, 3, 4]), 5), ids(&[2, 3, 4]));
    // All voters in one zone: the node of the new zone replaces one of them.
    let nodes = [node(1, "a", 100), node(2, "a", 100), node(3, "a", 100), node(4, "b", 100)];
    let voters = meta_voters(&nodes, &ids(&[1, 2, 3]), 5);
    assert_eq!(voters, ids(&[1, 2, 4]));
    assert_eq!(meta_voters(&nodes, &voters, 5), voters);
}

fn placement(group: u32, voters: &[(u64, u64)]) -> Placement {
    let voters: Vec<_> =
        voters.iter().map(|&(id, node)| Replica { id: ReplicaId(id), node: NodeId(node) }).collect();
    Placement {
        group: GroupId(group),
        preferred_leader: voters[0].id,
        founders: voters.clone(),
        voters,
        learners: Vec::new(),
        retiring: Vec::new(),
    }
}

#[test]
fn a_lost_replica_comes_back_where_it_was() {
    let nodes = [node(1, "a", 100), node(2, "b", 100), node(3, "c", 100), node(4, "a", 100)];
    let group = placement(1, &[(11, 1), (12, 2), (13, 3)]);
    assert_eq!(replacement_node(ReplicaId(12), &group, &[], &nodes), Some(NodeId(2)));
    assert_eq!(replacement_node(ReplicaId(99), &group, &[], &nodes), None);
}

#[test]
fn the_successor_of_a_dead_nodes_replica() {
    let group = placement(1, &[(11, 1), (12, 2), (13, 3)]);
    let all = [group.clone(), placement(2, &[(21, 5)]), placement(3, &[(31, 5), (32, 6)])];
    let lost = ReplicaId(12);
    let mut nodes = vec![node(1, "a", 100), dead(node(2, "b", 100)), node(3, "c", 100)];
    assert_eq!(replacement_node(lost, &group, &all, &nodes), None, "all live nodes have one already");
    nodes.push(node(4, "a", 1000));
    assert_eq!(
        replacement_node(lost, &group, &all, &nodes),
        Some(NodeId(4)),
        "better in a used zone than not at all"
    );
    nodes.push(node(5, "b", 100));
    assert_eq!(
        replacement_node(lost, &group, &all, &nodes),
        Some(NodeId(5)),
        "another zone goes before weight"
    );
    nodes.push(node(6, "b", 100));
    assert_eq!(replacement_node(lost, &group, &all, &nodes), Some(NodeId(6)), "fewer replicas");
    nodes[4].weight = 1000;
    assert_eq!(
        replacement_node(lost, &group, &all, &nodes),
        Some(NodeId(5)),
        "fewer replicas for its weight"
    );
    nodes[4] = draining(nodes[4]);
    assert_eq!(
        replacement_node(lost, &group, &all, &nodes),
        Some(NodeId(6)),
        "a draining node is given nothing"
    );
}

#[test]
fn a_draining_node_gets_its_replica_back_only_if_nobody_else_can_have_it() {
    let group = placement(1, &[(11, 1), (12, 2), (13, 3)]);
    let mut nodes = vec![node(1, "a", 100), draining(node(2, "b", 100)), node(3, "c", 100)];
    assert_eq!(replacement_node(ReplicaId(12), &group, &[], &nodes), Some(NodeId(2)));
    nodes.push(node(4, "b", 100));
    assert_eq!(replacement_node(ReplicaId(12), &group, &[], &nodes), Some(NodeId(4)));
}

const ZONES: [&str; 5] = ["", "a", "b", "c", "d"];

fn any_node() -> impl Strategy<Value = (usize, u32, bool, bool)> {
    (0..ZONES.len(), 1_u32..500, proptest::bool::weighted(0.1), proptest::bool::weighted(0.9))
}

/// Nodes with ids from 1, in any order.
fn any_nodes() -> impl Strategy<Value = Vec<NodeView<'static>>> {
    let view = |(index, (zone, weight, drains, alive)): (usize, (usize, u32, bool, bool))| NodeView {
        id: NodeId(u64::try_from(index).unwrap() + 1),
        zone: ZONES[zone],
        weight,
        state: if drains { NodeState::Draining } else { NodeState::Active },
        alive,
    };
    proptest::collection::vec(any_node(), 1..12)
        .prop_map(move |nodes| nodes.into_iter().enumerate().map(view).collect::<Vec<_>>())
        .prop_shuffle()
}

/// How many of the nodes stand in each domain.
fn domains_of<'a>(nodes: impl Iterator<Item = &'a NodeView<'a>>) -> BTreeMap<Domain<'a>, usize> {
    let mut domains = BTreeMap::new();
    for node in nodes {
        *domains.entry(node.domain()).or_default() += 1;
    }
    domains
}

proptest! {
    #[test]
    fn distinct_nodes_in_as_many_zones_as_possible(
        nodes in any_nodes(),
        count in 0_u32..30,
        factor in proptest::sample::select(REPLICATION_FACTORS.to_vec()),
    ) {
        let usable: Vec<_> = nodes.iter().filter(|node| node.may_be_given_work()).collect();
        let wanted = usize::try_from(factor).unwrap();
        let plan = match initial_placement(&nodes, &shards(count), factor) {
            Ok(plan) => plan,
            Err(error) => {
                let active = u32::try_from(usable.len()).unwrap();
                prop_assert!(active < factor);
                prop_assert_eq!(error, PlanError::TooFewNodes { active, replication_factor: factor });
                return Ok(());
            }
        };
        prop_assert_eq!(plan.len(), usize::try_from(count).unwrap());
        let all = domains_of(usable.iter().copied());
        for (_, list) in &plan {
            let distinct: BTreeSet<_> = list.iter().collect();
            prop_assert_eq!(distinct.len(), wanted);
            prop_assert_eq!(list.len(), wanted);
            let own: Vec<_> = list.iter().filter_map(|id| usable.iter().copied().find(|node| node.id == *id)).collect();
            prop_assert_eq!(own.len(), wanted, "only usable nodes");
            let used = domains_of(own.into_iter());
            prop_assert_eq!(used.len(), all.len().min(wanted));
            // As equal as possible: no zone has two fewer than another while it has a node to spare.
            let most = used.values().copied().max().unwrap_or(0);
            for (domain, size) in &all {
                let has = used.get(domain).copied().unwrap_or(0);
                prop_assert!(has + 1 >= most || has == *size);
            }
        }
    }

    #[test]
    fn equal_weights_are_spread_within_one_of_the_ideal(
        zones in 1_usize..6,
        per_zone in 1_usize..5,
        count in 1_u32..40,
        factor in proptest::sample::select(REPLICATION_FACTORS.to_vec()),
        weight in 1_u32..1000,
    ) {
        const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
        let total = zones * per_zone;
        let wanted = usize::try_from(factor).unwrap();
        prop_assume!(total >= wanted);
        let nodes: Vec<_> = (0..total)
            .map(|index| node(u64::try_from(index).unwrap(), NAMES[index % zones], weight))
            .collect();
        let plan = initial_placement(&nodes, &shards(count), factor).unwrap();
        let (ideal_replicas, ideal_leaders) = (plan.len() * wanted / total, plan.len() / total);
        for node in &nodes {
            let (replicas, leaders) = (replicas(&plan, node.id), leaders(&plan, node.id));
            prop_assert!((ideal_replicas..=ideal_replicas + 1).contains(&replicas), "{replicas}, ideally {ideal_replicas}");
            prop_assert!((ideal_leaders..=ideal_leaders + 1).contains(&leaders), "{leaders}, ideally {ideal_leaders}");
        }
    }

    #[test]
    fn the_order_of_the_input_is_nothing(nodes in any_nodes(), count in 0_u32..20, seed in any::<prop::sample::Index>()) {
        let mut rotated = nodes.clone();
        rotated.rotate_left(seed.index(nodes.len()));
        let mut reversed_shards = shards(count);
        reversed_shards.reverse();
        prop_assert_eq!(
            initial_placement(&nodes, &shards(count), 3),
            initial_placement(&rotated, &reversed_shards, 3)
        );
        prop_assert_eq!(meta_voters(&nodes, &[], 5), meta_voters(&rotated, &[], 5));
    }

    #[test]
    fn meta_voters_settle_at_once(
        (nodes, current) in any_nodes().prop_flat_map(|nodes| {
            let ids: Vec<_> = nodes.iter().map(|node| node.id).collect();
            let count = ids.len();
            (Just(nodes), subsequence(ids, 0..=count))
        }),
    ) {
        let voters = meta_voters(&nodes, &current, META_VOTERS_MAX);
        prop_assert_eq!(voters.len() % 2, 1);
        prop_assert!(voters.len() <= META_VOTERS_MAX && voters.len() + 2 > nodes.len().min(META_VOTERS_MAX));
        prop_assert!(voters.is_sorted());
        prop_assert_eq!(&meta_voters(&nodes, &voters, META_VOTERS_MAX), &voters);

        let (alive, dead): (Vec<&NodeView<'_>>, Vec<_>) = nodes.iter().partition(|node| node.alive);
        if dead.iter().any(|node| voters.contains(&node.id)) {
            prop_assert!(alive.iter().all(|node| voters.contains(&node.id)));
        } else {
            let zones = domains_of(alive.iter().copied()).len();
            let used = domains_of(alive.into_iter().filter(|node| voters.contains(&node.id))).len();
            prop_assert_eq!(used, zones.min(voters.len()));
        }
    }
}
