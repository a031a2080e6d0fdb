//! Chaos: a cluster of real processes on machines of its own, faults of every kind, and clients whose every answer is
//! checked.
//!
//! # The problem
//! Simulations find what goes wrong in the code that they simulate. Kernels, disks, sockets and clocks are not in there.
//!
//! # The approach
//! Each node runs in a network namespace of its own, on a small file system of its own, with a boot id and a wall clock
//! of its own: a machine, as far as a process can tell. A [`plan`] computed from a seed says which [`fault`]s come and
//! when, one over the other; [`load`] works against the cluster all the while and records what it was told, and
//! [`features`] watch, take snapshots and hold locks beside it; after each round the cluster must become healthy by itself.
//! In the end every key is read, all replicas must hold the same, and the history goes to the checkers, as does what
//! the others were told.
//!
//! # Invariants
//! - A plan depends on nothing but its seed and the kinds it may draw from. The timing is the machine's, so that the same
//!   plan may not fail again; the history of a bad run is kept.
//! - A slow machine is no violation. A lost write, a stale read, a panic, replicas that differ, a node that ends where
//!   it shouldn't or goes on where it shouldn't, and a cluster that hasn't recovered within a minute (more on a machine
//!   under load) are.
//! - Everything that is made has a name by which it is found: what a killed run leaves is removed by the next one.
//!
//! # What it deliberately does not do
//! No duplicated packets, and no broken memory: nothing on a usual machine makes those.

mod command;
mod delay_queue;
mod disk;
mod drive;
mod fault;
mod features;
mod health;
mod load;
mod log;
mod machine;
mod needs;
mod network;
mod options;
mod plan;
mod pulse;
mod report;
mod verdict;
mod world;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use kvd_testkit::history::Recorder;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

pub use options::Options;

use self::{
    drive::Drive,
    fault::{KINDS, Kind, UNCLAIMED},
    features::Features,
    load::Load,
    log::say,
    machine::Setup,
    options::{Command, RunOptions},
    plan::Plan,
    report::Summary,
    world::World,
};
use crate::turn::Turn;

/// Where runs happen, below the directory for temporary files. One at a time.
const DIR: &str = "kvd-chaos";
const HISTORY: &str = "history.jsonl";
const SHORT_SECONDS: u64 = 130;
/// Violations that are told once more at the very end.
const VIOLATIONS_AT_THE_END: usize = 5;
/// The short mix.
const SHORT: &[&str] = &[
    "kill",
    "cut-off",
    "power-cut-all",
    "pause",
    "one-way",
    "failed-sync",
    "full-disk",
    "kill-all",
    "clock",
    "bit-flips",
    "bridge",
    "disk-stall",
    "empty-disk",
    "power-cut",
    "delay",
    "loss",
];
const POWER_CUTS: &[&str] = &["power-cut-all", "power-cut"];
/// Shards: each node leads some.
const SHARDS: &str = "10";
/// Small, so that checkpoints are made, sent and purged by while a run lasts.
const SEGMENT_BYTES: &str = "8MiB";
const CHECKPOINT_LOG_BYTES: &str = "1MiB";

/// Does what the command line says. Gives whether all was well.
///
/// # Errors
/// It couldn't be done: what is missing, or broke.
pub async fn run(options: Options) -> Result<bool> {
    let run = options.run;
    match options.command {
        Some(Command::Delay { delay_ms, jitter_ms }) => {
            let (delay, jitter) = (Duration::from_millis(delay_ms), Duration::from_millis(jitter_ms));
            tokio::task::block_in_place(|| delay_queue::run(delay, jitter))?;
            Ok(true)
        }
        None if run.list => {
            for kind in KINDS {
                say(&format!("{:<18}{}", kind.name, kind.right));
            }
            for kind in UNCLAIMED {
                say(&format!("{:<18}{} (not claimed yet: only by name)", kind.name, kind.right));
            }
            Ok(true)
        }
        None => in_place(&run).await,
    }
}

