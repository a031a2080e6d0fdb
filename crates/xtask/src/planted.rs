//! Bugs that are put into the product on purpose, one at a time: does the suite that is meant to notice them do so?
//!
//! # The problem
//! A suite that finds nothing has either nothing to find, or no eyes. Thousands of runs without a violation say the same
//! in both cases.
//!
//! # The approach
//! `crates/kvd-testkit/planted/` has a patch for each bug: a slip that somebody could make, in a few lines, against the
//! product's own source. Above the diff stand `what:` (the bug), `suite:` (`sim`, `crashes`, or `test PACKAGE FILTER`) and,
//! where the defaults won't do, `arguments:` for the suite's program. The tracked files are copied to a tree of their own
//! below `target/`; there each patch is applied, the suite built and run until its first violation or its bound, and
//! the patch taken back. Before all that the suites run on the tree as it is, and must find nothing.
//!
//! All builds share one directory and the same flags, so that a patch costs only what depends on the crate that it touches.
//!
//! # What it deliberately does not do
//! It makes up no bugs (mutations by machine are many, and most are not bugs). It doesn't judge how a bug was found: any
//! violation counts, for the control has shown that without the bug there is none.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

use crate::suites::{self, CRASHES, SIM, cargo, root};

/// Where the patches are.
const PATCHES: &str = "crates/kvd-testkit/planted";
/// How the suites are built: a patch costs seconds that way, not minutes.
const PROFILE: &str = "planted";
/// What the suites do where a patch doesn't say otherwise. Always the same seeds, so that what is caught stays caught.
const SIM_ARGUMENTS: &str = "--from 1 --seeds 100 --minutes 8";
const CRASHES_ARGUMENTS: &str = "--seed 1 --points 20000 --flips 20000 --seconds 240";
/// What the control does.
const SIM_CONTROL: &str = "--from 1 --seeds 12";
const CRASHES_CONTROL: &str = "--seed 1 --points 3000 --flips 2000 --seconds 120";
/// Longer than any bound of a suite: a run that takes longer hangs.
const RUN_MAX: Duration = Duration::from_secs(20 * 60);
const POLL: Duration = Duration::from_millis(100);
/// Characters of a violation that are shown.
const SHOWN_MAX: usize = 150;

/// What is to notice a bug.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Suite {
    Sim,
    Crashes,
    Test { package: String, filter: String },
}

/// A bug.
#[derive(Debug)]
struct Bug {
    name: String,
    patch: PathBuf,
    suite: Suite,
    arguments: Option<String>,
}

/// What came of a run.
struct Ran {
    /// The first violation; none if there was none.
    violation: Option<String>,
    /// Seeds that it took, where the suite counts them.
    seeds: Option<u64>,
    took: Duration,
}

/// Plants the named bugs, or all. Says whether all were caught, and nothing was found without them.
fn run(names: &[String], only_check: bool) -> Result<bool> {
    let root = root()?;
    let bugs = chosen(&root, names)?;
    if only_check {
        return check(&root, &bugs);
    }
    let base = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    let field = Field { dir: base.join("suites/planted") };
    field.copy(&root)?;
    let suites: BTreeSet<&Suite> = bugs.iter().map(|bug| &bug.suite).collect();
    for suite in suites {
        let ran = field.build(suite)?.then(|| field.run(suite, None)).transpose()?;
        match ran {
            None => bail!("without any planted bug {suite} does not compile"),
            Some(Ran { violation: Some(what), .. }) => {
                bail!("without any planted bug {suite} finds one: {what}")
            }
            Some(ran) => println!("control: {suite} finds nothing, {:.0} s", ran.took.as_secs_f64()),
        }
    }
    let mut all_caught = true;
    for bug in &bugs {
        let line = field.plant(bug).unwrap_or_else(|error| Err(format!("FAILED: {error:#}")));
        all_caught &= line.is_ok();
        let line = line.unwrap_or_else(|missed| missed);
        println!("{:<44} {:<9} {line}", bug.name, bug.suite.word());
    }
    println!("{} bugs planted, {}", bugs.len(), if all_caught { "all caught" } else { "NOT all caught" });
    Ok(all_caught)
}

