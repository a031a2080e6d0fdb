//! `compare`: kvd beside etcd and the raw log, on this machine, in one run.
//!
//! All are up at the same time and are measured in turn, in another order each round, so that what the machine does beside
//! falls on all of them. The figures are medians of the rounds, each by itself; what counts are the ratios. CPU and memory are
//! those of the processes that serve, the writes those of the disk; what the generator takes is told apart, because it works on
//! the same cores.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    path::Path,
    time::Duration,
};

use anyhow::{Context as _, anyhow};
use serde::Serialize;

use crate::{
    cli::{self, Format, Workload},
    clusters::{Cluster, Workplace},
    load::{self, Load, Stop, Times},
    report::{row, write_json},
    target::{Connection, Reach, Target},
    usage::{Usage, written_to_disk_of},
};

/// What is measured: requests, and of how many clients.
const CASES: [(Workload, u32); 5] = [
    (Workload::Put, 1),
    (Workload::Put, 64),
    (Workload::Put, 256),
    (Workload::Get, 256),
    (Workload::Mixed, 256),
];
/// How long each request is tried.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The figures.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    machine: Machine,
    keys: u64,
    value_bytes: usize,
    rounds: u32,
    seconds: u64,
    cases: Vec<Case>,
    /// Requests that failed, by target and kind.
    errors: BTreeMap<String, u64>,
}

/// Where it was measured.
#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    processor: String,
    kernel: String,
}

#[derive(Debug, Serialize)]
struct Case {
    workload: &'static str,
    clients: u32,
    targets: BTreeMap<&'static str, Figures>,
    /// kvd's figure divided by the peer's.
    ratios: BTreeMap<&'static str, Ratio>,
}

/// By name, in the units that the name ends with.
type Figures = BTreeMap<&'static str, f64>;

#[derive(Debug, Serialize)]
struct Ratio {
    operations: f64,
    p50: f64,
    p99: f64,
}

/// A target that is up.
struct Contender<'a> {
    target: Target,
    connections: Vec<Connection>,
    /// The processes that serve.
    nodes: &'a [u32],
    data_dir: &'a Path,
}

/// Starts everything, measures it, and stops it, however that goes.
pub(crate) async fn run(arguments: &cli::Compare) -> anyhow::Result<Comparison> {
    let arguments = &arguments.effective();
    let workplace = Workplace::make(&arguments.data_dir)?;
    let dir = workplace.path();
    let kvd = Cluster::kvd(arguments.kvd.as_deref(), dir).await?;
    let compared = async {
        let etcd = Cluster::etcd(&arguments.etcd, dir).await?;
        let Some(etcd) = etcd else {
            say(format_args!(
                "there is no {}: install it (Debian's package is etcd-server) or name it with --etcd; without it",
                arguments.etcd.display()
            ));
            return uninterrupted(compare(arguments, &kvd, None, dir)).await;
        };
        let compared = uninterrupted(compare(arguments, &kvd, Some(&etcd), dir)).await;
        etcd.stop().await.and(compared)
    }
    .await;
    kvd.stop().await.and(compared)
}

async fn uninterrupted(
    comparing: impl Future<Output = anyhow::Result<Comparison>>,
) -> anyhow::Result<Comparison> {
    tokio::select! {
        compared = comparing => compared,
        interrupted = tokio::signal::ctrl_c() => Err(interrupted.map_or_else(Into::into, |()| anyhow!("interrupted"))),
    }
}

async fn compare(
    arguments: &cli::Compare,
    kvd: &Cluster,
    etcd: Option<&Cluster>,
    data_dir: &Path,
) -> anyhow::Result<Comparison> {
    let mut contenders = vec![Contender::of(Target::Kvd, Some(kvd), arguments, data_dir).await?];
    if etcd.is_some() {
        contenders.push(Contender::of(Target::Etcd, etcd, arguments, data_dir).await?);
    }
    contenders.push(Contender::of(Target::Log, None, arguments, data_dir).await?);
    for contender in &contenders {
        contender.fill(arguments).await?;
    }
    let mut samples: BTreeMap<(usize, Target), Vec<Figures>> = BTreeMap::new();
    let mut errors = BTreeMap::new();
    for round in 0..arguments.rounds {
        say(format_args!("round {} of {}", round + 1, arguments.rounds));
        for (place, &(workload, clients)) in CASES.iter().enumerate() {
            contenders.rotate_left(1);
            for contender in contenders.iter().filter(|contender| contender.target.serves(workload)) {
                let load = arguments.load(workload, clients);
                let (figures, failed) = contender.measure(&load).await?;
                samples.entry((place, contender.target)).or_default().push(figures);
                for (failure, count) in failed {
                    *errors.entry(format!("{}: {failure}", contender.target.name())).or_default() += count;
                }
            }
        }
    }
    for connection in contenders.into_iter().flat_map(|contender| contender.connections) {
        connection.close().await;
    }
    let cases = CASES.iter().enumerate().map(|(place, &(workload, clients))| {
        let of = |target| samples.remove(&(place, target)).map(|samples| (target, medians(&samples)));
        let targets = [Target::Kvd, Target::Etcd, Target::Log].into_iter().filter_map(of).collect();
        Case::new(workload, clients, &targets)
    });
    Ok(Comparison {
        machine: Machine::here()?,
        keys: arguments.keys,
        value_bytes: arguments.value_bytes,
        rounds: arguments.rounds,
        seconds: arguments.duration,
        cases: cases.collect(),
        errors,
    })
}

