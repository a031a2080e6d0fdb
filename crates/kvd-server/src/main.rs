//! `kvd`: a node, a whole cluster on this machine, or a look at a configuration.
//!
//! Standard output is for what was asked for; everything else goes to standard error. Exit codes: 0; 1 if it failed while
//! running; 2 if the command line or the configuration is wrong and nothing was started; 128 + the signal's number if a
//! second signal cut it short.

use std::process::ExitCode;

mod cli;

/// It gives memory back that is free; glibc's keeps several times what a node uses.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::run(&cli::command().get_matches())
}
