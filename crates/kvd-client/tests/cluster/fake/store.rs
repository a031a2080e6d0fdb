//! What the fake cluster's shards hold: every change since the beginning, and leases. One counter makes all revisions.

use std::collections::{BTreeMap, BTreeSet};

use kvd_types::{
    Condition, Error, ErrorKind, Event, Key, LeaseId, LeaseOutcome, Lifetime, Outcome, Record, Result,
    Revision, ShardId, Txn, TxnOp, TxnResult, WriteOp,
    operation::{Content, LeaseInfo, Page, ScanPage},
};
use tokio::sync::watch;

use super::PAGE_ROWS;

type Rows = BTreeMap<(ShardId, Key), Record>;

/// What the shards hold.
#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) revision: u64,
    /// What was before is forgotten.
    pub(crate) compacted: Revision,
    /// Keep-alives that came.
    pub(crate) kept_alive: usize,
    /// Wakes the watches.
    pub(super) changed: watch::Sender<u64>,
    rows: Rows,
    history: Vec<(ShardId, Event)>,
    leases: BTreeMap<LeaseId, u64>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            // As by a clock: no write is among the very first revisions, though a read point may be.
            revision: 1 << 20,
            compacted: Revision::ZERO,
            kept_alive: 0,
            changed: watch::Sender::default(),
            rows: Rows::new(),
            history: Vec::new(),
            leases: BTreeMap::new(),
        }
    }
}

impl Store {
    /// As of when the shards can be read: from the beginning, before the first write.
    pub(super) fn read_point(&self) -> Revision {
        self.history.last().map_or(Revision::ZERO, |_| Revision(self.revision))
    }

    pub(super) fn get(&self, shard: ShardId, key: Key, at: Option<Revision>) -> Option<(Key, Record)> {
        let row = (shard, key);
        let record = match at {
            None => self.rows.get(&row)?.clone(),
            Some(at) => self.rows_at(shard, at).remove(&row)?,
        };
        Some((row.1, record))
    }

    fn rows_at(&self, shard: ShardId, at: Revision) -> Rows {
        let mut rows = Rows::new();
        for (_, event) in self.history.iter().filter(|(of, event)| *of == shard && event.revision <= at) {
            let row = (shard, event.key.clone());
            match &event.record {
                Some(record) => rows.insert(row, record.clone()),
                None => rows.remove(&row),
            };
        }
        rows
    }

    pub(super) fn scan(&self, page: &ScanPage) -> Page {
        let at = page.read.at.expect("a scan reads as of a revision");
        let rows = self.rows_at(page.shard, at);
        let mut rows: Vec<_> = rows
            .into_iter()
            .map(|((_, key), record)| (key, record))
            .filter(|(key, _)| within(key, &page.start, &page.end))
            .collect();
        if page.descending {
            rows.reverse();
        }
        let looked_at = if page.limit == 0 { PAGE_ROWS } else { page.limit.min(PAGE_ROWS) };
        let rest = rows.split_off(looked_at.min(rows.len()));
        let next = rest.first().map(|(key, _)| {
            if page.descending { kvd_placement::after_key(key.as_bytes()) } else { key.bytes().clone() }
        });
        rows.retain(|(_, record)| page.filter.admits(record));
        let count = rows.len() as u64;
        match page.content {
            Content::All => {}
            Content::KeysOnly => rows.iter_mut().for_each(|(_, record)| record.value.clear()),
            Content::CountOnly => rows.clear(),
        }
        Page { rows, count, next }
    }

    /// What has changed after a revision in a range.
    pub(super) fn changes(&self, after: Revision, start: &[u8], end: &[u8]) -> Vec<Event> {
        let events = self.history.iter().map(|(_, event)| event);
        events.filter(|event| event.revision > after && within(&event.key, start, end)).cloned().collect()
    }

    pub(super) fn write(&mut self, shard: ShardId, op: WriteOp) -> Result<Outcome> {
        let (key, value, lifetime, condition, want_previous) = match op {
            WriteOp::Put { key, value, lifetime, condition, want_previous } => {
                (key, Some(value), lifetime, condition, want_previous)
            }
            WriteOp::Delete { key, condition, want_previous } => {
                (key, None, Lifetime::Forever, condition, want_previous)
            }
            WriteOp::DeleteRange { start, end, .. } => return Ok(self.delete_range(shard, &start, &end)),
            WriteOp::Txn(txn) => return self.txn(shard, txn),
            WriteOp::GrantLease { lease, ttl_ms } => return Ok(Outcome::Lease(self.grant(lease, ttl_ms))),
            WriteOp::RevokeLease(lease) => return self.revoke(lease).map(Outcome::Lease),
        };
        let current = self.rows.get(&(shard, key.clone())).cloned();
        let holds = match condition {
            Condition::Always => true,
            Condition::Absent => current.is_none(),
            Condition::RevisionIs(revision) => current.as_ref().is_some_and(|it| it.revision == revision),
        };
        if !holds {
            return Ok(Outcome::ConditionFailed { current });
        }
        let revision = self.next_revision();
        let previous = current.clone().filter(|_| want_previous);
        Ok(match value {
            Some(value) => {
                let record = self.put(shard, key, value, lifetime, revision)?;
                let (create_revision, version) = (record.create_revision, record.version);
                Outcome::Put { revision, create_revision, version, previous }
            }
            None if self.remove(shard, &key, revision) => Outcome::Deleted { revision, previous },
            None => Outcome::NotFound,
        })
    }

    fn next_revision(&mut self) -> Revision {
        self.revision += 1;
        Revision(self.revision)
    }