/// Whether every patch still applies, to the tree as it is.
fn check(root: &Path, bugs: &[Bug]) -> Result<bool> {
    let mut all_apply = true;
    for bug in bugs {
        let applies = git_apply(root, &["--check"], &bug.patch)?;
        if !applies {
            println!("{}: does not apply any more; make it anew", bug.patch.display());
        }
        all_apply &= applies;
    }
    println!("{} planted bugs looked at", bugs.len());
    Ok(all_apply)
}

/// Every patch, for the checks that have to pass before a change goes in.
pub(crate) fn check_all() -> Result<bool> {
    run(&[], true)
}

fn chosen(root: &Path, names: &[String]) -> Result<Vec<Bug>> {
    let dir = root.join(PATCHES);
    let mut bugs = Vec::new();
    for entry in fs::read_dir(&dir).with_context(|| format!("can't list {}", dir.display()))? {
        let patch = entry?.path();
        if patch.extension().is_some_and(|extension| extension == "patch") {
            let text = fs::read_to_string(&patch)?;
            let bug = Bug::parse(&patch, &text).with_context(|| format!("in {}", patch.display()))?;
            bugs.push(bug);
        }
    }
    bugs.sort_by(|a, b| (&a.suite, &a.name).cmp(&(&b.suite, &b.name)));
    if let Some(unknown) = names.iter().find(|name| bugs.iter().all(|bug| bug.name != **name)) {
        bail!("there is no planted bug {unknown:?} in {PATCHES}");
    }
    bugs.retain(|bug| names.is_empty() || names.contains(&bug.name));
    ensure!(!bugs.is_empty(), "there are no patches in {PATCHES}");
    Ok(bugs)
}

impl Bug {
    fn parse(patch: &Path, text: &str) -> Result<Self> {
        let header: Vec<&str> = text.lines().take_while(|line| !line.starts_with("--- ")).collect();
        let field = |name: &str| {
            header.iter().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).map(str::trim)
        };
        ensure!(header.len() < text.lines().count(), "there is no diff");
        ensure!(field("what").is_some_and(|what| !what.is_empty()), "no line says what: the bug is");
        let suite = match field("suite").unwrap_or_default().split(' ').collect::<Vec<_>>().as_slice() {
            ["sim"] => Suite::Sim,
            ["crashes"] => Suite::Crashes,
            ["test", package, filter] => {
                Suite::Test { package: (*package).to_owned(), filter: (*filter).to_owned() }
            }
            other => bail!("suite: {other:?} is not one of sim, crashes, test PACKAGE FILTER"),
        };
        let name = patch.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let arguments = field("arguments").map(str::to_owned);
        Ok(Self { name, patch: patch.to_owned(), suite, arguments })
    }
}

impl std::fmt::Display for Suite {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Test { package, filter } => write!(f, "test {package} {filter}"),
            other => f.write_str(other.word()),
        }
    }
}

impl Suite {
    const fn word(&self) -> &'static str {
        match self {
            Self::Sim => "sim",
            Self::Crashes => "crashes",
            Self::Test { .. } => "test",
        }
    }
}

/// Where bugs are planted: a copy of the tree, and what is built of it.
struct Field {
    dir: PathBuf,
}

