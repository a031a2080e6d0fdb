//! A load generator for kvd: `kvd-bench`.
//!
//! # What is here
//! - [`cli`]: the verbs and flags.
//! - [`load`]: `run`, a closed loop of many clients, each of which begins its next request when the last one is answered; or
//!   an open one, with a fixed rate of requests.
//! - [`values`]: what is written.
//! - [`target`]: what these are made of: kvd, by its client library or by unary calls, its peers, or a bare limit.
//! - [`compare`]: `compare`, kvd and its peers side by side: [`clusters`] starts them, [`cost`] and [`usage`] say what they
//!   use, [`limit`] how little memory they may have, [`machine`] where.
//! - [`echo`]: `echo`, a server with nothing behind it; [`wire`] has the code generated for it and for unary calls.
//! - [`gap`]: `gap`, writes without pause, and how long none was acknowledged while a leader was killed by hand.
//! - [`scan`]: `scan`, how fast the rows of what `run` has written come.
//! - [`watch`]: `watch`, how fast many watchers are told of what many clients write.
//! - [`expiry`]: `expiry`, how long it takes until many keys that lapse at the same moment are gone.
//! - [`plot`]: `plot`, an SVG of what `run` and `compare` have said.
//! - [`report`]: the figures as a table or JSON.
//!
//! # What the figures mean
//! A request's time is that from the call of the client library to its result, retries and waiting in the library
//! included. A closed loop hides what an open one shows: while the cluster stalls, no new requests are begun, so that a stall
//! counts once per client and not once per request that could have been made. Read the highest percentiles and the gaps with
//! that in mind. In an open loop (`run --rate`) a request's time counts from when it was due, however late it was made. Failed requests are counted and are no part of the times.
//!
//! # What is deliberately absent
//! No limits are set to pass or fail: the figures are for people and for scripts that compare.

mod cli;
mod clusters;
mod compare;
mod cost;
mod echo;
mod expiry;
mod gap;
mod limit;
mod load;
mod machine;
mod plot;
mod report;
mod scan;
mod target;
mod usage;
mod values;
mod watch;
mod wire;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;

/// What bad flags end with.
const WRONGLY_USED: u8 = 2;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If standard error is closed too, nobody is left to be told.
            drop(writeln!(io::stderr(), "kvd-bench: {error:#}"));
            if error.is::<cli::Misuse>() { ExitCode::from(WRONGLY_USED) } else { ExitCode::FAILURE }
        }
    }
}

fn run() -> anyhow::Result<()> {
    let cli = cli::Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut out = io::stdout().lock();
    runtime.block_on(async {
        match cli.verb {
            cli::Verb::Run(arguments) => {
                let report = load::run(&arguments).await?;
                report::load(&mut out, arguments.common.output, &report)?;
            }
            cli::Verb::Compare(arguments) => {
                let report = compare::run(&arguments).await?;
                compare::show(&mut out, arguments.output, &report)?;
                if let Some(why) = report.broken_off {
                    anyhow::bail!("the rest was not tried: {why}");
                }
            }
            cli::Verb::Gap(arguments) => {
                let report = gap::run(&arguments).await?;
                report::gaps(&mut out, arguments.common.output, &report)?;
            }
            cli::Verb::Scan(arguments) => {
                let rounds = scan::run(&arguments).await?;
                report::scans(&mut out, arguments.common.output, &rounds)?;
            }
            cli::Verb::Watch(arguments) => {
                let report = watch::run(&arguments).await?;
                report::watches(&mut out, arguments.common.output, &report)?;
            }
            cli::Verb::Expiry(arguments) => {
                let report = expiry::run(&arguments).await?;
                report::expiries(&mut out, arguments.common.output, &report)?;
            }
            cli::Verb::Plot(arguments) => write!(out, "{}", plot::run(&arguments)?)?,
            cli::Verb::Echo(arguments) => echo::run(&arguments).await?,
        }
        out.flush()?;
        Ok(())
    })
}
