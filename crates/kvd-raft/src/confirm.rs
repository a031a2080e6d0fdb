//! A leader makes sure that it leads, beside the log.
//!
//! # The problem
//! A leader that answers a read must know that nobody else had been elected when it was asked (the ReadIndex protocol;
//! Ongaro's thesis, section 6.4). Openraft asks by heartbeats, and a follower answers one only once it has synced what it
//! was sent before: under writes each read waits for a disk. And everything about a group goes through one task.
//!
//! # The approach
//! The question is asked of the followers' *votes* instead: what is the latest term that you have voted in, or have heard a
//! leader of? The log tells at once. The leader leads if of a majority of each set of voters nobody names a later term.
//!
//! # Why that is enough
//! - *Nobody else was elected before.* A leader of a later term has had the votes of a majority. It has one replica at least
//!   in common with those that have answered; and a replica that has voted says so from before its vote counts: the vote is in
//!   its log, in memory, before it is on disk, and on disk before it is sent. It survives a restart. So one that names no
//!   later term had not voted in one when it was asked, which was after the read had come.
//! - *The voters are the right ones.* They are those of the newest membership in this leader's log, or of the one before: the
//!   core tells of each at the end of the step in which it is appended, so that nothing of the next one can have gone out. While
//!   voters change, two sets decide together; whichever of them a later leader was elected by, it is one of those asked.
//! - *Nothing is missing.* What was acknowledged by this leader was applied here before. What was by those before it is below this
//!   leader's own first entry: until that is applied openraft is asked instead. And what anybody may have been *shown* by a
//!   follower was committed; followers learn that from this leader's messages, so the highest index that was ever put into one
//!   ([`CommittedTold`]) is waited for too.
//!
//! Whoever answers must not be a copy of a voter that has forgotten its votes: the transport sees to that, as for all
//! messages between replicas.
//!
//! # What it deliberately does not do
//! It doesn't renew leases, nor tell followers anything: heartbeats go on as they are, and a group that sleeps sleeps on. It has no clock, so nothing here
//! depends on clocks.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kvd_proto::peer::v1::{self as p, envelope::Body};
use kvd_storage::log::ReplicaLog;
use kvd_types::{Error, ErrorKind, GroupId, LogIndex, NodeId, ReplicaId, Result, Term};
use openraft::{ServerState, async_runtime::WatchReceiver as _};

use crate::{
    codec,
    group::Raft,
    transport::{Lane, Transport},
};

/// The highest index that followers were told is committed.
#[derive(Clone, Debug, Default)]
pub(crate) struct CommittedTold(Arc<AtomicU64>);

impl CommittedTold {
    /// Notes it, before the message goes.
    pub(crate) fn note(&self, index: u64) {
        self.0.fetch_max(index, Ordering::SeqCst);
    }

    fn get(&self) -> LogIndex {
        LogIndex(self.0.load(Ordering::SeqCst))
    }
}

/// Asks a group's voters.
#[derive(Clone)]
pub(crate) struct Voters {
    pub(crate) group: GroupId,
    pub(crate) replica: ReplicaId,
    pub(crate) raft: Raft,
    pub(crate) log: ReplicaLog,
    pub(crate) transport: Arc<dyn Transport>,
    pub(crate) told: CommittedTold,
    pub(crate) patience: Duration,
}

/// What a leader knows of itself.
struct Led {
    term: Term,
    /// One set, or two while voters change.
    sets: Vec<BTreeSet<ReplicaId>>,
    nodes: BTreeMap<ReplicaId, NodeId>,
}

impl Voters {
    /// Confirms that this replica led when this was called, and gives the index up to which the log must be applied for a read
    /// of what is applied then not to miss anything. None: it may lead, and has not applied an entry of its own yet.
    ///
    /// # Errors
    /// Not leader; unavailable, if no majority answers.
    pub(crate) async fn confirm(&self) -> Result<Option<LogIndex>> {
        let Some(led) = self.led()? else { return Ok(None) };
        let index = self.told.get();
        let mut agreed = BTreeSet::from([self.replica]);
        let others = led.nodes.iter().filter(|(replica, _)| **replica != self.replica);
        let mut answers: FuturesUnordered<_> =
            others.map(|(&replica, &node)| self.ask(replica, node, led.term)).collect();
        while !has_majority_of_each(&led.sets, &agreed) {
            match answers.next().await {
                Some((replica, Some(voted))) if voted <= led.term => {
                    agreed.insert(replica);
                }
                Some((replica, Some(voted))) => return Err(overtaken(replica, voted)),
                Some((_, None)) => {}
                None => return Err(no_majority()),
            }
        }
        Ok(Some(index))
    }

