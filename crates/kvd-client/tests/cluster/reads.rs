//! How reads are asked for, and of whom.

use std::time::Duration;

use futures::future::try_join_all;
use kvd_client::{Client, Config, Consistency, Revision, SessionToken};

use crate::fake::Fake;

#[tokio::test]
async fn a_session_reads_what_its_client_has_seen() {
    let fake = Fake::new(2, 2);
    let client = Client::connect(fake.endpoints()).await.unwrap();
    let put = client.put("a", "1").await.unwrap();
    assert!(client.get("a").session().await.unwrap().is_some());
    let other = Client::connect(fake.endpoints()).await.unwrap();
    other.get("a").session().await.unwrap();
    // In another process.
    let token: SessionToken = client.session_token().to_string().parse().unwrap();
    let third = Client::connect(fake.endpoints()).await.unwrap();
    third.see(&token).unwrap();
    third.batch_get(["a"]).session().await.unwrap();

    let world = fake.world.lock();
    let wanted: Vec<_> = world.reads.iter().map(|read| read.consistency).collect();
    let seen = [put.revision, Revision::ZERO, put.revision].map(Consistency::Session);
    assert_eq!(wanted, seen);
    assert!(world.reads.iter().all(|read| read.any_replica));
}

#[tokio::test]
async fn reads_ask_for_what_they_were_told() {
    let fake = Fake::new(1, 1);
    let client = Client::connect(fake.endpoints()).await.unwrap();
    let first = client.put("a", "1").await.unwrap();
    client.put("a", "2").ttl(Duration::from_millis(1500)).await.unwrap();

    let old = client.get("a").at(first.revision).await.unwrap().unwrap();
    assert_eq!(old.value, "1");
    let found = client.get("a").with_served().await.unwrap();
    assert_eq!(found.time_left(), Some(Duration::from_millis(1500)));
    assert_eq!(found.served.shard, fake.shard_of("a"));
    let staleness = Duration::from_secs(3);
    client.get("a").bounded_staleness(staleness).await.unwrap();
    client.get("a").local().await.unwrap();
    client.get("a").consistency(Consistency::Lease).await.unwrap();
    client.get("a").linearizable().from_any_replica().await.unwrap();

    let world = fake.world.lock();
    let asked: Vec<_> =
        world.reads.iter().map(|read| (read.consistency, read.any_replica, read.at)).collect();
    assert_eq!(
        asked,
        [
            (Consistency::Linearizable, false, Some(first.revision)),
            (Consistency::Linearizable, false, None),
            (Consistency::Bounded(staleness), true, None),
            (Consistency::Local, true, None),
            (Consistency::Lease, false, None),
            (Consistency::Linearizable, true, None),
        ]
    );
}

#[tokio::test]
async fn replicas_are_asked_in_turn_or_in_the_same_zone() {
    let fake = Fake::new(4, 1);
    fake.world.lock().zones = ["a", "b", "b", "c"].map(String::from).to_vec();
    let read = |client: Client| async move {
        let reads = (0..60).map(|_| client.get("a").from_any_replica().into_future());
        try_join_all(reads).await.unwrap();
    };
    read(Client::connect(fake.endpoints()).await.unwrap()).await;
    let asked = std::mem::replace(&mut fake.world.lock().asked, vec![0; 4]);
    assert_eq!(asked, [15; 4], "each in turn");

    read(Client::connect(Config::new(fake.endpoints()).zone("b")).await.unwrap()).await;
    let asked = std::mem::replace(&mut fake.world.lock().asked, vec![0; 4]);
    assert_eq!(asked, [0, 30, 30, 0], "those nearby");

    read(Client::connect(Config::new(fake.endpoints()).zone("nowhere")).await.unwrap()).await;
    assert_eq!(fake.world.lock().asked, [15; 4]);
}

#[tokio::test]
async fn when_the_near_replica_is_gone_another_one_is_asked() {
    let mut fake = Fake::new(3, 1);
    fake.world.lock().zones = ["a", "b", "c"].map(String::from).to_vec();
    let client = Client::connect(Config::new(fake.endpoints()).zone("b")).await.unwrap();
    client.put("a", "1").await.unwrap();
    fake.kill(1);
    for _ in 0..10 {
        assert!(client.get("a").from_any_replica().await.unwrap().is_some());
    }
}