impl cli::Compare {
    /// With what `--short` stands for.
    fn effective(&self) -> Self {
        if self.short { Self { keys: 1000, rounds: 1, duration: 1, ..self.clone() } } else { self.clone() }
    }

    fn load(&self, workload: Workload, clients: u32) -> Load {
        Load {
            workload,
            clients,
            keys: self.keys,
            value_bytes: self.value_bytes,
            ttl: None,
            stop: Stop::After(Duration::from_secs(self.duration)),
        }
    }
}

impl<'a> Contender<'a> {
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

    async fn fill(&self, arguments: &cli::Compare) -> anyhow::Result<()> {
        if !self.target.serves(Workload::Get) {
            return Ok(());
        }
        let filled = load::fill(&self.connections, &arguments.load(Workload::Put, 1)).await;
        filled.context(self.target.name())
    }

    async fn measure(&self, load: &Load) -> anyhow::Result<(Figures, BTreeMap<String, u64>)> {
        let generator = [std::process::id()];
        let written = || written_to_disk_of(self.data_dir);
        let before = (Usage::of(self.nodes)?, Usage::of(&generator)?, written());
        let report = load::measure(&self.connections, load).await?;
        let used = Usage::of(self.nodes)?.since(before.0);
        let generated = Usage::of(&generator)?.since(before.1);
        let written = written().zip(before.2).map(|(after, before)| after.saturating_sub(before));
        let mut times = Times::new()?;
        for of_kind in report.times.values() {
            times.0.add(&of_kind.0)?;
        }
        let puts = report.times.get(load::PUT).map_or(0, |times| times.0.len());
        let mut figures = figures(&times, report.elapsed, generated);
        if !self.nodes.is_empty() {
            figures.extend(served(&times, used, self.nodes.len()));
        }
        if let Some(written) = written.filter(|_| puts > 0) {
            figures.insert("disk_bytes_per_user_byte", per_user_byte(written, puts, load));
        }
        Ok((figures, report.errors))
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
fn per_user_byte(written_bytes: u64, puts: u64, load: &Load) -> f64 {
    written_bytes as f64 / (puts as f64 * (load.value_bytes + load::key(0).len()) as f64)
}

#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
fn figures(times: &Times, elapsed: Duration, generated: Usage) -> Figures {
    let ms = |quantile: f64| times.0.value_at_quantile(quantile) as f64 / 1000.0;
    Figures::from([
        ("operations_per_second", times.0.len() as f64 / elapsed.as_secs_f64()),
        ("p50_ms", ms(0.5)),
        ("p90_ms", ms(0.9)),
        ("p99_ms", ms(0.99)),
        ("p999_ms", ms(0.999)),
        ("max_ms", times.0.max() as f64 / 1000.0),
        ("generator_cpu_s_per_million", per_million(generated.cpu_seconds, times)),
    ])
}

/// What it took to serve.
#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
fn served(times: &Times, used: Usage, nodes: usize) -> Figures {
    let resident_mib = used.resident_bytes as f64 / f64::from(1 << 20);
    Figures::from([
        ("cpu_s_per_million", per_million(used.cpu_seconds, times)),
        ("resident_mib_per_node", resident_mib / nodes as f64),
    ])
}

#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
fn per_million(seconds: f64, times: &Times) -> f64 {
    seconds / times.0.len().max(1) as f64 * 1e6
}

/// The median of each figure.
fn medians(samples: &[Figures]) -> Figures {
    let names = samples.first().into_iter().flat_map(BTreeMap::keys);
    let median = |name: &'static str| {
        let mut values: Vec<f64> = samples.iter().filter_map(|sample| sample.get(name).copied()).collect();
        values.sort_by(f64::total_cmp);
        Some((name, *values.get(values.len() / 2)?))
    };
    names.copied().filter_map(median).collect()
}

impl Case {
    fn new(workload: Workload, clients: u32, targets: &BTreeMap<Target, Figures>) -> Self {
        let ratio = |peer: &Figures| {
            let kvd = targets.get(&Target::Kvd)?;
            let of = |name: &str| Some(kvd.get(name)? / peer.get(name)?);
            let operations = of("operations_per_second")?;
            Some(Ratio { operations, p50: of("p50_ms")?, p99: of("p99_ms")? })
        };
        let peers = targets.iter().filter(|(target, _)| **target != Target::Kvd);
        let ratios = peers.filter_map(|(target, figures)| Some((target.name(), ratio(figures)?))).collect();
        let targets = targets.iter().map(|(target, figures)| (target.name(), figures.clone())).collect();
        Self { workload: workload.name(), clients, targets, ratios }
    }
}

impl Machine {
    fn here() -> anyhow::Result<Self> {
        let cpus = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: model.map_or_else(|| "unknown".to_owned(), |(_, model)| model.trim().to_owned()),
            kernel: release.trim().to_owned(),
        })
    }
}

