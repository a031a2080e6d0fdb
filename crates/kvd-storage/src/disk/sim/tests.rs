//! Tests of the disk that breaks.

use super::*;

fn disk() -> SimDisk {
    SimDisk::with_dir(7, Path::new("/d"))
}

fn file(disk: &SimDisk) -> Box<dyn File> {
    let file = disk.create(Path::new("/d/f")).unwrap();
    disk.sync_dir(Path::new("/d")).unwrap();
    file
}

#[test]
fn a_power_cut_keeps_what_was_synced_and_nothing_else() {
    let disk = disk();
    let file = file(&disk);
    file.write_all_at(b"synced", 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(b"SYNC", 0).unwrap();
    file.write_all_at(b"more", 6).unwrap();
    assert_eq!(disk.bytes(Path::new("/d/f")).unwrap(), b"SYNCedmore");
    assert_eq!(disk.crash(Crash::Synced).bytes(Path::new("/d/f")).unwrap(), b"synced");
    assert_eq!(disk.crash(Crash::Killed).bytes(Path::new("/d/f")).unwrap(), b"SYNCedmore");
}

#[test]
fn a_name_is_lost_unless_its_directory_was_synced() {
    let disk = disk();
    file(&disk);
    disk.rename(Path::new("/d/f"), Path::new("/d/g")).unwrap();
    let after = disk.crash(Crash::Synced);
    assert_eq!(after.list(Path::new("/d")).unwrap(), [PathBuf::from("/d/f")]);
    disk.sync_dir(Path::new("/d")).unwrap();
    let after = disk.crash(Crash::Synced);
    assert_eq!(after.list(Path::new("/d")).unwrap(), [PathBuf::from("/d/g")]);
    disk.remove(Path::new("/d/g")).unwrap();
    assert_eq!(disk.crash(Crash::Synced).list(Path::new("/d")).unwrap(), [PathBuf::from("/d/g")]);
    disk.create_dir_all(Path::new("/d/e/f")).unwrap();
    disk.sync_dir(Path::new("/d/e")).unwrap();
    assert_eq!(
        disk.crash(Crash::Synced).list(Path::new("/d/e")).unwrap_err().kind(),
        io::ErrorKind::NotFound
    );
    disk.sync_dir(Path::new("/d")).unwrap();
    assert_eq!(disk.crash(Crash::Synced).list(Path::new("/d/e")).unwrap(), [PathBuf::from("/d/e/f")]);
}

#[test]
fn torn_writes_keep_whole_blocks_in_any_combination() {
    for block_bytes in [512, 4096] {
        let disk = disk();
        let file = file(&disk);
        file.write_all_at(&[1; 64 << 10], 0).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[2; 64 << 10], 0).unwrap();
        let after = disk.crash(Crash::Torn { block_bytes }).bytes(Path::new("/d/f")).unwrap();
        let blocks: Vec<u8> = after
            .chunks(block_bytes)
            .map(|block| {
                assert!(block.iter().all(|byte| *byte == block[0]), "a block is torn");
                block[0]
            })
            .collect();
        assert!(blocks.windows(2).any(|pair| pair == [1, 2]) && blocks.windows(2).any(|pair| pair == [2, 1]));
    }
}

