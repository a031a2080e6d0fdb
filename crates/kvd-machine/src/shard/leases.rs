//! Leases: at their home, until when they last and where keys may be attached; at every shard, which it was told of.
//!
//! # The problem
//! A lease's keys are on any shards, and all of them must go when it ends, soon and for certain; but no write may wait for
//! another shard, and a lease that is kept alive must cost its home little and the other shards nothing.
//!
//! # The approach
//! A lease's *home* is the shard that its id hashes to. It alone decides: it grants, keeps alive, and ends it, when it is
//! revoked or its time is over. Before a shard lets the first key be attached, whoever leads it has the home *expect* keys
//! there; then the shard notes that the lease lives. When the lease ends, its home stays aware of it until all expected
//! shards have said that their keys are gone. A shard that was told of the end remembers it for
//! [`ENDED_LEASE_KEPT`], and what it was told long ago doesn't count, so a message that comes late attaches nothing.
//!
//! A keep-alive changes one row. What says when the lease may lapse is moved only when that time comes and the lease was
//! kept alive meanwhile.
//!
//! # Invariants
//! - A key that is attached to a lease is at a shard that the lease's home expects keys at; so no key outlives its lease for
//!   longer than its home needs to tell.
//! - A lease that has ended never lives again under its id, for as long as a shard with keys of it remembers.
//!
//! # What is bounded
//! Leases by [`LEASES_MAX`]; what one entry removes by the limits of a step. Not the keys of a lease.

use bytes::Bytes;
use kvd_types::{
    LeaseCommand, LeaseId, LeaseOutcome, Outcome, Revision, ShardId,
    limits::{DELETE_STEP_BYTES_MAX, DELETE_STEP_KEYS_MAX, ENDED_LEASE_KEPT, LEASES_MAX},
    outcome::Refusal,
};
use prost::Message;

use super::{ShardMachine, keys::size_bytes, pending::Pending, write::Decision};
use crate::{
    Error,
    digest::row_hash,
    rows::{self, Due},
};

/// A lease, at its home. Persisted, keep stable.
#[derive(Clone, PartialEq, Message)]
pub(super) struct LeaseRow {
    #[prost(uint64, tag = "1")]
    pub(super) ttl_ms: u64,
    /// The age of the shard at which it lapses.
    #[prost(uint64, tag = "2")]
    pub(super) expires_at_age_ms: u64,
    /// The age in the row that says when it may lapse: not later.
    #[prost(uint64, tag = "3")]
    due_at_age_ms: u64,
    /// It ends.
    #[prost(bool, tag = "4")]
    pub(super) ends: bool,
    /// The shards that may have keys of it.
    #[prost(uint32, repeated, tag = "5")]
    pub(super) shards: Vec<u32>,
}

/// What a shard was told of a lease. Persisted, keep stable.
#[derive(Clone, Copy, PartialEq, Message)]
struct AttachmentRow {
    /// It has ended, at this age of the shard.
    #[prost(uint64, optional, tag = "1")]
    ended_at_age_ms: Option<u64>,
}

/// What a shard was told of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attachment {
    /// Keys may be attached.
    Alive,
    /// It has ended.
    Ended {
        /// At this age of the shard.
        at_age_ms: u64,
    },
}

/// What a write does to a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseChange {
    /// It comes into being.
    Grant { lease: LeaseId, ttl_ms: u64 },
    /// It ends.
    Revoke(LeaseId),
}

/// Sums over a shard's leases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Leases {
    /// How many have their home here.
    pub(super) count: u64,
    /// How many of them end.
    pub(super) ending: u64,
    /// The sum of the hashes of their rows, and of those of attachments.
    pub(super) digest: u64,
}

impl Leases {
    /// Gives a row of leases or attachments a new value, or removes it.
    fn set(&mut self, row: Bytes, value: Option<Bytes>, pending: &mut Pending) -> Result<(), Error> {
        if let Some(old) = pending.get(&row)? {
            self.digest = self.digest.wrapping_sub(row_hash(&row, &old));
        }
        if let Some(new) = &value {
            self.digest = self.digest.wrapping_add(row_hash(&row, new));
        }
        pending.set(row, value);
        Ok(())
    }
}

impl ShardMachine {
    /// What would come of granting a lease.
    pub(super) fn decide_grant(
        &self,
        lease: LeaseId,
        ttl_ms: u64,
        pending: &Pending,
    ) -> Result<Decision, Error> {
        if Self::lease(lease, pending)?.is_some() {
            return Ok(Decision::unchanged(Outcome::Lease(LeaseOutcome::Exists)));
        }
        if self.leases.count >= LEASES_MAX as u64 {
            return Ok(Decision::unchanged(Outcome::Refused(Refusal::TooManyLeases)));
        }
        Ok(Decision {
            lease: Some(LeaseChange::Grant { lease, ttl_ms }),
            ..Decision::unchanged(Outcome::Lease(LeaseOutcome::Granted { ttl_ms }))
        })
    }

