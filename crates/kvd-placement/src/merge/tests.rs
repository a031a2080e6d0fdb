//! A merge gives what a sorted map gives, however the pages are cut.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;

use super::*;

type Shards = Vec<BTreeMap<Vec<u8>, u8>>;

/// What a shard answers: a page of so many keys looked at, of which odd values are filtered out.
fn fetch(
    shards: &Shards,
    wanted: &Wanted,
    descending: bool,
    looked_at: usize,
) -> (Vec<(Key, u8)>, Option<Bytes>) {
    let shard = &shards[wanted.shard.get() as usize - 1];
    let within = shard.iter().filter(|(key, _)| {
        key[..] >= wanted.start[..] && (wanted.end.is_empty() || key[..] < wanted.end[..])
    });
    let mut keys: Vec<_> = within.map(|(key, &value)| (key.clone(), value)).collect();
    if descending {
        keys.reverse();
    }
    let rest = keys.split_off(looked_at.min(keys.len()));
    let next = rest.first().map(|(key, _)| if descending { after_key(key) } else { key.clone().into() });
    let rows = keys.into_iter().filter(|(_, value)| value % 2 == 0);
    (rows.map(|(key, value)| (Key::new(key).unwrap(), value)).collect(), next)
}

/// Drives a merge to its end; answers come in an order of their own.
fn drive(
    merge: &mut Merge<u8>,
    shards: &Shards,
    descending: bool,
    page: usize,
    newest_first: bool,
) -> Vec<(Key, u8)> {
    let mut under_way: VecDeque<Wanted> = VecDeque::new();
    let mut rows = Vec::new();
    loop {
        while let Some(wanted) = merge.wanted() {
            assert!(
                under_way.iter().all(|other| other.shard != wanted.shard),
                "two pages of a shard under way"
            );
            under_way.push_back(wanted);
        }
        match merge.step() {
            Step::Row(key, value) => rows.push((key, value)),
            Step::Done => return rows,
            Step::Wait(shard) => {
                assert!(
                    under_way.iter().any(|wanted| wanted.shard == shard),
                    "waits for what it did not ask"
                );
                let wanted = if newest_first { under_way.pop_back() } else { under_way.pop_front() };
                let wanted = wanted.unwrap();
                let (rows, next) = fetch(shards, &wanted, descending, page);
                merge.page(wanted.shard, rows, next).unwrap();
            }
        }
    }
}

fn keys() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(0), Just(0xff), 0_u8..4], 1..4)
}

fn shards() -> impl Strategy<Value = Shards> {
    (1_usize..5, proptest::collection::btree_map(keys(), any::<u8>(), 0..60)).prop_map(|(count, rows)| {
        let mut shards = vec![BTreeMap::new(); count];
        for (key, value) in rows {
            let of = (value / 2) as usize % count;
            shards[of].insert(key, value);
        }
        shards
    })
}

fn ids(shards: &Shards) -> Vec<ShardId> {
    (1..).take(shards.len()).map(ShardId).collect()
}

proptest! {
    #[test]
    fn rows_come_in_order_each_once(
        shards in shards(), start in keys(), end in proptest::option::of(keys()), descending: bool,
        page in 1_usize..5, limit in proptest::option::of(0_u32..20), newest_first: bool,
    ) {
        let (start, end) = (Bytes::from(start), Bytes::from(end.unwrap_or_default()));
        prop_assume!(end.is_empty() || start < end);
        let all = shards.iter().flatten().filter(|(key, value)| {
            key[..] >= start[..] && (end.is_empty() || key[..] < end[..]) && **value % 2 == 0
        });
        let mut expected: Vec<_> = all.map(|(key, &value)| (Key::new(key.clone()).unwrap(), value)).collect();
        expected.sort();
        if descending {
            expected.reverse();
        }
        let whole = expected.clone();
        if let Some(limit) = limit {
            expected.truncate(limit as usize);
        }
        let mut merge = Merge::new(&ids(&shards), start.clone(), end.clone(), descending, limit.map(u64::from));
        let rows = drive(&mut merge, &shards, descending, page, newest_first);
        prop_assert_eq!(&rows, &expected);

        // And it goes on where it stopped.
        let (start, end) = if descending { (start, merge.resume().clone()) } else { (merge.resume().clone(), end) };
        if end.is_empty() || start < end {
            let mut rest = Merge::new(&ids(&shards), start, end, descending, None);
            let rest = drive(&mut rest, &shards, descending, page, newest_first);
            prop_assert_eq!([rows, rest].concat(), whole);
        } else {
            prop_assert_eq!(rows, whole);
        }
    }
}

fn key(text: &'static str) -> Key {
    Key::new(text).unwrap()
}

#[test]
fn a_page_that_makes_no_sense_is_refused() {
    let begin = |descending| {
        let mut merge = Merge::new(&[ShardId(1)], "b".into(), "m".into(), descending, None);
        merge.wanted().unwrap();
        merge
    };
    let refused = |descending, rows: &[&'static str], next: Option<&'static str>| {
        let rows = rows.iter().map(|text| (key(text), 0)).collect();
        begin(descending).page(ShardId(1), rows, next.map(Bytes::from)).is_err()
    };
    assert!(!refused(false, &["b", "c"], Some("d")));
    assert!(!refused(false, &[], Some("c")), "all keys were filtered out");
    assert!(refused(false, &["c", "b"], None), "out of order");
    assert!(refused(false, &["c", "c"], None), "twice");
    assert!(refused(false, &["a"], None), "before the start");
    assert!(refused(false, &["m"], None), "at the end");
    assert!(refused(false, &[], Some("b")), "where it began");
    assert!(refused(false, &["c"], Some("c")), "the row again");
    assert!(refused(false, &["c"], Some("n")), "beyond the end");
    assert!(!refused(true, &["c", "b"], None));
    assert!(!refused(true, &["d", "c"], Some("c")));
    assert!(refused(true, &["c"], Some("d")), "the row again");
    assert!(refused(true, &[], Some("m")), "where it began");
    assert!(refused(true, &[], Some("a")), "beyond the start");
    assert!(begin(false).page(ShardId(2), Vec::new(), None).is_err(), "not asked for");
    let mut merge = begin(false);
    merge.page(ShardId(1), Vec::new(), None).unwrap();
    assert!(merge.page(ShardId(1), Vec::<(Key, u8)>::new(), None).is_err(), "twice");
}

#[test]
fn with_a_limit_no_page_is_asked_for_that_is_of_no_use() {
    let mut merge = Merge::new(&[ShardId(1)], Bytes::new(), Bytes::new(), false, Some(2));
    assert_eq!(merge.wanted().unwrap().rows_max, 2);
    merge.page(ShardId(1), vec![(key("a"), 1), (key("b"), 2)], Some("c".into())).unwrap();
    assert_eq!(merge.wanted(), None);
    assert_eq!(merge.step(), Step::Row(key("a"), 1));
    assert_eq!(merge.step(), Step::Row(key("b"), 2));
    assert_eq!(merge.step(), Step::Done);
    assert_eq!(merge.resume(), &Bytes::from("b\0"));
}
