//! What is right, and the same with one thing spoiled.

use std::time::Duration;

use bytes::Bytes;
use kvd_types::{Event, Record};

use super::*;
use crate::check::versions::{Account, End, From, Item, Level, Read, Watch, Write, check};

fn moment(sequence: u64) -> Moment {
    Moment { sequence, time_ns: sequence * 1_000_000 }
}

fn key(text: &str) -> Key {
    Key::try_from(text).unwrap()
}

/// A write of keys to the same value, or of one key that goes if there is none.
fn write(keys: &[&str], value: Option<&'static str>, (from, to): (u64, u64), end: End) -> Write {
    let changes = keys.iter().map(|of| (key(of), value.map(Bytes::from))).collect();
    Write { process: Process(1), client: 1, invoked: moment(from), completed: Some(moment(to)), end, changes }
}

fn done(keys: &[&str], value: Option<&'static str>, at: (u64, u64), revision: u64) -> Write {
    write(keys, value, at, End::Done(Revision(revision)))
}

fn row(of: &str, value: &'static str, revision: u64, version: u64) -> (Key, Record) {
    let record = Record {
        value: value.into(),
        create_revision: Revision(revision + 1 - version),
        revision: Revision(revision),
        version,
        ..Record::default()
    };
    (key(of), record)
}

fn read(level: Level, (from, to): (u64, u64), rows: &[(Key, Record)]) -> Read {
    Read {
        process: Process(2),
        client: 2,
        invoked: moment(from),
        known: moment(to),
        completed: moment(to),
        level,
        start: Bytes::new(),
        end: Bytes::new(),
        rows: rows.to_vec(),
        descending: false,
    }
}

fn event(of: &str, value: Option<&'static str>, revision: u64, previous: Option<(Key, Record)>) -> Event {
    let record = value.map(|value| row(of, value, revision, 1).1);
    Event { key: key(of), revision: Revision(revision), record, previous: previous.map(|(_, record)| record) }
}

fn watch(from: From, items: &[(u64, bool, Vec<Event>)]) -> Watch {
    let items = items.iter().map(|(at, progress, events)| Item {
        at: moment(*at),
        events: events.clone(),
        progress: *progress,
    });
    Watch {
        process: Process(3),
        start: Bytes::new(),
        end: Bytes::new(),
        no_puts: false,
        no_deletes: false,
        previous: false,
        progress_after: Duration::from_millis(10),
        from,
        items: items.collect(),
    }
}

fn account(writes: &[Write], reads: &[Read], watches: &[Watch]) -> Account {
    let shards = ["a", "b", "c", "d"].iter().map(|of| (key(of), ShardId(1))).collect();
    Account { writes: writes.to_vec(), reads: reads.to_vec(), watches: watches.to_vec(), shards }
}

fn found(writes: &[Write], reads: &[Read], watches: &[Watch]) -> usize {
    let found = check(&account(writes, reads, watches));
    found.len()
}

/// Two keys that are written together, twice, and one that goes between.
fn writes() -> Vec<Write> {
    vec![
        done(&["a", "b"], Some("1"), (0, 1), 10),
        done(&["c"], Some("2"), (2, 3), 20),
        done(&["c"], None, (4, 5), 30),
        done(&["a", "b"], Some("3"), (6, 7), 40),
    ]
}

fn snapshot(at: u64, when: (u64, u64), rows: &[(Key, Record)]) -> Read {
    read(Level::Snapshot(Revision(at)), when, rows)
}

#[test]
fn moments_are_accepted_whenever_they_are_looked_at() {
    let early = [row("a", "1", 10, 1), row("b", "1", 10, 1), row("c", "2", 20, 1)];
    let late = [row("a", "3", 40, 31), row("b", "3", 40, 31)];
    let reads = [
        snapshot(20, (3, 3), &early),
        read(Level::At(Revision(25)), (8, 9), &early),
        snapshot(40, (8, 9), &late),
        read(Level::At(Revision(5)), (8, 9), &[]),
    ];
    let reads = reads
        .map(|read| Read { invoked: Moment { sequence: read.invoked.sequence, ..read.invoked }, ..read });
    assert_eq!(check(&account(&writes(), &reads, &[])), Vec::<String>::new());
}