    fn put(
        &mut self,
        shard: ShardId,
        key: Key,
        value: bytes::Bytes,
        lifetime: Lifetime,
        revision: Revision,
    ) -> Result<Record> {
        let lease = lifetime.lease();
        if let Some(lease) = lease.filter(|lease| !self.leases.contains_key(lease)) {
            return Err(no_lease(lease));
        }
        let expires_at_age_ms = if let Lifetime::Ttl(ttl_ms) = lifetime { Some(1000 + ttl_ms) } else { None };
        let row = (shard, key.clone());
        let current = self.rows.get(&row);
        let create_revision = current.map_or(revision, |it| it.create_revision);
        let version = current.map_or(0, |it| it.version) + 1;
        let record = Record { value, create_revision, revision, version, lease, expires_at_age_ms };
        self.rows.insert(row, record.clone());
        self.tell(shard, Event { key, revision, record: Some(record.clone()), previous: None });
        Ok(record)
    }

    fn remove(&mut self, shard: ShardId, key: &Key, revision: Revision) -> bool {
        let existed = self.rows.remove(&(shard, key.clone())).is_some();
        if existed {
            self.tell(shard, Event { key: key.clone(), revision, record: None, previous: None });
        }
        existed
    }

    fn tell(&mut self, shard: ShardId, event: Event) {
        self.history.push((shard, event));
        self.changed.send_modify(|count| *count += 1);
    }

    fn delete_range(&mut self, shard: ShardId, start: &[u8], end: &[u8]) -> Outcome {
        let inside = self.rows.keys().filter(|(of, key)| *of == shard && within(key, start, end));
        let keys: Vec<Key> = inside.map(|(_, key)| key.clone()).take(PAGE_ROWS + 1).collect();
        let revision = self.next_revision();
        for key in keys.iter().take(PAGE_ROWS) {
            self.remove(shard, key, revision);
        }
        let deleted = u32::try_from(keys.len().min(PAGE_ROWS)).unwrap();
        let next = keys.get(PAGE_ROWS).map(|key| key.bytes().clone());
        Outcome::RangeDeleted { revision, deleted, next }
    }

    fn txn(&mut self, shard: ShardId, txn: Txn) -> Result<Outcome> {
        let row = |key: &Key| (shard, key.clone());
        let succeeded = txn.compares.iter().all(|compare| compare.holds(self.rows.get(&row(&compare.key))));
        let revision = self.next_revision();
        let mut results = Vec::new();
        for operation in if succeeded { txn.then } else { txn.otherwise } {
            let current = self.rows.get(&row(operation.key())).cloned();
            results.push(match operation {
                TxnOp::Get(_) => TxnResult::Got(current),
                TxnOp::Put { key, value, lifetime, want_previous } => {
                    let record = self.put(shard, key, value, lifetime, revision)?;
                    let previous = current.filter(|_| want_previous);
                    let (create_revision, version) = (record.create_revision, record.version);
                    TxnResult::Put { create_revision, version, previous }
                }
                TxnOp::Delete { key, want_previous } => {
                    let existed = self.remove(shard, &key, revision);
                    TxnResult::Deleted { existed, previous: current.filter(|_| want_previous) }
                }
            });
        }
        Ok(Outcome::Txn { succeeded, revision, results })
    }

    fn grant(&mut self, lease: LeaseId, ttl_ms: u64) -> LeaseOutcome {
        if self.leases.contains_key(&lease) {
            return LeaseOutcome::Exists;
        }
        self.leases.insert(lease, ttl_ms);
        LeaseOutcome::Granted { ttl_ms }
    }

    /// Ends a lease, as its time would.
    pub(crate) fn revoke(&mut self, lease: LeaseId) -> Result<LeaseOutcome> {
        self.leases.remove(&lease).ok_or_else(|| no_lease(lease))?;
        let attached = self.rows.iter().filter(|(_, record)| record.lease == Some(lease));
        let rows: Vec<_> = attached.map(|(row, _)| row.clone()).collect();
        let revision = self.next_revision();
        for (shard, key) in rows {
            self.remove(shard, &key, revision);
        }
        Ok(LeaseOutcome::Revoked)
    }

    pub(super) fn keep_alive(&mut self, lease: LeaseId) -> Result<LeaseOutcome> {
        self.kept_alive += 1;
        let ttl_ms = *self.leases.get(&lease).ok_or_else(|| no_lease(lease))?;
        Ok(LeaseOutcome::Alive { ttl_ms })
    }

    pub(super) fn lease(&self, lease: LeaseId) -> Option<LeaseInfo> {
        let ttl_ms = *self.leases.get(&lease)?;
        let attached = self.rows.iter().filter(|(_, record)| record.lease == Some(lease));
        let shards: BTreeSet<_> = attached.map(|((shard, _), _)| *shard).collect();
        Some(LeaseInfo { id: lease, ttl_ms, remaining_ms: ttl_ms, shards: shards.into_iter().collect() })
    }

    pub(super) fn leases(&self, from: LeaseId) -> impl Iterator<Item = LeaseInfo> + '_ {
        self.leases.range(from..).filter_map(|(&lease, _)| self.lease(lease))
    }

    pub(super) fn lease_keys(
        &self,
        shard: ShardId,
        lease: LeaseId,
        after: Option<&Key>,
        limit: usize,
    ) -> Vec<Key> {
        let attached = self.rows.iter().filter(|((of, key), record)| {
            *of == shard && record.lease == Some(lease) && after.is_none_or(|after| key > after)
        });
        attached.map(|((_, key), _)| key.clone()).take(limit).collect()
    }
}

fn within(key: &Key, start: &[u8], end: &[u8]) -> bool {
    *key.as_bytes() >= *start && (end.is_empty() || *key.as_bytes() < *end)
}

fn no_lease(lease: LeaseId) -> Error {
    Error::new(ErrorKind::NotFound, format!("there is no lease {lease}"))
}
