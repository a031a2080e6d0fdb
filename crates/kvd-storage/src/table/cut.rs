//! All rows as of one moment, for whoever takes long to read them.
//!
//! # The problem
//! A checkpoint reads all rows, which takes seconds, or many of them on a machine that has more to do than it can. Not every
//! engine can show its rows as they were when that began. If drains waited for the end, everything that is written meanwhile
//! would wait in memory, go to the engine in one large piece, and find no room if that took long.
//!
//! # The approach
//! Copy on write. A drain that is about to change rows which the cut has not come to keeps them first, as they are: with their
//! values, or noted as not there. The cut goes through the engine's rows in order, merged with those that were kept: where a
//! row was kept that is what it was, whatever the engine has by now. A row is forgotten as soon as it has been shown.
//!
//! # Invariants
//! - What is kept lies beyond what has been shown. Both change under one lock, which a drain takes before it changes the
//!   engine's tree: so a row that the engine gives too new is one that was kept.
//! - What is kept first counts: a later drain changes what was not there at the cut.
//! - No installation replaces the rows while a cut lives.
//!
//! # At the bound
//! Beyond a bound of the caller's ([`DrainedCut::is_full`]) drains had better wait for the rest: see [`DrainedCut::hold`]. A
//! second cut, while the first lives, has drains wait from the beginning.

use std::{
    collections::BTreeMap,
    fmt,
    iter::Peekable,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use parking_lot::Mutex;

use super::{DrainHold, Generation, ROW_OVERHEAD_BYTES, Slot, Table, gate};
use crate::{
    engine::{Row, Rows},
    error::Result,
};

/// All rows of the cut that was drained last, ascending, each verified.
pub struct DrainedCut<'a> {
    table: &'a Table,
    rows: Peekable<Rows<'a>>,
    hold: Option<gate::Hold<'a>>,
    tracked: Option<Tracked<'a>>,
}

/// A cut that drains keep rows for.
struct Tracked<'a> {
    table: &'a Table,
    kept: Arc<Kept>,
    _rows_stay: gate::Cut<'a>,
}

/// The cut of a table that drains keep rows for, if there is one.
#[derive(Debug, Default)]
pub(super) struct CurrentCut(Mutex<Option<Arc<Kept>>>);

/// What drains have kept for a cut.
#[derive(Debug)]
struct Kept {
    ahead: Mutex<Ahead>,
    bytes_max: usize,
    is_full: AtomicBool,
}

#[derive(Debug, Default)]
struct Ahead {
    shown: Shown,
    /// Rows as they were; none: it was not there.
    rows: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

/// How far a cut has come.
#[derive(Debug, Default)]
enum Shown {
    #[default]
    Nothing,
    /// This row and all before it.
    Upto(Bytes),
    All,
}

impl Ahead {
    fn keep(&mut self, key: Bytes, value: Option<Bytes>) {
        self.bytes += cost(&key, value.as_ref());
        self.rows.insert(key, value);
    }

    /// Takes the first row that was kept, if it comes before a row of the engine or in its place.
    fn take_before(&mut self, engine: Option<&Bytes>) -> Option<(Bytes, Option<Bytes>)> {
        let first = self.rows.first_entry()?;
        if engine.is_some_and(|engine| first.key() > engine) {
            return None;
        }
        let (key, value) = first.remove_entry();
        self.bytes -= cost(&key, value.as_ref());
        Some((key, value))
    }
}

fn cost(key: &Bytes, value: Option<&Bytes>) -> usize {
    key.len() + value.map_or(0, Bytes::len) + ROW_OVERHEAD_BYTES
}

impl CurrentCut {
    /// Begins a cut that drains keep rows for; none, if there is one already.
    fn begin(&self, bytes_max: usize) -> Option<Arc<Kept>> {
        let mut current = self.0.lock();
        if current.is_some() {
            return None;
        }
        let kept = Kept { ahead: Mutex::default(), bytes_max, is_full: AtomicBool::new(false) };
        let kept = Arc::new(kept);
        *current = Some(Arc::clone(&kept));
        Some(kept)
    }

