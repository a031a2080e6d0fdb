//! What stops a replica.

use kvd_types::GroupId;

use crate::Position;

/// A fault that stops the replica; never an answer to a command.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table could not be read.
    #[error(transparent)]
    Storage(#[from] kvd_storage::Error),
    /// A row is not what this crate writes.
    #[error("the row {row} is corrupt: {detail}; the replica must be rebuilt from its peers or a checkpoint")]
    Corrupt {
        /// The row's key, escaped, its first 64 bytes.
        row: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The rows were written by a build that knows more than this one.
    #[error(
        "the rows have format {found}, this kvd knows format {known}: start the version that wrote them, or a later one"
    )]
    FormatUnknown {
        /// The format of the rows.
        found: u32,
        /// The latest format that this build knows.
        known: u32,
    },
    /// The rows belong to another group.
    #[error("these are the rows of group {found}, not of group {expected}")]
    WrongGroup {
        /// Whose rows they should be.
        expected: GroupId,
        /// Whose rows they are.
        found: GroupId,
    },
    /// An entry came again, or before one that it follows: a fault of whoever reads the log.
    #[error("the entry at index {} of term {} can't be applied after index {} of term {}", .entry.index, .entry.term, .applied.index, .applied.term)]
    OutOfOrder {
        /// The entry that was to be applied.
        entry: Position,
        /// The last one that was.
        applied: Position,
    },
}

impl Error {
    /// A row that is not what this crate writes.
    pub(crate) fn corrupt(row: &[u8], detail: impl std::fmt::Display) -> Self {
        const SHOWN_BYTES_MAX: usize = 64;
        let shown = row.get(..SHOWN_BYTES_MAX).unwrap_or(row).escape_ascii();
        let cut = if row.len() > SHOWN_BYTES_MAX { "…" } else { "" };
        Self::Corrupt { row: format!("\"{shown}\"{cut}"), detail: detail.to_string() }
    }
}

impl From<Error> for kvd_types::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Storage(ref storage) if storage.is_corruption() => Self::corruption(error.to_string()),
            Error::Corrupt { .. } | Error::FormatUnknown { .. } | Error::WrongGroup { .. } => {
                Self::corruption(error.to_string())
            }
            Error::Storage(_) | Error::OutOfOrder { .. } => Self::internal(error.to_string()),
        }
    }
}
