//! What requests do when nodes redirect, refuse, hang, break off or die.

use std::time::Duration;

use kvd_client::{Client, Config, Error, ErrorKind};
use tokio::time::Instant;

use crate::fake::{Fake, Fault};

/// Long enough for a loaded machine, short enough for a test that waits for it.
const DEADLINE: Duration = Duration::from_secs(20);

async fn cluster(nodes: usize, shards: u32) -> (Fake, Client) {
    let fake = Fake::new(nodes, shards);
    let client = client_of(&fake, DEADLINE).await;
    (fake, client)
}

async fn client_of(fake: &Fake, deadline: Duration) -> Client {
    let config = Config::from(fake.endpoints()).deadline(deadline).try_timeout(Duration::from_millis(300));
    Client::connect(config).await.unwrap()
}

fn overloaded(retry_after: Duration) -> Fault {
    Fault::Refuse(Error::overloaded(retry_after, "full"))
}

fn unavailable() -> Fault {
    Fault::Refuse(Error::unavailable("an election"))
}

#[tokio::test]
async fn a_redirect_is_followed_and_remembered() {
    let (fake, client) = cluster(3, 1).await;
    {
        let mut world = fake.world.lock();
        world.redirects = true;
        // Told to nobody: the client still thinks that node 0 leads.
        world.leaders.insert(1.into(), 2);
    }
    client.put("a", "1").await.unwrap();
    let asked = |fake: &Fake| fake.world.lock().asked.clone();
    let first = asked(&fake);
    assert_eq!(first[2], 1);
    for _ in 0..10 {
        client.get("a").await.unwrap();
    }
    assert_eq!(asked(&fake), [first[0], first[1], first[2] + 10], "straight to the leader");
}

#[tokio::test]
async fn a_reply_tells_of_the_leader() {
    let (fake, client) = cluster(3, 1).await;
    fake.world.lock().leaders.insert(1.into(), 1);
    client.get("a").await.unwrap();
    let before = fake.world.lock().asked.clone();
    for _ in 0..10 {
        client.get("a").await.unwrap();
    }
    assert_eq!(fake.world.lock().asked, [before[0], before[1] + 10, before[2]]);
}

#[tokio::test]
async fn a_change_of_leader_is_pushed() {
    let (fake, client) = cluster(3, 1).await;
    fake.change(|world| {
        world.redirects = true;
        world.leaders.insert(1.into(), 1);
    });
    let pushed = async {
        while client.topology().shards[0].leader != Some(kvd_client::NodeId(2)) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, pushed).await.unwrap();
    client.get("a").await.unwrap();
    assert_eq!(fake.world.lock().asked, [0, 1, 0]);
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_retried_under_its_number() {
    let (fake, client) = cluster(3, 1).await;
    client.put("a", "0").await.unwrap();
    fake.inject([Fault::BreakAfter, Fault::BreakBefore]);
    let put = client.put("a", "1").await.unwrap();
    assert_eq!(put.version, 2, "the first outcome");
    assert_eq!(fake.applied_once(), 2);
    let world = fake.world.lock();
    let tries: Vec<_> = world.seen.iter().filter(|seen| seen.sequence.get() == 2).collect();
    assert_eq!(tries.len(), 3);
    assert!(tries.iter().all(|seen| seen.session == tries[0].session));
    assert!(tries.iter().all(|seen| seen.oldest_open.get() == 2));
}

#[tokio::test]
async fn when_a_node_hangs_another_is_asked() {
    let (fake, client) = cluster(3, 1).await;
    client.put("a", "0").await.unwrap();
    fake.world.lock().silent.push(0);
    let put = client.put("a", "1").await.unwrap();
    assert_eq!(put.version, 2);
    assert!(client.get("a").await.unwrap().is_some());
    fake.inject([Fault::HangAfter]);
    let put = client.put("a", "2").await.unwrap();
    assert_eq!(put.version, 3);
    assert_eq!(fake.applied_once(), 3);
}

#[tokio::test]
async fn when_a_node_dies_another_is_asked() {
    let (mut fake, client) = cluster(3, 3).await;
    client.put("a", "0").await.unwrap();
    let shard = fake.shard_of("a");
    let leader = fake.world.lock().leaders[&shard];
    fake.kill(leader);
    client.put("a", "1").await.unwrap();
    let fresh = client_of(&fake, DEADLINE).await;
    assert_eq!(&fresh.get("a").await.unwrap().unwrap().value[..], b"1");
    assert_eq!(fake.applied_once(), 2);
}

#[tokio::test]
async fn overload_is_waited_out_as_long_as_asked() {
    let (fake, client) = cluster(1, 1).await;
    client.put("a", "0").await.unwrap();
    let pause = Duration::from_millis(150);
    fake.inject([overloaded(pause), overloaded(pause)]);
    let started = Instant::now();
    client.put("a", "1").await.unwrap();
    assert!(started.elapsed() >= pause * 2);
    assert_eq!(fake.applied_once(), 2);

    fake.inject([overloaded(DEADLINE * 2)]);
    let error = client.put("a", "2").await.unwrap_err();
    assert!(matches!(error.kind, ErrorKind::Overloaded { .. }), "{error}");
    assert!(!error.outcome_unknown());
}

#[tokio::test]
async fn a_request_to_the_wrong_shard_is_made_again() {
    let (fake, client) = cluster(2, 2).await;
    let wrong = || Fault::Refuse(Error::new(ErrorKind::WrongShard(1.into()), "the ring has changed"));
    fake.inject([wrong(), wrong()]);
    assert_eq!(client.put("a", "1").await.unwrap().version, 1);
    assert_eq!(fake.applied_once(), 1);
}

#[tokio::test]
async fn a_write_refused_for_as_long_as_it_is_tried_was_not_applied() {
    let fake = Fake::new(2, 1);
    let client = client_of(&fake, Duration::from_millis(500)).await;
    fake.inject(std::iter::repeat_n(unavailable(), 10_000));
    let error = client.put("a", "1").await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable, "{error}");
    assert!(error.message.contains("not applied") && error.message.contains("an election"), "{error}");
    assert_eq!(fake.applied_once(), 0);
}

