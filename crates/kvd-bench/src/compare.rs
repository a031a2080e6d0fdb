//! `compare`: kvd beside its peers and the limits of disk and RPC layer, on this machine, in one run.
//!
//! All are up at the same time and are measured in turn, in another order each round, so that what the machine does beside
//! falls on all of them. Each has the same load for some seconds before ([`WARM_UP`]): so what another has put off falls into
//! those, and nobody gains by putting off. The figures are medians of the rounds, each by itself; what counts are the ratios. CPU
//! and memory are those of the processes that serve, the writes those of the disk; what the generator takes is told apart, because
//! it works on the same cores.
//!
//! With `--all` kvd goes on alone with what takes longer ([`trials`]).
//!
//! With `--sweep` it is puts and gets alone, of other numbers of clients, keys, shards or nodes one after the other.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    num::TryFromIntError,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use serde::Serialize;

use crate::{
    cli::{self, Misuse, Sweep, Workload},
    clusters::{Cluster, Setup, Size, Workplace, uninterrupted},
    cost::{Figures, Meter},
    load::{self, Load, Report, Stop},
    machine::Machine,
    target::{Connection, OVERLOADED, Reach, Target},
};

mod case;
mod cores;
mod show;
mod trials;

use case::{Case, PLANS, Plan, Point, medians, puts_and_gets};
pub(crate) use show::show;
use trials::Trial;

/// How long each request is tried.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a target has a load before it is measured, if it is measured for so long.
const WARM_UP: Duration = Duration::from_secs(3);

/// Clients, where something else is varied.
const CLIENTS_OF_SWEEPS: u32 = 256;

/// The figures.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    machine: Machine,
    /// What each program that is no part of this one says of its version.
    versions: BTreeMap<&'static str, String>,
    value_bytes: usize,
    rounds: u32,
    seconds: u64,
    cases: Vec<Case>,
    /// Of kvd alone.
    trials: Vec<Trial>,
    /// Requests that failed, by target and kind.
    errors: BTreeMap<String, u64>,
    /// Why the trials were broken off.
    pub(crate) broken_off: Option<String>,
}

/// The clusters that are up.
type Clusters = Vec<(Target, Cluster)>;

/// Requests that failed, by target and kind.
type Errors = BTreeMap<String, u64>;

/// Measures everything. What was measured before a trial failed is not lost: see [`Comparison::broken_off`].
pub(crate) async fn run(arguments: &cli::Compare) -> anyhow::Result<Comparison> {
    let arguments = &arguments.effective();
    let (mut cases, mut errors) = (Vec::new(), Errors::new());
    let points = arguments.points(thread::available_parallelism()?.get())?;
    for point in points {
        cases.extend(start_and_compare(arguments, &point, &mut errors).await?);
    }
    let mut trials = Vec::new();
    let mut tried = Ok(());
    if arguments.all {
        tried = trials::run(arguments, &mut errors, &mut trials).await;
    }
    Ok(Comparison {
        machine: Machine::here()?,
        versions: versions(arguments),
        value_bytes: arguments.value_bytes,
        rounds: arguments.rounds,
        seconds: arguments.duration,
        cases,
        trials,
        errors,
        broken_off: tried.err().map(|error| format!("{error:#}")),
    })
}

/// Starts everything, measures it, and stops it, however that goes.
async fn start_and_compare(
    arguments: &cli::Compare,
    point: &Point,
    errors: &mut Errors,
) -> anyhow::Result<Vec<Case>> {
    let workplace = Workplace::make(&arguments.data_dir)?;
    let dir = workplace.path();
    let mut clusters = Vec::new();
    let compared = async {
        start(arguments, point.size, dir, &mut clusters).await?;
        uninterrupted(compare(arguments, point, &clusters, dir, errors)).await
    }
    .await;
    let mut stopped = Ok(());
    for (_, cluster) in clusters {
        stopped = stopped.and(cluster.stop().await);
    }
    stopped.and(compared)
}

/// Starts kvd, and what else there is on this machine.
async fn start(
    arguments: &cli::Compare,
    size: Size,
    dir: &Path,
    clusters: &mut Clusters,
) -> anyhow::Result<()> {
    let setup = Setup { binary: arguments.kvd.as_deref(), size, engine: None, limit: None };
    clusters.push((Target::Kvd, Cluster::kvd(setup, dir).await?));
    match Cluster::etcd(&arguments.etcd, size.nodes, dir).await? {
        Some(etcd) => clusters.push((Target::Etcd, etcd)),
        None => say_missing(&arguments.etcd, "etcd-server", "--etcd"),
    }
    match Cluster::redis(&arguments.redis, dir).await? {
        Some(redis) => clusters.push((Target::Redis, redis)),
        None => say_missing(&arguments.redis, "redis-server", "--redis"),
    }
    clusters.push((Target::Echo, Cluster::echo(dir).await?));
    Ok(())
}