/// The columns of the table: how they are called, the figures, and how many decimals they have.
const COLUMNS: [(&str, &str, usize); 9] = [
    ("ops/s", "operations_per_second", 0),
    ("p50 ms", "p50_ms", 2),
    ("p99 ms", "p99_ms", 2),
    ("p99.9 ms", "p999_ms", 2),
    ("max ms", "max_ms", 1),
    ("cpu s/M", "cpu_s_per_million", 1),
    ("gen s/M", "generator_cpu_s_per_million", 1),
    ("disk x", "disk_bytes_per_user_byte", 1),
    ("MiB", "resident_mib_per_node", 0),
];

/// Shows the figures.
pub(crate) fn show(out: &mut impl Write, format: Format, comparison: &Comparison) -> io::Result<()> {
    if format == Format::Json {
        return write_json(out, comparison);
    }
    let Comparison { machine, keys, value_bytes, rounds, seconds, cases, errors } = comparison;
    writeln!(
        out,
        "{} cores of {}, Linux {}; {keys} keys, values of {value_bytes} bytes; medians of {rounds} rounds of {seconds} s",
        machine.cores, machine.processor, machine.kernel
    )?;
    writeln!(
        out,
        "cpu s/M: CPU seconds of the three nodes for a million requests; gen: of this program; disk x: bytes that the disk wrote for each of the user's; MiB: of a node"
    )?;
    for Case { workload, clients, targets, ratios } in cases {
        writeln!(out, "\n{workload}, {clients} clients")?;
        let head = ["target"].into_iter().chain(COLUMNS.map(|(title, _, _)| title));
        row(out, &head.map(str::to_owned).collect::<Vec<_>>())?;
        for (target, figures) in targets {
            let cell = |(_, name, decimals): (&str, &str, usize)| {
                figures.get(name).map_or_else(|| "-".to_owned(), |value| format!("{value:.decimals$}"))
            };
            let cells: Vec<String> = [(*target).to_owned()].into_iter().chain(COLUMNS.map(cell)).collect();
            row(out, &cells)?;
        }
        for (peer, Ratio { operations, p50, p99 }) in ratios {
            writeln!(out, "kvd / {peer}: {operations:.2} x the requests, p50 {p50:.2} x, p99 {p99:.2} x")?;
        }
    }
    errors.iter().try_for_each(|(failure, count)| writeln!(out, "\n{count} x {failure}"))
}

/// What goes on, for people.
fn say(what: std::fmt::Arguments<'_>) {
    // If standard error is closed, nobody wants to know.
    drop(writeln!(io::stderr(), "{what}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_medians_each_by_itself() {
        let sample = |rate, p50| Figures::from([("operations_per_second", rate), ("p50_ms", p50)]);
        let samples = [sample(10.0, 3.0), sample(30.0, 1.0), sample(20.0, 9.0)];
        assert_eq!(medians(&samples), sample(20.0, 3.0));
        assert_eq!(medians(&[]), Figures::new());
    }

    #[test]
    fn ratios_are_kvds_figure_by_the_peers() {
        let figures =
            |rate, ms| Figures::from([("operations_per_second", rate), ("p50_ms", ms), ("p99_ms", 2.0 * ms)]);
        let targets =
            BTreeMap::from([(Target::Kvd, figures(100.0, 1.0)), (Target::Etcd, figures(10.0, 4.0))]);
        let case = Case::new(Workload::Put, 64, &targets);
        let Ratio { operations, p50, p99 } = case.ratios["etcd"];
        assert_eq!((operations, p50, p99), (10.0, 0.25, 0.25));
        assert_eq!(case.ratios.len(), 1);
    }
}
