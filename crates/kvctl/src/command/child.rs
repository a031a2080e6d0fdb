//! Commands that kvctl runs, without a shell.
//!
//! Where there is no terminal, a command is the head of a process group of its own, and signals go to the whole group: what it has
//! started ends with it. At a terminal it stays in kvctl's group, or it could not read from there: the terminal sends
//! Ctrl-C to all of them by itself, and other signals go to the command alone.

use std::{
    ffi::{OsStr, OsString},
    io::{self, IsTerminal as _},
    os::unix::{ffi::OsStringExt as _, process::ExitStatusExt as _},
    process::ExitStatus,
};

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::{Child, Command};

use super::interrupt::{Interrupts, code_of};
use crate::failure::{Failure, Result};

/// Most bytes that a variable is given: the system takes 128 KiB for one, its name and some room included.
const VARIABLE_BYTES_MAX: usize = 96 << 10;

/// A command by its words, of which there is at least one.
pub(super) fn command(words: &[OsString]) -> Result<Command> {
    command_in(words, !at_terminal())
}

fn command_in(words: &[OsString], own_group: bool) -> Result<Command> {
    let (program, arguments) =
        words.split_first().ok_or_else(|| Failure::Input("there is no command after --".into()))?;
    let mut command = Command::new(program);
    command.args(arguments);
    if own_group {
        command.process_group(0);
    }
    Ok(command)
}

/// Starts it. The error has the exit code that a shell would end with.
pub(super) fn start(command: &mut Command) -> Result<Child> {
    command.spawn().map_err(|error| {
        let program = command.as_std().get_program().display();
        Failure::Command {
            message: format!("{program} can't be run: {error}"),
            code: if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 },
        }
    })
}

/// Gives it a variable; or not, if no variable can hold the bytes.
pub(super) fn set(command: &mut Command, name: &str, bytes: &[u8]) -> bool {
    let fits = bytes.len() <= VARIABLE_BYTES_MAX && !bytes.contains(&0);
    if fits {
        command.env(OsStr::new(name), OsString::from_vec(bytes.to_vec()));
    } else {
        command.env_remove(name);
    }
    fits
}

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) status: ExitStatus,
    /// A signal to kvctl came meanwhile.
    pub(super) interrupted: bool,
}

/// Waits for its end. Signals to kvctl are passed on to it, but for a Ctrl-C of the terminal, which it gets by itself.
pub(super) async fn wait(child: &mut Child, interrupts: &mut Interrupts) -> io::Result<Ended> {
    let mut interrupted = false;
    loop {
        tokio::select! {
            status = child.wait() => return Ok(Ended { status: status?, interrupted }),
            signal = interrupts.next() => {
                interrupted = true;
                if signal != Signal::INT || !at_terminal() {
                    send(child, signal, !at_terminal());
                }
            }
        }
    }
}

/// Kills it, and waits for its end.
pub(super) async fn kill(child: &mut Child) -> io::Result<()> {
    send(child, Signal::KILL, !at_terminal());
    child.wait().await.map(drop)
}

/// Sends it a signal, or its whole group if it has one of its own.
fn send(child: &Child, signal: Signal, own_group: bool) {
    let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else { return };
    let send = if own_group { kill_process_group } else { kill_process };
    // It can only fail if the command has just ended, which is what is wanted.
    let _is_gone = send(pid, signal).is_err();
}

fn at_terminal() -> bool {
    io::stdin().is_terminal() || io::stdout().is_terminal() || io::stderr().is_terminal()
}

/// What a shell would end with.
pub(super) fn code(status: ExitStatus) -> u8 {
    match (status.code(), status.signal()) {
        (Some(code), _) => u8::try_from(code & 0xff).unwrap_or(u8::MAX),
        (None, Some(signal)) => code_of(signal),
        (None, None) => 1,
    }
}

#[cfg(test)]
mod tests {
    use std::{process::Stdio, time::Duration};

    use tokio::io::{AsyncBufReadExt as _, BufReader};

    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split('|').map(Into::into).collect()
    }

    async fn run(text: &str) -> u8 {
        let mut child = start(&mut command(&words(text)).unwrap()).unwrap();
        code(wait(&mut child, &mut Interrupts::new().unwrap()).await.unwrap().status)
    }

    #[tokio::test]
    async fn exit_codes_are_a_shells() {
        assert_eq!(run("true").await, 0);
        assert_eq!(run("sh|-c|exit 42").await, 42);
        assert_eq!(run("sh|-c|kill -9 $$").await, 137);
        let missing = start(&mut command(&words("no-such-command-anywhere")).unwrap()).unwrap_err();
        assert!(matches!(&missing, Failure::Command { code: 127, .. }), "{missing:?}");
        let not_a_program = start(&mut command(&words("/")).unwrap()).unwrap_err();
        assert!(matches!(&not_a_program, Failure::Command { code: 126, .. }), "{not_a_program:?}");
        assert!(command(&[]).is_err());
    }

    #[tokio::test]
    async fn what_a_command_has_started_ends_with_it() {
        let mut command = command_in(&words("sh|-c|sleep 600 & echo started; wait"), true).unwrap();
        let mut child = start(command.stdout(Stdio::piped())).unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).await.unwrap();
        assert_eq!(line, "started\n");
        send(&child, Signal::KILL, true);
        assert_eq!(code(child.wait().await.unwrap()), 137);
        // The end of the output comes once nobody has it open any more.
        let ended = tokio::time::timeout(Duration::from_secs(60), output.read_line(&mut line)).await;
        assert_eq!(ended.expect("the sleep was killed").unwrap(), 0);
    }

    #[tokio::test]
    async fn a_variable_has_any_bytes_that_it_can_hold() {
        let mut command = command(&words("sh|-c|test \"$A\" = x\u{e9} && test -z \"${B+set}\"")).unwrap();
        assert!(set(&mut command, "A", "x\u{e9}".as_bytes()));
        assert!(!set(&mut command, "B", b"zero\0"));
        assert!(!set(&mut command, "B", &vec![b'x'; VARIABLE_BYTES_MAX + 1]));
        let mut child = start(&mut command).unwrap();
        assert_eq!(code(child.wait().await.unwrap()), 0);
    }
}
