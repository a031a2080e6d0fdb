use proptest::prelude::*;

use super::*;

fn ring(shards: &[(u32, u32)]) -> Ring {
    Ring::build(&spec(shards)).unwrap()
}

fn spec(shards: &[(u32, u32)]) -> RingSpec {
    let shards = shards.iter().map(|&(id, weight)| RingShard { id: ShardId(id), weight }).collect();
    RingSpec { format: FORMAT, epoch: RingEpoch(1), shards }
}

fn key(text: &str) -> Key {
    Key::try_from(text).unwrap()
}

/// The owner by the definition: the lowest vnode at or above the hash, else the lowest of all.
fn owner_by_definition(spec: &RingSpec, hash: u64) -> ShardId {
    let vnodes = spec.shards.iter().flat_map(|shard| {
        (0..shard.weight * VNODES_PER_WEIGHT).map(|number| (vnode_position(shard.id, number), shard.id))
    });
    vnodes.min_by_key(|&(position, shard)| (position < hash, position, shard)).unwrap().1
}

// Golden values. They are the data format: a change of any of them sends stored keys to the wrong shards.

#[test]
fn golden_hashes() {
    let ring = ring(&[(1, 1)]);
    for (text, hash) in [
        ("a", 0xe6c6_32b6_1e96_4e1f_u64),
        ("user:7", 0x0067_b227_f59e_e6b4),
        ("{user:7}/name", 0x0067_b227_f59e_e6b4),
        ("a key that is longer than sixteen bytes", 0x5b31_b4ad_e7cb_f01e),
    ] {
        assert_eq!(ring.hash_of(&key(text)), hash, "{text}");
    }
}

#[test]
fn golden_vnode_positions() {
    for (shard, number, position) in [
        (1, 0, 0x62f3_fe09_4219_23f1_u64),
        (1, 1, 0xccdb_6f02_255f_2a03),
        (2, 0, 0xb041_da6a_0356_18ac),
        (12, 999, 0xea92_2e16_2ffa_cca9),
        (u32::MAX, u32::MAX, 0xf403_5a81_d8ef_54eb),
    ] {
        assert_eq!(vnode_position(ShardId(shard), number), position, "vnode {number} of shard {shard}");
    }
}

#[test]
fn golden_owners() {
    let ring = Ring::build(&uniform(12)).unwrap();
    let owners = ["a", "b", "c", "d", "user:7", "{user:7}/name", "user:8", "config/net/mtu"]
        .map(|text| ring.shard_of(&key(text)).get());
    assert_eq!(owners, [7, 4, 8, 9, 8, 8, 10, 1]);
}

#[test]
fn the_largest_default_shard_is_within_15_percent_of_the_mean() {
    const KEYS: usize = 1_000_000;
    let ring = Ring::build(&uniform(kvd_types::limits::SHARDS_DEFAULT)).unwrap();
    let shards = ring.shards().len();
    let mut counts = vec![0_usize; shards + 1];
    for number in 0..KEYS {
        counts[index(ring.shard_of(&key(&format!("user:{number}"))).get())] += 1;
    }
    let largest = counts.iter().max().unwrap();
    assert!(largest * shards * 100 <= KEYS * 115, "{counts:?}");
}

#[test]
fn weights_hold_within_10_percent() {
    let weights = [(1, 50), (2, 100), (3, 100), (4, 200), (5, 400)];
    let ring = ring(&weights);
    let total: u32 = weights.iter().map(|&(_, weight)| weight).sum();
    for (id, weight) in weights {
        let ideal = f64::from(weight) / f64::from(total);
        let share = ring.share(ShardId(id));
        assert!((share / ideal - 1.0).abs() <= 0.1, "shard {id}: {share} instead of {ideal}");
    }
}

#[test]
fn a_new_shard_takes_its_share_and_moves_no_other_key() {
    const KEYS: u32 = 100_000;
    for shards in [1, 3, 12, 48] {
        let before = Ring::build(&uniform(shards)).unwrap();
        let after = Ring::build(&uniform(shards + 1)).unwrap();
        let mut moved = 0_u32;
        for number in 0..KEYS {
            let key = key(&format!("key-{number}"));
            let (old, new) = (before.shard_of(&key), after.shard_of(&key));
            if old != new {
                assert_eq!(new, ShardId(shards + 1));
                moved += 1;
            }
        }
        let ideal = KEYS / (shards + 1);
        assert!(moved.abs_diff(ideal) * 10 <= ideal, "{moved} of {KEYS} keys moved, ideally {ideal}");
    }
}

#[test]
fn hash_tags_keep_keys_together() {
    let ring = Ring::build(&uniform(100)).unwrap();
    for number in 0..100 {
        let owner = ring.shard_of(&key(&format!("{{user:{number}}}/name")));
        assert_eq!(owner, ring.shard_of(&key(&format!("{{user:{number}}}/mail"))));
        assert_eq!(owner, ring.shard_of(&key(&format!("user:{number}"))));
    }
}

