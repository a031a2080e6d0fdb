//! The programs under test, as built from these sources.

use std::{env, path::PathBuf, process::Command, sync::LazyLock};

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

/// Has cargo build them where this test was built, with the same profile. Quick if they are up to date; and if they were
/// not, a test of old ones would be worse than none.
fn build() -> PathBuf {
    let test = env::current_exe().expect("a process knows its program");
    // TARGET/PROFILE/deps/test
    let profile_dir = test.ancestors().nth(2).expect("a test lies in its profile's deps").to_owned();
    let target_dir = profile_dir.parent().expect("a profile's directory lies in the target's");
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
            "--profile",
            profile,
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo can be run");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "kvd and kvctl can't be built:\n{said}");
    profile_dir
}