#[test]
fn after_a_failed_sync_another_one_succeeds_and_stores_nothing() {
    let disk = disk();
    let file = file(&disk);
    file.write_all_at(&[1; 100], 0).unwrap();
    file.sync_data().unwrap();
    file.write_all_at(&[2; 100], 0).unwrap();
    disk.fail(Operation::Sync, 0, io::ErrorKind::Other);
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    assert_eq!(disk.bytes(Path::new("/d/f")).unwrap(), [2; 100]);
    assert_eq!(disk.crash(Crash::Synced).bytes(Path::new("/d/f")).unwrap(), [1; 100]);
    file.write_all_at(&[2; 100], 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(disk.crash(Crash::Synced).bytes(Path::new("/d/f")).unwrap(), [2; 100]);
}

#[test]
fn the_nth_operation_fails_and_only_that_one() {
    let disk = disk();
    let file = file(&disk);
    disk.fail(Operation::Write, 1, io::ErrorKind::PermissionDenied);
    file.write_all_at(b"a", 0).unwrap();
    assert_eq!(file.write_all_at(b"b", 1).unwrap_err().kind(), io::ErrorKind::PermissionDenied);
    file.write_all_at(b"c", 1).unwrap();
    assert_eq!(disk.bytes(Path::new("/d/f")).unwrap(), b"ac");
}

#[test]
fn when_the_power_is_out_nothing_works() {
    let disk = disk();
    let file = file(&disk);
    disk.cut_power_at(disk.operations() + 1);
    file.write_all_at(b"a", 0).unwrap();
    file.write_all_at(b"b", 0).unwrap_err();
    file.sync_data().unwrap_err();
    file.read_exact_at(&mut [0], 0).unwrap_err();
    assert_eq!(disk.crash(Crash::Killed).bytes(Path::new("/d/f")).unwrap(), b"a");
    assert_eq!(disk.crash(Crash::Synced).bytes(Path::new("/d/f")).unwrap(), b"");
}

#[test]
fn a_full_disk_still_overwrites() {
    let disk = disk();
    let file = file(&disk);
    disk.limit_space(Some(4));
    assert_eq!(file.write_all_at(b"abcdef", 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    file.write_all_at(b"xyz", 0).unwrap();
    assert_eq!(disk.bytes(Path::new("/d/f")).unwrap(), b"xyzd");
    disk.limit_space(None);
    file.write_all_at(b"abcdef", 0).unwrap();
}

#[test]
fn the_same_seed_tears_the_same_way() {
    let torn = || {
        let disk = disk();
        let file = file(&disk);
        file.write_all_at(&[1; 64 << 10], 0).unwrap();
        file.sync_data().unwrap();
        file.write_all_at(&[2; 64 << 10], 0).unwrap();
        disk.crash(Crash::Torn { block_bytes: 512 }).bytes(Path::new("/d/f")).unwrap()
    };
    assert_eq!(torn(), torn());
}

#[test]
fn the_power_may_go_out_in_the_middle_of_a_write() {
    let mut written = BTreeSet::new();
    for seed in 0..20 {
        let disk = SimDisk::with_dir(seed, Path::new("/d"));
        let file = file(&disk);
        disk.cut_power_in(disk.operations());
        file.write_all_at(&[1; 4], 0).unwrap_err();
        file.sync_data().unwrap_err();
        written.insert(disk.crash(Crash::Killed).bytes(Path::new("/d/f")).unwrap().len());
    }
    assert!(written.len() > 2, "{written:?}");
    // A sync is done or not, and nobody hears which.
    let disk = disk();
    let file = file(&disk);
    file.write_all_at(b"a", 0).unwrap();
    disk.cut_power_in(disk.operations());
    file.sync_data().unwrap_err();
    assert_eq!(disk.crash(Crash::Synced).bytes(Path::new("/d/f")).unwrap(), b"a");
}

#[test]
fn a_torn_directory_keeps_a_first_part_of_its_changes() {
    let mut found = BTreeSet::new();
    for seed in 0..50 {
        let disk = SimDisk::with_dir(seed, Path::new("/d"));
        for name in ["/d/a", "/d/b"] {
            disk.create(Path::new(name)).unwrap();
        }
        disk.rename(Path::new("/d/a"), Path::new("/d/c")).unwrap();
        let names = disk.crash(Crash::Torn { block_bytes: 512 }).list(Path::new("/d")).unwrap();
        found.insert(names.iter().map(|name| name.to_string_lossy()[3..].to_owned()).collect::<String>());
    }
    assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["", "a", "ab", "bc"]);
}

#[test]
fn a_disk_may_lie() {
    let disk = disk();
    let file = file(&disk);
    file.write_all_at(&[1; 4096], 0).unwrap();
    file.sync_data().unwrap();
    disk.fault_at(disk.operations(), Fault::Vanish);
    file.write_all_at(&[2; 4096], 0).unwrap();
    assert_eq!(disk.bytes(Path::new("/d/f")).unwrap(), [1; 4096]);
    file.write_all_at(&[2; 4096], 0).unwrap();
    disk.fault_at(disk.operations(), Fault::Vanish);
    file.sync_data().unwrap();
    assert_eq!(disk.crash(Crash::Synced).bytes(Path::new("/d/f")).unwrap(), [1; 4096]);
    disk.fault_at(disk.operations(), Fault::Misdirect);
    file.write_all_at(&[3; 10], 5).unwrap();
    let bytes = disk.bytes(Path::new("/d/f")).unwrap();
    let at = bytes.iter().position(|byte| *byte == 3).unwrap();
    assert!(at % BLOCK_BYTES == 5 && bytes[at..at + 10] == [3; 10], "{at}");
}

#[test]
fn a_bad_block_reads_again_once_it_was_written() {
    let disk = disk();
    let file = file(&disk);
    file.write_all_at(&[1; 4096], 0).unwrap();
    disk.spoil(Path::new("/d/f"), 1000).unwrap();
    file.read_exact_at(&mut [0; 100], 900).unwrap_err();
    file.read_exact_at(&mut [0; 100], 1024).unwrap();
    file.write_all_at(&[1; 512], 512).unwrap();
    file.read_exact_at(&mut [0; 100], 900).unwrap();
}

#[test]
fn what_is_removed_makes_room() {
    let disk = disk();
    let first = file(&disk);
    first.write_all_at(&[1; 1000], 0).unwrap();
    disk.limit_space(Some(10));
    assert_eq!(disk.available_bytes(Path::new("/d")).unwrap(), 10);
    let second = disk.create(Path::new("/d/g")).unwrap();
    assert_eq!(second.write_all_at(&[1; 11], 0).unwrap_err().kind(), io::ErrorKind::StorageFull);
    disk.remove(Path::new("/d/f")).unwrap();
    second.write_all_at(&[1; 1000], 0).unwrap();
    assert_eq!(disk.files(), [(PathBuf::from("/d/g"), 1000)]);
}
