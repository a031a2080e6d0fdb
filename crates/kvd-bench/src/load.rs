//! `run`: a closed loop of many clients.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use hdrhistogram::Histogram;
use kvd_client::{Client, Compare, LeaseId, Put, Result, TxnOp};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

use crate::cli::{Run, Workload};

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

/// Makes the requests.
pub(crate) async fn run(arguments: &Run) -> anyhow::Result<Report> {
    let connections = arguments.common.connect().await?;
    if arguments.fill
        && let Some(client) = connections.first()
    {
        fill(client, arguments).await.context("the keys could not be written before the run")?;
    }
    let leases = if arguments.workload == Workload::KeepAlive {
        grant(&connections, arguments.keys).await.context("the leases could not be granted")?
    } else {
        Vec::new()
    };
    let leases = Arc::new(leases);
    let started = Instant::now();
    let until = match arguments.operations {
        Some(operations) => Until::Left(Arc::new(AtomicU64::new(operations))),
        None => Until::Time(started + Duration::from_secs(arguments.duration)),
    };
    let mut tasks = Vec::new();
    for (number, client) in (0..arguments.common.clients).zip(connections.iter().cycle()) {
        let one = One {
            client: client.clone(),
            workload: arguments.workload,
            keys: arguments.keys,
            leases: Arc::clone(&leases),
            ttl_ms: arguments.ttl_ms,
            value: value(arguments.common.value_bytes, number.into()),
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
    for client in connections {
        client.close().await;
    }
    Ok(Report {
        workload: arguments.workload,
        clients: arguments.common.clients,
        value_bytes: arguments.common.value_bytes,
        elapsed,
        times: counts.times,
        errors: counts.errors,
    })
}

async fn fill(client: &Client, arguments: &Run) -> Result<()> {
    let value = value(arguments.common.value_bytes, 0);
    stream::iter(0..arguments.keys)
        .map(|number| put(client, number, &value, arguments.ttl_ms).into_future())
        .buffer_unordered(FILL_IN_FLIGHT)
        .try_for_each(|_| async { Ok(()) })
        .await
}

fn put(client: &Client, number: u64, value: &Bytes, ttl_ms: Option<u64>) -> Put {
    let put = client.put(key(number), value);
    match ttl_ms {
        Some(ttl_ms) => put.ttl(Duration::from_millis(ttl_ms)),
        None => put,
    }
}

/// So many leases, which last for the run.
async fn grant(connections: &[Client], count: u64) -> Result<Vec<LeaseId>> {
    const TTL: Duration = Duration::from_secs(3600);
    let granted = stream::iter((0..count).zip(connections.iter().cycle()))
        .map(|(_, client)| async move { Ok(client.grant_lease(TTL).await?.id()) });
    granted.buffer_unordered(FILL_IN_FLIGHT).try_collect().await
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
    client: Client,
    workload: Workload,
    keys: u64,
    leases: Arc<Vec<LeaseId>>,
    ttl_ms: Option<u64>,
    value: Bytes,
    random: SmallRng,
    until: Until,
}

impl One {
    async fn run(mut self) -> anyhow::Result<Counts> {
        let mut counts = Counts::default();
        while self.until.more() {
            let number = self.random.random_range(0..self.keys);
            let kind = match self.workload {
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
                Err(error) => *counts.errors.entry(self::kind(&error)).or_default() += 1,
            }
        }
        Ok(counts)
    }

    async fn ask(&self, kind: &'static str, number: u64) -> Result<()> {
        let client = &self.client;
        match kind {
            PUT => put(client, number, &self.value, self.ttl_ms).await.map(drop),
            GET => client.get(key(number)).await.map(drop),
            TXN => {
                let [one, other] = ["a", "b"].map(|end| format!("{PREFIX}{{{number:012}}}{end}"));
                let txn = client.txn().when(Compare::version(&one).less(u64::MAX));
                let txn = txn.then(TxnOp::put(&one, &self.value)).then(TxnOp::put(&other, &self.value));
                txn.await.map(drop)
            }
            _ => {
                let lease = usize::try_from(number).ok().and_then(|place| self.leases.get(place));
                client.keep_lease_alive(lease.copied().unwrap_or_default()).await.map(drop)
            }
        }
    }
}

/// The kinds of request, as they are called in reports.
const PUT: &str = "put";
const GET: &str = "get";
const TXN: &str = "txn";
const KEEP_ALIVE: &str = "keep-alive";

/// The kind of an error: messages have times and keys in them, and would each count alone.
pub(crate) fn kind(error: &kvd_client::Error) -> String {
    let kind = format!("{:?}", error.kind);
    kind.split(['(', ' ']).next().unwrap_or_default().to_owned()
}
