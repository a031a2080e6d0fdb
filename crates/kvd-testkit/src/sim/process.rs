//! A node's process: tasks on a runtime of its own, whose time passes when the simulation lets it.
//!
//! # The problem
//! A process that is stopped and goes on (SIGSTOP, a machine that swaps, a virtual machine that is moved) does nothing
//! meanwhile, and then finds that its monotonic clock has jumped: all timers fire at once, and it goes on with what it
//! believed before. turmoil can't stop a host: every host's runtime runs for a tick in every step.
//!
//! # The approach
//! So nodes don't run on turmoil's runtimes but on this one, which [`Process::tick`] runs after each of turmoil's steps,
//! and doesn't while the process is paused. turmoil's host of the same name is the machine's network card (see
//! [`super::network`]), which goes on and keeps for the process what arrives. When the process goes on, its clock jumps by as
//! much as it has missed. Nothing else moves: between any two of its own steps the process's clock has gone exactly as far
//! as everybody else's, so a pause breaks no promise about clocks, and its time of day is right at once.
//!
//! # What it deliberately does not do
//! Threads that go on one by one after a pause: a process has one thread here.

use std::{cell::Cell, io, sync::Arc, time::Duration};

use tokio::{
    runtime::{Builder, Runtime},
    task::JoinHandle,
    time::Instant,
};

use super::node::NodeCell;

/// The resolution of tokio's timers.
const TIMER_GRAIN: Duration = Duration::from_millis(1);

thread_local! {
    /// Of the process that runs now: some moment in simulated time, and on its clock.
    static RUNNING: Cell<Option<(Duration, Instant)>> = const { Cell::new(None) };
}

/// How much simulated time has passed, for whatever runs now: a process, or a host of turmoil's.
pub(crate) fn elapsed() -> Duration {
    match RUNNING.get() {
        Some((then, at)) => then + at.elapsed(),
        None => turmoil::sim_elapsed().unwrap_or_default(),
    }
}

/// See the module.
pub(crate) struct Process {
    cell: Arc<NodeCell>,
    main: JoinHandle<()>,
    runtime: Runtime,
    /// Until when it has run, in simulated time, if it is paused.
    paused: Option<Duration>,
}

impl Process {
    /// Starts a node's process; it runs with the next tick.
    ///
    /// # Errors
    /// The operating system has no means for a runtime.
    pub(crate) fn start(cell: Arc<NodeCell>) -> io::Result<Self> {
        let runtime = runtime()?;
        // Timers are kept in whole milliseconds: begin at one.
        runtime.block_on(async { tokio::time::sleep(TIMER_GRAIN).await });
        let main = runtime.spawn(Arc::clone(&cell).run());
        Ok(Self { cell, main, runtime, paused: None })
    }

    /// Lets so much time pass, from then on. Whether the process has ended.
    ///
    /// # Panics
    /// One of its tasks has panicked.
    pub(crate) fn tick(&self, from: Duration, tick: Duration) -> bool {
        if self.paused.is_none() {
            self.run(from, async move { tokio::time::sleep(tick).await });
        }
        self.main.is_finished()
    }

    /// Stops it where it stands. Not if it is stopped already.
    pub(crate) fn pause(&mut self, now: Duration) -> bool {
        let is_new = self.paused.is_none();
        self.paused.get_or_insert(now);
        is_new
    }

    /// Lets it go on after a pause: its clock jumps, and what waited for that runs. How far it jumped.
    pub(crate) fn resume(&mut self, now: Duration) -> Option<Duration> {
        let since = self.paused.take()?;
        let missed = now.saturating_sub(since);
        self.run(since, async move {
            if let Some(jump) = missed.checked_sub(TIMER_GRAIN) {
                tokio::time::advance(jump).await;
                // What the timers woke runs before this ends.
                tokio::time::sleep(TIMER_GRAIN).await;
            }
        });
        Some(missed)
    }

    fn run(&self, from: Duration, until: impl Future<Output = ()>) {
        let _span = tracing::info_span!("node", name = &*self.cell.name).entered();
        self.runtime.block_on(async {
            RUNNING.set(Some((from, Instant::now())));
            until.await;
            RUNNING.set(None);
        });
    }
}

#[allow(unexpected_cfgs, reason = "tokio's own, without which a simulation runs but can't be repeated")]
fn runtime() -> io::Result<Runtime> {
    let mut builder = Builder::new_current_thread();
    #[cfg(tokio_unstable)]
    builder.unhandled_panic(tokio::runtime::UnhandledPanic::ShutdownRuntime);
    builder.enable_time().start_paused(true).build()
}