impl Field {
    fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    /// Makes the tree the same as the project's. Files that are the same already keep their times, so that cargo builds
    /// nothing again for them.
    fn copy(&self, root: &Path) -> Result<()> {
        let listed = Command::new("git")
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(root)
            .output()
            .context("can't run git")?;
        ensure!(listed.status.success(), "git can't list the project's files");
        let listed = String::from_utf8(listed.stdout).context("a file's name is no text")?;
        let files: BTreeSet<&str> =
            listed.split('\0').filter(|file| !file.is_empty() && root.join(file).is_file()).collect();
        let tree = self.tree();
        for file in &files {
            let (from, to) = (root.join(file), tree.join(file));
            let content = fs::read(&from).with_context(|| format!("can't read {}", from.display()))?;
            if fs::read(&to).is_ok_and(|there| there == content) {
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(&to, content).with_context(|| format!("can't write {}", to.display()))?;
        }
        remove_others(&tree, &tree, &files)
    }

    /// Plants one bug, and says in how far it was caught.
    fn plant(&self, bug: &Bug) -> Result<Result<String, String>> {
        ensure!(git_apply(&self.tree(), &[], &bug.patch)?, "the patch does not apply");
        let ran = self
            .build(&bug.suite)
            .and_then(|built| built.then(|| self.run(&bug.suite, Some(bug))).transpose());
        ensure!(git_apply(&self.tree(), &["--reverse"], &bug.patch)?, "the patch can't be taken back");
        let Some(ran) = ran? else { bail!("with the bug {} does not compile", bug.suite) };
        let seeds = ran.seeds.map(|seeds| format!("{seeds} seeds, ")).unwrap_or_default();
        let effort = format!("{seeds}{:.0} s", ran.took.as_secs_f64());
        Ok(match ran.violation {
            Some(what) => Ok(format!("caught    {effort}: {}", shortened(&what))),
            None => Err(format!("MISSED    {effort}")),
        })
    }

    /// Builds what a suite runs. False: it does not compile.
    fn build(&self, suite: &Suite) -> Result<bool> {
        let mut command = match suite {
            Suite::Sim => self.cargo_of(&SIM),
            Suite::Crashes => self.cargo_of(&CRASHES),
            Suite::Test { package, .. } => {
                let mut command = self.cargo("test");
                command.args(["--no-run", "--lib", "--package", package]);
                command
            }
        };
        Ok(command.status().context("can't run cargo")?.success())
    }

    fn cargo_of(&self, suite: &suites::Suite) -> Command {
        let mut command = self.cargo("build");
        command.args(["--package", suite.package, "--bin", suite.binary]);
        // Those of both, so that one build of the product serves both.
        command.arg("--features").arg([SIM.features, CRASHES.features].concat().join(","));
        command
    }

    fn cargo(&self, task: &str) -> Command {
        let mut command = Command::new(cargo());
        command
            .args([task, "--quiet", "--locked", "--profile", PROFILE, "--target-dir"])
            .arg(self.dir.join("built"))
            .current_dir(self.tree())
            .env("RUSTFLAGS", SIM.flags)
            .stdin(Stdio::null());
        command
    }

    /// Runs a suite until its first violation or its bound; with no bug in it, for as long as the control does.
    fn run(&self, suite: &Suite, bug: Option<&Bug>) -> Result<Ran> {
        let summary = self.dir.join("summary.json");
        drop(fs::remove_file(&summary));
        let arguments = bug.map(|bug| bug.arguments.as_deref());
        let built = |binary| self.dir.join("built").join(PROFILE).join(binary);
        let mut command = match suite {
            Suite::Sim => {
                let mut command = Command::new(built("kvd-sim"));
                let arguments = arguments.map_or(SIM_CONTROL, |given| given.unwrap_or(SIM_ARGUMENTS));
                command.arg("many").args(arguments.split(' ')).args(["--twice", "0", "--failures", "1"]);
                command.arg("--summary").arg(&summary);
                command
            }
            Suite::Crashes => {
                let mut command = Command::new(built("kvd-crashes"));
                let arguments = arguments.map_or(CRASHES_CONTROL, |given| given.unwrap_or(CRASHES_ARGUMENTS));
                command.args(arguments.split(' '));
                command
            }
            Suite::Test { package, filter } => {
                let mut command = self.cargo("test");
                command.args(["--lib", "--package", package, filter]);
                command
            }
        };
        let log = self.dir.join("run.log");
        let output = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let began = Instant::now();
        let ended = wait(&mut command, began)?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        let seeds = || serde_json::from_slice::<serde_json::Value>(&fs::read(&summary).ok()?).ok();
        let passed = match ended {
            Some(passed) => passed && (bug.is_some() || has_tried(suite, &text)),
            // It hangs: that is noticed by whoever waits for it, but it is no verdict.
            None => bug.is_some(),
        };
        Ok(Ran {
            violation: (!passed).then(|| first_violation(suite, &text)),
            seeds: seeds().and_then(|summary| summary.get("seeds")?.as_u64()),
            took: began.elapsed(),
        })
    }
}

/// Waits for a program, and says whether it has found nothing; none if it had to be ended.
fn wait(command: &mut Command, began: Instant) -> Result<Option<bool>> {
    let mut child = command.spawn().context("can't run the suite")?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.success()));
        }
        if began.elapsed() >= RUN_MAX {
            // With all that it has started.
            let group = format!("-{}", child.id());
            Command::new("kill").args(["-KILL", "--", &group]).status().context("can't run kill")?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(POLL);
    }
}

