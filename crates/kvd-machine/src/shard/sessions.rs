//! Sessions: what makes a retry harmless.
//!
//! # The problem
//! A client whose write timed out doesn't know whether it was applied. If it writes again, it may write twice; if it
//! doesn't, perhaps not at all. So it numbers its writes within a session, and the shard remembers the outcome of each
//! number until the client has said that it knows it.
//!
//! # The approach
//! A session is minted by the shard, with an id that was never used and never will be: the larger of the entry's clock
//! and the last id + 1, so that even a shard that was restored from a backup doesn't mint the ids of its lost future
//! again. Each write carries its number and the lowest number that is still open; the outcomes below that, the *floor*,
//! are forgotten. Then for a write in a session:
//!
//! | the session, the number | answer |
//! |---|---|
//! | unknown session | refused: an earlier try may or may not have been applied |
//! | below the floor | refused: the client has acknowledged its outcome |
//! | remembered | the first outcome again |
//! | new, no room for its outcome | refused, and *not* remembered: the same number may be tried again |
//! | new | the write is decided, and its outcome remembered, whatever it is |
//!
//! # What is bounded
//! Sessions by [`SESSIONS_MAX`]; outcomes of a session by [`SESSION_OUTCOMES_MAX`]; the values in them (previous
//! values that the client asked for) by [`SESSION_OUTCOME_BYTES_MAX`], so that sixteen of the largest fit; all outcomes
//! of the shard together by [`SHARD_OUTCOME_BYTES_MAX`]. The room is checked before the write is made.
//!
//! # Time
//! A session without a write for [`SESSION_IDLE_MAX`] is forgotten, at most [`SESSIONS_EXPIRED_PER_ENTRY_MAX`] of them
//! per entry, those unused for longest first. Its time is not the leader's clock but a sum of that clock's forward
//! steps from entry to entry, each counted as [`SESSION_CLOCK_STEP_MAX`] at most. A clock that jumps ahead, back, or
//! to and fro between leaders so costs a session in use nothing, and can't keep one for ever either. A shard that is
//! idle for hours counts only one such step: sessions then live longer than promised, which harms nobody.
//!
//! # Rows
//! Sessions live in memory; those that have changed are written once per generation. A session has a row of its own,
//! and one for each 64 numbers with remembered outcomes, so that a client with thousands of writes in flight doesn't
//! have all of their outcomes written each time. A row of outcomes is at most as long as the values of a session.
//!
//! [`SESSIONS_EXPIRED_PER_ENTRY_MAX`]: kvd_types::limits::SESSIONS_EXPIRED_PER_ENTRY_MAX

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use bytes::Bytes;
use kvd_storage::table::Table;
use kvd_types::{
    Outcome, Revision, SequenceNumber, SessionId, SessionPosition,
    limits::{
        OUTCOME_BYTES, SESSION_CLOCK_STEP_MAX, SESSION_IDLE_MAX, SESSION_OUTCOME_BYTES_MAX,
        SESSION_OUTCOMES_MAX, SESSIONS_EXPIRED_PER_ENTRY_MAX, SESSIONS_MAX, SHARD_OUTCOME_BYTES_MAX,
    },
    outcome::Refusal,
};

use self::row::{OutcomesRow, SessionRow, chunk_numbers, chunk_of};
use crate::{
    Error,
    books::{RowChanges, ShardRow},
    rows,
};

mod row;

/// Rows read at once while sessions are loaded, in rows and in bytes.
const LOAD_ROWS: usize = 1024;
const LOAD_BYTES: usize = 1 << 20;
/// What a result of a transaction counts for beside its value.
const TXN_RESULT_BYTES: usize = 96;

/// The sessions of a shard.
#[derive(Debug)]
pub(super) struct Sessions {
    by_id: BTreeMap<SessionId, Session>,
    /// By time of last use, in seconds, to find those to expire.
    by_use: BTreeSet<(u64, SessionId)>,
    last_minted: Revision,
    time_ms: u64,
    clock_seen_ms: u64,
    /// Of the whole shard: [`OUTCOME_BYTES`] and the values' bytes of all outcomes.
    remembered_bytes: usize,
    /// Sessions with something to write to their rows.
    dirty: BTreeSet<SessionId>,
    /// Rows to be removed. Ids and numbers never return, so none of them is ever written again.
    gone: BTreeSet<Bytes>,
}

/// A session.
#[derive(Debug, Default)]
struct Session {
    /// The time of its last use, in seconds.
    used_s: u64,
    /// The lowest number whose outcome the client may still ask for.
    floor: SequenceNumber,
    outcomes: BTreeMap<SequenceNumber, Outcome>,
    /// Bytes of the values in the outcomes.
    value_bytes: usize,
    /// The session's own row must be written.
    dirty: bool,
    /// Chunks of outcomes that must be written.
    dirty_chunks: BTreeSet<u64>,
    /// The session's own row is in the table.
    stored: bool,
    /// Chunks of outcomes that are in the table.
    stored_chunks: BTreeSet<u64>,
}

