//! The project's own checks: `cargo xtask ci` runs what has to pass before a change goes in, `cargo xtask arrows` only
//! the rules that keep the crates apart; `cargo xtask fuzz` looks for inputs that no decoder stands.
//!
//! # The approach
//! One command for people and for machines, written in the language of the project: a script that only the continuous
//! integration runs is one that nobody can try. `.ci/run` installs what this needs and calls it.
//!
//! # What it deliberately does not do
//! It changes nothing (formatting and fixing are `cargo fmt` and `cargo clippy --fix`). The only state that it keeps is the
//! ledger of the long suites, which git ignores.

#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool: printing is what it is for"
)]

mod arrows;
mod ci;
mod fuzz;
mod ledger;
mod planted;
mod suites;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "The project's own checks", disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that has to pass before a change goes in; the last line counts the tests
    Ci,
    /// Which crate may use which, what may stand at the top level, how long a file may be
    Arrows,
    /// Simulated clusters under faults: `many --seeds 200`, `many --hours 1`, `one --seed 7`
    Sim(PassedAny),
    /// The storage, crashed at each of its operations, and with its bits flipped
    Crashes(Passed),
    /// Five real nodes under real faults; needs root
    Chaos(Passed),
    /// Whether the suites notice bugs that are put into the product on purpose, one after the other: takes hours
    Planted(planted::Arguments),
    /// What simulations, crash points and chaos have come to so far
    Ledger,
    /// Feeds the decoders of network and disk bytes with inputs that reach ever more of them
    Fuzz {
        /// The target; all of them, if none is named
        #[arg(long)]
        target: Option<String>,
        /// How long, for each target
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
}

/// What a suite's own program is told; its `--help` says what that may be.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
struct Passed {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

/// The same for a program that does nothing without being told what.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
struct PassedAny {
    /// `many` or `one`, and what these are told; `--help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    let passed = match Arguments::parse().task {
        Task::Ci => ci::run(),
        Task::Arrows => arrows::run(),
        Task::Sim(passed) => suites::SIM.run(&passed.arguments),
        Task::Crashes(passed) => suites::CRASHES.run(&passed.arguments),
        Task::Chaos(passed) => suites::CHAOS.run(&passed.arguments),
        Task::Fuzz { target, seconds } => fuzz::run(target, seconds),
        Task::Ledger => ledger::show(),
        Task::Planted(arguments) => arguments.run(),
    };
    match passed {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}
