//! Pages of a scan.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use bytes::Bytes;
use kvd_types::{
    Key, Lifetime, Read, Record, Revision, Txn, TxnOp, WriteOp,
    limits::{SCAN_BYTES_MAX, SCAN_ROWS_MAX, VALUE_BYTES_MAX},
    operation::{Content, Filter, Page, ScanPage},
};
use proptest::{prelude::*, sample::Index};

use super::{NOW_MS, Replica, SHARD, delete, history::known, key, once, put};
use crate::{AsOf, ShardReader, shard::page::Effort};

/// All of a shard.
pub(super) fn everything() -> ScanPage {
    ScanPage::default()
}

/// A page of current versions.
pub(super) fn page(reader: &ShardReader, asked: &ScanPage) -> Page {
    known(reader.page(asked).unwrap())
}

fn range(start: &'static str, end: &'static str) -> ScanPage {
    let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
    ScanPage { start: bytes(start), end: bytes(end), ..ScanPage::default() }
}

fn names(page: &Page) -> Vec<&str> {
    page.rows.iter().map(|(key, _)| std::str::from_utf8(key.as_bytes()).unwrap()).collect()
}

/// What a scan may ask for.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    bounds: [Option<Index>; 2],
    descending: bool,
    content: Content,
    revisions: [Option<Index>; 4],
    limit: usize,
    effort: Effort,
}

pub(super) fn asks() -> impl Strategy<Value = Ask> {
    let bound = || proptest::option::weighted(0.5, any::<Index>());
    let filter = || proptest::option::weighted(0.15, any::<Index>());
    let content = prop_oneof![Just(Content::All), Just(Content::KeysOnly), Just(Content::CountOnly)];
    let effort = prop_oneof![
        Just(Effort { rows: usize::MAX, bytes: usize::MAX, stretch_rows: 512, replaced_rows: 128 }),
        (1..9_usize, 1..400_usize, 1..4_usize, 1..4_usize).prop_map(
            |(rows, bytes, stretch_rows, replaced_rows)| Effort { rows, bytes, stretch_rows, replaced_rows }
        ),
    ];
    let revisions = [filter(), filter(), filter(), filter()];
    ([bound(), bound()], any::<bool>(), content, revisions, 0..5_usize, effort).prop_map(
        |(bounds, descending, content, revisions, limit, effort)| Ask {
            bounds,
            descending,
            content,
            revisions,
            limit,
            effort,
        },
    )
}

impl Ask {
    /// The first page, with bounds among `names` and a filter's among `revisions`.
    pub(super) fn first_page(
        &self,
        names: &[&'static str],
        revisions: &[Revision],
        at: Option<Revision>,
    ) -> ScanPage {
        let bound = |index: &Option<Index>| index.as_ref().map_or("", |index| *index.get(names));
        let [mut start, mut end] = self.bounds.each_ref().map(bound);
        if end < start && !end.is_empty() {
            (start, end) = (end, start);
        }
        let among = |index: &Option<Index>| index.as_ref().map(|index| *index.get(revisions));
        let [revision_min, revision_max, create_revision_min, create_revision_max] =
            self.revisions.each_ref().map(among);
        ScanPage {
            descending: self.descending,
            content: self.content,
            filter: Filter { revision_min, revision_max, create_revision_min, create_revision_max },
            limit: self.limit,
            read: Read { at, ..Read::default() },
            ..range(start, end)
        }
    }

    /// The keys that all pages together should have, of those that there are.
    pub(super) fn expected<'a>(
        &self,
        asked: &ScanPage,
        keys: impl DoubleEndedIterator<Item = (&'a Key, &'a Record)>,
    ) -> Vec<(Key, Record)> {
        let found = keys.filter(|(key, record)| {
            key.as_bytes() >= asked.start.as_ref()
                && (asked.end.is_empty() || key.as_bytes() < asked.end.as_ref())
                && asked.filter.admits(record)
        });
        let mut found: Vec<_> = found.map(|(key, record)| (key.clone(), record.clone())).collect();
        if self.descending {
            found.reverse();
        }
        if self.content == Content::KeysOnly {
            found.iter_mut().for_each(|(_, record)| record.value = Bytes::new());
        }
        found
    }

