//! Watchers that lose their connections, change nodes and die, and others that go on where they have left off.
//!
//! A watcher writes as well, so that there is something to be told of. At the end of a run it must be told of all that was
//! acknowledged.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture};
use kvd_client::{Client, Error, ErrorKind, Result, WatchStream};
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Workload,
    moments::{self, User},
};
use crate::{
    check::versions::{From, Item, Watch},
    history::{Process, RecordingClient},
    sim::records::{Records, Watching},
};

/// How long something is waited for in one turn.
const LISTENS_MAX: Duration = Duration::from_millis(400);
/// How long a watch may take to begin.
const BEGINS_WITHIN: Duration = Duration::from_secs(2);
/// How long after the last write a watcher may lack something, with no fault left.
const TOLD_WITHIN: Duration = Duration::from_secs(20);
/// What a server takes for the age of its leaders' words at most, however short the interval of progress.
const CONFIRMED_MAX: Duration = Duration::from_millis(2500);
/// What clocks and messages within one machine may add to an interval.
const SLACK: Duration = Duration::from_millis(100);

pub(crate) struct Watches {
    user: User,
    open: Option<(Watching, WatchStream)>,
}

impl Watches {
    pub(crate) const fn new(records: Arc<Records>, process: Process, client: u64) -> Self {
        Self { user: User::new(records, process, client), open: None }
    }

    async fn act(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        if self.open.is_none() {
            self.begin(client, rng).await?;
        }
        if rng.random_bool(0.5) {
            self.user.write(client, rng).await?;
        }
        if rng.random_bool(0.03) {
            // What was told is kept, and so is where to go on.
            self.open = None;
            return Ok(());
        }
        if rng.random_bool(0.01) {
            self.open = None;
            self.user.records.unwatch(self.user.process);
            return Ok(());
        }
        let until = Instant::now() + LISTENS_MAX.mul_f64(rng.random_range(0.0..1.0));
        while let Some((_, stream)) = &mut self.open
            && let Ok(told) = timeout_at(until, stream.next()).await
        {
            self.take(told)?;
        }
        Ok(())
    }

    /// Begins a watch, or goes on with the one that was left.
    async fn begin(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        let User { records, process, .. } = &self.user;
        if let Some(watching) = records.watch_of(*process)
            && let Some(token) = watching.token.clone()
            && let Some(stream) =
                records.watched(&watching, |watch| asked(client, watch).resume(token).stream())
        {
            records.count("watches resumed");
            self.open = Some((watching, stream));
            return Ok(());
        }
        let key = moments::any(rng)?;
        let (start, end) = match rng.random_range(0..4) {
            0 => (key.bytes().clone(), kvd_placement::route::after_key(key.as_bytes())),
            1 => (key.bytes().clone(), moments::bounds().1),
            _ => moments::bounds(),
        };
        let interval_ms = [200, 1000, 3000].get(rng.random_range(0..3)).copied().unwrap_or(1000);
        let filtered = rng.random_range(0..8);
        let after = if rng.random_bool(0.2) { Some(latest(client).await?) } else { None };
        let watch = Watch {
            process: *process,
            start,
            end,
            no_puts: filtered == 0,
            no_deletes: filtered == 1,
            previous: rng.random_bool(0.5),
            progress_after: Duration::from_millis(interval_ms).max(CONFIRMED_MAX) + SLACK,
            from: match after {
                Some(after) => From::After(after),
                None => From::Now { asked: records.moment(), started: None },
            },
            items: Vec::new(),
        };
        let mut asked = asked(client, &watch).progress_every(Duration::from_millis(interval_ms));
        if let Some(after) = after {
            asked = asked.after(after);
        }
        let mut stream = asked.stream();
        let watching = records.watch(watch);
        match timeout(BEGINS_WITHIN, stream.started()).await {
            Ok(Ok(())) => {}
            // Nobody knows since when it has been going on: it is not gone on with.
            Ok(Err(error)) => {
                records.unwatch(*process);
                return self.end(error);
            }
            Err(_elapsed) => {
                records.unwatch(*process);
                return Err(Error::unavailable("the watch has not begun in time"));
            }
        }
        let now = records.moment();
        records.watched(&watching, |watch| {
            if let From::Now { started, .. } = &mut watch.from {
                *started = Some(now);
            }
        });
        records.count("watches begun");
        self.open = Some((watching, stream));
        Ok(())
    }

