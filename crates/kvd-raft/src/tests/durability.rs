//! What a log store says before its disk does: nothing.
//!
//! Whoever votes and forgets it can vote again, for another one, and a term then has two leaders. It takes a power cut within
//! the milliseconds of a sync, in the middle of a contested election, for clients to see it; here the writer waits
//! until it is told to write.

use std::{path::Path, sync::Arc};

use futures::FutureExt as _;
use kvd_storage::{
    disk::{Crash, SimDisk},
    log::{Log, Options, Writer},
};
use kvd_types::{GroupId, ReplicaId};
use openraft::{RaftLogReader as _, storage::RaftLogStorage as _};

use crate::{log_store::LogStore, types::Vote};

fn open(disk: &SimDisk) -> (Log, LogStore) {
    let options = Options { segment_bytes: 1 << 20, writer: Writer::Driven, ..Options::default() };
    let (log, _) = Log::open(Arc::new(disk.clone()), Path::new("/data/log"), options).unwrap();
    let store = LogStore::new(log.replica(GroupId(1), ReplicaId(1)).unwrap());
    (log, store)
}

#[tokio::test]
async fn a_vote_is_answered_once_it_is_durable_and_kept() {
    let disk = SimDisk::with_dir(1, Path::new("/data"));
    let (log, mut store) = open(&disk);
    // Not for a leader yet: the very vote that must not be given twice.
    let vote = Vote::new(7, ReplicaId(2));
    let mut saved = store.save_vote(&vote).boxed();
    assert!(saved.as_mut().now_or_never().is_none(), "it was answered before it was written");
    log.driver().write();
    saved.now_or_never().expect("it was written and is not answered").unwrap();

    let (_log, mut store) = open(&disk.crash(Crash::Synced));
    assert_eq!(store.read_vote().await.unwrap(), Some(vote));
}
