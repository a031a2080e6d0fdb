//! Every way in which an identity and its data can be at odds.

use std::{fs, io, path::Path};

use kvd_types::{ClusterId, Incarnation, NodeId, ReplicaId};
use tempfile::TempDir;

use super::{DirLock, FILE, Identity, Joined, LOG_DIR, TEMPORARY};
use crate::{
    Error,
    disk::{Crash, Disk, Operation, RealDisk, SimDisk},
};

const GOLDEN: &str = "format=1
cluster=0123456789abcdef0123456789abcdef
node=7
meta_replica=9
join_nonce=00000000000000000000000000000bad
incarnation=3
boot_id=5a1d8a4e-6c1f-4a55-8b0f-111111111111
clean_stop=true
crc32=d3682ac1
";

fn sample() -> Identity {
    Identity {
        join_nonce: 0xbad,
        joined: Some(Joined {
            cluster: ClusterId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
            node: NodeId(7),
            meta_replica: ReplicaId(9),
        }),
        incarnation: Incarnation(3),
        boot_id: "5a1d8a4e-6c1f-4a55-8b0f-111111111111".to_owned(),
        clean_stop: true,
    }
}

/// A directory of a node that has joined.
fn sample_dir() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    sample().store(&RealDisk, dir.path()).unwrap();
    fs::write(dir.path().join(LOG_DIR).join("00000001.log"), "entries").unwrap();
    dir
}

fn load(dir: &Path) -> crate::Result<Option<Identity>> {
    Identity::load(&RealDisk, dir)
}

fn load_error(dir: &Path) -> String {
    load(dir).unwrap_err().to_string()
}

#[test]
fn the_first_start_finds_nobody_and_later_ones_themselves() {
    let dir = tempfile::tempdir().unwrap();
    let data_dir = dir.path().join("not/yet/there");
    assert_eq!(load(&data_dir).unwrap(), None);
    let mut identity = Identity::new(5);
    identity.store(&RealDisk, &data_dir).unwrap();
    assert_eq!(load(&data_dir).unwrap(), Some(identity.clone()));
    identity.incarnation = Incarnation(1);
    identity.boot_id = "boot\n".to_owned();
    identity.store(&RealDisk, &data_dir).unwrap();
    identity.boot_id = "boot".to_owned();
    assert_eq!(load(&data_dir).unwrap(), Some(identity));
}

#[test]
fn the_format_is_stable() {
    let dir = sample_dir();
    let text = fs::read_to_string(dir.path().join(FILE)).unwrap();
    assert_eq!(text, GOLDEN);
    assert_eq!(load(dir.path()).unwrap(), Some(sample()));
}

#[test]
fn an_interrupted_first_start_is_no_start() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(LOG_DIR)).unwrap();
    fs::write(dir.path().join(TEMPORARY), "format=").unwrap();
    assert_eq!(load(dir.path()).unwrap(), None);
    Identity::new(5).store(&RealDisk, dir.path()).unwrap();
    assert_eq!(load(dir.path()).unwrap(), Some(Identity::new(5)));
}

#[test]
fn an_emptied_disk_is_refused() {
    let dir = sample_dir();
    fs::remove_file(dir.path().join(LOG_DIR).join("00000001.log")).unwrap();
    let error = load_error(dir.path());
    assert!(error.contains("its log is gone") && error.contains("joins as a new one"), "{error}");
    fs::remove_dir(dir.path().join(LOG_DIR)).unwrap();
    assert!(load_error(dir.path()).contains("its log is gone"));
}

#[test]
fn an_update_does_not_hide_that_the_log_is_gone() {
    let dir = sample_dir();
    fs::remove_dir_all(dir.path().join(LOG_DIR)).unwrap();
    sample().store(&RealDisk, dir.path()).unwrap();
    assert!(load_error(dir.path()).contains("its log is gone"));
}

#[test]
fn data_without_an_identity_are_refused() {
    for place in ["log/00000001.log", "checkpoints/1/x", "state/db"] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(place);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "x").unwrap();
        assert!(load_error(dir.path()).contains("no IDENTITY"), "{place}");
    }
}

/// Loads an identity file of these bytes.
fn load_bytes(bytes: &[u8]) -> crate::Result<Option<Identity>> {
    let disk = SimDisk::new(0);
    disk.create_dir_all(&Path::new(DATA).join(LOG_DIR)).unwrap();
    disk.create(&Path::new(DATA).join(LOG_DIR).join("1.log")).unwrap();
    disk.create(&Path::new(DATA).join(FILE)).unwrap().write_all_at(bytes, 0).unwrap();
    Identity::load(&disk, Path::new(DATA))
}

