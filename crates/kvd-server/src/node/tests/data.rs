//! The data model over three nodes and four shards: what goes over more than one of either.

use futures::{StreamExt as _, TryStreamExt as _};
use kvd_types::{
    Compare, Consistency, LeaseId, LeaseOutcome, Read, Record, Relation, Revision, SequenceNumber,
    SessionPosition, Subject, Txn, TxnOp, TxnResult,
    operation::{Ack, Content, Page, ScanPage, WriteOptions},
};

use super::*;
use crate::store::WatchFrom;

fn key(key: &str) -> Key {
    Key::try_from(key).unwrap()
}

fn get(name: &str, read: Read) -> Request {
    Request::Get(key(name), read)
}

fn put_for(name: &str, value: &str, lifetime: Lifetime) -> Request {
    let op = WriteOp::Put {
        key: key(name),
        value: value.to_owned().into(),
        lifetime,
        condition: Condition::Always,
        want_previous: false,
    };
    Request::write(Write { session: None, op })
}

fn txn_put(name: &str, value: &str) -> TxnOp {
    TxnOp::Put {
        key: key(name),
        value: value.to_owned().into(),
        lifetime: Lifetime::Forever,
        want_previous: false,
    }
}

fn write(op: WriteOp) -> Request {
    Request::write(Write { session: None, op })
}

async fn value(node: &Node, name: &str) -> Option<String> {
    let got = execute(node, get(name, Read::LINEARIZABLE)).await.unwrap();
    let Response::Got(found) = got else { panic!("{got:?}") };
    found.map(|(_, record)| String::from_utf8(record.value.to_vec()).unwrap())
}

async fn put_revision(node: &Node, name: &str, value: &str) -> Revision {
    match execute(node, put(name, value)).await.unwrap() {
        Response::Put(Outcome::Put { revision, .. }) => revision,
        other => panic!("{other:?}"),
    }
}

impl Cluster {
    fn node(&self, index: usize) -> &Arc<Node> {
        &self.nodes[index].node
    }
}

/// All rows of a scan, and where each of its parts could have been resumed.
async fn scan(node: &Arc<Node>, spec: ScanSpec) -> Result<(Vec<(Key, Record)>, Vec<Bytes>)> {
    let parts: Vec<ScanPart> = Arc::clone(node).scan_range(spec).try_collect().await?;
    let tokens = parts.iter().map(|part| part.resume.clone()).collect();
    Ok((parts.into_iter().flat_map(|part| part.rows).collect(), tokens))
}

