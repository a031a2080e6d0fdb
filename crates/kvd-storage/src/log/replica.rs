//! One replica's log, as its Raft group uses it.

use std::{fmt, io, ops::Range, sync::Arc};

use bytes::Bytes;
use kvd_types::{GroupId, LogIndex, ReplicaId};

use super::{
    Damage, Done, Entry, EntryId, Error, STATE_BYTES_MAX, Shared,
    format::{self, Kind, RECORD_HEADER_BYTES, RecordHeader},
    memory::{Replica, Slot},
    pool::segment_path,
    queue::{Item, Operation},
};

/// What a replica's log holds, without the entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReplicaState {
    /// The latest vote that was saved.
    pub vote: Option<Bytes>,
    /// The latest committed position that was saved; after a restart perhaps an earlier one.
    pub committed: Option<Bytes>,
    /// The last entry that was purged.
    pub purged: Option<EntryId>,
    /// The last entry; the same as `purged` if there is none after it.
    pub last: Option<EntryId>,
}

/// One replica's log. A cheap handle: clones are the same log.
///
/// Changes take effect at once for whoever reads, and reach the disk in the order of the calls. Calls that change
/// something wait only if the log's queue is full ([`super::Options::queue_bytes_max`]), which means that the disk is
/// stuck; a caller on an async runtime keeps its own windows below that bound.
#[derive(Clone)]
pub struct ReplicaLog {
    shared: Arc<Shared>,
    replica: Arc<Replica>,
}

impl fmt::Debug for ReplicaLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplicaLog")
            .field("group", &self.replica.group)
            .field("replica", &self.replica.id)
            .finish_non_exhaustive()
    }
}

impl ReplicaLog {
    pub(super) fn new(shared: Arc<Shared>, replica: Arc<Replica>) -> Self {
        Self { shared, replica }
    }

