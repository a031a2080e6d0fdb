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
//!   Before that it is lost; in a torn crash each directory by chance keeps some first part of its changes, as a
//!   journal does.
//! - A failed sync leaves the pages clean, as Linux does: what was written still reads, isn't on disk, and another
//!   sync that succeeds doesn't put it there. Only writing it again does.
//! - A failed write may have written a part, and so may one in the middle of which the power goes out.
//! - The disk fills up, and has room again when files are removed ([`SimDisk::limit_space`]).
//! - The disk lies: a write or a sync that it reports done goes nowhere, or a write goes to another place
//!   ([`Fault::Vanish`], [`Fault::Misdirect`]).
//! - Bits flip, sectors change or can't be read any more, the power goes out at the nth operation.
//!
//! # What it doesn't
//! Reordering of names across directories, time.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    io,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;

use super::{Disk, File};

pub mod chance;
mod node;

use self::{
    chance::Chance,
    node::{BLOCK_BYTES, Content, Names, Node},
};

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
    power_cut: Option<PowerCut>,
    failures: Vec<(Operation, u64, io::ErrorKind)>,
    faults: BTreeMap<u64, Fault>,
    met: Vec<(Operation, Fault)>,
    /// What all files together may have.
    capacity_bytes: Option<u64>,
}

/// What is to become of an operation.
enum Fate {
    Done,
    /// Done, in part if it is a write, and then the power is out.
    DoneUnheard,
    Faulty(Fault),
}

/// Something that goes wrong with one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails. Of a write some part is done; a sync leaves the pages clean.
    Fail(io::ErrorKind),
    /// It is reported done and isn't: writes and syncs only.
    Vanish,
    /// It is reported done and was done to another block of the file: writes only.
    Misdirect,
}

