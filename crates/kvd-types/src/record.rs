//! A stored version of a key.

use bytes::Bytes;

use crate::{LeaseId, Revision};

/// One version of a key: its value and the metadata that travels with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// The value.
    pub value: Bytes,
    /// The revision at which the key came into being, since it was last absent.
    pub create_revision: Revision,
    /// The revision of the write that made this version.
    pub revision: Revision,
    /// 1 for the write that created the key, and one more with each write since.
    pub version: u64,
    /// The lease that the key is attached to.
    pub lease: Option<LeaseId>,
    /// When the key lapses, in milliseconds of its shard's age.
    pub expires_at_age_ms: Option<u64>,
}
