//! The state machine of a shard: keys, their revisions, and the sessions that make retries harmless.
//!
//! # Revisions
//! A write that changes something gets the revision max(the entry's clock, the last revision + 1): close to real time
//! while clocks behave, strictly growing whatever they do. A delete that finds nothing and a write whose condition does
//! not hold take none. `create_revision`, `revision` and `version` of a record mean what they do in etcd: the revision
//! at which the key came into being since it was last absent, that of its last write, and the number of writes since it
//! came into being.
//!
//! # A clock that is wrong
//! The clock is the leader's, and may be anything; nothing here depends on it for safety.
//! - *Back:* revisions go on by counting, one per write, until the clock has caught up.
//! - *Ahead, say by a year:* revisions jump by a year and, once the clock is mended, count on from there; the counter's
//!   range is never used up (20 bits are a thousand writes per microsecond of the lost time). Revisions then don't tell
//!   the time of a write for a year, which is all that depends on it; [`ShardStats::last_revision`] shows it, to be
//!   compared with the node's own clock. Sessions lose at most [`SESSION_CLOCK_STEP_MAX`] of their idle time.
//! - *Ahead by centuries:* a clock counts as [`CLOCK_MAX`] at most, so that half of all revisions remain to count on.
//!
//! # An entry
//! First the sessions' time passes, then the commands are run in order, each seeing what those before it did, then all
//! changed rows go to the table at once. Readers see an entry's changes together.
//!
//! [`SESSION_CLOCK_STEP_MAX`]: kvd_types::limits::SESSION_CLOCK_STEP_MAX

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use kvd_storage::table::Table;
use kvd_types::{
    Command, Condition, GroupId, Outcome, Proposal, Record, Revision, SessionPosition, ShardId, Write,
    WriteOp, outcome::Refusal,
};
use parking_lot::Mutex;

use self::sessions::{Admission, Sessions};
use crate::{
    Error, Position,
    books::{Books, RowChanges, ShardRow},
    digest::row_hash,
    rows,
};

mod reader;
mod record;
mod sessions;

pub use reader::{Page, ShardReader, ShardStats};

/// The latest clock that is believed: half of all revisions, in the year 2248.
pub const CLOCK_MAX: Revision = Revision(1 << 63);

/// The state machine of one replica of a shard.
#[derive(Debug)]
pub struct ShardMachine {
    shard: ShardId,
    table: Arc<Table>,
    books: Books,
    last_revision: Revision,
    contents: Contents,
    sessions: Sessions,
    /// What readers see of the counters, as of the last entry.
    published: Arc<Mutex<ShardStats>>,
}

/// Sums over the keys' current versions, kept with each write.
#[derive(Clone, Copy, Debug, Default)]
struct Contents {
    digest: u64,
    keys: u64,
    bytes: u64,
}

/// The rows that one entry has changed so far.
#[derive(Debug, Default)]
struct Pending(BTreeMap<Bytes, Option<Bytes>>);

/// What a write would do, decided before anything changes.
struct Decision {
    outcome: Outcome,
    /// The key's new version (`Some(None)`: it goes), if anything changes.
    change: Option<Option<Record>>,
}

impl ShardMachine {
    /// Opens the machine of a shard's replica on its table; see [`crate::Machine::open`].
    ///
    /// # Errors
    /// See [`crate::Machine::open`].
    pub fn open(shard: ShardId, table: Arc<Table>) -> Result<Self, Error> {
        let (books, row) = Books::load(GroupId::from(shard), &table)?;
        let sessions = Sessions::load(&row, &table)?;
        let contents = Contents { digest: row.digest, keys: row.keys, bytes: row.bytes };
        let last_revision = Revision(row.last_revision);
        let published = Arc::default();
        let machine = Self { shard, table, books, last_revision, contents, sessions, published };
        machine.publish();
        Ok(machine)
    }

    /// Applies an entry; see [`crate::Machine::apply`].
    ///
    /// # Errors
    /// See [`crate::Machine::apply`].
    pub fn apply(&mut self, position: Position, proposal: &Proposal) -> Result<Vec<Outcome>, Error> {
        self.books.advance(position)?;
        let clock = proposal.clock.min(CLOCK_MAX);
        self.sessions.pass_time(clock);
        let mut pending = Pending::default();
        let outcomes = proposal
            .commands
            .iter()
            .map(|command| self.run(clock, command, &mut pending))
            .collect::<Result<Vec<_>, _>>()?;
        self.table.write(pending.0);
        self.publish();
        Ok(outcomes)
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
        self.sessions.take_changes(&mut changes);
        let row = ShardRow {
            last_revision: self.last_revision.get(),
            last_session: self.sessions.last_minted().get(),
            session_time_ms: self.sessions.time_ms(),
            clock_seen_ms: self.sessions.clock_seen_ms(),
            digest: self.contents.digest,
            keys: self.contents.keys,
            bytes: self.contents.bytes,
        };
        self.books.take_changes(Some(row), &mut changes);
        self.table.write(changes);
    }

    /// Loads everything anew; see [`crate::Machine::reload`]. Readers go on with the new rows.
    ///
    /// # Errors
    /// See [`crate::Machine::reload`].
    pub fn reload(&mut self) -> Result<(), Error> {
        let published = Arc::clone(&self.published);
        *self = Self { published, ..Self::open(self.shard, Arc::clone(&self.table))? };
        self.publish();
        Ok(())
    }

