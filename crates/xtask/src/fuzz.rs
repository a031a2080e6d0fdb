//! `cargo xtask fuzz`: the coverage-guided fuzzer, target by target.
//!
//! The targets are binaries of a workspace of its own, `tests/fuzz`; what they run is in the crate `kvd-fuzz`, whose
//! ordinary tests replay what is kept here in `tests/fuzz/corpus`. New inputs that the fuzzer finds are added to that
//! directory; keep the few that matter with the command that is printed at the end. An input that makes a target fail
//! goes to `tests/fuzz/artifacts`: fix what it shows, and add it to the corpus.
//!
//! # What it deliberately does not do
//! It installs nothing: it says what to install. It isn't part of `cargo xtask ci`, which has to give the same answer
//! twice.

use std::{ffi::OsString, fs, path::Path, process::Command};

use anyhow::{Context, Result, bail};

const FUZZ_DIR: &str = "tests/fuzz";
/// Most memory that a target may take, in MiB.
const RSS_LIMIT_MIB: u32 = 1024;
/// The longest time that one input may take, in seconds.
const INPUT_SECONDS_MAX: u32 = 10;
/// The longest input, in bytes. Longer ones say nothing new, and make a corpus large.
const INPUT_BYTES_MAX: u32 = 8192;

/// Runs one target or all of them, each for so many seconds. Says whether all stood it.
pub(crate) fn run(target: Option<String>, seconds: u64) -> Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let known = targets(&root.join(FUZZ_DIR).join("corpus"))?;
    let chosen = match target {
        Some(target) if known.contains(&target) => vec![target],
        Some(target) => bail!("there is no target {target}; there are {}", known.join(", ")),
        None => known,
    };
    let installed = cargo(&root).args(["fuzz", "--version"]).output().context("can't run cargo")?;
    if !installed.status.success() {
        bail!("cargo-fuzz is missing: cargo install cargo-fuzz --locked (and a C++ compiler, such as g++)");
    }
    let mut passed = true;
    for target in &chosen {
        println!("\n==> {target}, {seconds} s");
        passed &= fuzz(&root, target, seconds)?;
    }
    println!("\nTo keep only the inputs that reach something new, for each target:");
    println!("RUSTC_BOOTSTRAP=1 cargo fuzz cmin --fuzz-dir {FUZZ_DIR} --sanitizer none TARGET");
    Ok(passed)
}

fn fuzz(root: &Path, target: &str, seconds: u64) -> Result<bool> {
    // No sanitizer: nothing of ours is unsafe, and without one it is three times as fast.
    let status = cargo(root)
        .args(["fuzz", "run", "--fuzz-dir", FUZZ_DIR, "--sanitizer", "none", target, "--"])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-rss_limit_mb={RSS_LIMIT_MIB}"))
        .arg(format!("-timeout={INPUT_SECONDS_MAX}"))
        .arg(format!("-max_len={INPUT_BYTES_MAX}"))
        .arg("-print_final_stats=1")
        .status()
        .with_context(|| format!("can't run the target {target}"))?;
    Ok(status.success())
}

/// Cargo, at the top level. Coverage needs flags that only a nightly compiler takes, unless it is told so.
fn cargo(root: &Path) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
    let mut command = Command::new(cargo);
    command.current_dir(root).env("RUSTC_BOOTSTRAP", "1");
    command
}

/// The targets: each has a corpus, or a test of `kvd-fuzz` fails.
fn targets(corpora: &Path) -> Result<Vec<String>> {
    let entries = fs::read_dir(corpora).with_context(|| format!("can't list {}", corpora.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_target_is_refused_with_those_that_there_are() {
        let error = run(Some("nothing".to_owned()), 1).unwrap_err().to_string();
        assert!(error.contains("log_segments") && error.contains("nothing"), "{error}");
    }
}
