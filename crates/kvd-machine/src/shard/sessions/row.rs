//! A session's rows. Persisted, keep stable.

use std::ops::RangeInclusive;

use bytes::Bytes;
use kvd_types::{Outcome, Record, Revision, SequenceNumber};
use prost::{Message, Oneof};

use crate::{Error, shard::record::RecordRow};

/// The numbers whose outcomes share a row: 64, aligned.
const CHUNK_BITS: u32 = 6;

/// The chunk that a number's outcome is in.
pub(super) const fn chunk_of(sequence: SequenceNumber) -> u64 {
    sequence.0 >> CHUNK_BITS
}

/// The numbers of a chunk.
pub(super) const fn chunk_numbers(chunk: u64) -> RangeInclusive<SequenceNumber> {
    let first = chunk << CHUNK_BITS;
    SequenceNumber(first)..=SequenceNumber(first | ((1 << CHUNK_BITS) - 1))
}

/// A session's own row.
#[derive(Clone, PartialEq, Message)]
pub(super) struct SessionRow {
    /// The sessions' time of its last use, in seconds.
    #[prost(uint64, tag = "1")]
    pub(super) used_s: u64,
    /// The lowest number whose outcome may still be asked for.
    #[prost(uint64, tag = "2")]
    pub(super) floor: u64,
}

/// A chunk of a session's outcomes.
#[derive(Clone, PartialEq, Message)]
pub(super) struct OutcomesRow {
    /// By number, ascending.
    #[prost(message, repeated, tag = "1")]
    pub(super) outcomes: Vec<RememberedRow>,
}

/// The outcome of one number.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RememberedRow {
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(oneof = "OutcomeRow", tags = "2, 3, 4, 5")]
    outcome: Option<OutcomeRow>,
}

/// What came of a write. Only what is remembered: refusals aren't.
#[derive(Clone, PartialEq, Oneof)]
enum OutcomeRow {
    #[prost(message, tag = "2")]
    Put(PutRow),
    #[prost(message, tag = "3")]
    Deleted(DeletedRow),
    #[prost(message, tag = "4")]
    NotFound(NotFoundRow),
    #[prost(message, tag = "5")]
    ConditionFailed(ConditionFailedRow),
}

#[derive(Clone, PartialEq, Message)]
struct PutRow {
    #[prost(fixed64, tag = "1")]
    revision: u64,
    #[prost(fixed64, tag = "2")]
    create_revision: u64,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(message, optional, tag = "4")]
    previous: Option<RecordRow>,
}

#[derive(Clone, PartialEq, Message)]
struct DeletedRow {
    #[prost(fixed64, tag = "1")]
    revision: u64,
    #[prost(message, optional, tag = "2")]
    previous: Option<RecordRow>,
}

#[derive(Clone, PartialEq, Message)]
struct NotFoundRow {}

#[derive(Clone, PartialEq, Message)]
struct ConditionFailedRow {
    #[prost(message, optional, tag = "1")]
    current: Option<RecordRow>,
}

impl OutcomesRow {
    /// The row that holds some outcomes.
    pub(super) fn new<'a>(outcomes: impl Iterator<Item = (&'a SequenceNumber, &'a Outcome)>) -> Self {
        let outcomes = outcomes
            .map(|(sequence, outcome)| RememberedRow {
                sequence: sequence.get(),
                outcome: OutcomeRow::new(outcome),
            })
            .collect();
        Self { outcomes }
    }
}

impl OutcomeRow {
    fn new(outcome: &Outcome) -> Option<Self> {
        let row = |record: &Option<Record>| record.as_ref().map(RecordRow::from);
        match outcome {
            Outcome::Put { revision, create_revision, version, previous } => Some(Self::Put(PutRow {
                revision: revision.get(),
                create_revision: create_revision.get(),
                version: *version,
                previous: row(previous),
            })),
            Outcome::Deleted { revision, previous } => {
                Some(Self::Deleted(DeletedRow { revision: revision.get(), previous: row(previous) }))
            }
            Outcome::NotFound => Some(Self::NotFound(NotFoundRow {})),
            Outcome::ConditionFailed { current } => {
                Some(Self::ConditionFailed(ConditionFailedRow { current: row(current) }))
            }
            // No write comes to these, and only writes are remembered.
            Outcome::SessionOpened(_) | Outcome::SessionClosed | Outcome::Refused(_) | Outcome::Meta(_) => {
                None
            }
        }
    }
}

impl RememberedRow {
    /// The number and its outcome, or what is wrong with them.
    pub(super) fn into_outcome(self) -> Result<(SequenceNumber, Outcome), &'static str> {
        let record = |row: Option<RecordRow>| row.map(RecordRow::into_record).transpose();
        let outcome = match self
            .outcome
            .ok_or("an outcome is missing, or of a kind that this kvd doesn't know")?
        {
            OutcomeRow::Put(row) => Outcome::Put {
                revision: Revision(row.revision),
                create_revision: Revision(row.create_revision),
                version: row.version,
                previous: record(row.previous)?,
            },
            OutcomeRow::Deleted(row) => {
                Outcome::Deleted { revision: Revision(row.revision), previous: record(row.previous)? }
            }
            OutcomeRow::NotFound(NotFoundRow {}) => Outcome::NotFound,
            OutcomeRow::ConditionFailed(row) => Outcome::ConditionFailed { current: record(row.current)? },
        };
        Ok((SequenceNumber(self.sequence), outcome))
    }
}

/// A row's value.
pub(super) fn encode(row: &impl Message) -> Bytes {
    row.encode_to_vec().into()
}

/// What a row's value holds.
pub(super) fn decode<R: Message + Default>(row: &[u8], value: Bytes) -> Result<R, Error> {
    R::decode(value).map_err(|error| Error::corrupt(row, error))
}