/// When the power goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PowerCut {
    at: u64,
    /// The operation is still done, in part if it is a write, but nobody hears of it.
    in_the_middle: bool,
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
            power_cut: None,
            failures: Vec::new(),
            faults: BTreeMap::new(),
            met: Vec::new(),
            capacity_bytes: None,
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
                    parent.change(|names| {
                        names.insert(name, child);
                    });
                    parent.sync();
                }
                at = child;
            }
        }
        disk
    }

    /// The disk after a power cut (or after a kill) now: a new one, with no failures left to come.
    #[must_use]
    pub fn crash(&self, crash: Crash) -> Self {
        let seed = self.0.lock().chance.next();
        self.crash_seeded(crash, seed)
    }

    /// As [`SimDisk::crash`], with what survives left to a seed of its own: however often this disk is crashed, and in
    /// whichever order, each seed gives the same.
    #[must_use]
    pub fn crash_seeded(&self, crash: Crash, seed: u64) -> Self {
        let world = self.0.lock();
        let mut chance = Chance(seed);
        let mut nodes = world.nodes.clone();
        for node in nodes.values_mut() {
            match node {
                Node::File(content) => content.crash(crash, &mut chance),
                Node::Dir(names) => names.crash(crash, &mut chance),
            }
        }
        let mut after = World {
            chance,
            nodes,
            next_node: world.next_node,
            operations: 0,
            power_cut: None,
            failures: Vec::new(),
            faults: BTreeMap::new(),
            met: Vec::new(),
            capacity_bytes: world.capacity_bytes,
        };
        after.forget_nameless();
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
        self.0.lock().power_cut = Some(PowerCut { at: operation, in_the_middle: false });
    }

    /// As [`SimDisk::cut_power_at`], but that operation is still done, though nobody hears of it; if it is a write, a
    /// part of it.
    pub fn cut_power_in(&self, operation: u64) {
        self.0.lock().power_cut = Some(PowerCut { at: operation, in_the_middle: true });
    }

    /// The nth operation of that kind from now on fails, counting from 0; those after it succeed again.
    pub fn fail(&self, operation: Operation, nth: u64, kind: io::ErrorKind) {
        self.0.lock().failures.push((operation, nth, kind));
    }

    /// Something goes wrong with the operation with that number, counting as [`SimDisk::operations`] does.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        self.0.lock().faults.insert(operation, fault);
    }

    /// The faults of [`SimDisk::fault_at`] that operations have met, in order.
    #[must_use]
    pub fn faults_met(&self) -> Vec<(Operation, Fault)> {
        self.0.lock().met.clone()
    }

    /// From now on files may grow by so many bytes together, then the disk is full; what has no name any more counts
    /// no longer. None: no limit.
    pub fn limit_space(&self, bytes: Option<u64>) {
        let mut world = self.0.lock();
        let used = world.used_bytes();
        world.capacity_bytes = bytes.map(|bytes| used.saturating_add(bytes));
    }

    /// Flips a bit of a file, on disk and in what reads see.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `UnexpectedEof` if it is shorter.
    pub fn flip(&self, path: &Path, offset: u64, bit: u8) -> io::Result<()> {
        self.rot(path, offset, 1, |_, byte| *byte ^= 1 << (bit % 8))
    }

    /// Puts other bytes into a file, on disk and in what reads see, as far as the file goes.
    ///
    /// # Errors
    /// `NotFound` if there is no such file, `UnexpectedEof` if it is shorter.
    pub fn overwrite(&self, path: &Path, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.rot(path, offset, bytes.len(), |at, byte| *byte = bytes.get(at).copied().unwrap_or_default())
    }

    fn rot(
        &self,
        path: &Path,
        offset: u64,
        length: usize,
        change: impl FnMut(usize, &mut u8),
    ) -> io::Result<()> {
        let mut world = self.0.lock();
        let node = world.find(path)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let was_there = world.content(node)?.rot(offset, length, change);
        if was_there { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    /// From now on the block around that offset can't be read, until it is written again.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn spoil(&self, path: &Path, offset: u64) -> io::Result<()> {
        let mut world = self.0.lock();
        let node = world.find(path)?;
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        world.content(node)?.spoil(offset);
        Ok(())
    }

    /// All files, sorted by path, with their lengths in bytes.
    #[must_use]
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        let world = self.0.lock();
        let mut found = Vec::new();
        let mut open = vec![(PathBuf::from("/"), ROOT)];
        while let Some((path, node)) = open.pop() {
            match world.nodes.get(&node) {
                Some(Node::File(content)) => found.push((path, content.now.len() as u64)),
                Some(Node::Dir(names)) => {
                    open.extend(names.now.iter().map(|(name, node)| (path.join(name), *node)));
                }
                None => {}
            }
        }
        found.sort();
        found
    }

    /// The content of a file as reads see it.
    ///
    /// # Errors
    /// `NotFound` if there is no such file.
    pub fn bytes(&self, path: &Path) -> io::Result<Vec<u8>> {
        let mut world = self.0.lock();
        let node = world.find(path)?;
        Ok(world.content(node)?.now.to_vec())
    }
}

impl World {
    fn add(&mut self, node: Node) -> u64 {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        id
    }

    /// Counts an operation and says what is to become of it.
    fn fate(&mut self, operation: Operation) -> io::Result<Fate> {
        let number = self.operations;
        let out = || io::Error::other("the power is out");
        let mut unheard = false;
        if let Some(cut) = self.power_cut.filter(|cut| number >= cut.at) {
            if !cut.in_the_middle || number > cut.at || operation == Operation::Read {
                return Err(out());
            }
            unheard = true;
        }
        if operation == Operation::Read {
            return self
                .countdown(operation)
                .map_or(Ok(Fate::Done), |kind| Ok(Fate::Faulty(Fault::Fail(kind))));
        }
        self.operations += 1;
        if let Some(kind) = self.countdown(operation) {
            return Ok(Fate::Faulty(Fault::Fail(kind)));
        }
        if let Some(fault) = self.faults.remove(&number) {
            let fits = match fault {
                Fault::Fail(_) => true,
                Fault::Vanish => matches!(operation, Operation::Write | Operation::Sync),
                Fault::Misdirect => operation == Operation::Write,
            };
            if fits {
                self.met.push((operation, fault));
                return Ok(Fate::Faulty(fault));
            }
            return Ok(Fate::Done);
        }
        Ok(if unheard { Fate::DoneUnheard } else { Fate::Done })
    }

