//! Reads of a replica that lags behind what it has committed itself.
//!
//! Applying seldom takes long enough for a read to come between it and the commit; here it stands still, because the
//! memory for rows is full and nothing drains it.

use std::time::Duration;

use futures::FutureExt as _;
use kvd_types::{ErrorKind, Revision};

use super::harness::{Network, Node, PATIENCE, leader, put, until, value};
use crate::state::MemoryOptions;

fn stands_still() -> MemoryOptions {
    let never = Duration::from_secs(3600);
    MemoryOptions { drain_rows: usize::MAX, drain_interval: never, rows_max: 0, ..MemoryOptions::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_has_not_applied_that_a_revision_was_shown_does_not_call_it_the_future() {
    let network = Network::default();
    let mut nodes: Vec<Node> = (1..=3).map(|id| Node::new(id, &network)).collect();
    nodes[2].memory = stands_still();
    let founders: Vec<_> = nodes.iter().map(Node::replica).collect();
    let mut groups = Vec::new();
    for node in &nodes {
        groups.push(node.open().await);
    }
    for group in &groups {
        group.initialize(&founders).await.unwrap();
    }
    let lagging = groups[2].clone();
    let (place, mut old) = leader(&groups).await;
    if place == 2 {
        until("another has caught up", || old.members().is_caught_up(founders[0].id)).await;
        old.transfer_leader(founders[0].id, PATIENCE).await.unwrap();
        (_, old) = leader(&groups[..2]).await;
    }
    old.propose(put("key", "fills the memory")).await.unwrap();
    until("it is applied", || value(&lagging, "key").is_some()).await;
    let now = old.read_point(None, None, false).await.unwrap().last_revision;
    let shown = Revision::from_unix_ms(now.unix_ms() + 3_600_000);
    old.read_point(Some(shown), None, true).await.unwrap();

    until("its log has all of it", || old.members().is_caught_up(lagging.replica())).await;
    old.transfer_leader(lagging.replica(), PATIENCE).await.unwrap();
    until("it knows that it leads", || lagging.leadership().is_self).await;
    let refused = lagging.read_point(Some(shown), None, false).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_is_not_answered_before_what_is_committed_is_applied() {
    let network = Network::default();
    let mut node = Node::new(1, &network);
    node.memory = stands_still();
    let opened = node.open().await;
    opened.initialize(&[node.replica()]).await.unwrap();
    let (_, group) = leader(&[opened]).await;
    group.propose(put("first", "applied")).await.unwrap();
    until("the first write is all that is known", || {
        let status = group.status();
        status.committed_index == status.last_log_index && status.applied_index == status.last_log_index
    })
    .await;
    let first = group.status().committed_index;
    let mut second = group.propose(put("second", "committed")).boxed();
    assert!(second.as_mut().now_or_never().is_none());
    until("the second write is committed", || group.status().committed_index > first).await;
    assert_eq!(value(&group, "second"), None, "it can't have been applied");
    let refused = group.read_barrier().await.expect_err("it would not see the second write");
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");
}
