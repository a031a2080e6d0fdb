//! A key's current version, and what goes with changing it.

use bytes::Bytes;
use kvd_types::{Key, Record, Revision};

use super::{ShardMachine, history::Replaced, pending::Pending, record};
use crate::{
    Error,
    digest::row_hash,
    rows::{self, Due},
};

/// Sums over the keys' current versions, kept with each write.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contents {
    pub(super) digest: u64,
    pub(super) keys: u64,
    pub(super) bytes: u64,
}

/// A key's current version, and the value of its row.
pub(super) struct Current {
    pub(super) row: Bytes,
    pub(super) record: Record,
}

impl ShardMachine {
    /// A key's version, as the commands before in this entry have left it.
    pub(super) fn current(key: &Key, pending: &Pending) -> Result<Option<Current>, Error> {
        let row = rows::latest(key.as_bytes());
        let value = pending.get(&row)?;
        value.map(|value| Ok(Current { record: record::decode(&row, &value)?, row: value })).transpose()
    }

    /// Puts another version in the place of a key's current one, at a revision, or removes it. `current` is what
    /// [`Self::current`] has given.
    pub(super) fn set(
        &mut self,
        key: &Key,
        current: Option<&Current>,
        new: Option<&Record>,
        revision: Revision,
        pending: &mut Pending,
    ) {
        let row = rows::latest(key.as_bytes());
        let key_bytes = key.as_bytes().len();
        if let Some(Current { row: value, record }) = current {
            self.contents.remove(key_bytes, record, row_hash(&row, value));
            for index in index_rows(key, record) {
                pending.set(index, None);
            }
        }
        let value = new.map(record::encode);
        if let (Some(record), Some(value)) = (new, &value) {
            self.contents.add(key_bytes, record, row_hash(&row, value));
            for index in index_rows(key, record) {
                pending.set(index, Some(Bytes::new()));
            }
            if let Some(at_age_ms) = record.expires_at_age_ms {
                self.will_be_due(at_age_ms);
            }
        }
        let replaced =
            current.map(|current| Replaced { revision: current.record.revision, row: &current.row });
        self.history.note(pending, key, revision, replaced, new.is_none());
        pending.set(row, value);
    }
}

/// The rows by which a version is found that is to lapse.
fn index_rows(key: &Key, record: &Record) -> impl Iterator<Item = Bytes> {
    let by_lease = record.lease.map(|lease| rows::lease_key(lease, key.as_bytes()));
    let by_age = record.expires_at_age_ms.map(|at_age_ms| rows::due(at_age_ms, &Due::Key(key.clone())));
    by_lease.into_iter().chain(by_age)
}

impl Contents {
    fn add(&mut self, key_bytes: usize, record: &Record, hash: u64) {
        self.digest = self.digest.wrapping_add(hash);
        self.keys = self.keys.wrapping_add(1);
        self.bytes = self.bytes.wrapping_add(size_bytes(key_bytes, record));
    }

    fn remove(&mut self, key_bytes: usize, record: &Record, hash: u64) {
        self.digest = self.digest.wrapping_sub(hash);
        self.keys = self.keys.wrapping_sub(1);
        self.bytes = self.bytes.wrapping_sub(size_bytes(key_bytes, record));
    }
}

/// Bytes of a key and its value.
pub(super) fn size_bytes(key_bytes: usize, record: &Record) -> u64 {
    u64::try_from(key_bytes.saturating_add(record.value.len())).unwrap_or(u64::MAX)
}
