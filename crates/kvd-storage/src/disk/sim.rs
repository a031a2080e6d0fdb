//! A disk in memory that breaks on demand.
//!
//! It keeps two versions of everything: what was written, which is what reads see, and what would be there after a
//! power cut. [`SimDisk::crash`] makes a new disk of the latter; the old one lives on unnoticed, so that whoever still
//! holds a file of it can do no harm. Everything that is left to chance comes from the seed.
//!
//! # What it models
//! - Bytes that were written and not synced may survive a power cut, block by block, in any combination
//!   ([`Crash::Torn`]), or not at all ([`Crash::Synced`]); so may a file's length.
//! - A name (of a file or a directory) that was created, renamed or removed is durable when its directory was synced.
//!   Before that it is lost; in a torn crash each directory by chance keeps all its names or loses the new ones.
//! - A failed sync leaves the pages clean, as Linux does: what was written still reads, isn't on disk, and another
//!   sync that succeeds doesn't put it there. Only writing it again does.
//! - A failed write may have written a part.
//! - Bits flip, the disk fills up, the power goes out at the nth operation.
//!
//! # What it doesn't
//! Reordering of names across directories, bad sectors that fail to read, time.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Disk, File};

/// The smallest unit that survives as a whole.
const BLOCK_BYTES: usize = 512;

/// What a power cut leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// Only what was synced.
    Synced,
    /// What was synced, and by chance any other block of so many bytes (a multiple of 512).
    Torn {
        /// Size of a block.
        block_bytes: usize,
    },
    /// Everything: the process was killed, the machine went on.
    Killed,
}

/// A kind of operation that can be made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// [`File::write_all_at`].
    Write,
    /// [`File::sync_data`].
    Sync,
    /// [`File::set_len`].
    SetLength,
    /// [`File::read_exact_at`]. Not counted by [`SimDisk::operations`].
    Read,
    /// [`Disk::create`].
    Create,
    /// [`Disk::create_dir_all`].
    CreateDir,
    /// [`Disk::rename`].
    Rename,
    /// [`Disk::remove`] and [`Disk::remove_dir`].
    Remove,
    /// [`Disk::sync_dir`].
    SyncDir,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<World>>);

#[derive(Debug)]
struct World {
    chance: Chance,
    nodes: BTreeMap<u64, Node>,
    next_node: u64,
    operations: u64,
    power_cut_at: Option<u64>,
    failures: Vec<(Operation, u64, io::ErrorKind)>,
    space_bytes: Option<u64>,
}

#[derive(Clone, Debug)]
enum Node {
    File(Content),
    Dir(Names),
}

#[derive(Clone, Debug, Default)]
struct Names {
    now: BTreeMap<OsString, u64>,
    synced: BTreeMap<OsString, u64>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    now: Vec<u8>,
    synced: Vec<u8>,
    /// Blocks that the next sync puts on disk.
    dirty: BTreeSet<usize>,
    length_dirty: bool,
}

/// SplitMix64, so that a seed means the same for ever.
#[derive(Clone, Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn coin(&mut self) -> bool {
        self.next() & 1 == 1
    }

    /// From 0 up to and including a number.
    fn up_to(&mut self, most: usize) -> usize {
        usize::try_from(self.next() % (most as u64).saturating_add(1)).unwrap_or(most)
    }
}

const ROOT: u64 = 0;

impl SimDisk {
    /// An empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(World {
            chance: Chance(seed),
            nodes: BTreeMap::from([(ROOT, Node::Dir(Names::default()))]),
            next_node: ROOT + 1,
            operations: 0,
            power_cut_at: None,
            failures: Vec::new(),
            space_bytes: None,
        })))
    }

    /// An empty disk with a directory that survives everything.
    #[must_use]
    pub fn with_dir(seed: u64, dir: &Path) -> Self {
        let disk = Self::new(seed);
        {
            let mut world = disk.0.lock();
            let mut at = ROOT;
            for name in names(dir) {
                let child = world.add(Node::Dir(Names::default()));
                if let Some(Node::Dir(parent)) = world.nodes.get_mut(&at) {
                    parent.now.insert(name.clone(), child);
                    parent.synced.insert(name, child);
                }
                at = child;
            }
        }
        disk
    }

    /// The disk after a power cut (or after a kill) now: a new one, with no failures left to come.
    #[must_use]
    pub fn crash(&self, crash: Crash) -> Self {
        let mut world = self.0.lock();
        let mut nodes = world.nodes.clone();
        for node in nodes.values_mut() {
            match node {
                Node::File(content) => content.crash(crash, &mut world.chance),
                Node::Dir(names) => names.crash(crash, &mut world.chance),
            }
        }
        let after = World {
            chance: Chance(world.chance.next()),
            nodes,
            next_node: world.next_node,
            operations: 0,
            power_cut_at: None,
            failures: Vec::new(),
            space_bytes: world.space_bytes,
        };
        Self(Arc::new(Mutex::new(after)))
    }

    /// How many operations there were that change something. A test that crashes at each of them runs its workload
    /// once to learn the number, and then again with each [`SimDisk::cut_power_at`].
    #[must_use]
    pub fn operations(&self) -> u64 {
        self.0.lock().operations
    }

    /// The power goes out right before the operation with that number, counting from 0: it and everything after it
    /// fails and changes nothing, reads included. Then call [`SimDisk::crash`].
    pub fn cut_power_at(&self, operation: u64) {
        self.0.lock().power_cut_at = Some(operation);
    }

    /// The nth operation of that kind from now on fails, counting from 0; those after it succeed again.
    pub fn fail(&self, operation: Operation, nth: u64, kind: io::ErrorKind) {
        self.0.lock().failures.push((operation, nth, kind));
    }

    /// From now on so many bytes can be added to files, then the disk is full; removing files gives none back. None:
    /// no limit.
    pub fn limit_space(&self, bytes: Option<u64>) {
        self.0.lock().space_bytes = bytes;
    }

    /// Flips a bit of a file, on disk and in what reads see.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `UnexpectedEof` if it is shorter.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        let mut world = self.0.lock();
        let node = world.find(path)?;
        let content = world.content(node)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        for bytes in [&mut content.now, &mut content.synced] {
            if let Some(byte) = bytes.get_mut(offset) {
                *byte ^= 1 << (bit % 8);
            }
        }
        if offset < content.now.len() { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// The content of a file as reads see it.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut world = self.0.lock();
        let node = world.find(path)?;
        Ok(world.content(node)?.now.clone())
    }
}

