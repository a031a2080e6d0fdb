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
    name: Arc<str>,
    main: JoinHandle<()>,
    runtime: Runtime,
    /// Until when it has run, in simulated time, if it is paused.
    paused: Option<Duration>,
}

impl Process {
    /// Starts a process that does this; it runs with the next tick.
    ///
    /// # Errors
    /// The operating system has no means for a runtime.
    pub(crate) fn start(name: Arc<str>, main: impl Future<Output = ()> + Send + 'static) -> io::Result<Self> {
        let runtime = runtime()?;
        // Timers are kept in whole milliseconds: begin at one.
        runtime.block_on(async { tokio::time::sleep(TIMER_GRAIN).await });
        let main = runtime.spawn(main);
        Ok(Self { name, main, runtime, paused: None })
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
        let _span = tracing::info_span!("node", name = &*self.name).entered();
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

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;

    const TICK: Duration = Duration::from_millis(5);

    /// Runs a process until then, and says how much simulated time has passed.
    fn run_until(process: &Process, from: Duration, until: Duration) -> Duration {
        let mut now = from;
        while now < until {
            assert!(!process.tick(now, TICK));
            now += TICK;
        }
        now
    }

    #[test]
    fn a_paused_process_does_nothing_and_then_finds_that_its_clock_has_jumped() {
        let seen: Arc<Mutex<Vec<(Duration, Duration)>>> = Arc::default();
        let told = Arc::new(tokio::sync::Notify::new());
        let (noted, waits) = (Arc::clone(&seen), Arc::clone(&told));
        let mut process = Process::start("node".into(), async move {
            let began = Instant::now();
            loop {
                let message = tokio::time::timeout(Duration::from_millis(50), waits.notified()).await;
                if message.is_err() {
                    noted.lock().push((elapsed(), began.elapsed()));
                }
            }
        })
        .unwrap();
        let now = run_until(&process, Duration::ZERO, Duration::from_millis(120));
        assert_eq!(seen.lock().len(), 2);

        assert!(process.pause(now));
        assert!(!process.pause(now), "one that stands can't be stopped");
        let now = run_until(&process, now, Duration::from_secs(3));
        assert_eq!(seen.lock().len(), 2, "it stands");

        assert_eq!(process.resume(now), Some(now - Duration::from_millis(120)));
        let first = *seen.lock().get(2).unwrap();
        assert!(first.0 > now - Duration::from_millis(2) && first.0 <= now, "{first:?}");
        assert_eq!(first.0, first.1, "its own clock and the world's agree");
        assert_eq!(process.resume(now), None);
        run_until(&process, now, now + Duration::from_millis(60));
        assert_eq!(seen.lock().len(), 4, "and then timers are as ever");
        told.notify_one();
    }
}
