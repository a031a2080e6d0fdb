//! Who is to lead in place of this node's replica, and when that is tried.
//!
//! While a hand-over is tried nothing is written, and one that fails takes seconds. So one that has failed is left alone
//! for a while, and twice as long after each further failure. That counts for each replica by itself: a leader that must
//! go (its disk is full, or its node is drained) tries the next one, and does not stay because the first one that it
//! asked can't lead either.
//!
//! The target is asked before anything else, for a hand-over can't be called off: once it has begun, the leader takes no
//! writes and says nothing until somebody has been elected, and that may be anybody, the one that refused included. A group
//! whose preferred leader's disk is full would go to and fro for as long as it is.
//!
//! What is decided here is decided on plain data: what a node sees goes in, what it is to do comes out.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kvd_proto::peer::v1::{self as p, envelope::Body};
use kvd_raft::{Group, Lane, Transport as _};
use kvd_types::{Error, GroupId, ReplicaId, Result};
use tokio::time::Instant;

use super::Node;

/// A replica that has not taken over is left alone for so long…
const PAUSE: Duration = Duration::from_secs(5);
/// …and twice as long after each further failure, up to this. So long after its pause a failure is forgotten.
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// What bears on who should lead a group that this node leads.
#[derive(Clone, Debug)]
pub(super) struct Situation {
    /// This node's replica.
    pub(super) own: ReplicaId,
    /// The one that should lead if it can.
    pub(super) preferred: ReplicaId,
    /// The voters that could: they answer, have caught up, and are not on nodes that are drained.
    pub(super) fit: BTreeSet<ReplicaId>,
    /// This node should not lead, whoever prefers it.
    pub(super) must_go: bool,
}

/// What came of a hand-over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandedOver {
    /// There was none.
    NotTried,
    /// The other one leads.
    Done,
    /// This one did not take over in time.
    Failed(ReplicaId),
}

/// A replica's hand-overs that have failed, in a row.
#[derive(Clone, Copy, Debug)]
struct Failures {
    /// How many there were before the last one.
    earlier: u32,
    /// When it is tried again.
    again_at: Instant,
}

/// The hand-overs that have failed.
#[derive(Clone, Debug, Default)]
pub(super) struct HandOvers(BTreeMap<(GroupId, ReplicaId), Failures>);

impl HandOvers {
    /// The replica to hand a group over to now: the preferred one, or any that can while this node should not lead.
    pub(super) fn target(&self, group: GroupId, situation: &Situation, now: Instant) -> Option<ReplicaId> {
        let Situation { own, preferred, ref fit, must_go } = *situation;
        let others = fit.iter().copied().filter(|_| must_go);
        std::iter::once(preferred).chain(others).find(|&replica| {
            replica != own
                && fit.contains(&replica)
                && self.0.get(&(group, replica)).is_none_or(|failed| failed.again_at <= now)
        })
    }

    /// Takes note of what came of a group's hand-over.
    pub(super) fn note(&mut self, group: GroupId, handed_over: HandedOver, now: Instant) {
        match handed_over {
            HandedOver::NotTried => {}
            HandedOver::Done => self.0.retain(|&(of, _), _| of != group),
            HandedOver::Failed(to) => {
                self.0.retain(|_, failed| now < failed.again_at + PAUSE_MAX);
                let failed = self.0.get(&(group, to));
                let earlier = failed.map_or(0, |failed| failed.earlier.saturating_add(1));
                let again_at = now + backed_off(PAUSE, earlier, PAUSE_MAX);
                self.0.insert((group, to), Failures { earlier, again_at });
            }
        }
    }
}

/// The pause after a failure: the first one's, doubled for each earlier failure in a row, up to a bound.
pub(super) fn backed_off(first: Duration, earlier: u32, max: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(earlier)).min(max)
}

