//! The rules that keep the crates apart.
//!
//! # The problem
//! A crate's folder says what it may know: the ring knows no sockets, only one crate names the consensus library, the
//! client never sees the server. One convenient dependency undoes that, and nobody notices in review.
//!
//! # The approach
//! The rules are the constants below, and this file is the place to change them. [`violations`] is a pure function over
//! what cargo and git say; its tests plant one violation of each rule.
//!
//! # What it deliberately does not do
//! Dev-dependencies are free: a test may use what it likes. Only direct dependencies count: what a dependency brings along
//! is its own affair (the machine may use the storage crate, which may use a random number generator).

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// Each of our crates, and which of our crates it may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("kvd-types", &[]),
    ("kvd-placement", &["kvd-types"]),
    ("kvd-storage", &["kvd-types"]),
    ("kvd-machine", &["kvd-types", "kvd-storage"]),
    ("kvd-proto", &["kvd-types", "kvd-placement"]),
    ("kvd-raft", &["kvd-types", "kvd-storage", "kvd-machine", "kvd-proto"]),
    ("kvd-server", &["kvd-types", "kvd-placement", "kvd-storage", "kvd-machine", "kvd-proto", "kvd-raft"]),
    ("kvd-client", &["kvd-types", "kvd-placement", "kvd-proto"]),
    ("kvctl", &["kvd-types", "kvd-client"]),
    ("kvd-bench", &["kvd-types", "kvd-client"]),
    (
        "kvd-testkit",
        &[
            "kvd-types",
            "kvd-placement",
            "kvd-storage",
            "kvd-machine",
            "kvd-proto",
            "kvd-raft",
            "kvd-server",
            "kvd-client",
        ],
    ),
    (
        "kvd-fuzz",
        &["kvd-types", "kvd-storage", "kvd-machine", "kvd-proto", "kvd-raft", "kvd-server", "kvd-client"],
    ),
    ("kvd-tests", &["kvd-types", "kvd-client", "kvd-testkit"]),
    ("xtask", &[]),
];

/// Libraries that only one crate may name, so that a change of them stays in that crate. By the start of their names.
const ONLY_IN: &[(&str, &str)] =
    &[("openraft", "kvd-raft"), ("sled", "kvd-storage"), ("fjall", "kvd-storage")];

/// Crates that must do the same on every machine: no sockets, no tasks, no clock, no randomness.
const PURE: &[&str] = &["kvd-types", "kvd-placement", "kvd-machine"];

/// What a pure crate may not use. By the start of the name.
const IMPURE: &[&str] = &["tokio", "tonic", "rand"];

/// What may be seen at the top level. Hidden files are free.
const TOP_LEVEL: &[&str] = &["Cargo.toml", "Cargo.lock", "README.md", "crates", "deploy", "proto", "tests"];

/// The longest source file, in lines.
const LINES_MAX: usize = 800;

/// What is built into the top level and not tracked.
const BUILT: &[&str] = &["target", "kvd-data"];

/// One of our crates.
#[derive(Debug)]
struct Package {
    name: String,
    /// What it depends on, to be built and to run.
    uses: Vec<String>,
}

/// A tracked file.
#[derive(Debug)]
struct File {
    /// Relative to the top level, with slashes.
    path: String,
    /// Of source files only.
    lines: Option<usize>,
}

/// Checks the workspace and prints what breaks the rules. Says whether nothing does.
pub(crate) fn run() -> Result<bool> {
    let metadata =
        MetadataCommand::new().no_deps().exec().context("can't read the workspace with cargo metadata")?;
    let packages: Vec<_> = metadata
        .packages
        .iter()
        .map(|package| {
            let uses = package.dependencies.iter().filter(|used| used.kind != DependencyKind::Development);
            Package { name: package.name.to_string(), uses: uses.map(|used| used.name.clone()).collect() }
        })
        .collect();
    let files = files(metadata.workspace_root.as_std_path())?;
    let violations = violations(&packages, &files);
    for violation in &violations {
        eprintln!("{violation}");
    }
    println!(
        "{} crates and {} files looked at, {} violations",
        packages.len(),
        files.len(),
        violations.len()
    );
    Ok(violations.is_empty())
}

/// All that breaks the rules, in words.
fn violations(packages: &[Package], files: &[File]) -> Vec<String> {
    let mut found = Vec::new();
    let rules: BTreeMap<_, _> = MAY_USE.iter().copied().collect();
    for Package { name, uses } in packages {
        let Some(may_use) = rules.get(name.as_str()) else {
            found.push(format!(
                "{name} is not in the table of crates: say in crates/xtask/src/arrows.rs what it may use"
            ));
            continue;
        };
        for used in uses {
            if packages.iter().any(|package| package.name == *used) && !may_use.contains(&used.as_str()) {
                found.push(format!("{name} uses {used}; of our crates it may use {may_use:?}"));
            }
            for (library, owner) in ONLY_IN {
                if is_or_belongs_to(used, library) && name != owner {
                    found.push(format!("{name} uses {used}; only {owner} may name {library}"));
                }
            }
            if PURE.contains(&name.as_str()) && IMPURE.iter().any(|library| is_or_belongs_to(used, library)) {
                found.push(format!(
                    "{name} uses {used}; it is a pure crate, without sockets, tasks, clock and randomness"
                ));
            }
        }
    }
    for File { path, lines } in files {
        let top = path.split('/').next().unwrap_or_default();
        if !top.starts_with('.') && !TOP_LEVEL.contains(&top) {
            found.push(format!("{path}: only {TOP_LEVEL:?} and hidden files may stand at the top level"));
        }
        if let Some(lines) = lines.filter(|&lines| lines > LINES_MAX) {
            found.push(format!("{path} has {lines} lines; split it, at most {LINES_MAX} are allowed"));
        }
    }
    found
}

/// Whether a name is a library's or that of one of its companions: `tokio-util` belongs to `tokio`, `random` not to `rand`.
fn is_or_belongs_to(name: &str, library: &str) -> bool {
    name.strip_prefix(library).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_']))
}

/// The files that git tracks; where git can't say (none is installed, or this is an unpacked archive), all there are.
fn files(root: &Path) -> Result<Vec<File>> {
    let tracked = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let paths = match tracked {
        Ok(output) if output.status.success() => {
            let list = String::from_utf8(output.stdout).context("git names a file that is not UTF-8")?;
            list.split_terminator('\0').map(str::to_owned).collect()
        }
        _ => {
            let mut paths = Vec::new();
            walk(root, "", &mut paths)?;
            paths
        }
    };
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let full = root.join(&path);
        // Deleted, but not yet from the index.
        if !full.exists() {
            continue;
        }
        let is_source = full.extension().is_some_and(|extension| extension == "rs");
        let read = || fs::read_to_string(&full).with_context(|| format!("can't read {path}"));
        let lines = if is_source { Some(read()?.lines().count()) } else { None };
        files.push(File { path, lines });
    }
    Ok(files)
}

/// Adds all files below a directory, except hidden and built ones.
fn walk(root: &Path, below: &str, paths: &mut Vec<String>) -> Result<()> {
    for entry in fs::read_dir(root.join(below)).with_context(|| format!("can't list {below:?}"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with('.') || below.is_empty() && BUILT.contains(&name.as_str()) {
            continue;
        }
        let path = if below.is_empty() { name } else { format!("{below}/{name}") };
        if entry.file_type()?.is_dir() {
            walk(root, &path, paths)?;
        } else {
            paths.push(path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
