//! A steady load for long, and what the nodes hold meanwhile. Memory must not grow once history is as long as it gets, nor
//! what is on the disk once the log is as long as it may get: what a checkpoint is due after, or four times all checkpoints.

use std::{
    convert::Infallible,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use tokio::time::{MissedTickBehavior, interval};

use super::{Trial, on_cluster, setup};
use crate::{
    cli::{self, Workload},
    clusters::Cluster,
    compare::{Contender, Errors, add_failed, say},
    cost::Figures,
    load::{Load, Open, Stop},
    target::Target,
    usage::Usage,
};

/// Requests under way, at most.
const OUTSTANDING_MAX: u32 = 10_000;
/// How often is looked, in all.
pub(super) const LOOKS: u32 = 60;
/// After so many looks the first figures are taken: by then an hour's history is as long as it gets, ten minutes.
const SETTLED_LOOKS: usize = 10;

/// A load that any machine serves all the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Soak {
    /// Requests a second, half of them puts.
    pub(super) rate: u32,
    pub(super) lasts: Duration,
}

/// What the nodes hold, together.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Held {
    resident_bytes: u64,
    disk_bytes: u64,
}

impl Held {
    fn by(nodes: &[u32], dir: &Path) -> io::Result<Self> {
        Ok(Self { resident_bytes: Usage::of(nodes)?.resident_bytes, disk_bytes: disk_bytes(dir)? })
    }
}

impl Soak {
    /// Makes the load.
    pub(super) async fn run(self, arguments: &cli::Compare, errors: &mut Errors) -> anyhow::Result<Trial> {
        let Self { rate, lasts } = self;
        let name = format!("{rate} requests/s, half of them puts, for {} s", lasts.as_secs());
        say(format_args!("{name}"));
        let load = Load {
            open: Some(Open { rate, outstanding_max: OUTSTANDING_MAX }),
            keys: arguments.keys,
            value_bytes: arguments.value_bytes,
            stop: Stop::After(lasts),
            ..Load::of(Workload::Mixed)
        };
        let setup = setup(arguments, arguments.nodes, arguments.shards);
        let figures = on_cluster(arguments, setup, async |cluster, dir| {
            let contender = Contender::of(Target::Kvd, Some(cluster), arguments, dir).await?;
            contender.fill(&load).await?;
            let mut held = Vec::new();
            let (figures, failed) = tokio::select! {
                measured = contender.measure(&load) => measured?,
                failed = look(cluster, dir, lasts / LOOKS, &mut held) => match failed? {},
            };
            held.push(Held::by(&cluster.nodes, dir)?);
            add_failed(errors, Target::Kvd, failed);
            contender.close().await;
            told(&figures, &held, arguments.nodes)
        })
        .await?;
        Ok(Trial::of(&name, figures))
    }
}

/// Looks at what the nodes hold, now and then, until it is stopped.
pub(super) async fn look(
    cluster: &Cluster,
    dir: &Path,
    every: Duration,
    held: &mut Vec<Held>,
) -> anyhow::Result<Infallible> {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        held.push(Held::by(&cluster.nodes, dir)?);
    }
}

/// What they held, of a node.
#[expect(clippy::cast_precision_loss, reason = "figures for people: 53 bits are enough")]
pub(super) fn held(held: &[Held], nodes: u16) -> anyhow::Result<Figures> {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20) / f64::from(nodes);
    let settled = held.get(SETTLED_LOOKS).or(held.last()).context("nobody looked")?;
    let last = held.last().context("nobody looked")?;
    let most = held.iter().map(|held| held.resident_bytes).max().unwrap_or_default();
    Ok(Figures::from([
        ("resident_mib_per_node_after_a_sixth", mib(settled.resident_bytes)),
        ("resident_mib_per_node_at_the_end", mib(last.resident_bytes)),
        ("resident_mib_per_node_at_most", mib(most)),
        ("disk_mib_per_node_after_a_sixth", mib(settled.disk_bytes)),
        ("disk_mib_per_node_at_the_end", mib(last.disk_bytes)),
    ]))
}

fn told(measured: &Figures, looks: &[Held], nodes: u16) -> anyhow::Result<Figures> {
    let mut figures = held(looks, nodes)?;
    for name in ["operations_per_second", "p99_ms", "max_ms"] {
        figures.insert(name, *measured.get(name).context("a figure is missing")?);
    }
    Ok(figures)
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
        let measured = Figures::from([("operations_per_second", 7.0), ("p99_ms", 8.0), ("max_ms", 9.0)]);
        let told = told(&measured, &looks, 3).unwrap();
        let of = |name: &str| told[name];
        assert_eq!(of("resident_mib_per_node_after_a_sixth"), 10.0);
        assert_eq!(of("resident_mib_per_node_at_the_end"), 60.0);
        assert_eq!(of("resident_mib_per_node_at_most"), 900.0);
        assert_eq!(of("disk_mib_per_node_at_the_end"), 120.0);
        assert_eq!(of("operations_per_second"), 7.0);
    }
}
