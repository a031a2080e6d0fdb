//! Reads of a replica that lags behind what it has committed itself.
//!
//! Applying seldom takes long enough for a read to come between it and the commit; here it stands still, because the
//! memory for rows is full and nothing drains it.

use std::time::Duration;

use futures::FutureExt as _;
use kvd_types::ErrorKind;

use super::harness::{Network, Node, leader, put, until, value};
use crate::state::DrainOptions;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_is_not_answered_before_what_is_committed_is_applied() {
    let network = Network::default();
    let mut node = Node::new(1, &network);
    let never = Duration::from_secs(3600);
    node.drain =
        DrainOptions { rows: usize::MAX, interval: never, memory_rows_max: 0, ..DrainOptions::default() };
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
