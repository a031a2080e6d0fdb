//! Linearizable reads: one quorum round for all that wait.
//!
//! A read is linearizable if it sees everything that was committed before it was asked for. The leader proves that it
//! still leads by asking a majority (see [`crate::confirm`]), then waits until it has applied what was committed when the round
//! began (the ReadIndex protocol; Ongaro's thesis, section 6.4). The reads that wait when a round begins share it; those
//! that come later wait for the next one, because the round's read index was taken before they were asked for.
//!
//! # Leader leases
//! Where the cluster allows it, a read may do without the round while a majority has acknowledged the leader recently: its
//! followers have promised to elect nobody else for the longest election timeout (Ongaro's thesis, section 6.4.1). That is
//! right only if
//! - clocks run at about the same rate: the leader believes in the promise for [`LEASE_BELIEVED`] of its time only;
//! - followers keep the promise although they restart: see [`crate::group::Parts::lease_reads`];
//! - the leader doesn't have them break it: from when it hands its leadership over it reads by rounds again.
//!
//! At the bound ([`READ_QUEUE_MAX`] reads waiting) a read is refused as overloaded.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kvd_types::{Error, ErrorKind, GroupId, LogIndex, Result, limits::READ_QUEUE_MAX};
use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
    raft::linearizable_read::{Linearizer, LinearizerOption},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    calls::call,
    confirm::{Voters, no_majority},
    group::{Raft, sleeper::Sleeper},
    types::TypeConfig,
};

/// How long a refused reader should wait.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// The part of the longest election timeout for which a leader believes that nobody else is elected: a clock may run by a
/// quarter faster than another.
pub(crate) const LEASE_BELIEVED: f64 = 0.75;

/// How a leader makes sure that it leads.
#[derive(Clone, Debug)]
pub(crate) enum Confirmation {
    /// By a round.
    Quorum,
    /// By a majority's acknowledgements that are not older than this, unless it has begun to hand over.
    Lease { age_max: Duration, hands_over: Arc<AtomicBool> },
}

/// Where a group's reads wait for a round.
#[derive(Clone, Debug)]
pub(crate) struct ReadQueue {
    group: GroupId,
    readers: mpsc::Sender<oneshot::Sender<Result<()>>>,
}

/// What the rounds are made with.
pub(crate) struct ReadParts {
    pub(crate) group: GroupId,
    pub(crate) raft: Raft,
    pub(crate) voters: Voters,
    /// The last entry that was applied.
    pub(crate) applied: watch::Receiver<LogIndex>,
    pub(crate) round_timeout: Duration,
    pub(crate) confirmation: Confirmation,
    pub(crate) sleeper: Sleeper,
}

/// Makes the rounds.
pub(crate) struct ReadRounds {
    parts: ReadParts,
    readers: mpsc::Receiver<oneshot::Sender<Result<()>>>,
}

/// What has to be applied before a read is served.
enum Confirmed {
    /// An index.
    Upto(LogIndex),
    /// What openraft says.
    By(Linearizer<TypeConfig>),
}

impl ReadQueue {
    /// A queue, and the task that serves it.
    pub(crate) fn new(parts: ReadParts) -> (Self, ReadRounds) {
        let (sender, readers) = mpsc::channel(READ_QUEUE_MAX);
        (Self { group: parts.group, readers: sender }, ReadRounds { parts, readers })
    }

    /// Waits until the replica's state holds everything that was committed before this was called.
    pub(crate) async fn barrier(&self) -> Result<()> {
        let (reader, ready) = oneshot::channel();
        self.readers.try_send(reader).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => Error::overloaded(
                RETRY_AFTER,
                format!(
                    "{READ_QUEUE_MAX} reads wait already for the leader of group {}; retry later",
                    self.group
                ),
            ),
            mpsc::error::TrySendError::Closed(_) => self.stopped(),
        })?;
        ready.await.unwrap_or_else(|_dropped| Err(self.stopped()))
    }

    fn stopped(&self) -> Error {
        Error::unavailable(format!("group {} has stopped on this node", self.group))
    }
}

impl ReadRounds {
    /// Makes one round after another, as long as there are readers. A round whose leadership is confirmed waits for
    /// applying beside the next one.
    pub(crate) async fn run(mut self, cancelled: CancellationToken) {
        let mut confirmed = FuturesUnordered::new();
        loop {
            let mut waiting = Vec::new();
            tokio::select! {
                () = cancelled.cancelled() => return,
                Some(()) = confirmed.next() => continue,
                taken = self.readers.recv_many(&mut waiting, READ_QUEUE_MAX) => if taken == 0 { return },
            }
            self.let_others_come(&mut waiting).await;
            let confirm = self.confirm();
            tokio::pin!(confirm);
            let outcome = loop {
                tokio::select! {
                    () = cancelled.cancelled() => return,
                    Some(()) = confirmed.next() => {}
                    outcome = &mut confirm => break outcome,
                }
            };
            let applying = self.applying();
            confirmed.push(async move {
                let outcome = match outcome {
                    Ok(confirmed) => applying.wait_until_applied(confirmed).await,
                    Err(error) => Err(error),
                };
                for reader in waiting {
                    if reader.send(outcome.clone()).is_err() {
                        tracing::trace!("a reader has gone away");
                    }
                }
            });
        }
    }

