//! Judging what was seen of many keys at many revisions: scans, reads as of the past, stale reads, watches.
//!
//! # The problem
//! A history of single keys says nothing of a scan that shows half a transaction, of a read at a revision that tells
//! something else the second time, or of a watcher that was told all but one change. All of these claim to know what a key
//! was at some revision, and such claims can be held against each other.
//!
//! # The approach
//! From everything that was acknowledged or seen it is found out which write made which revision of which key
//! ([`facts`]): an unknown write that anybody saw has the revision that it was seen with, and so have all its keys. Then each
//! reading is judged by the facts ([`reads`]), and each watch ([`watches`]):
//! - As of a revision R a key is what the last fact up to R says.
//! - A snapshot's R is at or above every write that was finished before it was asked for, and below every write that was begun
//!   after it was known: no write gets a revision that was shown.
//! - A stale read is at least as recent as its level says: as what the same client has seen, or as all that was finished
//!   longer ago than its bound.
//! - A write has a later revision than all that its client had been told of writes before ([`causes`]).
//! - A watch tells the facts of its range in each shard's order, each once, those of a revision together, and has left none
//!   out before the last that it has told; its marks of progress are true.
//!
//! # Invariants
//! - Every key is absent when it begins, and all that writes to the keys is in the account. No value is put twice on a key.
//!
//! # What it deliberately does not do
//! It searches for no order: what nobody was told a revision of, and nobody saw, may have been made or not. Deletions that
//! are unknown may explain that a key is absent; it is not asked whether there are enough of them.

mod causes;
mod facts;
mod reads;
mod watches;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use kvd_types::{Event, Key, Record, Revision, ShardId};

use crate::history::{Moment, Process};

/// Violations that are told; there may be more.
const VIOLATIONS_MAX: usize = 10;

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was made, at this revision.
    Done(Revision),
    /// It certainly was not made and never will be, or changed nothing.
    NotDone,
    /// It can't be told.
    Unknown,
}

impl End {
    /// What an answer says: made at a revision, or nothing changed; or it failed.
    #[must_use]
    pub fn of(answer: &kvd_types::Result<Option<Revision>>) -> Self {
        match answer {
            Ok(Some(revision)) => Self::Done(*revision),
            Ok(None) => Self::NotDone,
            Err(error) if error.outcome_unknown() => Self::Unknown,
            Err(_) => Self::NotDone,
        }
    }
}

/// A write of some keys at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Who asked.
    pub process: Process,
    /// Through which client, whose answers count for its sessions.
    pub client: u64,
    /// When, at the latest, it had not been sent yet.
    pub invoked: Moment,
    /// When the client was told; `None`: it never was.
    pub completed: Option<Moment>,
    /// What became of it.
    pub end: End,
    /// What it puts, each value never put before; `None`: the key goes, and no other does.
    pub changes: Vec<(Key, Option<Bytes>)>,
}

/// How recent a reading claims to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It misses nothing that was finished before, and shows the moment of this revision, which the store chose.
    Snapshot(Revision),
    /// It shows the moment of this revision.
    At(Revision),
    /// It misses nothing that was finished before.
    Current,
    /// It misses nothing that was finished so long before.
    Bounded(Duration),
    /// It misses nothing that the same client has seen or made before.
    Session,
    /// It shows anything that there has been.
    Local,
}

/// A reading of one key or of a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// Who asked.
    pub process: Process,
    /// Through which client.
    pub client: u64,
    /// When, at the latest, it had not been sent yet.
    pub invoked: Moment,
    /// When the client was told as of when it reads, at the latest.
    pub known: Moment,
    /// When all was there.
    pub completed: Moment,
    /// How recent it claims to be.
    pub level: Level,
    /// The first key that it covers.
    pub start: Bytes,
    /// The first one that it doesn't cover any more; empty: it covers all.
    pub end: Bytes,
    /// What it gave, in its order.
    pub rows: Vec<(Key, Record)>,
    /// Whether that order is from the last key to the first.
    pub descending: bool,
}

/// From when on a watch tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// From when it was begun.
    Now {
        /// When, at the latest, it had not been asked for yet.
        asked: Moment,
        /// When it had begun at the latest; `None`: it never was heard of.
        started: Option<Moment>,
    },
    /// From after a revision.
    After(Revision),
}