impl Node {
    /// Hands a group that this node leads over to a replica that would lead it.
    ///
    /// # Errors
    /// Unavailable: it would not, or has not taken over in time. Else as [`Group::transfer_leader`].
    pub(super) async fn hand_over(&self, group: &Group, to: ReplicaId, patience: Duration) -> Result<()> {
        let Some(&node) = group.members().voters.get(&to) else {
            return group.transfer_leader(to, patience).await;
        };
        // In no leader's name, so that no replica heeds it.
        let in_no_name = p::TransferLeaderRequest {
            from_leader: Some(p::Vote::default()),
            to_replica: to.get(),
            last_log: None,
        };
        let question = p::Envelope {
            call: 0,
            group: group.id().get(),
            from_replica: group.replica().get(),
            to_replica: to.get(),
            body: Some(Body::TransferLeader(in_no_name)),
        };
        let asked = Instant::now();
        let answer = self.network()?.call(node, Lane::Control, question, patience).await;
        answer.map_err(|error| Error::unavailable(format!("it would not lead: {error}")))?;
        group.transfer_leader(to, patience.saturating_sub(asked.elapsed())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(1);

    fn situation(own: u64, preferred: u64, fit: &[u64], must_go: bool) -> Situation {
        Situation {
            own: ReplicaId(own),
            preferred: ReplicaId(preferred),
            fit: fit.iter().copied().map(ReplicaId).collect(),
            must_go,
        }
    }

    #[test]
    fn the_preferred_replica_leads_and_any_other_only_in_place_of_one_that_must_go() {
        for (own, preferred, fit, must_go, target) in [
            (1, 1, &[1, 2, 3][..], false, None),
            (1, 2, &[1, 2, 3], false, Some(2)),
            // Nobody else is asked while this one may stay.
            (1, 2, &[1, 3], false, None),
            // Preferred or not, it goes, and not to itself.
            (1, 1, &[1, 2, 3], true, Some(2)),
            (1, 3, &[1, 2, 3], true, Some(3)),
            (1, 3, &[1, 2], true, Some(2)),
            (2, 2, &[2, 3], true, Some(3)),
            (1, 1, &[1], true, None),
            (1, 2, &[], true, None),
        ] {
            let situation = situation(own, preferred, fit, must_go);
            let found = HandOvers::default().target(GROUP, &situation, Instant::now());
            assert_eq!(found, target.map(ReplicaId), "{situation:?}");
        }
    }

    #[test]
    fn a_replica_that_did_not_take_over_is_left_alone_for_longer_each_time() {
        let (mut books, mut now) = (HandOvers::default(), Instant::now());
        let situation = situation(1, 2, &[1, 2, 3], false);
        for pause_s in [5, 10, 20, 40, 80, 160, 300, 300] {
            assert_eq!(books.target(GROUP, &situation, now), Some(ReplicaId(2)));
            books.note(GROUP, HandedOver::Failed(ReplicaId(2)), now);
            let again_at = now + Duration::from_secs(pause_s);
            assert_eq!(books.target(GROUP, &situation, again_at - Duration::from_millis(1)), None);
            let other_group = books.target(GroupId(2), &situation, now);
            assert_eq!(other_group, Some(ReplicaId(2)), "what failed there says nothing of here");
            now = again_at;
        }
        // It has led since, so that it can.
        books.note(GROUP, HandedOver::Failed(ReplicaId(2)), now);
        books.note(GROUP, HandedOver::Done, now);
        assert_eq!(books.target(GROUP, &situation, now), Some(ReplicaId(2)));
        books.note(GROUP, HandedOver::Failed(ReplicaId(2)), now);
        assert_eq!(books.target(GROUP, &situation, now + PAUSE), Some(ReplicaId(2)), "the count begins anew");
    }

    #[test]
    fn one_that_must_go_asks_the_next_replica_after_one_that_did_not_take_over() {
        let (mut books, now) = (HandOvers::default(), Instant::now());
        let situation = situation(1, 2, &[1, 2, 3], true);
        assert_eq!(books.target(GROUP, &situation, now), Some(ReplicaId(2)));
        books.note(GROUP, HandedOver::Failed(ReplicaId(2)), now);
        assert_eq!(books.target(GROUP, &situation, now), Some(ReplicaId(3)));
        books.note(GROUP, HandedOver::Failed(ReplicaId(3)), now);
        assert_eq!(books.target(GROUP, &situation, now), None, "both are left alone");
        assert_eq!(books.target(GROUP, &situation, now + PAUSE), Some(ReplicaId(2)));
    }

    #[test]
    fn a_failure_is_forgotten_long_after_its_pause() {
        let (mut books, now) = (HandOvers::default(), Instant::now());
        books.note(GROUP, HandedOver::Failed(ReplicaId(2)), now);
        books.note(GROUP, HandedOver::NotTried, now + PAUSE + PAUSE_MAX);
        assert_eq!(books.0.len(), 1);
        books.note(GROUP, HandedOver::Failed(ReplicaId(3)), now + PAUSE + PAUSE_MAX);
        let left: Vec<_> = books.0.keys().copied().collect();
        assert_eq!(left, [(GROUP, ReplicaId(3))]);
    }

    #[test]
    fn a_pause_doubles_up_to_its_bound_however_many_failures_there_were() {
        let (first, max) = (Duration::from_secs(2), Duration::from_secs(60));
        let pauses = [0, 1, 4, 5, 31, 32, u32::MAX].map(|earlier| backed_off(first, earlier, max).as_secs());
        assert_eq!(pauses, [2, 4, 32, 60, 60, 60, 60]);
    }
}
