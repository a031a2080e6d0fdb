//! `watch`: how fast watchers are told of what many clients write.
//!
//! Each value begins with the time at which its put was called, by this process's clock, so that a watcher can tell how long it
//! took to be told. Watchers watch everything that is written, or each a key of its own.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::StreamExt as _;
use kvd_client::{Client, WatchItem, WatchStream};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    cli::Watch,
    load::{PREFIX, Times, key},
    target::kind,
    values::Values,
};

/// How long the watchers may take to be told of the last writes.
const DRAIN_MAX: Duration = Duration::from_secs(10);
const DRAIN_LOOK: Duration = Duration::from_millis(20);

/// The figures.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) watchers: u32,
    pub(crate) clients: u32,
    pub(crate) value_bytes: usize,
    /// Until the writers had ended.
    pub(crate) written: Duration,
    /// Until the watchers had been told as well.
    pub(crate) elapsed: Duration,
    pub(crate) puts: Times,
    pub(crate) told: Times,
    pub(crate) missing: u64,
    pub(crate) errors: BTreeMap<String, u64>,
}

/// Writes, and watches.
pub(crate) async fn run(arguments: &Watch) -> anyhow::Result<Report> {
    let connections = arguments.common.connect().await?;
    let epoch = Instant::now();
    // One for all: a histogram is larger than a watcher.
    let told = Arc::new(Mutex::new(Times::new()?));
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let mut watchers = Vec::new();
    for (number, client) in (0..arguments.watchers).zip(connections.iter().cycle()) {
        let watch =
            if arguments.apart { client.watch_key(key(number.into())) } else { client.watch_prefix(PREFIX) };
        let mut items = watch.stream();
        items.started().await?;
        watchers.push(tokio::spawn(listen(items, stopped.clone(), Arc::clone(&told), epoch)));
    }
    let keys = if arguments.apart { arguments.watchers.into() } else { arguments.keys };
    let watchers_of_each = if arguments.apart { 1 } else { u64::from(arguments.watchers) };
    let started = Instant::now();
    let end = started + Duration::from_secs(arguments.duration);
    let values = Values::new(arguments.common.value_bytes.max(8));
    let writers: Vec<_> = (0..arguments.common.clients)
        .zip(connections.iter().cycle())
        .map(|(number, client)| {
            let random = SmallRng::seed_from_u64(number.into());
            tokio::spawn(write(client.clone(), keys, values.clone(), random, epoch, end))
        })
        .collect();
    let mut puts = Times::new()?;
    let mut errors = BTreeMap::new();
    for writer in writers {
        let (times, failed) = writer.await??;
        puts.0.add(times.0)?;
        for (error, count) in failed {
            *errors.entry(error).or_default() += count;
        }
    }
    let written = started.elapsed();
    let expected = puts.0.len() * watchers_of_each;
    let drained = Instant::now() + DRAIN_MAX;
    while told.lock().0.len() < expected && Instant::now() < drained {
        tokio::time::sleep(DRAIN_LOOK).await;
    }
    let elapsed = started.elapsed();
    stop.send_replace(true);
    for watcher in watchers {
        watcher.await??;
    }
    let told = std::mem::replace(&mut *told.lock(), Times::new()?);
    let missing = expected.saturating_sub(told.0.len());
    for client in connections {
        client.close().await;
    }
    Ok(Report {
        watchers: arguments.watchers,
        clients: arguments.common.clients,
        value_bytes: arguments.common.value_bytes,
        written,
        elapsed,
        puts,
        told,
        missing,
        errors,
    })
}

/// Listens until it is told to stop.
async fn listen(
    mut items: WatchStream,
    mut stopped: tokio::sync::watch::Receiver<bool>,
    told: Arc<Mutex<Times>>,
    epoch: Instant,
) -> anyhow::Result<()> {
    loop {
        let item = tokio::select! {
            _ = stopped.wait_for(|stopped| *stopped) => return Ok(()),
            item = items.next() => item.context("a watch has ended")??,
        };
        note(&item, epoch, &mut told.lock());
    }
}

/// Writes until the end; gives the times, and how many failed, by kind.
async fn write(
    client: Client,
    keys: u64,
    values: Values,
    mut random: SmallRng,
    epoch: Instant,
    end: Instant,
) -> anyhow::Result<(Times, BTreeMap<String, u64>)> {
    let (mut times, mut errors) = (Times::new()?, BTreeMap::new());
    loop {
        let began = Instant::now();
        if began >= end {
            return Ok((times, errors));
        }
        let since = u64::try_from(began.duration_since(epoch).as_micros())?;
        let mut value = values.draw(&mut random).to_vec();
        if let Some(stamp) = value.first_chunk_mut() {
            *stamp = since.to_be_bytes();
        }
        match client.put(key(random.random_range(0..keys)), value).await {
            Ok(_) => times.add(began.elapsed()),
            Err(error) => *errors.entry(kind(&error)).or_default() += 1,
        }
    }
}

/// Takes note of how long it took until a watcher was told.
fn note(item: &WatchItem, epoch: Instant, times: &mut Times) {
    for event in &item.events {
        let stamp = event.record.as_ref().and_then(|record| record.value.first_chunk());
        let Some(stamp) = stamp else { continue };
        let put = epoch + Duration::from_micros(u64::from_be_bytes(*stamp));
        times.add(put.elapsed());
    }
}
