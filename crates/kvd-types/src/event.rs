//! What a watcher is told.

use crate::{Key, Record, Revision};

/// A change of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The key.
    pub key: Key,
    /// The revision of the change.
    pub revision: Revision,
    /// The version that was put; none: the key was deleted, or has lapsed.
    pub record: Option<Record>,
    /// The version that was replaced or deleted, if asked for and there was one.
    pub previous: Option<Record>,
}