#[test]
fn every_flipped_bit_is_found() {
    let sound = GOLDEN.as_bytes();
    assert_eq!(load_bytes(sound).unwrap(), Some(sample()));
    for position in 0..sound.len() {
        for bit in 0..8 {
            let mut damaged = sound.to_vec();
            damaged[position] ^= 1 << bit;
            let error = load_bytes(&damaged).expect_err(&format!("bit {bit} of byte {position}"));
            assert!(matches!(error, Error::Corruption { .. } | Error::NewerFormat { .. }), "{error}");
        }
    }
    for length in 0..sound.len() {
        let cut = load_bytes(&sound[..length]);
        assert!(cut.is_err_and(|error| error.is_corruption()), "cut to {length}");
    }
    let longer = load_bytes(&[sound, b"more\n"].concat()).unwrap_err();
    assert!(longer.to_string().contains("checksum"), "{longer}");
    let too_long = load_bytes(&[b'x'; 5000]).unwrap_err();
    assert!(too_long.to_string().contains("5000 bytes are beyond the 4096"), "{too_long}");
}

#[test]
fn a_newer_format_is_told_as_such() {
    let dir = sample_dir();
    fs::write(dir.path().join(FILE), "format=2\nsomething=else\n").unwrap();
    let error = load(dir.path()).unwrap_err();
    assert!(matches!(error, Error::NewerFormat { found: 2, supported: 1, .. }), "{error}");
}

#[test]
fn what_could_not_be_read_back_is_not_written() {
    let dir = sample_dir();
    let mut identity = sample();
    identity.boot_id = "two\nlines".to_owned();
    assert!(matches!(identity.store(&RealDisk, dir.path()), Err(Error::Misuse(_))));
    identity = sample();
    identity.joined.as_mut().unwrap().node = NodeId(0);
    assert!(matches!(identity.store(&RealDisk, dir.path()), Err(Error::Misuse(_))));
    assert_eq!(load(dir.path()).unwrap(), Some(sample()));
}

#[test]
fn a_directory_is_one_process_s_own() {
    let dir = tempfile::tempdir().unwrap();
    let lock = DirLock::acquire(dir.path()).unwrap();
    let error = DirLock::acquire(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Locked { pid: Some(pid), .. } if pid == std::process::id()), "{error}");
    drop(lock);
    DirLock::acquire(dir.path()).unwrap();
}

const DATA: &str = "/data";
const CRASHES: [Crash; 3] = [Crash::Synced, Crash::Killed, Crash::Torn { block_bytes: 512 }];

fn numbered(incarnation: u64) -> Identity {
    Identity { incarnation: Incarnation(incarnation), ..Identity::new(5) }
}

/// Stores identities one after the other; returns the last that was acknowledged.
fn store_some(disk: &dyn Disk) -> (u64, crate::Result<()>) {
    for incarnation in 1..=4 {
        if let Err(error) = numbered(incarnation).store(disk, Path::new(DATA)) {
            return (incarnation - 1, Err(error));
        }
    }
    (4, Ok(()))
}

fn check_after(disk: &SimDisk, acknowledged: u64, context: &str) {
    let found = Identity::load(disk, Path::new(DATA)).unwrap();
    let next = (acknowledged + 1).min(4);
    let possible = [(acknowledged > 0).then(|| numbered(acknowledged)), Some(numbered(next))];
    assert!(possible.contains(&found), "{found:?} after {acknowledged}, {context}");
    numbered(9).store(disk, Path::new(DATA)).unwrap();
    let stored = Identity::load(&disk.crash(Crash::Synced), Path::new(DATA)).unwrap();
    assert_eq!(stored, Some(numbered(9)), "{context}");
}

#[test]
fn a_power_cut_anywhere_leaves_the_old_or_the_new() {
    let whole = SimDisk::new(0);
    store_some(&whole).1.unwrap();
    for operation in 0..=whole.operations() {
        for crash in CRASHES {
            for seed in 0..8 {
                let disk = SimDisk::new(seed);
                disk.cut_power_at(operation);
                let (acknowledged, _) = store_some(&disk);
                let context = format!("operation {operation}, {crash:?}, seed {seed}");
                check_after(&disk.crash(crash), acknowledged, &context);
            }
        }
    }
}

#[test]
fn a_failure_of_any_operation_is_told_and_leaves_the_old_or_the_new() {
    for kind in [Operation::Write, Operation::Sync, Operation::Create, Operation::Rename, Operation::SyncDir]
    {
        for nth in 0.. {
            let disk = SimDisk::new(nth);
            disk.fail(kind, nth, io::ErrorKind::Other);
            let (acknowledged, result) = store_some(&disk);
            let Err(error) = result else {
                assert!(nth > 0, "{kind:?} is never used");
                break;
            };
            assert_eq!(error.is_fatal(), matches!(kind, Operation::Sync | Operation::SyncDir), "{error}");
            for crash in CRASHES {
                check_after(&disk.crash(crash), acknowledged, &format!("{kind:?} {nth}, {crash:?}"));
            }
        }
    }
}