    fn countdown(&mut self, operation: Operation) -> Option<io::ErrorKind> {
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
        failed
    }

    /// Counts an operation that is done as a whole or not at all, and does it.
    fn whole<T>(
        &mut self,
        operation: Operation,
        work: impl FnOnce(&mut Self) -> io::Result<T>,
    ) -> io::Result<T> {
        match self.fate(operation)? {
            Fate::Faulty(Fault::Fail(kind)) => Err(made_to_fail(operation, kind)),
            Fate::DoneUnheard => {
                work(self)?;
                Err(io::Error::other("the power is out"))
            }
            Fate::Done | Fate::Faulty(_) => work(self),
        }
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

    fn used_bytes(&self) -> u64 {
        let named = self.nodes.values().flat_map(|node| match node {
            Node::Dir(names) => Some(names.now.values()),
            Node::File(_) => None,
        });
        let bytes = named.flatten().map(|node| match self.nodes.get(node) {
            Some(Node::File(content)) => content.now.len() as u64,
            _ => 0,
        });
        bytes.sum()
    }

    fn available_bytes(&self) -> u64 {
        self.capacity_bytes.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used_bytes()))
    }

    /// Drops what no name can ever lead to.
    fn forget_nameless(&mut self) {
        let mut reached = BTreeSet::from([ROOT]);
        let mut open = vec![ROOT];
        while let Some(node) = open.pop() {
            if let Some(Node::Dir(names)) = self.nodes.get(&node) {
                open.extend(names.children().filter(|child| reached.insert(*child)));
            }
        }
        self.nodes.retain(|node, _| reached.contains(node));
    }
}

