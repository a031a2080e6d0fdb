//! One replica's rows: memory first, the engine behind it.
//!
//! # The problem
//! Every applied entry changes a few rows, and an engine wants few, large, atomic batches. Between two of those a crash
//! must never leave data without the bookkeeping (applied log id, membership) that says what the data is.
//!
//! # The approach
//! Rows are written into the *active* generation, an ordered map in memory. Now and then the applier, having just
//! written its bookkeeping rows, *freezes* it: it becomes the one *frozen* generation, a consistent cut, and an empty one
//! takes its place. A drain then puts the frozen generation into the engine's tree as one batch and drops it. It is the
//! caller who says when: see [`Table::active_rows`] and [`Table::active_bytes`].
//!
//! # Invariants
//! - The engine's tree always holds a prefix of the generations: a consistent cut, readable by [`Table::hold_drains`].
//! - **A look-up never misses a row.** It looks into the memory generations first, both under one lock, and into the
//!   engine after that. Rows only ever move from memory to the engine, and they are in the engine before they leave
//!   memory: what was in memory when it looked there was found, what was not is in the engine by the time it looks there.
//! - **A cut shows one moment**, however long it takes to read it: see [`cut`].
//! - **A scan shows one moment.** It copies what the memory generations have, then reads the engine. A drain of the
//!   frozen generation that it has copied changes nothing of the merged result; a drain of a later generation would, so
//!   it checks that none had begun, else starts again, and after a few vain attempts holds drains for as long as it reads.
//! - **An installation shows all or nothing.** [`Table::replace`] fills the replica's *other* tree and then flips one row
//!   in the `meta` tree. A reader that was under way in the old tree notices, and looks again.
//! - Each row in the engine carries a checksum over the replica, the key and the value. A row that fails it is reported,
//!   never returned.
//!
//! # At the bound
//! Memory is bounded by the caller: while a drain runs or is held, [`Table::freeze`] refuses and the active generation
//! grows; the applier looks at [`Table::active_bytes`] and waits for the drain before it writes more.
//!
//! # What is deliberately absent
//! Keys have no meaning here. Durability is not promised: a row is durable with the engine's next flush, and until then
//! the log has it. No threads: callers drain and flush on their own.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use kvd_types::ReplicaId;
use parking_lot::RwLock;

use crate::{
    engine::{Batch, Direction, Engine, Rows, Tree},
    error::Result,
};

mod cut;
mod gate;
mod install;
mod row;
mod scan;

#[cfg(test)]
mod tests;

pub use self::cut::DrainedCut;
use self::{cut::CurrentCut, gate::Gate, row::Codec};

/// What a row is believed to cost in memory beyond its key and value, in bytes.
const ROW_OVERHEAD_BYTES: usize = 96;
/// Deletions in the active generation that a scan may pass over without asking for a drain.
const DELETIONS_PASSED_MAX: usize = 2_000;
/// The tree that says which of its two trees each replica uses.
const META_TREE: &str = "meta";

/// One replica's rows. At any time at most one of these may be open for a replica.
#[derive(Debug)]
pub struct Table {
    engine: Arc<dyn Engine>,
    codec: Codec,
    meta: Arc<dyn Tree>,
    trees: [Arc<dyn Tree>; 2],
    state: RwLock<State>,
    /// A scan had many deletions of the active generation to pass over.
    wants_drain: AtomicBool,
    gate: Gate,
    cut: CurrentCut,
}

/// What readers look at. The lock around it is never held while the engine works.
#[derive(Debug)]
struct State {
    active: Generation,
    frozen: Option<Arc<Generation>>,
    /// The number of the newest generation whose drain has begun; zero: none yet.
    drain_begun: u64,
    /// Which tree holds the drained rows.
    slot: Slot,
    /// Counts the changes of `slot`.
    installs: u64,
}

#[derive(Debug, Default)]
struct Generation {
    /// Counts from one.
    number: u64,
    rows: BTreeMap<Bytes, Option<Bytes>>,
    bytes: usize,
}

/// One of the two trees of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    A,
    B,
}

/// While it lives, no drain and no installation changes the engine's tree: reading through it gives the cut that was
/// drained last, while writes go on into memory.
#[derive(Debug)]
pub struct DrainHold<'a> {
    table: &'a Table,
    slot: Slot,
    hold: gate::Hold<'a>,
}

