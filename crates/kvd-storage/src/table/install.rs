//! Replacing all of a replica's rows: see "An installation shows all or nothing" in [`super`].

use super::{Generation, Slot, Table};
use crate::{
    engine::{Batch, Row},
    error::{Error, Result},
};

/// Rows of one batch of an installation.
const BATCH_ROWS_MAX: usize = 1000;
/// Bytes of one batch of an installation, of which the last row may be beyond.
const BATCH_BYTES_TARGET: usize = 1 << 20;

/// What was written, to be compared with what can be read back. The sum of checksums is independent of batches.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    rows: u64,
    checksums: u64,
}

impl Tally {
    fn count(&mut self, checksum: u64) {
        self.rows += 1;
        self.checksums = self.checksums.wrapping_add(checksum);
    }
}

impl Table {
    /// Replaces all rows, those in memory included, by these, which must ascend. All of it is durable when this returns.
    /// Until then readers see the old rows, then the new, never a mixture; after a crash it is the one or the other.
    /// Waits for whoever holds drains or reads a cut. The applier does not write meanwhile: what it wrote would be lost.
    ///
    /// # Errors
    /// The first error among `rows`, or [`Error::Misuse`] if they don't ascend, or [`Error::Corruption`] if they can't be
    /// read back: the old rows stand. [`Error::Engine`], [`Error::Fatal`].
    pub fn replace(&self, rows: impl IntoIterator<Item = Result<Row>>) -> Result<()> {
        let _alone = self.gate.alone();
        let old = self.state.read().slot;
        let new = old.other();
        self.tree(new).clear()?;
        let written = self.fill(new, rows)?;
        let found = self.tally(new)?;
        if written != found {
            let what = format!("{} rows were written, {} others are there", written.rows, found.rows);
            return Err(Error::corruption(format!("tree {} of the engine", self.codec.tree_name(new)), what));
        }
        // The engine's order of batches would do; but it is the engine that is not believed.
        self.engine.flush()?;
        fail::fail_point!(crate::failpoints::INSTALL_BEFORE_FLIP);
        self.point_to(new)?;
        fail::fail_point!(crate::failpoints::INSTALL_AFTER_FLIP);
        {
            let mut state = self.state.write();
            state.slot = new;
            state.installs += 1;
            state.active = Generation::numbered(state.active.number + 1);
            state.frozen = None;
        }
        if let Err(error) = self.tree(old).clear() {
            // Harmless: it is cleared again when the table is opened or the tree is needed.
            tracing::warn!(%error, tree = self.codec.tree_name(old), "could not clear the replaced rows");
        }
        Ok(())
    }

    /// Forgets all rows, durably, as if they had been replaced by none.
    ///
    /// # Errors
    /// [`Error::Engine`], [`Error::Fatal`].
    pub fn clear(&self) -> Result<()> {
        self.replace(std::iter::empty())
    }

    /// Forgets a retired replica: its rows and what points to them. Its trees keep their names, empty. Nobody writes to the
    /// table any more.
    ///
    /// # Errors
    /// [`Error::Engine`], [`Error::Fatal`].
    pub fn destroy(&self) -> Result<()> {
        // Whenever a crash interrupts this, the replica has all its rows or none.
        self.clear()?;
        let slot = self.state.read().slot;
        self.tree(slot.other()).clear()?;
        let mut batch = Batch::default();
        batch.delete(self.codec.pointer_key());
        self.meta.apply(batch)?;
        self.engine.flush()
    }

    fn fill(&self, slot: Slot, rows: impl IntoIterator<Item = Result<Row>>) -> Result<Tally> {
        let tree = self.tree(slot);
        let mut tally = Tally::default();
        let mut batch = Batch::default();
        let mut batch_bytes = 0;
        let mut last = None;
        for row in rows {
            let (key, value) = row?;
            if last.as_ref().is_some_and(|last| *last >= key) {
                return Err(Error::Misuse("the rows of an installation must ascend".to_owned()));
            }
            last = Some(key.clone());
            tally.count(self.codec.checksum(&key, &value));
            let stored = self.codec.encode(&key, &value);
            batch_bytes += key.len() + stored.len();
            batch.put(key, stored);
            if batch.len() >= BATCH_ROWS_MAX || batch_bytes >= BATCH_BYTES_TARGET {
                tree.apply(std::mem::take(&mut batch))?;
                batch_bytes = 0;
            }
        }
        tree.apply(batch)?;
        Ok(tally)
    }

    fn tally(&self, slot: Slot) -> Result<Tally> {
        let mut tally = Tally::default();
        for row in self.all_drained(slot) {
            let (key, value) = row?;
            tally.count(self.codec.checksum(&key, &value));
        }
        Ok(tally)
    }

    fn point_to(&self, slot: Slot) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(self.codec.pointer_key(), self.codec.encode_pointer(slot));
        self.meta.apply(batch)?;
        self.engine.flush()
    }
}
