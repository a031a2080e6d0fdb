//! Readers beside one applier, one drainer and installations. Each round of the applier writes the same number into all
//! keys at once, so whatever a reader sees of one moment is one number.

use std::{
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use bytes::Bytes;

use super::{Crashable, OnDisk, Table, open, rows};
use crate::engine::{Direction, Engine, MemoryEngine};

const KEYS: u32 = 200;
const ROUNDS: u32 = 400;

fn key(number: u32) -> Bytes {
    Bytes::from(format!("{number:05}"))
}

fn write_round(table: &Table, round: u32) {
    let value = Bytes::copy_from_slice(&round.to_be_bytes());
    table.write((0..KEYS).map(|number| (key(number), Some(value.clone()))));
}

fn round_of(value: &[u8]) -> u32 {
    u32::from_be_bytes(value.try_into().unwrap())
}

/// All keys at one moment, in one direction and then in the other; panics if it was more than one.
fn scanned_round(table: &Table) -> u32 {
    let before = scanned_round_in(table, Direction::Descending);
    let after = scanned_round_in(table, Direction::Ascending);
    assert!(before <= after, "a scan goes back");
    after
}

fn scanned_round_in(table: &Table, direction: Direction) -> u32 {
    let rows = table.scan_in(direction, Bound::Unbounded, Bound::Unbounded, usize::MAX, usize::MAX).unwrap();
    assert_eq!(rows.len(), usize::try_from(KEYS).unwrap());
    let first = round_of(&rows[0].1);
    assert!(rows.iter().all(|(_, value)| round_of(value) == first), "a scan shows several moments");
    first
}

/// Runs readers until the writer has finished, then checks that they did run.
fn beside_readers(table: &Table, reader: impl Fn(&Table) + Sync, writer: impl FnOnce()) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let readers = [0, 1].map(|_| {
            scope.spawn(|| {
                let mut reads = 0_u32;
                while !done.load(Ordering::SeqCst) {
                    reader(table);
                    reads += 1;
                }
                reads
            })
        });
        writer();
        done.store(true, Ordering::SeqCst);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
}

fn engines() -> Vec<(Arc<dyn Engine>, Option<OnDisk>)> {
    let on_disk = [OnDisk::sled(), OnDisk::fjall()].map(|on_disk| (on_disk.engine(), Some(on_disk)));
    let in_memory: Arc<dyn Engine> = Arc::new(MemoryEngine::new());
    [(in_memory, None)].into_iter().chain(on_disk).collect()
}

/// Writes rounds and freezes whenever it can, with a drainer beside it.
fn write_and_drain(table: &Table) {
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                table.drain().unwrap();
                thread::yield_now();
            }
        });
        for round in 1..=ROUNDS {
            write_round(table, round);
            table.freeze();
        }
        done.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_look_up_never_misses_a_row_nor_goes_back() {
    for (engine, _dir) in engines() {
        let table = open(engine);
        write_round(&table, 0);
        let reader = |table: &Table| {
            let mut last = 0;
            for number in (0..KEYS).step_by(17).cycle().take(40) {
                let value = table.get(&key(number)).unwrap().expect("it was never deleted");
                assert!(round_of(&value) >= last, "round {} after {last}", round_of(&value));
                last = round_of(&value);
            }
        };
        beside_readers(&table, reader, || write_and_drain(&table));
        assert_eq!(scanned_round(&table), ROUNDS);
    }
}

#[test]
fn a_scan_shows_one_moment() {
    let reader = |table: &Table| {
        scanned_round(table);
    };
    for (engine, _dir) in engines() {
        let table = open(engine);
        write_round(&table, 0);
        beside_readers(&table, reader, || write_and_drain(&table));
    }
}

#[test]
fn a_held_cut_is_one_frozen_generation() {
    for (engine, _dir) in engines() {
        let table = open(engine);
        write_round(&table, 0);
        assert!(table.freeze());
        table.drain().unwrap();
        let reader = |table: &Table| {
            let hold = table.hold_drains();
            let rows = hold.rows().collect::<crate::Result<Vec<_>>>().unwrap();
            assert_eq!(rows.len(), usize::try_from(KEYS).unwrap());
            let cut = round_of(&rows[0].1);
            assert!(rows.iter().all(|(_, value)| round_of(value) == cut));
            assert_eq!(round_of(&hold.get(&key(0)).unwrap().unwrap()), cut);
            // The same cut, though drains may go on from here.
            assert_eq!(hold.into_cut(usize::MAX).collect::<crate::Result<Vec<_>>>().unwrap(), rows);
        };
        beside_readers(&table, reader, || write_and_drain(&table));
    }
}

#[test]
fn an_installation_shows_all_or_nothing() {
    for (engine, _dir) in engines() {
        let table = open(engine);
        write_round(&table, 0);
        let reader = |table: &Table| {
            let before = scanned_round(table);
            let value = table.get(&key(KEYS / 2)).unwrap().expect("both states have it");
            assert!(round_of(&value) >= before);
            assert!(scanned_round(table) >= before);
        };
        beside_readers(&table, reader, || {
            for round in 1..=30_u32 {
                let value = Bytes::copy_from_slice(&round.to_be_bytes());
                table.replace(rows(&(0..KEYS).map(|number| (key(number), value.clone())).collect())).unwrap();
                // Not only drained rows get replaced.
                write_round(&table, round);
                if round % 2 == 0 {
                    table.freeze();
                }
            }
        });
    }
}
