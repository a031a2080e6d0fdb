//! Breaks the disk under the storage code in every way that is known, from a seed, and says what came of it.
//!
//! ```text
//! kvd-crashes --seed 7 --points 20000 --flips 20000 --summary crashes.json
//! kvd-crashes --seed 7 --replay cut/3/57/in/2
//! ```
//!
//! Progress goes to standard error, one plain line every few seconds. Exit code 1: something was lost, invented, taken
//! back, or damaged silently; the last line is the command that tries that very case again.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a program that people run by hand")]

use std::{
    fs,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Parser;
use kvd_testkit::storage::{Case, Failed, Progress, Summary, Wanted, replay, run};

/// Crash points, failures and rot of the storage, from a seed.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where all chance comes from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Power cuts to recover from.
    #[arg(long, default_value_t = 20_000)]
    points: u64,
    /// Bits and sectors of stopped stores to change.
    #[arg(long, default_value_t = 10_000)]
    flips: u64,
    /// Stop after so many seconds, whatever was tried by then.
    #[arg(long)]
    seconds: Option<u64>,
    /// Write what was tried, and what came of it, to this file, as JSON.
    #[arg(long)]
    summary: Option<PathBuf>,
    /// Try only this case, as the failure that found it has named it.
    #[arg(long)]
    replay: Option<Case>,
}

/// One line every few seconds.
struct Lines {
    last: Instant,
}

impl Progress for Lines {
    fn histories(&mut self, histories: u64, summary: &Summary) {
        const INTERVAL: Duration = Duration::from_secs(3);
        if self.last.elapsed() < INTERVAL {
            return;
        }
        self.last = Instant::now();
        eprintln!(
            "{histories} histories: {} power cuts, {} failures, {} lies, {} flips, no violation",
            summary.crash_points, summary.failures, summary.lies, summary.bit_flips
        );
    }
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let seed = arguments.seed;
    let (summary, result) = match arguments.replay {
        Some(case) => {
            let mut summary = Summary::default();
            let result = replay(seed, case, &mut summary);
            summary.violations = u64::from(result.is_err());
            (summary, result)
        }
        None => {
            let time_limit = arguments.seconds.map(Duration::from_secs);
            let wanted = Wanted { seed, points: arguments.points, flips: arguments.flips, time_limit };
            run(&wanted, &mut Lines { last: Instant::now() })
        }
    };
    let json = serde_json::to_string_pretty(&summary)?;
    if let Some(path) = arguments.summary {
        fs::write(&path, &json).with_context(|| format!("can't write {}", path.display()))?;
    }
    println!("{json}");
    let Err(Failed { case, what }) = result else { return Ok(ExitCode::SUCCESS) };
    eprintln!("VIOLATION in {case}: {what}");
    eprintln!(
        "replay: cargo run --profile sim -p kvd-testkit --bin kvd-crashes -- --seed {seed} --replay {case}"
    );
    Ok(ExitCode::FAILURE)
}
