//! `expiry`: how long it takes until keys that expire at the same moment are gone, and what writers feel of it.
//!
//! The keys hang on one lease, or each has a time to live that is up with all the others': the worst cases. Writers of other
//! keys work before, and from then on until no key is left; their times are told apart. A watcher of the keys tells when they
//! go: counting them again and again would be a load of its own.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kvd_client::{Client, Put, WatchStream};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    cli::Expiry,
    load::{FILL_IN_FLIGHT, Times, key},
    target::kind,
    values::Values,
};

/// The prefix of the keys that expire: none of those that are written.
const EXPIRING: &str = "bench-expiring-";

/// The figures.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) keys: u64,
    pub(crate) clients: u32,
    pub(crate) value_bytes: usize,
    /// From when nothing kept the lease alive any more, or the keys' time was up, until the first key was gone.
    pub(crate) until_first: Duration,
    /// From then on until no key was left.
    pub(crate) until_none: Duration,
    /// Puts of other keys before that.
    pub(crate) before: Writes,
    /// Puts of other keys while keys expired.
    pub(crate) during: Writes,
    /// Failed puts of either kind, by the error's kind.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// Puts, and how long they were made.
#[derive(Debug)]
pub(crate) struct Writes {
    pub(crate) elapsed: Duration,
    pub(crate) times: Times,
}

/// Writes the keys, lets them expire, and waits until no key is left.
pub(crate) async fn run(arguments: &Expiry) -> anyhow::Result<Report> {
    let connections = arguments.common.connect().await?;
    let client = connections.first().context("there is no connection")?;
    let mut errors = BTreeMap::new();
    let ttl = Duration::from_millis(arguments.ttl_ms);
    let (before, due) = if arguments.each {
        let before = write_for_a_while(arguments, &connections, &mut errors).await?;
        let due = Instant::now() + ttl;
        fill(client, arguments, |put| put.ttl(due.saturating_duration_since(Instant::now()))).await?;
        (before, due)
    } else {
        let lease = client.grant_lease(ttl).await?.keep_alive_forever();
        fill(client, arguments, |put| put.lease(lease.id())).await?;
        let before = write_for_a_while(arguments, &connections, &mut errors).await?;
        drop(lease);
        (before, Instant::now())
    };

    let mut gone = client.watch_prefix(EXPIRING).no_puts().stream();
    gone.started().await?;
    tokio::time::sleep_until(due.into()).await;
    let writers = Writers::begin(arguments, &connections);
    let first = count(&mut gone, 1).await?;
    let until_first = due.elapsed();
    count(&mut gone, arguments.keys.saturating_sub(first)).await?;
    let until_none = due.elapsed().saturating_sub(until_first);
    let during = writers.end(&mut errors).await?;
    for client in connections {
        client.close().await;
    }
    Ok(Report {
        keys: arguments.keys,
        clients: arguments.common.clients,
        value_bytes: arguments.common.value_bytes,
        until_first,
        until_none,
        before,
        during,
        errors,
    })
}

async fn fill(client: &Client, arguments: &Expiry, expiring: impl Fn(Put) -> Put) -> anyhow::Result<()> {
    let values = &Values::new(arguments.common.value_bytes);
    stream::iter(0..arguments.keys)
        .map(|number| {
            expiring(client.put(format!("{EXPIRING}{number:012}"), values.numbered(number))).into_future()
        })
        .buffer_unordered(FILL_IN_FLIGHT)
        .try_for_each(|_| async { Ok(()) })
        .await
        .context("the keys could not be written; with --each their time to live must outlast that")
}

async fn write_for_a_while(
    arguments: &Expiry,
    connections: &[Client],
    errors: &mut BTreeMap<String, u64>,
) -> anyhow::Result<Writes> {
    let writers = Writers::begin(arguments, connections);
    tokio::time::sleep(Duration::from_secs(arguments.quiet)).await;
    writers.end(errors).await
}

/// Waits until so many more keys are gone, or some more than that; gives how many.
async fn count(gone: &mut WatchStream, keys: u64) -> anyhow::Result<u64> {
    let mut counted = 0;
    while counted < keys {
        let item = gone.try_next().await?.context("the watch has ended")?;
        counted += u64::try_from(item.events.len())?;
    }
    Ok(counted)
}

/// The times of puts, and how many failed, by kind.
type Written = (Times, BTreeMap<String, u64>);

/// Writers at work.
struct Writers {
    began: Instant,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<anyhow::Result<Written>>>,
}

impl Writers {
    fn begin(arguments: &Expiry, connections: &[Client]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let values = Values::new(arguments.common.value_bytes);
        let tasks = (0..arguments.common.clients).zip(connections.iter().cycle()).map(|(number, client)| {
            let random = SmallRng::seed_from_u64(number.into());
            tokio::spawn(write(client.clone(), values.clone(), random, Arc::clone(&stop)))
        });
        Self { began: Instant::now(), tasks: tasks.collect(), stop }
    }

    async fn end(self, errors: &mut BTreeMap<String, u64>) -> anyhow::Result<Writes> {
        self.stop.store(true, Ordering::Relaxed);
        let elapsed = self.began.elapsed();
        let mut times = Times::new()?;
        for task in self.tasks {
            let (its, failed) = task.await??;
            times.0.add(its.0)?;
            for (error, count) in failed {
                *errors.entry(error).or_default() += count;
            }
        }
        Ok(Writes { elapsed, times })
    }
}

/// Writes until it is told to stop.
async fn write(
    client: Client,
    values: Values,
    mut random: SmallRng,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Written> {
    const KEYS: u64 = 100_000;
    let (mut times, mut errors) = (Times::new()?, BTreeMap::new());
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        match client.put(key(random.random_range(0..KEYS)), values.draw(&mut random)).await {
            Ok(_) => times.add(began.elapsed()),
            Err(error) => *errors.entry(kind(&error)).or_default() += 1,
        }
    }
    Ok((times, errors))
}
