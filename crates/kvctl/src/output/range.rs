//! Keys that were read, and ranges that were deleted.

use std::io::{self, Write};

use kvd_client::{Key, Record};
use serde::Serialize;

use super::{Output, Row};
use crate::cli::Format;

/// What of a key is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// The key and the value.
    Both,
    /// The key.
    Key,
    /// The value.
    Value,
}

impl<W: Write> Output<W> {
    /// A key that was found. As lines: the key and the value, or one of them. In JSON the key is always there.
    pub(crate) fn found(&mut self, key: &Key, record: &Record, shown: Shown) -> io::Result<()> {
        match (self.format, shown) {
            (Format::Json, Shown::Key) => self.json(&Row::of_key(key, record)),
            (Format::Json, _) => self.json(&Row::new(Some(key), record)),
            (Format::Table, Shown::Key) => self.bytes_line(key.as_bytes()),
            (Format::Table, Shown::Value) => self.bytes_line(&record.value),
            (Format::Table, Shown::Both) => {
                self.bytes_line(key.as_bytes())?;
                self.bytes_line(&record.value)
            }
        }
    }

    /// How many keys there are.
    pub(crate) fn count(&mut self, keys: u64) -> io::Result<()> {
        #[derive(Serialize)]
        struct Count {
            count: String,
        }
        match self.format {
            Format::Json => self.json(&Count { count: keys.to_string() }),
            Format::Table => writeln!(self.to, "{keys}"),
        }
    }

    /// How many keys of a range were deleted, and whether that was all of it.
    pub(crate) fn range_deleted(&mut self, keys: u64, whole: bool) -> io::Result<()> {
        #[derive(Serialize)]
        struct RangeDeleted {
            succeeded: bool,
            deleted_count: String,
        }
        match self.format {
            Format::Json => self.json(&RangeDeleted { succeeded: whole, deleted_count: keys.to_string() }),
            Format::Table => writeln!(self.to, "{keys}"),
        }
    }
}
