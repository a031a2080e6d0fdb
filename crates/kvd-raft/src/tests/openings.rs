//! What a replica does at its start about a checkpoint that its log has outrun.

use std::{io, sync::Arc};

use kvd_storage::disk::{Operation, SimDisk};
use kvd_types::{ErrorKind, LogIndex};

use super::harness::{GROUP, Network, Node, leader, put, put_many, until, value};
use crate::{Group, OpenError};

/// One replica, with a checkpoint that its log begins after, and entries applied since, all of them flushed.
async fn checkpointed(node: &Node) -> Group {
    let group = node.open().await;
    group.initialize(&[node.replica()]).await.unwrap();
    let (_, group) = leader(&[group]).await;
    put_many(&group, "a-", 100).await;
    group.checkpoint().await.unwrap();
    until("the log is purged right up to the checkpoint", || group.log_bytes() == 0).await;
    for i in 0..5 {
        group.propose(put(&format!("b-{i}"), &format!("b-{i}"))).await.unwrap();
    }
    group
}

/// Loses the log from the second entry after the checkpoint on, and says up to where it was applied.
fn lose_tail(node: &Node) -> LogIndex {
    let log = node.log.replica(GROUP, node.replica().id).unwrap();
    let (purged, last) = (log.state().purged.unwrap(), log.state().last.unwrap());
    let kept = LogIndex(purged.index.get() + 1);
    assert!(kept < last.index, "a tail is there to be lost");
    log.truncate_after(log.id(kept)).unwrap();
    last.index
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_log_lost_what_was_applied_starts_with_a_checkpoint_of_it() {
    let node = Node::new(1, &Network::default());
    let group = checkpointed(&node).await;
    node.stop(&group).await;
    let applied = lose_tail(&node);

    let reopened = node.open().await;
    until("the checkpoint is known", || reopened.status().checkpoint_index == Some(applied)).await;
    assert!(!reopened.lacks_checkpoint(), "the log begins where the checkpoint ends");
    let (_, reopened) = leader(&[reopened]).await;
    put_many(&reopened, "c-", 10).await;
    for key in ["a-99", "b-4", "c-9"] {
        assert_eq!(value(&reopened, key).as_deref(), Some(key));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_room_for_the_checkpoint_that_it_lacks_a_replica_waits_for_room() {
    let mut node = Node::new(1, &Network::default());
    let disk = SimDisk::with_dir(1, node.checkpoints.parent().unwrap());
    node.checkpoint_disk = Arc::new(disk.clone());
    let group = checkpointed(&node).await;
    node.stop(&group).await;
    let applied = lose_tail(&node);

    disk.fail(Operation::Write, 0, io::ErrorKind::StorageFull);
    let refused = node.try_open(false).await.err().expect("there is no room");
    let OpenError::Failed(error) = refused else { panic!("{refused}") };
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("make room"), "{error}");

    let reopened = node.open().await;
    until("the checkpoint is known", || reopened.status().checkpoint_index == Some(applied)).await;
    assert_eq!(value(&reopened, "b-4").as_deref(), Some("b-4"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_fail_their_checks_while_the_lacking_checkpoint_is_written_are_told_as_such() {
    let node = Node::new(1, &Network::default());
    let group = checkpointed(&node).await;
    node.stop(&group).await;
    node.damage_checkpoints();
    node.damage_row("a-99");

    // Not as a failure that is tried again and again: rebuilt, it turns out to be lost, and is replaced from its peers.
    let refused = node.try_open(false).await.err().expect("the damage is found");
    assert!(matches!(refused, OpenError::Rows { .. }), "{refused}");
    let lost = node.try_open(true).await.err().expect("nothing is left to rebuild it from");
    assert!(matches!(lost, OpenError::Lost { .. }), "{lost}");
}
