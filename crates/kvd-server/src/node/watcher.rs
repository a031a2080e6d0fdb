//! Watches: what changes in a range, over all shards.
//!
//! # The approach
//! A watch has a place in the feed of each shard that its range concerns (see [`super::feed`]), and gives what it finds there
//! as it is asked to: a watcher that doesn't take what it is given simply isn't asked, and nothing piles up for it. After each
//! part it says where it stands: a revision of each shard, as a token from which any node can go on.
//!
//! It begins at what every shard's leader says has been finished, or after a revision that is given; then each shard is told
//! of that, so that no later write gets an earlier one. Whatever is written after the first part has come will be
//! told.
//!
//! # Invariants
//! - Of each shard changes are told in order, each once, and those of one revision before the token that covers them.
//! - A progress mark is told only if the leaders of all shards have confirmed, within the interval (or [`CONFIRMED_MAX`], if longer) before, that nothing is
//!   missing.
//!
//! # What is bounded
//! Watchers of a node by [`WATCHERS_MAX`]; what one holds is one part.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt as _, StreamExt as _, stream};
use kvd_proto::token::{WatchToken, watch_request};
use kvd_raft::Group;
use kvd_types::{
    Error, Event, Result, Revision, ShardId,
    limits::{CHANGES_MAX, CHANGES_WAIT_MAX, REQUEST_DEADLINE_DEFAULT, WATCHERS_MAX},
    operation::{Changes, ChangesPage, ReadPoint, check_range},
};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, sleep_until},
};

use super::{
    Node,
    feed::{Interest, SLOW_MAX, Subscription, Taken, event_bytes},
    serve::known,
};
use crate::store::{Parts, WatchFrom, WatchPart, WatchSpec};

/// Changes that one part tells of, about.
const PART_EVENTS: usize = 256;
/// Bytes of one part; one change more, if that is where it ends.
const PART_BYTES_MAX: usize = 1 << 20;
/// How often a watcher is told that it was told everything, unless it says otherwise; and the least.
const PROGRESS_DEFAULT: Duration = Duration::from_secs(10);
const PROGRESS_MIN: Duration = Duration::from_millis(100);
/// How old the leaders' word may be for a progress mark.
const CONFIRMED_MAX: Duration = Duration::from_millis(2500);
/// How often it is looked whether a progress mark that is due can be told.
const PROGRESS_RETRY: Duration = Duration::from_millis(200);
/// How long a watcher waits for this node's replica, if that lags behind what the watcher was told of already.
const LAG_PAUSE: Duration = Duration::from_millis(20);
/// How far ahead of a shard's last revision a watch may begin.
const AHEAD_MAX_MS: u64 = 10_000;
/// How long a watcher should wait that one too many has come before.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A watch under way.
struct Watch {
    node: Arc<Node>,
    interest: Arc<Interest>,
    places: Vec<Subscription>,
    request: u64,
    progress_interval: Duration,
    progress_at: Instant,
    /// Taken, and to be told in parts. The last one has the token.
    taken: std::vec::IntoIter<Event>,
    has_begun: bool,
    /// When it is looked again, for a replica here lags.
    look_at: Option<Instant>,
    _permit: OwnedSemaphorePermit,
}

impl Node {
    /// See [`crate::store::Store::watch`].
    pub(super) fn watch_range(self: Arc<Self>, spec: WatchSpec) -> Parts<WatchPart> {
        let parts = Watch::begin(self, spec).map(|begun| match begun {
            Ok(watch) => stream::try_unfold(watch, Watch::next_part).boxed(),
            Err(error) => stream::iter([Err(error)]).boxed(),
        });
        parts.flatten_stream().boxed()
    }

    /// What has changed in a shard, at this node's replica of it; waits for some if there is nothing yet.
    pub(super) async fn changes(
        &self,
        group: &Group,
        mut page: ChangesPage,
        deadline: Instant,
    ) -> Result<Changes> {
        let reader = group.reader().ok_or_else(|| Error::internal("the meta group has no keys"))?;
        let wait = Duration::from_millis(page.wait_ms).min(CHANGES_WAIT_MAX);
        let until = deadline.min(Instant::now() + wait);
        let mut applied = group.watch_applied();
        loop {
            applied.mark_unchanged();
            let found = reader.events(&page).map_err(|error| group.read_failed(&error))?;
            group.check_open()?;
            let changes = known(Some(page.after), found)?;
            if !changes.events.is_empty() || changes.more || Instant::now() >= until {
                return Ok(changes);
            }
            // What was looked at needs no second look.
            page.after = changes.upto;
            if let Ok(Err(_closed)) = tokio::time::timeout_at(until, applied.changed()).await {
                return Err(Error::unavailable("the replica is being closed"));
            }
        }
    }
}

