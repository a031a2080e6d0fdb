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
//! # Time
//! What has a lifetime lives by the shard's *age*: how long it has been led, in milliseconds, as its leaders count it. It
//! stands still while nobody leads, so nothing lapses unserved; and no clock can make it jump.
//!
//! # What readers were shown
//! A reader may be shown the shard as of a revision that no write has had yet, so that shards can be read as of one moment.
//! No write gets such a revision later: the leader that showed it sees to that while it leads, and for those after it the
//! entry before had raised a *ceiling*: at each change of term, revisions go on above it.
//!
//! # An entry
//! First time passes: what is due lapses. Then the commands are run in order, each seeing what those before it did; then some of
//! what may be forgotten is, the more the more has changed; and all changed rows go to the table at once. Readers see an
//! entry's changes together.
//!
//! [`SESSION_CLOCK_STEP_MAX`]: kvd_types::limits::SESSION_CLOCK_STEP_MAX

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use kvd_storage::table::Table;
use kvd_types::{
    Command, GroupId, Outcome, Proposal, Revision, SessionPosition, ShardId, Write, outcome::Refusal,
};
use parking_lot::Mutex;

use self::{
    history::History,
    keys::Contents,
    leases::Leases,
    pending::Pending,
    recent::Recent,
    sessions::{Admission, Sessions},
    write::Decision,
};
use crate::{
    Error, Position,
    books::{Books, RowChanges, ShardRow},
};

mod ahead;
mod expiry;
mod feed;
pub(crate) mod history;
mod keys;
mod lease_view;
mod leases;
pub(crate) mod page;
mod pending;
mod reader;
mod recent;
mod record;
mod sessions;
mod write;

pub use ahead::ReadAhead;
pub use lease_view::LeaseView;
pub use reader::{AsOf, ShardReader, ShardStats};

/// The latest clock that is believed: half of all revisions, in the year 2248.
pub const CLOCK_MAX: Revision = Revision(1 << 63);

/// The state machine of one replica of a shard.
#[derive(Debug)]
pub struct ShardMachine {
    shard: ShardId,
    table: Arc<Table>,
    books: Books,
    last_revision: Revision,
    /// Readers may have been shown any revision up to this.
    ceiling: Revision,
    /// How long the shard has been led.
    age_ms: u64,
    /// The age at which something may be due; none: nothing ever is.
    next_due_ms: Option<u64>,
    contents: Contents,
    history: History,
    /// Rows of changes that are next to be forgotten. They don't change any more, so they can be read for many entries at once.
    next_forgotten: VecDeque<(Bytes, Bytes)>,
    leases: Leases,
    sessions: Sessions,
    recent: Arc<Recent>,
    /// For the next entry.
    ahead: ReadAhead,
    /// What readers see of the counters, as of the last entry.
    published: Arc<Mutex<ShardStats>>,
}

impl ShardMachine {
    /// Opens the machine of a shard's replica on its table; see [`crate::Machine::open`].
    ///
    /// # Errors
    /// See [`crate::Machine::open`].
    pub fn open(shard: ShardId, table: Arc<Table>) -> Result<Self, Error> {
        let (books, row) = Books::load(GroupId::from(shard), &table)?;
        let sessions = Sessions::load(&row, &table)?;
        let mut machine = Self {
            shard,
            books,
            last_revision: Revision(row.last_revision),
            ceiling: Revision(row.ceiling),
            age_ms: row.age_ms,
            next_due_ms: None,
            contents: Contents { digest: row.digest, keys: row.keys, bytes: row.bytes },
            history: History {
                compacted: Revision(row.compacted),
                forgotten: Revision(row.forgotten),
                digest: row.history_digest,
                bytes: row.history_bytes,
            },
            next_forgotten: VecDeque::new(),
            leases: Leases { count: row.leases, ending: row.leases_ending, digest: row.leases_digest },
            sessions,
            recent: Arc::default(),
            ahead: ReadAhead::default(),
            published: Arc::default(),
            table,
        };
        machine.look_for_due(&machine.pending(ReadAhead::default()))?;
        machine.publish();
        Ok(machine)
    }

    /// Keeps about so many bytes of current versions at hand; see [`crate::Machine::keep_at_hand`].
    pub fn keep_at_hand(&mut self, bytes_max: u64) {
        self.recent = Arc::new(Recent::new(bytes_max));
    }

    /// Which rows an entry will ask for; see [`crate::Machine::wanted`].
    #[must_use]
    pub fn wanted(&self, proposal: &Proposal) -> ReadAhead {
        let mut rows = ahead::named(proposal);
        rows.retain(|row| self.recent.get(row).is_none());
        ReadAhead::new(self.applied(), rows.into_iter().collect())
    }

    /// Takes what was read ahead; see [`crate::Machine::read_ahead`].
    pub fn read_ahead(&mut self, ahead: ReadAhead) {
        self.ahead = ahead;
    }

    fn pending(&self, ahead: ReadAhead) -> Pending {
        Pending::new(Arc::clone(&self.table), Arc::clone(&self.recent), ahead)
    }

