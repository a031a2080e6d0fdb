//! The file that says whose disk this is.
//!
//! An input is a byte, which says whether the line of the checksum is added, and the text. What is understood must be
//! written and read back as it was.

use std::path::Path;

use kvd_storage::identity::{Identity, Joined};
use kvd_types::{ClusterId, Incarnation, NodeId, ReplicaId};

use super::{NODE, disk_with};

const FILE: &str = "/node/IDENTITY";
const LOG_FILE: &str = "/node/log/anything";

/// See the module.
pub fn run(bytes: &[u8]) {
    let Some((mode, text)) = bytes.split_first() else { return };
    let mut file = text.to_vec();
    if mode & 1 == 0 {
        file.extend(format!("crc32={:08x}\n", crc32fast::hash(text)).as_bytes());
    }
    let disk = disk_with([(Path::new(FILE), file.as_slice()), (Path::new(LOG_FILE), b"")]);
    let Ok(loaded) = Identity::load(disk.as_ref(), Path::new(NODE)) else { return };
    let identity = loaded.expect("there is a file");
    identity.store(disk.as_ref(), Path::new(NODE)).expect("what was read can be written");
    assert_eq!(disk.bytes(Path::new(FILE)).expect("it was just written"), file, "the file is what it was");
    let again = Identity::load(disk.as_ref(), Path::new(NODE)).expect("it was just written");
    assert_eq!(again, Some(identity));
}

/// Identities that were written, without their checksums and whole.
#[must_use]
pub fn seeds() -> Vec<Vec<u8>> {
    let fresh = Identity::new(1 << 100);
    let joined = Joined { cluster: ClusterId(u128::MAX), node: NodeId(3), meta_replica: ReplicaId(4) };
    let old = Identity {
        joined: Some(joined),
        incarnation: Incarnation(9),
        boot_id: "0f0e0d0c-1111-2222-3333-444455556666".to_owned(),
        clean_stop: true,
        ..fresh.clone()
    };
    let written = [fresh, old].map(|identity| {
        let disk = disk_with([(Path::new(LOG_FILE), &b""[..])]);
        identity.store(disk.as_ref(), Path::new(NODE)).expect("a disk that works");
        disk.bytes(Path::new(FILE)).expect("it was just written")
    });
    let bare = |file: &Vec<u8>| {
        let end = file.windows(6).position(|part| part == b"crc32=").expect("a line of the checksum");
        [&[0], &file[..end]].concat()
    };
    let whole = |file: &Vec<u8>| [&[1], &**file].concat();
    written.iter().flat_map(|file| [bare(file), whole(file)]).collect()
}
