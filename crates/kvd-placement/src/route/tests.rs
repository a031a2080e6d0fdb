//! Client and server find the same shards, now and later.

use kvd_types::{Txn, TxnOp};
use proptest::prelude::*;

use super::*;
use crate::uniform;

fn ring() -> Ring {
    Ring::build(&uniform(12)).unwrap()
}

fn key(text: &str) -> Key {
    Key::try_from(text).unwrap()
}

#[test]
fn homes_of_leases_do_not_change() {
    let ring = ring();
    let homes: Vec<u32> = [1, 2, 3, 1 << 40, u64::MAX >> 1]
        .into_iter()
        .map(|lease| ring.shard_of_lease(LeaseId(lease)).get())
        .collect();
    assert_eq!(homes, GOLDEN_HOMES);
}

const GOLDEN_HOMES: [u32; 5] = [7, 6, 10, 5, 12];

#[test]
fn leases_spread_over_the_shards() {
    let ring = ring();
    let homes: std::collections::BTreeSet<_> =
        (1..1000).map(|lease| ring.shard_of_lease(LeaseId(lease))).collect();
    assert_eq!(homes.len(), 12);
}

#[test]
fn a_transaction_over_two_shards_is_refused_by_name() {
    let ring = ring();
    let together = [key("{user:7}/name"), key("{user:7}/mail")];
    assert_eq!(ring.shard_of_all(&together).unwrap(), ring.shard_of(&together[0]));
    let far = (0..)
        .map(|number| key(&format!("other-{number}")))
        .find(|key| ring.shard_of(key) != ring.shard_of(&together[0]));
    let apart = [together[0].clone(), far.unwrap()];
    let message = ring.shard_of_all(&apart).unwrap_err().message;
    for part in ["{user:7}/name", "other-", "hash tag", &format!("shard {}", ring.shard_of(&apart[1]))] {
        assert!(message.contains(part), "{message}");
    }
    let op = |keys: &[Key]| {
        let then = keys.iter().cloned().map(TxnOp::Get).collect();
        WriteOp::Txn(Txn { then, ..Txn::default() })
    };
    assert_eq!(ring.shard_of_write(&op(&together)).unwrap(), ring.shard_of(&together[0]));
    assert!(ring.shard_of_write(&op(&apart)).is_err());
    assert!(ring.shard_of_write(&op(&[])).is_err());
}

#[test]
fn a_range_within_a_whole_tag_concerns_one_shard() {
    let ring = ring();
    let one = |start: &str, end: &[u8]| ring.shards_of_range(start.as_bytes(), end).len() == 1;
    assert!(one("{user:7}/", b"{user:7}0"));
    assert!(one("{user:7}", &prefix_end(b"{user:7}")));
    assert!(one("a{b}c", b"a{b}d"));
    assert!(one("plain", b"plain\0"));
    assert!(!one("{user:7", &prefix_end(b"{user:7")), "the tag may go on");
    assert!(!one("{user:7}/", b"{user:8}/"));
    assert!(!one("{user:7}/", b""));
    assert!(!one("{}", &prefix_end(b"{}")), "an empty tag is none");
    assert!(!one("plain", b"plain\x01"));
    assert!(!one("", b"\0"), "no key is empty, but no key is fixed either");
    assert_eq!(ring.shards_of_range(b"b", b"a"), []);
    assert_eq!(ring.shards_of_range(b"b", b"b"), []);
    assert_eq!(ring.shards_of_range(b"", b""), ring.shards());
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![Just(b'{'), Just(b'}'), Just(b'a'), Just(0xff), Just(0), any::<u8>()];
    proptest::collection::vec(byte, 0..7)
}

proptest! {
    #[test]
    fn a_key_in_a_range_is_in_one_of_the_ranges_shards(
        start in bytes(), end in bytes(), tail in bytes(), other in bytes(),
    ) {
        let ring = ring();
        let shards = ring.shards_of_range(&start, &end);
        let extended = [&start[..], &tail[..]].concat();
        for candidate in [start.clone(), extended, other] {
            let inside = candidate >= start && (end.is_empty() || candidate < end);
            let Ok(key) = Key::new(candidate) else { continue };
            if inside {
                prop_assert!(shards.contains(&ring.shard_of(&key)), "{key} in {shards:?}");
            }
        }
    }

    #[test]
    fn a_prefix_ends_where_the_next_one_begins(
        prefix in proptest::collection::vec(prop_oneof![Just(0xff), any::<u8>()], 0..5),
        key in proptest::collection::vec(prop_oneof![Just(0xff), any::<u8>()], 0..8),
    ) {
        let end = prefix_end(&prefix);
        let inside = key >= prefix && (end.is_empty() || key.as_slice() < &end[..]);
        prop_assert_eq!(inside, key.starts_with(&prefix));
    }

    #[test]
    fn nothing_lies_between_a_key_and_the_one_after_it(key in bytes(), other in bytes()) {
        let after = after_key(&key);
        prop_assert!(!(other > key && other.as_slice() < &after[..]));
    }
}
