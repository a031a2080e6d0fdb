//! Pages of a scan.

use std::ops::Bound;

use kvd_types::Key;

use super::{NOW_MS, Replica, SHARD, once, put};
use crate::Page;

fn names(page: &Page) -> Vec<String> {
    page.rows.iter().map(|(key, _)| String::from_utf8(key.as_bytes().to_vec()).unwrap()).collect()
}

fn five() -> Replica {
    let mut replica = Replica::new(SHARD);
    // System rows stand on both sides of the keys' rows, whose own keys may look like anything.
    replica.open_session();
    let keys = ["a", "b", "b\0", "c", "\u{10ffff}"];
    replica.apply_at(NOW_MS, keys.iter().map(|key| once(put(key, "v"))).collect());
    replica.save();
    replica
}

#[test]
fn bounds_are_those_of_keys() {
    let reader = five().shard().reader();
    let scan = |start, end| names(&reader.scan(start, end, 100, 1 << 20).unwrap());
    let all = ["a", "b", "b\0", "c", "\u{10ffff}"];
    assert_eq!(scan(Bound::Unbounded, Bound::Unbounded), all);
    assert_eq!(scan(Bound::Included(b""), Bound::Unbounded), all);
    assert_eq!(scan(Bound::Included(b"b"), Bound::Excluded(b"c")), ["b", "b\0"]);
    assert_eq!(scan(Bound::Excluded(b"b"), Bound::Included(b"c")), ["b\0", "c"]);
    assert_eq!(scan(Bound::Included(b"x"), Bound::Excluded(b"b")), [""; 0]);
}

#[test]
fn more_is_said_exactly_when_there_is_more() {
    let reader = five().shard().reader();
    for limit_rows in 1..=6 {
        let page = reader.scan(Bound::Unbounded, Bound::Unbounded, limit_rows, 1 << 20).unwrap();
        assert_eq!((page.rows.len(), page.more), (limit_rows.min(5), limit_rows < 5), "{limit_rows} rows");
    }
    let end = Bound::Excluded(&b"b"[..]);
    let page = reader.scan(Bound::Unbounded, end, 1, 1 << 20).unwrap();
    assert!(!page.more, "what follows is beyond the end");
    let page = reader.scan(Bound::Unbounded, Bound::Unbounded, 100, 1).unwrap();
    assert_eq!((names(&page), page.more), (vec!["a".to_owned()], true), "a page has one row at least");
    let page = reader.scan(Bound::Excluded("c".as_bytes()), Bound::Unbounded, 100, 1).unwrap();
    assert_eq!((page.rows.len(), page.more), (1, false));
    let page = Replica::new(SHARD).shard().reader().scan(Bound::Unbounded, Bound::Unbounded, 0, 0).unwrap();
    assert_eq!(page, Page::default());
}

#[test]
fn readers_see_what_is_applied_and_installed_later() {
    let mut replica = Replica::new(SHARD);
    let reader = replica.shard().reader();
    let key = Key::try_from("a").unwrap();
    assert_eq!(reader.get(&key).unwrap(), None);
    let rows = five().rows();
    replica.table.replace(rows.into_iter().map(Ok)).unwrap();
    replica.machine.reload().unwrap();
    assert_eq!(reader.get(&key).unwrap().unwrap().value, "v");
    assert_eq!(reader.stats().keys, 5);
    replica.apply(once(put("d", "v")));
    assert_eq!(reader.stats().keys, 6);
}
