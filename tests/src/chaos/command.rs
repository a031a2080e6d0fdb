//! Programs of the system: run to their end, which must come, and must be well.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::Command;

/// Longer than any of them takes on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Runs a program and gives what it wrote to its standard output.
pub(crate) async fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let shown = || format!("{program} {}", arguments.join(" "));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let Ok(ended) = tokio::time::timeout(TIMEOUT, command.output()).await else {
        bail!("`{}` did not end within {TIMEOUT:?}", shown());
    };
    let ended = ended.with_context(|| format!("`{}` can't be started", shown()))?;
    let said = String::from_utf8_lossy(&ended.stderr);
    ensure!(ended.status.success(), "`{}` failed with {}: {}", shown(), ended.status, said.trim());
    Ok(String::from_utf8_lossy(&ended.stdout).into_owned())
}

/// Runs a line of words: for commands whose arguments have no spaces.
pub(crate) async fn line(line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let (program, arguments) = words.split_first().context("an empty command")?;
    run(program, arguments).await
}

/// Runs a line of words where failing is as good as succeeding: to clean up what may not be there.
pub(crate) async fn attempt(words: &str) -> bool {
    line(words).await.is_ok()
}