    fn led(&self) -> Result<Option<Led>> {
        let led = {
            let mut metrics = self.raft.metrics();
            let seen = metrics.borrow_and_update();
            if seen.state != ServerState::Leader {
                return Err(Error::new(ErrorKind::NotLeader(None), "this replica does not lead"));
            }
            let term = seen.current_term;
            if seen.last_applied.is_none_or(|id| id.committed_leader_id().term != term) {
                return Ok(None);
            }
            let membership = seen.membership_config.membership();
            let sets = membership.get_joint_config().clone();
            let voters =
                membership.nodes().filter(|(replica, _)| sets.iter().any(|set| set.contains(replica)));
            let nodes = voters.map(|(&replica, &node)| (replica, node)).collect();
            Led { term: Term(term), sets, nodes }
        };
        match latest_term(&self.log)? {
            voted if voted > led.term => Err(overtaken(self.replica, voted)),
            _ => Ok(Some(led)),
        }
    }

    /// The latest term that a replica has voted in; none if it does not answer.
    async fn ask(&self, to: ReplicaId, node: NodeId, term: Term) -> (ReplicaId, Option<Term>) {
        let message = p::Envelope {
            call: 0,
            group: self.group.get(),
            from_replica: self.replica.get(),
            to_replica: to.get(),
            body: Some(Body::ConfirmLeader(p::ConfirmLeaderRequest { term: term.get() })),
        };
        let answer = self.transport.call(node, Lane::Control, message, self.patience).await;
        match answer.map(|envelope| envelope.body) {
            Ok(Some(Body::ConfirmLeaderResponse(response))) => (to, Some(Term(response.term))),
            _ => (to, None),
        }
    }
}

/// The latest term that a replica has voted in, or has heard a leader of.
pub(crate) fn latest_term(log: &ReplicaLog) -> Result<Term> {
    let vote = log.state().vote.map(codec::decode_vote).transpose()?;
    Ok(Term(vote.map_or(0, |vote| vote.leader_id().term)))
}

fn has_majority_of_each(sets: &[BTreeSet<ReplicaId>], agreed: &BTreeSet<ReplicaId>) -> bool {
    !sets.is_empty() && sets.iter().all(|set| 2 * set.intersection(agreed).count() > set.len())
}

fn overtaken(replica: ReplicaId, voted: Term) -> Error {
    let what = format!("this replica does not lead: replica {replica} has voted in term {voted}");
    Error::new(ErrorKind::NotLeader(None), what)
}

/// That nobody has confirmed a leader.
pub(crate) fn no_majority() -> Error {
    Error::unavailable("no majority of the group's replicas confirmed this leader in time")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(replicas: &[u64]) -> BTreeSet<ReplicaId> {
        replicas.iter().copied().map(ReplicaId).collect()
    }

    #[test]
    fn a_majority_of_each_set_of_voters_is_needed() {
        for (sets, agreed, is_enough) in [
            (vec![set(&[1])], set(&[1]), true),
            (vec![set(&[1, 2, 3])], set(&[1]), false),
            (vec![set(&[1, 2, 3])], set(&[1, 3]), true),
            (vec![set(&[1, 2, 3])], set(&[1, 4, 5]), false),
            (vec![set(&[1, 2, 3, 4])], set(&[1, 2]), false),
            (vec![set(&[1, 2, 3]), set(&[3, 4, 5])], set(&[1, 2]), false),
            (vec![set(&[1, 2, 3]), set(&[3, 4, 5])], set(&[1, 3, 4]), true),
            (vec![], set(&[1]), false),
        ] {
            assert_eq!(has_majority_of_each(&sets, &agreed), is_enough, "{agreed:?} of {sets:?}");
        }
    }
}