/// Runs with the machine prepared before and cleaned after, also when asked to stop.
async fn in_place(options: &RunOptions) -> Result<bool> {
    if options.skip_missing
        && let Some(why) = needs::lacks_everything()
    {
        say(&format!("SKIPPED, all of it: {why}"));
        return Ok(true);
    }
    let permitted = needs::permitted(&chosen(options)?, options.skip_missing)?;
    let _turn = Turn::take_of("kvd-chaos").await;
    let dir = std::env::temp_dir().join(DIR);
    clean(&dir).await?;
    if dir.exists() {
        fs::remove_dir_all(&dir).context("what an earlier run has left")?;
    }
    fs::create_dir_all(&dir)?;
    let seed = options.seed.unwrap_or_else(rand::random);
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let ended = tokio::select! {
        ended = whole_run(options, permitted, seed, &dir) => ended,
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("asked to stop")),
    };
    clean(&dir).await?;
    let is_well = ended.as_ref().is_ok_and(Vec::is_empty);
    if is_well && !options.keep {
        fs::remove_dir_all(&dir)?;
    } else {
        let kept = kept(&dir, seed)?;
        say(&format!("kept in {}: logs, disks (mount -o loop), the history", kept.display()));
        let history = kept.join(HISTORY);
        if history.exists() {
            say(&format!("the history again: kvd-check {}", history.display()));
        }
        say(&format!("the same plan again: {}", options.command(seed)));
    }
    let violations = ended?;
    // In a few lines once more, for who sees only the end.
    for violation in violations.iter().take(VIOLATIONS_AT_THE_END) {
        say(&format!("VIOLATION: {}", violation.lines().next().unwrap_or_default()));
    }
    Ok(violations.is_empty())
}

/// The kinds that are asked for.
fn chosen(options: &RunOptions) -> Result<Vec<&'static Kind>> {
    let names: Vec<&str> = if options.short {
        SHORT.to_vec()
    } else if options.power_cuts.is_some() {
        POWER_CUTS.to_vec()
    } else if options.faults.is_empty() {
        return Ok(KINDS.to_vec());
    } else {
        options.faults.iter().map(String::as_str).collect()
    };
    let known = || KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
    let kind =
        |name| fault::kind(name).with_context(|| format!("there is no fault {name}; there are {}", known()));
    names.into_iter().map(kind).collect()
}

async fn clean(dir: &Path) -> Result<()> {
    world::remove(dir).await.context("what a run has made can't be removed")
}

/// Moves the directory to where the next run doesn't find it.
fn kept(dir: &Path, seed: u64) -> Result<PathBuf> {
    let kept = dir.with_file_name(format!("{DIR}-{seed}"));
    if kept.exists() {
        fs::remove_dir_all(&kept)?;
    }
    fs::rename(dir, &kept)?;
    Ok(kept)
}

