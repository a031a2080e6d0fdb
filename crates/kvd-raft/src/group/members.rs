//! Who is a member of a group, and changing it.
//!
//! Openraft's own calls are wrapped so that none of them can wait for ever or hit a membership that has changed since
//! it was looked at: learners are added without waiting, their lag is read from the metrics, and a change is made only
//! if the last membership entry is still the one that the caller decided on.

use std::sync::atomic;
use std::{future::Future, time::Duration};

use openraft::{
    ChangeMembers, Instant as _, Precondition, TokioInstant, async_runtime::WatchReceiver as _,
    errors::ClientWriteError, metrics::SerdeInstant, raft::ClientWriteResponse,
};

use super::{
    BTreeMap, BTreeSet, Error, ErrorKind, Group, LogIndex, NodeId, RaftError, Replica, ReplicaId, Result,
};
use crate::{
    calls::call,
    types::{LogId, TypeConfig},
};

type ChangeError = RaftError<TypeConfig, ClientWriteError<TypeConfig>>;

/// How long a change of the members may take.
const CHANGE_PATIENCE: Duration = Duration::from_secs(3);
/// How many entries a replica may lack and still count as caught up.
const CAUGHT_UP_ENTRIES: u64 = 256;

/// A group's members, as its leader sees them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members {
    /// The voters.
    pub voters: BTreeMap<ReplicaId, NodeId>,
    /// The others.
    pub learners: BTreeMap<ReplicaId, NodeId>,
    /// What a change that is under way leads to: two sets of voters hold at once, and these are the new ones.
    pub changing_to: Option<BTreeSet<ReplicaId>>,
    /// How far each member's log is known to match; only a leader knows.
    matching: BTreeMap<ReplicaId, Option<LogIndex>>,
    /// The members that have answered a heartbeat within an election timeout, or whose nodes have asked for this one's pulse
    /// if they sleep; only a leader knows.
    alive: BTreeSet<ReplicaId>,
    last_log_index: Option<LogIndex>,
    decided_by: Option<LogId>,
}

impl Members {
    /// Whether a member answers, and has all but the last few entries. One that is dead has caught up with an idle group
    /// too, and must not be counted on.
    #[must_use]
    pub fn is_caught_up(&self, replica: ReplicaId) -> bool {
        if !self.alive.contains(&replica) {
            return false;
        }
        let last = self.last_log_index.map_or(0, LogIndex::get);
        match self.matching.get(&replica) {
            Some(Some(matching)) => matching.get().saturating_add(CAUGHT_UP_ENTRIES) >= last,
            Some(None) | None => false,
        }
    }
}

impl Group {
    /// The members. Meaningful at the leader.
    #[must_use]
    pub fn members(&self) -> Members {
        let metrics = self.metrics();
        let membership = metrics.membership_config.membership();
        let voter_ids: BTreeSet<ReplicaId> = membership.voter_ids().collect();
        let (voters, learners) =
            membership.nodes().map(|(&id, &node)| (id, node)).partition(|(id, _)| voter_ids.contains(id));
        let matching = metrics
            .replication
            .iter()
            .flatten()
            .map(|(&id, matching)| (id, matching.as_ref().map(|log_id| LogIndex(log_id.index()))));
        let changing_to = match membership.get_joint_config().as_slice() {
            [] | [_] => None,
            [.., last] => Some(last.clone()),
        };
        let patience = self.0.timing.election_timeout_max;
        let heard_lately = |acked: &Option<SerdeInstant<TokioInstant>>| {
            acked.as_ref().is_some_and(|acked| acked.elapsed() <= patience)
        };
        let mut alive: BTreeSet<ReplicaId> = metrics
            .heartbeat
            .iter()
            .flatten()
            .filter(|(_, acked)| heard_lately(acked))
            .map(|(&id, _)| id)
            .collect();
        alive.insert(self.replica());
        let asleep = membership.nodes().filter(|(_, node)| self.0.sleeper.has_asleep(**node));
        alive.extend(asleep.map(|(&id, _)| id));
        Members {
            alive,
            voters,
            learners,
            changing_to,
            matching: matching.collect(),
            last_log_index: metrics.last_log_index.map(LogIndex),
            decided_by: *metrics.membership_config.log_id(),
        }
    }

    /// Adds a replica that follows without a vote, without waiting until it has caught up.
    ///
    /// # Errors
    /// Not leader, or unavailable; unknown if the change may still be made.
    pub async fn add_learner(&self, replica: Replica) -> Result<()> {
        let added =
            call(
                &self.0.raft,
                move |raft| async move { raft.add_learner(replica.id, replica.node, false).await },
            );
        self.change(added).await
    }

