//! Histories: what clients asked of the store, what they were told, and in which order.
//!
//! # The problem
//! Whether a store kept its promises can be judged only from outside, by what its clients saw. That takes a record that is
//! itself beyond doubt: it must never claim that one operation ended before another began unless that was so, and never
//! claim to know what came of a write when it doesn't.
//!
//! # The approach
//! An [`Operation`] is one request of one client: when it was invoked, when it completed, and its [`Completion`]. Each of
//! these [`Moment`]s carries a reading of the clock that the [`Recorder`] was given, for people, and a sequence number, for
//! checkers: the recorder hands them out under one lock, so that their order is a true order of events even where the
//! clock stands still, as a simulated one does. An invocation is recorded before the request leaves, a completion after
//! the answer is there.
//!
//! A [`RecordingClient`] does this around the client library; simulations talk to a [`Recorder`] themselves. A history is
//! kept as JSON lines, an event a line: [`History::write_to`], [`History::read_from`].
//!
//! # Invariants
//! - Sequence numbers are unique in a history, and an operation completes after it was invoked.
//! - What is certain not to have been applied is [`Completion::Fail`]; whatever can't be told is [`Completion::Unknown`],
//!   as is the end of whoever waited. An unknown write may be applied long after, or never.
//! - Every key is absent when a history begins, and nobody outside the history writes to its keys. Revisions in conditions
//!   were learned from answers in the history.
//!
//! # What it deliberately does not do
//! The number of a [`Process`] is a label: a process may have many operations under way. No order is drawn from it that is not
//! in the events. Scans, watches, transactions and leases are not in it: they have records and judges of their own.

mod client;
mod file;
mod record;
mod recorder;

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use kvd_types::{Condition, Key, Outcome, Record, Revision, ShardId};
use serde::{Deserialize, Serialize};

pub use client::RecordingClient;
pub use file::FileError;
pub use record::fits;
pub use recorder::{Invocation, Recorder};

/// A client, for people to tell apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Process(pub u32);

/// A point in a history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment {
    /// The place in the order of all events. The only thing that checkers look at.
    pub sequence: u64,
    /// What the clock said, in nanoseconds since a beginning of its own; for people.
    pub time_ns: u64,
}

/// What was asked.
///
/// An operation has one key. What spans several is recorded apart, for [`check::transactions`](crate::check::transactions)
/// and [`check::versions`](crate::check::versions).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Read the key.
    Get,
    /// Set the value.
    Put {
        /// The new value. Where it is unique to this write, checkers can tell more.
        #[serde(with = "file::byte_text")]
        value: Bytes,
        /// Must hold, or nothing changes.
        #[serde(with = "file::ConditionText", default, skip_serializing_if = "file::is_always")]
        condition: Condition,
        /// Tell the version before.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        want_previous: bool,
    },
    /// Remove the key.
    Delete {
        /// Must hold, or nothing changes.
        #[serde(with = "file::ConditionText", default, skip_serializing_if = "file::is_always")]
        condition: Condition,
        /// Tell the version before.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        want_previous: bool,
    },
}

/// A version of a key, as told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Version {
    /// The value; `None`: it was not told.
    #[serde(with = "file::optional_byte_text", default, skip_serializing_if = "Option::is_none")]
    pub value: Option<Bytes>,
    /// The revision of the write that made it.
    pub revision: Revision,
    /// The revision at which the key came into being.
    pub create_revision: Revision,
    /// How many writes the key has had since then, with this one.
    pub version: u64,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To a get: the current version; `None`: there is no such key.
    Got(Option<Version>),
    /// A put was made.
    Put {
        /// The revision of the write.
        revision: Revision,
        /// The revision at which the key came into being.
        create_revision: Revision,
        /// The key's version after the write.
        version: u64,
        /// The version that it replaced, if asked for and there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Version>,
    },
    /// A key was deleted.
    Deleted {
        /// The revision of the delete.
        revision: Revision,
        /// The version that it removed, if asked for.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        previous: Option<Version>,
    },
    /// A delete found no key. Nothing changed.
    NotFound,
    /// The condition did not hold. Nothing changed.
    ConditionFailed {
        /// The key's current version, its value only if the previous one was asked for; `None`: there is no such key.
        current: Option<Version>,
    },
}

/// What came of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Completion {
    /// It was answered.
    Ok(Answer),
    /// It certainly was not applied and never will be. Why.
    Fail(String),
    /// It may have been applied, may be applied later, or never. Why.
    Unknown(String),
}

