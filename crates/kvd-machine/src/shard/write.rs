//! What a write would do, decided before anything changes: its outcome must find room in its session first.

use std::collections::BTreeMap;

use bytes::Bytes;
use kvd_types::{
    Condition, Key, LeaseId, Lifetime, Outcome, Record, Revision, Txn, TxnOp, TxnResult, WriteOp,
    limits::{DELETE_STEP_BYTES_MAX, DELETE_STEP_KEYS_MAX, TXN_ANSWER_BYTES_MAX, TXN_REPLACED_BYTES_MAX},
    outcome::Refusal,
};

use super::{
    ShardMachine,
    keys::{Current, size_bytes},
    leases::{Attachment, LeaseChange},
    pending::Pending,
    record,
};
use crate::{Error, rows};

/// What a write would do.
pub(super) struct Decision {
    pub(super) outcome: Outcome,
    /// Of different keys.
    pub(super) changes: Vec<KeyChange>,
    pub(super) lease: Option<LeaseChange>,
}

/// What it would do to a key.
pub(super) struct KeyChange {
    pub(super) key: Key,
    pub(super) current: Option<Current>,
    /// The new version; none: the key goes.
    pub(super) new: Option<Record>,
}

/// Until when a new version is there.
#[derive(Clone, Copy, Default)]
struct Expiry {
    lease: Option<LeaseId>,
    at_age_ms: Option<u64>,
}

impl Decision {
    /// Nothing changes.
    pub(super) const fn unchanged(outcome: Outcome) -> Self {
        Self { outcome, changes: Vec::new(), lease: None }
    }

    const fn refused(refusal: Refusal) -> Self {
        Self::unchanged(Outcome::Refused(refusal))
    }

    fn changed(outcome: Outcome, key: &Key, current: Option<Current>, new: Option<Record>) -> Self {
        Self { outcome, changes: vec![KeyChange { key: key.clone(), current, new }], lease: None }
    }
}

impl ShardMachine {
    /// What a write would do at a revision.
    pub(super) fn decide(
        &self,
        op: &WriteOp,
        revision: Revision,
        pending: &Pending,
    ) -> Result<Decision, Error> {
        match op {
            WriteOp::Put { key, value, lifetime, condition, want_previous } => {
                let expiry = match self.expiry(*lifetime, pending)? {
                    Ok(expiry) => expiry,
                    Err(refusal) => return Ok(Decision::refused(refusal)),
                };
                let current = Self::current(key, pending)?;
                Ok(condition_failed(*condition, current.as_ref(), *want_previous).unwrap_or_else(|| {
                    let old = current.as_ref().map(|current| &current.record);
                    let new = next_version(old, value.clone(), revision, expiry);
                    let previous = old.filter(|_| *want_previous).cloned();
                    let (create_revision, version) = (new.create_revision, new.version);
                    let outcome = Outcome::Put { revision, create_revision, version, previous };
                    Decision::changed(outcome, key, current, Some(new))
                }))
            }
            WriteOp::Delete { key, condition, want_previous } => {
                let current = Self::current(key, pending)?;
                Ok(condition_failed(*condition, current.as_ref(), *want_previous).unwrap_or_else(|| {
                    let Some(old) = current else { return Decision::unchanged(Outcome::NotFound) };
                    let previous = want_previous.then(|| old.record.clone());
                    Decision::changed(Outcome::Deleted { revision, previous }, key, Some(old), None)
                }))
            }
            WriteOp::DeleteRange { shard, start, end, limit } => {
                if *shard != self.shard {
                    return Ok(Decision::refused(Refusal::WrongGroup));
                }
                self.decide_range(start, end, *limit, revision, pending)
            }
            WriteOp::Txn(txn) => self.decide_txn(txn, revision, pending),
            WriteOp::GrantLease { lease, ttl_ms } => self.decide_grant(*lease, *ttl_ms, pending),
            WriteOp::RevokeLease(lease) => Self::decide_revoke(*lease, pending),
        }
    }

    /// The first keys of a range go, up to a bound of keys and of bytes.
    fn decide_range(
        &self,
        start: &[u8],
        end: &[u8],
        limit: u32,
        revision: Revision,
        pending: &Pending,
    ) -> Result<Decision, Error> {
        let limit = usize::try_from(limit.min(DELETE_STEP_KEYS_MAX)).unwrap_or(usize::MAX);
        let first = rows::latest(start);
        let last = if end.is_empty() { rows::latest_end() } else { rows::latest(end) };
        let (found, more) = pending.first(&first, &last, limit)?;
        let mut changes = Vec::new();
        let mut bytes = 0_u64;
        let mut next = None;
        for (row, value) in found {
            let key = rows::latest_key(&row)?;
            if bytes > DELETE_STEP_BYTES_MAX as u64 {
                next = Some(key.into_bytes());
                break;
            }
            let record = record::decode(&row, &value)?;
            bytes = bytes.saturating_add(size_bytes(key.as_bytes().len(), &record));
            changes.push(KeyChange { key, current: Some(Current { row: value, record }), new: None });
        }
        if next.is_none() && more {
            next = changes.last().map(|change| after(&change.key));
        }
        let revision = if changes.is_empty() { self.last_revision } else { revision };
        let deleted = u32::try_from(changes.len()).unwrap_or(u32::MAX);
        let outcome = Outcome::RangeDeleted { revision, deleted, next };
        Ok(Decision { outcome, changes, lease: None })
    }

