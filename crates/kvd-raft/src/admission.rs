//! Whether one more command may wait for a group's leader.
//!
//! At the bounds ([`PROPOSAL_QUEUE_MAX`] commands or [`PROPOSAL_QUEUE_BYTES_MAX`] bytes waiting) a command is refused, at once
//! and unapplied. That is what memory allows, and on a slow machine more than can be answered in good time. So beyond
//! [`PROPOSAL_QUEUE_MIN`] one is refused also if what went into the log last had waited longer than [`PROPOSAL_WAIT_MAX`].
//!
//! That second bound is for what users ask for. What the cluster itself lives by, keep-alives, what shards tell each other of
//! leases, and what changes the cluster, is let in up to the first: it is little, and a lease must not end because others write
//! much.

use std::{
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use kvd_types::limits::{
    PROPOSAL_QUEUE_BYTES_MAX, PROPOSAL_QUEUE_MAX, PROPOSAL_QUEUE_MIN, PROPOSAL_WAIT_MAX,
};

/// What waits, and for how long.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    bytes: AtomicUsize,
    /// What was taken out last had waited too long.
    waits_long: AtomicBool,
}

impl Admission {
    /// Takes in a command of so many bytes, behind so many others; one that is vital however long they have waited.
    ///
    /// # Errors
    /// What waits already, if that is too much.
    pub(crate) fn admit(&self, size_bytes: usize, waiting: usize, is_vital: bool) -> Result<(), String> {
        let is_slow = !is_vital && self.waits_long.load(Ordering::Relaxed);
        if waiting >= if is_slow { PROPOSAL_QUEUE_MIN } else { PROPOSAL_QUEUE_MAX } {
            return Err(format!("{waiting} requests"));
        }
        let before = self.bytes.fetch_add(size_bytes, Ordering::Relaxed);
        if before + size_bytes > PROPOSAL_QUEUE_BYTES_MAX {
            self.left(size_bytes);
            return Err(format!("{before} bytes"));
        }
        Ok(())
    }

    /// Commands with so many bytes wait no longer.
    pub(crate) fn left(&self, size_bytes: usize) {
        self.bytes.fetch_sub(size_bytes, Ordering::Relaxed);
    }

    /// The command that has waited longest, so long, goes into the log.
    pub(crate) fn waited(&self, waited: Duration) {
        self.waits_long.store(waited > PROPOSAL_WAIT_MAX, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_may_wait_as_there_is_room_for_if_they_do_not_wait_long() {
        let admission = Admission::default();
        assert_eq!(admission.admit(1, PROPOSAL_QUEUE_MAX - 1, false), Ok(()));
        assert_eq!(
            admission.admit(1, PROPOSAL_QUEUE_MAX, false),
            Err(format!("{PROPOSAL_QUEUE_MAX} requests"))
        );
    }

    #[test]
    fn fewer_may_wait_while_they_wait_long() {
        let admission = Admission::default();
        admission.waited(PROPOSAL_WAIT_MAX + Duration::from_millis(1));
        assert_eq!(admission.admit(1, PROPOSAL_QUEUE_MIN - 1, false), Ok(()));
        assert!(admission.admit(1, PROPOSAL_QUEUE_MIN, false).is_err());
        assert_eq!(admission.admit(1, PROPOSAL_QUEUE_MAX - 1, true), Ok(()), "a lease would end");
        assert!(admission.admit(1, PROPOSAL_QUEUE_MAX, true).is_err());
        admission.waited(PROPOSAL_WAIT_MAX);
        assert_eq!(admission.admit(1, PROPOSAL_QUEUE_MIN, false), Ok(()));
    }

    #[test]
    fn bytes_are_bounded_and_what_is_refused_takes_none() {
        let admission = Admission::default();
        assert_eq!(admission.admit(PROPOSAL_QUEUE_BYTES_MAX, 0, false), Ok(()));
        assert_eq!(admission.admit(1, 1, false), Err(format!("{PROPOSAL_QUEUE_BYTES_MAX} bytes")));
        admission.left(PROPOSAL_QUEUE_BYTES_MAX);
        assert_eq!(admission.admit(PROPOSAL_QUEUE_BYTES_MAX, 0, false), Ok(()));
    }
}
