//! `run`: a closed loop of many clients.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{anyhow, ensure};
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use kvd_client::LeaseId;
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::{
    cli::{Run, Workload},
    target::{Connection, Failure, Target},
};

/// The longest time that is told apart, in microseconds. Longer ones count as this.
const TIME_MICROS_MAX: u64 = 120_000_000;
/// Writes under way while the keys are filled in.
pub(crate) const FILL_IN_FLIGHT: usize = 1024;

/// The figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) workload: Workload,
    pub(crate) clients: u32,
    pub(crate) value_bytes: usize,
    pub(crate) elapsed: Duration,
    /// By kind of request.
    pub(crate) times: BTreeMap<&'static str, Times>,
    /// How many requests failed, by message.
    pub(crate) errors: BTreeMap<String, u64>,
}

/// The times of the requests of one kind that were answered, in microseconds.
#[derive(Debug)]
pub(crate) struct Times(pub(crate) Histogram<u64>);

impl Times {
    pub(crate) fn new() -> anyhow::Result<Self> {
        Ok(Self(Histogram::new_with_max(TIME_MICROS_MAX, 3)?))
    }

    pub(crate) fn add(&mut self, time: Duration) {
        self.0.saturating_record(u64::try_from(time.as_micros()).unwrap_or(TIME_MICROS_MAX));
    }
}

/// What one client counted.
#[derive(Default)]
struct Counts {
    times: BTreeMap<&'static str, Times>,
    errors: BTreeMap<String, u64>,
}

impl Counts {
    fn add(&mut self, kind: &'static str, time: Duration) -> anyhow::Result<()> {
        if !self.times.contains_key(kind) {
            self.times.insert(kind, Times::new()?);
        }
        if let Some(times) = self.times.get_mut(kind) {
            times.add(time);
        }
        Ok(())
    }

    fn merge(&mut self, other: Self) -> anyhow::Result<()> {
        for (kind, times) in other.times {
            match self.times.get_mut(kind) {
                Some(sum) => sum.0.add(times.0)?,
                None => drop(self.times.insert(kind, times)),
            }
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
        Ok(())
    }
}

/// When the clients stop.
#[derive(Clone)]
enum Until {
    Time(Instant),
    /// How many requests may still be begun.
    Left(Arc<AtomicU64>),
}

impl Until {
    /// Whether one more request may be begun.
    fn more(&self) -> bool {
        match self {
            Self::Time(end) => Instant::now() < *end,
            Self::Left(left) => {
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
            }
        }
    }
}

/// What the clients do.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) workload: Workload,
    pub(crate) clients: u32,
    pub(crate) keys: u64,
    pub(crate) value_bytes: usize,
    /// Time to live of what is put.
    pub(crate) ttl: Option<Duration>,
    pub(crate) stop: Stop,
}

/// When they stop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Stop {
    After(Duration),
    Operations(u64),
}

/// Makes the requests of a command line.
pub(crate) async fn run(arguments: &Run) -> anyhow::Result<Report> {
    let Run { common, target, workload, .. } = arguments;
    ensure!(target.serves(*workload), "{} has no requests of that kind", target.name());
    ensure!(*target == Target::Kvd || arguments.ttl_ms.is_none(), "only kvd's puts have a time to live");
    let connections = target.connect(&common.reach(&arguments.data_dir)).await?;
    let load = Load {
        workload: *workload,
        clients: common.clients,
        keys: arguments.keys,
        value_bytes: common.value_bytes,
        ttl: arguments.ttl_ms.map(Duration::from_millis),
        stop: arguments
            .operations
            .map_or(Stop::After(Duration::from_secs(arguments.duration)), Stop::Operations),
    };
    if arguments.fill {
        fill(&connections, &load).await?;
    }
    let report = measure(&connections, &load).await?;
    for connection in connections {
        connection.close().await;
    }
    Ok(report)
}

