//! Linearizable reads: one quorum round for all that wait.
//!
//! A read is linearizable if it sees everything that was committed before it was asked for. The leader proves that it
//! still leads by a round of heartbeats to a majority, then waits until it has applied what was committed when the round
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
use kvd_types::{Error, ErrorKind, GroupId, Result, limits::READ_QUEUE_MAX};
use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
    raft::linearizable_read::{Linearizer, LinearizerOption},
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{calls::call, group::Raft, types::TypeConfig};

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

/// Makes the rounds.
pub(crate) struct ReadRounds {
    raft: Raft,
    readers: mpsc::Receiver<oneshot::Sender<Result<()>>>,
    round_timeout: Duration,
    confirmation: Confirmation,
}

impl ReadQueue {
    /// A queue, and the task that serves it.
    pub(crate) fn new(
        group: GroupId,
        raft: Raft,
        round_timeout: Duration,
        confirmation: Confirmation,
    ) -> (Self, ReadRounds) {
        let (sender, readers) = mpsc::channel(READ_QUEUE_MAX);
        (Self { group, readers: sender }, ReadRounds { raft, readers, round_timeout, confirmation })
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
            let confirm = self.confirm();
            tokio::pin!(confirm);
            let outcome = loop {
                tokio::select! {
                    () = cancelled.cancelled() => return,
                    Some(()) = confirmed.next() => {}
                    outcome = &mut confirm => break outcome,
                }
            };
            let (raft, patience) = (self.raft.clone(), self.round_timeout);
            confirmed.push(async move {
                let outcome = match outcome {
                    Ok(linearizer) => wait_until_applied(linearizer, &raft, patience).await,
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

    /// Makes sure that this replica leads.
    async fn confirm(&self) -> Result<Linearizer<TypeConfig>> {
        if let Confirmation::Lease { age_max, hands_over } = &self.confirmation
            && !hands_over.load(Ordering::SeqCst)
        {
            let confirmed = self.confirm_by(LinearizerOption::new(Some(*age_max), true)).await;
            // If it has begun to hand over meanwhile, the promise may have been broken before it was relied on.
            if !hands_over.load(Ordering::SeqCst) {
                return confirmed;
            }
        }
        self.confirm_by(ReadPolicy::ReadIndex.into()).await
    }

    async fn confirm_by(&self, option: LinearizerOption) -> Result<Linearizer<TypeConfig>> {
        let no_quorum =
            || Error::unavailable("no majority of the group's replicas confirmed this leader in time");
        let confirmed = call(&self.raft, |raft| async move { raft.get_read_linearizer(option).await });
        match tokio::time::timeout(self.round_timeout, confirmed).await {
            Err(_elapsed) => Err(no_quorum()),
            Ok(Ok(linearizer)) => Ok(linearizer),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                Err(Error::new(ErrorKind::NotLeader(None), format!("this replica does not lead: {forward}")))
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) => Err(no_quorum()),
            Ok(Err(RaftError::Fatal(fatal))) => {
                Err(Error::unavailable(format!("the replica stopped: {fatal}")))
            }
        }
    }
}

/// Waits until everything that was committed when the round began is applied.
async fn wait_until_applied(
    linearizer: Linearizer<TypeConfig>,
    raft: &Raft,
    patience: Duration,
) -> Result<()> {
    let ready = call(raft, |raft| async move { linearizer.try_await_ready(&raft, Some(patience)).await });
    match ready.await {
        Ok(Ok(_ready)) => Ok(()),
        Ok(Err(behind)) => {
            Err(Error::unavailable(format!("the leader lags behind what is committed: {behind}")))
        }
        Err(fatal) => Err(Error::unavailable(format!("the replica stopped: {fatal}"))),
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
