//! `kvd`: a node, a whole cluster on this machine, or a look at a configuration.
//!
//! Standard output is for what was asked for; everything else goes to standard error. Exit codes: 0; 1 if it failed while
//! running; 2 if the command line or the configuration is wrong and nothing was started; 128 + the signal's number if a
//! second signal cut it short.

use std::process::ExitCode;

mod cli;

fn main() -> ExitCode {
    cli::run(&cli::command().get_matches())
}