fn say_missing(binary: &Path, package: &str, flag: &str) {
    say(format_args!(
        "there is no {}: install it (Debian's package is {package}) or name it with {flag}; this goes on without it",
        binary.display()
    ));
}

/// What etcd and Redis say of their versions, where they are installed.
fn versions(arguments: &cli::Compare) -> BTreeMap<&'static str, String> {
    let version = |binary: &Path| {
        let output = Command::new(binary).arg("--version").output().ok()?;
        let said = String::from_utf8_lossy(&output.stdout);
        said.lines().next().map(|line| line.trim().to_owned())
    };
    let peers = [(Target::Etcd, &arguments.etcd), (Target::Redis, &arguments.redis)];
    peers.into_iter().filter_map(|(peer, binary)| Some((peer.name(), version(binary)?))).collect()
}

async fn compare(
    arguments: &cli::Compare,
    point: &Point,
    clusters: &Clusters,
    dir: &Path,
    errors: &mut Errors,
) -> anyhow::Result<Vec<Case>> {
    let mut contenders = Contender::all(arguments, clusters, dir).await?;
    for contender in &contenders {
        contender.fill(&arguments.load(FILL, point)).await?;
    }
    let topologies = contenders.iter().flat_map(|contender| &contender.connections);
    let shards = topologies.filter_map(Connection::topology).map(|size| size.shards).next();
    let mut samples: BTreeMap<(usize, Target), Vec<Figures>> = BTreeMap::new();
    for round in 0..arguments.rounds {
        say(format_args!("round {} of {}", round + 1, arguments.rounds));
        contenders.reverse();
        for (place, &plan) in point.plans.iter().enumerate() {
            contenders.rotate_left(1);
            for contender in contenders.iter().filter(|contender| plan.has(contender.target)) {
                let load = arguments.load(plan, point);
                let (_, failed) = contender.measure(&arguments.warm_up(&load)).await?;
                add_failed(errors, contender.target, failed);
                let (figures, failed) = contender.measure(&load).await?;
                samples.entry((place, contender.target)).or_default().push(figures);
                add_failed(errors, contender.target, failed);
            }
        }
    }
    for contender in contenders {
        contender.close().await;
    }
    let mut medians_of: BTreeMap<usize, BTreeMap<Target, Figures>> = BTreeMap::new();
    for ((place, target), samples) in samples {
        medians_of.entry(place).or_default().insert(target, medians(&samples));
    }
    let cases = point.plans.iter().enumerate();
    let cases =
        cases.filter_map(|(place, &plan)| Some(Case::new(plan, point, shards, medians_of.get(&place)?)));
    Ok(cases.collect())
}

impl cli::Compare {
    /// With what `--short` stands for.
    fn effective(&self) -> Self {
        if self.short { Self { keys: 1000, rounds: 1, duration: 1, ..self.clone() } } else { self.clone() }
    }

    /// What is measured, on clusters of its own each.
    fn points(&self, cores: usize) -> anyhow::Result<Vec<Point>> {
        let point = Point {
            size: Size { nodes: self.nodes, shards: self.shards },
            keys: self.keys,
            value_bytes: self.value_bytes,
            plans: PLANS.to_vec(),
        };
        let Some(sweep) = self.sweep else { return Ok(vec![point]) };
        let plans = puts_and_gets(CLIENTS_OF_SWEEPS).to_vec();
        let point = Point { plans, ..point };
        let values = self.values_of(sweep);
        if sweep == Sweep::Clients {
            let of = |&clients: &u64| Ok(puts_and_gets(u32::try_from(clients)?));
            let plans = values.iter().map(of).collect::<Result<Vec<_>, Misuse>>()?.concat();
            return Ok(vec![Point { plans, ..point }]);
        }
        let of = |&value: &u64| {
            let (mut size, mut keys) = (point.size, point.keys);
            match sweep {
                Sweep::Clients | Sweep::Keys => keys = value,
                Sweep::Shards => size.shards = Some(u32::try_from(value)?),
                // On as many shards each, or the nodes would not be what differs.
                Sweep::Nodes => {
                    size.shards = size.shards_on(cores).or(Some(SHARDS_OF_NODES));
                    size.nodes = u16::try_from(value)?;
                }
            }
            Ok(Point { size, keys, ..point.clone() })
        };
        Ok(values.iter().map(of).collect::<Result<_, Misuse>>()?)
    }

    fn values_of(&self, sweep: Sweep) -> Vec<u64> {
        if !self.values.is_empty() {
            return self.values.clone();
        }
        let usual: &[u64] = match sweep {
            Sweep::Clients => &[1, 4, 16, 64, 256, 1024, 4096],
            Sweep::Keys => &[10_000, 100_000, 1_000_000, 10_000_000],
            Sweep::Shards => &[1, 3, 12, 48],
            Sweep::Nodes => &[1, 3, 5],
        };
        let taken = if self.short { SHORT_SWEEP } else { usual.len() };
        usual.iter().copied().take(taken).collect()
    }