#[tokio::test]
async fn a_write_never_answered_is_unknown_and_a_read_unavailable() {
    let fake = Fake::new(2, 1);
    let client = client_of(&fake, Duration::from_millis(700)).await;
    client.put("a", "0").await.unwrap();
    fake.world.lock().silent.extend([0, 1]);
    let (write, read) = tokio::join!(client.put("a", "1").into_future(), client.get("a").into_future());
    let error = write.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert_eq!(read.unwrap_err().kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn a_refusal_for_good_after_a_lost_answer_leaves_the_outcome_unknown() {
    let (fake, client) = cluster(2, 1).await;
    client.put("a", "0").await.unwrap();
    fake.inject([
        Fault::BreakAfter,
        Fault::Refuse(Error::new(ErrorKind::PermissionDenied, "no more")),
        Fault::Refuse(Error::new(ErrorKind::PermissionDenied, "no more")),
    ]);
    assert!(client.put("a", "1").await.unwrap_err().outcome_unknown());
    assert_eq!(client.put("a", "1").await.unwrap_err().kind, ErrorKind::PermissionDenied);
}

#[tokio::test]
async fn an_expired_session_is_replaced_where_that_is_safe() {
    let (fake, client) = cluster(1, 1).await;
    client.put("a", "0").await.unwrap();
    fake.inject([Fault::ExpireSessions]);
    assert_eq!(client.put("a", "1").await.unwrap().version, 2);
    assert_eq!(fake.world.lock().sessions_opened, 2);

    // Refused tries leave it safe.
    fake.inject([unavailable(), Fault::ExpireSessions]);
    assert_eq!(client.put("a", "2").await.unwrap().version, 3);

    // A lost one does not: it may have been applied.
    fake.inject([Fault::BreakAfter, Fault::ExpireSessions]);
    let error = client.put("a", "3").await.unwrap_err();
    assert!(error.outcome_unknown(), "{error}");
    assert_eq!(client.put("a", "4").await.unwrap().version, 5);
    assert_eq!(fake.applied_once(), 5);
}

#[tokio::test]
async fn a_dropped_write_keeps_its_number_open_until_its_deadline() {
    let (fake, client) = cluster(1, 1).await;
    client.put("a", "0").await.unwrap();
    fake.inject([Fault::HangBefore]);
    let dropped = client.put("a", "1").deadline(Duration::from_secs(3));
    let until_sent = async {
        while fake.world.lock().seen.len() < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        _ = dropped.into_future() => panic!("it is not answered"),
        () = until_sent => {}
    }
    let oldest_open = async || {
        client.put("a", "2").await.unwrap();
        fake.world.lock().seen.last().unwrap().oldest_open.get()
    };
    assert_eq!(oldest_open().await, 2);
    let passes = async {
        while oldest_open().await <= 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(DEADLINE, passes).await.unwrap();
    assert_eq!(fake.world.lock().seen.iter().filter(|seen| seen.sequence.get() == 2).count(), 1);
}

#[tokio::test]
async fn a_dropped_write_that_is_answered_lets_go() {
    let (fake, client) = cluster(1, 1).await;
    client.put("a", "0").await.unwrap();
    let seen = |fake: &Fake| fake.world.lock().seen.len();
    tokio::select! {
        biased;
        _ = client.put("a", "1").into_future() => {}
        () = async { while seen(&fake) < 2 { tokio::task::yield_now().await; } } => {}
    }
    let passes = async {
        loop {
            client.put("a", "2").await.unwrap();
            let position = *fake.world.lock().seen.last().unwrap();
            if position.oldest_open == position.sequence {
                break;
            }
        }
    };
    tokio::time::timeout(DEADLINE, passes).await.unwrap();
    fake.applied_once();
}

#[tokio::test]
async fn a_cluster_without_shards_is_waited_for() {
    let fake = Fake::new(1, 1);
    fake.world.lock().reports_ring = false;
    let client = client_of(&fake, DEADLINE).await;
    let appears = async {
        tokio::task::yield_now().await;
        fake.change(|world| world.reports_ring = true);
    };
    let (found, ()) = tokio::join!(client.get("a").into_future(), appears);
    assert_eq!(found.unwrap(), None);
}

#[tokio::test]
async fn dead_endpoints_are_passed_over_and_named_if_there_is_no_other() {
    let mut fake = Fake::new(2, 1);
    fake.kill(0);
    let client = client_of(&fake, DEADLINE).await;
    client.put("a", "1").await.unwrap();
    fake.kill(1);
    let error = Client::connect(fake.endpoints()).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    for endpoint in fake.endpoints() {
        assert!(error.message.contains(&endpoint), "{error}");
    }
}
