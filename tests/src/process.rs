//! One process under test.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::until;

/// What a process says is shown from this many lines before its end, if the test fails.
const LINES_SHOWN: usize = 60;

/// A process, killed when this is dropped. What it says is added to a file.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Process {
    /// Starts it.
    ///
    /// # Panics
    /// It can't be started.
    #[must_use]
    pub fn start(name: impl Into<String>, mut command: Command, log: &Path) -> Self {
        let file = OpenOptions::new().create(true).append(true).open(log).expect("a log can be written");
        let child = command
            // Held open by this process alone: whoever watches it stops when this process ends, however it ends.
            .stdin(Stdio::piped())
            .stdout(file.try_clone().expect("a file can be shared"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
        Self { name: name.into(), log: log.to_owned(), child }
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// It has ended.
    pub fn signal(&self, signal: Signal) {
        signal_process(self.child.id(), signal).unwrap_or_else(|error| panic!("{}: {error}", self.name));
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// The system can't tell.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked for")
    }

    /// Waits until it has ended.
    pub async fn wait(&mut self) -> ExitStatus {
        let name = self.name.clone();
        until(&format!("the end of {name}"), async || self.ended().ok_or_else(|| "it still runs".to_owned()))
            .await
    }

    /// Ends it at once, as `kill -9` does.
    ///
    /// # Panics
    /// The system refuses.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a killed child ends");
    }

    /// All that it has said.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("{} can't be killed: {error}", self.name);
        }
        if thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let shown = lines.get(lines.len().saturating_sub(LINES_SHOWN)..).unwrap_or_default();
            eprintln!("---- {}, {} of {} lines\n{}", self.name, shown.len(), lines.len(), shown.join("\n"));
        }
    }
}

/// Sends a signal to a process that isn't a child of this one.
///
/// # Errors
/// There is no such process.
pub fn signal_process(id: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(kill_process(pid, signal)?)
}

/// Runs a program to its end, which must come within a minute.
///
/// # Panics
/// It can't be started, or doesn't end.
pub async fn run(command: Command) -> Output {
    run_within(Duration::from_secs(60), command).await
}

/// The same for one that does so much that a busy machine may need longer.
///
/// # Panics
/// As [`run`].
pub async fn run_within(patience: Duration, mut command: Command) -> Output {
    let shown = format!("{command:?}");
    let running = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output());
    let ended = tokio::time::timeout(patience, running).await;
    let output = ended.unwrap_or_else(|_elapsed| panic!("{shown} does not end"));
    output.expect("nothing in it panics").unwrap_or_else(|error| panic!("{shown} can't be started: {error}"))
}
