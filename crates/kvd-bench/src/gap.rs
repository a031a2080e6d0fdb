//! `gap`: how long no write was acknowledged.
//!
//! Each shard has writers of its own that write one key after the other without pause. A shard's longest gap is the
//! longest time between two of its acknowledgements, the start and the end of the run counting as one each; the overall
//! one is that of all shards together. What is measured is what a user sees of a failover: detection, election, and how
//! long the client library takes to find the new leader.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use kvd_client::{Client, ShardId};
use tokio::sync::Mutex;

use crate::{cli::Gap, target::kind, values::Values};

/// Keys that are located in search of one for each shard.
const SEARCH_KEYS_MAX: u32 = 100_000;

/// The figures.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) elapsed: Duration,
    pub(crate) overall: Track,
    pub(crate) shards: BTreeMap<ShardId, Track>,
    /// How many writes failed, by kind.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// The acknowledgements of one stream of writes.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    started: Instant,
    last: Instant,
    pub(crate) writes: u64,
    pub(crate) longest: Duration,
    /// When the longest gap began, counted from the start.
    pub(crate) longest_began: Duration,
}

impl Track {
    pub(crate) const fn new(started: Instant) -> Self {
        Self { started, last: started, writes: 0, longest: Duration::ZERO, longest_began: Duration::ZERO }
    }

    /// A write was acknowledged.
    pub(crate) fn acknowledged(&mut self, now: Instant) {
        self.writes += 1;
        self.mark(now);
    }

    /// The run has ended.
    pub(crate) fn mark(&mut self, now: Instant) {
        let gap = now.saturating_duration_since(self.last);
        if gap > self.longest {
            self.longest = gap;
            self.longest_began = self.last.saturating_duration_since(self.started);
        }
        self.last = self.last.max(now);
    }
}

/// The writers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Writers {
    /// At least one for each shard.
    pub(crate) clients: u32,
    pub(crate) value_bytes: usize,
    pub(crate) duration: Duration,
}

/// Writes, and counts the time.
pub(crate) async fn run(arguments: &Gap) -> anyhow::Result<Report> {
    let connections = arguments.common.connect().await?;
    let writers = Writers {
        clients: arguments.common.clients,
        value_bytes: arguments.common.value_bytes,
        duration: Duration::from_secs(arguments.duration),
    };
    let report = measure(&connections, writers).await?;
    for client in connections {
        client.close().await;
    }
    Ok(report)
}

/// The same over connections that there are.
pub(crate) async fn measure(connections: &[Client], writers: Writers) -> anyhow::Result<Report> {
    let first = connections.first().context("there is no connection")?;
    let keys = one_key_per_shard(first).await?;
    // Sessions are opened before the clock starts.
    for client in connections {
        for key in keys.values() {
            client.put(key, "").await?;
        }
    }
    let started = Instant::now();
    let end = started + writers.duration;
    let shards = keys.keys().map(|&shard| (shard, Track::new(started))).collect();
    let report =
        Report { elapsed: Duration::ZERO, overall: Track::new(started), shards, errors: BTreeMap::new() };
    let report = Arc::new(Mutex::new(report));
    let value = Values::new(writers.value_bytes).numbered(0);
    let count = usize::try_from(writers.clients)?.max(keys.len());
    let tasks: Vec<_> = keys
        .iter()
        .cycle()
        .zip(connections.iter().cycle())
        .take(count)
        .map(|((&shard, key), client)| {
            let (client, key, value, report) =
                (client.clone(), key.clone(), value.clone(), Arc::clone(&report));
            tokio::spawn(async move {
                while Instant::now() < end {
                    let result = client.put(&key, &value).await;
                    let mut report = report.lock().await;
                    let now = Instant::now();
                    match result {
                        Ok(_) => {
                            report.overall.acknowledged(now);
                            if let Some(track) = report.shards.get_mut(&shard) {
                                track.acknowledged(now);
                            }
                        }
                        Err(error) => *report.errors.entry(kind(&error)).or_default() += 1,
                    }
                }
            })
        })
        .collect();
    for task in tasks {
        task.await?;
    }
    let mut report = Arc::into_inner(report).context("a writer has not ended")?.into_inner();
    report.elapsed = started.elapsed();
    for track in report.shards.values_mut().chain([&mut report.overall]) {
        // Writers that began before the end may have been answered after it.
        track.mark(end);
    }
    Ok(report)
}

/// A key in each shard: found by asking where keys live.
async fn one_key_per_shard(client: &Client) -> anyhow::Result<BTreeMap<ShardId, String>> {
    let shards = client.status().await?.topology.shards.len();
    let mut keys = BTreeMap::new();
    for number in 0..SEARCH_KEYS_MAX {
        if keys.len() >= shards {
            break;
        }
        let key = format!("bench-gap-{number}");
        let shard = client.locate(&key).await?.shard.id;
        keys.entry(shard).or_insert(key);
    }
    if keys.is_empty() || keys.len() < shards {
        bail!(
            "keys were found for {} of {shards} shards: is the cluster complete? See kvctl status.",
            keys.len()
        );
    }
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_gap_counts_from_the_start_and_to_the_end() {
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let mut track = Track::new(started);
        for ms in [30, 40, 40, 100, 90] {
            track.acknowledged(at(ms));
        }
        assert_eq!((track.writes, track.longest), (5, Duration::from_millis(60)));
        assert_eq!(track.longest_began, Duration::from_millis(40));
        track.mark(at(170));
        assert_eq!(track.longest, Duration::from_millis(70));
        assert_eq!(track.longest_began, Duration::from_millis(100));
        track.mark(at(160));
        assert_eq!(track.longest, Duration::from_millis(70), "answered after the end");
    }
}