#[test]
fn what_makes_no_ring_is_refused() {
    use RingError as E;
    let many: Vec<_> = (1..=SHARDS_MAX + 1).map(|id| (id, 1)).collect();
    let heavy: Vec<_> = (1..=21).map(|id| (id, 10_000)).collect();
    for (spec, error) in [
        (RingSpec { format: 2, ..spec(&[(1, 1)]) }, E::UnknownFormat(2)),
        (RingSpec { format: 0, ..spec(&[(1, 1)]) }, E::UnknownFormat(0)),
        (spec(&[]), E::NoShards),
        (spec(&many), E::TooManyShards(1025)),
        (spec(&[(1, 1), (0, 1)]), E::ShardZero),
        (spec(&[(1, 1), (2, 1), (1, 2)]), E::DuplicateShard(ShardId(1))),
        (spec(&[(1, 0)]), E::Weight { shard: ShardId(1), weight: 0 }),
        (spec(&[(1, 10_001)]), E::Weight { shard: ShardId(1), weight: 10_001 }),
        (spec(&heavy), E::TooManyVnodes(210_000)),
    ] {
        assert_eq!(Ring::build(&spec).unwrap_err(), error);
    }
}

#[test]
fn the_largest_ring_of_usual_weights_is_allowed() {
    let ring = Ring::build(&uniform(SHARDS_MAX)).unwrap();
    assert_eq!(ring.shards().len(), 1024);
    assert_eq!(ring.epoch(), RingEpoch(1));
    assert_eq!(ring.spec(), &uniform(SHARDS_MAX));
}

#[test]
fn a_single_shard_owns_the_whole_circle() {
    let ring = ring(&[(9, 1)]);
    assert_eq!(ring.ranges(ShardId(9)), [0..=u64::MAX]);
    assert!((ring.share(ShardId(9)) - 1.0).abs() < 1e-9);
    assert!(ring.ranges(ShardId(1)).is_empty());
    assert!(ring.share(ShardId(1)) < f64::EPSILON);
}

#[test]
fn the_edges_of_the_circle_and_of_each_vnode() {
    let spec = spec(&[(1, 2), (2, 1), (7, 3)]);
    let ring = Ring::build(&spec).unwrap();
    let edges = ring.positions.iter().flat_map(|&at| [at.wrapping_sub(1), at, at.wrapping_add(1)]);
    for hash in edges.chain([0, 1, u64::MAX - 1, u64::MAX]) {
        assert_eq!(ring.shard_of_hash(hash), owner_by_definition(&spec, hash), "{hash}");
    }
}

#[test]
fn of_two_vnodes_at_one_position_that_of_the_lower_shard_counts() {
    let (positions, owners) =
        settle(vec![(7, ShardId(3)), (9, ShardId(1)), (7, ShardId(2)), (5, ShardId(3))]);
    assert_eq!(positions, [5, 7, 9]);
    assert_eq!(owners, [ShardId(3), ShardId(2), ShardId(1)]);
}

fn any_shards() -> impl Strategy<Value = Vec<(u32, u32)>> {
    proptest::collection::btree_map(1_u32..40, 1_u32..8, 1..6)
        .prop_map(|shards| shards.into_iter().collect::<Vec<_>>())
        .prop_shuffle()
}

proptest! {
    #[test]
    fn a_lookup_follows_the_definition(shards in any_shards(), hashes in proptest::collection::vec(any::<u64>(), 20)) {
        let spec = spec(&shards);
        let ring = Ring::build(&spec).unwrap();
        for hash in hashes {
            prop_assert_eq!(ring.shard_of_hash(hash), owner_by_definition(&spec, hash));
        }
    }

    #[test]
    fn the_ranges_cover_the_circle_once(shards in any_shards()) {
        let ring = ring(&shards);
        let mut all: Vec<_> = ring
            .shards()
            .iter()
            .flat_map(|&shard| ring.ranges(shard).into_iter().map(move |range| (range, shard)))
            .collect();
        all.sort_by_key(|(range, _)| *range.start());
        let mut next = Some(0);
        for (range, shard) in all {
            prop_assert_eq!(Some(*range.start()), next);
            prop_assert_eq!(ring.shard_of_hash(*range.start()), shard);
            prop_assert_eq!(ring.shard_of_hash(*range.end()), shard);
            next = range.end().checked_add(1);
        }
        prop_assert_eq!(next, None);
    }

    #[test]
    fn removing_a_shard_moves_only_its_keys(shards in any_shards(), hashes in proptest::collection::vec(any::<u64>(), 50)) {
        prop_assume!(shards.len() > 1);
        let (before, after) = (ring(&shards), ring(&shards[1..]));
        for hash in hashes {
            let owner = before.shard_of_hash(hash);
            if owner != ShardId(shards[0].0) {
                prop_assert_eq!(after.shard_of_hash(hash), owner);
            }
        }
    }

    #[test]
    fn raising_a_weight_moves_keys_only_to_that_shard(
        shards in any_shards(),
        hashes in proptest::collection::vec(any::<u64>(), 50),
    ) {
        let mut heavier = shards.clone();
        heavier[0].1 += 3;
        let (before, after) = (ring(&shards), ring(&heavier));
        for hash in hashes {
            let owner = after.shard_of_hash(hash);
            prop_assert!(owner == before.shard_of_hash(hash) || owner == ShardId(shards[0].0));
        }
    }

    #[test]
    fn the_order_of_the_shards_is_nothing(shards in any_shards()) {
        let mut sorted = shards.clone();
        sorted.sort_unstable();
        let (one, other) = (ring(&shards), ring(&sorted));
        prop_assert_eq!(&one.positions, &other.positions);
        prop_assert_eq!(&one.owners, &other.owners);
        prop_assert_eq!(one.shards(), other.shards());
    }
}