/// Some of what a watch told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// When it came.
    pub at: Moment,
    /// The changes.
    pub events: Vec<Event>,
    /// Whether it says that nothing is missing that was finished a while ago.
    pub progress: bool,
}

/// A watch, with all its continuations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watch {
    /// Who watched.
    pub process: Process,
    /// The first key that it covers.
    pub start: Bytes,
    /// The first one that it doesn't cover any more; empty: it covers all.
    pub end: Bytes,
    /// Without the puts.
    pub no_puts: bool,
    /// Without the deletes.
    pub no_deletes: bool,
    /// With the versions that were replaced.
    pub previous: bool,
    /// How long before a mark of progress all must have been finished that it vouches for.
    pub progress_after: Duration,
    /// From when on.
    pub from: From,
    /// What it told.
    pub items: Vec<Item>,
}

/// Everything that happened to some keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// All writes.
    pub writes: Vec<Write>,
    /// All readings.
    pub reads: Vec<Read>,
    /// All watches.
    pub watches: Vec<Watch>,
    /// The shards of all keys.
    pub shards: BTreeMap<Key, ShardId>,
}

/// Says what can't have been right in it, in words; the first of it.
#[must_use]
pub fn check(account: &Account) -> Vec<String> {
    let mut found = Found::default();
    let facts = facts::Facts::of(account, &mut found);
    facts.check_order(account, &mut found);
    causes::check(account, &mut found);
    for read in &account.reads {
        reads::check(account, &facts, read, &mut found);
    }
    for watch in &account.watches {
        watches::check(account, &facts, watch, &mut found);
    }
    found.0
}

/// What has been found.
#[derive(Default)]
struct Found(Vec<String>);

impl Found {
    fn add(&mut self, what: impl FnOnce() -> String) {
        if self.0.len() < VIOLATIONS_MAX {
            self.0.push(what());
        }
    }
}

impl Account {
    /// What was acknowledged and a watch should have told, and has not.
    #[must_use]
    pub fn lacking(&self, watch: &Watch) -> Vec<String> {
        let events = watch.items.iter().flat_map(|item| &item.events);
        let told: BTreeSet<(Revision, &Key)> = events.map(|event| (event.revision, &event.key)).collect();
        let mut lacking = Vec::new();
        for write in &self.writes {
            let End::Done(revision) = write.end else { continue };
            let is_after_its_begin = match watch.from {
                From::After(after) => revision > after,
                From::Now { started, .. } => {
                    started.is_some_and(|started| write.invoked.sequence > started.sequence)
                }
            };
            for (key, put) in write.changes.iter().filter(|_| is_after_its_begin) {
                let is_left_out = if put.is_some() { watch.no_puts } else { watch.no_deletes };
                if covers(&watch.start, &watch.end, key) && !is_left_out && !told.contains(&(revision, key)) {
                    lacking.push(format!("key {key} at revision {revision}, {write}"));
                }
            }
        }
        lacking
    }
}

/// Whether a range covers a key.
fn covers(start: &[u8], end: &[u8], key: &Key) -> bool {
    key.as_bytes() >= start && (end.is_empty() || key.as_bytes() < end)
}

impl std::fmt::Display for Write {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { process, invoked, completed, end, changes, .. } = self;
        write!(f, "the write of {process}, {}", invoked.sequence)?;
        match completed {
            Some(at) => write!(f, "-{} ({:.3} s)", at.sequence, seconds(*at))?,
            None => f.write_str("-")?,
        }
        let changes = changes.iter().map(|(key, value)| match value {
            Some(value) => format!("{key}={}", value.escape_ascii()),
            None => format!("{key} gone"),
        });
        write!(f, ", {end:?}, of {}", changes.collect::<Vec<_>>().join(" "))
    }
}

impl std::fmt::Display for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { process, invoked, completed, level, start, end, .. } = self;
        let (start, end) = (start.escape_ascii(), end.escape_ascii());
        let (from, to) = (invoked.sequence, completed.sequence);
        write!(
            f,
            "the reading of {process}, {from}-{to} ({:.3} s), {level:?}, of [{start}, {end})",
            seconds(*completed)
        )
    }
}

fn seconds(at: Moment) -> f64 {
    Duration::from_nanos(at.time_ns).as_secs_f64()
}
