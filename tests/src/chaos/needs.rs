//! What a run needs of the machine, and what of it is missing.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail, ensure};

use super::{
    fault::{Kind, Need},
    log::say,
};

/// What every run needs.
const ALWAYS: &[Need] = &[
    Need { what: "ip", package: "iproute2" },
    Need { what: "tc", package: "iproute2" },
    Need { what: "iptables", package: "iptables" },
    Need { what: "mkfs.ext4", package: "e2fsprogs" },
    Need { what: "mount", package: "mount" },
    Need { what: "nsenter", package: "util-linux" },
    Need { what: "unshare", package: "util-linux" },
    Need { what: "fsfreeze", package: "util-linux" },
];

/// The name of a namespace that is made to see whether it can be.
const PROBE: &str = "kvd-chaos-probe";

/// Where Debian puts the library that fakes clocks, below a directory named for the machine.
const CLOCK_LIBRARY: &str = "faketime/libfaketime.so.1";

fn is_there(need: &Need) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(need.what).is_file())
}

/// Why nothing of this can be had on this machine; none if some of it can.
pub(crate) fn lacks_everything() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    let missing: BTreeSet<&Need> = ALWAYS.iter().filter(|need| !is_there(need)).collect();
    if let Err(missing) = refuse(&missing) {
        return Some(missing.to_string());
    }
    // Root of a container may have none of root's powers.
    let ip = |action: &str| {
        Command::new("ip").args(["netns", action, PROBE]).output().is_ok_and(|ended| ended.status.success())
    };
    let is_permitted = ip("add") && ip("delete");
    (!is_permitted).then(|| "the machine permits no network namespaces".to_owned())
}

/// The kinds that can be had here, and those that can't, with what they lack; refuses if there are any of these, unless they
/// may be skipped.
pub(crate) fn permitted(
    kinds: &[&'static Kind],
    skip_missing: bool,
) -> Result<(Vec<&'static Kind>, BTreeMap<&'static str, String>)> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "namespaces, mounts and packet filters need root: run as root"
    );
    let missing: BTreeSet<&Need> = ALWAYS.iter().filter(|need| !is_there(need)).collect();
    refuse(&missing)?;
    let (mut permitted, mut skipped) = (Vec::new(), BTreeMap::new());
    let mut missing = BTreeSet::new();
    for &kind in kinds {
        let lacks: Vec<&Need> = kind.needs.iter().filter(|need| !is_there(need)).collect();
        match lacks.first() {
            None => permitted.push(kind),
            Some(need) if skip_missing => {
                skipped.insert(kind.name, format!("there is no {} (package {})", need.what, need.package));
                say(&format!("SKIPPED: {}: {}", kind.name, skipped[kind.name]));
            }
            Some(_) => missing.extend(lacks),
        }
    }
    refuse(&missing)?;
    ensure!(!permitted.is_empty(), "no fault is left that this machine permits");
    Ok((permitted, skipped))
}

fn refuse(missing: &BTreeSet<&Need>) -> Result<()> {
    if missing.is_empty() {
        return Ok(());
    }
    let what: Vec<&str> = missing.iter().map(|need| need.what).collect();
    let packages: BTreeSet<&str> = missing.iter().map(|need| need.package).collect();
    let packages: Vec<&str> = packages.into_iter().collect();
    bail!("missing: {}\napt-get install -y {}", what.join(", "), packages.join(" "));
}

/// The library that fakes clocks.
pub(crate) fn clock_library() -> Option<PathBuf> {
    let dirs = Path::new("/usr/lib").read_dir().ok()?.flatten().map(|entry| entry.path());
    dirs.chain([PathBuf::from("/usr/lib")]).map(|dir| dir.join(CLOCK_LIBRARY)).find(|path| path.is_file())
}
