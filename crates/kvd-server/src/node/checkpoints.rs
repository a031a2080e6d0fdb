//! Which group's checkpoint is due, and taking it.
//!
//! A replica's log can be purged, and a restart is quick, as far as its newest checkpoint reaches. So one is due once the
//! log behind it has grown to a bound: the group's own entries, or the part of the node's shared log that its oldest entry
//! keeps from being used again. They are taken one at a time, of the group that needs it most.
//!
//! A checkpoint is the whole state, so the bound grows with it: where the last one was larger than what is configured, the log
//! may grow to its size, up to [`BOUND_FACTOR_MAX`] times what is configured. So a node with many keys doesn't write checkpoints
//! all the time, and what the log takes of disk and memory (some bytes for each entry) stays bounded.
//!
//! A group that is seldom written to keeps the shared log with few entries of its own, and so do many groups with a part each. In
//! the end each of them writes its state once for as much of the log as one may keep; that is [`PINNED_FACTOR`] times the states
//! of the node together. So checkpoints are a fraction of what the log writes, and where all states are small, the log is short.
//! What bounds the disk comes first, though: nobody keeps more than that many times its own bound, so that on a node with many
//! groups and much data checkpoints may take more than the log does.
//!
//! While a checkpoint is on its way to another replica, the next one waits until the log has grown to
//! [`SENDING_FACTOR`] times what is configured, or to [`SENDING_BOUNDS`] bounds: it would purge the entries that the other
//! replica is to go on from, which would have to be sent the next one, and so on for as long as the group is written to.
//!
//! What is decided here is decided on plain data; the log's growth past all bounds, on a disk without room for a checkpoint,
//! is [`super::full_disk`]'s.

use std::time::Duration;

use kvd_raft::Group;
use kvd_types::Result;
use tokio::{task::JoinHandle, time::Instant};

use super::{Node, hand_over::backed_off};

/// After a checkpoint that could not be written the next one is tried after so long, and twice as long after each further
/// failure…
const PAUSE: Duration = Duration::from_secs(2);
/// …up to this: a full disk is not asked for room all the time.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How many times the checkpoints of the node together a replica may keep of the shared log: at least the least bound, and at
/// most so many times its own.
const PINNED_FACTOR: u64 = 4;
/// How many times what is configured the bound is, at most.
const BOUND_FACTOR_MAX: u64 = 8;
/// How many times what is configured a group's log may grow to while its last checkpoint is being sent…
const SENDING_FACTOR: u64 = 8;
/// …and how many times its bound, where that has grown.
const SENDING_BOUNDS: u64 = 2;

/// What a node remembers of its checkpoints.
#[derive(Default)]
pub(super) struct Checkpoints {
    /// The one that is being taken; whether it was.
    taking: Option<JoinHandle<bool>>,
    /// After some that could not be written: how many in a row, and when the next one is tried.
    failures: u32,
    again_at: Option<Instant>,
}

/// What bears on whether a group's checkpoint is due.
#[derive(Clone, Copy, Debug)]
struct Situation {
    /// The log begins after the newest good checkpoint ends.
    is_lacking: bool,
    /// Something has been applied since the newest.
    is_ahead: bool,
    /// The newest is on its way to another replica.
    is_sending: bool,
    /// Bytes of its entries in the log.
    log_bytes: u64,
    /// Bytes of the node's log that its oldest entry keeps from being used again.
    pinned_bytes: u64,
    /// Bytes of the newest checkpoint.
    checkpoint_bytes: u64,
}

impl Situation {
    fn of(group: &Group) -> Self {
        Self {
            is_lacking: group.lacks_checkpoint(),
            is_ahead: group.is_ahead_of_checkpoint(),
            is_sending: group.sends_checkpoint(),
            log_bytes: group.log_bytes(),
            pinned_bytes: group.pinned_log_bytes(),
            checkpoint_bytes: group.checkpoint_bytes(),
        }
    }