#[test]
fn a_moment_that_is_wrong_is_found() {
    let (a, b) = (row("a", "1", 10, 1), row("b", "1", 10, 1));
    let (later, c) = (row("a", "3", 40, 31), row("c", "2", 20, 1));
    let as_of = |at: u64, rows: &[(Key, Record)]| {
        found(&writes(), &[read(Level::At(Revision(at)), (8, 9), rows)], &[])
    };
    assert_eq!(as_of(20, &[a.clone(), b.clone(), c.clone()]), 0);
    assert_eq!(as_of(20, &[a.clone(), c.clone()]), 1, "half of a transaction");
    assert_eq!(as_of(40, &[later.clone(), b.clone()]), 1, "half of a transaction");
    assert_eq!(as_of(35, &[a.clone(), b.clone(), c]), 1, "what was deleted");
    assert_eq!(as_of(20, &[later, b.clone()]), 2, "what came later, and what is missing");
    assert_eq!(as_of(15, &[b.clone(), a.clone()]), 1, "out of order");
    assert_eq!(as_of(15, &[a.clone(), a, b]), 1, "twice");
}

#[test]
fn a_write_that_is_not_later_than_what_its_client_knew_of_is_found() {
    let write =
        |client, key, sequences, revision| Write { client, ..done(&[key], Some(key), sequences, revision) };
    let (cause, beside) = (write(1, "a", (1, 4), 20), write(1, "b", (2, 6), 15));
    assert_eq!(found(&[cause.clone(), beside], &[], &[]), 0, "neither knew of the other");
    assert_eq!(found(&[cause.clone(), write(2, "c", (5, 6), 15)], &[], &[]), 0, "another client's");
    assert_eq!(found(&[cause, write(1, "c", (5, 6), 15)], &[], &[]), 1);
}

#[test]
fn a_moment_that_misses_what_was_finished_or_is_written_later_is_found() {
    let rows = [row("a", "1", 10, 1), row("b", "1", 10, 1)];
    assert_eq!(found(&writes(), &[snapshot(15, (2, 2), &rows)], &[]), 0);
    assert_eq!(found(&writes(), &[snapshot(15, (4, 4), &rows)], &[]), 1, "c was finished");
    // The revision was known before the write was begun that got a lower one.
    let mut late = writes();
    late.push(Write { client: 99, ..done(&["d"], Some("4"), (10, 11), 14) });
    assert_eq!(found(&late, &[snapshot(15, (2, 2), &rows)], &[]), 2, "and it does not show it");
}

#[test]
fn what_was_unknown_counts_from_when_it_was_seen() {
    let unknown = write(&["a", "b"], Some("1"), (0, 1), End::Unknown);
    let reading = |rows: &[(Key, Record)]| read(Level::At(Revision(50)), (8, 9), rows);
    let (a, b) = (row("a", "1", 10, 1), row("b", "1", 10, 1));
    assert_eq!(found(std::slice::from_ref(&unknown), &[reading(&[])], &[]), 0);
    assert_eq!(found(std::slice::from_ref(&unknown), &[reading(&[a.clone(), b.clone()])], &[]), 0);
    assert_eq!(
        found(std::slice::from_ref(&unknown), &[reading(std::slice::from_ref(&a))], &[]),
        1,
        "half of it"
    );
    assert_eq!(found(&[unknown], &[reading(&[a.clone(), row("b", "1", 11, 1)])], &[]), 1, "made twice");
    let failed = write(&["a"], Some("1"), (0, 1), End::NotDone);
    assert_eq!(found(&[failed], &[reading(std::slice::from_ref(&a))], &[]), 1, "said not to have been made");
    assert_eq!(found(&[], &[reading(std::slice::from_ref(&a))], &[]), 1, "nobody wrote it");
    let early = done(&["a"], Some("1"), (20, 21), 10);
    assert!(found(&[early], &[reading(&[a])], &[]) > 0, "before it was asked for");
}

#[test]
fn stale_reads_are_as_recent_as_they_say() {
    let old = [row("a", "1", 10, 1), row("b", "1", 10, 1)];
    let stale = |level: Level, from: u64| found(&writes(), &[read(level, (from, from), &old)], &[]);
    assert_eq!(stale(Level::Local, 100), 0);
    assert_eq!(stale(Level::Current, 6), 0, "nothing later was finished, and c was deleted");
    assert_eq!(stale(Level::Current, 8), 2, "a and b");
    assert_eq!(stale(Level::Bounded(Duration::from_millis(10)), 16), 0);
    assert_eq!(stale(Level::Bounded(Duration::from_millis(10)), 18), 2);
    assert_eq!(stale(Level::Session, 100), 0, "another client wrote");
    let own = Read { client: 1, ..read(Level::Session, (100, 100), &old) };
    assert_eq!(found(&writes(), &[own], &[]), 2, "its own writes");
    let new = read(Level::Local, (50, 51), &[row("a", "3", 40, 31), row("b", "3", 40, 31)]);
    assert_eq!(found(&writes(), &[new, read(Level::Session, (60, 61), &old)], &[]), 2, "what it has seen");
    let gone = read(Level::Session, (60, 61), &[]);
    let seen = read(Level::Local, (50, 51), &[row("c", "2", 20, 1)]);
    assert_eq!(found(&writes(), &[seen, gone], &[]), 0, "it was deleted");
}