fn made_to_fail(operation: Operation, kind: io::ErrorKind) -> io::Error {
    io::Error::new(kind, format!("{operation:?} was made to fail"))
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
        self.0.lock().whole(Operation::CreateDir, |world| {
            let mut at = PathBuf::new();
            for name in names(dir) {
                let child = at.join(&name);
                if world.find(&child).is_err() {
                    let node = world.add(Node::Dir(Names::default()));
                    world.dir(&at)?.change(|names| {
                        names.insert(name, node);
                    });
                }
                at = child;
            }
            world.dir(&at).map(|_| ())
        })
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn File>> {
        self.0.lock().whole(Operation::Create, |world| {
            if world.find(path).is_ok() {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            world.parent(path)?;
            let node = world.add(Node::File(Content::default()));
            let (names, name) = world.parent(path)?;
            names.change(|names| {
                names.insert(name, node);
            });
            Ok(Box::new(SimFile { disk: self.clone(), node }) as Box<dyn File>)
        })
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
        self.0.lock().whole(Operation::Rename, |world| {
            let (names, from_name) = world.parent(from)?;
            let node = *names.now.get(&from_name).ok_or(io::ErrorKind::NotFound)?;
            let (_, to_name) = world.parent(to)?;
            if from.parent() == to.parent() {
                // One change, as it is in a journal.
                let (names, _) = world.parent(to)?;
                names.change(|names| {
                    names.remove(&from_name);
                    names.insert(to_name, node);
                });
                return Ok(());
            }
            world.parent(to)?.0.change(|names| {
                names.insert(to_name, node);
            });
            world.parent(from)?.0.change(|names| {
                names.remove(&from_name);
            });
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.lock().whole(Operation::Remove, |world| {
            let node = world.find(path)?;
            world.content(node)?;
            let (names, name) = world.parent(path)?;
            names.change(|names| {
                names.remove(&name);
            });
            Ok(())
        })
    }

    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.lock().whole(Operation::Remove, |world| {
            if !world.dir(dir)?.now.is_empty() {
                return Err(io::ErrorKind::DirectoryNotEmpty.into());
            }
            let (names, name) = world.parent(dir)?;
            names.change(|names| {
                names.remove(&name);
            });
            Ok(())
        })
    }

    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.lock().whole(Operation::SyncDir, |world| {
            world.dir(dir)?.sync();
            Ok(())
        })
    }

    fn available_bytes(&self, _: &Path) -> io::Result<u64> {
        Ok(self.0.lock().available_bytes())
    }
}

/// An open file; still one when its name is gone.
#[derive(Debug)]
struct SimFile {
    disk: SimDisk,
    node: u64,
}

impl SimFile {
    fn write_part(&self, world: &mut World, buffer: &[u8], offset: usize) -> io::Result<()> {
        let written = world.chance.up_to(buffer.len());
        let part = buffer.get(..written).unwrap_or_default();
        world.content(self.node)?.write(part, offset);
        Ok(())
    }

    fn write_as_far_as_it_fits(&self, world: &mut World, buffer: &[u8], offset: usize) -> io::Result<()> {
        let length = world.content(self.node)?.now.len();
        let growth = (offset + buffer.len()).saturating_sub(length);
        let room =
            if growth == 0 { 0 } else { usize::try_from(world.available_bytes()).unwrap_or(usize::MAX) };
        let missing = growth.saturating_sub(room);
        let part = buffer.get(..buffer.len().saturating_sub(missing)).unwrap_or_default();
        world.content(self.node)?.write(part, offset);
        if missing > 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }
}

impl File for SimFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        if let Fate::Faulty(Fault::Fail(kind)) = world.fate(Operation::Read)? {
            return Err(made_to_fail(Operation::Read, kind));
        }
        let content = world.content(self.node)?;
        let from = usize::try_from(offset).map_err(io::Error::other)?;
        if !content.is_readable(from, buffer.len()) {
            return Err(io::Error::other("a block can't be read"));
        }
        let bytes = from.checked_add(buffer.len()).and_then(|to| content.now.get(from..to));
        buffer.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, buffer: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        match world.fate(Operation::Write)? {
            Fate::Done => self.write_as_far_as_it_fits(&mut world, buffer, offset),
            Fate::DoneUnheard => {
                self.write_part(&mut world, buffer, offset)?;
                Err(io::Error::other("the power is out"))
            }
            Fate::Faulty(Fault::Fail(kind)) => {
                self.write_part(&mut world, buffer, offset)?;
                Err(made_to_fail(Operation::Write, kind))
            }
            Fate::Faulty(Fault::Vanish) => Ok(()),
            Fate::Faulty(Fault::Misdirect) => {
                let blocks = world.content(self.node)?.now.len() / BLOCK_BYTES;
                let other = world.chance.up_to(blocks) * BLOCK_BYTES + offset % BLOCK_BYTES;
                self.write_as_far_as_it_fits(&mut world, buffer, other)
            }
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        let fate = world.fate(Operation::Sync)?;
        let content = world.content(self.node)?;
        match fate {
            Fate::Faulty(Fault::Vanish) => {}
            Fate::Faulty(Fault::Fail(kind)) => {
                // The kernel believes the pages clean now.
                content.forget_dirt();
                return Err(made_to_fail(Operation::Sync, kind));
            }
            Fate::Done | Fate::DoneUnheard | Fate::Faulty(Fault::Misdirect) => content.sync(),
        }
        if matches!(fate, Fate::DoneUnheard) { Err(io::Error::other("the power is out")) } else { Ok(()) }
    }

    fn size_bytes(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().content(self.node)?.now.len() as u64)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut world = self.disk.0.lock();
        world.whole(Operation::SetLength, |world| {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let growth = length.saturating_sub(world.content(self.node)?.now.len()) as u64;
            if growth > 0 && growth > world.available_bytes() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            world.content(self.node)?.set_length(length);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
