//! `kvd-sim`: runs simulated clusters, one seed or thousands.
//!
//! Each seed has a process of its own, since a process's randomness and clocks are the simulation's. What runs many of
//! them prints the failures, each with the command that replays it, and adds up the rest.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool: printing is what it is for"
)]

use std::{
    collections::BTreeMap,
    fs,
    io::{IsTerminal as _, Write as _},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use clap::{Args, Parser, Subcommand};
use kvd_testkit::sim::{self, Options, Report};
use parking_lot::Mutex;
use serde::Serialize;

/// What a child prints its report after.
const REPORT: &str = "REPORT ";
/// So many seeds must pass every failpoint there is.
const SEEDS_FOR_FAILPOINTS: u64 = 100;
/// Failures after which no further seed is begun, unless told otherwise.
const FAILURES_MAX: u64 = 5;

#[derive(Parser)]
#[command(
    about = "Simulated clusters of kvd under faults, replayed from seeds",
    disable_help_subcommand = true
)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Runs one seed, and tells what happened
    One(One),
    /// Runs many seeds, each in a process of its own
    Many(Many),
}

#[derive(Args)]
struct One {
    /// The seed
    #[arg(long)]
    seed: u64,
    /// How long faults rain, in simulated seconds
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// Writes the whole trace to this file
    #[arg(long)]
    trace: Option<PathBuf>,
    /// Writes the clients' history to this file
    #[arg(long)]
    history: Option<PathBuf>,
}

#[derive(Args)]
struct Many {
    /// How many seeds
    #[arg(long, default_value_t = 200)]
    seeds: u64,
    /// The first one; by chance, if not given
    #[arg(long)]
    from: Option<u64>,
    /// How long faults rain in each run, in simulated seconds
    #[arg(long, default_value_t = 40)]
    seconds: u64,
    /// Begins no further seed after so many minutes
    #[arg(long)]
    minutes: Option<u64>,
    /// Begins no further seed once so many hours have been simulated
    #[arg(long)]
    hours: Option<f64>,
    /// Processes at a time; as many as there are processors, if not given
    #[arg(long)]
    jobs: Option<usize>,
    /// So many of the seeds run twice, and both must do the same
    #[arg(long, default_value_t = 3)]
    twice: u64,
    /// Begins no further seed after so many have failed
    #[arg(long, default_value_t = FAILURES_MAX)]
    failures: u64,
    /// Writes what came of it to this file, as JSON
    #[arg(long)]
    summary: Option<PathBuf>,
}

/// What came of many runs.
#[derive(Debug, Default, Serialize)]
struct Summary {
    seeds: u64,
    simulated_seconds: u64,
    operations: u64,
    unknown: u64,
    entries_applied: u64,
    slept: u64,
    recorded: BTreeMap<String, u64>,
    faults_total: u64,
    faults: BTreeMap<String, u64>,
    bit_flips: u64,
    failpoints: BTreeMap<String, u64>,
    repeated: u64,
    progress_after_ms_max: u64,
    whole_after_ms_max: u64,
    violations: u64,
    failed_seeds: Vec<u64>,
}

fn main() -> ExitCode {
    let passed = match Arguments::parse().task {
        Task::One(one) => run_one(&one),
        Task::Many(many) => run_many(&many),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("kvd-sim: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_one(one: &One) -> Result<bool> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .without_time()
        .init();
    let options = Options {
        seed: one.seed,
        faults_for: Duration::from_secs(one.seconds),
        keep_trace: one.trace.is_some(),
    };
    let run = sim::run(options).context("can't start the simulation")?;
    if let Some(path) = &one.trace {
        fs::write(path, run.trace.join("\n")).with_context(|| format!("can't write {}", path.display()))?;
    }
    if let Some(path) = &one.history {
        let file = fs::File::create(path).with_context(|| format!("can't write {}", path.display()))?;
        run.history.write_to(file)?;
    }
    for violation in &run.report.violations {
        println!("violation: {violation}");
    }
    println!("{REPORT}{}", serde_json::to_string(&run.report)?);
    Ok(run.report.violations.is_empty())
}

fn run_many(many: &Many) -> Result<bool> {
    let began = Instant::now();
    let from = many.from.unwrap_or_else(sim::entropy::fresh_seed);
    let jobs = many.jobs.unwrap_or_else(|| thread::available_parallelism().map_or(1, usize::from));
    let (next, failures) = (AtomicU64::new(0), AtomicU64::new(0));
    let summary = Mutex::new(Summary::default());
    let work = || -> Result<()> {
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let out_of_time = many.minutes.is_some_and(|minutes| began.elapsed().as_secs() >= minutes * 60);
            let enough = many.hours.is_some_and(|hours| {
                Duration::from_secs(summary.lock().simulated_seconds).as_secs_f64() >= hours * 3600.0
            });
            let failed = failures.load(Ordering::Relaxed) >= many.failures;
            if (place >= many.seeds && many.hours.is_none()) || out_of_time || enough || failed {
                return Ok(());
            }
            let seed = from.wrapping_add(place);
            let report = run_child(seed, many.seconds)?;
            if place < many.twice && report.violations.is_empty() {
                repeat(&report, many.seconds, &failures, &summary)?;
            }
            take(&report, many.seconds, &failures, &mut summary.lock());
            progress(&summary.lock(), began);
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| match worker.join() {
            Ok(done) => done,
            Err(_) => bail!("a worker panicked"),
        })
    })?;
    let mut summary = summary.into_inner();
    if summary.seeds >= SEEDS_FOR_FAILPOINTS {
        for name in sim::failpoints().into_iter().filter(|name| !summary.failpoints.contains_key(*name)) {
            eprintln!("no run has passed the failpoint {name}: is it anywhere?");
            summary.violations += 1;
        }
    }
    println!(
        "{} seeds from {from}, {:.2} simulated hours, {} operations ({} unknown), {} entries applied, {} naps, {} faults, {} bit \
         flips; after the last fault clients got on within {} ms, clusters were whole within {} ms; {} violations; {:.0} s",
        summary.seeds,
        Duration::from_secs(summary.simulated_seconds).as_secs_f64() / 3600.0,
        summary.operations,
        summary.unknown,
        summary.entries_applied,
        summary.slept,
        summary.faults_total,
        summary.bit_flips,
        summary.progress_after_ms_max,
        summary.whole_after_ms_max,
        summary.violations,
        began.elapsed().as_secs_f64(),
    );
    if let Some(path) = &many.summary {
        fs::write(path, serde_json::to_vec_pretty(&summary)?)
            .with_context(|| format!("can't write {}", path.display()))?;
    }
    Ok(summary.violations == 0 && summary.seeds > 0)
}