/// Whether a write in a session goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// It is new: decide it, then [`Sessions::remember`].
    New,
    /// This is its outcome; nothing must be applied.
    Answered(Outcome),
}

impl Sessions {
    /// Reads the sessions of a table.
    pub(super) fn load(counters: &ShardRow, table: &Table) -> Result<Self, Error> {
        let mut sessions = Self {
            by_id: BTreeMap::new(),
            by_use: BTreeSet::new(),
            last_minted: Revision(counters.last_session),
            time_ms: counters.session_time_ms,
            clock_seen_ms: counters.clock_seen_ms,
            remembered_bytes: 0,
            dirty: BTreeSet::new(),
            gone: BTreeSet::new(),
        };
        let end = [rows::SESSIONS + 1];
        let mut start = Bound::Included(Bytes::from_static(&[rows::SESSIONS]));
        loop {
            let page = table.scan(
                start.as_ref().map(AsRef::as_ref),
                Bound::Excluded(&end),
                LOAD_ROWS,
                LOAD_BYTES,
            )?;
            let Some((last, _)) = page.last() else { return Ok(sessions) };
            start = Bound::Excluded(last.clone());
            for (row, value) in page {
                sessions.load_row(&row, value)?;
            }
        }
    }

    fn load_row(&mut self, row: &[u8], value: Bytes) -> Result<(), Error> {
        let (id, chunk) = rows::parse_session(row)?;
        if id.get() > self.last_minted.get() {
            // The next session could get its id, and then its outcomes for its own.
            return Err(Error::corrupt(row, "a session that was never minted"));
        }
        let Some(chunk) = chunk else {
            let SessionRow { used_s, floor } = row::decode(row, value)?;
            let floor = SequenceNumber(floor);
            self.by_id.insert(id, Session { used_s, floor, stored: true, ..Session::default() });
            self.by_use.insert((used_s, id));
            return Ok(());
        };
        let Some(session) = self.by_id.get_mut(&id) else {
            return Err(Error::corrupt(row, "outcomes of a session that has no row of its own"));
        };
        session.stored_chunks.insert(chunk);
        let OutcomesRow { outcomes } = row::decode(row, value)?;
        for remembered in outcomes {
            let (sequence, outcome) =
                remembered.into_outcome().map_err(|detail| Error::corrupt(row, detail))?;
            if chunk_of(sequence) != chunk || sequence < session.floor {
                return Err(Error::corrupt(row, format!("it holds the outcome of number {sequence}")));
            }
            let value_bytes = value_bytes(&outcome);
            if session.outcomes.insert(sequence, outcome).is_some() {
                return Err(Error::corrupt(row, format!("it holds two outcomes of number {sequence}")));
            }
            session.value_bytes += value_bytes;
            self.remembered_bytes += OUTCOME_BYTES + value_bytes;
        }
        Ok(())
    }

    /// How many sessions there are.
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// The last session id minted.
    pub(super) const fn last_minted(&self) -> Revision {
        self.last_minted
    }

    /// The sessions' time, in milliseconds since it began to be counted.
    pub(super) const fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The clock of the last entry, in milliseconds since the Unix epoch.
    pub(super) const fn clock_seen_ms(&self) -> u64 {
        self.clock_seen_ms
    }

    /// Lets time pass until an entry's clock, and forgets sessions that have been idle for too long.
    pub(super) fn pass_time(&mut self, clock: Revision) {
        let clock_ms = clock.unix_ms();
        let step_ms = clock_ms.saturating_sub(self.clock_seen_ms).min(millis(SESSION_CLOCK_STEP_MAX));
        self.clock_seen_ms = clock_ms;
        self.time_ms = self.time_ms.saturating_add(step_ms);
        let idle_max_s = SESSION_IDLE_MAX.as_secs();
        for _ in 0..SESSIONS_EXPIRED_PER_ENTRY_MAX {
            match self.by_use.first() {
                Some(&(used_s, id)) if self.now_s().saturating_sub(used_s) >= idle_max_s => self.close(id),
                _ => return,
            }
        }
    }

    /// Mints a session.
    pub(super) fn open(&mut self, clock: Revision) -> Outcome {
        if self.by_id.len() >= SESSIONS_MAX {
            return Outcome::Refused(Refusal::TooManySessions);
        }
        self.last_minted = clock.max(self.last_minted.next());
        let id = SessionId(self.last_minted.get());
        let used_s = self.now_s();
        self.by_id.insert(id, Session { used_s, dirty: true, ..Session::default() });
        self.by_use.insert((used_s, id));
        self.dirty.insert(id);
        Outcome::SessionOpened(id)
    }

    /// Forgets a session, if it is known.
    pub(super) fn close(&mut self, id: SessionId) {
        let Some(session) = self.by_id.remove(&id) else { return };
        self.by_use.remove(&(session.used_s, id));
        self.dirty.remove(&id);
        self.remembered_bytes -= session.outcomes.len() * OUTCOME_BYTES + session.value_bytes;
        if session.stored {
            self.gone.insert(rows::session(id));
        }
        self.gone.extend(session.stored_chunks.iter().map(|&chunk| rows::session_chunk(id, chunk)));
    }