    /// A round costs the same however many share it: whoever is about to ask, on a busy machine, is let in.
    async fn let_others_come(&mut self, waiting: &mut Vec<oneshot::Sender<Result<()>>>) {
        tokio::task::yield_now().await;
        while waiting.len() < READ_QUEUE_MAX
            && let Ok(reader) = self.readers.try_recv()
        {
            waiting.push(reader);
        }
    }

    fn applying(&self) -> Applying {
        let ReadParts { raft, applied, round_timeout, .. } = &self.parts;
        Applying { raft: raft.clone(), applied: applied.clone(), patience: *round_timeout }
    }

    /// Makes sure that this replica leads.
    async fn confirm(&self) -> Result<Confirmed> {
        if let Confirmation::Lease { age_max, hands_over } = &self.parts.confirmation
            && !hands_over.load(Ordering::SeqCst)
        {
            let confirmed = self.confirm_by(LinearizerOption::new(Some(*age_max), true)).await;
            // If it has begun to hand over meanwhile, the promise may have been broken before it was relied on.
            if !hands_over.load(Ordering::SeqCst) {
                return confirmed;
            }
        }
        match tokio::time::timeout(self.parts.round_timeout, self.parts.voters.confirm()).await {
            Ok(Ok(Some(index))) => Ok(Confirmed::Upto(index)),
            Ok(Ok(None)) => self.confirm_by(ReadPolicy::ReadIndex.into()).await,
            Ok(Err(error)) => Err(error),
            Err(_elapsed) => Err(no_majority()),
        }
    }

    async fn confirm_by(&self, option: LinearizerOption) -> Result<Confirmed> {
        // Openraft asks by heartbeats, which must not be sent for now if it keeps quiet.
        self.parts.sleeper.busy();
        if self.parts.sleeper.is_quiet() {
            return Err(no_majority());
        }
        let confirmed = call(&self.parts.raft, |raft| async move { raft.get_read_linearizer(option).await });
        match tokio::time::timeout(self.parts.round_timeout, confirmed).await {
            Err(_elapsed) => Err(no_majority()),
            Ok(Ok(linearizer)) => Ok(Confirmed::By(linearizer)),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(Error::new(ErrorKind::NotLeader(None), format!("this replica does not lead: {forward}")))
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => Err(no_majority()),
            Ok(Err(RaftError::Fatal(fatal))) => {
                Err(Error::unavailable(format!("the replica stopped: {fatal}")))
            }
        }
    }
}

/// Where a round waits that is confirmed.
struct Applying {
    raft: Raft,
    applied: watch::Receiver<LogIndex>,
    patience: Duration,
}

impl Applying {
    /// Waits until everything that was committed when the round began is applied.
    async fn wait_until_applied(mut self, confirmed: Confirmed) -> Result<()> {
        let lags =
            |what: &str| Err(Error::unavailable(format!("the leader lags behind what is committed{what}")));
        let stopped = |what: &str| Err(Error::unavailable(format!("the replica stopped{what}")));
        match confirmed {
            Confirmed::Upto(index) => {
                let reached = self.applied.wait_for(|applied| *applied >= index);
                match tokio::time::timeout(self.patience, reached).await {
                    Ok(Ok(_reached)) => Ok(()),
                    Ok(Err(_closed)) => stopped(""),
                    Err(_elapsed) => lags(""),
                }
            }
            Confirmed::By(linearizer) => {
                let patience = Some(self.patience);
                let ready =
                    call(&self.raft, |raft| async move { linearizer.try_await_ready(&raft, patience).await });
                match ready.await {
                    Ok(Ok(_ready)) => Ok(()),
                    Ok(Err(behind)) => lags(&format!(": {behind}")),
                    Err(fatal) => stopped(&format!(": {fatal}")),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::LEASE_BELIEVED;

    #[test]
    fn a_lease_is_over_before_the_promise_is_while_clocks_keep_within_the_margin() {
        // A promise of one second, as the clocks of a leader and a follower measure it that run at these rates.
        for (leader, follower) in [(1.0, 1.0), (1.0, 1.25), (0.8, 1.0), (0.9, 1.1), (1.25, 1.0)] {
            let (believed, promised) = (LEASE_BELIEVED / leader, 1.0 / follower);
            assert!(believed < promised, "{leader} and {follower}: {believed} s of {promised} s");
        }
    }
}
