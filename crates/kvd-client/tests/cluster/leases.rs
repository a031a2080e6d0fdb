//! Leases, and how they are kept alive.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all, stream::FuturesUnordered};
use kvd_client::{Client, Config, Error, ErrorKind, KeptLease, LeaseId};

use crate::fake::{Fake, Fault};

const TTL: Duration = Duration::from_secs(60);

async fn cluster() -> (Fake, Client) {
    let fake = Fake::new(2, 3);
    let client = Client::connect(fake.endpoints()).await.unwrap();
    (fake, client)
}

#[tokio::test]
async fn keys_go_with_their_lease() {
    let (_fake, client) = cluster().await;
    let lease = client.grant_lease(TTL).await.unwrap();
    assert!(lease.id().get() > 0 && lease.id().get() < 1 << 63);
    try_join_all((0..20).map(|key| client.put(format!("k{key}"), "v").lease(lease.id()).into_future()))
        .await
        .unwrap();
    lease.keep_alive().await.unwrap();
    let status = client.time_to_live(lease.id()).await.unwrap().unwrap();
    assert_eq!((status.ttl, status.shards.len()), (TTL, 3));
    assert_eq!(client.lease_keys(lease.id()).await.unwrap().len(), 20);
    assert!(lease.revoke().await.unwrap());
    assert_eq!(client.scan_all().count().await.unwrap(), 0);
    assert!(!lease.revoke().await.unwrap(), "there is none any more");
    assert_eq!(lease.keep_alive().await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(client.time_to_live(lease.id()).await.unwrap(), None);
    assert_eq!(client.lease_keys(lease.id()).await.unwrap_err().kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_lease_of_a_given_id_is_granted_once() {
    let (fake, client) = cluster().await;
    fake.inject([Fault::Nothing, Fault::BreakAfter]);
    client.put("warm", "up").await.unwrap();
    let lease = client.grant_lease(TTL).id(LeaseId(7)).await.unwrap();
    assert_eq!(lease.id(), LeaseId(7), "the retry gets the first outcome");
    let again = client.grant_lease(TTL).id(LeaseId(7)).await.unwrap_err();
    assert_eq!(again.kind, ErrorKind::FailedPrecondition);
    let short = client.grant_lease(Duration::from_millis(1)).await.unwrap_err();
    assert_eq!(short.kind, ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn all_leases_are_listed() {
    let (_fake, client) = cluster().await;
    let granted = (1..=50).map(|id| client.grant_lease(TTL).id(LeaseId(id)).into_future());
    try_join_all(granted).await.unwrap();
    let leases: Vec<_> = client.list_leases().try_collect().await.unwrap();
    let mut ids: Vec<_> = leases.iter().map(|lease| lease.id.get()).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=50).collect::<Vec<_>>());
}

#[tokio::test]
async fn thousands_of_leases_are_kept_alive_together() {
    let fake = Fake::new(2, 3);
    let config = Config::new(fake.endpoints()).deadline(Duration::from_secs(60));
    let client = Client::connect(config).await.unwrap();
    let ttl = Duration::from_secs(15);
    let grant = async || Ok::<_, Error>(client.grant_lease(ttl).await?.keep_alive_forever());
    // More than are ever under way.
    let kept = try_join_all((0..3000).map(|_| grant())).await.unwrap();
    let until: Vec<_> = kept.iter().map(KeptLease::held_until).collect();
    // Until each has been kept alive.
    let renewed = async {
        while kept.iter().zip(&until).any(|(kept, until)| kept.held_until() <= *until) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), renewed).await.unwrap();
    assert!(kept.iter().all(KeptLease::is_held));
    assert!(fake.world.lock().store.kept_alive >= 3000);
}

#[tokio::test]
async fn a_lease_that_ends_is_lost() {
    let (fake, client) = cluster().await;
    let lease = client.grant_lease(Duration::from_secs(3)).await.unwrap();
    let kept = lease.keep_alive_forever();
    assert!(kept.is_held());
    fake.world.lock().store.revoke(lease.id()).unwrap();
    let error = kept.lost().await;
    assert_eq!(error.kind, ErrorKind::NotFound);
    assert!(!kept.is_held());
}

#[tokio::test]
async fn a_lease_that_can_not_be_kept_alive_is_lost_in_time() {
    let (mut fake, client) = cluster().await;
    let lease = client.grant_lease(Duration::from_secs(2)).await.unwrap();
    let kept = lease.keep_alive_forever();
    fake.kill(0);
    fake.kill(1);
    let error = kept.lost().await;
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(tokio::time::Instant::now() >= kept.held_until());
    assert!(!kept.is_held());
}

#[tokio::test]
async fn a_lease_is_kept_alive_though_its_shard_has_too_much_to_do() {
    let fake = Fake::new(1, 1);
    let config = Config::from(fake.endpoints()).try_timeout(Duration::from_millis(300));
    let client = Client::connect(config).await.unwrap();
    let lease = client.grant_lease(TTL).await.unwrap();
    fake.inject([Fault::Refuse(Error::overloaded(Duration::from_millis(1), "full"))]);
    client.get("a").await.unwrap();
    fake.inject(vec![Fault::HangBefore; 1000]);
    let mut gets: FuturesUnordered<_> = (0..1000).map(|_| client.get("a").into_future()).collect();
    let refused = gets.next().await.unwrap().unwrap_err();
    assert!(matches!(refused.kind, ErrorKind::Overloaded { .. }), "{refused}");
    let keep = async {
        fake.change(|world| world.faults.clear());
        lease.keep_alive().await
    };
    let (kept, ()) = tokio::join!(keep, gets.map(drop).collect::<()>());
    kept.unwrap();
}
