//! What nodes hold of memory and disk while they are loaded.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    clusters::Cluster,
    compare::{Contender, Errors},
    cost::Figures,
    load::Load,
    usage::Usage,
};

/// How often is looked, in all.
const LOOKS: u32 = 60;
/// After so many looks the first figures are taken: by then an hour's history is as long as it gets, ten minutes.
const SETTLED_LOOKS: usize = 10;

/// What the nodes hold, together.
#[derive(Clone, Copy, Debug, Default)]
struct Held {
    resident_bytes: u64,
    disk_bytes: u64,
}

impl Held {
    fn by(nodes: &[u32], dir: &Path) -> io::Result<Self> {
        Ok(Self { resident_bytes: Usage::of(nodes)?.resident_bytes, disk_bytes: disk_bytes(dir)? })
    }
}

/// Measures a load that lasts so long, and what the nodes hold meanwhile.
pub(super) async fn during(
    contender: &Contender<'_>,
    load: &Load,
    lasts: Duration,
    cluster: &Cluster,
    dir: &Path,
) -> anyhow::Result<((Figures, Errors), Figures)> {
    let mut looks = Vec::new();
    let measured = tokio::select! {
        measured = contender.measure(load) => measured?,
        failed = look(cluster, dir, lasts / LOOKS, &mut looks) => match failed? {},
    };
    looks.push(Held::by(&cluster.nodes, dir)?);
    Ok((measured, told(&looks, cluster.nodes.len())?))
}

/// Looks at what the nodes hold, now and then, until it is stopped.
async fn look(
    cluster: &Cluster,
    dir: &Path,
    every: Duration,
    looks: &mut Vec<Held>,
) -> anyhow::Result<Infallible> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        looks.push(Held::by(&cluster.nodes, dir)?);
    }
}

/// What they held, of a node.
#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
fn told(looks: &[Held], nodes: usize) -> anyhow::Result<Figures> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20) / nodes as f64;
    let settled = looks.get(SETTLED_LOOKS).or(looks.last()).context("nobody looked")?;
    let last = looks.last().context("nobody looked")?;
    let most = looks.iter().map(|held| held.resident_bytes).max().unwrap_or_default();
    Ok(Figures::from([
        ("resident_mib_per_node_after_a_sixth", mib(settled.resident_bytes)),
        ("resident_mib_per_node_at_the_end", mib(last.resident_bytes)),
        ("resident_mib_per_node_at_most", mib(most)),
        ("disk_mib_per_node_after_a_sixth", mib(settled.disk_bytes)),
        ("disk_mib_per_node_at_the_end", mib(last.disk_bytes)),
    ]))
}

/// Bytes that a directory takes on its disk, with all that is in it.
fn disk_bytes(dir: &Path) -> io::Result<u64> {
    /// What `stat(2)` counts in.
    const BLOCK_BYTES: u64 = 512;
    let mut bytes = 0;
    let mut left: Vec<PathBuf> = vec![dir.to_owned()];
    while let Some(dir) = left.pop() {
        let Some(entries) = unless_gone(fs::read_dir(dir))? else { continue };
        for entry in entries {
            let Some(entry) = unless_gone(entry)? else { continue };
            let Some(metadata) = unless_gone(entry.metadata())? else { continue };
            bytes += metadata.blocks() * BLOCK_BYTES;
            if metadata.is_dir() {
                left.push(entry.path());
            }
        }
    }
    Ok(bytes)
}

/// Nodes remove files beside us.
fn unless_gone<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        found => found.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_takes_what_is_in_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inner")).unwrap();
        let before = disk_bytes(dir.path()).unwrap();
        fs::write(dir.path().join("inner/file"), vec![1; 1 << 20]).unwrap();
        fs::File::open(dir.path().join("inner/file")).unwrap().sync_all().unwrap();
        let taken = disk_bytes(dir.path()).unwrap() - before;
        assert!((1 << 20..2 << 20).contains(&taken), "{taken}");
        assert_eq!(disk_bytes(&dir.path().join("gone")).unwrap(), 0);
    }

    #[test]
    fn what_is_told_is_of_a_node_and_of_the_right_moments() {
        let held = |mib: u64| Held { resident_bytes: 3 * (mib << 20), disk_bytes: 6 * (mib << 20) };
        let looks: Vec<_> = (0..=60).map(|look| held(if look == 30 { 900 } else { look })).collect();
        let told = told(&looks, 3).unwrap();
        let of = |name: &str| told[name];
        assert_eq!(of("resident_mib_per_node_after_a_sixth"), 10.0);
        assert_eq!(of("resident_mib_per_node_at_the_end"), 60.0);
        assert_eq!(of("resident_mib_per_node_at_most"), 900.0);
        assert_eq!(of("disk_mib_per_node_at_the_end"), 120.0);
    }
}
