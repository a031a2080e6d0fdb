//! Everything that has to pass before a change goes in.
//!
//! # The approach
//! The steps run one after the other, and all of them even if one fails: whoever waits for half an hour wants to
//! know everything that is wrong. What they print is passed on line by line as it comes. The tests' own result lines
//! are added up on the way, and the sum is the very last line, `N passed, N failed`.
//!
//! The lock file is never changed here (`--locked`), so what is tested is what was committed; nothing waits for input.
//!
//! # What it deliberately does not do
//! No check of security advisories: that needs a database from the network, and would turn red without any change of ours.

use std::{
    ffi::OsString,
    io::{BufRead, BufReader, Read, Write},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    arrows, planted,
    suites::{self, Suite},
};

/// A step that runs cargo.
struct Step {
    name: &'static str,
    arguments: &'static [&'static str],
    environment: &'static [(&'static str, &'static str)],
}

/// What comes before the rules that keep the crates apart: it takes no time.
const FORMAT: Step = Step { name: "format", arguments: &["fmt", "--all", "--check"], environment: &[] };

/// What comes after them, in order.
const STEPS: &[Step] = &[
    Step {
        name: "lints",
        // With the feature that only simulations need, or nobody would lint them.
        arguments: &[
            "clippy",
            "--workspace",
            "--all-targets",
            "--features",
            "kvd-testkit/simulation",
            "--locked",
            "--",
            "-D",
            "warnings",
        ],
        environment: &[],
    },
    Step {
        name: "tests",
        // Without a choice of targets, as that would leave out the tests in the documentation.
        arguments: &["test", "--workspace", "--locked", "--no-fail-fast"],
        environment: &[],
    },
    Step {
        name: "documentation",
        arguments: &["doc", "--workspace", "--no-deps", "--locked"],
        environment: &[("RUSTDOCFLAGS", "-D warnings")],
    },
    Step {
        name: "licences and sources",
        arguments: &["deny", "--config", ".deny.toml", "--locked", "check", "licenses", "bans", "sources"],
        environment: &[],
    },
];

/// What of the simulator's package only its feature brings: tests of the simulator, and of the storage at failpoints.
const TESTS_OF_SIM: &[&str] = &["failpoints", "sim::"];

/// The short forms of the suites that hunt for bugs. Their seeds are fixed: what fails here fails because of the change.
/// Chaos does without the faults that the machine doesn't permit, and says which.
const SHORT_SUITES: &[(&str, Suite, &[&str])] = &[
    ("simulations", suites::SIM, &["many", "--seeds", "200", "--from", "1", "--twice", "4"]),
    ("crash points", suites::CRASHES, &["--points", "20000", "--flips", "5000", "--seed", "1"]),
    ("chaos", suites::CHAOS_ON_TEST_BUILD, &["--short", "--skip-missing", "--seed", "1"]),
];

/// Tests that have run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
}

/// How a step ended.
struct Outcome {
    name: &'static str,
    passed: bool,
    took: Duration,
}

/// Runs all steps. Says whether all have passed.
pub(crate) fn run() -> Result<bool> {
    let mut totals = Totals::default();
    let mut outcomes = vec![timed(FORMAT.name, || FORMAT.run(&mut totals)), timed("arrows", arrows::run)];
    outcomes.push(timed("planted bugs apply", planted::check_all));
    outcomes.extend(STEPS.iter().map(|step| timed(step.name, || step.run(&mut totals))));
    outcomes.push(timed("tests of the simulator and at failpoints", || {
        let before = totals.passed;
        // Filters that fit nothing would pass, too.
        Ok(counted(&mut suites::SIM.tests(TESTS_OF_SIM)?, &mut totals)? && totals.passed > before)
    }));
    for (name, suite, arguments) in SHORT_SUITES {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        outcomes.push(timed(name, || suite.run(&arguments)));
    }

    println!("\n==> summary");
    for Outcome { name, passed, took } in &outcomes {
        println!("{} {name}, {:.0} s", if *passed { "ok    " } else { "FAILED" }, took.as_secs_f64());
    }
    println!("{} passed, {} failed", totals.passed, totals.failed);
    // A run that finds no tests has not tested anything.
    Ok(outcomes.iter().all(|outcome| outcome.passed) && totals.failed == 0 && totals.passed > 0)
}

/// Runs a step under a heading.
fn timed(name: &'static str, step: impl FnOnce() -> Result<bool>) -> Outcome {
    println!("\n==> {name}");
    let start = Instant::now();
    let passed = step().unwrap_or_else(|error| {
        eprintln!("xtask: {error:#}");
        false
    });
    Outcome { name, passed, took: start.elapsed() }
}

impl Step {
    fn run(&self, totals: &mut Totals) -> Result<bool> {
        let mut command = Command::new(suites::cargo());
        command.args(self.arguments).envs(self.environment.iter().copied());
        counted(&mut command, totals).with_context(|| format!("in the step {:?}", self.name))
    }
}

/// Runs cargo and passes its output on; adds the tests that it ran. Says whether it has passed.
fn counted(command: &mut Command, totals: &mut Totals) -> Result<bool> {
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().context("can't run cargo")?;
    if let Some(output) = child.stdout.take() {
        pass_on(output, std::io::stdout(), totals)?;
    }
    Ok(child.wait().context("can't wait for cargo")?.success())
}

/// Copies lines as they come and adds up the results of tests among them.
fn pass_on(from: impl Read, mut to: impl Write, totals: &mut Totals) -> Result<()> {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.read_until(b'\n', &mut line).context("can't read the output of a step")? > 0 {
        to.write_all(&line).and_then(|()| to.flush()).context("can't write to the standard output")?;
        if let Some(result) = result_line(&String::from_utf8_lossy(&line)) {
            totals.passed += result.passed;
            totals.failed += result.failed;
        }
        line.clear();
    }
    Ok(())
}

/// The counts in a line such as `test result: ok. 12 passed; 0 failed; 0 ignored; …`; `None` for any other line.
fn result_line(line: &str) -> Option<Totals> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = counts.split("; ");
    let passed = counts.next()?.strip_suffix(" passed")?.parse().ok()?;
    let failed = counts.next()?.strip_suffix(" failed")?.parse().ok()?;
    Some(Totals { passed, failed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read() {
        let line = "test result: FAILED. 16 passed; 3 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.95s\n";
        assert_eq!(result_line(line), Some(Totals { passed: 16, failed: 3 }));
        for other in [
            "",
            "test a::b ... ok",
            "test result: ok",
            "test result: ok. many passed; 0 failed",
            "16 passed; 3 failed",
        ] {
            assert_eq!(result_line(other), None, "{other}");
        }
    }

    #[test]
    fn output_is_passed_on_and_added_up() {
        let output = b"running 1 test\n\xff\ntest result: ok. 1 passed; 0 failed; 0 ignored\n\
            test result: FAILED. 2 passed; 3 failed; 1 ignored\nno newline at the end";
        let mut copy = Vec::new();
        let mut totals = Totals::default();
        pass_on(output.as_slice(), &mut copy, &mut totals).unwrap();
        assert_eq!(copy, output);
        assert_eq!(totals, Totals { passed: 3, failed: 3 });
    }

    #[test]
    fn the_command_for_tests_leaves_out_none() {
        let tests = STEPS.iter().find(|step| step.name == "tests").unwrap();
        for choice in ["--all-targets", "--lib", "--bins", "--tests", "--test", "--exclude", "-p"] {
            assert!(
                !tests.arguments.contains(&choice),
                "{choice} leaves out the tests in the documentation, or more"
            );
        }
    }
}
