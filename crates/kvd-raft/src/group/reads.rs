//! How recent a replica's state is, made sure of before it is read.

use kvd_machine::{ShardReader, ShardStats};
use kvd_types::{Error, ErrorKind, LogIndex, ReplicaId, Result, Revision};
use openraft::async_runtime::WatchReceiver as _;
use tokio::sync::watch;

use super::Group;

/// As of when a shard can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPoint {
    /// Any replica that has applied the log up to here shows everything.
    pub applied: LogIndex,
    /// As of this revision, or a later one that it was asked for, nothing is missing.
    pub last_revision: Revision,
}

impl Group {
    /// Waits until [`Self::reader`] shows everything that was committed before this was called.
    ///
    /// # Errors
    /// Not leader, unavailable, overloaded.
    pub async fn read_barrier(&self) -> Result<()> {
        self.0.reads.barrier().await.map_err(|error| self.with_leader(error))
    }

    /// The same by the leader's lease, where that is allowed.
    ///
    /// # Errors
    /// Failed precondition, where it isn't; not leader, unavailable, overloaded.
    pub async fn lease_barrier(&self) -> Result<()> {
        let Some(leases) = &self.0.lease_reads else {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                "the cluster does not allow reads by a leader's lease: read linearizably, or set cluster.lease_reads where it is founded",
            ));
        };
        leases.reads.barrier().await.map_err(|error| self.with_leader(error))
    }

    /// Confirms that this replica leads, and gives as of when the shard can then be read without missing anything that was
    /// committed before. With `at` it has seen to it as well that no write gets a revision up to that any more: `is_vouched_for`
    /// says that a shard has had it. With `pinned` it keeps what came after that revision for a while.
    ///
    /// # Errors
    /// Invalid argument, for a revision from the future; not leader, unavailable, overloaded.
    pub async fn read_point(
        &self,
        at: Option<Revision>,
        pinned: Option<Revision>,
        is_vouched_for: bool,
    ) -> Result<ReadPoint> {
        // A shard that has had later writes gives that revision to none: nothing has to be waited for.
        if let Some(at) = at.filter(|&at| at > self.stats().last_revision) {
            let mut shown = self.0.proposals.show(at, is_vouched_for).await;
            if shown.as_ref().is_err_and(|error| error.kind == ErrorKind::InvalidArgument) {
                // A leader may have been elected before it has applied that the revision was shown.
                self.read_barrier().await?;
                shown = self.0.proposals.show(at, is_vouched_for).await;
            }
            shown.map_err(|error| self.with_leader(error))?;
        }
        // Not before: what is refused pins nothing.
        for pinned in at.into_iter().chain(pinned) {
            self.0.proposals.pin(pinned);
        }
        self.read_barrier().await?;
        let applied = *self.0.state.applied.borrow();
        Ok(ReadPoint { applied, last_revision: self.stats().last_revision })
    }

    /// Reads so many rows of the shard as this replica has applied it, wherever there is a thread that may wait for them.
    ///
    /// # Errors
    /// Unavailable, if the replica has stopped, or does for what was read: the others have it.
    pub async fn read<T: Send + 'static>(
        &self,
        rows: usize,
        read: impl FnOnce(&ShardReader) -> Result<T, kvd_machine::Error> + Send + 'static,
    ) -> Result<T> {
        let reader = self.reader().ok_or_else(|| Error::internal("the meta group has no keys"))?.clone();
        let found = self.0.state.read(rows, move || read(&reader)).await;
        let found = found.map_err(|error| self.stopped(&error))?;
        let found = found.map_err(|error| self.read_failed(&error))?;
        // A replica that is being closed or rebuilt must not answer from what is left.
        self.check_open()?;
        Ok(found)
    }

    /// Waits until this replica has applied an entry of the log.
    ///
    /// # Errors
    /// Unavailable, if it stops before.
    pub async fn wait_until_applied(&self, index: LogIndex) -> Result<()> {
        let mut applied = self.0.state.applied.subscribe();
        tokio::select! {
            reached = applied.wait_for(|applied| *applied >= index) => {
                reached.map(drop).map_err(|_closed| self.stopped(&"it is being closed"))
            }
            () = self.0.cancelled.cancelled() => Err(self.stopped(&"it is being closed")),
        }
    }

    /// Changes with each entry that is applied.
    #[must_use]
    pub fn watch_applied(&self) -> watch::Receiver<LogIndex> {
        self.0.state.applied.subscribe()
    }

    /// Waits until all voters have on disk what this leader has applied by now.
    ///
    /// # Errors
    /// Not leader; unavailable, if it stops.
    pub async fn wait_for_all_voters(&self) -> Result<()> {
        let applied = *self.0.state.applied.borrow();
        let mut metrics = self.0.raft.metrics();
        loop {
            {
                let seen = metrics.borrow_watched();
                let Some(replication) = &seen.replication else {
                    return Err(self.with_leader(Error::new(
                        ErrorKind::NotLeader(None),
                        "this replica does not lead any more",
                    )));
                };
                let has = |id: &ReplicaId| {
                    let matched = replication.get(id).copied().flatten();
                    matched.is_some_and(|matched| LogIndex(matched.index()) >= applied)
                };
                if seen.membership_config.membership().voter_ids().all(|id| has(&id)) {
                    return Ok(());
                }
            }
            metrics.changed().await.map_err(|_closed| self.stopped(&"it is being closed"))?;
        }
    }

    fn stats(&self) -> ShardStats {
        self.0.reader.as_ref().map(ShardReader::stats).unwrap_or_default()
    }
}
