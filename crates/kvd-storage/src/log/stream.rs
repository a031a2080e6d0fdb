//! One replica's stream as of some place in the log.
//!
//! The same few rules say what an append, a truncation or a purge does to `purged` and `last`, wherever they are
//! applied: to what callers see at once ([`Marks`] in a replica's memory), to what the writer tells at the head of the
//! next segment ([`Stream`]), and to what recovery replays. If they differed, a restart would change history.

use std::collections::VecDeque;

use bytes::Bytes;
use kvd_types::{GroupId, LogIndex};

use super::{
    EntryId,
    format::{Kind, RecordHeader, StatePayload},
};

/// What a replica's log holds, without the entries themselves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    /// The last entry that was dropped from the front.
    pub(super) purged: Option<EntryId>,
    /// The last entry; the same as `purged` if there is none after it.
    pub(super) last: Option<EntryId>,
}

impl Marks {
    /// The index that the next entry must have; `None` if any will do.
    pub(super) fn next_index(&self) -> Option<LogIndex> {
        self.last.map(|last| LogIndex(last.index.get().saturating_add(1)))
    }

    /// An entry was added.
    pub(super) fn append(&mut self, id: EntryId) {
        self.last = Some(id);
    }

    /// All after that entry were dropped. What is purged stays purged; an entry beyond the end changes nothing.
    pub(super) fn truncate(&mut self, last_kept: Option<EntryId>) {
        let kept = last_kept.max_by_index(self.purged);
        if index_of(kept) < index_of(self.last) {
            self.last = kept;
        }
    }

    /// All up to that entry were dropped. It may lie beyond the end: then the log goes on after it.
    pub(super) fn purge(&mut self, upto: EntryId) {
        if index_of(self.purged) < Some(upto.index) {
            self.purged = Some(upto);
            if index_of(self.last) <= Some(upto.index) {
                self.last = Some(upto);
            }
        }
    }
}

fn index_of(id: Option<EntryId>) -> Option<LogIndex> {
    id.map(|id| id.index)
}

trait MaxByIndex {
    fn max_by_index(self, other: Self) -> Self;
}

impl MaxByIndex for Option<EntryId> {
    fn max_by_index(self, other: Self) -> Self {
        if index_of(self) > index_of(other) { self } else { other }
    }
}

/// The indices of a stream's live entries in one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    segment: u64,
    first: LogIndex,
    last: LogIndex,
}

/// A replica's stream as of some place in the log.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub(super) group: GroupId,
    pub(super) marks: Marks,
    /// Number of the latest record; zero before the first.
    pub(super) number: u64,
    /// What was lost of it, if anything was. Such a stream is only kept to be removed.
    pub(super) damaged: Option<String>,
    /// Where its live entries are, oldest first.
    spans: VecDeque<Span>,
}

impl Stream {
    pub(super) fn new(group: GroupId) -> Self {
        Self { group, ..Self::default() }
    }

    /// The stream that a segment's head tells of.
    pub(super) fn from_state(group: GroupId, number: u64, state: StatePayload) -> Self {
        Self {
            group,
            marks: Marks {
                vote: state.vote,
                committed: state.committed,
                purged: state.purged,
                last: state.last,
            },
            number,
            damaged: state.damaged.map(|text| String::from_utf8_lossy(&text).into_owned()),
            spans: VecDeque::new(),
        }
    }

    /// What the head of a segment tells of it.
    pub(super) fn to_state(&self) -> StatePayload {
        StatePayload {
            vote: self.marks.vote.clone(),
            committed: self.marks.committed.clone(),
            purged: self.marks.purged,
            last: self.marks.last,
            damaged: self.damaged.clone().map(Bytes::from),
        }
    }

