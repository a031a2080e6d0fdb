//! Disks that rot: bits flip, sectors come to hold something else, or can't be read any more.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use kvd_storage::disk::{Crash, SimDisk};
use rand::RngExt as _;

use super::Fault;
use crate::sim::cluster::Cluster;

const SECTOR_BYTES: u64 = 512;
/// Tries for a place that was written at all: most of a log segment never was.
const TRIES: usize = 8;

/// The log and checkpoints rot of a node that was stopped in good order, and it is started on what is left.
///
/// Its good order matters: rot in the very last write before a crash looks like a torn write, which the log says it
/// can't tell apart.
#[derive(Default)]
pub(super) struct Rotten {
    node: usize,
}

impl Fault for Rotten {
    fn name(&self) -> &'static str {
        "rot on a disk"
    }

    fn begin(&mut self, cluster: &mut Cluster) -> Option<String> {
        cluster.begin_destruction().then_some(())?;
        self.node = cluster.any_node();
        let cell = cluster.cell(self.node);
        cell.state.lock().is_wanted = false;
        cell.stop();
        Some(format!("node {} stops for it", self.node + 1))
    }

    fn end(&mut self, cluster: &mut Cluster) {
        let cell = Arc::clone(cluster.cell(self.node));
        cell.state.lock().is_wanted = true;
        if cell.is_running() {
            cluster.crash(self.node, Crash::Killed);
        } else if cell.has_closed() {
            let disk = cell.state.lock().disk.clone();
            for _ in 0..cluster.rng.random_range(1..4) {
                match decay(cluster, self.node, &disk) {
                    Ok(what) => cluster.note(format_args!("{what}")),
                    Err(error) => cluster.note(format_args!("nothing rots: {error}")),
                }
            }
        }
        cluster.start(self.node);
        cluster.end_destruction();
    }
}

/// Lets one place of a file of the log or of a checkpoint rot, and says how.
fn decay(cluster: &mut Cluster, node: usize, disk: &SimDisk) -> io::Result<String> {
    let Some((path, bytes, offset)) = some_place(cluster, disk)? else {
        return Ok("there is nothing that could rot".to_owned());
    };
    let sector = offset - offset % SECTOR_BYTES;
    let length = SECTOR_BYTES.min(bytes.len() as u64 - sector);
    let place = path.display().to_string();
    match cluster.rng.random_range(0..10) {
        0..5 => {
            let bit = cluster.rng.random_range(0..8);
            disk.flip(&path, offset, bit)?;
            cluster.bit_flips += 1;
            Ok(format!("bit {bit} of byte {offset} of {place} flips"))
        }
        5 => {
            let noise: Vec<u8> = (0..length).map(|_| cluster.rng.random()).collect();
            disk.overwrite(&path, sector, &noise)?;
            Ok(format!("sector at {sector} of {place} holds noise"))
        }
        6..8 => {
            // A write that was meant for there has gone astray, over this.
            let Some((from, other, at)) = some_place(cluster, disk)? else { return Ok("nothing".to_owned()) };
            let at = at - at % SECTOR_BYTES;
            let strayed: Vec<u8> = other.iter().skip(usize::try_from(at).unwrap_or(0)).copied().collect();
            let strayed = strayed.get(..usize::try_from(length).unwrap_or(0)).unwrap_or(&strayed);
            disk.overwrite(&path, sector, strayed)?;
            Ok(format!("sector at {sector} of {place} holds what was at {at} of {}", from.display()))
        }
        _ => {
            cluster.spoil(node, &path, sector)?;
            Ok(format!("sector at {sector} of {place} can't be read any more"))
        }
    }
}

/// A file of the log or a checkpoint, what is in it, and a place in it, where something was written if that is easily found.
fn some_place(cluster: &mut Cluster, disk: &SimDisk) -> io::Result<Option<(PathBuf, Vec<u8>, u64)>> {
    let dir = if cluster.rng.random_bool(0.6) { "/data/log" } else { "/data/checkpoints" };
    let is_data = |(path, bytes): &(PathBuf, u64)| *bytes > 0 && path.starts_with(Path::new(dir));
    let files: Vec<_> = disk.files().into_iter().filter(is_data).collect();
    if files.is_empty() {
        return Ok(None);
    }
    let Some((path, length)) = files.get(cluster.rng.random_range(0..files.len())).cloned() else {
        return Ok(None);
    };
    let bytes = disk.bytes(&path)?;
    let mut offset = cluster.rng.random_range(0..length);
    for _ in 0..TRIES {
        if usize::try_from(offset).ok().and_then(|at| bytes.get(at)).is_some_and(|byte| *byte != 0) {
            break;
        }
        offset = cluster.rng.random_range(0..length);
    }
    Ok(Some((path, bytes, offset)))
}
