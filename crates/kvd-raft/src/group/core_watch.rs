//! Watching over a group's core: who leads, elections that find no winner, and a core that has ended by itself.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use kvd_types::{Term, cluster::Replica};
use openraft::{ServerState, async_runtime::WatchReceiver as _};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{Leadership, Raft, elections::Elections, sleeper::Sleeper};
use crate::calls::call;
use crate::state::{Fault, ReplicaState};

/// How often the core is asked whether it is still there.
const CORE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// The same while it sleeps.
const CORE_CHECK_INTERVAL_ASLEEP: Duration = Duration::from_secs(10);

/// Keeps up with who leads, holds back elections that find no winner, and notices when the core ends by itself.
///
/// A replica that has just been opened remembers who led it before. That one counts only once it has been heard: whoever
/// restarts nodes one by one must not be told that all is well by a replica that nobody has spoken to.
pub(super) struct CoreWatch {
    pub(super) raft: Raft,
    pub(super) state: Arc<ReplicaState>,
    pub(super) seen: watch::Sender<Leadership>,
    pub(super) heard: watch::Receiver<bool>,
    pub(super) sleeper: Sleeper,
    pub(super) election_timeout_max: Duration,
    pub(super) hands_over: Arc<AtomicBool>,
    /// Before then it may not ask to be elected.
    pub(super) may_stand_at: Option<Instant>,
}

impl CoreWatch {
    pub(super) async fn run(self, cancelled: CancellationToken) {
        let Self {
            raft,
            state,
            seen,
            mut heard,
            sleeper,
            election_timeout_max,
            hands_over,
            mut may_stand_at,
        } = self;
        let mut held_until = sleeper.held_until();
        let mut metrics = raft.server_metrics();
        let mut elections = Elections::default();
        if may_stand_at.is_some() {
            raft.runtime_config().elect(false);
        }
        loop {
            let (leadership, is_candidate) = {
                let metrics = metrics.borrow_watched();
                let is_self = metrics.state == ServerState::Leader;
                let leader = metrics.current_leader.filter(|_| is_self || *heard.borrow()).and_then(|id| {
                    let node = *metrics.membership_config.get_node(&id)?;
                    Some(Replica { id, node })
                });
                let leadership = Leadership { leader, is_self, term: Term(metrics.vote.leader_id.term) };
                (leadership, metrics.state == ServerState::Candidate)
            };
            let has_leader = leadership.leader.is_some();
            if let Some(range) =
                elections.look(leadership.term, is_candidate, has_leader, election_timeout_max)
            {
                may_stand_at = Some(Instant::now() + range.mul_f64(rand::random_range(0.0..1.0)));
            }
            if may_stand_at.is_some_and(|at| has_leader || at <= Instant::now()) {
                may_stand_at = None;
            }
            // One that has just woken has a leader that is to be heard first.
            let held = held_until.borrow_and_update().filter(|until| *until > Instant::now());
            let stands_at = may_stand_at.max(held);
            raft.runtime_config().elect(stands_at.is_none());
            seen.send_if_modified(|known| {
                let changed = *known != leadership;
                if known.term != leadership.term {
                    hands_over.store(false, Ordering::SeqCst);
                }
                *known = leadership;
                changed
            });
            let check_interval =
                if sleeper.sleeps() { CORE_CHECK_INTERVAL_ASLEEP } else { CORE_CHECK_INTERVAL };
            let ended = tokio::select! {
                () = cancelled.cancelled() => return,
                changed = metrics.changed() => changed.is_err(),
                Ok(()) = heard.changed() => false,
                Ok(()) = held_until.changed() => false,
                () = tokio::time::sleep(check_interval) => false,
                () = sleep_until(stands_at.unwrap_or_else(Instant::now)), if stands_at.is_some() => false,
            };
            if cancelled.is_cancelled() {
                return;
            }
            // A core that panics says nothing more; it is only found out by being asked.
            if let Err(fatal) = call(&raft, |raft| async move { raft.with_raft_state(|_| ()).await }).await
                && !cancelled.is_cancelled()
            {
                state.report(Fault::Core(fatal.to_string()));
                return;
            }
            if ended {
                return;
            }
        }
    }
}
