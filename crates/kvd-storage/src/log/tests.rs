//! Tests of the log as its callers see it.
//!
//! `model` holds the naive model that everything is compared with. `crashes` cuts the power at every operation,
//! `failures` makes syncs and writes fail, `rot` flips bits, `counters` puts absurd counts under sound checksums, `threads`
//! runs the real thing on a real disk.

use std::sync::mpsc;

use crate::disk::{Crash, RealDisk, SimDisk};

use super::*;

mod counters;
mod crashes;
mod failures;
mod model;
mod rot;
mod threads;

const DIR: &str = "/node/log";

fn entry(index: u64, term: u64, payload: &str) -> Entry {
    Entry { index: LogIndex(index), term: Term(term), payload: Bytes::copy_from_slice(payload.as_bytes()) }
}

fn id(index: u64, term: u64) -> EntryId {
    EntryId { index: LogIndex(index), term: Term(term) }
}

/// Small segments and next to no cache, so that a short test meets everything.
fn small() -> Options {
    Options {
        segment_bytes: 32 << 10,
        reserve_segments: 0,
        cache_bytes_per_replica: 2000,
        writer: Writer::Inline,
        ..Options::default()
    }
}

fn sim_disk(seed: u64) -> SimDisk {
    SimDisk::with_dir(seed, Path::new("/node"))
}

fn open(disk: &SimDisk) -> Result<(Log, Recovery), Error> {
    Log::open(Arc::new(disk.clone()), Path::new(DIR), small())
}

/// A callback, and what waits for it.
fn waiter() -> (Done, mpsc::Receiver<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

fn append(replica: &ReplicaLog, entries: Vec<Entry>) -> io::Result<()> {
    let (done, waiting) = waiter();
    replica.append(entries, done);
    waiting.recv().unwrap()
}

fn vote(replica: &ReplicaLog, vote: &str) -> io::Result<()> {
    let (done, waiting) = waiter();
    replica.save_vote(Bytes::copy_from_slice(vote.as_bytes()), done);
    waiting.recv().unwrap()
}

/// Counts the deaths it is told of.
#[derive(Debug, Default)]
struct Deaths(Mutex<Vec<io::ErrorKind>>);

impl Observer for Deaths {
    fn failed(&self, error: &io::Error) {
        self.0.lock().push(error.kind());
    }
}
