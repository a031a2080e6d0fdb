//! Cuts, and what drains and installations do to the rows while they are read.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    Crashable, Model, OnDisk, Table, bytes, content, drain_all, in_memory, moments::Hooked, open, put, rows,
};
use crate::{Error, table::DrainedCut};

/// More than an engine reads at once.
const KEYS: u16 = 400;

fn key(number: u16) -> Bytes {
    Bytes::from(format!("{number:05}"))
}

/// A table in which even keys have a value, and its content.
fn half_full(table: &Table) -> Model {
    table.write((0..KEYS).step_by(2).map(|number| (key(number), Some(bytes("before")))));
    drain_all(table);
    content(table)
}

fn collected(cut: DrainedCut<'_>) -> Model {
    cut.collect::<Result<Model, Error>>().unwrap()
}

#[test]
fn a_cut_that_an_engine_can_show_keeps_nobody_waiting() {
    for engine in [in_memory().0.engine(), OnDisk::fjall().engine()] {
        let table = open(engine);
        table.write([put("a", "1"), put("b", "1")]);
        drain_all(&table);
        let cut = table.hold_drains().into_cut(0);
        assert!(!cut.holds_drains());
        table.write([put("a", "2"), (bytes("b"), None), put("c", "2")]);
        drain_all(&table);
        table.replace(rows(&Model::from([(bytes("d"), bytes("3"))]))).unwrap();
        let shown = cut.collect::<Result<Model, Error>>().unwrap();
        assert_eq!(shown, Model::from([(bytes("a"), bytes("1")), (bytes("b"), bytes("1"))]));
        assert_eq!(content(&table), Model::from([(bytes("d"), bytes("3"))]));
    }
}

/// What is written between two looks at a cut, and how many of its rows are looked at then.
type Step = (Vec<(u16, Option<u8>)>, usize);

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (0..KEYS, proptest::option::of(any::<u8>()));
    proptest::collection::vec((proptest::collection::vec(change, 0..60), 0..80_usize), 0..12)
}

/// Reads a cut step by step, and writes and drains between.
fn check(table: &Table, steps: &[Step]) {
    let before = half_full(table);
    let mut cut = table.hold_drains().into_cut(usize::MAX);
    assert!(!cut.holds_drains());
    let mut shown = Vec::new();
    let mut after = before.clone();
    for (changes, looks) in steps {
        for (number, value) in changes {
            let (key, value) = (key(*number), value.map(|value| Bytes::from(vec![value; 3])));
            match &value {
                Some(value) => after.insert(key.clone(), value.clone()),
                None => after.remove(&key),
            };
            table.write([(key, value)]);
        }
        drain_all(table);
        shown.extend(cut.by_ref().take(*looks).map(Result::unwrap));
    }
    shown.extend(cut.map(Result::unwrap));
    assert!(shown.is_sorted_by(|(a, _), (b, _)| a < b));
    assert_eq!(shown.into_iter().collect::<Model>(), before);
    assert_eq!(content(table), after);
    assert_eq!(collected(table.hold_drains().into_cut(usize::MAX)), after, "nothing is kept for the next");
}

proptest! {
    #[test]
    fn a_cut_shows_the_rows_as_they_were_whatever_is_drained_meanwhile(steps in steps()) {
        check(&open(Arc::new(Hooked::default())), &steps);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_cut_of_sled_s_shows_the_rows_as_they_were(steps in steps()) {
        check(&open(OnDisk::sled().engine()), &steps);
    }
}

/// Says so when it goes, however that comes.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn a_cut_shows_one_moment_beside_drains_that_never_end() {
    for engine in [OnDisk::sled().engine(), Arc::new(Hooked::default())] {
        let table = open(engine);
        half_full(&table);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                // Every key comes and goes, by and by all of them at once.
                for round in (0..=u8::MAX).cycle().take_while(|_| !done.load(Ordering::SeqCst)) {
                    let value = |number: u16| {
                        (number % 7 != u16::from(round % 7))
                            .then(|| Bytes::from(vec![round; usize::from(number % 40)]))
                    };
                    table.write((0..KEYS).map(|number| (key(number), value(number))));
                    drain_all(&table);
                }
            });
            let _ends = Ends(&done);
            for _ in 0..40 {
                let hold = table.hold_drains();
                let before = hold.rows().collect::<Result<Model, Error>>().unwrap();
                let cut = hold.into_cut(usize::MAX);
                assert!(!cut.holds_drains());
                assert_eq!(collected(cut), before);
            }
        });
    }
}

/// Has somebody do something that waits for the end of a cut, which shows what was there before.
fn waits_for(cut: DrainedCut<'_>, before: &Model, work: impl FnOnce() + Send) {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            work();
            is_done.store(true, Ordering::SeqCst);
        });
        // Time enough for who does not wait.
        for _ in 0..10_000 {
            thread::yield_now();
        }
        let shown = cut.inspect(|_| assert!(!is_done.load(Ordering::SeqCst)));
        assert_eq!(shown.collect::<Result<Model, Error>>().unwrap(), *before);
    });
}

#[test]
fn drains_wait_for_a_cut_that_keeps_nothing() {
    let table = open(OnDisk::sled().engine());
    let before = half_full(&table);
    let cut = table.hold_drains().into_cut(0);
    assert!(cut.holds_drains());
    table.write([put("a", "2")]);
    table.freeze();
    waits_for(cut, &before, || table.drain().unwrap());
    assert_eq!(table.hold_drains().get(b"a").unwrap(), Some(bytes("2")));
}

#[test]
fn drains_wait_for_the_second_of_two_cuts() {
    let table = open(Arc::new(Hooked::default()));
    let before = half_full(&table);
    let first = table.hold_drains().into_cut(usize::MAX);
    let second = table.hold_drains().into_cut(usize::MAX);
    assert_eq!((first.holds_drains(), second.holds_drains()), (false, true));
    table.write([(key(0), None)]);
    table.freeze();
    waits_for(second, &before, || table.drain().unwrap());
    assert_eq!(collected(first), before);
    assert!(!table.hold_drains().into_cut(usize::MAX).holds_drains());
}

#[test]
fn a_cut_that_much_was_kept_for_is_full_and_may_hold_drains() {
    let table = open(Arc::new(Hooked::default()));
    let before = half_full(&table);
    let mut cut = table.hold_drains().into_cut(1);
    assert!(!cut.is_full());
    table.write([(key(2), None), (key(3), Some(bytes("after")))]);
    drain_all(&table);
    assert!(cut.is_full() && !cut.holds_drains());
    cut.hold();
    assert!(cut.holds_drains());
    table.write([(key(4), None)]);
    table.freeze();
    waits_for(cut, &before, || table.drain().unwrap());
    assert_eq!(table.get(&key(4)).unwrap(), None);
}

#[test]
fn an_installation_waits_for_a_cut_and_drains_for_neither() {
    let table = open(OnDisk::sled().engine());
    let before = half_full(&table);
    let cut = table.hold_drains().into_cut(usize::MAX);
    table.write([put("a", "2")]);
    drain_all(&table);
    let installed = Model::from([(bytes("b"), bytes("3"))]);
    waits_for(cut, &before, || table.replace(rows(&installed)).unwrap());
    assert_eq!(content(&table), installed);
}
