//! `run`: requests of many clients in a closed loop, or at a fixed rate in an open one.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use anyhow::anyhow;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use kvd_client::LeaseId;
use rand::{RngExt as _, rngs::SmallRng};

use crate::{
    cli::{Choice, Misuse, Run, Workload},
    clusters::{Cluster, Workplace, uninterrupted},
    cost::{Figures, Meter},
    target::{Connection, Failure, OVERLOADED, Reads, Target, TopologySize},
    values::Values,
};

mod book;
mod choice;
mod open;
mod work;

pub(crate) use book::Times;
use book::{Book, Counts};
pub(crate) use open::Open;
use work::{Until, Work};

/// Writes under way while the keys are filled in.
pub(crate) const FILL_IN_FLIGHT: usize = 1024;

/// The figures of a run.
#[derive(Debug)]
pub(crate) struct Report {
    pub(crate) load: Load,
    pub(crate) elapsed: Duration,
    /// By kind of request.
    pub(crate) times: BTreeMap<Kind, Times>,
    /// Rows or keys that requests of more than one were answered with.
    pub(crate) rows: u64,
    /// How many requests failed, by kind of failure.
    pub(crate) errors: BTreeMap<Failure, u64>,
    /// How many the target has refused because it had too much to do.
    pub(crate) overloaded: u64,
    /// How many were due in an open loop, and not made because too many were under way.
    pub(crate) refused: u64,
}

impl Report {
    /// The times of requests of all kinds.
    pub(crate) fn all(&self) -> anyhow::Result<Times> {
        let mut all = Times::new()?;
        for times in self.times.values() {
            all.0.add(&times.0)?;
        }
        Ok(all)
    }
}

/// The figures of a run from the command line.
#[derive(Debug)]
pub(crate) struct RunReport {
    pub(crate) target: Target,
    pub(crate) report: Report,
    pub(crate) cost: Figures,
    /// Of kvd, as its client library knows it.
    pub(crate) topology: Option<TopologySize>,
}

/// What the clients do.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) workload: Workload,
    /// How many of 100 requests are gets, where they are mixed.
    pub(crate) reads_percent: u8,
    pub(crate) clients: u32,
    /// In place of clients.
    pub(crate) open: Option<Open>,
    pub(crate) keys: u64,
    pub(crate) choice: Choice,
    pub(crate) reads: Reads,
    /// Keys of a batch.
    pub(crate) batch: u8,
    /// Rows of a scan, at most.
    pub(crate) rows_max: u32,
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

/// The kinds of request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Put,
    Get,
    ReadModifyWrite,
    BatchGet,
    BatchPut,
    Scan,
    Txn,
    KeepAlive,
}

impl Kind {
    /// What it is called in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::ReadModifyWrite => "get-put",
            Self::BatchGet => "batch-get",
            Self::BatchPut => "batch-put",
            Self::Scan => "scan",
            Self::Txn => "txn",
            Self::KeepAlive => "keep-alive",
        }
    }
}

impl Load {
    /// A load of one kind, for the rest to be set.
    pub(crate) const fn of(workload: Workload) -> Self {
        Self {
            workload,
            reads_percent: 50,
            clients: 1,
            open: None,
            keys: 1000,
            choice: workload.choice(),
            reads: Reads::LINEARIZABLE,
            batch: 100,
            rows_max: 100,
            value_bytes: 128,
            ttl: None,
            stop: Stop::Operations(1),
        }
    }

    /// What it is called in reports.
    pub(crate) fn name(&self) -> String {
        match self.workload {
            Workload::Mixed => format!("mixed {}/{}", self.reads_percent, 100 - self.reads_percent),
            workload => workload.name().to_owned(),
        }
    }

    /// The kinds of request that there are.
    fn kinds(&self) -> [Kind; 2] {
        let (read, write) = self.mix();
        [read, write]
    }

    /// The kind of the next request.
    fn kind(&self, random: &mut SmallRng) -> Kind {
        let (read, write) = self.mix();
        let reads_percent = match self.workload {
            Workload::Mixed | Workload::Batch => self.reads_percent,
            Workload::YcsbA | Workload::YcsbF => 50,
            Workload::YcsbB => 95,
            _ => 100,
        };
        if random.random_range(0..100) < reads_percent { read } else { write }
    }

    /// What it reads and what it writes with; the same, where there is only one kind.
    const fn mix(&self) -> (Kind, Kind) {
        match self.workload {
            Workload::Put => (Kind::Put, Kind::Put),
            Workload::Get | Workload::YcsbC => (Kind::Get, Kind::Get),
            Workload::Mixed | Workload::YcsbA | Workload::YcsbB => (Kind::Get, Kind::Put),
            Workload::YcsbF => (Kind::Get, Kind::ReadModifyWrite),
            Workload::Batch => (Kind::BatchGet, Kind::BatchPut),
            Workload::Scan => (Kind::Scan, Kind::Scan),
            Workload::Txn => (Kind::Txn, Kind::Txn),
            Workload::KeepAlive => (Kind::KeepAlive, Kind::KeepAlive),
        }
    }

    /// Values that a request writes.
    pub(crate) fn values_of(&self, kind: Kind) -> u64 {
        match kind {
            Kind::Put | Kind::ReadModifyWrite => 1,
            Kind::Txn => 2,
            Kind::BatchPut => self.batch.into(),
            Kind::Get | Kind::BatchGet | Kind::Scan | Kind::KeepAlive => 0,
        }
    }
}