/// Whether a test that passed has tested anything.
fn has_tried(suite: &Suite, text: &str) -> bool {
    let passed = |line: &str| {
        let counted = line.strip_prefix("test result: ok. ")?.split(' ').next()?;
        counted.parse::<u64>().ok()
    };
    !matches!(suite, Suite::Test { .. }) || text.lines().filter_map(passed).any(|passed| passed > 0)
}

fn first_violation(suite: &Suite, text: &str) -> String {
    let is_it = |line: &&str| match suite {
        Suite::Sim => line.starts_with("seed "),
        Suite::Crashes => line.starts_with("VIOLATION"),
        Suite::Test { .. } => line.ends_with(" ... FAILED") || line.starts_with("test result: FAILED"),
    };
    let found = text.lines().find(is_it).or_else(|| text.lines().last());
    found.unwrap_or("it ended without a word").to_owned()
}

fn shortened(what: &str) -> String {
    what.chars().take(SHOWN_MAX).collect()
}

/// Applies a patch to a directory as it stands, whatever repository it lies in. False: it doesn't fit.
fn git_apply(dir: &Path, options: &[&str], patch: &Path) -> Result<bool> {
    let status = Command::new("git")
        .arg("apply")
        .args(options)
        .arg(patch)
        .current_dir(dir)
        .env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap_or(dir))
        .stdin(Stdio::null())
        .status()
        .context("can't run git")?;
    Ok(status.success())
}

/// Removes what the project doesn't have (any more).
fn remove_others(tree: &Path, dir: &Path, files: &BTreeSet<&str>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            remove_others(tree, &path, files)?;
        } else if path.strip_prefix(tree)?.to_str().is_none_or(|file| !files.contains(file)) {
            fs::remove_file(&path)?;
        }
    }
    Ok(())
}

/// What the command line is told.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Which ones; all, if none is named
    names: Vec<String>,
    /// Only see whether every patch still applies
    #[arg(long)]
    check: bool,
}

impl Arguments {
    pub(crate) fn run(&self) -> Result<bool> {
        run(&self.names, self.check)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str =
        "what: it forgets\nsuite: sim\narguments: --seeds 3\n\n--- a/x\n+++ b/x\n@@ -1 +1 @@\n-a\n+b\n";

    #[test]
    fn a_patch_says_what_it_is_and_who_must_notice() {
        let bug = Bug::parse(Path::new("p/it-forgets.patch"), PATCH).unwrap();
        assert_eq!((bug.name.as_str(), bug.suite), ("it-forgets", Suite::Sim));
        assert_eq!(bug.arguments.as_deref(), Some("--seeds 3"));
        let test = PATCH.replace("suite: sim", "suite: test kvd-raft tail");
        let suite = Suite::Test { package: "kvd-raft".into(), filter: "tail".into() };
        assert_eq!(Bug::parse(Path::new("p.patch"), &test).unwrap().suite, suite);
    }

    #[test]
    fn a_patch_that_says_too_little_is_refused() {
        for (what, with) in [("what: it forgets\n", ""), ("suite: sim", "suite: chaos"), ("--- a/x", "a/x")] {
            assert!(Bug::parse(Path::new("p.patch"), &PATCH.replace(what, with)).is_err(), "{what}");
        }
    }

    #[test]
    fn a_patch_is_applied_below_a_repository_too() {
        let dir = std::env::temp_dir().join(format!("kvd-planted-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (file, patch) = (dir.join("x"), dir.join("p.patch"));
        fs::write(&file, "a\n").unwrap();
        fs::write(&patch, PATCH).unwrap();
        assert!(git_apply(&dir, &["--check"], &patch).unwrap());
        assert!(git_apply(&dir, &[], &patch).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "b\n");
        assert!(!git_apply(&dir, &["--check"], &patch).unwrap());
        assert!(git_apply(&dir, &["--reverse"], &patch).unwrap());
        assert_eq!(fs::read_to_string(&file).unwrap(), "a\n");
        fs::remove_dir_all(&dir).unwrap();
    }
}
