//! Openraft's log storage on a replica's stream of the node's shared log.
//!
//! The shared log promises what openraft's contract asks for: entries are readable when [`ReplicaLog::append`] returns,
//! the callback fires after the sync and in submission order, and votes take the same stream. Nothing here waits for a
//! disk but a vote, which must be durable before openraft goes on.

use std::{fmt, fmt::Debug, io, ops::RangeBounds, sync::Arc};

use futures::{Stream, StreamExt as _};
use kvd_storage::log::{self, ReplicaLog};
use kvd_types::LogIndex;
use openraft::{
    OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};
use tokio::sync::oneshot;

use crate::{
    codec,
    state::ReplicaState,
    types::{Entry, LogId, TypeConfig, Vote},
};

/// Bytes of entries that one read returns, so that a follower far behind doesn't pull its whole lag into memory.
const READ_BYTES_MAX: usize = 1 << 20;

/// A replica's log, as openraft sees it.
#[derive(Clone)]
pub(crate) struct LogStore {
    log: ReplicaLog,
    /// What tells how far the log may be purged.
    state: Option<Arc<ReplicaState>>,
}

impl Debug for LogStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.log.fmt(f)
    }
}

impl LogStore {
    pub(crate) const fn new(log: ReplicaLog) -> Self {
        Self { log, state: None }
    }

    /// From now on nothing is purged that has not been applied and is not in a durable checkpoint: openraft has been seen
    /// to ask for more on a starved machine (its issue 2116).
    pub(crate) fn guarded_by(self, state: Arc<ReplicaState>) -> Self {
        Self { state: Some(state), ..self }
    }

    /// The entries in a range, as far as they are there: openraft asks for ranges that begin before the first one.
    fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let start = start.max(self.log.first().map_or(end, LogIndex::get));
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = self.log.read(LogIndex(start)..LogIndex(end), max_bytes).map_err(io::Error::other)?;
        let decode = |entry: log::Entry| {
            codec::decode_entry(codec::log_id(entry.term.get(), entry.index.get()), entry.payload)
                .map_err(io::Error::other)
        };
        entries.into_iter().map(decode).collect()
    }
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        std::ops::Bound::Included(&index) => index,
        std::ops::Bound::Excluded(&index) => index.saturating_add(1),
        std::ops::Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        std::ops::Bound::Included(&index) => index.saturating_add(1),
        std::ops::Bound::Excluded(&index) => index,
        std::ops::Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(&range);
        self.read(start, end, usize::MAX)
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        // In pieces: a replica that starts may have its whole log to apply.
        let (start, end) = bounds(&range);
        let pieces = futures::stream::unfold((self.clone(), start), move |(store, start)| async move {
            let piece = store.read(start, end, READ_BYTES_MAX);
            let next = match &piece {
                Ok(entries) => entries.last()?.log_id.index() + 1,
                Err(_) => u64::MAX,
            };
            Some((piece, (store, next)))
        });
        pieces
            .flat_map(|piece| match piece {
                Ok(entries) => futures::stream::iter(entries.into_iter().map(Ok)).left_stream(),
                Err(error) => futures::stream::iter([Err(error)]).right_stream(),
            })
            .boxed()
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        self.read(start, end, READ_BYTES_MAX)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.log.state().vote.map(codec::decode_vote).transpose().map_err(io::Error::other)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let state = self.log.state();
        let purged = state.purged.map(codec::log_id_of);
        let last = state.last.map(codec::log_id_of).or(purged);
        Ok(LogState { last_purged_log_id: purged, last_log_id: last })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let (done, durable) = oneshot::channel();
        let done = move |result| {
            if done.send(result).is_err() {
                tracing::debug!("nobody waits for a vote any more");
            }
        };
        self.log.save_vote(codec::encode_vote(vote), Box::new(done));
        durable.await.map_err(|_closed| io::Error::other("the log was closed before a vote was durable"))?
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.log.save_committed(codec::encode_log_id(committed.as_ref()))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let committed =
            self.log.state().committed.map(codec::decode_log_id).transpose().map_err(io::Error::other)?;
        Ok(committed.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().map(|entry| {
            let id = codec::entry_id(&entry.log_id);
            log::Entry { index: id.index, term: id.term, payload: codec::encode_payload(entry.payload) }
        });
        self.log.append(entries.collect(), Box::new(move |result| callback.io_completed(result)));
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        fail::fail_point!(crate::failpoints::TRUNCATE_BEFORE);
        self.log.truncate_after(last_log_id.as_ref().map(codec::entry_id))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let upto = codec::entry_id(&log_id);
        let Some(state) = &self.state else { return self.log.purge(upto) };
        self.log.purge_covered(upto, state.covered()?)?;
        state.purged(upto.index);
        Ok(())
    }
}
