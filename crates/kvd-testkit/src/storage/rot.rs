//! Bytes of a stopped store change: single bits, whole sectors, sectors that can't be read, in the files of the log, the
//! checkpoints and the identity, and in the rows that the engine holds.

use std::{ops::Bound, path::PathBuf};

use bytes::Bytes;
use kvd_storage::{
    disk::{Crash, SimDisk, chance::Chance},
    engine::{Batch, Direction, Engine, MemoryEngine},
};

use super::{check::no_panic, crashes::whole, judge::judge, model::Model, node::Failure, summary::Summary};

const SECTOR_BYTES: u64 = 512;
/// Tries for a place that was written at all.
const TRIES: u64 = 8;

/// A store that has stopped.
pub(super) struct Stopped {
    disk: SimDisk,
    engine: MemoryEngine,
    model: Model,
}

/// Runs a history and stops it: in good order, or by a power cut.
pub(super) fn stopped(seed: u64, history: u64) -> Result<Stopped, Failure> {
    let mut work = whole(seed, history)?;
    if history.is_multiple_of(2) {
        no_panic(|| work.close())?;
        return Ok(Stopped {
            disk: work.disk.crash_seeded(Crash::Killed, 0),
            engine: work.engine.after_crash(),
            model: work.model,
        });
    }
    let (disk, engine) = (work.disk.crash_seeded(Crash::Synced, 0), work.engine.after_crash());
    work.node = None;
    for known in work.model.replicas.values_mut() {
        known.applied = known.flushed;
    }
    Ok(Stopped { disk, engine, model: work.model })
}

/// Lets something of a stopped store rot. An error is a violation: what was done, and what came of it.
pub(super) fn explore(stopped: &Stopped, chance: &mut Chance, summary: &mut Summary) -> Result<(), String> {
    let disk = stopped.disk.crash_seeded(Crash::Killed, 0);
    let engine = stopped.engine.copy();
    let what = if chance.one_in(8) {
        rot_row(&engine, chance).map_err(|error| error.to_string())?
    } else {
        rot_file(&disk, chance)
    };
    let Some(what) = what else { return Ok(()) };
    let verdict = judge(&disk, engine, &stopped.model).map_err(|wrong| format!("{what}: {wrong}"))?;
    summary.bit_flips += 1;
    summary.count(verdict);
    Ok(())
}

/// Changes a place of a file.
fn rot_file(disk: &SimDisk, chance: &mut Chance) -> Option<String> {
    let files = disk.files();
    let (path, length) = some_file(files, chance)?;
    let bytes = disk.bytes(&path).ok()?;
    let mut offset = chance.below(length);
    for _ in 0..TRIES {
        // Most of a segment was never written; that zeros change is seldom of interest.
        if usize::try_from(offset).ok().and_then(|at| bytes.get(at)).is_some_and(|byte| *byte != 0) {
            break;
        }
        offset = chance.below(length);
    }
    let sector = offset - offset % SECTOR_BYTES;
    let until = length.min(sector + SECTOR_BYTES);
    let sector_bytes = usize::try_from(until - sector).ok()?;
    let place = path.display();
    let done = match chance.below(10) {
        0..6 => {
            let bit = u8::try_from(chance.below(8)).unwrap_or(0);
            disk.flip(&path, offset, bit).map(|()| format!("bit {bit} of byte {offset} of {place}"))
        }
        6 => disk
            .overwrite(&path, sector, &vec![0; sector_bytes])
            .map(|()| format!("zeros at {sector} of {place}")),
        7 => {
            let noise: Vec<u8> = (0..sector_bytes).map(|_| chance.next().to_le_bytes()[0]).collect();
            disk.overwrite(&path, sector, &noise).map(|()| format!("noise at {sector} of {place}"))
        }
        8 => {
            let from = chance.below(length / SECTOR_BYTES + 1) * SECTOR_BYTES;
            let from = usize::try_from(from).ok()?;
            let other = bytes.get(from..bytes.len().min(from + sector_bytes)).unwrap_or_default();
            disk.overwrite(&path, sector, other).map(|()| format!("bytes {from} at {sector} of {place}"))
        }
        _ => disk.spoil(&path, sector).map(|()| format!("unreadable {sector} of {place}")),
    };
    done.ok()
}

/// Each kind of file as often as any other.
fn some_file(files: Vec<(PathBuf, u64)>, chance: &mut Chance) -> Option<(PathBuf, u64)> {
    let kind = ["/log/", "/log/", "/checkpoints/", "IDENTITY"];
    let kind = kind.get(usize::try_from(chance.below(4)).ok()?)?;
    let of_kind = |(path, length): &(PathBuf, u64)| *length > 0 && path.to_string_lossy().contains(kind);
    let mut files: Vec<_> = files.into_iter().filter(of_kind).collect();
    if files.is_empty() {
        return None;
    }
    let at = usize::try_from(chance.below(files.len() as u64)).ok()?;
    Some(files.swap_remove(at))
}

/// Changes a bit of what the engine holds.
fn rot_row(engine: &MemoryEngine, chance: &mut Chance) -> kvd_storage::Result<Option<String>> {
    let mut rows = Vec::new();
    for name in engine.tree_names()? {
        let tree = engine.tree(&name)?;
        for row in tree.scan(Bound::Unbounded, Bound::Unbounded, Direction::Ascending) {
            let (key, value) = row?;
            rows.push((name.clone(), key, value));
        }
    }
    if rows.is_empty() {
        return Ok(None);
    }
    let at = usize::try_from(chance.below(rows.len() as u64)).unwrap_or(0);
    let (name, key, value) = rows.swap_remove(at);
    let mut value = value.to_vec();
    let at = usize::try_from(chance.below(value.len() as u64)).unwrap_or(0);
    let bit = chance.below(8);
    if let Some(byte) = value.get_mut(at) {
        *byte ^= 1 << bit;
    }
    let mut batch = Batch::default();
    batch.put(key.clone(), Bytes::from(value));
    let tree = engine.tree(&name)?;
    tree.apply(batch)?;
    engine.flush()?;
    Ok(Some(format!("bit {bit} of byte {at} of row {} of tree {name}", key.escape_ascii())))
}
