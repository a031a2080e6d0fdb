//! A session's rows. Persisted, keep stable.

use std::ops::RangeInclusive;

use bytes::Bytes;
use kvd_types::{LeaseOutcome, Outcome, Record, Revision, SequenceNumber, TxnResult};
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
    #[prost(oneof = "OutcomeRow", tags = "2, 3, 4, 5, 6, 7, 8")]
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
    #[prost(message, tag = "6")]
    RangeDeleted(RangeDeletedRow),
    #[prost(message, tag = "7")]
    Txn(TxnRow),
    #[prost(message, tag = "8")]
    Lease(LeaseRow),
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

#[derive(Clone, PartialEq, Message)]
struct RangeDeletedRow {
    #[prost(fixed64, tag = "1")]
    revision: u64,
    #[prost(uint32, tag = "2")]
    deleted: u32,
    #[prost(bytes = "bytes", optional, tag = "3")]
    next: Option<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct TxnRow {
    #[prost(bool, tag = "1")]
    succeeded: bool,
    #[prost(fixed64, tag = "2")]
    revision: u64,
    #[prost(message, repeated, tag = "3")]
    results: Vec<TxnResultRow>,
}

#[derive(Clone, PartialEq, Message)]
struct TxnResultRow {
    #[prost(oneof = "TxnResultKind", tags = "1, 2, 3")]
    kind: Option<TxnResultKind>,
}

#[derive(Clone, PartialEq, Oneof)]
enum TxnResultKind {
    #[prost(message, tag = "1")]
    Got(GotRow),
    #[prost(message, tag = "2")]
    Put(PutRow),
    #[prost(message, tag = "3")]
    Deleted(TxnDeletedRow),
}

#[derive(Clone, PartialEq, Message)]
struct GotRow {
    #[prost(message, optional, tag = "1")]
    record: Option<RecordRow>,
}

#[derive(Clone, PartialEq, Message)]
struct TxnDeletedRow {
    #[prost(bool, tag = "1")]
    existed: bool,
    #[prost(message, optional, tag = "2")]
    previous: Option<RecordRow>,
}

/// What came of granting or revoking a lease.
#[derive(Clone, Copy, PartialEq, Message)]
struct LeaseRow {
    #[prost(oneof = "LeaseKind", tags = "1, 2, 3, 4")]
    kind: Option<LeaseKind>,
}

#[derive(Clone, Copy, PartialEq, Eq, Oneof)]
enum LeaseKind {
    /// Granted, for so many milliseconds.
    #[prost(uint64, tag = "1")]
    Granted(u64),
    #[prost(bool, tag = "2")]
    Exists(bool),
    #[prost(bool, tag = "3")]
    Gone(bool),
    #[prost(bool, tag = "4")]
    Revoked(bool),
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
            Outcome::RangeDeleted { revision, deleted, next } => Some(Self::RangeDeleted(RangeDeletedRow {
                revision: revision.get(),
                deleted: *deleted,
                next: next.clone(),
            })),
            Outcome::Txn { succeeded, revision, results } => Some(Self::Txn(TxnRow {
                succeeded: *succeeded,
                revision: revision.get(),
                results: results.iter().map(TxnResultRow::from).collect(),
            })),
            Outcome::Lease(outcome) => {
                let kind = match outcome {
                    LeaseOutcome::Granted { ttl_ms } => LeaseKind::Granted(*ttl_ms),
                    LeaseOutcome::Exists => LeaseKind::Exists(true),
                    LeaseOutcome::Gone => LeaseKind::Gone(true),
                    LeaseOutcome::Revoked => LeaseKind::Revoked(true),
                    LeaseOutcome::Alive { .. }
                    | LeaseOutcome::Expected
                    | LeaseOutcome::Attached
                    | LeaseOutcome::Detached { .. }
                    | LeaseOutcome::Noted => return None,
                };
                Some(Self::Lease(LeaseRow { kind: Some(kind) }))
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
            OutcomeRow::RangeDeleted(row) => Outcome::RangeDeleted {
                revision: Revision(row.revision),
                deleted: row.deleted,
                next: row.next,
            },
            OutcomeRow::Txn(row) => Outcome::Txn {
                succeeded: row.succeeded,
                revision: Revision(row.revision),
                results: row.results.into_iter().map(TxnResultRow::into_result).collect::<Result<_, _>>()?,
            },
            OutcomeRow::Lease(row) => {
                let kind = row.kind.ok_or("an outcome of a lease is of a kind that this kvd doesn't know")?;
                Outcome::Lease(match kind {
                    LeaseKind::Granted(ttl_ms) => LeaseOutcome::Granted { ttl_ms },
                    LeaseKind::Exists(_) => LeaseOutcome::Exists,
                    LeaseKind::Gone(_) => LeaseOutcome::Gone,
                    LeaseKind::Revoked(_) => LeaseOutcome::Revoked,
                })
            }
        };
        Ok((SequenceNumber(self.sequence), outcome))
    }
}

impl From<&TxnResult> for TxnResultRow {
    fn from(result: &TxnResult) -> Self {
        let row = |record: &Option<Record>| record.as_ref().map(RecordRow::from);
        let kind = match result {
            TxnResult::Got(record) => TxnResultKind::Got(GotRow { record: row(record) }),
            TxnResult::Put { create_revision, version, previous } => TxnResultKind::Put(PutRow {
                revision: 0,
                create_revision: create_revision.get(),
                version: *version,
                previous: row(previous),
            }),
            TxnResult::Deleted { existed, previous } => {
                TxnResultKind::Deleted(TxnDeletedRow { existed: *existed, previous: row(previous) })
            }
        };
        Self { kind: Some(kind) }
    }
}

impl TxnResultRow {
    fn into_result(self) -> Result<TxnResult, &'static str> {
        let record = |row: Option<RecordRow>| row.map(RecordRow::into_record).transpose();
        let kind = self.kind.ok_or("a transaction's result is of a kind that this kvd doesn't know")?;
        Ok(match kind {
            TxnResultKind::Got(row) => TxnResult::Got(record(row.record)?),
            TxnResultKind::Put(row) => TxnResult::Put {
                create_revision: Revision(row.create_revision),
                version: row.version,
                previous: record(row.previous)?,
            },
            TxnResultKind::Deleted(row) => {
                TxnResult::Deleted { existed: row.existed, previous: record(row.previous)? }
            }
        })
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