    /// What would come of revoking a lease.
    pub(super) fn decide_revoke(lease: LeaseId, pending: &Pending) -> Result<Decision, Error> {
        let lives = Self::lease(lease, pending)?.is_some_and(|row| !row.ends);
        if !lives {
            return Ok(Decision::unchanged(Outcome::Lease(LeaseOutcome::Gone)));
        }
        Ok(Decision {
            lease: Some(LeaseChange::Revoke(lease)),
            ..Decision::unchanged(Outcome::Lease(LeaseOutcome::Revoked))
        })
    }

    /// Does what was decided.
    pub(super) fn change_lease(&mut self, change: LeaseChange, pending: &mut Pending) -> Result<(), Error> {
        match change {
            LeaseChange::Grant { lease, ttl_ms } => {
                let at_age_ms = self.age_ms.saturating_add(ttl_ms);
                let row = LeaseRow {
                    ttl_ms,
                    expires_at_age_ms: at_age_ms,
                    due_at_age_ms: at_age_ms,
                    ends: false,
                    shards: Vec::new(),
                };
                self.leases.count += 1;
                self.set_due(at_age_ms, &Due::Lease(lease), pending);
                self.set_lease(lease, Some(&row), pending)
            }
            LeaseChange::Revoke(lease) => match Self::lease(lease, pending)? {
                Some(row) => self.end_lease(lease, row, pending),
                None => Ok(()),
            },
        }
    }

    /// Runs a command about a lease.
    pub(super) fn run_lease(
        &mut self,
        clock: Revision,
        command: &LeaseCommand,
        pending: &mut Pending,
    ) -> Result<Outcome, Error> {
        let outcome = match *command {
            LeaseCommand::KeepAlive(lease) => self.keep_alive(lease, pending)?,
            LeaseCommand::Expect { lease, shard } => self.expect(lease, shard, pending)?,
            LeaseCommand::Attach { lease, not_after_ms } => {
                if self.age_ms > not_after_ms {
                    return Ok(Outcome::Refused(Refusal::LeaseNotAttached(lease)));
                }
                self.attach(lease, pending)?
            }
            LeaseCommand::Detach { lease, limit } => self.detach(clock, lease, limit, pending)?,
            LeaseCommand::Detached { lease, shard } => self.detached(lease, shard, pending)?,
        };
        Ok(Outcome::Lease(outcome))
    }

    fn keep_alive(&mut self, lease: LeaseId, pending: &mut Pending) -> Result<LeaseOutcome, Error> {
        let Some(mut row) = self.living(lease, pending)? else { return Ok(LeaseOutcome::Gone) };
        let ttl_ms = row.ttl_ms;
        row.expires_at_age_ms = row.expires_at_age_ms.max(self.age_ms.saturating_add(ttl_ms));
        self.set_lease(lease, Some(&row), pending)?;
        Ok(LeaseOutcome::Alive { ttl_ms })
    }

    fn expect(
        &mut self,
        lease: LeaseId,
        shard: ShardId,
        pending: &mut Pending,
    ) -> Result<LeaseOutcome, Error> {
        let Some(mut row) = self.living(lease, pending)? else { return Ok(LeaseOutcome::Gone) };
        if let Err(place) = row.shards.binary_search(&shard.get()) {
            row.shards.insert(place, shard.get());
            self.set_lease(lease, Some(&row), pending)?;
        }
        Ok(LeaseOutcome::Expected)
    }

    fn attach(&mut self, lease: LeaseId, pending: &mut Pending) -> Result<LeaseOutcome, Error> {
        match Self::attachment(lease, pending)? {
            Some(Attachment::Ended { .. }) => Ok(LeaseOutcome::Gone),
            Some(Attachment::Alive) => Ok(LeaseOutcome::Attached),
            None => {
                self.set_attachment(lease, Some(Attachment::Alive), pending)?;
                Ok(LeaseOutcome::Attached)
            }
        }
    }

    /// Removes the first keys of a lease, and remembers that it has ended.
    fn detach(
        &mut self,
        clock: Revision,
        lease: LeaseId,
        limit: u32,
        pending: &mut Pending,
    ) -> Result<LeaseOutcome, Error> {
        if !matches!(Self::attachment(lease, pending)?, Some(Attachment::Ended { .. })) {
            self.set_attachment(lease, Some(Attachment::Ended { at_age_ms: self.age_ms }), pending)?;
            let kept_ms = u64::try_from(ENDED_LEASE_KEPT.as_millis()).unwrap_or(u64::MAX);
            self.set_due(self.age_ms.saturating_add(kept_ms), &Due::Attachment(lease), pending);
        }
        let limit = usize::try_from(limit.min(DELETE_STEP_KEYS_MAX)).unwrap_or(usize::MAX);
        let first = rows::lease_key(lease, b"");
        let (found, mut more) = pending.first(&first, &rows::lease_keys_end(lease), limit)?;
        let revision = self.next_revision(clock);
        let mut keys = 0;
        let mut bytes = 0_u64;
        for (row, _) in found {
            if bytes > DELETE_STEP_BYTES_MAX as u64 {
                more = true;
                break;
            }
            let key = rows::parse_lease_key(&row)?;
            let Some(current) = Self::current(&key, pending)? else {
                return Err(Error::corrupt(&row, "the key that is attached does not exist"));
            };
            bytes = bytes.saturating_add(size_bytes(key.as_bytes().len(), &current.record));
            self.set(&key, Some(&current), None, revision, pending);
            keys += 1;
        }
        if keys > 0 {
            self.last_revision = revision;
        }
        Ok(LeaseOutcome::Detached { keys, more })
    }