    /// The group that it is a replica of.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.replica.group
    }

    /// The replica.
    #[must_use]
    pub fn replica(&self) -> ReplicaId {
        self.replica.id
    }

    /// What the log holds, without the entries.
    #[must_use]
    pub fn state(&self) -> ReplicaState {
        let marks = self.replica.memory.lock().marks.clone();
        ReplicaState { vote: marks.vote, committed: marks.committed, purged: marks.purged, last: marks.last }
    }

    /// Index of the first entry; none if there is no entry.
    #[must_use]
    pub fn first(&self) -> Option<LogIndex> {
        self.replica.memory.lock().first_index()
    }

    /// How many entries there are.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.replica.memory.lock().entries()
    }

    /// The entry's id, if there is one with that index, or if it is the last one that was purged.
    #[must_use]
    pub fn id(&self, index: LogIndex) -> Option<EntryId> {
        let memory = self.replica.memory.lock();
        let purged = memory.marks.purged.filter(|purged| purged.index == index);
        memory.term(index).map(|term| EntryId { index, term }).or(purged)
    }

    /// Bytes of this replica's entries in the log: what it has written since it was last purged. Grows towards the
    /// next checkpoint.
    #[must_use]
    pub fn retained_bytes(&self) -> u64 {
        self.replica.memory.lock().retained_bytes()
    }

    /// Bytes of the whole log that can't be used again until this replica purges: all segments from its oldest entry
    /// on, but for the one that is being written, which no purge frees. Even a replica with few entries can hold much of
    /// the log, so a checkpoint and a purge are due when this grows large, too.
    #[must_use]
    pub fn pinned_bytes(&self) -> u64 {
        let oldest = self.replica.memory.lock().oldest_location();
        oldest.map_or(0, |oldest| {
            self.shared.bytes_from(oldest.segment).saturating_sub(self.shared.segment_bytes)
        })
    }

    /// Adds entries. They can be read when this returns; `done` is called once they are durable, or with the error
    /// if they never will be. Callbacks of one replica come in the order of the calls. They run on the writer's thread
    /// (or inside this call) and must be quick.
    ///
    /// # Errors
    /// Told to `done`: `InvalidInput` if the entries don't follow on the last one, or one is too long or has an index that
    /// no log gets to (nothing was added then, and the log goes on); everything else is final, for all replicas.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        self.submit(Operation::Append(entries), Some(done));
    }

    /// Saves the vote. `done` is called once it is durable: answer nobody before.
    ///
    /// # Errors
    /// Told to `done`: `InvalidInput` if it is longer than [`STATE_BYTES_MAX`]; everything else is final.
    pub fn save_vote(&self, vote: Bytes, done: Done) {
        fail::fail_point!(crate::failpoints::VOTE_BEFORE);
        self.submit(Operation::Vote(vote), Some(done));
        fail::fail_point!(crate::failpoints::VOTE_AFTER);
    }

    /// Notes how far the group has committed. Becomes durable with the next append or vote.
    ///
    /// # Errors
    /// `InvalidInput` if it is longer than [`STATE_BYTES_MAX`]; everything else is final.
    pub fn save_committed(&self, committed: Bytes) -> io::Result<()> {
        self.submit_unsynced(Operation::Committed(committed))
    }

    /// Drops all entries after that one; all, if it is none. Becomes durable with the next append or vote. What is
    /// purged stays so, and an index beyond the end changes nothing.
    ///
    /// # Errors
    /// `InvalidInput` for an index that no log gets to: nothing was dropped then. Else final: the log is dead or closed, or
    /// the replica removed.
    pub fn truncate_after(&self, last_kept: Option<EntryId>) -> io::Result<()> {
        self.submit_unsynced(Operation::Truncate(last_kept))
    }

    /// Drops all entries up to that one. It may lie beyond the end: the next entry is the one after it. Becomes
    /// durable with the next append or vote.
    ///
    /// # Errors
    /// `InvalidInput` for an index that no log gets to: nothing was dropped then. Else final: the log is dead or closed, or
    /// the replica removed.
    pub fn purge(&self, upto: EntryId) -> io::Result<()> {
        fail::fail_point!(crate::failpoints::PURGE_BEFORE);
        let purged = self.submit_unsynced(Operation::Purge(upto));
        fail::fail_point!(crate::failpoints::PURGE_AFTER);
        purged
    }

    /// As [`ReplicaLog::purge`], but refuses to drop an entry that nothing else covers: what is purged must have been
    /// applied and be in a durable checkpoint, or a restart could not rebuild the state. `covered` is how far both reach.
    /// An entry beyond the end is no entry that is dropped: the log goes on behind a state that came from elsewhere.
    ///
    /// # Errors
    /// `InvalidInput` if entries after `covered` would be dropped: nothing was. Else as [`ReplicaLog::purge`].
    pub fn purge_covered(&self, upto: EntryId, covered: Option<LogIndex>) -> io::Result<()> {
        let drops = self.first().is_some_and(|first| first <= upto.index) && self.id(upto.index).is_some();
        if drops && covered < Some(upto.index) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "replica {}: entries up to {} are not to be purged, for checkpoint and applied state reach only to \
                     {covered:?}; this is a bug in kvd",
                    self.replica.id, upto.index
                ),
            ));
        }
        self.purge(upto)
    }

    /// The entries with those indices, as far as they are there, of at most so many bytes of payload but at least one.
    /// Empty only if there is no entry with the first index. Reads the disk if they are no longer cached: blocks.
    ///
    /// # Errors
    /// What the disk says, or [`Error::Corrupt`] if an entry fails a check. Neither means that the log ends there.
    pub fn read(&self, range: Range<LogIndex>, max_bytes: usize) -> Result<Vec<Entry>, Error> {
        let wanted = self.replica.memory.lock().wanted(range.start, range.end, max_bytes);
        let mut entries = Vec::with_capacity(wanted.len());
        for wanted in wanted {
            let payload = match wanted.payload {
                Some(payload) => payload,
                None => match self.read_payload(wanted.index, &wanted.slot) {
                    Ok(payload) => payload,
                    // It was dropped meanwhile, and its segment perhaps used again.
                    Err(_) if !self.replica.memory.lock().holds(wanted.index, wanted.slot.number) => break,
                    Err(error) => return Err(error),
                },
            };
            entries.push(Entry { index: wanted.index, term: wanted.slot.term, payload });
        }
        Ok(entries)
    }

    fn read_payload(&self, index: LogIndex, slot: &Slot) -> Result<Bytes, Error> {
        let (segment, offset) = slot.location().map_or((0, 0), |at| (at.segment, at.offset()));
        let path = segment_path(&self.shared.dir, segment);
        let corrupt = |text: &str| Error::Corrupt {
            group: self.replica.group,
            replica: self.replica.id,
            damage: Damage { file: path.clone(), offset, text: format!("entry {index}: {text}") },
        };
        let file = self.shared.files.get(segment).ok_or_else(|| corrupt("its segment is not in use"))?;
        let payload_bytes = usize::try_from(slot.payload_bytes).map_err(|_| corrupt("too long"))?;
        let mut record = vec![0; RECORD_HEADER_BYTES + payload_bytes];
        file.read_exact_at(&mut record, offset)
            .map_err(Error::io("cannot read an entry of the log", &path))?;
        let header = RecordHeader::decode(&record, segment)
            .ok_or_else(|| corrupt("the record's header fails its check"))?;
        let id = EntryId { index, term: slot.term };
        if header.kind != Kind::Entry
            || header.replica != self.replica.id
            || header.number != slot.number
            || header.id != Some(id)
        {
            return Err(corrupt("another record stands in its place"));
        }
        let payload = Bytes::from(record).slice(RECORD_HEADER_BYTES..);
        if !header.matches(&payload) {
            return Err(corrupt("its payload fails its checksum"));
        }
        Ok(payload)
    }

    fn submit_unsynced(&self, operation: Operation) -> io::Result<()> {
        match self.try_submit(operation, None) {
            Ok(()) => Ok(()),
            Err((error, _)) => Err(error),
        }
    }

    pub(super) fn submit(&self, operation: Operation, done: Option<Done>) {
        if let Err((error, Some(done))) = self.try_submit(operation, done) {
            done(Err(error));
        }
    }

    fn try_submit(&self, operation: Operation, done: Option<Done>) -> Result<(), (io::Error, Option<Done>)> {
        let bytes = queue_bytes(&operation);
        if let Err(error) = self.check_sizes(&operation) {
            return Err((error, done));
        }
        // Before any lock: whoever waits here must not keep others from reading or the writer from answering.
        if let Err(failure) = self.shared.queue.reserve(bytes, self.shared.is_threaded()) {
            return Err((failure.error(), done));
        }
        let mut submitted = self.replica.submitted.lock();
        let number = submitted.saturating_add(1);
        if let Err(error) = self.change_memory(&operation, number) {
            self.shared.queue.release(bytes);
            return Err((error, done));
        }
        *submitted = submitted.saturating_add(operation.records());
        let item = Item { replica: Arc::clone(&self.replica), operation, number, bytes, done };
        let pushed = self.shared.queue.push(item);
        drop(submitted);
        match pushed {
            Ok(()) => {
                self.shared.has_work();
                Ok(())
            }
            Err((item, failure)) => Err((failure.error(), item.done)),
        }
    }

    fn check_sizes(&self, operation: &Operation) -> io::Result<()> {
        let too_long = |what: &str, bytes: usize, limit: usize| {
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("replica {}: {what} of {bytes} bytes; the limit is {limit}", self.replica.id),
            ))
        };
        match operation {
            Operation::Vote(bytes) | Operation::Committed(bytes) if bytes.len() > STATE_BYTES_MAX => {
                too_long("a vote or committed position", bytes.len(), STATE_BYTES_MAX)
            }
            Operation::Append(entries) => {
                let limit = self.shared.entry_bytes_max();
                match entries.iter().map(|entry| entry.payload.len()).max() {
                    Some(longest) if longest > limit => too_long("an entry", longest, limit),
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn check_index(&self, id: EntryId) -> io::Result<()> {
        if format::id_is_in_range(id) {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("replica {}: no log gets to index {}", self.replica.id, id.index),
        ))
    }

    /// What readers see from now on. Refuses, and changes nothing, if the operation makes no sense.
    fn change_memory(&self, operation: &Operation, number: u64) -> io::Result<()> {
        let mut memory = self.replica.memory.lock();
        if memory.removed {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("replica {} was removed from this node's log", self.replica.id),
            ));
        }
        match operation {
            Operation::Append(entries) => {
                let mut next = memory.marks.next_index();
                for entry in entries {
                    if next.is_some_and(|next| next != entry.index) {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidInput,
                            format!(
                                "replica {}: entry {} doesn't follow on the log, which ends with {:?}",
                                self.replica.id, entry.index, memory.marks.last
                            ),
                        ));
                    }
                    self.check_index(EntryId { index: entry.index, term: entry.term })?;
                    next = Some(LogIndex(entry.index.get().saturating_add(1)));
                }
                for (number, entry) in (number..).zip(entries) {
                    // Its length was checked against a limit far below.
                    let payload_bytes = u32::try_from(entry.payload.len()).unwrap_or(u32::MAX);
                    memory.append(entry, number, payload_bytes);
                }
            }
            Operation::Vote(vote) => memory.marks.vote = Some(vote.clone()),
            Operation::Committed(committed) => memory.marks.committed = Some(committed.clone()),
            Operation::Truncate(last_kept) => {
                last_kept.map_or(Ok(()), |kept| self.check_index(kept))?;
                memory.truncate(*last_kept);
            }
            Operation::Purge(upto) => {
                self.check_index(*upto)?;
                memory.purge(*upto);
            }
            Operation::Remove => memory.removed = true,
        }
        Ok(())
    }
}

fn queue_bytes(operation: &Operation) -> usize {
    let payload: usize = match operation {
        Operation::Append(entries) => entries.iter().map(|entry| entry.payload.len()).sum(),
        Operation::Vote(bytes) | Operation::Committed(bytes) => bytes.len(),
        Operation::Truncate(_) | Operation::Purge(_) | Operation::Remove => 0,
    };
    let records = usize::try_from(operation.records()).unwrap_or(usize::MAX).max(1);
    payload.saturating_add(records.saturating_mul(RECORD_HEADER_BYTES))
}
