//! The state machine of the meta group: the cluster itself.
//!
//! # The approach
//! The state is one immutable value, [`MetaState`], behind an `Arc`. A command is tried on a copy: if it is refused the
//! copy is dropped, so a refused command changes nothing whatever its rules have done to the copy by then; if it changed
//! anything, the copy gets the next epoch and takes the state's place. Changes of a cluster are rare and its state is
//! small ([`NODES_MAX`] nodes, [`SHARDS_MAX`] placements: a few hundred kilobytes at most, usually a few), so a copy per
//! command costs nothing that matters, and readers keep whichever state they hold for as long as they like.
//!
//! What a command may do is in `rules`, one function for each.
//!
//! # Rows
//! The whole state is one row, written once per generation if it has changed.
//!
//! [`NODES_MAX`]: kvd_types::limits::NODES_MAX
//! [`SHARDS_MAX`]: kvd_types::limits::SHARDS_MAX

use std::sync::Arc;

use bytes::Bytes;
use kvd_storage::table::Table;
use kvd_types::{
    Command, GroupId, MetaEpoch, Outcome, Proposal,
    cluster::{MetaCommand, MetaOutcome},
    outcome::Refusal,
};

use crate::{
    Error, Position,
    books::{Books, RowChanges},
    digest::row_hash,
    rows,
};

mod check;
mod row;
mod rules;
mod state;

#[cfg(test)]
mod tests;

pub use state::{Founding, MetaState, ReplacedNode};

/// The state machine of one replica of the meta group.
#[derive(Debug)]
pub struct MetaMachine {
    table: Arc<Table>,
    books: Books,
    state: Arc<MetaState>,
    /// The state has changed since its row was last written.
    dirty: bool,
}

impl MetaMachine {
    /// Opens the machine of a replica of the meta group on its table; see [`crate::Machine::open`].
    ///
    /// # Errors
    /// See [`crate::Machine::open`].
    pub fn open(table: Arc<Table>) -> Result<Self, Error> {
        let (books, _) = Books::load(GroupId::META, &table)?;
        let state = match table.get(rows::META_STATE)? {
            Some(value) => row::decode(value)?,
            None => MetaState::default(),
        };
        Ok(Self { table, books, state: Arc::new(state), dirty: false })
    }

    /// Applies an entry; see [`crate::Machine::apply`].
    ///
    /// # Errors
    /// [`Error::OutOfOrder`].
    pub fn apply(&mut self, position: Position, proposal: &Proposal) -> Result<Vec<Outcome>, Error> {
        self.books.advance(position)?;
        Ok(proposal.commands.iter().map(|command| self.run(command)).collect())
    }

    /// Passes over an entry without commands; see [`crate::Machine::skip`].
    ///
    /// # Errors
    /// [`Error::OutOfOrder`].
    pub fn skip(&mut self, position: Position) -> Result<(), Error> {
        self.books.advance(position)
    }

    /// The last entry that was applied or skipped; `None`: none ever.
    #[must_use]
    pub const fn applied(&self) -> Option<Position> {
        self.books.applied()
    }

    /// Sets the header; see [`crate::Machine::set_header`].
    pub fn set_header(&mut self, header: Bytes) {
        self.books.set_header(header);
    }

    /// The header; see [`crate::Machine::header`].
    #[must_use]
    pub fn header(&self) -> Option<Bytes> {
        self.books.header().cloned()
    }

    /// Writes to the table what is only in memory; see [`crate::Machine::prepare_freeze`].
    pub fn prepare_freeze(&mut self) {
        let mut changes = RowChanges::new();
        if std::mem::take(&mut self.dirty) {
            changes.push((Bytes::from_static(rows::META_STATE), Some(row::encode(&self.state))));
        }
        self.books.take_changes(None, &mut changes);
        self.table.write(changes);
    }

    /// Loads everything anew; see [`crate::Machine::reload`].
    ///
    /// # Errors
    /// See [`crate::Machine::reload`].
    pub fn reload(&mut self) -> Result<(), Error> {
        *self = Self::open(Arc::clone(&self.table))?;
        Ok(())
    }

    /// The hash of the state's row; see [`crate::Machine::digest`].
    #[must_use]
    pub fn digest(&self) -> u64 {
        row_hash(rows::META_STATE, &row::encode(&self.state))
    }

    /// The state of the cluster, as of the last entry. It never changes; after the next entry, ask again.
    #[must_use]
    pub fn state(&self) -> Arc<MetaState> {
        Arc::clone(&self.state)
    }

    fn run(&mut self, command: &Command) -> Outcome {
        match command {
            Command::Meta(command) => Outcome::Meta(self.change(command)),
            Command::Write(_) | Command::OpenSession | Command::CloseSession(_) | Command::Lease(_) => {
                Outcome::Refused(Refusal::WrongGroup)
            }
        }
    }

    fn change(&mut self, command: &MetaCommand) -> MetaOutcome {
        let mut changed = MetaState::clone(&self.state);
        match changed.run(command) {
            Ok(outcome) => {
                if changed != *self.state {
                    changed.epoch = MetaEpoch(self.state.epoch.get().saturating_add(1));
                    self.state = Arc::new(changed);
                    self.dirty = true;
                }
                outcome
            }
            Err(refusal) => MetaOutcome::Refused(refusal),
        }
    }
}