    /// Looks up a write: notes the use of its session, raises the session's floor, and finds out whether the write is
    /// new.
    pub(super) fn admit(&mut self, at: SessionPosition) -> Admission {
        let now_s = self.now_s();
        let Some(session) = self.by_id.get_mut(&at.session) else {
            return Admission::Answered(Outcome::Refused(Refusal::SessionUnknown));
        };
        if session.used_s != now_s {
            self.by_use.remove(&(session.used_s, at.session));
            self.by_use.insert((now_s, at.session));
            session.used_s = now_s;
            session.dirty = true;
        }
        if at.oldest_open > session.floor {
            self.remembered_bytes -= session.raise_floor(at.oldest_open);
            let floor_chunk = chunk_of(session.floor);
            while let Some(&chunk) = session.stored_chunks.first()
                && chunk < floor_chunk
            {
                session.stored_chunks.pop_first();
                self.gone.insert(rows::session_chunk(at.session, chunk));
            }
        }
        self.dirty.insert(at.session);
        if at.sequence < session.floor {
            return Admission::Answered(Outcome::Refused(Refusal::SequenceAcknowledged));
        }
        match session.outcomes.get(&at.sequence) {
            Some(outcome) => Admission::Answered(outcome.clone()),
            None => Admission::New,
        }
    }

    /// Remembers the outcome of a write that [`Self::admit`] has just called new. False: there is no room.
    pub(super) fn remember(&mut self, at: SessionPosition, outcome: &Outcome) -> bool {
        let Some(session) = self.by_id.get_mut(&at.session) else { return false };
        let value_bytes = value_bytes(outcome);
        let bytes = OUTCOME_BYTES + value_bytes;
        if session.outcomes.len() >= SESSION_OUTCOMES_MAX
            || session.value_bytes + value_bytes > SESSION_OUTCOME_BYTES_MAX
            || self.remembered_bytes + bytes > SHARD_OUTCOME_BYTES_MAX
        {
            return false;
        }
        session.outcomes.insert(at.sequence, outcome.clone());
        session.value_bytes += value_bytes;
        session.dirty_chunks.insert(chunk_of(at.sequence));
        self.remembered_bytes += bytes;
        true
    }

    /// Appends the rows that have changed since the last call.
    pub(super) fn take_changes(&mut self, changes: &mut RowChanges) {
        changes.extend(std::mem::take(&mut self.gone).into_iter().map(|row| (row, None)));
        for id in std::mem::take(&mut self.dirty) {
            if let Some(session) = self.by_id.get_mut(&id) {
                session.take_changes(id, changes);
            }
        }
    }

    const fn now_s(&self) -> u64 {
        self.time_ms / 1000
    }
}

impl Session {
    /// Forgets the outcomes below a new floor; returns the bytes that they counted for.
    fn raise_floor(&mut self, floor: SequenceNumber) -> usize {
        self.floor = floor;
        self.dirty = true;
        let mut freed_bytes = 0;
        while let Some(first) = self.outcomes.first_entry()
            && *first.key() < floor
        {
            self.dirty_chunks.insert(chunk_of(*first.key()));
            let value_bytes = value_bytes(&first.remove());
            self.value_bytes -= value_bytes;
            freed_bytes += OUTCOME_BYTES + value_bytes;
        }
        freed_bytes
    }

    fn take_changes(&mut self, id: SessionId, changes: &mut RowChanges) {
        if std::mem::take(&mut self.dirty) {
            let row = SessionRow { used_s: self.used_s, floor: self.floor.get() };
            changes.push((rows::session(id), Some(row::encode(&row))));
            self.stored = true;
        }
        for chunk in std::mem::take(&mut self.dirty_chunks) {
            let outcomes = OutcomesRow::new(self.outcomes.range(chunk_numbers(chunk)));
            if !outcomes.outcomes.is_empty() {
                changes.push((rows::session_chunk(id, chunk), Some(row::encode(&outcomes))));
                self.stored_chunks.insert(chunk);
            } else if self.stored_chunks.remove(&chunk) {
                changes.push((rows::session_chunk(id, chunk), None));
            }
        }
    }
}

/// Bytes of the values in an outcome.
fn value_bytes(outcome: &Outcome) -> usize {
    match outcome {
        Outcome::Put { previous: record, .. }
        | Outcome::Deleted { previous: record, .. }
        | Outcome::ConditionFailed { current: record } => {
            record.as_ref().map_or(0, |record| record.value.len())
        }
        // What is remembered of each result counts, too: there may be many in one outcome.
        Outcome::Txn { results, .. } => {
            results.iter().map(|result| result.value_bytes() + TXN_RESULT_BYTES).sum()
        }
        Outcome::RangeDeleted { next, .. } => next.as_ref().map_or(0, Bytes::len),
        Outcome::NotFound
        | Outcome::Lease(_)
        | Outcome::SessionOpened(_)
        | Outcome::SessionClosed
        | Outcome::Refused(_)
        | Outcome::Meta(_) => 0,
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