    /// Makes these learners voters and these voters nothing, if the membership is still the one that was looked at.
    /// Replicas that are neither are left as they are.
    ///
    /// # Errors
    /// Not leader, or unavailable; unknown if the change may still be made.
    pub async fn change_voters(&self, looked_at: &Members, voters: BTreeSet<ReplicaId>) -> Result<()> {
        self.change_members(looked_at, ChangeMembers::ReplaceAllVoters(voters)).await
    }

    /// Takes learners out of the group, if the membership is still the one that was looked at.
    ///
    /// # Errors
    /// Not leader, or unavailable; unknown if the change may still be made.
    pub async fn remove_learners(&self, looked_at: &Members, replicas: BTreeSet<ReplicaId>) -> Result<()> {
        self.change_members(looked_at, ChangeMembers::RemoveNodes(replicas)).await
    }

    async fn change_members(
        &self,
        looked_at: &Members,
        change: ChangeMembers<ReplicaId, NodeId>,
    ) -> Result<()> {
        let last_membership_log_id = looked_at.decided_by;
        let unchanged = [Precondition::LastMembershipLogId { last_membership_log_id }];
        let changed =
            call(
                &self.0.raft,
                |raft| async move { raft.change_membership_if(change, true, unchanged).await },
            );
        self.change(changed).await
    }

    /// Waits for a change, but not for ever: without a majority it would never end.
    async fn change(
        &self,
        changed: impl Future<Output = Result<ClientWriteResponse<TypeConfig>, ChangeError>> + Send,
    ) -> Result<()> {
        fail::fail_point!(crate::failpoints::MEMBERS_BEFORE_CHANGE);
        self.0.sleeper.ready().await;
        let changed = tokio::time::timeout(CHANGE_PATIENCE, changed).await;
        fail::fail_point!(crate::failpoints::MEMBERS_AFTER_CHANGE);
        match changed {
            Ok(changed) => changed.map(drop).map_err(|error| self.change_failed(&error)),
            Err(_elapsed) => {
                Err(Error::unknown(format!("the members of group {} did not change in time", self.id())))
            }
        }
    }

    fn change_failed(&self, error: &ChangeError) -> Error {
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
                Error::new(ErrorKind::NotLeader(None), forward.to_string())
            }
            RaftError::APIError(ClientWriteError::ChangeMembershipError(refused)) => {
                Error::new(ErrorKind::FailedPrecondition, refused.to_string())
            }
            RaftError::APIError(other) => Error::unknown(other.to_string()),
            RaftError::Fatal(fatal) => self.stopped(fatal),
        }
    }

    /// Hands leadership to a voter that has caught up, and waits until it leads.
    ///
    /// # Errors
    /// Not leader: this replica does not lead, or no longer. Failed precondition: the target is no voter or has not caught
    /// up. Unavailable: it has not taken over in time (a transfer never aborts by itself, so it still may).
    pub async fn transfer_leader(&self, to: ReplicaId, patience: Duration) -> Result<()> {
        if self.leadership().leader.is_some_and(|leader| leader.id == to) {
            return Ok(());
        }
        if !self.leadership().is_self {
            let why = format!("replica {} does not lead group {}", self.replica(), self.id());
            return Err(Error::new(ErrorKind::NotLeader(None), why));
        }
        let refuse = |why: String| Error::new(ErrorKind::FailedPrecondition, why);
        let members = self.members();
        if !members.voters.contains_key(&to) {
            return Err(refuse(format!("replica {to} is no voter of group {}", self.id())));
        }
        if !members.is_caught_up(to) {
            return Err(refuse(format!(
                "replica {to} of group {} has not caught up with its leader",
                self.id()
            )));
        }
        fail::fail_point!(crate::failpoints::TRANSFER_BEFORE);
        self.0.sleeper.ready().await;
        self.0.hands_over.store(true, atomic::Ordering::SeqCst);
        call(&self.0.raft, move |raft| async move { raft.trigger().transfer_leader(to).await })
            .await
            .map_err(|fatal| self.stopped(&fatal))?;
        let mut metrics = self.0.raft.metrics();
        let taken_over = async {
            while metrics.borrow_watched().current_leader != Some(to) {
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        };
        let in_time = tokio::time::timeout(patience, taken_over).await;
        in_time.map_err(|_elapsed| {
            Error::unavailable(format!("replica {to} has not taken over group {} in time", self.id()))
        })
    }
}
