//! What a group promises, one claim a test.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use kvd_storage::log::{Entry, EntryId};
use kvd_types::{
    ErrorKind, LogIndex, ReplicaId, Term,
    limits::{ENTRIES_IN_FLIGHT_MAX, ENTRY_COMMANDS_MAX, PROPOSAL_QUEUE_MAX},
};

use super::harness::{self, GROUP, Network, Node, leader, put, put_many, until, value};
use crate::{Fault, Group, MemoryOptions, OpenError, Role};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_becomes_few_entries_and_every_replica_applies_them_alike() {
    let (_network, _nodes, groups) = harness::three().await;
    let (_, group) = leader(&groups).await;
    let before = group.status().last_log_index.unwrap().get();
    put_many(&group, "key-", 2000).await;
    let entries = group.status().last_log_index.unwrap().get() - before;
    assert!(entries < 1000, "2000 writes, 256 at a time, took {entries} entries");
    let applied = group.status().applied_index;
    until("all have applied it", || groups.iter().all(|group| group.status().applied_index >= applied)).await;
    until("all hold the same", || {
        let digests: Option<Vec<_>> = groups.iter().map(|group| group.status().digest).collect();
        digests.is_some_and(|digests| digests.iter().all(|digest| *digest == digests[0]))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_cut_off_answers_no_read_and_another_takes_over() {
    let (network, _nodes, groups) = harness::three().await;
    let (place, old) = leader(&groups).await;
    old.propose(put("key", "old")).await.unwrap();
    network.cut_off(place as u64 + 1);
    let others: Vec<_> = groups.iter().filter(|group| group.replica() != old.replica()).cloned().collect();
    let (_, new) = leader(&others).await;
    new.propose(put("key", "new")).await.unwrap();

    let read = old.read_barrier().await;
    assert!(read.is_err(), "a stale read was allowed");
    network.mend(place as u64 + 1);
    until("the old leader follows", || old.status().role == Role::Follower).await;
    until("the old leader has what was written", || value(&old, "key").as_deref() == Some("new")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_opened_knows_of_no_leader_until_one_has_spoken() {
    let (network, mut nodes, mut groups) = harness::three().await;
    leader(&groups).await;
    until("all know the leader", || groups.iter().all(|group| group.leadership().leader.is_some())).await;
    let place = groups.iter().position(|group| !group.leadership().is_self).unwrap();
    let (mut node, follower) = (nodes.remove(place), groups.remove(place));
    let id = follower.replica().get();
    node.crash(&follower).await;
    network.cut_off(id);
    let follower = node.open().await;
    assert_eq!(follower.leadership().leader, None, "it remembers one, and has heard of none");
    network.mend(id);
    until("it hears of the leader", || follower.leadership().leader.is_some()).await;
}

/// Begins a change of voters, and dies between its two steps. False: it was too quick, and is done.
async fn leave_half_done(group: &Group, wanted: &BTreeSet<ReplicaId>) -> bool {
    let looked_at = group.members();
    {
        let changing = std::pin::pin!(group.change_voters(&looked_at, wanted.clone()));
        let begun = async {
            while group.members().changing_to.is_none() {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            biased;
            () = begun => {}
            ended = changing => ended.unwrap(),
        }
    }
    // Whatever is under way is done when a later write is.
    group.propose(put("key", "before")).await.unwrap();
    group.members().changing_to.is_some()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_voters_that_nobody_ended_is_ended_as_it_was_begun() {
    let (network, nodes, mut groups) = harness::three().await;
    let late = Node::new(4, &network);
    groups.push(late.open().await);
    let (place, group) = leader(&groups).await;
    group.add_learner(late.replica()).await.unwrap();
    until("the newcomer has caught up", || group.members().is_caught_up(ReplicaId(4))).await;

    let leaves = nodes[(place + 1) % 3].replica().id;
    let others = (1..=4).map(ReplicaId).filter(|id| *id != leaves);
    let wanted: BTreeSet<ReplicaId> = others.collect();
    let before: BTreeSet<ReplicaId> = group.members().voters.into_keys().collect();
    let mut tries = 0;
    while !leave_half_done(&group, &wanted).await {
        tries += 1;
        assert!(tries < 50, "the change is always too quick");
        group.change_voters(&group.members(), before.clone()).await.unwrap();
    }
    assert_eq!(group.members().changing_to, Some(wanted.clone()));
    assert!(group.status().changes_voters);

    let unknown = [ReplicaId(5), ReplicaId(4)].into_iter().chain([group.replica()]).collect();
    group.change_voters(&group.members(), unknown).await.expect_err("nobody has heard of replica 5");
    let begun = group.members().changing_to.expect("it is still half done");
    group.change_voters(&group.members(), begun).await.unwrap();
    let members = group.members();
    assert_eq!(members.changing_to, None);
    assert!(!group.status().changes_voters);
    assert_eq!(members.voters.keys().copied().collect::<BTreeSet<_>>(), wanted);
    group.propose(put("key", "value")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_lets_go_of_the_log_and_brings_up_a_replica_that_missed_everything() {
    let (network, mut nodes, mut groups) = harness::three().await;
    leader(&groups).await;
    let late = groups.remove(2);
    let mut late_node = nodes.remove(2);
    late_node.crash(&late).await;
    let (_, group) = leader(&groups).await;
    put_many(&group, "key-", 3000).await;
    for group in &groups {
        let applied = group.status().applied_index;
        group.checkpoint().await.unwrap();
        until("it is noted", || group.status().checkpoint_index >= applied && !group.lacks_checkpoint())
            .await;
    }
    until("the log is purged right up to the checkpoint", || group.log_bytes() == 0).await;

    // Nothing but the checkpoint can bring it up. It is tried while the node is down too, and fails at once.
    until("no try to send it is under way", || !group.sends_checkpoint()).await;
    network.hold_checkpoints(true);
    let late = late_node.open().await;
    until("the checkpoint is on its way", || group.sends_checkpoint()).await;
    network.hold_checkpoints(false);
    until("it has caught up", || {
        late.status().digest.is_some_and(|digest| Some(digest) == group.status().digest)
    })
    .await;
    assert_eq!(value(&late, "key-2999").as_deref(), Some("key-2999"));
    until("it says that it was sent a checkpoint", || late.status().checkpoint_index.is_some()).await;
    group.propose(put("after", "that")).await.unwrap();
    until("it follows the log again", || value(&late, "after").is_some()).await;
    until("no checkpoint is on its way", || !group.sends_checkpoint()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_applies_more_of_its_log_at_start_than_memory_may_hold() {
    let (network, mut nodes, groups) = harness::three().await;
    let (_, group) = leader(&groups).await;
    put_many(&group, "key-", 3000).await;
    let last = groups[2].clone();
    until("all have it", || value(&last, "key-2999").is_some()).await;
    nodes[2].crash(&last).await;
    network.cut_off(3);
    // Nothing drains but the want of room.
    nodes[2].memory =
        MemoryOptions { rows_max: 50, drain_interval: 2 * harness::PATIENCE, ..MemoryOptions::default() };
    let opened = tokio::time::timeout(harness::PATIENCE, nodes[2].open()).await.expect("it opens");
    assert_eq!(value(&opened, "key-0").as_deref(), Some("key-0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_that_cannot_be_written_costs_the_group_nothing() {
    let (_network, nodes, groups) = harness::three().await;
    let (place, group) = leader(&groups).await;
    group.propose(put("key", "value")).await.unwrap();
    // A file where the directory should be.
    std::fs::remove_dir_all(&nodes[place].checkpoints).unwrap();
    std::fs::write(&nodes[place].checkpoints, "in the way").unwrap();
    let failed = group.checkpoint().await.unwrap_err();
    assert_eq!(failed.kind, ErrorKind::Unavailable, "{failed}");
    group.propose(put("key", "another")).await.unwrap();
    group.read_barrier().await.unwrap();
    assert!(group.fault().borrow().is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_fail_their_checks_while_the_log_is_applied_are_reported_and_rebuilt() {
    let network = Network::default();
    let mut node = Node::new(1, &network);
    let group = node.open().await;
    group.initialize(&[node.replica()]).await.unwrap();
    let (_, group) = leader(&[group]).await;
    group.propose(put("key", "first")).await.unwrap();
    // A clean stop, so that the engine has the row, and a flush; then one entry more, which the engine lacks.
    node.stop(&group).await;
    let group = node.open().await;
    leader(std::slice::from_ref(&group)).await;
    group.propose(put("key", "second")).await.unwrap();
    node.crash(&group).await;

    node.damage_row("key");
    let refused = node.try_open(false).await.err().expect("the damage is found");
    assert!(matches!(refused, OpenError::Rows { replica: ReplicaId(1), .. }), "{refused}");
    let rebuilt = node.try_open(true).await.unwrap();
    assert_eq!(value(&rebuilt, "key").as_deref(), Some("second"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_checkpoint_and_log_a_replica_is_lost_and_stays_so() {
    let network = Network::default();
    let mut node = Node::new(1, &network);
    let group = node.open().await;
    group.initialize(&[node.replica()]).await.unwrap();
    let (_, group) = leader(&[group]).await;
    put_many(&group, "key-", 100).await;
    group.checkpoint().await.unwrap();
    node.crash(&group).await;
    node.damage_checkpoints();
    for _ in 0..2 {
        let lost = node.try_open(true).await.err().expect("nothing is left to rebuild it from");
        assert!(matches!(lost, OpenError::Lost { .. }), "{lost}");
    }
    // Nor are its old rows believed by a start that has no reason to doubt them.
    let lost = node.try_open(false).await.err().expect("its rows were cleared for good");
    assert!(matches!(lost, OpenError::Lost { .. }), "{lost}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tail_that_contradicts_what_is_committed_is_dropped() {
    let network = Network::default();
    let node = Node::new(1, &network);
    let log = node.log.replica(GROUP, ReplicaId(1)).unwrap();
    let entry = |term: u64, index: u64| Entry {
        index: LogIndex(index),
        term: Term(term),
        payload: Bytes::from_static(&[0]),
    };
    let (done, durable) = tokio::sync::oneshot::channel();
    let entries = (0..10).map(|index| entry(1, index)).collect();
    log.append(entries, Box::new(move |result| drop(done.send(result))));
    durable.await.unwrap().unwrap();

    let committed = EntryId { index: LogIndex(5), term: Term(2) };
    crate::group::open::drop_conflicting_tail(&log, committed).unwrap();
    assert_eq!(log.state().last, Some(committed));
    assert_eq!(log.state().purged, Some(committed));

    let agreed = EntryId { index: LogIndex(3), term: Term(1) };
    crate::group::open::drop_conflicting_tail(&log, agreed).unwrap();
    assert_eq!(log.state().purged, Some(committed), "what is purged already can't contradict");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_dead_has_not_caught_up() {
    let (network, _nodes, groups) = harness::three().await;
    let (place, group) = leader(&groups).await;
    let other = groups.iter().find(|other| other.replica() != group.replica()).unwrap().replica();
    until("both have caught up", || group.members().is_caught_up(other)).await;
    network.cut_off(other.get());
    until("it no longer counts", || !group.members().is_caught_up(other)).await;
    let refused = group.transfer_leader(other, Duration::from_secs(1)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::FailedPrecondition, "{refused}");
    assert!(groups[place].leadership().is_self);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_to_where_it_is_asked_to() {
    let (_network, _nodes, groups) = harness::three().await;
    let (_, group) = leader(&groups).await;
    let to = groups.iter().find(|other| other.replica() != group.replica()).unwrap();
    until("it has caught up", || group.members().is_caught_up(to.replica())).await;
    group.transfer_leader(to.replica(), Duration::from_secs(30)).await.unwrap();
    let (_, led) = leader(&groups).await;
    assert_eq!(led.replica(), to.replica());
    to.propose(put("key", "value")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_core_that_ends_by_itself_is_noticed_and_the_group_can_be_opened_again() {
    let (network, mut nodes, mut groups) = harness::three().await;
    let (place, _) = leader(&groups).await;
    let follower = (place + 1) % 3;
    put_many(&groups[place], "key-", 10).await;
    let last = groups[follower].clone();
    until("it has all of it", || value(&last, "key-9").is_some()).await;
    nodes[follower].crash(&last).await;
    // What must never happen: a replica comes back under its id with its log forgotten. Its leader can't go on.
    let forgetful = Node::new(follower as u64 + 1, &network);
    let back = forgetful.open().await;
    let broken = groups[place].clone();
    until("the leader's end is noticed", || matches!(&*broken.fault().borrow(), Some(Fault::Core(_)))).await;
    assert!(broken.check_open().is_err());
    network.cut_off(follower as u64 + 1);
    nodes[place].crash(&broken).await;
    groups[place] = nodes[place].open().await;
    let mut rest = groups.clone();
    rest.remove(follower);
    let (_, led) = leader(&rest).await;
    assert_eq!(value(&led, "key-9").as_deref(), Some("key-9"));
    back.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_the_queue_is_refused_at_once() {
    let (network, _nodes, groups) = harness::three().await;
    let (place, group) = leader(&groups).await;
    network.cut_off(place as u64 + 1);
    // Without a majority nothing is committed: entries in flight fill up first, then the queue.
    let room = PROPOSAL_QUEUE_MAX + ENTRIES_IN_FLIGHT_MAX * ENTRY_COMMANDS_MAX;
    let writes = (0..room + 10).map(|i| {
        let group = group.clone();
        tokio::spawn(async move { group.propose(put(&format!("key-{i}"), "value")).await })
    });
    let mut writes: FuturesUnordered<_> = writes.collect();
    let refused = async {
        loop {
            let written = writes.next().await.expect("more writes").unwrap();
            if let Err(error) = written
                && matches!(error.kind, ErrorKind::Overloaded { .. })
            {
                return error;
            }
        }
    };
    let refused = tokio::time::timeout(harness::PATIENCE, refused).await.expect("something is refused");
    assert!(!refused.outcome_unknown() && refused.is_retryable(), "{refused}");
    assert!(
        matches!(refused.kind, ErrorKind::Overloaded { retry_after } if !retry_after.is_zero()),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_under_way_when_its_replica_stops_may_have_been_applied() {
    let (network, nodes, groups) = harness::three().await;
    let (place, group) = leader(&groups).await;
    network.cut_off(place as u64 + 1);
    let before = group.status().last_log_index;
    let writer = group.clone();
    let write = tokio::spawn(async move { writer.propose(put("key", "value")).await });
    until("it is in the log", || group.status().last_log_index > before).await;
    nodes[place].stop(&group).await;
    let lost = write.await.unwrap().unwrap_err();
    assert!(lost.outcome_unknown(), "{lost}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_whose_newest_checkpoint_has_rotted_starts_with_another() {
    let (_network, mut nodes, groups) = harness::three().await;
    let (place, group) = leader(&groups).await;
    for round in ["a-", "b-"] {
        put_many(&group, round, 200).await;
        let applied = group.status().applied_index;
        group.checkpoint().await.unwrap();
        until("it is noted", || group.status().checkpoint_index >= applied && !group.lacks_checkpoint())
            .await;
    }
    until("the log is purged right up to the checkpoint", || group.log_bytes() == 0).await;
    let purged = group.status().checkpoint_index;
    let node = &mut nodes[place];
    kvd_storage::engine::Engine::flush(node.engine.as_ref()).unwrap();
    node.crash(&group).await;
    let mut files: Vec<_> =
        std::fs::read_dir(&node.checkpoints).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let newest = files.pop().unwrap();
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&newest, bytes).unwrap();

    // The older one ends before the log begins: whoever lacked what is between would have got it from neither.
    let reopened = node.open().await;
    until("it has one that reaches the log", || reopened.status().checkpoint_index >= purged).await;
}