fn events() -> [Event; 6] {
    [
        event("a", Some("1"), 10, None),
        event("b", Some("1"), 10, None),
        event("c", Some("2"), 20, None),
        event("c", None, 30, None),
        event("a", Some("3"), 40, None),
        event("b", Some("3"), 40, None),
    ]
}

#[test]
fn a_watch_that_tells_everything_is_accepted_in_any_parts() {
    let [a, b, c, gone, a_again, b_again] = events();
    let all = vec![a.clone(), b.clone(), c.clone(), gone.clone(), a_again.clone(), b_again.clone()];
    let whole = watch(From::After(Revision(0)), &[(100, true, all)]);
    let now = From::Now { asked: moment(2), started: Some(moment(3)) };
    let parts = [
        (101, false, vec![c, gone]),
        (102, true, vec![]),
        (103, false, vec![a_again, b_again]),
        (104, true, vec![]),
    ];
    let from_now = watch(now, &parts);
    let after = watch(From::After(Revision(35)), &[(100, false, vec![])]);
    let found = check(&account(&writes(), &[], &[whole, from_now, after]));
    assert_eq!(found, Vec::<String>::new());
}

#[test]
fn a_watch_that_is_wrong_is_found() {
    let [a, b, c, gone, a_again, b_again] = events();
    let tells =
        |items: &[(u64, bool, Vec<Event>)]| found(&writes(), &[], &[watch(From::After(Revision(0)), items)]);
    let one = |events: Vec<Event>| tells(&[(100, false, events)]);
    assert_eq!(one(vec![a.clone(), b.clone(), gone.clone()]), 1, "a gap");
    assert_eq!(one(vec![a.clone(), b.clone(), c.clone(), c.clone()]), 1, "twice");
    assert_eq!(one(vec![c.clone(), a.clone(), b.clone()]), 2, "out of order");
    assert_eq!(one(vec![a.clone()]), 1, "half of a transaction");
    let halves = tells(&[(100, false, vec![a.clone()]), (101, false, vec![b.clone()])]);
    assert_eq!(halves, 2, "its halves apart");
    let was_over =
        watch(From::Now { asked: moment(50), started: Some(moment(51)) }, &[(100, false, vec![c.clone()])]);
    assert_eq!(found(&writes(), &[], &[was_over]), 1, "what was over");
    let mut late = writes();
    late.push(done(&["d"], Some("9"), (40, 41), 50));
    let all = vec![a, b, c, gone, event("d", Some("9"), 50, None)];
    let marked = [(100, false, all), (101, true, vec![])];
    let lies = found(&late, &[], &[watch(From::After(Revision(0)), &marked)]);
    assert_eq!(lies, 3, "a mark that is not true, of two keys, and the gap");
    let _ = (a_again, b_again);
}

#[test]
fn the_version_before_is_the_one_before() {
    let tells = |previous: Option<(Key, Record)>| {
        let [a, b, c, ..] = events();
        let gone = event("c", None, 30, previous);
        let watch =
            Watch { previous: true, ..watch(From::After(Revision(0)), &[(100, false, vec![a, b, c, gone])]) };
        found(&writes(), &[], &[watch])
    };
    assert_eq!(tells(Some(row("c", "2", 20, 1))), 0);
    assert_eq!(tells(None), 1);
}

#[test]
fn what_a_watch_has_not_told_yet_is_lacking() {
    let told = event("c", Some("2"), 20, None);
    let lacking = |watch: Watch| account(&writes(), &[], &[]).lacking(&watch).len();
    assert_eq!(lacking(watch(From::After(Revision(0)), &[])), 6);
    assert_eq!(lacking(watch(From::After(Revision(0)), &[(100, false, vec![told.clone()])])), 5);
    assert_eq!(lacking(watch(From::After(Revision(20)), &[])), 3);
    let no_deletes = Watch { no_deletes: true, ..watch(From::After(Revision(20)), &[]) };
    assert_eq!(lacking(no_deletes), 2);
    let only_c = Watch { start: "c".into(), ..watch(From::After(Revision(0)), &[(100, false, vec![told])]) };
    assert_eq!(lacking(only_c), 1);
    let from_now = From::Now { asked: moment(2), started: Some(moment(5)) };
    assert_eq!(lacking(watch(from_now, &[])), 2);
}
