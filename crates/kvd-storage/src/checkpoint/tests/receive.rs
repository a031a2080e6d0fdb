//! Checkpoints from a peer: pieces that come twice, late, damaged or not at all.

use super::{CheckpointStore, Sample, manifest, names, open_store, read, sample_rows};
use crate::{Error, disk::RealDisk};

/// A sender's bytes and an empty store for them.
fn fixture() -> (Sample, tempfile::TempDir, CheckpointStore) {
    let dir = tempfile::tempdir().unwrap();
    let store = open_store(dir.path());
    (Sample::new(), dir, store)
}

fn size(sample: &Sample) -> u64 {
    u64::try_from(sample.bytes.len()).unwrap()
}

#[test]
fn pieces_make_a_checkpoint() {
    let (sample, dir, store) = fixture();
    let receiver = store.receive("a", size(&sample)).unwrap();
    for piece in sample.bytes.chunks(7) {
        receiver.write(receiver.next_offset(), piece).unwrap();
    }
    let checkpoint = receiver.finish().unwrap();
    assert_eq!(checkpoint.manifest(), &manifest(42));
    assert_eq!(read(&checkpoint), sample_rows());
    assert_eq!(names(&RealDisk, dir.path()), ["00000000000000000042-00000000000000000002.checkpoint"]);
    assert_eq!(open_store(dir.path()).latest().unwrap().unwrap().digest(), checkpoint.digest());
}

#[test]
fn a_broken_stream_goes_on_where_it_stopped() {
    let (sample, _dir, store) = fixture();
    let receiver = store.receive("a", size(&sample)).unwrap();
    receiver.write(0, &sample.bytes[..50]).unwrap();
    drop(receiver);
    let receiver = store.receive("a", size(&sample)).unwrap();
    assert_eq!(receiver.next_offset(), 50);
    // A piece that came already, whose answer was lost.
    receiver.write(20, &sample.bytes[20..60]).unwrap();
    assert_eq!(receiver.next_offset(), 60);
    assert!(matches!(receiver.write(61, &sample.bytes[61..]), Err(Error::Misuse(_))));
    // From the beginning.
    receiver.write(0, &sample.bytes).unwrap();
    assert_eq!(read(&receiver.finish().unwrap()), sample_rows());
}

#[test]
fn more_than_announced_or_less_is_refused() {
    let (sample, dir, store) = fixture();
    let receiver = store.receive("a", size(&sample)).unwrap();
    receiver.write(0, &sample.bytes[..50]).unwrap();
    let too_many = [&sample.bytes[50..], &[0]].concat();
    assert!(matches!(receiver.write(50, &too_many), Err(Error::Misuse(_))));
    assert!(matches!(receiver.finish(), Err(Error::Misuse(_))));
    // What had arrived is there still.
    let receiver = store.receive("a", size(&sample)).unwrap();
    receiver.write(50, &sample.bytes[50..]).unwrap();
    receiver.finish().unwrap();
    assert_eq!(names(&RealDisk, dir.path()).len(), 1);
}

#[test]
fn damage_on_the_way_is_found_and_forgotten() {
    let (sample, dir, store) = fixture();
    for position in 0..sample.bytes.len() {
        let mut damaged = sample.bytes.clone();
        damaged[position] ^= 0x20;
        let receiver = store.receive("a", size(&sample)).unwrap();
        assert_eq!(receiver.next_offset(), 0);
        receiver.write(0, &damaged).unwrap();
        let error = receiver.finish().unwrap_err();
        assert!(matches!(error, Error::Corruption { .. } | Error::NewerFormat { .. }), "{error}");
        assert!(names(&RealDisk, dir.path()).is_empty());
    }
    let receiver = store.receive("a", 0).unwrap();
    assert!(receiver.finish().is_err_and(|error| error.is_corruption()));
}

#[test]
fn another_checkpoint_takes_the_place_of_the_first() {
    let (sample, dir, store) = fixture();
    let first = store.receive("a", size(&sample)).unwrap();
    first.write(0, &sample.bytes).unwrap();
    let second = store.receive("b", size(&sample)).unwrap();
    assert_eq!(names(&RealDisk, dir.path()).len(), 1, "the first one's bytes are gone");
    assert_eq!(second.next_offset(), 0);
    assert!(matches!(first.write(0, &sample.bytes), Err(Error::Misuse(_))));
    assert!(matches!(first.finish(), Err(Error::Misuse(_))));
    second.write(0, &sample.bytes).unwrap();
    second.finish().unwrap();
}

#[test]
fn two_receivers_of_one_checkpoint_do_not_harm_it() {
    let (sample, _dir, store) = fixture();
    let first = store.receive("a", size(&sample)).unwrap();
    let second = store.receive("a", size(&sample)).unwrap();
    first.write(0, &sample.bytes[..30]).unwrap();
    second.write(30, &sample.bytes[30..]).unwrap();
    let checkpoint = first.finish().unwrap();
    assert!(matches!(second.write(0, b"stray"), Err(Error::Misuse(_))));
    assert!(matches!(second.finish(), Err(Error::Misuse(_))));
    assert_eq!(read(&checkpoint), sample_rows());
}
