//! The command behind `cargo xtask chaos`: see [`kvd_tests::chaos`].

use std::process::ExitCode;

use clap::Parser as _;
use kvd_tests::chaos::{self, Options};

#[tokio::main]
async fn main() -> ExitCode {
    match chaos::run(Options::parse()).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        #[expect(clippy::print_stderr, reason = "the command's own words to whoever runs it")]
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
