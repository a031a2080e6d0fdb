//! What changes in one shard, for all watchers of this node.
//!
//! # The problem
//! Thousands may watch a shard, far from its leader, some of them slowly. What changes must be read once and not once for each,
//! must be told to those alone whom it concerns, must not pile up for those who don't take it, and must not cost writes a
//! thing.
//!
//! # The approach
//! A *feed* follows the changes of a shard while anybody watches: it reads them from this node's replica as they are applied,
//! or else from another node's. It keeps the last of them in a ring. A watcher that waits for nothing has been told of all that
//! the ring has had, and costs nothing as more comes. A change that concerns it (see [`index`]) marks it as *behind*, notes up
//! to which revision it has been told, its *cursor*, and wakes it. Then it takes what the ring has after its cursor, or, if
//! the ring has moved on, reads from history itself. So what a watcher takes is some words, however slow it is, and the writes
//! know of none.
//!
//! About once a second the feed has the leader confirm up to where the changes are complete: without that, a watcher is not
//! told that all is well. With the same question it asks to keep what the slowest watcher still needs.
//!
//! # Invariants
//! - The ring has all changes after [`Ring::after`] and up to [`Ring::upto`].
//! - A watcher that isn't behind has been told of all that concerns it up to [`Ring::upto`] and to its cursor.
//! - A cursor moves over changes only when they were taken, or don't concern its watcher.
//!
//! # What is bounded
//! The ring, in changes and bytes. A watcher that takes nothing of what concerns it for [`SLOW_MAX`] is *cut*.

mod index;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use kvd_types::{
    Error, ErrorKind, Event, Result, Revision, ShardId,
    limits::{CHANGES_WAIT_MAX, REQUEST_DEADLINE_DEFAULT},
    operation::{Changes, ChangesPage, ReadPoint, Request, Response},
};
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

use self::index::Index;
use super::Node;

/// Changes that a ring keeps.
const RING_EVENTS_MAX: usize = 8192;
/// Bytes of keys and values that a ring keeps.
const RING_BYTES_MAX: usize = 4 << 20;
/// How often the leader is asked up to where the changes are complete.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(1);
/// Between two tries to read what has changed.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// A watcher that is behind and takes nothing for so long is cut.
pub(super) const SLOW_MAX: Duration = Duration::from_secs(60);

/// The feeds of a node.
#[derive(Default)]
pub(super) struct Feeds(Mutex<BTreeMap<ShardId, Weak<Feed>>>);

/// What changes in a shard.
pub(super) struct Feed {
    shard: ShardId,
    ring: Mutex<Ring>,
    /// Watchers that want the versions that were replaced.
    want_previous: AtomicUsize,
}

struct Ring {
    events: VecDeque<Ringed>,
    bytes: usize,
    after: Revision,
    upto: Revision,
    /// Since when at least the changes are known to be complete up to `upto`.
    confirmed_at: Option<Instant>,
    watchers: BTreeMap<u64, Watcher>,
    /// What they watch.
    index: Index,
    next_id: u64,
}

struct Ringed {
    event: Event,
    /// The version that was replaced is there, if there was one.
    has_previous: bool,
}

/// Whom a feed wakes.
struct Watcher {
    interest: Arc<Interest>,
    /// Up to where it has been told, or there was nothing to tell. While nothing waits for it the ring is ahead of this, and
    /// has had nothing for it since.
    cursor: Revision,
    /// Since when something waits for it.
    behind_since: Option<Instant>,
}

/// What a watcher wants to know.
#[derive(Debug, Default)]
pub(super) struct Interest {
    pub(super) start: Bytes,
    pub(super) end: Bytes,
    pub(super) no_puts: bool,
    pub(super) no_deletes: bool,
    pub(super) want_previous: bool,
    /// Woken when there is something for it.
    pub(super) woken: Notify,
    /// It was too slow.
    pub(super) is_cut: AtomicBool,
}

