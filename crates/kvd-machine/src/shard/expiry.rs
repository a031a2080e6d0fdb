//! What is due by the shard's age: keys lapse, leases end, ended ones are forgotten.
//!
//! All of it stands in one order, by age, so an entry looks at nothing but what is due; and it takes only so much of that,
//! the rest being left for the entries that follow. An entry with commands takes about as much as it has commands, so that a
//! million keys that lapse at once don't stop the writes. Whoever leads looks at [`ShardStats::next_due_ms`], and proposes an
//! entry without commands when its time has come.
//!
//! [`ShardStats::next_due_ms`]: super::ShardStats::next_due_ms

use bytes::Bytes;
use kvd_types::{
    Revision,
    limits::{DELETE_STEP_BYTES_MAX, EXPIRED_PER_ENTRY_MAX, EXPIRED_PER_ENTRY_MIN},
};

use super::{ShardMachine, keys::size_bytes, pending::Pending};
use crate::{
    Error,
    rows::{self, Due},
};

impl ShardMachine {
    /// Lets an entry's share of what is due happen.
    pub(super) fn expire(
        &mut self,
        clock: Revision,
        commands: usize,
        pending: &mut Pending,
    ) -> Result<(), Error> {
        if self.next_due_ms.is_none_or(|at_age_ms| at_age_ms > self.age_ms) {
            return Ok(());
        }
        let end = self.age_ms.checked_add(1).map_or_else(rows::due_end, rows::due_start);
        let share = match commands {
            0 => EXPIRED_PER_ENTRY_MAX,
            _ => commands.clamp(EXPIRED_PER_ENTRY_MIN, EXPIRED_PER_ENTRY_MAX),
        };
        let (found, _) = pending.first(&self.due_from(), &end, share)?;
        let revision = self.next_revision(clock);
        let mut bytes = 0_u64;
        for (row, _) in found {
            if bytes > DELETE_STEP_BYTES_MAX as u64 {
                break;
            }
            let (at_age_ms, what) = rows::parse_due(&row)?;
            pending.set(row.clone(), None);
            match what {
                Due::Key(key) => {
                    let current = Self::current(&key, pending)?;
                    let lapses = |record: &kvd_types::Record| record.expires_at_age_ms == Some(at_age_ms);
                    let Some(current) = current.filter(|current| lapses(&current.record)) else {
                        return Err(Error::corrupt(&row, "the key does not lapse then"));
                    };
                    bytes = bytes.saturating_add(size_bytes(key.as_bytes().len(), &current.record));
                    self.set(&key, Some(&current), None, revision, pending);
                    self.last_revision = revision;
                }
                Due::Lease(lease) => self.lease_is_due(lease, at_age_ms, pending)?,
                Due::Attachment(lease) => self.forget_attachment(lease, pending)?,
            }
        }
        self.look_for_due(pending)
    }

    /// Finds out when the next thing is due.
    pub(super) fn look_for_due(&mut self, pending: &Pending) -> Result<(), Error> {
        let (found, _) = pending.first(&self.due_from(), &rows::due_end(), 1)?;
        let at = |(row, _): &(Bytes, Bytes)| rows::parse_due(row).map(|(at_age_ms, _)| at_age_ms);
        self.next_due_ms = found.first().map(at).transpose()?;
        Ok(())
    }

    /// Where to look for what is due. Nothing is before what was due next, but in memory it may be full of what has happened.
    fn due_from(&self) -> Bytes {
        rows::due_start(self.next_due_ms.unwrap_or(0))
    }

    /// Notes that something will be due at an age.
    pub(super) fn set_due(&mut self, at_age_ms: u64, what: &Due, pending: &mut Pending) {
        pending.set(rows::due(at_age_ms, what), Some(Bytes::new()));
        self.will_be_due(at_age_ms);
    }

    /// The same, of what has its row already.
    pub(super) fn will_be_due(&mut self, at_age_ms: u64) {
        self.next_due_ms = Some(self.next_due_ms.map_or(at_age_ms, |next| next.min(at_age_ms)));
    }
}