    /// All pages from the first one on: their rows, and their counts. Each must keep to what was asked for.
    pub(super) fn read_all(&self, reader: &ShardReader, first: &ScanPage) -> (Vec<(Key, Record)>, u64) {
        let (mut rows, mut count) = (Vec::new(), 0);
        let mut asked = first.clone();
        loop {
            let page = known(reader.page_within(&asked, self.effort).unwrap());
            assert!(self.limit == 0 || page.count <= self.limit as u64, "{page:?}");
            if self.content == Content::CountOnly {
                assert_eq!(page.rows, []);
            } else {
                assert_eq!(page.rows.len() as u64, page.count);
            }
            rows.extend(page.rows);
            count += page.count;
            let Some(next) = page.next else { return (rows, count) };
            assert!(!next.is_empty());
            let position = if self.descending { &mut asked.end } else { &mut asked.start };
            let goes_on =
                if self.descending { position.is_empty() || next < *position } else { next > *position };
            assert!(goes_on, "from {position:?} to {next:?} is no progress");
            *position = next;
        }
    }
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
    for (start, end, expected) in [
        ("", "", &["a", "b", "b\0", "c", "\u{10ffff}"][..]),
        ("b", "c", &["b", "b\0"]),
        ("b\0", "", &["b\0", "c", "\u{10ffff}"]),
        ("", "b\0", &["a", "b"]),
        ("b", "b", &[]),
        ("x", "b", &[]),
    ] {
        let asked = range(start, end);
        assert_eq!(names(&page(&reader, &asked)), expected, "{start} {end}");
        let mut backwards = page(&reader, &ScanPage { descending: true, ..asked });
        backwards.rows.reverse();
        assert_eq!(names(&backwards), expected, "{start} {end}, descending");
    }
}

#[test]
fn where_to_go_on_is_said_exactly_when_there_is_more() {
    let reader = five().shard().reader();
    for at in [None, Some(reader.stats().last_revision)] {
        for (limit, descending) in (1..=6).flat_map(|limit| [(limit, false), (limit, true)]) {
            let read = Read { at, ..Read::default() };
            let found = page(&reader, &ScanPage { limit, descending, read, ..everything() });
            assert_eq!((found.rows.len(), found.count), (limit.min(5), limit.min(5) as u64));
            assert_eq!(found.next.is_some(), limit < 5, "{limit} keys, {descending}, as of {at:?}");
        }
    }
    let found = page(&reader, &ScanPage { limit: 1, ..range("", "b") });
    assert_eq!(found.next, None, "what follows is beyond the end");
    let found = page(&reader, &ScanPage { limit: 1, descending: true, ..range("c", "") });
    assert_eq!((names(&found), found.next.as_deref()), (vec!["\u{10ffff}"], Some("\u{10ffff}".as_bytes())));
    let nothing = page(&Replica::new(SHARD).shard().reader(), &everything());
    assert_eq!(nothing, Page::default());
}

#[test]
fn a_page_is_bounded_by_what_it_gives_back() {
    let mut replica = Replica::new(SHARD);
    let large = vec![b'v'; SCAN_BYTES_MAX / 3];
    for i in 0..7 {
        replica.apply(once(put(&format!("k{i}"), large.clone())));
    }
    replica.apply(once(put("k7", vec![b'v'; VALUE_BYTES_MAX])));
    let reader = replica.shard().reader();
    for at in [None, Some(reader.stats().last_revision)] {
        let read = Read { at, ..Read::default() };
        let of = |start, content| page(&reader, &ScanPage { content, read, ..range(start, "") });
        let found = of("", Content::All);
        let next = found.next.expect("there are more");
        assert_eq!((found.count, &b"k1"[..] < next.as_ref(), next.as_ref() <= &b"k2"[..]), (2, true, true));
        assert_eq!(of("k7", Content::All).count, 1, "a page has one key at least");
        let keys = of("", Content::KeysOnly);
        assert_eq!((keys.count, keys.next), (8, None), "values that are not given back don't count");
        assert!(keys.rows.iter().all(|(_, record)| record.value.is_empty() && record.version == 1));
        let counted = of("", Content::CountOnly);
        assert_eq!((counted.count, counted.rows, counted.next), (8, vec![], None));
    }
}

#[test]
fn a_page_is_bounded_by_what_it_looks_at() {
    let mut replica = Replica::new(SHARD);
    let total = 5 * SCAN_ROWS_MAX;
    let names: Vec<String> = (0..total).map(|i| format!("{i:05}")).collect();
    for some in names.chunks(1024) {
        replica.apply_at(NOW_MS, some.iter().map(|name| once(put(name, "v"))).collect());
    }
    let reader = replica.shard().reader();
    let last = reader.stats().last_revision;
    let only_the_last = Filter { revision_min: Some(last), ..Filter::default() };
    for (at, content) in [(None, Content::All), (Some(last), Content::All), (None, Content::KeysOnly)] {
        let read = Read { at, ..Read::default() };
        let mut asked = ScanPage { filter: only_the_last, content, read, ..everything() };
        let mut pages = 0;
        let found = loop {
            let found = page(&reader, &asked);
            pages += 1;
            if found.count > 0 {
                break found;
            }
            asked.start = found.next.expect("there is one to be found");
        };
        assert_eq!((found.count, found.next), (1, None));
        assert!((2..=5).contains(&pages), "{pages} pages, as of {at:?}");
    }
    let counted = page(&reader, &ScanPage { content: Content::CountOnly, ..everything() });
    assert_eq!((counted.count, counted.next), (total as u64, None));
    let counted = page(&reader, &ScanPage { content: Content::CountOnly, limit: 5000, ..everything() });
    let rest = ScanPage { start: counted.next.unwrap(), content: Content::CountOnly, ..everything() };
    assert_eq!((counted.count, page(&reader, &rest).count), (5000, total as u64 - 5000));
}

