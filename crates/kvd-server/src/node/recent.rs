//! How a replica becomes as recent as a read asks for, whether or not it leads.
//!
//! # The problem
//! Whoever serves a read must know enough: everything that was finished before (linearizable), what the reader has seen
//! (session), or everything that was finished a while ago (bounded). A replica that follows knows what it has applied, and not
//! what there is.
//!
//! # The approach
//! - The leader makes a round among its followers, or trusts its lease.
//! - A replica that follows asks the leader for a *read point*: an entry of the log that holds everything that was committed
//!   when it was asked. Then it waits until it has applied that entry. Reads that wait share one such question, if it is asked
//!   after they have come.
//! - When the last question was begun is remembered: for a bounded read that is recent enough, nothing need be asked.
//! - A session read waits for the revision that it was told, and asks the leader only when that doesn't come by itself.
//!
//! # What it deliberately does not do
//! No clocks are compared between nodes: the bound is measured by the clock of the node that serves, from before it asked.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::FutureExt as _;
use kvd_raft::Group;
use kvd_types::{
    Consistency, Error, ErrorKind, GroupId, LogIndex, Read, Result, Revision, ShardId,
    operation::{ReadPoint, Request, Response},
};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::Node;

/// How long a session read waits before it asks whether there is such a revision at all.
const SESSION_PATIENCE: Duration = Duration::from_millis(500);

/// What this node knows of how recent its replicas are. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Recency(Arc<Mutex<BTreeMap<ShardId, Arc<Rounds>>>>);

/// The questions about one shard.
#[derive(Default)]
struct Rounds {
    /// How many were begun.
    begun: AtomicU64,
    /// The last one that was answered. Held while one is under way.
    last: tokio::sync::Mutex<Option<Answered>>,
}

/// A question that was answered.
#[derive(Clone, Copy)]
struct Answered {
    number: u64,
    begun_at: Instant,
    log_index: LogIndex,
}

impl Recency {
    fn of(&self, shard: ShardId) -> Arc<Rounds> {
        Arc::clone(self.0.lock().entry(shard).or_default())
    }
}

impl Rounds {
    /// An answer to a question that was begun after this was called.
    async fn confirm(&self, ask: impl Future<Output = Result<LogIndex>>) -> Result<Answered> {
        let seen = self.begun.load(Ordering::SeqCst);
        let mut last = self.last.lock().await;
        if let Some(answered) = last.filter(|answered| answered.number > seen) {
            return Ok(answered);
        }
        let number = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let begun_at = Instant::now();
        let answered = Answered { number, begun_at, log_index: ask.await? };
        *last = Some(answered);
        Ok(answered)
    }
}

impl Node {
    /// Waits until this node's replica of a shard is as recent as a read asks for.
    ///
    /// # Errors
    /// Not leader, for what only a leader can serve; unavailable; invalid argument, for a revision from the future.
    pub(super) async fn make_recent(&self, group: &Group, read: &Read, deadline: Instant) -> Result<()> {
        let leads = group.leadership().is_self;
        let led = !leads && !read.is_for_any_replica();
        if led || *read == Read::LINEARIZABLE {
            // Of one that led when the request came in the barrier says that it does no more.
            return group.read_barrier().await;
        }
        self.make_recent_otherwise(group, read, leads, deadline).boxed().await
    }

    async fn make_recent_otherwise(
        &self,
        group: &Group,
        read: &Read,
        leads: bool,
        deadline: Instant,
    ) -> Result<()> {
        match (read.at, read.consistency) {
            (Some(at), _) if leads => group.read_point(Some(at), None, false).await.map(drop),
            (Some(at), _) => {
                let point = ReadPoint { at: Some(at), ..ReadPoint::default() };
                let (log_index, _) = self.read_point(group.id(), point, deadline).await?;
                group.wait_until_applied(log_index).await
            }
            (None, Consistency::Linearizable) => self.confirm(group, deadline).await.map(drop),
            (None, Consistency::Lease) => group.lease_barrier().await,
            (None, Consistency::Session(seen)) => self.wait_for_revision(group, seen, deadline).await,
            (None, Consistency::Bounded(bound)) => self.confirm_since(group, bound, deadline).await,
            (None, Consistency::Local) => Ok(()),
        }
    }