    /// By how many bytes its log is beyond its bound; none: no checkpoint is due.
    fn beyond_bytes(self, node: Bounds) -> Option<u64> {
        if self.is_lacking {
            return Some(u64::MAX);
        }
        let own = self.checkpoint_bytes.min(times(BOUND_FACTOR_MAX, node.least_bytes)).max(node.least_bytes);
        let sending = times(SENDING_FACTOR, node.least_bytes).max(times(SENDING_BOUNDS, own));
        let bound = if self.is_sending { sending } else { own };
        let pinned = times(PINNED_FACTOR, node.checkpoints_bytes).max(node.least_bytes);
        let pinned_bound = if self.is_sending { u64::MAX } else { pinned }.min(times(PINNED_FACTOR, bound));
        let beyond = self.log_bytes.saturating_sub(bound).max(self.pinned_bytes.saturating_sub(pinned_bound));
        (self.is_ahead && beyond > 0).then_some(beyond)
    }
}

/// What all groups of a node have in common.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// The least bound of a group's log.
    least_bytes: u64,
    /// Bytes of the newest checkpoints of all of them.
    checkpoints_bytes: u64,
}

const fn times(factor: u64, bytes: u64) -> u64 {
    bytes.saturating_mul(factor)
}

/// The one of all groups that needs a checkpoint most, if any needs one.
fn neediest<T>(groups: impl IntoIterator<Item = (Situation, T)>, node: Bounds) -> Option<T> {
    let due =
        groups.into_iter().filter_map(|(situation, group)| Some((situation.beyond_bytes(node)?, group)));
    due.max_by_key(|(beyond, _)| *beyond).map(|(_, group)| group)
}