/// One request of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Who asked.
    pub process: Process,
    /// Of which key.
    pub key: Key,
    /// What was asked.
    pub action: Action,
    /// When, at the latest, it had not been sent yet.
    pub invoked: Moment,
    /// When the client was told; `None`: it hadn't been when the history ended.
    pub completed: Option<Moment>,
    /// What it was told.
    pub completion: Completion,
}

/// Something that happened to the store, for people who read the history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// When.
    pub at: Moment,
    /// What.
    pub text: String,
}

/// What all clients did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// In the order in which they were invoked.
    pub operations: Vec<Operation>,
    /// In the order in which they were made.
    pub notes: Vec<Note>,
    /// The shards of keys, as far as known and unchanged all the while.
    pub shards: BTreeMap<Key, ShardId>,
}

impl Action {
    /// Whether it may change anything.
    #[must_use]
    pub const fn is_write(&self) -> bool {
        !matches!(self, Self::Get)
    }

    /// What must hold for it to happen.
    #[must_use]
    pub const fn condition(&self) -> Condition {
        match self {
            Self::Get => Condition::Always,
            Self::Put { condition, .. } | Self::Delete { condition, .. } => *condition,
        }
    }

    /// Whether the version before is to be told.
    #[must_use]
    pub const fn wants_previous(&self) -> bool {
        match self {
            Self::Get => false,
            Self::Put { want_previous, .. } | Self::Delete { want_previous, .. } => *want_previous,
        }
    }

    /// The value that it puts.
    #[must_use]
    pub const fn value(&self) -> Option<&Bytes> {
        match self {
            Self::Put { value, .. } => Some(value),
            Self::Get | Self::Delete { .. } => None,
        }
    }
}

impl From<&Record> for Version {
    fn from(record: &Record) -> Self {
        Self {
            value: Some(record.value.clone()),
            revision: record.revision,
            create_revision: record.create_revision,
            version: record.version,
        }
    }
}

impl Answer {
    /// The answer to a get.
    #[must_use]
    pub fn got(found: Option<&Record>) -> Self {
        Self::Got(found.map(Version::from))
    }

    /// The answer to a write that asked for this; `None` for an outcome that no client is given as an answer.
    #[must_use]
    pub fn of_write(action: &Action, outcome: &Outcome) -> Option<Self> {
        Some(match outcome {
            Outcome::Put { revision, create_revision, version, previous } => Self::Put {
                revision: *revision,
                create_revision: *create_revision,
                version: *version,
                previous: previous.as_ref().map(Version::from),
            },
            Outcome::Deleted { revision, previous } => {
                Self::Deleted { revision: *revision, previous: previous.as_ref().map(Version::from) }
            }
            Outcome::NotFound => Self::NotFound,
            Outcome::ConditionFailed { current } => Self::condition_failed(action, current.as_ref()),
            Outcome::RangeDeleted { .. }
            | Outcome::Txn { .. }
            | Outcome::Lease(_)
            | Outcome::SessionOpened(_)
            | Outcome::SessionClosed
            | Outcome::Refused(_)
            | Outcome::Meta(_) => return None,
        })
    }

    /// The answer to a write that asked for this and whose condition failed.
    #[must_use]
    pub fn condition_failed(action: &Action, current: Option<&Record>) -> Self {
        let mut current = current.map(Version::from);
        if let Some(current) = &mut current
            && !action.wants_previous()
        {
            current.value = None;
        }
        Self::ConditionFailed { current }
    }
}

impl Completion {
    /// What a failed operation comes to: reads change nothing, so a failed one is of no interest.
    #[must_use]
    pub fn of_error(action: &Action, error: &kvd_types::Error) -> Self {
        if action.is_write() && error.outcome_unknown() {
            Self::Unknown(error.message.clone())
        } else {
            Self::Fail(error.message.clone())
        }
    }
}

impl Operation {
    /// What it was told, if it was answered.
    #[must_use]
    pub const fn answer(&self) -> Option<&Answer> {
        match &self.completion {
            Completion::Ok(answer) => Some(answer),
            Completion::Fail(_) | Completion::Unknown(_) => None,
        }
    }

    /// Whether it can't be told what came of it.
    #[must_use]
    pub const fn is_unknown(&self) -> bool {
        matches!(self.completion, Completion::Unknown(_))
    }

    /// When it had certainly happened, if it ever did, by its place in the order of events: never, if unknown.
    #[must_use]
    pub const fn done_by(&self) -> u64 {
        match (&self.completion, self.completed) {
            (Completion::Ok(_) | Completion::Fail(_), Some(at)) => at.sequence,
            _ => u64::MAX,
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p{}", self.0)
    }
}

#[cfg(test)]
mod tests;