fn names(rows: &[(Key, Record)]) -> Vec<String> {
    rows.iter().map(|(key, _)| key.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_is_of_one_shard_and_all_or_nothing() {
    let cluster = Cluster::of_three().await;
    let node = cluster.node(0);
    let compare = |subject, relation| Compare { key: key("{t}a"), subject, relation };
    let txn = Txn {
        compares: vec![compare(Subject::Version(0), Relation::Equal)],
        then: vec![txn_put("{t}a", "1"), txn_put("{t}b", "1"), TxnOp::Get(key("{t}b"))],
        otherwise: vec![TxnOp::Get(key("{t}a"))],
    };
    for (index, succeeds) in [(0, true), (1, false)] {
        let all = WriteOptions { ack: Ack::All, ..WriteOptions::default() };
        let request = Request::Write(Write { session: None, op: WriteOp::Txn(txn.clone()) }, all);
        let done = execute(cluster.node(index), request).await.unwrap();
        let Response::Txn(Outcome::Txn { succeeded, results, .. }) = done else { panic!("{done:?}") };
        assert_eq!(succeeded, succeeds);
        let Some(TxnResult::Got(Some(found))) = results.last() else { panic!("{results:?}") };
        assert_eq!(found.value, "1");
    }
    let names: Vec<String> = (0..20).map(|number| format!("key-{number}")).collect();
    let then = names.iter().map(|name| txn_put(name, "1")).collect();
    let op = WriteOp::Txn(Txn { then, ..Txn::default() });
    let refused = execute(node, write(op)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InvalidArgument);
    assert!(refused.message.contains("hash tag") && refused.message.contains("key-0"), "{refused}");
    assert_eq!(value(node, "key-0").await, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_a_time_to_live_lapses_and_what_is_put_again_lives() {
    let cluster = Cluster::of_three().await;
    let node = cluster.node(0);
    execute(node, put_for("short", "1", Lifetime::Ttl(300))).await.unwrap();
    execute(node, put_for("renewed", "1", Lifetime::Ttl(300))).await.unwrap();
    execute(node, put("renewed", "2")).await.unwrap();
    execute(node, put_for("long", "1", Lifetime::Ttl(3_600_000))).await.unwrap();
    let gone = async {
        while value(cluster.node(1), "short").await.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it lapses");
    assert_eq!(value(node, "renewed").await.as_deref(), Some("2"));
    assert_eq!(value(node, "long").await.as_deref(), Some("1"));
    for absurd_ms in [0, u64::MAX] {
        let refused = put_for("x", "1", Lifetime::Ttl(absurd_ms)).check(1 << 20).unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InvalidArgument, "{refused}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keys_of_a_lease_go_with_it_wherever_they_are() {
    let cluster = Cluster::of_three().await;
    let node = cluster.node(0);
    let lease = LeaseId(4711);
    let granted = execute(node, write(WriteOp::GrantLease { lease, ttl_ms: 60_000 })).await.unwrap();
    assert_eq!(granted, Response::Lease(Outcome::Lease(LeaseOutcome::Granted { ttl_ms: 60_000 })));
    let names: Vec<String> = (0..40).map(|number| format!("leased-{number}")).collect();
    for (number, name) in names.iter().enumerate() {
        let node = cluster.node(number % 3);
        execute(node, put_for(name, "1", Lifetime::Lease(lease))).await.unwrap();
    }
    let alive = execute(cluster.node(2), Request::KeepLeaseAlive(lease)).await.unwrap();
    assert_eq!(alive, Response::LeaseKept(Outcome::Lease(LeaseOutcome::Alive { ttl_ms: 60_000 })));
    let Response::LeaseInfo(Some(info)) = execute(node, Request::GetLease(lease)).await.unwrap() else {
        panic!("there is such a lease")
    };
    assert_eq!(info.shards.len(), 4, "{info:?}");
    assert!(info.remaining_ms > 50_000, "{info:?}");
    let revoked = execute(node, write(WriteOp::RevokeLease(lease))).await.unwrap();
    assert_eq!(revoked, Response::Lease(Outcome::Lease(LeaseOutcome::Revoked)));
    let gone = async {
        let mut read = names.iter();
        while let Some(name) = read.as_slice().first() {
            if value(node, name).await.is_none() {
                read.next();
            }
        }
        while execute(node, Request::GetLease(lease)).await.unwrap() != Response::LeaseInfo(None) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("they go, and so does the lease");
    for unknown in [lease, LeaseId(99)] {
        let refused = execute(node, put_for("x", "1", Lifetime::Lease(unknown))).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::NotFound, "{refused}");
    }
    let again = execute(node, Request::KeepLeaseAlive(lease)).await.unwrap();
    assert_eq!(again, Response::LeaseKept(Outcome::Lease(LeaseOutcome::Gone)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_that_nobody_keeps_alive_lapses_also_after_its_leader_has_died() {
    let mut cluster = Cluster::of_three().await;
    let lease = LeaseId(12);
    execute(cluster.node(0), write(WriteOp::GrantLease { lease, ttl_ms: 3000 })).await.unwrap();
    for number in 0..8 {
        let name = format!("leased-{number}");
        execute(cluster.node(0), put_for(&name, "1", Lifetime::Lease(lease))).await.unwrap();
    }
    let home = cluster.node(0).routing().unwrap().ring.shard_of_lease(lease);
    let leader = (0..3).find(|&index| {
        let group = cluster.node(index).replicas().unwrap().group(home.into());
        group.is_some_and(|group| group.leadership().is_self)
    });
    cluster.stop(leader.unwrap()).await;
    let node = cluster.node(0);
    let gone = async {
        for number in 0..8 {
            while value(node, &format!("leased-{number}")).await.is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("they go");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scan_is_of_one_moment_in_either_direction_and_can_be_resumed() {
    let cluster = Cluster::of_three().await;
    let node = cluster.node(0);
    let mut last = Revision::ZERO;
    for number in 0..50 {
        last = last.max(put_revision(node, &format!("s/{number:02}"), "old").await);
    }
    let spec = |at| ScanSpec { start: "s/".into(), end: "s0".into(), at, ..ScanSpec::default() };
    let parts: Vec<ScanPart> = Arc::clone(node).scan_range(spec(None)).try_collect().await.unwrap();
    let at = parts[0].revision;
    assert!(at >= last, "it sees all that was finished before");
    // What is written after it has a later revision, on whichever shard.
    for number in 0..50 {
        assert!(put_revision(node, &format!("s/{number:02}"), "new").await > at);
    }
    execute(
        node,
        write(WriteOp::Delete { key: key("s/07"), condition: Condition::Always, want_previous: false }),
    )
    .await
    .unwrap();
    let (then, _) = scan(cluster.node(1), spec(Some(at))).await.unwrap();
    assert_eq!(then.len(), 50);
    assert!(then.iter().all(|(_, record)| record.value == "old"));
    let (now, _) = scan(cluster.node(2), spec(None)).await.unwrap();
    assert_eq!(now.len(), 49);
    assert!(now.iter().all(|(_, record)| record.value == "new"));
    let descending = ScanSpec { descending: true, limit: Some(3), ..spec(Some(at)) };
    let (rows, tokens) = scan(node, descending.clone()).await.unwrap();
    assert_eq!(names(&rows), ["s/49", "s/48", "s/47"]);
    let resume = tokens.last().unwrap().clone();
    let (rows, tokens) = scan(node, ScanSpec { resume, limit: None, ..descending.clone() }).await.unwrap();
    assert_eq!((rows.len(), names(&rows)[0].as_str()), (47, "s/46"));
    assert!(tokens.last().unwrap().is_empty(), "all was given");
    let exactly = ScanSpec { limit: Some(50), ..spec(Some(at)) };
    assert!(scan(node, exactly).await.unwrap().1.last().unwrap().is_empty(), "there are no more");
    let count = ScanSpec { content: Content::CountOnly, ..spec(None) };
    let counted: Vec<ScanPart> = Arc::clone(node).scan_range(count).try_collect().await.unwrap();
    assert_eq!(counted.last().unwrap().count, 49);
    // A token of another scan.
    let token = parts.first().map(|part| part.resume.clone()).filter(|token| !token.is_empty());
    for forged in [Bytes::from_static(b"forged")].into_iter().chain(token) {
        let refused = scan(node, ScanSpec { resume: forged, ..descending.clone() }).await.unwrap_err();
        assert_eq!(refused.kind, ErrorKind::InvalidArgument, "{refused}");
    }
    let future = Revision::from_unix_ms(at.unix_ms() + 3_600_000);
    let refused = scan(node, spec(Some(future))).await.unwrap_err();
    assert!(refused.message.contains("in the future"), "{refused}");
    let backwards = ScanSpec { start: "b".into(), end: "a".into(), ..ScanSpec::default() };
    assert_eq!(scan(node, backwards).await.unwrap_err().kind, ErrorKind::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_is_deleted_in_steps_until_nothing_is_left_of_it() {
    let cluster = Cluster::of_three().await;
    let node = cluster.node(0);
    let puts = (0..1500).map(|number| {
        let name = format!("d/{number:04}");
        async move { execute(node, put(&name, "1")).await.unwrap() }
    });
    futures::stream::iter(puts).buffer_unordered(64).collect::<Vec<_>>().await;
    put_revision(node, "e", "1").await;
    let deletion = Arc::clone(node).delete_whole_range("d/".into(), "d0".into());
    let parts: Vec<DeletePart> = deletion.try_collect().await.unwrap();
    assert_eq!(parts.last(), Some(&DeletePart { deleted: 1500, is_done: true }));
    assert!(parts.len() > 4, "in steps: {parts:?}");
    assert_eq!(parts.iter().filter(|part| part.is_done).count(), 1);
    assert_eq!(names(&scan(node, ScanSpec::default()).await.unwrap().0), ["e"]);
}

/// The next parts of a watch, until so many events are there; with the last token.
async fn events(watch: &mut Parts<WatchPart>, wanted: usize) -> (Vec<kvd_types::Event>, Bytes) {
    let mut events = Vec::new();
    let mut token = Bytes::new();
    while events.len() < wanted {
        let next = tokio::time::timeout(PATIENCE, watch.next()).await.expect("the watch tells");
        let part = next.unwrap().unwrap();
        events.extend(part.events);
        if !part.resume.is_empty() {
            token = part.resume;
        }
    }
    (events, token)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_at_another_node_and_loses_and_repeats_nothing() {
    let mut cluster = Cluster::of_three().await;
    put_revision(cluster.node(0), "w/before", "1").await;
    let spec = WatchSpec {
        start: "w/".into(),
        end: "w0".into(),
        want_previous: true,
        progress_interval: Some(Duration::from_millis(100)),
        ..WatchSpec::default()
    };
    let mut watch = Arc::clone(cluster.node(0)).watch_range(spec.clone());
    let begun = watch.next().await.unwrap().unwrap();
    assert!(begun.events.is_empty() && !begun.resume.is_empty(), "{begun:?}");
    let mut written = Vec::new();
    for number in 0..30 {
        written.push((
            format!("w/{}", number % 10),
            put_revision(cluster.node(1), &format!("w/{}", number % 10), "1").await,
        ));
        put_revision(cluster.node(1), "other", "1").await;
    }
    let (mut told, token) = events(&mut watch, 30).await;
    drop(watch);
    for number in 0..30 {
        written.push((
            format!("w/{}", number % 10),
            put_revision(cluster.node(1), &format!("w/{}", number % 10), "2").await,
        ));
    }
    cluster.stop(0).await;
    let resumed = WatchSpec { from: WatchFrom::Resume(token.clone()), ..spec.clone() };
    let mut watch = Arc::clone(cluster.node(0)).watch_range(resumed);
    told.extend(events(&mut watch, 30).await.0);
    let progress = async { while !watch.next().await.unwrap().unwrap().is_progress {} };
    tokio::time::timeout(PATIENCE, progress).await.expect("it says that it has told everything");
    let mut by_key: BTreeMap<String, Vec<Revision>> = BTreeMap::new();
    for event in &told {
        let record = event.record.as_ref().unwrap();
        assert_eq!(record.revision, event.revision);
        assert_eq!(event.previous.is_some(), record.version > 1, "{event:?}");
        by_key.entry(event.key.to_string()).or_default().push(event.revision);
    }
    let mut expected: BTreeMap<String, Vec<Revision>> = BTreeMap::new();
    for (name, revision) in written {
        expected.entry(name).or_default().push(revision);
    }
    assert_eq!(by_key, expected);
    // From a revision on: all again.
    let from = WatchSpec { from: WatchFrom::After(Revision(1)), ..spec.clone() };
    let mut again = Arc::clone(cluster.node(1)).watch_range(from);
    assert_eq!(events(&mut again, 61).await.0.len(), 61);
    for (what, from) in [
        ("forged", WatchFrom::Resume("forged".into())),
        ("future", WatchFrom::After(Revision::from_unix_ms(u64::MAX / 2))),
    ] {
        let mut refused = Arc::clone(cluster.node(1)).watch_range(WatchSpec { from, ..spec.clone() });
        let error = refused.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{what}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_of_what_comes_after_a_revision_misses_no_shard_whose_clock_is_behind() {
    let cluster = Cluster::of_three().await;
    let node = cluster.node(0);
    let last = put_revision(node, "w/first", "1").await;
    // Others may have been given this by a clock that is ahead.
    let ahead = Revision::from_unix_ms(last.unix_ms() + 5000);
    let spec = WatchSpec {
        start: "w/".into(),
        end: "w0".into(),
        from: WatchFrom::After(ahead),
        ..WatchSpec::default()
    };
    let mut watch = Arc::clone(node).watch_range(spec);
    watch.next().await.unwrap().unwrap();
    for number in 0..20 {
        assert!(put_revision(cluster.node(1), &format!("w/{number}"), "1").await > ahead);
    }
    assert_eq!(events(&mut watch, 20).await.0.len(), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_watcher_too_many_is_refused() {
    let cluster = Cluster::of_three().await;
    let node = cluster.node(0);
    let all = u32::try_from(WATCHERS_MAX).unwrap();
    let taken = Arc::clone(&node.watchers).try_acquire_many_owned(all).unwrap();
    let mut refused = Arc::clone(node).watch_range(WatchSpec::default());
    let error = refused.next().await.unwrap().unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Overloaded { .. }), "{error}");
    assert!(error.message.contains("20000 watchers"), "{error}");
    drop(taken);
    Arc::clone(node).watch_range(WatchSpec::default()).next().await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_has_a_choice_of_consistency_at_each_node() {
    let cluster = Cluster::of_three().await;
    let any = |consistency| Read { consistency, any_replica: true, at: None };
    for round in 0..20 {
        let seen = put_revision(cluster.node(round % 3), "c", &round.to_string()).await;
        for index in 0..3 {
            for read in [
                Read::LINEARIZABLE,
                any(Consistency::Linearizable),
                any(Consistency::Session(seen)),
                any(Consistency::Bounded(Duration::ZERO)),
                Read::at(seen),
                Read { any_replica: true, ..Read::at(seen) },
            ] {
                let got = execute(cluster.node(index), get("c", read)).await.unwrap();
                let Response::Got(Some((_, record))) = got else { panic!("{read:?}: {got:?}") };
                assert_eq!(record.value, round.to_string(), "{read:?} at node {index}");
            }
            let local = execute(cluster.node(index), get("c", any(Consistency::Local))).await;
            assert!(matches!(local, Ok(Response::Got(_))), "{local:?}");
        }
    }
    let refused = execute(cluster.node(0), get("c", any(Consistency::Lease))).await.unwrap_err();
    assert!(refused.message.contains("does not allow"), "{refused}");
    let forged = any(Consistency::Session(Revision::from_unix_ms(u64::MAX / 2)));
    let refused = execute(cluster.node(0), get("c", forged)).await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::InvalidArgument, "{refused}");
    let page = ScanPage { shard: ShardId(77), ..ScanPage::default() };
    assert_eq!(execute(cluster.node(0), Request::Scan(page)).await.unwrap_err().kind, ErrorKind::NotFound);
    let snapshot = execute(cluster.node(0), Request::Snapshot(Vec::new())).await.unwrap();
    let Response::Snapshot(at) = snapshot else { panic!("{snapshot:?}") };
    for shard in cluster.node(0).routing().unwrap().ring.shards() {
        let page = ScanPage { shard: *shard, read: Read::at(at), ..ScanPage::default() };
        let found = execute(cluster.node(1), Request::Scan(page)).await.unwrap();
        assert!(matches!(found, Response::Page(Page { next: None, .. })), "{found:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_in_a_session_happens_once() {
    let cluster = Cluster::of_three().await;
    let node = cluster.node(0);
    let shard = node.routing().unwrap().ring.shard_of(&key("{o}a"));
    let opened = execute(node, Request::OpenSession(shard)).await.unwrap();
    let Response::Session(Outcome::SessionOpened(session)) = opened else { panic!("{opened:?}") };
    let position = SessionPosition { session, sequence: SequenceNumber(1), oldest_open: SequenceNumber(1) };
    let op = WriteOp::Txn(Txn { then: vec![txn_put("{o}a", "1")], ..Txn::default() });
    let request = Request::write(Write { session: Some(position), op });
    let first = execute(node, request.clone()).await.unwrap();
    put_revision(node, "{o}a", "2").await;
    assert_eq!(execute(cluster.node(1), request).await.unwrap(), first);
    assert_eq!(value(node, "{o}a").await.as_deref(), Some("2"));
}

/// Tens of thousands may wait in a node at a time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_waits_takes_little_memory() {
    let cluster = Cluster::of_three().await;
    let node = cluster.node(0);
    let (request, now) = (get("a", Read::LINEARIZABLE), Instant::now());
    let group = node.replicas().unwrap().group(GroupId(1)).unwrap();
    let served = size_of_val(&node.serve_unbounded(&group, request.clone(), now));
    let routed = size_of_val(&node.execute(request, now));
    assert!(served + routed < 5 << 10, "{served} and {routed} bytes");
}