    /// Makes sure that this replica shows everything that was committed before this was called. Gives since when at least.
    async fn confirm(&self, group: &Group, deadline: Instant) -> Result<Instant> {
        if group.leadership().is_self {
            let begun_at = Instant::now();
            group.read_barrier().await?;
            return Ok(begun_at);
        }
        let rounds = self.recency.of(shard_of(group)?);
        let ask = async {
            let (log_index, _) = self.read_point(group.id(), ReadPoint::default(), deadline).await?;
            Ok(log_index)
        };
        let answered = rounds.confirm(ask).await?;
        group.wait_until_applied(answered.log_index).await?;
        Ok(answered.begun_at)
    }

    /// Makes sure that this replica shows everything that was committed so long ago.
    async fn confirm_since(&self, group: &Group, bound: Duration, deadline: Instant) -> Result<()> {
        if group.leadership().is_self {
            return group.read_barrier().await;
        }
        // Whoever asks just now is not waited for, if what is known will do.
        let last = self.recency.of(shard_of(group)?).last.try_lock().ok().and_then(|last| *last);
        if let Some(answered) = last.filter(|answered| answered.begun_at.elapsed() <= bound) {
            return group.wait_until_applied(answered.log_index).await;
        }
        self.confirm(group, deadline).await.map(drop)
    }

    /// Waits until this replica shows a revision.
    async fn wait_for_revision(&self, group: &Group, seen: Revision, deadline: Instant) -> Result<()> {
        let shows = || group.reader().is_some_and(|reader| reader.stats().last_revision >= seen);
        let mut applied = group.watch_applied();
        let comes = async {
            while !shows() {
                applied
                    .changed()
                    .await
                    .map_err(|_closed| Error::unavailable("the replica is being closed"))?;
            }
            Ok(())
        };
        match tokio::time::timeout(SESSION_PATIENCE, comes).await {
            Ok(came) => return came,
            Err(_elapsed) => self.confirm(group, deadline).await?,
        };
        if shows() {
            return Ok(());
        }
        Err(Error::invalid(format!(
            "the session has seen revision {seen}, which shard {} never had: the token is another cluster's, or forged",
            group.id()
        )))
    }

    /// Asks a shard's leader as of when it can be read: an entry of its log, and a revision.
    pub(super) async fn read_point(
        &self,
        group: GroupId,
        point: ReadPoint,
        deadline: Instant,
    ) -> Result<(LogIndex, Revision)> {
        let shard = group.shard().ok_or_else(|| Error::internal("the meta group has no revisions"))?;
        let routing = self.routing()?;
        let request = Request::ReadPoint(ReadPoint { shard, ..point });
        match self.execute_on(&routing, shard, request, deadline).await?.response {
            Response::ReadPoint { log_index, revision } => Ok((log_index, revision)),
            _ => Err(Error::internal("a read point was answered with something else")),
        }
    }

    /// Makes shards readable as of one revision: the latest that any of them has had.
    ///
    /// # Errors
    /// Unavailable, as long as one of them has no leader; not found, for a shard that there isn't.
    pub(super) async fn snapshot(&self, shards: &[ShardId], deadline: Instant) -> Result<Revision> {
        let known = self.routing()?;
        if let Some(unknown) = shards.iter().find(|shard| !known.ring.shards().contains(shard)) {
            return Err(Error::new(ErrorKind::NotFound, format!("there is no shard {unknown}")));
        }
        let revision_of = |&shard: &ShardId| async move {
            let (_, revision) = self.read_point(shard.into(), ReadPoint::default(), deadline).await?;
            Ok::<_, Error>((shard, revision))
        };
        let revisions = futures::future::try_join_all(shards.iter().map(revision_of)).await?;
        // Before the first write too: a read as of revision 0 would be one as of now.
        let at = revisions.iter().map(|&(_, revision)| revision).fold(Revision(1), Revision::max);
        // A shard that has had it itself gives it to no later write.
        let behind = revisions.into_iter().filter(|&(_, revision)| revision < at);
        let raise = |(shard, _): (ShardId, Revision)| {
            let point = ReadPoint { at: Some(at), is_vouched_for: true, ..ReadPoint::default() };
            self.read_point(shard.into(), point, deadline)
        };
        futures::future::try_join_all(behind.map(raise)).await?;
        Ok(at)
    }
}

fn shard_of(group: &Group) -> Result<ShardId> {
    group.id().shard().ok_or_else(|| Error::internal("the meta group has no keys"))
}