    fn end(&self) {
        *self.0.lock() = None;
    }
}

impl Table {
    /// Keeps the rows that a generation is about to change, as far as a cut has still to show them.
    pub(super) fn keep_for_cut(&self, slot: Slot, generation: &Generation) -> Result<()> {
        let Some(kept) = self.cut.0.lock().clone() else { return Ok(()) };
        let mut ahead = kept.ahead.lock();
        let after = match &ahead.shown {
            Shown::Nothing => Bound::Unbounded,
            Shown::Upto(key) => Bound::Excluded(key.clone()),
            Shown::All => return Ok(()),
        };
        for (key, _) in generation.rows.range((after, Bound::Unbounded)) {
            if !ahead.rows.contains_key(key) {
                ahead.keep(key.clone(), self.get_drained(slot, key)?);
            }
        }
        kept.is_full.store(ahead.bytes > kept.bytes_max, Ordering::Relaxed);
        Ok(())
    }
}

impl<'a> DrainHold<'a> {
    /// All rows of the drained cut, for whoever takes long to read them: drains go on meanwhile. If the engine can't show its
    /// rows as they are now, drains keep up to about so many bytes of what they change; with none at all they wait.
    pub fn into_cut(self, kept_bytes_max: usize) -> DrainedCut<'a> {
        let Self { table, slot, hold } = self;
        if let Some(rows) = table.tree(slot).snapshot() {
            let rows = table.verified(slot, rows).peekable();
            return DrainedCut { table, rows, hold: None, tracked: None };
        }
        let begun = (kept_bytes_max > 0).then(|| table.cut.begin(kept_bytes_max)).flatten();
        let rows = table.all_drained(slot).peekable();
        match begun {
            // Known to drains before any of them can go on.
            Some(kept) => {
                let tracked = Tracked { table, kept, _rows_stay: hold.into_cut() };
                DrainedCut { table, rows, hold: None, tracked: Some(tracked) }
            }
            None => DrainedCut { table, rows, hold: Some(hold), tracked: None },
        }
    }
}

impl DrainedCut<'_> {
    /// Whether drains are held for as long as this lives.
    #[must_use]
    pub const fn holds_drains(&self) -> bool {
        self.hold.is_some()
    }

    /// Whether drains keep more for it than they should.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let kept = self.tracked.as_ref().map(|tracked| &tracked.kept);
        kept.is_some_and(|kept| kept.is_full.load(Ordering::Relaxed))
    }

    /// Holds drains from now on. Waits for one that is under way.
    pub fn hold(&mut self) {
        if self.hold.is_none() {
            self.hold = Some(self.table.gate.hold());
        }
    }
}

impl Iterator for DrainedCut<'_> {
    type Item = Result<Row>;

    fn next(&mut self) -> Option<Result<Row>> {
        let Some(Tracked { kept, .. }) = &self.tracked else { return self.rows.next() };
        loop {
            // Read before the lock is taken: a drain that comes between keeps it as it was.
            let engine = match self.rows.peek() {
                Some(Err(_)) => return self.rows.next(),
                Some(Ok((key, _))) => Some(key),
                None => None,
            };
            let mut ahead = kept.ahead.lock();
            let Some((key, value)) = ahead.take_before(engine) else {
                ahead.shown = engine.map_or(Shown::All, |key| Shown::Upto(key.clone()));
                return self.rows.next();
            };
            ahead.shown = Shown::Upto(key.clone());
            if engine == Some(&key) {
                self.rows.next();
            }
            drop(ahead);
            if let Some(value) = value {
                return Some(Ok((key, value)));
            }
        }
    }
}

impl Drop for Tracked<'_> {
    fn drop(&mut self) {
        self.table.cut.end();
    }
}

impl fmt::Debug for DrainedCut<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DrainedCut").field("hold", &self.hold).finish_non_exhaustive()
    }
}
