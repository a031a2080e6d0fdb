//! kvd's command line: `kvctl`.
//!
//! # What is here
//! - [`cli`]: the verbs and flags.
//! - [`command`]: what each verb does.
//! - [`output`]: how results look, as tables or JSON.
//! - [`script`]: transactions as text or JSON.
//! - [`mod@line`]: the lines of an import or export.
//! - [`failure`]: errors as messages and exit codes.
//!
//! # Its manners
//! Data goes to standard output, everything else to standard error. Exit codes: 0 done, 1 failed, 2 wrongly used, 3 not
//! found, 4 a condition failed, 5 unavailable, 6 outcome unknown, 7 denied; `lock` ends with what its command ended with. When whoever
//! reads the output has seen enough and closes the pipe, it ends quietly.

mod cli;
mod command;
mod failure;
mod line;
mod output;
mod script;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;

fn main() -> ExitCode {
    let failure = match run() {
        Ok(()) => return ExitCode::SUCCESS,
        Err(failure) => failure,
    };
    if let Some(message) = failure.message() {
        // If standard error is closed too, nobody is left to be told.
        drop(writeln!(io::stderr(), "kvctl: {message}"));
    }
    failure.exit_code()
}

fn run() -> failure::Result<()> {
    let cli = cli::Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let result = runtime.block_on(command::run(cli));
    // A thread that still waits for standard input must not hold up the end.
    runtime.shutdown_background();
    result
}