    /// Takes note that a shard has no keys of a lease any more.
    fn detached(
        &mut self,
        lease: LeaseId,
        shard: ShardId,
        pending: &mut Pending,
    ) -> Result<LeaseOutcome, Error> {
        if let Some(mut row) = Self::lease(lease, pending)?
            && row.ends
            && let Ok(place) = row.shards.binary_search(&shard.get())
        {
            row.shards.remove(place);
            self.let_go(lease, &row, pending)?;
        }
        Ok(LeaseOutcome::Noted)
    }

    /// Looks at a lease whose time may be over.
    pub(super) fn lease_is_due(
        &mut self,
        lease: LeaseId,
        at_age_ms: u64,
        pending: &mut Pending,
    ) -> Result<(), Error> {
        let Some(mut row) = Self::lease(lease, pending)? else { return Ok(()) };
        if row.ends || row.due_at_age_ms != at_age_ms {
            return Ok(());
        }
        if row.expires_at_age_ms <= self.age_ms {
            return self.end_lease(lease, row, pending);
        }
        row.due_at_age_ms = row.expires_at_age_ms;
        self.set_due(row.due_at_age_ms, &Due::Lease(lease), pending);
        self.set_lease(lease, Some(&row), pending)
    }

    /// Forgets that a lease has ended.
    pub(super) fn forget_attachment(&mut self, lease: LeaseId, pending: &mut Pending) -> Result<(), Error> {
        self.set_attachment(lease, None, pending)
    }

    fn end_lease(&mut self, lease: LeaseId, mut row: LeaseRow, pending: &mut Pending) -> Result<(), Error> {
        pending.set(rows::due(row.due_at_age_ms, &Due::Lease(lease)), None);
        row.ends = true;
        self.leases.ending += 1;
        self.leases.set(rows::ending(lease), Some(Bytes::new()), pending)?;
        self.let_go(lease, &row, pending)
    }

    /// Keeps a lease that ends in mind until all shards have let its keys go.
    fn let_go(&mut self, lease: LeaseId, row: &LeaseRow, pending: &mut Pending) -> Result<(), Error> {
        if !row.shards.is_empty() {
            return self.set_lease(lease, Some(row), pending);
        }
        self.leases.count = self.leases.count.saturating_sub(1);
        self.leases.ending = self.leases.ending.saturating_sub(1);
        self.leases.set(rows::ending(lease), None, pending)?;
        self.set_lease(lease, None, pending)
    }

    /// A lease whose time is not over.
    fn living(&self, lease: LeaseId, pending: &Pending) -> Result<Option<LeaseRow>, Error> {
        Ok(Self::lease(lease, pending)?.filter(|row| !row.ends && row.expires_at_age_ms > self.age_ms))
    }

    fn lease(lease: LeaseId, pending: &Pending) -> Result<Option<LeaseRow>, Error> {
        let row = rows::lease(lease);
        pending.get(&row)?.map(|value| decode(&row, value)).transpose()
    }

    fn set_lease(
        &mut self,
        lease: LeaseId,
        value: Option<&LeaseRow>,
        pending: &mut Pending,
    ) -> Result<(), Error> {
        self.leases.set(rows::lease(lease), value.map(|value| value.encode_to_vec().into()), pending)
    }

    /// What this shard was told of a lease.
    pub(super) fn attachment(lease: LeaseId, pending: &Pending) -> Result<Option<Attachment>, Error> {
        let row = rows::attachment(lease);
        let Some(value) = pending.get(&row)? else { return Ok(None) };
        let AttachmentRow { ended_at_age_ms } = decode(&row, value)?;
        Ok(Some(ended_at_age_ms.map_or(Attachment::Alive, |at_age_ms| Attachment::Ended { at_age_ms })))
    }

    fn set_attachment(
        &mut self,
        lease: LeaseId,
        attachment: Option<Attachment>,
        pending: &mut Pending,
    ) -> Result<(), Error> {
        let value = attachment.map(|attachment| {
            let ended_at_age_ms = match attachment {
                Attachment::Alive => None,
                Attachment::Ended { at_age_ms } => Some(at_age_ms),
            };
            AttachmentRow { ended_at_age_ms }.encode_to_vec().into()
        });
        self.leases.set(rows::attachment(lease), value, pending)
    }
}

/// What a row's value holds.
pub(super) fn decode<R: Message + Default>(row: &[u8], value: Bytes) -> Result<R, Error> {
    R::decode(value).map_err(|error| Error::corrupt(row, error))
}
