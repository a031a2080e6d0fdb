//! The log with its real threads on a real disk.

use super::*;

/// A callback, and what waits for it.
fn waiter() -> (Done, mpsc::Receiver<io::Result<()>>) {
    let (sender, receiver) = mpsc::channel();
    (Box::new(move |result| drop(sender.send(result))), receiver)
}

#[test]
fn what_was_answered_is_there_after_reopening() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { segment_bytes: 64 << 10, ..Options::default() };
    let (log, recovery) = Log::open(Arc::new(RealDisk), dir.path(), options.clone()).unwrap();
    assert_eq!(recovery, Recovery::default());
    let replica = log.replica(GroupId(1), ReplicaId(7)).unwrap();
    for index in 0..500 {
        let (done, waiting) = waiter();
        replica.append(vec![entry(index, 1, &"x".repeat(1000))], done);
        if index % 50 == 0 {
            waiting.recv().unwrap().unwrap();
        }
    }
    let (done, waiting) = waiter();
    replica.save_vote(Bytes::from_static(b"vote"), done);
    waiting.recv().unwrap().unwrap();
    log.close().unwrap();

    let (log, recovery) = Log::open(Arc::new(RealDisk), dir.path(), options).unwrap();
    assert_eq!((recovery.damaged.len(), recovery.torn_tail), (0, None));
    let replica = log.replica(GroupId(1), ReplicaId(7)).unwrap();
    assert_eq!(replica.state().vote.as_deref(), Some(&b"vote"[..]));
    assert_eq!(replica.state().last, Some(id(499, 1)));
    let entries = replica.read(LogIndex(0)..LogIndex(500), usize::MAX).unwrap();
    assert_eq!(entries.len(), 500);
    replica.purge(id(499, 1)).unwrap();
    log.close().unwrap();
}
