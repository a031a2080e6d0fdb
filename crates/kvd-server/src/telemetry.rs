//! Log lines: to standard error, as text or JSON, and a panic among them.
//!
//! Standard output is left to what a person asked for.

use std::{io::IsTerminal as _, panic, thread};

use anyhow::Context as _;
use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

use crate::config::{Log, LogFormat};

/// Starts logging for the whole process; once only.
///
/// # Errors
/// The filter makes no sense, or something logs already.
pub fn init(log: &Log) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&log.filter).with_context(|| format!("log.filter = {:?}", log.filter))?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
        LogFormat::Json => builder.json().finish().try_init(),
    }?;
    panic::set_hook(Box::new(|panicked| {
        let thread = thread::current();
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(thread = thread.name(), %backtrace, "{panicked}");
    }));
    Ok(())
}
