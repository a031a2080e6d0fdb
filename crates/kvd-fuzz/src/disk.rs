//! What comes off a disk: the log's segments, checkpoints, the identity, the engine's rows.
//!
//! Each of these is protected by checksums, so the targets make sound ones around what the input says. A fuzzer that only
//! flipped bits would test the checksums alone.

use std::{path::Path, sync::Arc};

use kvd_storage::disk::{Disk as _, SimDisk};

pub mod checkpoint;
pub mod engine;
pub mod identity;
pub mod log;

/// The directory that the disks of these targets begin with.
const NODE: &str = "/node";

/// A disk with files of this content.
fn disk_with<'a>(files: impl IntoIterator<Item = (&'a Path, &'a [u8])>) -> Arc<SimDisk> {
    let disk = SimDisk::with_dir(1, Path::new(NODE));
    for (path, content) in files {
        disk.create_dir_all(path.parent().expect("a file's directory")).expect("a disk that works");
        let file = disk.create(path).expect("a disk that works");
        file.write_all_at(content, 0).expect("a disk that works");
    }
    Arc::new(disk)
}

/// Changes bytes as an input says: a place and the byte that it gets, as often as there are more.
fn edit(bytes: &mut [u8], input: &mut crate::input::Input<'_>, edits_max: usize) {
    for _ in 0..edits_max {
        if input.is_empty() || bytes.is_empty() {
            return;
        }
        let at = usize::from(input.u16()) % bytes.len();
        bytes[at] = input.byte();
    }
}