async fn whole_run(
    options: &RunOptions,
    (kinds, skipped): (Vec<&'static Kind>, BTreeMap<&'static str, String>),
    seed: u64,
    dir: &Path,
) -> Result<Vec<String>> {
    say(&format!("seed {seed}: {}", options.command(seed)));
    let world = Arc::new(World::make(dir, options.nodes, setup(options, &kinds)?).await?);
    for machine in &world.machines {
        machine.start().await;
    }
    for machine in &world.machines {
        if let Err(why) = health::ready(machine).await {
            bail!("the cluster did not start: {why}\n{}", world.ends_of_logs(20));
        }
    }
    let client = world.client(|config| config).await;
    let client = client.with_context(|| format!("the cluster did not start:\n{}", world.ends_of_logs(20)))?;
    if let Err(why) = health::all_lead(&world, &client).await {
        bail!("the cluster did not start: {why}\n{}", world.ends_of_logs(20));
    }
    let recorder = Recorder::real_time();
    let mut load = Load::start(&world, &recorder, seed).await?;
    let mut features = Features::start(&world, &recorder, load.tags(), seed).await?;
    let plan = Plan {
        seed,
        nodes: usize::from(options.nodes),
        in_order: options.short || options.power_cuts.is_some(),
        mixed: options.power_cuts.is_none() && kinds.len() > 1,
        kinds,
    };
    let mut summary = Summary {
        seed,
        nodes: options.nodes,
        clients: load.tasks() + features.tasks(),
        ..Summary::default()
    };
    let mut drive = Drive {
        world: Arc::clone(&world),
        client,
        recorder: recorder.clone(),
        plan,
        skip_missing: options.skip_missing,
        figures: BTreeMap::new(),
        skipped,
        panics: BTreeMap::new(),
    };
    let begun = Instant::now();
    let driven = rounds(&mut drive, options, &load, begun).await;
    load.stop().await;
    features.stop(driven.is_ok() && world.violations().is_empty()).await;
    summary.seconds = begun.elapsed().as_secs();
    let judged = match driven {
        Ok(rounds) => {
            summary.rounds = rounds;
            verdict::of_the_end(&world, &drive.client, &load, &mut features).await
        }
        Err(error) => Err(error),
    };
    let history = recorder.history();
    history.save(&dir.join(HISTORY))?;
    judged?;
    drive.look_for_panics();
    verdict::of_the_history(&world, &history);
    features.judge(dir)?;
    summary.features = features.counts();
    summary.operations = history.operations.len();
    summary.unknown = history.operations.iter().filter(|operation| operation.is_unknown()).count();
    summary.faults = std::mem::take(&mut drive.figures);
    summary.skipped = drive.skipped.iter().map(|(name, why)| format!("{name}: {why}")).collect();
    tell(&world, summary, options)
}

/// What all nodes are started with, if these faults are to come.
fn setup(options: &RunOptions, kinds: &[&Kind]) -> Result<Setup> {
    let mut preload: Vec<String> = options.preload.iter().cloned().collect();
    let clocks_jump = kinds.iter().any(|kind| kind.claims.contains(&fault::Part::Clock));
    if clocks_jump {
        let library = needs::clock_library();
        let library = library.context("missing: libfaketime.so.1\napt-get install -y faketime")?;
        preload.push(library.display().to_string());
    }
    let mut flags = vec![
        ("cluster-shards", SHARDS.to_owned()),
        ("storage-log-segment-bytes", SEGMENT_BYTES.to_owned()),
        ("storage-checkpoint-log-bytes", CHECKPOINT_LOG_BYTES.to_owned()),
    ];
    flags.extend(options.engine.iter().map(|engine| ("storage-engine", engine.clone())));
    Ok(Setup { flags, preload, clocks_jump })
}

/// Rounds, until the time is over, enough power was cut, or the cluster doesn't recover. Gives their number.
async fn rounds(drive: &mut Drive, options: &RunOptions, load: &Load, begun: Instant) -> Result<u64> {
    let seconds = if options.short { SHORT_SECONDS } else { options.seconds };
    for number in 0.. {
        let is_over = match options.power_cuts {
            Some(wanted) => drive.world.counted(fault::POWER_CUTS) >= wanted,
            None => begun.elapsed() >= Duration::from_secs(seconds),
        };
        if is_over || !drive.round(number, load).await? {
            return Ok(number);
        }
    }
    Ok(u64::MAX)
}

/// Shows what came of it, writes the summary, and gives the violations.
fn tell(world: &World, mut summary: Summary, options: &RunOptions) -> Result<Vec<String>> {
    let violations = world.violations();
    summary.faults_total = world.counted(drive::FAULTS);
    summary.power_cuts = world.counted(fault::POWER_CUTS);
    summary.bit_flips = world.counted(fault::BIT_FLIPS);
    summary.corruption_answers = world.counted(load::CORRUPTION_ANSWERS);
    summary.restarts = world.counted(drive::RESTARTS);
    summary.violations = violations.len();
    summary.judge();
    summary.show();
    for violation in &violations {
        say(&format!("VIOLATION: {violation}"));
    }
    if let Some(path) = &options.summary {
        let text = serde_json::to_string_pretty(&summary)?;
        fs::write(path, text)
            .with_context(|| format!("the summary can't be written to {}", path.display()))?;
    }
    Ok(violations)
}
