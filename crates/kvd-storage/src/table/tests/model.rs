//! Random histories against a map, crashes included.

use std::ops::Bound;

use bytes::Bytes;
use proptest::prelude::*;

use super::{Crashable, Model, OnDisk, Table, content, open, rows};
use crate::engine::{Direction, MemoryEngine};

#[derive(Clone, Debug)]
enum Step {
    Write(Vec<(u8, Option<u8>)>),
    Freeze,
    Drain,
    Flush,
    Replace(Vec<(u8, u8)>),
    /// The table is closed without a crash of the engine.
    Reopen,
    Crash,
}

#[derive(Clone, Debug)]
struct Page {
    start: Bound<u8>,
    end: Bound<u8>,
    limit_rows: usize,
    limit_bytes: usize,
    direction: Direction,
}

fn bound() -> impl Strategy<Value = Bound<u8>> {
    prop_oneof![
        Just(Bound::Unbounded),
        (0..32_u8).prop_map(Bound::Included),
        (0..32_u8).prop_map(Bound::Excluded)
    ]
}

fn page() -> impl Strategy<Value = Page> {
    let direction = prop_oneof![Just(Direction::Ascending), Just(Direction::Descending)];
    (bound(), bound(), 0..20_usize, 0..200_usize, direction).prop_map(
        |(start, end, limit_rows, limit_bytes, direction)| Page {
            start,
            end,
            limit_rows,
            limit_bytes,
            direction,
        },
    )
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..32_u8, proptest::option::weighted(0.65, 0..30_u8));
    prop_oneof![
        12 => proptest::collection::vec(change, 0..12).prop_map(Step::Write),
        6 => Just(Step::Freeze),
        6 => Just(Step::Drain),
        3 => Just(Step::Flush),
        1 => proptest::collection::vec((0..32_u8, 0..30_u8), 0..20).prop_map(Step::Replace),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

fn history() -> impl Strategy<Value = Vec<(Step, Page)>> {
    proptest::collection::vec((step(), page()), 1..40)
}

fn key(number: u8) -> Bytes {
    Bytes::from(format!("{number:02}"))
}

fn value(length: u8) -> Bytes {
    Bytes::from(vec![b'v'; usize::from(length)])
}

/// What the table must hold, and what would be left of it.
#[derive(Default)]
struct Expected {
    now: Model,
    frozen: Option<Model>,
    drained: Model,
    flushed: Model,
}

impl Expected {
    fn all_is(&mut self, model: &Model) {
        *self = Self { now: model.clone(), frozen: None, drained: model.clone(), flushed: model.clone() };
    }

    fn page(&self, page: &Page) -> Vec<(Bytes, Bytes)> {
        let mut bytes = 0;
        let within = |at: &Bytes| {
            (match page.start {
                Bound::Included(start) => *at >= key(start),
                Bound::Excluded(start) => *at > key(start),
                Bound::Unbounded => true,
            }) && match page.end {
                Bound::Included(end) => *at <= key(end),
                Bound::Excluded(end) => *at < key(end),
                Bound::Unbounded => true,
            }
        };
        let rows = self.now.iter().filter(|(at, _)| within(at));
        let rows: Vec<_> = match page.direction {
            Direction::Ascending => rows.collect(),
            Direction::Descending => rows.rev().collect(),
        };
        let rows = rows.into_iter().take(page.limit_rows).enumerate();
        let rows = rows.take_while(|(position, (key, value))| {
            bytes += key.len() + value.len();
            bytes <= page.limit_bytes || *position == 0
        });
        rows.map(|(_, (key, value))| (key.clone(), value.clone())).collect()
    }
}

fn run(mut engine: impl Crashable, history: &[(Step, Page)]) {
    let mut table = open(engine.engine());
    let mut expected = Expected::default();
    for (step, page) in history {
        match step {
            Step::Write(changes) => {
                let changes = changes.iter().map(|(number, length)| (key(*number), length.map(value)));
                for (key, value) in changes.clone() {
                    match value {
                        Some(value) => drop(expected.now.insert(key, value)),
                        None => drop(expected.now.remove(&key)),
                    }
                }
                table.write(changes);
            }
            Step::Freeze => {
                if table.freeze() {
                    expected.frozen = Some(expected.now.clone());
                }
            }
            Step::Drain => {
                table.drain().unwrap();
                expected.drained = expected.frozen.take().unwrap_or(expected.drained);
            }
            Step::Flush => {
                engine.engine().flush().unwrap();
                expected.flushed = expected.drained.clone();
            }
            Step::Replace(pairs) => {
                let model = pairs.iter().map(|(number, length)| (key(*number), value(*length))).collect();
                table.replace(rows(&model)).unwrap();
                expected.all_is(&model);
            }
            Step::Reopen => {
                table = open(engine.engine());
                expected.now = expected.drained.clone();
                expected.frozen = None;
            }
            Step::Crash => {
                engine.crash();
                table = open(engine.engine());
                let left = if engine.keeps_unflushed() { &expected.drained } else { &expected.flushed };
                expected.all_is(&left.clone());
            }
        }
        check(&table, &expected, page);
    }
}

fn check(table: &Table, expected: &Expected, page: &Page) {
    assert_eq!(content(table), expected.now);
    for number in 0..32 {
        assert_eq!(table.get(&key(number)).unwrap().as_ref(), expected.now.get(&key(number)));
    }
    let (start, end) = (page.start.map(key), page.end.map(key));
    let (start, end) = (start.as_ref().map(Bytes::as_ref), end.as_ref().map(Bytes::as_ref));
    let found = table.scan_in(page.direction, start, end, page.limit_rows, page.limit_bytes).unwrap();
    assert_eq!(found, expected.page(page), "{page:?}");
    let hold = table.hold_drains();
    assert_eq!(hold.rows().collect::<crate::Result<Model>>().unwrap(), expected.drained);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn a_table_in_memory_is_a_map(history in history()) {
        run(std::sync::Arc::new(MemoryEngine::new()), &history);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn a_table_in_sled_is_a_map(history in history()) {
        run(OnDisk::sled(), &history);
    }

    #[test]
    fn a_table_in_fjall_is_a_map(history in history()) {
        run(OnDisk::fjall(), &history);
    }
}
