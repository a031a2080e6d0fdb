//! Locks and elections.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kvd_client::{Client, ErrorKind, TxnOp};

use crate::fake::Fake;

const TTL: Duration = Duration::from_secs(30);

async fn cluster() -> (Fake, Client) {
    let fake = Fake::new(2, 3);
    let client = Client::connect(fake.endpoints()).await.unwrap();
    (fake, client)
}

#[tokio::test]
async fn a_lock_has_one_holder_at_a_time_in_order() {
    let (fake, client) = cluster().await;
    let first = client.lock("jobs", TTL).value("me").await.unwrap();
    assert!(first.is_held());
    assert!(client.lock("jobs", TTL).within(Duration::from_millis(200)).await.unwrap().is_none());
    assert_eq!(
        client.scan_prefix("{kvd-lock:jobs}").count().await.unwrap(),
        1,
        "who gives up leaves the queue"
    );

    // Two wait; they get it in the order in which they came.
    let mut waiting = Vec::new();
    for place in 1..=2 {
        waiting.push(tokio::spawn(client.lock("jobs", TTL).into_future()));
        while client.scan_prefix("{kvd-lock:jobs}").count().await.unwrap() <= place {
            tokio::task::yield_now().await;
        }
    }
    let third = waiting.pop().unwrap();
    let second = waiting.pop().unwrap();
    let token = first.token();
    assert!(first.unlock().await.unwrap());
    let second = second.await.unwrap().unwrap();
    assert!(second.token() > token);
    assert!(!third.is_finished());
    let token = second.token();
    assert!(second.unlock().await.unwrap());
    let third = third.await.unwrap().unwrap();
    assert!(third.token() > token);
    third.unlock().await.unwrap();
    assert!(client.list_leases().try_next().await.unwrap().is_none(), "their leases are gone");
    fake.applied_once();
}

#[tokio::test]
async fn a_lost_lock_fences_its_holder_off() {
    let (fake, client) = cluster().await;
    let lease = client.grant_lease(TTL).await.unwrap();
    let kept = lease.keep_alive_forever();
    let lock = client.lock("jobs", TTL).lease(&kept).await.unwrap();
    let write = || client.txn().when(lock.fence()).then(TxnOp::put("{kvd-lock:jobs}done", "1")).into_future();
    assert!(write().await.unwrap().succeeded);
    fake.world.lock().store.revoke(lease.id()).unwrap();
    let next = client.lock("jobs", TTL).await.unwrap();
    assert!(!write().await.unwrap().succeeded);
    assert!(next.token() > lock.token());
    assert!(!lock.unlock().await.unwrap());
    assert!(next.is_held());
}

#[tokio::test]
async fn who_waits_with_a_lost_lease_is_told() {
    let (fake, client) = cluster().await;
    let _held = client.lock("jobs", TTL).await.unwrap();
    let lease = client.grant_lease(Duration::from_secs(2)).await.unwrap();
    let kept = lease.keep_alive_forever();
    let waiting = tokio::spawn(client.lock("jobs", TTL).lease(&kept).into_future());
    while client.scan_prefix("{kvd-lock:jobs}").count().await.unwrap() < 2 {
        tokio::task::yield_now().await;
    }
    fake.world.lock().store.revoke(lease.id()).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_name_with_braces_is_refused() {
    let (_fake, client) = cluster().await;
    assert_eq!(client.lock("a}b", TTL).await.unwrap_err().kind, ErrorKind::InvalidArgument);
    assert_eq!(client.election("").unwrap_err().kind, ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn all_see_who_leads() {
    let (_fake, client) = cluster().await;
    let election = client.namespace("app/").election("scheduler").unwrap();
    let mut leaders = election.observe().map_ok(|leader| leader.map(|leader| leader.value));
    let mut next = async || leaders.next().await.unwrap().unwrap();
    assert_eq!(next().await, None);
    assert_eq!(election.leader().await.unwrap(), None);

    let one = election.campaign("one", TTL).await.unwrap();
    assert_eq!(next().await.unwrap(), "one");
    one.proclaim("one again").await.unwrap();
    assert_eq!(next().await.unwrap(), "one again");
    let leader = election.leader().await.unwrap().unwrap();
    assert_eq!((&leader.value[..], leader.token), (&b"one again"[..], one.token()));
    assert!(leader.key.as_bytes().starts_with(b"{kvd-election:scheduler}/"));

    let two = tokio::spawn({
        let election = election.clone();
        async move { election.campaign("two", TTL).await }
    });
    while client.scan_prefix("app/").count().await.unwrap() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(!two.is_finished());
    assert!(one.resign().await.unwrap());
    assert_eq!(next().await.unwrap(), "two");
    let two = two.await.unwrap().unwrap();
    assert!(two.is_held());
    assert!(two.resign().await.unwrap());
    assert_eq!(next().await, None);
}