    /// Applies an entry; see [`crate::Machine::apply`].
    ///
    /// # Errors
    /// See [`crate::Machine::apply`].
    pub fn apply(&mut self, position: Position, proposal: &Proposal) -> Result<Vec<Outcome>, Error> {
        let ahead = std::mem::take(&mut self.ahead).unless_applied_since(self.applied());
        self.advance(position)?;
        let clock = proposal.clock.min(CLOCK_MAX);
        self.ceiling = self.ceiling.max(proposal.ceiling.min(CLOCK_MAX));
        self.age_ms = self.age_ms.max(proposal.age_ms);
        self.sessions.pass_time(clock);
        let mut pending = self.pending(ahead);
        if self.history.compact(proposal.compacted.min(self.last_revision)) {
            // Told before anything goes: whoever reads looks again when it has read.
            self.publish();
        }
        self.expire(clock, proposal.commands.len(), &mut pending)?;
        let outcomes = proposal
            .commands
            .iter()
            .map(|command| self.run(clock, command, &mut pending))
            .collect::<Result<Vec<_>, _>>()?;
        let changes_made = pending.changes.len();
        self.history.write_changes(&mut pending);
        self.history.forget(&self.table, &mut self.next_forgotten, &mut pending, changes_made)?;
        self.table.write(pending.into_rows());
        self.publish();
        Ok(outcomes)
    }

    /// Passes over an entry without commands; see [`crate::Machine::skip`].
    ///
    /// # Errors
    /// [`Error::OutOfOrder`].
    pub fn skip(&mut self, position: Position) -> Result<(), Error> {
        self.advance(position)?;
        // With a new term the last revision may have been raised.
        self.publish();
        Ok(())
    }

    /// Moves on to an entry. With a later term another leader may propose, which doesn't know what was shown to readers.
    fn advance(&mut self, position: Position) -> Result<(), Error> {
        let term_before = self.books.applied().map(|applied| applied.term);
        self.books.advance(position)?;
        if term_before != Some(position.term) {
            self.last_revision = self.last_revision.max(self.ceiling);
        }
        Ok(())
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
            compacted: self.history.compacted.get(),
            forgotten: self.history.forgotten.get(),
            history_digest: self.history.digest,
            history_bytes: self.history.bytes,
            ceiling: self.ceiling.get(),
            age_ms: self.age_ms,
            leases: self.leases.count,
            leases_ending: self.leases.ending,
            leases_digest: self.leases.digest,
        };
        self.books.take_changes(Some(row), &mut changes);
        self.table.write(changes);
    }

    /// Loads everything anew; see [`crate::Machine::reload`]. Readers go on with the new rows.
    ///
    /// # Errors
    /// See [`crate::Machine::reload`].
    pub fn reload(&mut self) -> Result<(), Error> {
        let (published, recent) = (Arc::clone(&self.published), Arc::new(self.recent.emptied()));
        *self = Self { published, recent, ..Self::open(self.shard, Arc::clone(&self.table))? };
        self.publish();
        Ok(())
    }

    /// The wrapping sum of the hashes of all rows of keys, of their history and of leases; see [`crate::Machine::digest`].
    #[must_use]
    pub const fn digest(&self) -> u64 {
        self.contents.digest.wrapping_add(self.history.digest).wrapping_add(self.leases.digest)
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
            ceiling: self.ceiling,
            compacted: self.history.compacted,
            is_forgetting: self.history.forgotten < self.history.compacted,
            history_bytes: self.history.bytes,
            age_ms: self.age_ms,
            next_due_ms: self.next_due_ms,
            leases: self.leases.count,
            leases_ending: self.leases.ending,
            digest: self.digest(),
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
            Command::Lease(command) => self.run_lease(clock, command, pending),
            Command::Meta(_) => Ok(Outcome::Refused(Refusal::WrongGroup)),
        }
    }

    fn write(&mut self, clock: Revision, write: &Write, pending: &mut Pending) -> Result<Outcome, Error> {
        if let Some(at) = write.session
            && let Admission::Answered(outcome) = self.sessions.admit(at)
        {
            return Ok(outcome);
        }
        let revision = self.next_revision(clock);
        let Decision { outcome, changes, lease } = self.decide(&write.op, revision, pending)?;
        if matches!(outcome, Outcome::Refused(_)) {
            // Not remembered: the same number may be tried again once it is mended.
            return Ok(outcome);
        }
        if !self.remember(write.session, &outcome) {
            return Ok(Outcome::Refused(Refusal::SessionFull));
        }
        if !changes.is_empty() {
            self.last_revision = revision;
        }
        for change in changes {
            self.set(&change.key, change.current.as_ref(), change.new.as_ref(), revision, pending);
        }
        if let Some(change) = lease {
            self.change_lease(change, pending)?;
        }
        Ok(outcome)
    }

    /// The revision of a write that is made now.
    fn next_revision(&self, clock: Revision) -> Revision {
        clock.max(self.last_revision.next())
    }

    /// Remembers the outcome of a write in a session; false: there is no room, so the write must not happen.
    fn remember(&mut self, at: Option<SessionPosition>, outcome: &Outcome) -> bool {
        at.is_none_or(|at| self.sessions.remember(at, outcome))
    }
}