impl Node {
    /// Begins the next checkpoint, if the last one is done and another is due. Groups that sleep are looked at only if asked for.
    pub(super) async fn take_checkpoints(
        &self,
        checkpoints: &mut Checkpoints,
        sleepers_too: bool,
    ) -> Result<()> {
        if checkpoints.taking.as_ref().is_some_and(|taking| !taking.is_finished()) {
            return Ok(());
        }
        if let Some(ended) = checkpoints.taking.take() {
            if ended.await.unwrap_or(false) {
                checkpoints.failures = 0;
                checkpoints.again_at = None;
            } else {
                let pause = backed_off(PAUSE, checkpoints.failures, PAUSE_MAX);
                checkpoints.failures = checkpoints.failures.saturating_add(1);
                checkpoints.again_at = Some(Instant::now() + pause);
            }
        }
        if checkpoints.again_at.is_some_and(|at| Instant::now() < at) {
            return Ok(());
        }
        let groups = self.replicas()?.all();
        let node = Bounds {
            least_bytes: self.config.storage.checkpoint_log_bytes,
            checkpoints_bytes: groups.iter().map(Group::checkpoint_bytes).fold(0, u64::saturating_add),
        };
        let groups = groups.into_iter().filter(|group| sleepers_too || !group.sleeps());
        let group = neediest(groups.map(|group| (Situation::of(&group), group)), node);
        checkpoints.taking = group.map(|group| {
            tokio::spawn(async move {
                let taken = group.checkpoint().await;
                match &taken {
                    Ok(()) => tracing::debug!(group = %group.id(), "checkpoint taken"),
                    Err(error) => tracing::warn!(group = %group.id(), %error, "no checkpoint was taken"),
                }
                taken.is_ok()
            })
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUND_BYTES: u64 = 100;
    const IDLE: Situation = Situation {
        is_lacking: false,
        is_ahead: false,
        is_sending: false,
        log_bytes: 0,
        pinned_bytes: 0,
        checkpoint_bytes: 0,
    };
    const fn grown(log_bytes: u64) -> Situation {
        Situation { is_ahead: true, log_bytes, ..IDLE }
    }

    fn due(groups: &[Situation]) -> Option<usize> {
        let checkpoints_bytes =
            groups.iter().map(|group| group.checkpoint_bytes).fold(0, u64::saturating_add);
        neediest(groups.iter().copied().zip(0..), Bounds { least_bytes: BOUND_BYTES, checkpoints_bytes })
    }

    #[test]
    fn the_group_whose_log_has_grown_most_comes_first() {
        assert_eq!(due(&[IDLE, grown(BOUND_BYTES)]), None);
        assert_eq!(due(&[grown(102), grown(103), grown(101), IDLE]), Some(1));
        // Whatever it has in the log is in the checkpoint already, and is about to be purged.
        assert_eq!(due(&[Situation { is_ahead: false, ..grown(1000) }]), None);
    }

    #[test]
    fn no_group_keeps_more_of_the_shared_log_than_the_checkpoints_of_all_are_worth() {
        let pins = |pinned_bytes| Situation { pinned_bytes, ..grown(1) };
        let of = |checkpoint_bytes| Situation { checkpoint_bytes, ..IDLE };
        // Where they cost little, the log is given back early,
        assert_eq!(due(&[pins(BOUND_BYTES), of(1)]), None);
        assert_eq!(due(&[pins(BOUND_BYTES + 1), grown(1), of(1)]), Some(0));
        // where they cost much, when it is worth that,
        assert_eq!(due(&[pins(PINNED_FACTOR * 50), of(20), of(30)]), None);
        assert_eq!(due(&[pins(PINNED_FACTOR * 50 + 1), grown(1), of(20), of(30)]), Some(0));
        // and nobody keeps more than so many times its own bound,
        assert_eq!(due(&[pins(PINNED_FACTOR * BOUND_BYTES), of(u64::MAX)]), None);
        assert_eq!(due(&[pins(PINNED_FACTOR * BOUND_BYTES + 1), of(u64::MAX)]), Some(0));
        // which is larger while a checkpoint is on its way.
        let sends = |pinned_bytes| Situation { is_sending: true, ..pins(pinned_bytes) };
        let most_bytes = PINNED_FACTOR * SENDING_FACTOR * BOUND_BYTES;
        assert_eq!(due(&[sends(most_bytes)]), None);
        assert_eq!(due(&[sends(most_bytes + 1)]), Some(0));
    }

    #[test]
    fn where_the_state_is_large_the_log_may_grow_to_its_size() {
        let large = |log_bytes| Situation { checkpoint_bytes: 6 * BOUND_BYTES, ..grown(log_bytes) };
        assert_eq!(due(&[large(6 * BOUND_BYTES)]), None);
        assert_eq!(due(&[large(6 * BOUND_BYTES + 1)]), Some(0));
        let huge = |log_bytes| Situation { checkpoint_bytes: u64::MAX, ..grown(log_bytes) };
        assert_eq!(due(&[huge(BOUND_FACTOR_MAX * BOUND_BYTES)]), None);
        assert_eq!(due(&[huge(BOUND_FACTOR_MAX * BOUND_BYTES + 1)]), Some(0));
        // A small one does not make it less.
        let small = |log_bytes| Situation { checkpoint_bytes: 1, ..grown(log_bytes) };
        assert_eq!(due(&[small(BOUND_BYTES)]), None);
        let sending = |log_bytes| Situation { is_sending: true, ..large(log_bytes) };
        assert_eq!(due(&[sending(SENDING_BOUNDS * 6 * BOUND_BYTES)]), None);
        assert_eq!(due(&[sending(SENDING_BOUNDS * 6 * BOUND_BYTES + 1)]), Some(0));
    }

    #[test]
    fn one_without_a_checkpoint_that_its_log_goes_on_from_comes_before_all_others() {
        let lacking = Situation { is_lacking: true, ..IDLE };
        assert_eq!(due(&[grown(u64::MAX / 2), lacking]), Some(1));
        assert_eq!(due(&[grown(u64::MAX / 2), Situation { is_sending: true, ..lacking }]), Some(1));
    }

    #[test]
    fn a_replica_that_is_being_sent_a_checkpoint_is_not_overtaken_by_the_next_one() {
        let sending = |log_bytes| Situation { is_sending: true, ..grown(log_bytes) };
        assert_eq!(due(&[sending(2 * BOUND_BYTES)]), None);
        assert_eq!(due(&[sending(3 * BOUND_BYTES), grown(BOUND_BYTES + 1)]), Some(1));
        // But the log does not grow for ever.
        assert_eq!(due(&[sending(SENDING_FACTOR * (BOUND_BYTES + 1))]), Some(0));
    }
}
