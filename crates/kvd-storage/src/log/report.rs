//! What a log tells: what was found when it was opened, and why something can't be had.

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
};

use kvd_types::{GroupId, ReplicaId};

/// What was lost, where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file; empty if it is no longer there.
    pub file: PathBuf,
    /// Offset of the bad bytes in the file.
    pub offset: u64,
    /// What is wrong.
    pub text: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.file.as_os_str().is_empty() {
            return f.write_str(&self.text);
        }
        write!(f, "{} at offset {}: {}", self.file.display(), self.offset, self.text)
    }
}

/// Where the last write before a crash was torn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TornTail {
    /// The file.
    pub file: PathBuf,
    /// Where the records that count end.
    pub offset: u64,
}

/// What was found when the log was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The replicas that lost records. They are known, can't be opened, and can be removed.
    pub damaged: BTreeMap<ReplicaId, Damage>,
    /// Records of replicas that this log doesn't know may have been lost: it can't be said of an unknown replica that
    /// it is new. Stays so for the life of the log.
    pub unattributed: Option<Damage>,
    /// The last write was torn, and cut off. It had not been acknowledged.
    pub torn_tail: Option<TornTail>,
    /// Segments whose header is bad in one of its two copies. The other one served.
    pub bad_headers: Vec<PathBuf>,
    /// Segments that were read.
    pub segments: u64,
    /// Records that were replayed.
    pub records: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Why the log can't be opened, or something in it can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The disk refused.
    #[error("{what} ({path}): {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// To which file or directory.
        path: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// A setting makes no sense.
    #[error("log settings: {0}")]
    Options(String),
    /// A segment was written by a program that knows another format.
    #[error("{file} has log format {version}, which this program doesn't know: use the one that wrote it")]
    Version {
        /// The segment.
        file: PathBuf,
        /// Its format.
        version: u32,
    },
    /// The replica lost records and must not serve.
    #[error(
        "the log of replica {replica} is damaged: {damage}; remove it and add another replica of its group"
    )]
    Damaged {
        /// The replica.
        replica: ReplicaId,
        /// What was lost.
        damage: Damage,
    },
    /// Nobody knows whether the replica is new, for records of unknown replicas were lost.
    #[error(
        "replica {replica} may have lost its log: {damage}; remove it and add another replica of its group"
    )]
    MayBeDamaged {
        /// The replica.
        replica: ReplicaId,
        /// What was lost.
        damage: Damage,
    },
    /// The replica belongs to another group.
    #[error("replica {replica} belongs to group {group}, not to group {asked}")]
    WrongGroup {
        /// The replica.
        replica: ReplicaId,
        /// Its group.
        group: GroupId,
        /// The group that was asked for.
        asked: GroupId,
    },
    /// The replica is not new.
    #[error("replica {0} has a log already")]
    Exists(ReplicaId),
    /// The replica was removed; its id is never used again.
    #[error("replica {0} was removed from this node")]
    Removed(ReplicaId),
    /// An entry on disk fails a check.
    #[error("the log of replica {replica} of group {group} is corrupt: {damage}")]
    Corrupt {
        /// The group.
        group: GroupId,
        /// The replica.
        replica: ReplicaId,
        /// What is bad.
        damage: Damage,
    },
}

impl Error {
    pub(super) fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}