/// A watcher's place in a feed. Ends when it is dropped.
pub(super) struct Subscription {
    feed: Arc<Feed>,
    id: u64,
    interest: Arc<Interest>,
}

/// What a watcher finds in a feed.
pub(super) enum Taken {
    /// These changes; there may be more.
    Events(Vec<Event>),
    /// The ring begins later: what comes after this revision must be read from history.
    Behind(Revision),
}

impl Interest {
    fn wants(&self, event: &Event) -> bool {
        let is_left_out = if event.record.is_some() { self.no_puts } else { self.no_deletes };
        !is_left_out && self.covers(event.key.as_bytes())
    }

    fn covers(&self, key: &[u8]) -> bool {
        *key >= *self.start && (self.end.is_empty() || *key < *self.end)
    }

    /// Of some changes those that it wants.
    pub(super) fn filter(&self, events: Vec<Event>) -> Vec<Event> {
        events.into_iter().filter(|event| self.wants(event)).collect()
    }
}

impl Feeds {
    /// Subscribes to a shard's changes after a revision; begins to follow them if nobody did. `upto`: the shard has had that
    /// revision already.
    pub(super) fn subscribe(
        &self,
        node: &Arc<Node>,
        shard: ShardId,
        after: Revision,
        upto: Revision,
        interest: Arc<Interest>,
    ) -> Subscription {
        let feed = {
            let mut feeds = self.0.lock();
            match feeds.get(&shard).and_then(Weak::upgrade) {
                Some(feed) => feed,
                None => {
                    let feed = Arc::new(Feed::new(shard, upto));
                    feeds.insert(shard, Arc::downgrade(&feed));
                    tokio::spawn(Feed::follow(Arc::downgrade(&feed), Arc::downgrade(node)));
                    tokio::spawn(Feed::confirm(Arc::downgrade(&feed), Arc::downgrade(node)));
                    feed
                }
            }
        };
        feed.add(after, interest)
    }
}

impl Feed {
    fn new(shard: ShardId, upto: Revision) -> Self {
        let ring = Ring {
            events: VecDeque::new(),
            bytes: 0,
            after: upto,
            upto,
            confirmed_at: None,
            watchers: BTreeMap::new(),
            index: Index::default(),
            next_id: 0,
        };
        Self { shard, ring: Mutex::new(ring), want_previous: AtomicUsize::new(0) }
    }

    fn add(self: Arc<Self>, after: Revision, interest: Arc<Interest>) -> Subscription {
        if interest.want_previous {
            self.want_previous.fetch_add(1, Ordering::Relaxed);
        }
        let id = {
            let mut ring = self.ring.lock();
            let id = ring.next_id;
            ring.next_id += 1;
            // Whatever the ring has, or has had, may concern it: it looks.
            let behind_since = (after < ring.upto).then(Instant::now);
            let watcher = Watcher { interest: Arc::clone(&interest), cursor: after, behind_since };
            ring.watchers.insert(id, watcher);
            ring.index.insert(id, &interest.start, &interest.end);
            id
        };
        interest.woken.notify_one();
        Subscription { feed: self, id, interest }
    }

    /// Follows the shard's changes as long as anybody watches.
    async fn follow(feed: Weak<Self>, node: Weak<Node>) {
        loop {
            let Some((feed, node)) = feed.upgrade().zip(node.upgrade()) else { return };
            let after = feed.ring.lock().upto;
            let want_previous = feed.want_previous.load(Ordering::Relaxed) > 0;
            let page = ChangesPage {
                shard: feed.shard,
                after,
                want_previous,
                wait_ms: u64::try_from(CONFIRM_INTERVAL.as_millis()).unwrap_or(u64::MAX),
                ..ChangesPage::default()
            };
            match node.changes_of(page).await {
                Ok(changes) => feed.ring.lock().push(changes, want_previous),
                Err(Error { kind: ErrorKind::Compacted { oldest }, .. }) => feed.ring.lock().skip_to(oldest),
                Err(error) => {
                    tracing::debug!(shard = %feed.shard, %error, "what has changed can't be read just now");
                    drop((feed, node));
                    tokio::time::sleep(RETRY_PAUSE).await;
                }
            }
        }
    }

