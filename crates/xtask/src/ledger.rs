//! What the long suites have come to, added up over time.
//!
//! # The problem
//! A thousand simulated hours don't fit into one run. What each run came to has to be kept somewhere, and it counts for the
//! code that it ran on.
//!
//! # The approach
//! A file of JSON lines at the top level, which git ignores: one line per run, with a name for the code that ran, which
//! changes with the product and not with its tests or words about it. Nothing is ever changed in the file. [`show`] adds up,
//! over all runs and over those of the code as it is now.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::suites;

const FILE: &str = ".ledger.jsonl";

/// What is counted, under which name the summaries tell it, and how much of it there is to be.
const GOALS: &[(&str, &str, f64, f64)] = &[
    ("simulated hours", "simulated_seconds", 3600.0, 1000.0),
    ("seeds", "seeds", 1.0, 0.0),
    ("operations", "operations", 1.0, 0.0),
    ("faults", "faults_total", 1.0, 0.0),
    ("crash points", "crash_points", 1.0, 0.0),
    ("power cuts of real nodes", "power_cuts", 1.0, 200.0),
    ("bit flips", "bit_flips", 1.0, 1000.0),
    ("hours of chaos", "seconds", 3600.0, 24.0),
    ("violations", "violations", 1.0, 0.0),
];

/// What the product is built from.
const PRODUCT: &[&str] = &[
    "Cargo.lock",
    "crates/kvd-client",
    "crates/kvd-machine",
    "crates/kvd-placement",
    "crates/kvd-proto",
    "crates/kvd-raft",
    "crates/kvd-server",
    "crates/kvd-storage",
    "crates/kvd-types",
    "proto",
];

/// A run.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    unix_s: u64,
    code: String,
    kind: String,
    summary: BTreeMap<String, Value>,
}

/// Adds what a run came to.
pub(crate) fn add(root: &Path, kind: &str, summary: &Path) -> Result<()> {
    let text = fs::read_to_string(summary).with_context(|| format!("can't read {}", summary.display()))?;
    let line = Line {
        unix_s: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        code: code(root),
        kind: kind.to_owned(),
        summary: serde_json::from_str(&text)
            .with_context(|| format!("{} is no summary", summary.display()))?,
    };
    let path = root.join(FILE);
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("can't open {}", path.display()))?;
    writeln!(file, "{}", serde_json::to_string(&line)?)
        .with_context(|| format!("can't write {}", path.display()))
}

/// Prints the sums.
pub(crate) fn show() -> Result<bool> {
    let root = suites::root()?;
    let path = root.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error).with_context(|| format!("can't read {}", path.display())),
    };
    let lines = text
        .lines()
        .map(|line| {
            serde_json::from_str(line).with_context(|| format!("{}: not a run: {line}", path.display()))
        })
        .collect::<Result<Vec<Line>>>()?;
    let code = code(&root);
    let runs = lines.iter().filter(|line| line.code == code).count();
    println!("{:<26} {:>14} {:>14} {:>10}", format!("code {code}"), "this code", "all code", "goal");
    println!("{:<26} {runs:>14} {:>14}", "runs", lines.len());
    for &(what, name, unit, goal) in GOALS {
        let (here, all) = (sum(&lines, name, Some(&code)) / unit, sum(&lines, name, None) / unit);
        let goal = if goal > 0.0 { goal.to_string() } else { String::new() };
        println!("{what:<26} {here:>14.2} {all:>14.2} {goal:>10}");
    }
    Ok(true)
}

fn sum(lines: &[Line], name: &str, code: Option<&str>) -> f64 {
    lines
        .iter()
        .filter(|line| code.is_none_or(|code| line.code == code))
        .filter_map(|line| line.summary.get(name).and_then(Value::as_f64))
        .fold(0.0, |sum, value| sum + value)
}

/// A name for the product as it lies there.
fn code(root: &Path) -> String {
    name_of_product(root).unwrap_or_else(|| "unknown".to_owned())
}

fn name_of_product(root: &Path) -> Option<String> {
    let trees: Vec<String> = PRODUCT.iter().map(|path| format!("HEAD:{path}")).collect();
    let trees = git(
        root,
        &[&["rev-parse"], trees.iter().map(String::as_str).collect::<Vec<_>>().as_slice()].concat(),
        "",
    )?;
    let changes = git(root, &[&["status", "--porcelain", "--"], PRODUCT].concat(), "")?;
    let name = git(root, &["hash-object", "--stdin"], &trees)?;
    let name: String = name.chars().take(10).collect();
    Some(if changes.is_empty() { name } else { format!("{name}+changes") })
}

fn git(root: &Path, arguments: &[&str], input: &str) -> Option<String> {
    let mut git = Command::new("git")
        .args(arguments)
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    git.stdin.take()?.write_all(input.as_bytes()).ok()?;
    let output = git.wait_with_output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_kept_and_added_up() {
        let dir = std::env::temp_dir().join(format!("kvd-ledger-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let summary = dir.join("summary.json");
        fs::write(&summary, r#"{"seeds": 3, "simulated_seconds": 7200, "failed_seeds": []}"#).unwrap();
        add(&dir, "simulation", &summary).unwrap();
        add(&dir, "simulation", &summary).unwrap();
        let text = fs::read_to_string(dir.join(FILE)).unwrap();
        let lines: Vec<Line> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(lines.len(), 2);
        assert!((sum(&lines, "seeds", None) - 6.0).abs() < f64::EPSILON);
        assert!((sum(&lines, "seeds", Some("another")) - 0.0).abs() < f64::EPSILON);
        assert!((sum(&lines, "no such thing", None) - 0.0).abs() < f64::EPSILON);
    }
}