impl Slot {
    const fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::A => 'a',
            Self::B => 'b',
        }
    }
}

impl Generation {
    fn numbered(number: u64) -> Self {
        Self { number, ..Self::default() }
    }

    fn write(&mut self, key: Bytes, value: Option<Bytes>) {
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        let key_bytes = key.len();
        self.bytes += value_bytes;
        match self.rows.insert(key, value) {
            Some(replaced) => self.bytes -= replaced.map_or(0, |value| value.len()),
            None => self.bytes += key_bytes + ROW_OVERHEAD_BYTES,
        }
    }
}

impl State {
    fn new(slot: Slot) -> Self {
        Self { active: Generation::numbered(1), frozen: None, drain_begun: 0, slot, installs: 0 }
    }

    /// What memory says of a key: `None` nothing, `Some(None)` that it is deleted.
    fn lookup(&self, key: &[u8]) -> Option<Option<Bytes>> {
        let in_frozen = || self.frozen.as_ref()?.rows.get(key);
        self.active.rows.get(key).or_else(in_frozen).cloned()
    }
}

impl Table {
    /// The rows of a replica as they were last drained and flushed (or a later drained cut). What an interrupted
    /// installation left is cleared away first, which takes time in proportion to it.
    ///
    /// # Errors
    /// [`crate::Error::Corruption`] if what says where the rows are is damaged: start again with [`Table::recreate`].
    /// [`crate::Error::Engine`].
    pub fn open(engine: Arc<dyn Engine>, replica: ReplicaId) -> Result<Self> {
        let codec = Codec::new(replica);
        let meta = engine.tree(META_TREE)?;
        let slot = Self::pointed_slot(codec, meta.as_ref())?;
        let table = Self::assemble(engine, codec, meta, slot)?;
        table.tree(slot.other()).clear()?;
        Ok(table)
    }

    /// An empty table for a replica, whatever the engine has of it.
    ///
    /// # Errors
    /// [`crate::Error::Engine`], [`crate::Error::Fatal`].
    pub fn recreate(engine: Arc<dyn Engine>, replica: ReplicaId) -> Result<Self> {
        let codec = Codec::new(replica);
        let meta = engine.tree(META_TREE)?;
        let slot = match Self::pointed_slot(codec, meta.as_ref()) {
            // Until the very end the next open fails the same way.
            Err(error) if error.is_corruption() => Slot::A,
            pointed => pointed?,
        };
        let table = Self::assemble(engine, codec, meta, slot)?;
        table.clear()?;
        Ok(table)
    }

    fn pointed_slot(codec: Codec, meta: &dyn Tree) -> Result<Slot> {
        meta.get(&codec.pointer_key())?.map_or(Ok(Slot::A), |stored| codec.decode_pointer(stored))
    }

    fn assemble(engine: Arc<dyn Engine>, codec: Codec, meta: Arc<dyn Tree>, slot: Slot) -> Result<Self> {
        let trees = [engine.tree(&codec.tree_name(Slot::A))?, engine.tree(&codec.tree_name(Slot::B))?];
        let state = RwLock::new(State::new(slot));
        let (wants_drain, gate, cut) = (AtomicBool::new(false), Gate::default(), CurrentCut::default());
        Ok(Self { engine, codec, meta, trees, state, wants_drain, gate, cut })
    }

    fn tree(&self, slot: Slot) -> &Arc<dyn Tree> {
        let [a, b] = &self.trees;
        match slot {
            Slot::A => a,
            Slot::B => b,
        }
    }

