//! The end of leases: their homes tell the shards that have keys of them.
//!
//! # The problem
//! A lease's home decides that it ends; its keys are on other shards. They must go soon and for certain, whichever nodes die
//! meanwhile, and a million of them must not stall anything.
//!
//! # The approach
//! Whoever leads the home looks, a few times a second, which leases end. Each shard that may have keys of one is told, step by
//! step, until it has none left: the first step is large enough for most leases, and between the others there is a rest, so
//! that what is left of the machine goes to those who write. Then the home is told, which forgets the shard and, after the last one, the lease. All of
//! that are commands that may be repeated: a leader that dies leaves it to the next one, from where the home's rows stand.
//!
//! # What is bounded
//! Leases and shards that are told at once, keys that go in one step, and the time for each. A shard without a leader is asked
//! again with the next look, and holds nobody else up for longer than [`TELL_TIMEOUT`].

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use kvd_machine::LeaseView;
use kvd_raft::Group;
use kvd_types::{
    Error, GroupId, LeaseId, Result, ShardId,
    limits::DELETE_STEP_KEYS_MAX,
    operation::{Request, Response, Tell},
};
use tokio::{task::JoinHandle, time::Instant};

use super::Node;

/// How often it is looked which leases end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// Leases whose end one shard tells of at a time.
const ENDING_AT_ONCE: usize = 256;
/// Of these, how many are told of at the same moment.
const TOLD_AT_ONCE: usize = 32;
/// How long one step may take.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);
/// Keys that go in a step after the first one, of which so many go as a step may remove.
const FURTHER_STEP_KEYS: u32 = 128;
/// Between two steps there is a rest of so many times as long as the first of them took: it takes longer while others write.
const REST_FACTOR: u32 = 8;
/// The shortest rest, and the longest.
const REST: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(1);

impl Node {
    /// Tells of the end of leases until the node stops.
    pub(super) async fn leases_loop(self: &Arc<Self>) {
        let mut telling: BTreeMap<GroupId, JoinHandle<()>> = BTreeMap::new();
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => break,
                () = self.rest(LOOK_INTERVAL) => {}
            }
            telling.retain(|_, told| !told.is_finished());
            for group in self.replicas().map(super::Replicas::all).unwrap_or_default() {
                let ends = group.reader().is_some_and(|reader| reader.stats().leases_ending > 0);
                if ends && group.leadership().is_self && !telling.contains_key(&group.id()) {
                    let node = Arc::clone(self);
                    let id = group.id();
                    telling.insert(id, tokio::spawn(async move { node.tell_of_ends(&group).await }));
                }
            }
        }
        for told in telling.into_values() {
            told.abort();
        }
    }

    /// Tells of the first leases that end at home.
    async fn tell_of_ends(&self, home: &Group) {
        let Some((shard, reader)) = home.id().shard().zip(home.reader()) else { return };
        let ending = match reader.ending_leases(ENDING_AT_ONCE) {
            Ok(ending) => ending,
            Err(error) => {
                let failed = home.read_failed(&error);
                return tracing::warn!(%shard, error = %failed, "it can't be told which leases end");
            }
        };
        let told = ending.into_iter().flat_map(|LeaseView { id, shards, .. }| {
            shards.into_iter().map(move |holder| async move {
                if let Err(error) = self.tell_of_end(shard, id, holder).await {
                    tracing::debug!(lease = %id, shard = %holder, %error, "the end of a lease is told again");
                }
            })
        });
        stream::iter(told).for_each_concurrent(TOLD_AT_ONCE, |told| told).await;
    }

    /// Has a shard let a lease's keys go, and tells the home.
    async fn tell_of_end(&self, home: ShardId, lease: LeaseId, holder: ShardId) -> Result<()> {
        let mut keys = DELETE_STEP_KEYS_MAX;
        loop {
            let began = Instant::now();
            if !self.tell(holder, lease, Tell::Detach(keys)).await?.more {
                break;
            }
            tokio::time::sleep((began.elapsed() * REST_FACTOR).clamp(*REST.start(), *REST.end())).await;
            keys = FURTHER_STEP_KEYS;
        }
        self.tell(home, lease, Tell::Detached(holder)).await.map(drop)
    }

    /// Has a lease's home expect keys at a shard. False: there is no such lease, or it has ended.
    pub(super) async fn expect_at_home(
        &self,
        at: GroupId,
        lease: LeaseId,
        deadline: Instant,
    ) -> Result<bool> {
        let shard = at.shard().ok_or_else(|| Error::internal("the meta group has no keys"))?;
        let home = self.routing()?.ring.shard_of_lease(lease);
        Ok(self.tell_by(home, lease, Tell::Expect(shard), deadline).await?.lives)
    }

    async fn tell(&self, shard: ShardId, lease: LeaseId, what: Tell) -> Result<Told> {
        self.tell_by(shard, lease, what, Instant::now() + TELL_TIMEOUT).await
    }

    async fn tell_by(&self, shard: ShardId, lease: LeaseId, what: Tell, deadline: Instant) -> Result<Told> {
        let routing = self.routing()?;
        let told = self.execute_on(&routing, shard, Request::Tell(shard, lease, what), deadline).await;
        match told?.response {
            Response::Told { lives, more } => Ok(Told { lives, more }),
            _ => Err(Error::internal("what was told of a lease was answered with something else")),
        }
    }
}

/// What a shard says to what it was told.
#[derive(Clone, Copy)]
struct Told {
    lives: bool,
    more: bool,
}
