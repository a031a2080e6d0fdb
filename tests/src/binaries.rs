//! The programs under test, as built from these sources.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::SystemTime,
};

/// Where the programs are.
static DIRECTORY: LazyLock<PathBuf> = LazyLock::new(|| match env::var_os("KVD_BIN_DIR") {
    Some(directory) => directory.into(),
    None => build(),
});

/// The path of `kvd`.
#[must_use]
pub fn kvd() -> PathBuf {
    DIRECTORY.join("kvd")
}

/// The path of `kvctl`.
#[must_use]
pub fn kvctl() -> PathBuf {
    DIRECTORY.join("kvctl")
}

/// The path of `kvd-bench`.
#[must_use]
pub fn kvd_bench() -> PathBuf {
    DIRECTORY.join("kvd-bench")
}

/// Has cargo build them where this test was built, with the same profile, unless they are there and newer than all
/// sources: a test of old ones would be worse than none. Cargo isn't asked in vain, because with fewer packages to
/// build it chooses other features of what they depend on, and builds that all anew.
fn build() -> PathBuf {
    let test = env::current_exe().expect("a process knows its program");
    // TARGET/PROFILE/deps/test, or TARGET/PROFILE/program
    let mut dirs = test.ancestors().skip(1).filter(|dir| !dir.ends_with("deps"));
    let profile_dir = dirs.next().expect("a test lies in its profile's directory").to_owned();
    let target_dir = profile_dir.parent().expect("a profile's directory lies in the target's");
    if is_up_to_date(&profile_dir).unwrap_or(false) {
        return profile_dir;
    }
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--locked",
            "--bins",
            "-p",
            "kvd-server",
            "-p",
            "kvctl",
            "-p",
            "kvd-bench",
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo can be run");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "the programs can't be built:\n{said}");
    profile_dir
}

/// Whether the programs are newer than everything that they are made of.
fn is_up_to_date(profile_dir: &Path) -> io::Result<bool> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut newest = fs::metadata(root.join("Cargo.lock"))?.modified()?;
    for dir in ["crates", "proto"] {
        newest = newest.max(newest_in(&root.join(dir))?);
    }
    for program in ["kvd", "kvctl", "kvd-bench"] {
        if fs::metadata(profile_dir.join(program))?.modified()? <= newest {
            return Ok(false);
        }
    }
    Ok(true)
}

fn newest_in(dir: &Path) -> io::Result<SystemTime> {
    let mut newest = SystemTime::UNIX_EPOCH;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        newest = newest.max(if entry.file_type()?.is_dir() {
            newest_in(&entry.path())?
        } else {
            entry.metadata()?.modified()?
        });
    }
    Ok(newest)
}