    fn warm_up(&self, load: &Load) -> Load {
        let time = WARM_UP.min(Duration::from_secs(self.duration));
        Load { stop: Stop::After(time), ..load.clone() }
    }

    fn load(&self, plan: Plan, point: &Point) -> Load {
        Load {
            reads_percent: plan.reads_percent,
            clients: plan.clients,
            keys: point.keys,
            value_bytes: point.value_bytes,
            stop: Stop::After(Duration::from_secs(self.duration)),
            ..Load::of(plan.workload)
        }
    }
}

/// Shards of each of the clusters of a sweep of nodes, on a machine with cores for them.
const SHARDS_OF_NODES: u32 = 12;
/// Of a short sweep's values so many are left.
const SHORT_SWEEP: usize = 2;

impl From<TryFromIntError> for Misuse {
    fn from(_: TryFromIntError) -> Self {
        Self("--values: there can't be so many".to_owned())
    }
}

/// A target that is up.
struct Contender<'a> {
    target: Target,
    connections: Vec<Connection>,
    /// The processes that serve.
    nodes: &'a [u32],
    data_dir: &'a Path,
}

impl<'a> Contender<'a> {
    /// All targets: kvd by both its ways in, and the log, which needs no server.
    async fn all(
        arguments: &cli::Compare,
        clusters: &'a Clusters,
        data_dir: &'a Path,
    ) -> anyhow::Result<Vec<Self>> {
        let mut all = Vec::new();
        for (target, cluster) in clusters {
            all.push(Self::of(*target, Some(cluster), arguments, data_dir).await?);
            if *target == Target::Kvd {
                all.push(Self::of(Target::KvdUnary, Some(cluster), arguments, data_dir).await?);
            }
        }
        all.push(Self::of(Target::Log, None, arguments, data_dir).await?);
        Ok(all)
    }

    async fn of(
        target: Target,
        cluster: Option<&'a Cluster>,
        arguments: &cli::Compare,
        data_dir: &'a Path,
    ) -> anyhow::Result<Self> {
        let endpoints = cluster.map_or("", |cluster| &cluster.endpoints);
        let reach = Reach { endpoints, connections: arguments.connections, timeout: TIMEOUT, data_dir };
        let connections = target.connect(&reach).await?;
        let nodes = cluster.map_or_else(Default::default, |cluster| cluster.nodes.as_slice());
        Ok(Self { target, connections, nodes, data_dir })
    }

    /// Writes the keys; once, where it has two ways in.
    async fn fill(&self, load: &Load) -> anyhow::Result<()> {
        if !self.target.serves(Workload::Get) || self.target == Target::KvdUnary {
            return Ok(());
        }
        load::fill(&self.connections, load).await.context(self.target.name())
    }

    async fn close(self) {
        for connection in self.connections {
            connection.close().await;
        }
    }

    async fn measure(&self, load: &Load) -> anyhow::Result<(Figures, BTreeMap<String, u64>)> {
        let meter = Meter::start(self.nodes, self.data_dir)?;
        let report = load::measure(&self.connections, load).await?;
        let cost = meter.stop(&report)?;
        let mut figures = figures(&report)?;
        figures.extend(cost);
        let mut failed = report.errors;
        if report.overloaded > 0 {
            failed.insert(OVERLOADED.to_owned(), report.overloaded);
        }
        if report.refused > 0 {
            failed.insert(NOT_MADE.to_owned(), report.refused);
        }
        Ok((figures, failed))
    }
}

/// What is told of requests of an open loop that were due and not made.
const NOT_MADE: &str = "not made, as too many were under way";

/// Adds requests of a target that have failed.
fn add_failed(errors: &mut Errors, target: Target, failed: BTreeMap<String, u64>) {
    for (failure, count) in failed {
        *errors.entry(format!("{}: {failure}", target.name())).or_default() += count;
    }
}

/// What is written before.
const FILL: Plan = Plan { workload: Workload::Put, reads_percent: 0, clients: 1, unary: false };

#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
fn figures(report: &Report) -> anyhow::Result<Figures> {
    let times = report.all()?;
    let ms = |quantile: f64| times.0.value_at_quantile(quantile) as f64 / 1000.0;
    Ok(Figures::from([
        ("operations_per_second", times.0.len() as f64 / report.elapsed.as_secs_f64()),
        ("p50_ms", ms(0.5)),
        ("p90_ms", ms(0.9)),
        ("p99_ms", ms(0.99)),
        ("p999_ms", ms(0.999)),
        ("max_ms", times.0.max() as f64 / 1000.0),
    ]))
}

/// What goes on, for people.
fn say(what: std::fmt::Arguments<'_>) {
    // If standard error is closed, nobody wants to know.
    drop(writeln!(io::stderr(), "{what}"));
}
