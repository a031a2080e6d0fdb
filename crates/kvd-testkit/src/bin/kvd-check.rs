//! Checks a recorded history: `kvd-check FILE`.
//!
//! The verdict is printed. The exit code is 0 if the history is as it must be, 1 if it isn't, 2 if it can't be read, and 3 if
//! nothing wrong was found but some keys had to be left undecided.

use std::{num::NonZeroUsize, path::PathBuf, process::ExitCode};

use clap::Parser;
use kvd_testkit::{
    check::{STATES_MAX_DEFAULT, check_with},
    history::History,
};

/// Checks a recorded history.
#[derive(Debug, Parser)]
struct Arguments {
    /// The history, as JSON lines.
    file: PathBuf,
    /// Configurations that the search for an order looks at per key, at most.
    #[arg(long, default_value_t = STATES_MAX_DEFAULT)]
    states_max: NonZeroUsize,
    /// Only check by revisions: fast, for large histories.
    #[arg(long)]
    witness_only: bool,
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line says what it found")]
fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let history = match History::load(&arguments.file) {
        Ok(history) => history,
        Err(error) => {
            eprintln!("{}: {error}", arguments.file.display());
            return ExitCode::from(2);
        }
    };
    let report = check_with(&history, (!arguments.witness_only).then_some(arguments.states_max));
    println!("{report}");
    match (report.violations.is_empty(), report.undecided.is_empty()) {
        (false, _) => ExitCode::from(1),
        (true, false) => ExitCode::from(3),
        (true, true) => ExitCode::SUCCESS,
    }
}