    /// The wrapping sum of the hashes of all rows of keys; see [`crate::Machine::digest`].
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.contents.digest
    }

    /// A handle that reads this shard while entries are applied.
    #[must_use]
    pub fn reader(&self) -> ShardReader {
        ShardReader::new(Arc::clone(&self.table), Arc::clone(&self.published))
    }

    fn publish(&self) {
        *self.published.lock() = ShardStats {
            keys: self.contents.keys,
            bytes: self.contents.bytes,
            sessions: self.sessions.len(),
            last_revision: self.last_revision,
            digest: self.contents.digest,
        };
    }

    fn run(&mut self, clock: Revision, command: &Command, pending: &mut Pending) -> Result<Outcome, Error> {
        match command {
            Command::Write(write) => self.write(clock, write, pending),
            Command::OpenSession => Ok(self.sessions.open(clock)),
            Command::CloseSession(session) => {
                self.sessions.close(*session);
                Ok(Outcome::SessionClosed)
            }
            Command::Meta(_) => Ok(Outcome::Refused(Refusal::WrongGroup)),
        }
    }

    fn write(&mut self, clock: Revision, write: &Write, pending: &mut Pending) -> Result<Outcome, Error> {
        if let Some(at) = write.session
            && let Admission::Answered(outcome) = self.sessions.admit(at)
        {
            return Ok(outcome);
        }
        let row = rows::latest(write.op.key().as_bytes());
        let old = pending.get(&self.table, &row)?;
        let current = old.as_ref().map(|bytes| record::decode(&row, bytes)).transpose()?;
        let revision = clock.max(self.last_revision.next());
        let Decision { outcome, change } = decide(&write.op, current.as_ref(), revision);
        if !self.remember(write.session, &outcome) {
            return Ok(Outcome::Refused(Refusal::SessionFull));
        }
        if let Some(new) = change {
            self.last_revision = revision;
            let new_row = new.as_ref().map(record::encode);
            let key_bytes = write.op.key().as_bytes().len();
            if let (Some(old), Some(current)) = (&old, &current) {
                self.contents.remove(key_bytes, current, row_hash(&row, old));
            }
            if let (Some(new_row), Some(new)) = (&new_row, &new) {
                self.contents.add(key_bytes, new, row_hash(&row, new_row));
            }
            pending.0.insert(row, new_row);
        }
        Ok(outcome)
    }

    /// Remembers the outcome of a write in a session; false: there is no room, so the write must not happen.
    fn remember(&mut self, at: Option<SessionPosition>, outcome: &Outcome) -> bool {
        at.is_none_or(|at| self.sessions.remember(at, outcome))
    }
}

impl Pending {
    /// A row as the commands before in this entry have left it.
    fn get(&self, table: &Table, row: &Bytes) -> Result<Option<Bytes>, Error> {
        match self.0.get(row) {
            Some(changed) => Ok(changed.clone()),
            None => Ok(table.get(row)?),
        }
    }
}

impl Contents {
    fn add(&mut self, key_bytes: usize, record: &Record, hash: u64) {
        self.digest = self.digest.wrapping_add(hash);
        self.keys = self.keys.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(size_bytes(key_bytes, record));
    }

    fn remove(&mut self, key_bytes: usize, record: &Record, hash: u64) {
        self.digest = self.digest.wrapping_sub(hash);
        self.keys = self.keys.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub(size_bytes(key_bytes, record));
    }
}

fn size_bytes(key_bytes: usize, record: &Record) -> u64 {
    u64::try_from(key_bytes.saturating_add(record.value.len())).unwrap_or(u64::MAX)
}

/// What a write does to a key, given its current version and the revision that the write would get.
fn decide(op: &WriteOp, current: Option<&Record>, revision: Revision) -> Decision {
    let (WriteOp::Put { condition, want_previous, .. } | WriteOp::Delete { condition, want_previous, .. }) =
        op;
    let unchanged = |outcome| Decision { outcome, change: None };
    if !holds(*condition, current) {
        let current = current.map(|record| {
            if *want_previous { record.clone() } else { Record { value: Bytes::new(), ..record.clone() } }
        });
        return unchanged(Outcome::ConditionFailed { current });
    }
    let previous = current.filter(|_| *want_previous).cloned();
    match (op, current) {
        (WriteOp::Put { value, .. }, _) => {
            let create_revision = current.map_or(revision, |record| record.create_revision);
            let version = current.map_or(1, |record| record.version.saturating_add(1));
            let new = Record {
                value: value.clone(),
                create_revision,
                revision,
                version,
                lease: None,
                expires_at_unix_ms: None,
            };
            Decision {
                outcome: Outcome::Put { revision, create_revision, version, previous },
                change: Some(Some(new)),
            }
        }
        (WriteOp::Delete { .. }, Some(_)) => {
            Decision { outcome: Outcome::Deleted { revision, previous }, change: Some(None) }
        }
        (WriteOp::Delete { .. }, None) => unchanged(Outcome::NotFound),
    }
}

fn holds(condition: Condition, current: Option<&Record>) -> bool {
    match condition {
        Condition::Always => true,
        Condition::Absent => current.is_none(),
        Condition::RevisionIs(revision) => current.is_some_and(|record| record.revision == revision),
    }
}
