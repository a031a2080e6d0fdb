//! `kvd serve`: a node's process around the node.

use std::{io::Read as _, num::NonZeroUsize, process::ExitCode, sync::Arc, thread, time::Duration};

use kvd_server::{config::Loaded, metrics::Metrics, node, telemetry};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::{FAILED, complain, signals};

/// How long blocking work may hold up the end of the process.
const BLOCKING_WORK_TIMEOUT: Duration = Duration::from_secs(2);

/// Runs a node until it is told to stop.
pub(super) fn run(loaded: &Loaded, stop_on_stdin_close: bool) -> ExitCode {
    let config = loaded.config.clone();
    if let Err(error) = telemetry::init(&config.log) {
        complain(&format!("error: can't log: {error:#}"));
        return ExitCode::from(FAILED);
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    raise_file_limit();
    let metrics = Arc::new(Metrics::new(env!("CARGO_PKG_VERSION")));
    let threads = usize::try_from(config.limits.threads).ok().and_then(NonZeroUsize::new);
    let clients = match runtime(threads) {
        Ok(clients) => clients,
        Err(error) => {
            complain(&format!("error: can't start threads: {error:#}"));
            return ExitCode::from(FAILED);
        }
    };
    let outcome = block_on(threads, async |stop| {
        if stop_on_stdin_close {
            watch_stdin(stop.clone())?;
        }
        node::run(config, clients.handle().clone(), stop, metrics).await
    });
    clients.shutdown_timeout(BLOCKING_WORK_TIMEOUT);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// Runs to its end what stops when its token, which signals cancel, is cancelled; on so many threads, or as many as there are
/// cores.
pub(super) fn block_on(
    threads: Option<NonZeroUsize>,
    run: impl AsyncFnOnce(CancellationToken) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let runtime = runtime(threads)?;
    let outcome = runtime.block_on(async {
        let stop = CancellationToken::new();
        signals::watch(stop.clone())?;
        run(stop).await
    });
    runtime.shutdown_timeout(BLOCKING_WORK_TIMEOUT);
    outcome
}

/// So many threads, or as many as there are cores.
fn runtime(threads: Option<NonZeroUsize>) -> std::io::Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    if let Some(threads) = threads {
        builder.worker_threads(threads.get());
    }
    builder.enable_all().build()
}

/// Cancels the token when standard input closes: when whoever started this process has ended, however it did.
fn watch_stdin(stop: CancellationToken) -> std::io::Result<()> {
    let watch = move || {
        let mut buffer = [0; 64];
        while matches!(std::io::stdin().read(&mut buffer), Ok(1..)) {}
        tracing::info!("stopping because standard input was closed");
        stop.cancel();
    };
    // A thread of its own, which may block for ever without holding up the runtime's end.
    thread::Builder::new().name("stdin".to_owned()).spawn(watch).map(drop)
}

/// Takes as many file handles as the system allows: the usual soft limit of 1024 is less than the connections and files
/// of a busy node.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, "can't raise the limit of open files");
    }
}
