//! Elections: one leader at a time, that all can see.
//!
//! ```no_run
//! # async fn example(client: kvd_client::Client) -> kvd_client::Result<()> {
//! use std::time::Duration;
//!
//! let election = client.election("scheduler")?;
//! let leadership = election.campaign("node-7:9000", Duration::from_secs(10)).await?;
//! leadership.proclaim("node-7:9001").await?;
//! if let Some(leader) = election.leader().await? {
//!     println!("led from {:?} since {}", leader.value, leader.token);
//! }
//! leadership.resign().await?;
//! # Ok(()) }
//! ```
//!
//! An election is a lock whose holder has something to say: what a [lock](crate::lock) promises, and what it doesn't, holds here
//! too. The hash tag of its shard is `{kvd-election:NAME}`.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use futures::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use kvd_types::{Error, Event, Key, Record, Result, Revision};

use crate::{
    Client, Compare, IntoBytes, Lease, WatchStream,
    queue::{Place, Waiting, end, first, prefix, waiters},
};

/// An election by its name.
#[derive(Clone, Debug)]
pub struct Election {
    client: Client,
    prefix: String,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leader {
    /// Its key.
    pub key: Key,
    /// What it has proclaimed last.
    pub value: Bytes,
    /// Its fencing token: higher for each later leader.
    pub token: Revision,
    /// When it has proclaimed that.
    pub revision: Revision,
}

/// The leadership in an election, as far as the cluster knows, until its lease ends. Dropped without [`Leadership::resign`], the
/// next one leads after its time to live.
#[derive(Debug)]
pub struct Leadership {
    place: Place,
    lease: Lease,
}

/// The changes of an election's leader: who leads now, and then who leads after each change; `None`: nobody does.
pub type Leaders = BoxStream<'static, Result<Option<Leader>>>;

impl Election {
    /// Stands for election, and waits until it is won. Dropped before, it stands no more.
    ///
    /// # Errors
    /// As any request; unavailable, if the candidate's lease was lost.
    pub async fn campaign(&self, value: impl IntoBytes, ttl: Duration) -> Result<Leadership> {
        let value = value.into_bytes();
        let lease = self.client.grant_lease(ttl).await?;
        let kept = lease.keep_alive_forever();
        let waiting = Waiting::new(Some(lease));
        let won = async {
            let place = Place::take(&self.client, self.prefix.clone(), kept, value).await?;
            place.await_first(None).await?;
            Ok(place)
        };
        let won = won.await;
        match (won, waiting.done()) {
            (Ok(place), Some(lease)) => Ok(Leadership { place, lease }),
            (Ok(_), None) => Err(Error::internal("a candidate has lost its lease on the way")),
            (Err(error), lease) => {
                end(lease).await;
                Err(error)
            }
        }
    }

    /// Who leads now; `None`: nobody does.
    ///
    /// # Errors
    /// As any request.
    pub async fn leader(&self) -> Result<Option<Leader>> {
        let (waiters, _) = waiters(&self.client, &self.prefix).await?;
        Ok(first(waiters).map(|(key, record)| Leader::new(key, record)))
    }

    /// Tells who leads, and what it proclaims, now and after each change. Changes that come at once are told as what they came to.
    #[must_use]
    pub fn observe(&self) -> Leaders {
        let election = self.clone();
        let observed = async move {
            let (waiters, at) = waiters(&election.client, &election.prefix).await?;
            let changes = election.client.watch_prefix(&election.prefix).after(at).stream();
            let observer = Observer { candidates: waiters.into_iter().collect(), changes, told: None };
            Ok(stream::try_unfold(observer, Observer::next))
        };
        stream::once(observed).try_flatten().boxed()
    }
}

impl Leader {
    fn new(key: Key, record: Record) -> Self {
        Self { key, value: record.value, token: record.create_revision, revision: record.revision }
    }
}

/// What is known of an election, and what was told of it.
struct Observer {
    candidates: BTreeMap<Key, Record>,
    changes: WatchStream,
    told: Option<Option<Leader>>,
}

impl Observer {
    async fn next(mut self) -> Result<Option<(Option<Leader>, Self)>> {
        loop {
            let leader = leader_of(&self.candidates);
            if self.told.as_ref() != Some(&leader) {
                self.told = Some(leader.clone());
                return Ok(Some((leader, self)));
            }
            let Some(item) = self.changes.try_next().await? else { return Ok(None) };
            for event in item.events {
                apply(&mut self.candidates, event);
            }
        }
    }
}

fn apply(candidates: &mut BTreeMap<Key, Record>, event: Event) {
    match event.record {
        Some(record) => candidates.insert(event.key, record),
        None => candidates.remove(&event.key),
    };
}

fn leader_of(candidates: &BTreeMap<Key, Record>) -> Option<Leader> {
    let (key, record) = candidates.iter().min_by_key(|(_, record)| record.create_revision)?;
    Some(Leader::new(key.clone(), record.clone()))
}

impl Leadership {
    /// The leader's key.
    #[must_use]
    pub const fn key(&self) -> &Bytes {
        self.place.key()
    }

    /// The fencing token: higher for each later leader.
    #[must_use]
    pub const fn token(&self) -> Revision {
        self.place.number()
    }

    /// Holds, in a transaction on keys of the election's shard, only while this leads.
    #[must_use]
    pub fn fence(&self) -> Compare {
        self.place.fence()
    }

    /// Whether it leads for sure, by this process's clock.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.place.lease().is_held()
    }

    /// Waits until it may be lost, and says why.
    pub async fn lost(&self) -> Error {
        self.place.lease().lost().await
    }

    /// Says something else; gives the revision of that.
    ///
    /// # Errors
    /// Failed precondition: it leads no more; else as any request.
    pub async fn proclaim(&self, value: impl IntoBytes) -> Result<Revision> {
        self.place.set(value).await
    }

    /// Lets the next one lead; whether it still led.
    ///
    /// # Errors
    /// As any request: the next one leads then after its time to live.
    pub async fn resign(self) -> Result<bool> {
        let left = self.place.leave().await;
        end(Some(self.lease)).await;
        left
    }
}

impl Client {
    /// An election by its name. See [`election`](crate::election).
    ///
    /// # Errors
    /// Invalid argument: the name is empty or has braces.
    pub fn election(&self, name: &str) -> Result<Election> {
        Ok(Election { client: self.clone(), prefix: prefix("election", name)? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(key: &str, created: u64, value: Option<&'static str>) -> Event {
        let record = value.map(|value| Record {
            value: value.into(),
            create_revision: Revision(created),
            ..Record::default()
        });
        Event { key: Key::try_from(key).unwrap(), revision: Revision(99), record, previous: None }
    }

    #[test]
    fn the_one_who_came_first_leads() {
        let mut candidates = BTreeMap::new();
        let mut leader_after = |event| {
            apply(&mut candidates, event);
            leader_of(&candidates).map(|leader| (leader.token.get(), leader.value))
        };
        assert_eq!(leader_after(event("b", 2, Some("two"))), Some((2, "two".into())));
        assert_eq!(leader_after(event("a", 3, Some("three"))), Some((2, "two".into())));
        assert_eq!(leader_after(event("b", 2, Some("two again"))), Some((2, "two again".into())));
        assert_eq!(leader_after(event("b", 0, None)), Some((3, "three".into())));
        assert_eq!(leader_after(event("a", 0, None)), None);
    }
}