impl Watch {
    async fn begin(node: Arc<Node>, spec: WatchSpec) -> Result<Self> {
        check_range(&spec.start, &spec.end)?;
        let permit = Arc::clone(&node.watchers).try_acquire_owned().map_err(|_none_left| {
            Error::overloaded(
                RETRY_AFTER,
                format!("the node has {WATCHERS_MAX} watchers, the most that it serves; ask another one"),
            )
        })?;
        let request = watch_request(&spec.start, &spec.end);
        let cluster = node.cluster_id()?;
        let shards = node.routing()?.ring.shards_of_range(&spec.start, &spec.end);
        let reached = node.reached(&shards).await?;
        let now = Revision::from_unix_ms(node.platform.clock().unix_ms());
        let after = positions(&spec.from, &reached, now, &cluster, request)?;
        if let WatchFrom::After(at) = spec.from {
            node.keep_later_writes_after(at, &reached).await?;
        }
        let interest = Arc::new(Interest {
            start: spec.start,
            end: spec.end,
            no_puts: spec.no_puts,
            no_deletes: spec.no_deletes,
            want_previous: spec.want_previous,
            ..Interest::default()
        });
        let places = reached.iter().map(|(&shard, &upto)| {
            let after = after.get(&shard).copied().unwrap_or(upto);
            node.feeds.subscribe(&node, shard, after, upto, Arc::clone(&interest))
        });
        let places = places.collect();
        let progress_interval = spec.progress_interval.unwrap_or(PROGRESS_DEFAULT).max(PROGRESS_MIN);
        Ok(Self {
            node,
            interest,
            places,
            request,
            progress_interval,
            progress_at: Instant::now() + progress_interval,
            taken: Vec::new().into_iter(),
            has_begun: false,
            look_at: None,
            _permit: permit,
        })
    }

    async fn next_part(mut self) -> Result<Option<(WatchPart, Self)>> {
        if !self.has_begun {
            self.has_begun = true;
            let part = WatchPart { resume: self.token()?, ..WatchPart::default() };
            return Ok(Some((part, self)));
        }
        loop {
            if self.taken.len() == 0 {
                self.take().await?;
            }
            if self.taken.len() > 0 {
                let part = self.part()?;
                return Ok(Some((part, self)));
            }
            let now = Instant::now();
            if now >= self.progress_at {
                let since = now.checked_sub(self.progress_interval.max(CONFIRMED_MAX));
                let is_complete = |place: &Subscription| since.is_some_and(|at| place.is_complete_since(at));
                if self.places.iter().all(is_complete) {
                    self.progress_at = now + self.progress_interval;
                    let part = WatchPart { events: Vec::new(), resume: self.token()?, is_progress: true };
                    return Ok(Some((part, self)));
                }
                self.progress_at = now + PROGRESS_RETRY.min(self.progress_interval);
            }
            tokio::select! {
                () = self.interest.woken.notified() => {}
                () = sleep_until(self.look_at.unwrap_or(self.progress_at).min(self.progress_at)) => {}
                () = self.node.stopping.cancelled() => {
                    return Err(Error::unavailable("the node is stopping; watch on at another one"));
                }
            }
        }
    }

    /// Takes what waits in the feeds.
    async fn take(&mut self) -> Result<()> {
        if self.interest.is_cut.load(Ordering::Relaxed) {
            return Err(Error::overloaded(
                Duration::ZERO,
                format!(
                    "the watcher has taken nothing for {} s, so it was cut; watch on from the last token",
                    SLOW_MAX.as_secs()
                ),
            ));
        }
        let mut events = Vec::new();
        self.look_at = None;
        for place in &self.places {
            if events.len() >= PART_EVENTS {
                // The others wait; they are looked at once this was told.
                self.interest.woken.notify_one();
                break;
            }
            match place.take(PART_EVENTS - events.len()) {
                None => {}
                Some(Taken::Events(taken)) => events.extend(taken),
                Some(Taken::Behind(cursor)) => {
                    let changes = self.catch_up(place, cursor).await?;
                    if changes.upto > cursor || changes.more {
                        self.interest.woken.notify_one();
                    } else {
                        self.look_at = Some(Instant::now() + LAG_PAUSE);
                    }
                    events.extend(self.interest.filter(changes.events));
                }
            }
        }
        self.taken = events.into_iter();
        Ok(())
    }

