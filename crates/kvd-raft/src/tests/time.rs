//! What a group promises of revisions that were shown, of what lapses, and of a leader's lease.

use std::time::{Duration, Instant};

use kvd_types::{
    Command, Condition, ErrorKind, Key, LeaseCommand, LeaseId, LeaseOutcome, Lifetime, Outcome, Revision,
    Write, WriteOp, limits::EXPIRED_PER_ENTRY_MAX,
};

use super::harness::{self, leader, put, until, value};
use crate::{Group, propose::TICK_REST};

fn revision_of(outcome: &Outcome) -> Revision {
    match outcome {
        Outcome::Put { revision, .. } => *revision,
        other => panic!("{other:?}"),
    }
}

fn others(groups: &[Group], without: &Group) -> Vec<Group> {
    groups.iter().filter(|group| group.replica() != without.replica()).cloned().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_write_gets_a_revision_that_was_shown_also_under_the_next_leader() {
    let (network, _nodes, groups) = harness::three().await;
    let (place, old) = leader(&groups).await;
    let first = revision_of(&old.propose(put("key", "1")).await.unwrap());
    // A shard whose leader's clock is an hour ahead has had this.
    let ahead = Revision::from_unix_ms(first.unix_ms() + 3_600_000);
    let refused = old.read_point(Some(ahead), None, false).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InvalidArgument, "nobody vouches for it: {refused}");
    old.read_point(Some(ahead), None, true).await.unwrap();
    network.cut_off(place as u64 + 1);
    let (_, new) = leader(&others(&groups, &old)).await;
    let second = revision_of(&new.propose(put("key", "2")).await.unwrap());
    assert!(second > ahead, "{second} was shown to a reader as absent");
    // What was shown once can be asked for by anybody.
    new.read_point(Some(ahead), None, false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_in_flight_is_applied_before_a_revision_is_shown() {
    let (_network, _nodes, groups) = harness::three().await;
    let (_, group) = leader(&groups).await;
    for round in 0..50 {
        let key = format!("key-{round}");
        let writes = (0..20).map(|_| group.propose(put(&key, "1")));
        let writes = futures::future::join_all(writes);
        let shown = async {
            let at = Revision::from_unix_ms(
                group.read_point(None, None, false).await.unwrap().last_revision.unix_ms() + 3,
            );
            group.read_point(Some(at), None, true).await.unwrap();
            let key = Key::try_from(key.as_str()).unwrap();
            let seen = group.reader().unwrap().get_as_of(&key, at).unwrap();
            (at, seen)
        };
        let (written, (at, seen)) = tokio::join!(writes, shown);
        let up_to = written.iter().map(|outcome| revision_of(outcome.as_ref().unwrap()));
        let expected = up_to.filter(|revision| *revision <= at).max();
        let kvd_machine::AsOf::Known(seen) = seen else { panic!("{seen:?}") };
        assert_eq!(seen.map(|record| record.revision), expected, "as of {at}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_lapses_though_nobody_writes_and_its_followers_forget_it_too() {
    let (_network, _nodes, groups) = harness::three().await;
    let (_, group) = leader(&groups).await;
    let op = WriteOp::Put {
        key: Key::try_from("short").unwrap(),
        value: "1".into(),
        lifetime: Lifetime::Ttl(200),
        condition: Condition::Always,
        want_previous: false,
    };
    group.propose(Command::Write(Write { session: None, op })).await.unwrap();
    assert_eq!(value(&group, "short").as_deref(), Some("1"));
    until("it lapses everywhere", || groups.iter().all(|group| value(group, "short").is_none())).await;
    let entries = group.status().last_log_index;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(
        group.status().last_log_index,
        entries,
        "nothing has a lifetime any more, so nothing is proposed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lapses_together_goes_in_parts_with_a_rest_between_them() {
    let (_network, _nodes, groups) = harness::three().await;
    let (_, group) = leader(&groups).await;
    let keys = 5 * EXPIRED_PER_ENTRY_MAX;
    let puts = (0..keys).map(|number| {
        let op = WriteOp::Put {
            key: Key::try_from(format!("short-{number}").as_str()).unwrap(),
            value: "1".into(),
            lifetime: Lifetime::Ttl(1000),
            condition: Condition::Always,
            want_previous: false,
        };
        group.propose(Command::Write(Write { session: None, op }))
    });
    futures::future::try_join_all(puts).await.unwrap();
    let left = || usize::try_from(group.reader().unwrap().stats().keys).unwrap();
    until("the first are gone", || left() < keys).await;
    let (began, parts) = (Instant::now(), left() / EXPIRED_PER_ENTRY_MAX);
    until("all are gone", || left() == 0).await;
    let rests = *TICK_REST.start() * u32::try_from(parts.saturating_sub(1)).unwrap();
    assert!(began.elapsed() >= rests, "{parts} parts were left, and took {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_keeps_its_remaining_time_through_a_change_of_leader() {
    const TTL_MS: u64 = 4000;
    let (network, _nodes, groups) = harness::three().await;
    let (place, old) = leader(&groups).await;
    let lease = LeaseId(7);
    let op = WriteOp::GrantLease { lease, ttl_ms: TTL_MS };
    old.propose(Command::Write(Write { session: None, op })).await.unwrap();
    let granted_at = old.reader().unwrap().stats().age_ms;
    until("half of it is over", || old.reader().unwrap().stats().age_ms >= granted_at + TTL_MS / 2).await;
    network.cut_off(place as u64 + 1);
    let (_, new) = leader(&others(&groups, &old)).await;
    let age = || new.reader().unwrap().stats().age_ms;
    // What had passed by then is not forgotten, but for what the last entry of the old leader did not tell.
    assert!(age() + 1500 >= granted_at + TTL_MS / 2, "{} of {granted_at}", age());
    let keep = Command::Lease(LeaseCommand::KeepAlive(LeaseId(8)));
    assert_eq!(new.propose(keep).await.unwrap(), Outcome::Lease(LeaseOutcome::Gone), "never granted");
    until("it ends", || new.reader().unwrap().lease(lease).unwrap().is_none()).await;
    assert!(age() >= granted_at + TTL_MS, "it ended early: at {} of {granted_at}", age());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_reads_by_its_lease_as_long_as_nobody_else_can_lead() {
    let (network, _nodes, groups) = harness::three().await;
    let (place, old) = leader(&groups).await;
    old.propose(put("key", "1")).await.unwrap();
    old.lease_barrier().await.unwrap();
    network.cut_off(place as u64 + 1);
    let (_, new) = leader(&others(&groups, &old)).await;
    new.propose(put("key", "2")).await.unwrap();
    old.lease_barrier().await.expect_err("another one leads, so its lease is over");
    let follower = others(&groups, &new).into_iter().find(|group| !group.leadership().is_self);
    follower.unwrap().lease_barrier().await.expect_err("it has no lease");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_just_opened_elects_nobody_while_it_may_have_promised_not_to() {
    use kvd_proto::peer::v1::{self as p, envelope::Body};
    let (_network, mut nodes, mut groups) = harness::three().await;
    leader(&groups).await;
    let place = groups.iter().position(|group| !group.leadership().is_self).unwrap();
    let (mut node, follower) = (nodes.remove(place), groups.remove(place));
    node.crash(&follower).await;
    let reopened = node.open().await;
    let candidate = groups[0].replica().get();
    let ask = |term, leader_transfer| {
        let vote = p::Vote { term, voted_for: candidate, committed: false };
        let last_log = Some(p::LogId { term, index: 1000 });
        Body::Vote(p::VoteRequest { vote: Some(vote), last_log, leader_transfer })
    };
    assert!(matches!(reopened.handle(ask(1000, false)).await, Body::Refusal(_)), "it may have promised");
    // The leader itself has told the candidate to take over.
    let granted = reopened.handle(ask(1001, true)).await;
    assert!(matches!(granted, Body::VoteResponse(_)), "{granted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_asks_for_all_waits_for_the_last_voter() {
    let (network, nodes, groups) = harness::three().await;
    let (_, group) = leader(&groups).await;
    group.propose(put("key", "1")).await.unwrap();
    group.wait_for_all_voters().await.unwrap();
    let away = nodes.iter().map(|node| node.id).find(|id| *id != group.replica().get()).unwrap();
    network.cut_off(away);
    group.propose(put("key", "2")).await.unwrap();
    let waited = tokio::time::timeout(Duration::from_millis(300), group.wait_for_all_voters()).await;
    assert!(waited.is_err(), "one of them has not got it");
    network.mend(away);
    tokio::time::timeout(harness::PATIENCE, group.wait_for_all_voters())
        .await
        .expect("it catches up")
        .unwrap();
}
