//! One node's process: started, watched, started again if so asked, and stopped.

use std::{fs, io, path::PathBuf, process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{NodePlan, child_args, directory::open_log};

/// How long a child may take to stop: its own grace (20 s) and some.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// The pause before a dead child is started again; doubled with each death in a row up to the longest.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(30);
/// A child that lived so long didn't die of how it was started.
const SETTLED: Duration = Duration::from_secs(60);

/// Something that a person should know.
pub(super) enum Event {
    /// A child ended that nobody had asked to, or couldn't be started.
    Died { node: NodePlan, how: String, restarting_in: Option<Duration> },
    /// A child didn't stop.
    Killed { node: NodePlan },
}

/// Keeps a node running until told to stop, or until it dies and isn't to be started again.
pub(super) async fn keep(
    program: PathBuf,
    node: NodePlan,
    restart: bool,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
) {
    let mut pause = RESTART_PAUSE;
    loop {
        let started = Instant::now();
        let Some(how) = live(&program, &node, &events, &stop).await else { return };
        if started.elapsed() >= SETTLED {
            pause = RESTART_PAUSE;
        }
        let restarting_in = restart.then_some(pause);
        tell(&events, Event::Died { node: node.clone(), how, restarting_in }).await;
        if !restart {
            return;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(RESTART_PAUSE_MAX);
    }
}

/// One life of a node's process. Gives how it died, or nothing if it was stopped.
async fn live(
    program: &PathBuf,
    node: &NodePlan,
    events: &mpsc::Sender<Event>,
    stop: &CancellationToken,
) -> Option<String> {
    let mut child = match start(program, node) {
        Ok(child) => child,
        Err(error) => return Some(format!("it can't be started: {error}")),
    };
    // Its closing asks the child to stop. Taken out, because waiting for a child closes what it finds there.
    let stdin = child.stdin.take();
    let how = tokio::select! {
        ended = child.wait() => Some(ended.map_or_else(|error| error.to_string(), |status| status.to_string())),
        () = stop.cancelled() => {
            end(&mut child, node, events).await;
            None
        }
    };
    drop(stdin);
    // A pid file without a process would make a script stop whoever has the number by then.
    if let Err(error) = fs::remove_file(node.pid_path()) {
        tracing::debug!(%error, node = node.number, "can't remove the pid file");
    }
    how
}

fn start(program: &PathBuf, node: &NodePlan) -> io::Result<Child> {
    let log = open_log(node)?;
    let child = Command::new(program)
        .args(child_args(node))
        // Held open by this process alone, and closed by the system when it ends, however it ends.
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .kill_on_drop(true)
        .spawn()?;
    if let Some(pid) = child.id() {
        fs::write(node.pid_path(), format!("{pid}\n"))?;
    }
    Ok(child)
}

async fn end(child: &mut Child, node: &NodePlan, events: &mpsc::Sender<Event>) {
    let pid = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(Err(error)) = pid.map(|pid| kill_process(pid, Signal::TERM)) {
        tracing::debug!(%error, node = node.number, "can't ask the process to stop");
    }
    if tokio::time::timeout(STOP_TIMEOUT, child.wait()).await.is_ok() {
        return;
    }
    if let Err(error) = child.kill().await {
        tracing::debug!(%error, node = node.number, "can't kill the process");
    }
    tell(events, Event::Killed { node: node.clone() }).await;
}

async fn tell(events: &mpsc::Sender<Event>, event: Event) {
    // Nobody listens any more once the parent is on its way out; then there is nobody to tell.
    if events.send(event).await.is_err() {
        tracing::debug!("nobody is there to be told of a child's end");
    }
}