impl Run {
    /// Refuses what the target can't do.
    fn check(&self) -> Result<(), Misuse> {
        let (target, workload, level) = (self.target, self.workload, self.consistency);
        let name = target.name();
        if !target.serves(workload) {
            let workload = workload.name();
            return Err(Misuse(format!("--target {name} has no requests of --workload {workload}")));
        }
        if !target.reads(level) {
            let level = level.name();
            return Err(Misuse(format!("--target {name} has no reads of --consistency {level}")));
        }
        if self.ttl_ms.is_some() && !matches!(target, Target::Kvd | Target::KvdUnary) {
            return Err(Misuse("--ttl-ms: only kvd's puts have a time to live here".to_owned()));
        }
        let batch_bytes = usize::from(self.batch) * self.common.value_bytes;
        if workload == Workload::Batch && self.reads < 100 && batch_bytes >= BATCH_BYTES_MAX {
            let why = "so many values of --value-bytes are more than the 4 MiB of a request";
            return Err(Misuse(format!("--batch: {why}")));
        }
        Ok(())
    }

    fn load(&self) -> Load {
        let bound = Duration::from_millis(self.bound_ms);
        let after = || Stop::After(Duration::from_secs(self.duration));
        Load {
            workload: self.workload,
            reads_percent: self.reads,
            clients: self.common.clients,
            open: self.rate.map(|rate| Open { rate, outstanding_max: self.outstanding }),
            keys: self.keys,
            choice: self.choice.unwrap_or(self.workload.choice()),
            reads: Reads { level: self.consistency, bound },
            batch: self.batch,
            rows_max: self.rows,
            value_bytes: self.common.value_bytes,
            ttl: self.ttl_ms.map(Duration::from_millis),
            stop: self.operations.map_or_else(after, Stop::Operations),
        }
    }
}

/// Makes the requests of a command line, of a server that is started for that where none is named.
pub(crate) async fn run(arguments: &Run) -> anyhow::Result<RunReport> {
    let Run { common, target, data_dir, .. } = arguments;
    arguments.check()?;
    let endpoints = common.endpoints.as_deref().or(target.usual_endpoints());
    if let Some(endpoints) = endpoints {
        return run_at(arguments, endpoints, &arguments.processes, data_dir).await;
    }
    let workplace = Workplace::make(data_dir)?;
    let dir = workplace.path();
    let cluster = match target {
        Target::Redis => Cluster::redis(&arguments.redis, dir).await?.ok_or_else(|| {
            anyhow!("there is no {}: install it or name it with --redis", arguments.redis.display())
        })?,
        Target::Echo => Cluster::echo(dir).await?,
        _ => return uninterrupted(run_at(arguments, "", &[], dir)).await,
    };
    let report = uninterrupted(run_at(arguments, &cluster.endpoints, &cluster.nodes, dir)).await;
    cluster.stop().await.and(report)
}

async fn run_at(
    arguments: &Run,
    endpoints: &str,
    nodes: &[u32],
    data_dir: &Path,
) -> anyhow::Result<RunReport> {
    let Run { common, target, .. } = arguments;
    let connections = target.connect(&common.reach(endpoints, data_dir)).await?;
    let load = arguments.load();
    if arguments.fill {
        fill(&connections, &load).await?;
    }
    let meter = Meter::start(nodes, data_dir)?;
    let report = measure(&connections, &load).await?;
    let cost = meter.stop(&report)?;
    let topology = connections.first().and_then(Connection::topology);
    for connection in connections {
        connection.close().await;
    }
    Ok(RunReport { target: *target, report, cost, topology })
}

/// Makes the requests of a load, and takes their times.
pub(crate) async fn measure(connections: &[Connection], load: &Load) -> anyhow::Result<Report> {
    let leases = match load.workload {
        Workload::KeepAlive => grant(connections, load.keys).await?,
        _ => Vec::new(),
    };
    let work = Arc::new(Work::new(load, leases)?);
    let started = Instant::now();
    let until = match load.stop {
        Stop::Operations(operations) => Until::Left(Arc::new(AtomicU64::new(operations))),
        Stop::After(time) => Until::Time(started + time),
    };
    let mut refused = 0;
    match load.open {
        Some(open) => refused = open::open(&work, connections, open, started, &until).await?,
        None => work::closed(&work, connections, load.clients, &until).await?,
    }
    let elapsed = started.elapsed();
    let Counts { times, rows, errors, overloaded } = work.book.sum()?;
    Ok(Report { load: load.clone(), elapsed, times, rows, errors, overloaded, refused })
}

/// The values of a batch that is put take less: a request has at most so many bytes.
const BATCH_BYTES_MAX: usize = 4 << 20;

/// How often a key is tried that a target refuses because it has too much to do, and the pause between.
const FILL_TRIES: u32 = 600;
const FILL_PAUSE: Duration = Duration::from_millis(100);

/// Writes each key once.
pub(crate) async fn fill(connections: &[Connection], load: &Load) -> anyhow::Result<()> {
    let values = &Values::new(load.value_bytes);
    stream::iter((0..load.keys).zip(connections.iter().cycle()))
        .map(|(number, connection)| async move {
            put_patiently(connection, number, &values.numbered(number), load.ttl).await
        })
        .buffer_unordered(FILL_IN_FLIGHT)
        .try_for_each(|()| async { Ok(()) })
        .await
        .map_err(|failure| anyhow!("the keys could not be written before the run: {failure}"))
}

async fn put_patiently(
    connection: &Connection,
    number: u64,
    value: &Bytes,
    ttl: Option<Duration>,
) -> Result<(), Failure> {
    for _ in 1..FILL_TRIES {
        match connection.put(number, value, ttl).await {
            Err(failure) if failure == OVERLOADED => tokio::time::sleep(FILL_PAUSE).await,
            done => return done,
        }
    }
    connection.put(number, value, ttl).await
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