impl Names {
    fn crash(&mut self, crash: Crash, chance: &mut Chance) {
        let keep = match crash {
            Crash::Synced => false,
            Crash::Torn { .. } => chance.coin(),
            Crash::Killed => return,
        };
        if keep {
            self.synced.clone_from(&self.now);
        } else {
            self.now.clone_from(&self.synced);
        }
    }
}

impl Content {
    fn crash(&mut self, crash: Crash, chance: &mut Chance) {
        match crash {
            // What a failed sync left behind stays in the page cache, too.
            Crash::Killed => return,
            Crash::Synced => {}
            Crash::Torn { block_bytes } => {
                let blocks = (block_bytes / BLOCK_BYTES).max(1);
                if self.length_dirty && chance.coin() {
                    self.synced.resize(self.now.len(), 0);
                }
                let dirty = std::mem::take(&mut self.dirty);
                let mut kept: Option<(usize, bool)> = None;
                for block in dirty {
                    let unit = block / blocks;
                    let keep = match kept {
                        Some((last, keep)) if last == unit => keep,
                        _ => chance.coin(),
                    };
                    kept = Some((unit, keep));
                    if keep {
                        self.store(block, false);
                    }
                }
            }
        }
        self.now.clone_from(&self.synced);
        self.dirty.clear();
        self.length_dirty = false;
    }

    /// Puts one block on disk.
    fn store(&mut self, block: usize, grow: bool) {
        let from = block * BLOCK_BYTES;
        let mut to = (from + BLOCK_BYTES).min(self.now.len());
        if grow && self.synced.len() < to {
            self.synced.resize(to, 0);
        }
        to = to.min(self.synced.len());
        if let (Some(written), Some(stored)) = (self.now.get(from..to), self.synced.get_mut(from..to)) {
            stored.copy_from_slice(written);
        }
    }

    fn write(&mut self, buffer: &[u8], offset: usize) {
        let end = offset + buffer.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
            self.length_dirty = true;
        }
        if let Some(place) = self.now.get_mut(offset..end) {
            place.copy_from_slice(buffer);
        }
        self.dirty.extend(offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES));
    }

    fn sync(&mut self) {
        self.synced.resize(self.now.len(), 0);
        for block in std::mem::take(&mut self.dirty) {
            self.store(block, true);
        }
        self.length_dirty = false;
    }

    fn set_length(&mut self, length: usize) {
        if length > self.now.len() {
            self.dirty.extend(self.now.len() / BLOCK_BYTES..length.div_ceil(BLOCK_BYTES));
        }
        self.now.resize(length, 0);
        self.length_dirty = true;
    }
}

impl World {
    fn add(&mut self, node: Node) -> u64 {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        id
    }

