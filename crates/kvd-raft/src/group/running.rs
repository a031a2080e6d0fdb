//! What serves a replica once its core runs: the proposer, the rounds of reads, and whoever watches over the core.

use std::sync::{Arc, atomic::AtomicBool};

use kvd_machine::Machine;
use kvd_storage::log::ReplicaLog;
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    Group, Inner, Leadership, Raft, SleepOptions, Timing,
    core_watch::CoreWatch,
    sleeper::{Sleeper, SleeperParts},
};
use crate::{
    clock::Clock,
    confirm::Voters,
    pace::HistoryOptions,
    propose::{ProposalQueue, ProposerParts},
    read::{Confirmation, LEASE_BELIEVED, ReadParts, ReadQueue},
    state::ReplicaState,
};

/// What it takes to read by a leader's lease.
pub(super) struct LeaseReads {
    pub(super) reads: ReadQueue,
    /// Until then it may have promised, before it was opened, to elect nobody.
    pub(super) promised_until: Instant,
}

/// A replica whose core runs.
pub(super) struct Running {
    pub(super) raft: Raft,
    pub(super) log: ReplicaLog,
    pub(super) state: Arc<ReplicaState>,
    pub(super) voters: Voters,
    pub(super) sending: TaskTracker,
    pub(super) cancelled: CancellationToken,
    pub(super) tasks: TaskTracker,
}

/// How it is to be served.
pub(super) struct Served {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) timing: Timing,
    pub(super) history: HistoryOptions,
    pub(super) lease_reads: bool,
    pub(super) sleep: Option<SleepOptions>,
    pub(super) opened_at: Instant,
}

impl Running {
    /// Starts the tasks that serve it.
    pub(super) fn serve(self, served: Served) -> Group {
        let Self { raft, log, state, voters, sending, cancelled, tasks } = self;
        let Served { clock, timing, history, lease_reads, sleep, opened_at } = served;
        let (group, round_timeout) = (state.group, timing.election_timeout_max);
        let hands_over = Arc::new(AtomicBool::new(false));
        let sleeper = Sleeper::new(
            sleep,
            SleeperParts {
                group,
                replica: state.replica,
                raft: raft.clone(),
                transport: Arc::clone(&voters.transport),
                timing,
                hands_over: Arc::clone(&hands_over),
                observer: Arc::clone(&state.observer),
            },
        );
        let rounds_of = |confirmation| {
            let (voters, applied) = (voters.clone(), state.applied.subscribe());
            ReadQueue::new(ReadParts {
                group,
                raft: raft.clone(),
                voters,
                applied,
                round_timeout,
                confirmation,
                sleeper: sleeper.clone(),
            })
        };
        let (reads, rounds) = rounds_of(Confirmation::Quorum);
        let lease_reads = lease_reads.then(|| {
            let age_max = timing.election_timeout_max.mul_f64(LEASE_BELIEVED);
            let confirmation = Confirmation::Lease { age_max, hands_over: Arc::clone(&hands_over) };
            let (reads, rounds) = rounds_of(confirmation);
            tasks.spawn(rounds.run(cancelled.clone()));
            LeaseReads { reads, promised_until: opened_at + timing.election_timeout_max }
        });
        let (seen, leadership) = watch::channel(Leadership::default());
        let heard = watch::Sender::new(false);
        let watch = CoreWatch {
            raft: raft.clone(),
            state: Arc::clone(&state),
            seen,
            heard: heard.subscribe(),
            sleeper: sleeper.clone(),
            election_timeout_max: timing.election_timeout_max,
            hands_over: Arc::clone(&hands_over),
            may_stand_at: lease_reads.as_ref().map(|leases| leases.promised_until),
        };
        let reader = state.with_machine(|machine| match machine {
            Machine::Shard(shard) => Some(shard.reader()),
            Machine::Meta(_) => None,
        });
        let (proposals, proposer) = ProposalQueue::new(ProposerParts {
            group,
            raft: raft.clone(),
            clock,
            leadership: leadership.clone(),
            reader: reader.clone(),
            history,
            sleeper: sleeper.clone(),
            state: Arc::clone(&state),
        });
        tasks.spawn(sleeper.clone().run(cancelled.clone()));
        tasks.spawn(watch.run(cancelled.clone()));
        tasks.spawn(proposer.run(cancelled.clone()));
        tasks.spawn(rounds.run(cancelled.clone()));
        tasks.close();
        Group(Arc::new(Inner {
            raft,
            log,
            state,
            reader,
            proposals,
            reads,
            lease_reads,
            hands_over,
            leadership,
            heard,
            sleeper,
            timing,
            sending,
            cancelled,
            tasks,
        }))
    }
}