    /// Reads from history what a shard's ring has no more.
    async fn catch_up(&self, place: &Subscription, cursor: Revision) -> Result<Changes> {
        let page = ChangesPage {
            shard: place.shard(),
            after: cursor,
            start: self.interest.start.clone(),
            end: self.interest.end.clone(),
            limit: PART_EVENTS.min(CHANGES_MAX),
            want_previous: self.interest.want_previous,
            wait_ms: 0,
        };
        let changes = self.node.changes_of(page).await?;
        place.caught_up(changes.upto);
        Ok(changes)
    }

    /// The next part of what was taken. The last one has the token.
    fn part(&mut self) -> Result<WatchPart> {
        let mut part = WatchPart::default();
        let mut bytes = 0;
        while bytes < PART_BYTES_MAX
            && let Some(event) = self.taken.next()
        {
            bytes += event_bytes(&event);
            part.events.push(event);
        }
        if self.taken.len() == 0 {
            part.resume = self.token()?;
        }
        Ok(part)
    }

    fn token(&self) -> Result<Bytes> {
        let positions = self.places.iter().map(|place| (place.shard(), place.cursor())).collect();
        let token = WatchToken { cluster_id: self.node.cluster_id()?, request: self.request, positions };
        Ok(token.encode())
    }
}

impl Node {
    /// The last revision of each shard, as its leader says.
    async fn reached(&self, shards: &[ShardId]) -> Result<BTreeMap<ShardId, Revision>> {
        let deadline = Instant::now() + REQUEST_DEADLINE_DEFAULT;
        let reached = shards.iter().map(|&shard| async move {
            let (_, revision) = self.read_point(shard.into(), ReadPoint::default(), deadline).await?;
            Ok::<_, Error>((shard, revision))
        });
        Ok(futures::future::try_join_all(reached).await?.into_iter().collect())
    }
}

impl Node {
    /// Sees to it that whatever is written from now on gets a later revision than this: else a watch of what comes after it would
    /// miss what a shard whose clock is behind is given.
    async fn keep_later_writes_after(
        &self,
        at: Revision,
        reached: &BTreeMap<ShardId, Revision>,
    ) -> Result<()> {
        let deadline = Instant::now() + REQUEST_DEADLINE_DEFAULT;
        let is_vouched_for = reached.values().any(|&reached| reached >= at);
        let behind = reached.iter().filter(|&(_, &reached)| reached < at);
        let raised = behind.map(|(&shard, _)| {
            let point = ReadPoint { at: Some(at), is_vouched_for, ..ReadPoint::default() };
            self.read_point(shard.into(), point, deadline)
        });
        futures::future::try_join_all(raised).await.map(drop)
    }
}

/// After which revision of each shard a watch begins.
fn positions(
    from: &WatchFrom,
    reached: &BTreeMap<ShardId, Revision>,
    now: Revision,
    cluster: &str,
    request: u64,
) -> Result<BTreeMap<ShardId, Revision>> {
    // Where a watch may stand: shards that are not written to can be behind what others have had, and where a watch began.
    let newest = reached.values().max().copied().unwrap_or_default().max(now);
    let is_future = |at: Revision| at.unix_ms() > newest.unix_ms().saturating_add(AHEAD_MAX_MS);
    match from {
        WatchFrom::Now => Ok(reached.clone()),
        WatchFrom::After(after) => {
            if is_future(*after) {
                return Err(Error::invalid(format!(
                    "revision {after} is in the future: by the clock it is {newest}"
                )));
            }
            Ok(reached.keys().map(|&shard| (shard, *after)).collect())
        }
        WatchFrom::Resume(token) => {
            let positions = WatchToken::decode(token, cluster, request)?.positions;
            for (shard, position) in &positions {
                match reached.get(shard) {
                    Some(reached) if position <= reached || !is_future(*position) => {}
                    Some(_) => {
                        return Err(Error::invalid(format!(
                            "the resume token names revision {position}, which shard {shard} never had: it is forged, or the \
                             cluster was restored from a backup"
                        )));
                    }
                    None => {
                        return Err(Error::invalid(format!(
                            "the resume token names shard {shard}, which the range has no keys in: it is another watch's"
                        )));
                    }
                }
            }
            // Of a shard that the token lacks nothing was told.
            Ok(reached
                .keys()
                .map(|&shard| (shard, positions.get(&shard).copied().unwrap_or_default()))
                .collect())
        }
    }
}