    /// Counts an operation, and fails it if it is to fail.
    fn begin(&mut self, operation: Operation) -> io::Result<()> {
        if self.power_cut_at.is_some_and(|at| self.operations >= at) {
            return Err(io::Error::other("the power is out"));
        }
        if operation != Operation::Read {
            self.operations += 1;
        }
        let mut failed = None;
        self.failures.retain_mut(|(which, countdown, kind)| {
            if *which != operation {
                return true;
            }
            if *countdown == 0 {
                failed = Some(*kind);
                return false;
            }
            *countdown -= 1;
            true
        });
        failed.map_or(Ok(()), |kind| Err(io::Error::new(kind, format!("{operation:?} was made to fail"))))
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for name in names(path) {
            let Some(Node::Dir(dir)) = self.nodes.get(&at) else {
                return Err(io::ErrorKind::NotADirectory.into());
            };
            at = *dir.now.get(&name).ok_or(io::ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    fn dir(&mut self, dir: &Path) -> io::Result<&mut Names> {
        let node = self.find(dir)?;
        match self.nodes.get_mut(&node) {
            Some(Node::Dir(names)) => Ok(names),
            _ => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    /// The names of the directory that a path is in, and the path's own.
    fn parent(&mut self, path: &Path) -> io::Result<(&mut Names, OsString)> {
        let name = names(path).pop().ok_or(io::ErrorKind::InvalidInput)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        Ok((self.dir(parent)?, name))
    }

    fn content(&mut self, node: u64) -> io::Result<&mut Content> {
        match self.nodes.get_mut(&node) {
            Some(Node::File(content)) => Ok(content),
            _ => Err(io::ErrorKind::IsADirectory.into()),
        }
    }

    /// Takes space for a file to grow; says how many bytes were not to be had.
    fn grow(&mut self, bytes: u64) -> u64 {
        let Some(space) = &mut self.space_bytes else { return 0 };
        let missing = bytes.saturating_sub(*space);
        *space = space.saturating_sub(bytes);
        missing
    }
}

/// The names on the way to a path, from the root.
fn names(path: &Path) -> Vec<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            _ => None,
        })
        .collect()
}

impl Disk for SimDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.begin(Operation::CreateDir)?;
        let mut at = PathBuf::new();
        for name in names(dir) {
            let child = at.join(&name);
            if world.find(&child).is_err() {
                let node = world.add(Node::Dir(Names::default()));
                world.dir(&at)?.now.insert(name, node);
            }
            at = child;
        }
        world.dir(&at).map(|_| ())
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut world = self.0.lock();
        world.begin(Operation::Create)?;
        if world.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.parent(path)?;
        let node = world.add(Node::File(Content::default()));
        let (names, name) = world.parent(path)?;
        names.now.insert(name, node);
        Ok(Box::new(SimFile { disk: self.clone(), node }))
    }

    fn open(&self, path: &Path) -> io::Result<Box<dyn File>> {
        let mut world = self.0.lock();
        let node = world.find(path)?;
        world.content(node)?;
        Ok(Box::new(SimFile { disk: self.clone(), node }))
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        let mut world = self.0.lock();
        Ok(world.dir(dir)?.now.keys().map(|name| dir.join(name)).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.begin(Operation::Rename)?;
        world.parent(to)?;
        let (names, name) = world.parent(from)?;
        let node = names.now.remove(&name).ok_or(io::ErrorKind::NotFound)?;
        let (names, name) = world.parent(to)?;
        names.now.insert(name, node);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.begin(Operation::Remove)?;
        let node = world.find(path)?;
        world.content(node)?;
        let (names, name) = world.parent(path)?;
        names.now.remove(&name);
        Ok(())
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.begin(Operation::Remove)?;
        if !world.dir(dir)?.now.is_empty() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        let (names, name) = world.parent(dir)?;
        names.now.remove(&name);
        Ok(())
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut world = self.0.lock();
        world.begin(Operation::SyncDir)?;
        let names = world.dir(dir)?;
        names.synced.clone_from(&names.now);
        Ok(())
    }
}

/// An open file; still one when its name is gone.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    node: u64,
}

impl File for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        world.begin(Operation::Read)?;
        let content = world.content(self.node)?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        let bytes = from.checked_add(buffer.len()).and_then(|to| content.now.get(from..to));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        let power_was_on = world.power_cut_at.is_none_or(|at| world.operations < at);
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        if let Err(error) = world.begin(Operation::Write) {
            if power_was_on {
                let written = world.chance.up_to(buffer.len());
                let part = buffer.get(..written).unwrap_or_default();
                world.content(self.node)?.write(part, offset);
            }
            return Err(error);
        }
        let length = world.content(self.node)?.now.len();
        let growth = (offset + buffer.len()).saturating_sub(length) as u64;
        let missing = usize::try_from(world.grow(growth)).map_err(io::Error::other)?;
        let part = buffer.get(..buffer.len().saturating_sub(missing)).unwrap_or_default();
        world.content(self.node)?.write(part, offset);
        if missing > 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        let power_was_on = world.power_cut_at.is_none_or(|at| world.operations < at);
        if let Err(error) = world.begin(Operation::Sync) {
            if power_was_on {
                // The kernel believes the pages clean now.
                world.content(self.node)?.dirty.clear();
            }
            return Err(error);
        }
        world.content(self.node)?.sync();
        Ok(())
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().content(self.node)?.now.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        world.begin(Operation::SetLength)?;
        let length = usize::try_from(length).map_err(io::Error::other)?;
        let growth = length.saturating_sub(world.content(self.node)?.now.len()) as u64;
        if world.grow(growth) > 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        world.content(self.node)?.set_length(length);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
