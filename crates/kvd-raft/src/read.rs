//! Linearizable reads: one quorum round for all that wait.
//!
//! A read is linearizable if it sees everything that was committed before it was asked for. The leader proves that it
//! still leads by a round of heartbeats to a majority, then waits until it has applied what was committed when the round
//! began (the ReadIndex protocol; Ongaro's thesis, section 6.4). The reads that wait when a round begins share it; those
//! that come later wait for the next one, because the round's read index was taken before they were asked for.
//!
//! At the bound ([`READ_QUEUE_MAX`] reads waiting) a read is refused as overloaded.

use std::time::Duration;

use futures::{StreamExt as _, stream::FuturesUnordered};
use kvd_types::{Error, ErrorKind, GroupId, Result, limits::READ_QUEUE_MAX};
use openraft::{
    ReadPolicy,
    errors::{LinearizableReadError, RaftError},
    raft::linearizable_read::Linearizer,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{group::Raft, types::TypeConfig};

/// How long a refused reader should wait.
const RETRY_AFTER: Duration = Duration::from_millis(20);

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
}

impl ReadQueue {
    /// A queue, and the task that serves it.
    pub(crate) fn new(group: GroupId, raft: Raft, round_timeout: Duration) -> (Self, ReadRounds) {
        let (sender, receiver) = mpsc::channel(READ_QUEUE_MAX);
        (Self { group, readers: sender }, ReadRounds { raft, readers: receiver, round_timeout })
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

    /// Has a majority confirm that this replica leads.
    async fn confirm(&self) -> Result<Linearizer<TypeConfig>> {
        let no_quorum =
            || Error::unavailable("no majority of the group's replicas confirmed this leader in time");
        let confirmed = self.raft.get_read_linearizer(ReadPolicy::ReadIndex);
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
    match linearizer.try_await_ready(raft, Some(patience)).await {
        Ok(Ok(_ready)) => Ok(()),
        Ok(Err(behind)) => {
            Err(Error::unavailable(format!("the leader lags behind what is committed: {behind}")))
        }
        Err(fatal) => Err(Error::unavailable(format!("the replica stopped: {fatal}"))),
    }
}