/// Makes the requests of a load, and takes their times.
pub(crate) async fn measure(connections: &[Connection], load: &Load) -> anyhow::Result<Report> {
    let leases = match load.workload {
        Workload::KeepAlive => grant(connections, load.keys).await?,
        _ => Vec::new(),
    };
    let leases = Arc::new(leases);
    let started = Instant::now();
    let until = match load.stop {
        Stop::Operations(operations) => Until::Left(Arc::new(AtomicU64::new(operations))),
        Stop::After(time) => Until::Time(started + time),
    };
    let mut tasks = Vec::new();
    for (number, connection) in (0..load.clients).zip(connections.iter().cycle()) {
        let one = One {
            connection: connection.clone(),
            load: load.clone(),
            leases: Arc::clone(&leases),
            value: value(load.value_bytes, number.into()),
            random: SmallRng::seed_from_u64(number.into()),
            until: until.clone(),
        };
        tasks.push(tokio::spawn(one.run()));
    }
    let mut counts = Counts::default();
    for task in tasks {
        counts.merge(task.await??)?;
    }
    let elapsed = started.elapsed();
    let (workload, clients, value_bytes) = (load.workload, load.clients, load.value_bytes);
    Ok(Report { workload, clients, value_bytes, elapsed, times: counts.times, errors: counts.errors })
}

/// Writes each key once.
pub(crate) async fn fill(connections: &[Connection], load: &Load) -> anyhow::Result<()> {
    let value = &value(load.value_bytes, 0);
    stream::iter((0..load.keys).zip(connections.iter().cycle()))
        .map(|(number, connection)| connection.put(number, value, load.ttl))
        .buffer_unordered(FILL_IN_FLIGHT)
        .try_for_each(|()| async { Ok(()) })
        .await
        .map_err(|failure| anyhow!("the keys could not be written before the run: {failure}"))
}

/// So many leases, which last for the run.
async fn grant(connections: &[Connection], count: u64) -> anyhow::Result<Vec<LeaseId>> {
    let granted = stream::iter((0..count).zip(connections.iter().cycle()));
    let granted = granted.map(|(_, connection)| connection.grant());
    let granted: Result<_, Failure> = granted.buffer_unordered(FILL_IN_FLIGHT).try_collect().await;
    granted.map_err(|failure| anyhow!("the leases could not be granted: {failure}"))
}

/// The prefix of all keys.
pub(crate) const PREFIX: &str = "bench-";

pub(crate) fn key(number: u64) -> String {
    format!("{PREFIX}{number:012}")
}

/// Bytes that don't compress, the same in each run.
pub(crate) fn value(bytes: usize, seed: u64) -> Bytes {
    let mut value = vec![0; bytes];
    SmallRng::seed_from_u64(seed).fill(&mut value[..]);
    value.into()
}

/// One client.
struct One {
    connection: Connection,
    load: Load,
    leases: Arc<Vec<LeaseId>>,
    value: Bytes,
    random: SmallRng,
    until: Until,
}

impl One {
    async fn run(mut self) -> anyhow::Result<Counts> {
        let mut counts = Counts::default();
        while self.until.more() {
            let number = self.random.random_range(0..self.load.keys);
            let kind = match self.load.workload {
                Workload::Put => PUT,
                Workload::Get => GET,
                Workload::Mixed if self.random.random_bool(0.5) => PUT,
                Workload::Mixed => GET,
                Workload::Txn => TXN,
                Workload::KeepAlive => KEEP_ALIVE,
            };
            let began = Instant::now();
            match self.ask(kind, number).await {
                Ok(()) => counts.add(kind, began.elapsed())?,
                Err(failure) => *counts.errors.entry(failure).or_default() += 1,
            }
        }
        Ok(counts)
    }

    async fn ask(&self, kind: &'static str, number: u64) -> Result<(), Failure> {
        let connection = &self.connection;
        match kind {
            PUT => connection.put(number, &self.value, self.load.ttl).await,
            GET => connection.get(number).await,
            TXN => connection.transact(number, &self.value).await,
            _ => {
                let lease = usize::try_from(number).ok().and_then(|place| self.leases.get(place));
                connection.keep_alive(lease.copied().unwrap_or_default()).await
            }
        }
    }
}

/// The kinds of request, as they are called in reports.
pub(crate) const PUT: &str = "put";
pub(crate) const GET: &str = "get";
const TXN: &str = "txn";
const KEEP_ALIVE: &str = "keep-alive";
