//! The suites that hunt for bugs: simulations, crash points, chaos, fuzzing. Each is a program of its own; here they are built
//! as each needs it, run, and what they came to is added to the ledger.
//!
//! # The approach
//! Arguments are passed on as they are, so that a program's `--help` is the one place that describes them. A program writes
//! a summary as JSON to the file that it is told; the ledger keeps it.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result};

use crate::ledger;

/// A program to build and run.
pub(crate) struct Suite {
    /// What it is called in the ledger.
    kind: &'static str,
    pub(crate) package: &'static str,
    pub(crate) binary: &'static str,
    pub(crate) features: &'static [&'static str],
    /// Flags for the compiler, for this program and all that it is built with.
    pub(crate) flags: &'static str,
    profile: &'static str,
    /// What of the product it runs, built as it is shipped.
    runs: &'static [&'static str],
}

/// Tokio must be told to take its choices from the seed, and whoever draws a random number must do so where the simulation
/// can answer.
const SIMULATED: &str = "--cfg tokio_unstable --cfg getrandom_backend=\"linux_getrandom\"";

/// Simulated clusters.
pub(crate) const SIM: Suite = Suite {
    kind: "simulation",
    package: "kvd-testkit",
    binary: "kvd-sim",
    features: &["simulation"],
    flags: SIMULATED,
    profile: "sim",
    runs: &[],
};

/// The storage, crashed at each of its operations. Built as the simulations are, so that both are built once.
pub(crate) const CRASHES: Suite = Suite {
    kind: "crash points",
    package: "kvd-testkit",
    binary: "kvd-crashes",
    features: &["simulation"],
    flags: SIMULATED,
    profile: "sim",
    runs: &[],
};

/// Real processes under real faults.
pub(crate) const CHAOS: Suite = Suite {
    kind: "chaos",
    package: "kvd-tests",
    binary: "kvd-chaos",
    features: &[],
    flags: "",
    profile: "release",
    runs: &["kvd"],
};

/// The same on what the tests have built anyway.
pub(crate) const CHAOS_ON_TEST_BUILD: Suite = Suite { profile: "dev", ..CHAOS };

impl Suite {
    /// Builds it and runs it. Says whether it has found nothing.
    pub(crate) fn run(&self, arguments: &[OsString]) -> Result<bool> {
        let root = root()?;
        self.build(&root, self.package, self.binary, self.features)?;
        for binary in self.runs {
            self.build(&root, "kvd-server", binary, &[])?;
        }
        let built = self.target_dir(&root).join(if self.profile == "dev" { "debug" } else { self.profile });
        let summary = built.join(format!("{}.json", self.binary));
        if summary.exists() {
            std::fs::remove_file(&summary).with_context(|| format!("can't remove {}", summary.display()))?;
        }
        let mut command = Command::new(built.join(self.binary));
        command.args(arguments).env("KVD_BIN_DIR", &built).current_dir(&root).stdin(Stdio::null());
        // A single seed is told, not summed up.
        if !arguments.iter().any(|argument| argument == "one" || argument == "--help" || argument == "--list")
        {
            command.arg("--summary").arg(&summary);
        }
        let status = command.status().with_context(|| format!("can't run {}", self.binary))?;
        if summary.exists() {
            ledger::add(&root, self.kind, &summary)?;
        }
        Ok(status.success())
    }

    /// What runs those tests of the package that one of the filters names, built of what the program is built of.
    pub(crate) fn tests(&self, filters: &[&str]) -> Result<Command> {
        let mut command = self.cargo("test", &root()?, self.package, self.features);
        command.args(["--lib", "--"]).args(filters);
        Ok(command)
    }

    fn build(&self, root: &Path, package: &str, binary: &str, features: &[&str]) -> Result<()> {
        let mut command = self.cargo("build", root, package, features);
        command.args(["--quiet", "--bin", binary]);
        let built = command.status().with_context(|| format!("can't run cargo to build {binary}"))?;
        anyhow::ensure!(built.success(), "{binary} was not built");
        Ok(())
    }

    /// A cargo that builds as this suite is built.
    fn cargo(&self, task: &str, root: &Path, package: &str, features: &[&str]) -> Command {
        let mut command = Command::new(cargo());
        command
            .args([task, "--locked", "--profile", self.profile, "--package", package, "--target-dir"])
            .arg(self.target_dir(root))
            .current_dir(root)
            .stdin(Stdio::null());
        if !features.is_empty() {
            command.arg("--features").arg(features.join(","));
        }
        if !self.flags.is_empty() {
            command.env("RUSTFLAGS", self.flags);
        }
        command
    }

    /// Where what is built goes: what is built with other flags must not undo what is there.
    fn target_dir(&self, root: &Path) -> PathBuf {
        let base = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
        if self.flags.is_empty() { base } else { base.join("simulated") }
    }
}

/// The cargo that runs this.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"))
}

/// The top level of the project.
pub(crate) fn root() -> Result<PathBuf> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = manifest.ancestors().nth(2).context("this crate has moved")?;
    Ok(root.to_owned())
}