    /// Applies a record of this stream that stands in that segment. The caller has checked its number.
    pub(super) fn apply(&mut self, header: &RecordHeader, payload: &Bytes) {
        self.number = header.number;
        match (header.kind, header.id) {
            (Kind::Entry, Some(id)) => {
                self.marks.append(id);
                match self.spans.back_mut() {
                    Some(span) if span.segment == header.segment => span.last = id.index,
                    _ => self.spans.push_back(Span {
                        segment: header.segment,
                        first: id.index,
                        last: id.index,
                    }),
                }
            }
            (Kind::Vote, _) => self.marks.vote = Some(payload.clone()),
            (Kind::Committed, _) => self.marks.committed = Some(payload.clone()),
            (Kind::Truncate, last_kept) => {
                self.marks.truncate(last_kept);
                self.drop_spans_after_last();
            }
            (Kind::Purge, Some(upto)) => {
                self.marks.purge(upto);
                while self.spans.front().is_some_and(|span| span.last <= upto.index) {
                    self.spans.pop_front();
                }
            }
            // A state repeats what is known, start and close are of no stream, a removal is the caller's.
            _ => {}
        }
    }

    /// Forgets where the entries are: of a damaged stream none is needed any more.
    pub(super) fn damage(&mut self, text: String) {
        self.spans.clear();
        self.damaged.get_or_insert(text);
    }

    /// The oldest segment with a live entry of this stream.
    pub(super) fn oldest_segment(&self) -> Option<u64> {
        self.spans.front().map(|span| span.segment)
    }

    fn drop_spans_after_last(&mut self) {
        let last = index_of(self.marks.last);
        while self.spans.back().is_some_and(|span| Some(span.first) > last) {
            self.spans.pop_back();
        }
        if let (Some(span), Some(last)) = (self.spans.back_mut(), last) {
            span.last = span.last.min(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use kvd_types::{ReplicaId, Term};

    use super::*;

    fn id(index: u64) -> EntryId {
        EntryId { index: LogIndex(index), term: Term(1) }
    }

    fn apply(stream: &mut Stream, kind: Kind, segment: u64, id: Option<EntryId>) {
        let header = RecordHeader {
            kind,
            ends_write: true,
            payload_bytes: 0,
            payload_crc: 0,
            segment,
            write: 1,
            unsynced: 0,
            group: GroupId(1),
            replica: ReplicaId(1),
            number: stream.number + 1,
            id,
        };
        stream.apply(&header, &Bytes::new());
    }

    /// Entries 0 to 9 in segment 1, 10 to 19 in segment 2.
    fn stream() -> Stream {
        let mut stream = Stream::new(GroupId(1));
        for index in 0..20 {
            apply(&mut stream, Kind::Entry, 1 + index / 10, Some(id(index)));
        }
        stream
    }

    #[test]
    fn a_segment_is_needed_until_its_live_entries_are_purged() {
        let mut stream = stream();
        assert_eq!(stream.oldest_segment(), Some(1));
        apply(&mut stream, Kind::Purge, 2, Some(id(8)));
        assert_eq!(stream.oldest_segment(), Some(1));
        apply(&mut stream, Kind::Purge, 2, Some(id(9)));
        assert_eq!(stream.oldest_segment(), Some(2));
        apply(&mut stream, Kind::Purge, 2, Some(id(99)));
        assert_eq!((stream.oldest_segment(), stream.marks.next_index()), (None, Some(LogIndex(100))));
    }

    #[test]
    fn truncated_entries_need_no_segment() {
        let mut stream = stream();
        apply(&mut stream, Kind::Truncate, 2, Some(id(3)));
        apply(&mut stream, Kind::Entry, 2, Some(id(4)));
        apply(&mut stream, Kind::Purge, 2, Some(id(3)));
        assert_eq!(stream.oldest_segment(), Some(2));
        apply(&mut stream, Kind::Truncate, 2, None);
        assert_eq!(
            (stream.oldest_segment(), stream.marks.last),
            (None, Some(id(3))),
            "what is purged stays so"
        );
        apply(&mut stream, Kind::Truncate, 2, Some(id(50)));
        assert_eq!(stream.marks.last, Some(id(3)));
    }
}