#[test]
fn a_key_that_was_replaced_often_costs_a_page_little() {
    let mut replica = Replica::new(SHARD);
    replica.apply(once(put("b", "before")));
    let at = replica.shard().reader().stats().last_revision;
    for _ in 0..20 {
        replica.apply_at(NOW_MS, (0..1024).map(|_| once(put("a", "v"))).collect());
    }
    replica.apply(once(delete("b")));
    for descending in [false, true] {
        let read = Read { at: Some(at), ..Read::default() };
        let found = page(&replica.shard().reader(), &ScanPage { read, descending, ..everything() });
        assert_eq!((names(&found), found.next.as_deref()), (vec!["b"], None));
    }
}

#[test]
fn readers_see_what_is_applied_and_installed_later() {
    let mut replica = Replica::new(SHARD);
    let reader = replica.shard().reader();
    let key = key("a");
    assert_eq!(reader.get(&key).unwrap(), None);
    let rows = five().rows();
    replica.table.replace(rows.into_iter().map(Ok)).unwrap();
    replica.machine.reload().unwrap();
    assert_eq!(reader.get(&key).unwrap().unwrap().value, "v");
    assert_eq!(reader.stats().keys, 5);
    replica.apply(once(put("d", "v")));
    assert_eq!(reader.stats().keys, 6);
}

#[test]
fn what_installed_rows_have_forgotten_is_not_answered_from_them() {
    let mut source = five();
    let before = source.shard().reader().stats().last_revision;
    source.apply(once(delete("a")));
    super::history::compact(&mut source, Revision(u64::MAX));
    let mut replica = five();
    let reader = replica.shard().reader();
    replica.table.replace(source.rows().into_iter().map(Ok)).unwrap();
    // The machine has not been told yet.
    assert!(matches!(reader.get_as_of(&key("a"), before).unwrap(), AsOf::Compacted { .. }));
    replica.machine.reload().unwrap();
    assert!(matches!(reader.get_as_of(&key("a"), before).unwrap(), AsOf::Compacted { .. }));
}

#[test]
fn a_page_shows_one_moment_however_often_it_reads() {
    const KEYS: usize = 64;
    let mut replica = Replica::new(SHARD);
    // Each key is at one of two places, far from each other.
    let name =
        |i: usize, place: usize| if place == 0 { format!("a{i:02}") } else { format!("b{:02}", KEYS - i) };
    replica.apply_at(NOW_MS, (0..KEYS).map(|i| once(put(&name(i, 0), "v"))).collect());
    let reader = replica.shard().reader();
    let effort = Effort { rows: usize::MAX, bytes: usize::MAX, stretch_rows: 4, replaced_rows: 4 };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        for (content, descending) in [(Content::KeysOnly, false), (Content::CountOnly, true)] {
            let (reader, done) = (&reader, &done);
            scope.spawn(move || {
                loop {
                    let is_last = done.load(Ordering::SeqCst);
                    let asked = ScanPage { content, descending, ..everything() };
                    let found = known(reader.page_within(&asked, effort).unwrap());
                    assert_eq!((found.count, found.next), (KEYS as u64, None), "{content:?}");
                    if is_last {
                        break;
                    }
                }
            });
        }
        for round in 0..3000 {
            let (i, place) = (round * 37 % KEYS, round / KEYS % 2);
            let gone = TxnOp::Delete { key: key(&name(i, place)), want_previous: false };
            let come = TxnOp::Put {
                key: key(&name(i, 1 - place)),
                value: Bytes::new(),
                lifetime: Lifetime::Forever,
                want_previous: false,
            };
            replica.apply(once(WriteOp::Txn(Txn { then: vec![gone, come], ..Txn::default() })));
            if round % 100 == 0 {
                replica.save();
            }
        }
        done.store(true, Ordering::SeqCst);
    });
}