    /// The value of a key.
    ///
    /// # Errors
    /// [`crate::Error::Corruption`] if the row in the engine fails its checksum. [`crate::Error::Engine`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        loop {
            let (slot, installs) = {
                let state = self.state.read();
                if let Some(known) = state.lookup(key) {
                    return Ok(known);
                }
                (state.slot, state.installs)
            };
            let found = self.get_drained(slot, key);
            if self.state.read().installs == installs {
                return found;
            }
        }
    }

    /// Whether reads may wait for the disk.
    #[must_use]
    pub fn reads_wait(&self) -> bool {
        let [a, b] = &self.trees;
        a.reads_wait() || b.reads_wait()
    }

    fn get_drained(&self, slot: Slot, key: &[u8]) -> Result<Option<Bytes>> {
        let stored = self.tree(slot).get(key)?;
        stored.map(|stored| self.codec.decode(slot, key, stored)).transpose()
    }

    /// Writes rows into the active generation; `None` deletes. Readers see all of them or none. For one applier at a
    /// time: it alone knows when the generation is a consistent cut.
    pub fn write(&self, rows: impl IntoIterator<Item = (Bytes, Option<Bytes>)>) {
        let mut state = self.state.write();
        for (key, value) in rows {
            state.active.write(key, value);
        }
    }

    /// Rows in the active generation, deletions included.
    pub fn active_rows(&self) -> usize {
        self.state.read().active.rows.len()
    }

    /// About how much memory the active generation takes, in bytes.
    pub fn active_bytes(&self) -> usize {
        self.state.read().active.bytes
    }

    /// Whether a drain would make scans faster: an engine forgets what is deleted, memory has to remember it.
    pub fn wants_drain(&self) -> bool {
        self.wants_drain.load(Ordering::Relaxed)
    }

    /// Whether a frozen generation waits for its drain, or is being drained.
    pub fn is_frozen(&self) -> bool {
        self.state.read().frozen.is_some()
    }

    /// Makes the active generation the frozen one, if it has rows and nothing is frozen; returns whether it did. The
    /// caller has just written its bookkeeping rows, so that the generation ends in a consistent cut.
    pub fn freeze(&self) -> bool {
        let mut state = self.state.write();
        if state.frozen.is_some() || state.active.rows.is_empty() {
            return false;
        }
        let next = Generation::numbered(state.active.number + 1);
        let frozen = std::mem::replace(&mut state.active, next);
        self.wants_drain.store(false, Ordering::Relaxed);
        state.frozen = Some(Arc::new(frozen));
        true
    }

    /// Puts the frozen generation into the engine as one atomic batch and drops it from memory. Does nothing if nothing
    /// is frozen. Waits for whoever holds drains. May run beside reads and writes.
    ///
    /// # Errors
    /// [`crate::Error::Engine`]: the generation stays frozen and readable. [`crate::Error::Fatal`].
    pub fn drain(&self) -> Result<()> {
        let _exclusive = self.gate.exclusive();
        let (frozen, slot) = {
            let mut state = self.state.write();
            let Some(frozen) = state.frozen.clone() else { return Ok(()) };
            state.drain_begun = frozen.number;
            (frozen, state.slot)
        };
        self.keep_for_cut(slot, &frozen)?;
        let mut batch = Batch::with_capacity(frozen.rows.len());
        for (key, value) in &frozen.rows {
            match value {
                Some(value) => batch.put(key.clone(), self.codec.encode(key, value)),
                None => batch.delete(key.clone()),
            }
        }
        fail::fail_point!(crate::failpoints::DRAIN_BEFORE_BATCH);
        self.tree(slot).apply(batch)?;
        fail::fail_point!(crate::failpoints::DRAIN_AFTER_BATCH);
        // Only now: see "A look-up never misses a row".
        self.state.write().frozen = None;
        Ok(())
    }

    /// Keeps the engine's tree as it is for as long as the hold lives. Waits for a drain or an installation that is under
    /// way. Holds may overlap. A drain or installation on the thread that holds would wait for itself for ever.
    pub fn hold_drains(&self) -> DrainHold<'_> {
        let hold = self.gate.hold();
        let slot = self.state.read().slot;
        DrainHold { table: self, slot, hold }
    }

    fn drained(&self, slot: Slot, start: Bound<&[u8]>, end: Bound<&[u8]>, direction: Direction) -> Rows<'_> {
        self.verified(slot, self.tree(slot).scan(start, end, direction))
    }

    fn all_drained(&self, slot: Slot) -> Rows<'_> {
        self.drained(slot, Bound::Unbounded, Bound::Unbounded, Direction::Ascending)
    }

    fn verified<'a>(&'a self, slot: Slot, rows: Rows<'a>) -> Rows<'a> {
        Box::new(rows.map(move |row| {
            let (key, stored) = row?;
            let value = self.codec.decode(slot, &key, stored)?;
            Ok((key, value))
        }))
    }
}

impl<'a> DrainHold<'a> {
    /// The value of a key in the drained cut.
    ///
    /// # Errors
    /// As [`Table::get`].
    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>> {
        self.table.get_drained(self.slot, key)
    }

    /// All rows of the drained cut, ascending, each verified.
    pub fn rows(&self) -> Rows<'a> {
        self.table.all_drained(self.slot)
    }
}
