//! Reads of a replica that lags behind what it has committed itself.
//!
//! Applying seldom takes long enough for a read to come between it and the commit; here it stands still, because the
//! memory for rows is full and nothing drains it.

use futures::FutureExt as _;
use kvd_proto::peer::v1::{self as p, envelope::Body};
use kvd_types::{ErrorKind, Revision};

use super::harness::{Node, PATIENCE, leader, put, three, three_with, until, value};
use crate::{blocking::Blocking, state::MemoryOptions, turns::DrainTurns};

/// Has a node apply nothing once it has applied something: there is no room for more, and no turn to make some.
fn stands_still(node: &mut Node, no_turns: &DrainTurns) {
    node.memory = MemoryOptions { rows_max: 0, ..MemoryOptions::default() };
    node.drain_turns = no_turns.clone();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_has_not_applied_that_a_revision_was_shown_does_not_call_it_the_future() {
    let turns = DrainTurns::new(Blocking::Inline);
    let _only_one = turns.next().await.unwrap();
    let (_network, nodes, groups) = three_with(|node| {
        if node.id == 3 {
            stands_still(node, &turns);
        }
    })
    .await;
    let founders: Vec<_> = nodes.iter().map(Node::replica).collect();
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
async fn a_read_is_not_answered_before_what_followers_know_to_be_committed_is_applied() {
    let turns = DrainTurns::new(Blocking::Inline);
    let _only_one = turns.next().await.unwrap();
    let (_network, _nodes, groups) = three_with(|node| stands_still(node, &turns)).await;
    let (place, group) = leader(&groups).await;
    group.propose(put("first", "applied")).await.unwrap();
    let first = group.status().last_log_index;
    let mut second = group.propose(put("second", "committed")).boxed();
    assert!(second.as_mut().now_or_never().is_none());
    let follower = &groups[(place + 1) % groups.len()];
    until("a follower knows that the second write is committed", || {
        follower.status().committed_index > first
    })
    .await;
    assert_eq!(value(&group, "second"), None, "it can't have been applied");
    let refused = group.read_barrier().await.expect_err("it would not see the second write");
    assert_eq!(refused.kind, ErrorKind::Unavailable, "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_does_not_read_once_a_majority_has_voted_in_a_later_term() {
    let (_network, _nodes, groups) = three().await;
    let (place, old) = leader(&groups).await;
    old.propose(put("key", "value")).await.unwrap();
    let term = old.leadership().term.get() + 1;
    let candidate = groups[(place + 1) % groups.len()].replica().get();
    for follower in groups.iter().filter(|group| group.replica() != old.replica()) {
        let vote = p::Vote { term, voted_for: candidate, committed: false };
        let last_log = Some(p::LogId { term, index: u64::from(u32::MAX) });
        let asked = p::VoteRequest { vote: Some(vote), last_log, leader_transfer: true };
        let answer = follower.handle(Body::Vote(asked)).await;
        assert!(matches!(&answer, Body::VoteResponse(vote) if vote.granted), "{answer:?}");
        let answer = follower.handle(Body::ConfirmLeader(p::ConfirmLeaderRequest { term: term - 1 })).await;
        assert_eq!(answer, Body::ConfirmLeaderResponse(p::ConfirmLeaderResponse { term }));
    }
    let refused = old.read_barrier().await.expect_err("another may have been elected");
    assert!(matches!(refused.kind, ErrorKind::NotLeader(_) | ErrorKind::Unavailable), "{refused}");
}