    /// Has the leader confirm, now and then, up to where the changes are complete.
    async fn confirm(feed: Weak<Self>, node: Weak<Node>) {
        loop {
            let Some((feed, node)) = feed.upgrade().zip(node.upgrade()) else { return };
            let needs_after = feed.ring.lock().cut_slow_and_find_slowest();
            let asked_at = Instant::now();
            let point = ReadPoint { needs_after, ..ReadPoint::default() };
            let deadline = asked_at + REQUEST_DEADLINE_DEFAULT;
            if let Ok((_, revision)) = node.read_point(feed.shard.into(), point, deadline).await {
                // The changes come by themselves.
                let until = asked_at + CONFIRM_INTERVAL;
                while Instant::now() < until && feed.ring.lock().upto < revision {
                    tokio::time::sleep(RETRY_PAUSE / 10).await;
                }
                let mut ring = feed.ring.lock();
                if ring.upto >= revision {
                    ring.confirmed_at = Some(asked_at);
                }
            }
            drop((feed, node));
            tokio::time::sleep(CONFIRM_INTERVAL).await;
        }
    }
}

impl Ring {
    /// Takes changes in, and wakes those whom they concern.
    fn push(&mut self, changes: Changes, has_previous: bool) {
        let (now, before) = (Instant::now(), self.upto);
        for event in &changes.events {
            for id in self.index.of(event.key.as_bytes()) {
                let waits = |watcher: &&mut Watcher| {
                    watcher.behind_since.is_none()
                        && event.revision > watcher.cursor
                        && watcher.interest.wants(event)
                };
                if let Some(watcher) = self.watchers.get_mut(&id).filter(waits) {
                    watcher.fall_behind(before, now);
                }
            }
        }
        self.upto = changes.upto.max(self.upto);
        for event in changes.events {
            self.bytes += event_bytes(&event);
            self.events.push_back(Ringed { event, has_previous });
        }
        while self.events.len() > RING_EVENTS_MAX || self.bytes > RING_BYTES_MAX {
            let Some(Ringed { event, .. }) = self.events.pop_front() else { break };
            self.bytes -= event_bytes(&event);
            // What is left of its revision can't be told as a whole any more.
            self.after = event.revision;
        }
        while self.events.front().is_some_and(|first| first.event.revision <= self.after) {
            if let Some(Ringed { event, .. }) = self.events.pop_front() {
                self.bytes -= event_bytes(&event);
            }
        }
    }

    /// Begins anew: what came before has been compacted away.
    fn skip_to(&mut self, oldest: Revision) {
        self.events.clear();
        self.bytes = 0;
        let (now, before) = (Instant::now(), self.upto);
        self.upto = self.upto.max(oldest);
        self.after = self.upto;
        for watcher in self.watchers.values_mut() {
            watcher.fall_behind(before, now);
        }
    }

    /// Cuts watchers that are too slow; gives the revision after which the slowest of the others needs the changes.
    fn cut_slow_and_find_slowest(&mut self) -> Option<Revision> {
        let mut slowest = None;
        for watcher in self.watchers.values() {
            let Some(since) = watcher.behind_since else { continue };
            if since.elapsed() > SLOW_MAX {
                watcher.interest.is_cut.store(true, Ordering::Relaxed);
                watcher.interest.woken.notify_one();
                continue;
            }
            slowest = Some(slowest.map_or(watcher.cursor, |slowest: Revision| slowest.min(watcher.cursor)));
        }
        slowest
    }
}

impl Watcher {
    /// Something waits for it that came after the ring had reached a revision.
    fn fall_behind(&mut self, ring_upto: Revision, now: Instant) {
        if self.behind_since.is_none() {
            self.cursor = self.cursor.max(ring_upto);
            self.behind_since = Some(now);
        }
        self.interest.woken.notify_one();
    }
}