    /// Takes what was told.
    fn take(&mut self, told: Option<Result<kvd_client::WatchItem>>) -> Result<()> {
        let item = match told {
            Some(Ok(item)) => item,
            Some(Err(error)) => return self.end(error),
            None => {
                self.user.records.violated("a watch ended without a word".to_owned());
                return Ok(());
            }
        };
        let User { records, process, .. } = &self.user;
        let Some((watching, _)) = &mut self.open else { return Ok(()) };
        let at = records.moment();
        if item.progress {
            records.count("marks of progress");
        }
        records.watched(watching, |watch| {
            watch.items.push(Item { at, events: item.events, progress: item.progress });
        });
        records.told(*process, watching, item.token);
        Ok(())
    }

    /// A watch has failed: for good, as it was not told to give up.
    fn end(&mut self, error: Error) -> Result<()> {
        self.open = None;
        let User { records, process, .. } = &self.user;
        if matches!(error.kind, ErrorKind::Compacted { .. }) {
            let age = Duration::from_nanos(records.moment().time_ns);
            if age < records.retention {
                records.violated(format!(
                    "a watch of what is not older than {:?} is compacted: {error}",
                    records.retention
                ));
            }
            records.count("watches of what was compacted");
            records.unwatch(*process);
            return Ok(());
        }
        if !error.is_retryable() {
            records.violated(format!("a watch ends: {error}"));
        }
        Err(error)
    }

    /// Is told the rest.
    async fn finish(&mut self, client: &Client, rng: &mut StdRng) {
        let records = Arc::clone(&self.user.records);
        let Some(watching) = records.watch_of(self.user.process) else { return };
        let until = Instant::now() + TOLD_WITHIN;
        while let Some(lacks) = records.lacks(&watching) {
            if Instant::now() >= until {
                let process = self.user.process;
                return records.violated(format!(
                    "the watcher of {process} is not told of {lacks} within {TOLD_WITHIN:?}"
                ));
            }
            if self.open.is_none() && self.begin(client, rng).await.is_err() {
                tokio::time::sleep(LISTENS_MAX).await;
                continue;
            }
            if records.watch_of(self.user.process).is_none_or(|now| now.place != watching.place) {
                return;
            }
            if let Some((_, stream)) = &mut self.open
                && let Ok(told) = timeout(LISTENS_MAX, stream.next()).await
                && let Err(error) = self.take(told)
            {
                tracing::debug!(%error, "a watcher is told the rest later");
            }
        }
    }
}

/// A revision from which on a watch may tell.
async fn latest(client: &Client) -> Result<kvd_client::Revision> {
    let mut rows = client.scan_prefix(moments::PREFIX).limit(1).stream();
    if let Some(Err(error)) = rows.next().await {
        return Err(error);
    }
    rows.revision().ok_or_else(|| Error::internal("a scan has begun and has no revision"))
}

/// The watch that a record tells of, from now on.
fn asked(client: &Client, watch: &Watch) -> kvd_client::Watch {
    let mut asked = client
        .watch::<&[u8]>((std::ops::Bound::Included(&*watch.start), std::ops::Bound::Excluded(&*watch.end)));
    if watch.no_puts {
        asked = asked.no_puts();
    }
    if watch.no_deletes {
        asked = asked.no_deletes();
    }
    if watch.previous {
        asked = asked.previous();
    }
    asked.progress_every(watch.progress_after.min(Duration::from_secs(1)))
}

impl Workload for Watches {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        self.act(client.client(), rng).boxed()
    }

    fn finish<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, ()> {
        self.finish(client.client(), rng).boxed()
    }
}
