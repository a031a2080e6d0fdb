//! Rows that an entry will ask for, read before it is applied.
//!
//! Commands are run one after the other, and each reads the version that it replaces: on a disk, one read after the other.
//! Which keys an entry names is known before, so whoever applies it can have all of these rows read at once:
//! [`crate::Machine::wanted`], then [`crate::Machine::read_ahead`], then the entry.
//!
//! Nothing depends on what was read ahead but how long an entry takes. It counts for the next entry only, and only if that is
//! the one for which it was read: an entry that was applied in between may have changed the rows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use kvd_types::{Command, Key, Proposal, Write, WriteOp};

use crate::{Position, rows};

/// The rows that an entry will ask for, and what was read of them.
#[derive(Debug, Default)]
pub struct ReadAhead {
    /// The last entry that was applied when they were looked up.
    after: Option<Position>,
    wanted: Vec<Bytes>,
    found: BTreeMap<Bytes, Option<Bytes>>,
}

impl ReadAhead {
    pub(super) const fn new(after: Option<Position>, wanted: Vec<Bytes>) -> Self {
        Self { after, wanted, found: BTreeMap::new() }
    }

    /// The keys, in the table, of rows that are to be read: each once.
    pub fn take_wanted(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.wanted)
    }

    /// Notes what the table has of a row.
    pub fn found(&mut self, row: Bytes, value: Option<Bytes>) {
        self.found.insert(row, value);
    }

    /// The same, if nothing was applied since; else nothing.
    pub(super) fn unless_applied_since(self, applied: Option<Position>) -> Self {
        if self.after == applied { self } else { Self::default() }
    }

    /// What the table has of a row, if it was read.
    #[must_use]
    pub fn get(&self, row: &Bytes) -> Option<Option<&Bytes>> {
        self.found.get(row).map(Option::as_ref)
    }
}

/// The rows of the current versions of all keys that an entry names, each once.
pub(super) fn named(proposal: &Proposal) -> BTreeSet<Bytes> {
    let mut named = BTreeSet::new();
    let mut name = |key: &Key| {
        named.insert(rows::latest(key.as_bytes()));
    };
    for command in &proposal.commands {
        let Command::Write(Write { op, .. }) = command else { continue };
        match op {
            WriteOp::Put { key, .. } | WriteOp::Delete { key, .. } => name(key),
            WriteOp::Txn(txn) => {
                txn.compares.iter().for_each(|compare| name(&compare.key));
                txn.then.iter().chain(&txn.otherwise).for_each(|operation| name(operation.key()));
            }
            // Ranges are read in one go, and leases are few.
            WriteOp::DeleteRange { .. } | WriteOp::GrantLease { .. } | WriteOp::RevokeLease(_) => {}
        }
    }
    named
}
