//! What a file or a directory is now, and what a power cut would leave of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsString,
    sync::Arc,
};

use super::{Crash, chance::Chance};

/// The smallest unit that survives as a whole.
pub(super) const BLOCK_BYTES: usize = 512;

/// A file or a directory, whatever its names are.
#[derive(Clone, Debug)]
pub(super) enum Node {
    File(Content),
    Dir(Names),
}

/// A directory.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    pub(super) now: BTreeMap<OsString, u64>,
    synced: BTreeMap<OsString, u64>,
    /// What it was after each change since the last sync: journals keep some first part of the changes.
    unsynced: Vec<BTreeMap<OsString, u64>>,
}

/// A file.
#[derive(Clone, Debug, Default)]
pub(super) struct Content {
    pub(super) now: Arc<Vec<u8>>,
    synced: Arc<Vec<u8>>,
    /// Blocks that the next sync puts on disk.
    dirty: BTreeSet<usize>,
    length_dirty: bool,
    /// Blocks that can't be read until they are written again.
    unreadable: BTreeSet<usize>,
}

impl Names {
    pub(super) fn change(&mut self, change: impl FnOnce(&mut BTreeMap<OsString, u64>)) {
        change(&mut self.now);
        self.unsynced.push(self.now.clone());
    }

    pub(super) fn sync(&mut self) {
        self.synced.clone_from(&self.now);
        self.unsynced.clear();
    }

    pub(super) fn crash(&mut self, crash: Crash, chance: &mut Chance) {
        let keep = match crash {
            Crash::Killed => return,
            Crash::Synced => 0,
            Crash::Torn { .. } => chance.up_to(self.unsynced.len()),
        };
        if let Some(kept) = keep.checked_sub(1).and_then(|last| self.unsynced.get(last)) {
            self.synced.clone_from(kept);
        }
        self.now.clone_from(&self.synced);
        self.unsynced.clear();
    }

    /// Every file and directory that has a name here, or would have one after some power cut.
    pub(super) fn children(&self) -> impl Iterator<Item = u64> {
        self.now
            .values()
            .chain(self.synced.values())
            .chain(self.unsynced.iter().flat_map(BTreeMap::values))
            .copied()
    }
}

impl Content {
    pub(super) fn crash(&mut self, crash: Crash, chance: &mut Chance) {
        match crash {
            // What a failed sync left behind stays in the page cache, too.
            Crash::Killed => return,
            Crash::Synced => {}
            Crash::Torn { block_bytes } => {
                let blocks = (block_bytes / BLOCK_BYTES).max(1);
                if self.length_dirty && chance.coin() {
                    Arc::make_mut(&mut self.synced).resize(self.now.len(), 0);
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
        self.now = Arc::clone(&self.synced);
        self.dirty.clear();
        self.length_dirty = false;
    }

    /// Puts one block on disk.
    fn store(&mut self, block: usize, grow: bool) {
        let from = block * BLOCK_BYTES;
        let mut to = (from + BLOCK_BYTES).min(self.now.len());
        let synced = Arc::make_mut(&mut self.synced);
        if grow && synced.len() < to {
            synced.resize(to, 0);
        }
        to = to.min(synced.len());
        if let (Some(written), Some(stored)) = (self.now.get(from..to), synced.get_mut(from..to)) {
            stored.copy_from_slice(written);
        }
    }

    pub(super) fn write(&mut self, buffer: &[u8], offset: usize) {
        let end = offset + buffer.len();
        let now = Arc::make_mut(&mut self.now);
        if now.len() < end {
            now.resize(end, 0);
            self.length_dirty = true;
        }
        if let Some(place) = now.get_mut(offset..end) {
            place.copy_from_slice(buffer);
        }
        let blocks = offset / BLOCK_BYTES..end.div_ceil(BLOCK_BYTES);
        self.unreadable.retain(|block| !blocks.contains(block));
        self.dirty.extend(blocks);
    }

    pub(super) fn sync(&mut self) {
        if self.synced.len() != self.now.len() {
            Arc::make_mut(&mut self.synced).resize(self.now.len(), 0);
        }
        for block in std::mem::take(&mut self.dirty) {
            self.store(block, true);
        }
        self.length_dirty = false;
    }

    /// After a failed sync the kernel believes the pages clean.
    pub(super) fn forget_dirt(&mut self) {
        self.dirty.clear();
    }

    pub(super) fn set_length(&mut self, length: usize) {
        if length > self.now.len() {
            self.dirty.extend(self.now.len() / BLOCK_BYTES..length.div_ceil(BLOCK_BYTES));
        }
        Arc::make_mut(&mut self.now).resize(length, 0);
        self.length_dirty = true;
    }

    /// Changes bytes on disk and in what reads see, as rot does. Says whether they were there.
    pub(super) fn rot(
        &mut self,
        offset: usize,
        length: usize,
        mut change: impl FnMut(usize, &mut u8),
    ) -> bool {
        for bytes in [&mut self.now, &mut self.synced] {
            let to = (offset + length).min(bytes.len());
            if let Some(place) = Arc::make_mut(bytes).get_mut(offset..to) {
                place.iter_mut().enumerate().for_each(|(at, byte)| change(at, byte));
            }
        }
        offset + length <= self.now.len()
    }

    pub(super) fn spoil(&mut self, offset: usize) {
        self.unreadable.insert(offset / BLOCK_BYTES);
    }

    pub(super) fn is_readable(&self, offset: usize, length: usize) -> bool {
        let blocks = offset / BLOCK_BYTES..(offset + length).div_ceil(BLOCK_BYTES);
        self.unreadable.range(blocks).next().is_none()
    }
}