impl Subscription {
    /// The shard.
    pub(super) fn shard(&self) -> ShardId {
        self.feed.shard
    }

    /// Up to where its watcher has been told, or there was nothing to tell.
    pub(super) fn cursor(&self) -> Revision {
        let ring = self.feed.ring.lock();
        let Some(watcher) = ring.watchers.get(&self.id) else { return Revision::ZERO };
        if watcher.behind_since.is_some() { watcher.cursor } else { watcher.cursor.max(ring.upto) }
    }

    /// Whether nothing waits for the watcher, and the changes were complete at that time or later.
    pub(super) fn is_complete_since(&self, at: Instant) -> bool {
        let ring = self.feed.ring.lock();
        let is_behind = ring.watchers.get(&self.id).is_none_or(|watcher| watcher.behind_since.is_some());
        !is_behind && ring.confirmed_at.is_some_and(|confirmed_at| confirmed_at >= at)
    }

    /// Takes what waits for the watcher: about so many changes, all of a revision together.
    pub(super) fn take(&self, limit: usize) -> Option<Taken> {
        let mut ring = self.feed.ring.lock();
        let Ring { events, after, upto, watchers, .. } = &mut *ring;
        let watcher = watchers.get_mut(&self.id)?;
        watcher.behind_since?;
        if watcher.cursor < *after {
            return Some(Taken::Behind(watcher.cursor));
        }
        let first = events.partition_point(|ringed| ringed.event.revision <= watcher.cursor);
        let mut taken = Vec::new();
        let mut reached = *upto;
        let mut looked_at = watcher.cursor;
        for Ringed { event, has_previous } in events.range(first..) {
            if taken.len() >= limit && event.revision > looked_at {
                reached = looked_at;
                break;
            }
            looked_at = event.revision;
            if self.interest.wants(event) {
                if self.interest.want_previous && !has_previous {
                    // It was not wanted by anybody when this was read.
                    return Some(Taken::Behind(watcher.cursor));
                }
                let previous = event.previous.clone().filter(|_| self.interest.want_previous);
                taken.push(Event { previous, ..event.clone() });
            }
        }
        watcher.cursor = reached.max(watcher.cursor);
        watcher.behind_since = (reached < *upto).then(Instant::now);
        Some(Taken::Events(taken))
    }

    /// Moves the watcher's cursor over what it has read from history.
    pub(super) fn caught_up(&self, upto: Revision) {
        let mut ring = self.feed.ring.lock();
        let ring_upto = ring.upto;
        if let Some(watcher) = ring.watchers.get_mut(&self.id) {
            watcher.cursor = watcher.cursor.max(upto);
            watcher.behind_since = (watcher.cursor < ring_upto).then(Instant::now);
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        {
            let mut ring = self.feed.ring.lock();
            ring.watchers.remove(&self.id);
            ring.index.remove(self.id, &self.interest.start, &self.interest.end);
        }
        if self.interest.want_previous {
            self.feed.want_previous.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Node {
    /// What has changed in a shard, from this node's replica or another's.
    pub(super) async fn changes_of(&self, page: ChangesPage) -> Result<Changes> {
        let routing = self.routing()?;
        let (shard, deadline) = (page.shard, Instant::now() + REQUEST_DEADLINE_DEFAULT);
        match self.execute_on(&routing, shard, Request::Changes(page), deadline).await?.response {
            Response::Changes(changes) => Ok(changes),
            _ => Err(Error::internal("a look at what has changed was answered with something else")),
        }
    }
}

/// What a change takes in memory, about.
pub(super) fn event_bytes(event: &Event) -> usize {
    const FRAMING_BYTES: usize = 200;
    let value = |record: &Option<kvd_types::Record>| record.as_ref().map_or(0, |record| record.value.len());
    event.key.as_bytes().len() + value(&event.record) + value(&event.previous) + FRAMING_BYTES
}

const _: () = assert!(CONFIRM_INTERVAL.as_millis() < CHANGES_WAIT_MAX.as_millis());

#[cfg(test)]
mod tests;