    fn decide_txn(&self, txn: &Txn, revision: Revision, pending: &Pending) -> Result<Decision, Error> {
        if txn.check(usize::MAX).is_err() {
            return Ok(Decision::refused(Refusal::Malformed));
        }
        let mut succeeded = true;
        for compare in &txn.compares {
            let current = Self::current(&compare.key, pending)?;
            succeeded &= compare.holds(current.as_ref().map(|current| &current.record));
        }
        let mut changes: BTreeMap<&Key, KeyChange> = BTreeMap::new();
        let mut results = Vec::new();
        let mut answer_bytes = 0_usize;
        for operation in if succeeded { &txn.then } else { &txn.otherwise } {
            let key = operation.key();
            let result = match operation {
                TxnOp::Get(_) => TxnResult::Got(match changes.get(key) {
                    Some(change) => change.new.clone(),
                    None => Self::current(key, pending)?.map(|current| current.record),
                }),
                TxnOp::Put { value, lifetime, want_previous, .. } => {
                    let expiry = match self.expiry(*lifetime, pending)? {
                        Ok(expiry) => expiry,
                        Err(refusal) => return Ok(Decision::refused(refusal)),
                    };
                    let current = Self::current(key, pending)?;
                    let old = current.as_ref().map(|current| &current.record);
                    let new = next_version(old, value.clone(), revision, expiry);
                    let previous = old.filter(|_| *want_previous).cloned();
                    let (create_revision, version) = (new.create_revision, new.version);
                    changes.insert(key, KeyChange { key: key.clone(), current, new: Some(new) });
                    TxnResult::Put { create_revision, version, previous }
                }
                TxnOp::Delete { want_previous, .. } => {
                    let current = Self::current(key, pending)?;
                    let old = current.as_ref().map(|current| &current.record);
                    let (existed, previous) = (old.is_some(), old.filter(|_| *want_previous).cloned());
                    if existed {
                        changes.insert(key, KeyChange { key: key.clone(), current, new: None });
                    }
                    TxnResult::Deleted { existed, previous }
                }
            };
            answer_bytes = answer_bytes.saturating_add(result.value_bytes());
            results.push(result);
        }
        if answer_bytes > TXN_ANSWER_BYTES_MAX {
            return Ok(Decision::refused(Refusal::AnswerTooLarge));
        }
        let replaced = changes.values().filter_map(|change| {
            let current = change.current.as_ref()?;
            Some(size_bytes(change.key.as_bytes().len(), &current.record))
        });
        if replaced.fold(0, u64::saturating_add) > TXN_REPLACED_BYTES_MAX as u64 {
            return Ok(Decision::refused(Refusal::ReplacesTooMuch));
        }
        let revision = if changes.is_empty() { self.last_revision } else { revision };
        let outcome = Outcome::Txn { succeeded, revision, results };
        Ok(Decision { outcome, changes: changes.into_values().collect(), lease: None })
    }

    /// Until when a version that is written now is there; or why it can't be written.
    fn expiry(&self, lifetime: Lifetime, pending: &Pending) -> Result<Result<Expiry, Refusal>, Error> {
        Ok(match lifetime {
            Lifetime::Forever => Ok(Expiry::default()),
            Lifetime::Ttl(ttl_ms) => {
                Ok(Expiry { at_age_ms: Some(self.age_ms.saturating_add(ttl_ms)), lease: None })
            }
            Lifetime::Lease(lease) => match Self::attachment(lease, pending)? {
                Some(Attachment::Alive) => Ok(Expiry { lease: Some(lease), at_age_ms: None }),
                Some(Attachment::Ended { .. }) => Err(Refusal::LeaseEnded(lease)),
                None => Err(Refusal::LeaseNotAttached(lease)),
            },
        })
    }
}

/// What comes of a write whose condition does not hold; none if it does.
fn condition_failed(condition: Condition, current: Option<&Current>, want_value: bool) -> Option<Decision> {
    let current = current.map(|current| &current.record);
    let holds = match condition {
        Condition::Always => true,
        Condition::Absent => current.is_none(),
        Condition::RevisionIs(revision) => current.is_some_and(|record| record.revision == revision),
    };
    if holds {
        return None;
    }
    let current = current.map(|record| {
        if want_value { record.clone() } else { Record { value: Bytes::new(), ..record.clone() } }
    });
    Some(Decision::unchanged(Outcome::ConditionFailed { current }))
}

/// The version that follows on another one, or on none.
fn next_version(current: Option<&Record>, value: Bytes, revision: Revision, expiry: Expiry) -> Record {
    Record {
        value,
        create_revision: current.map_or(revision, |record| record.create_revision),
        revision,
        version: current.map_or(1, |record| record.version.saturating_add(1)),
        lease: expiry.lease,
        expires_at_age_ms: expiry.at_age_ms,
    }
}

/// The first key after a key.
pub(super) fn after(key: &Key) -> Bytes {
    [key.as_bytes(), b"\0"].concat().into()
}