fn run_child(seed: u64, seconds: u64) -> Result<Report> {
    let program = std::env::current_exe().context("can't find this program")?;
    let output = Command::new(program)
        .args(["one", "--seed", &seed.to_string(), "--seconds", &seconds.to_string()])
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .output()
        .context("can't run this program")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let report = text.lines().find_map(|line| line.strip_prefix(REPORT));
    if let Some(report) = report {
        return Ok(serde_json::from_str(report)?);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<_> = errors.lines().rev().take(12).collect();
    let tail: Vec<_> = tail.into_iter().rev().collect();
    let died = format!("the simulation died, {}:\n{}", output.status, tail.join("\n"));
    Ok(Report { seed, violations: vec![died], ..Report::default() })
}

/// Runs a seed again: all that happens must happen again.
fn repeat(first: &Report, seconds: u64, failures: &AtomicU64, summary: &Mutex<Summary>) -> Result<()> {
    let second = run_child(first.seed, seconds)?;
    summary.lock().repeated += 1;
    if second.trace_hash == first.trace_hash {
        return Ok(());
    }
    let differs = format!(
        "the same seed did something else when it was run again: trace {:016x}, then {:016x}",
        first.trace_hash, second.trace_hash
    );
    take(
        &Report { seed: first.seed, violations: vec![differs], ..Report::default() },
        seconds,
        failures,
        &mut summary.lock(),
    );
    Ok(())
}

fn take(report: &Report, seconds: u64, failures: &AtomicU64, summary: &mut Summary) {
    if !report.violations.is_empty() {
        failures.fetch_add(1, Ordering::Relaxed);
        summary.failed_seeds.push(report.seed);
        for violation in &report.violations {
            eprintln!("seed {}: {violation}", report.seed);
        }
        eprintln!("replay: cargo xtask sim one --seed {} --seconds {seconds}", report.seed);
    }
    summary.seeds += 1;
    summary.simulated_seconds += report.simulated_ms / 1000;
    summary.operations += report.operations;
    summary.unknown += report.unknown;
    summary.entries_applied += report.entries_applied;
    summary.slept += report.slept;
    summary.bit_flips += report.bit_flips;
    for (name, count) in &report.failpoints {
        *summary.failpoints.entry(name.clone()).or_default() += count;
    }
    for (what, count) in &report.recorded {
        *summary.recorded.entry(what.clone()).or_default() += count;
    }
    summary.violations += report.violations.len() as u64;
    summary.progress_after_ms_max = summary.progress_after_ms_max.max(report.progress_after_ms);
    summary.whole_after_ms_max = summary.whole_after_ms_max.max(report.whole_after_ms);
    for (name, count) in &report.faults {
        *summary.faults.entry(name.clone()).or_default() += count;
        summary.faults_total += count;
    }
}

fn progress(summary: &Summary, began: Instant) {
    let every = if std::io::stderr().is_terminal() { 1 } else { 50 };
    if summary.seeds.is_multiple_of(every) {
        let line = format!(
            "{} seeds, {} simulated seconds in {:.0} s, {} violations",
            summary.seeds,
            summary.simulated_seconds,
            began.elapsed().as_secs_f64(),
            summary.violations
        );
        // Nothing depends on progress being seen.
        drop(writeln!(std::io::stderr(), "{line}"));
    }
}
