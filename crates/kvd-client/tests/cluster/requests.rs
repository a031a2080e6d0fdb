//! What requests give, against a cluster that works.

use futures::{TryStreamExt as _, future::try_join_all};
use kvd_client::{Client, Conditional, ErrorKind, NodeId, Revision, ShardId};

use crate::fake::{Fake, PAGE_ROWS};

async fn cluster(nodes: usize, shards: u32) -> (Fake, Client) {
    let fake = Fake::new(nodes, shards);
    let client = Client::connect(fake.endpoints()).await.unwrap();
    (fake, client)
}

#[tokio::test]
async fn a_key_is_written_read_and_removed() {
    let (fake, client) = cluster(3, 4).await;
    assert_eq!(client.get("a").await.unwrap(), None);
    let put = client.put("a", "1").await.unwrap();
    assert_eq!((put.version, put.create_revision, put.previous), (1, put.revision, None));
    let record = client.get("a").await.unwrap().unwrap();
    assert_eq!((&record.value[..], record.revision), (&b"1"[..], put.revision));

    let second = client.put("a", "2").return_previous().await.unwrap();
    assert_eq!(second.version, 2);
    assert_eq!(second.previous, Some(record));

    let deleted = client.delete("a").return_previous().await.unwrap();
    assert!(deleted.deleted());
    assert_eq!(deleted.previous.unwrap().revision, second.revision);
    assert!(!client.delete("a").await.unwrap().deleted());
    assert_eq!(client.get("a").await.unwrap(), None);
    assert_eq!(fake.applied_once(), 4);
}

#[tokio::test]
async fn a_condition_that_fails_is_an_answer() {
    let (_fake, client) = cluster(1, 1).await;
    let put = client.put("a", "1").if_absent().await.unwrap().done().unwrap();
    let Conditional::Failed { current } = client.put("a", "2").if_absent().await.unwrap() else {
        panic!("the key exists");
    };
    assert_eq!(current.unwrap().revision, put.revision);
    assert!(!client.put("b", "2").if_revision(put.revision).await.unwrap().is_done());
    assert!(client.put("a", "2").if_revision(put.revision).await.unwrap().is_done());
    assert!(!client.delete("a").if_revision(Revision(99)).await.unwrap().is_done());
}

#[tokio::test]
async fn a_wrong_call_fails_without_being_sent() {
    let (fake, client) = cluster(1, 1).await;
    for error in [
        client.get("").await.unwrap_err(),
        client.put(vec![0; 5000], "").await.unwrap_err(),
        client.put("a", vec![0; 9 << 20]).await.unwrap_err(),
        client.batch_get(["a", ""]).await.unwrap_err(),
        client.get("a").deadline(std::time::Duration::from_secs(3600)).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
    }
    assert_eq!(fake.world.lock().asked, [0]);
}

#[tokio::test]
async fn a_batch_is_split_by_shard_and_merged_back() {
    let (_fake, client) = cluster(3, 7).await;
    let keys: Vec<String> = (0..3000).map(|number| format!("key-{number}")).collect();
    try_join_all(keys.iter().step_by(2).map(|key| client.put(key, key).into_future())).await.unwrap();
    let mut asked = keys.clone();
    asked.extend(keys[..10].iter().cloned());
    let found = client.batch_get(&asked).await.unwrap();
    assert_eq!(found.len(), asked.len());
    for (place, (key, record)) in asked.iter().zip(found).enumerate() {
        let expected = (place % 2 == 0).then(|| key.as_bytes().to_vec());
        assert_eq!(record.map(|record| record.value.to_vec()), expected, "{key}");
    }
    assert_eq!(client.batch_get(Vec::<String>::new()).await.unwrap(), []);
}

#[tokio::test]
async fn a_batch_whose_answer_is_too_large_is_read_in_halves() {
    let (fake, client) = cluster(1, 2).await;
    fake.world.lock().batch_keys_max = 3;
    let keys: Vec<String> = (0..20).map(|number| format!("key-{number}")).collect();
    try_join_all(keys.iter().map(|key| client.put(key, key).into_future())).await.unwrap();
    let found = client.batch_get(&keys).await.unwrap();
    let values: Vec<_> = found.into_iter().map(|record| record.unwrap().value).collect();
    assert_eq!(values, keys);
}

#[tokio::test]
async fn a_scan_merges_the_shards_in_key_order() {
    let (_fake, client) = cluster(2, 5).await;
    let mut keys: Vec<String> = (0..100).map(|number| format!("a/{number:03}")).collect();
    keys.extend(["a", "a0", "b/1"].map(String::from));
    try_join_all(keys.iter().map(|key| client.put(key, "v").into_future())).await.unwrap();
    keys.sort();
    assert!(keys.len() > 5 * PAGE_ROWS * 2, "each shard has several pages");

    let scanned = |rows: Vec<(kvd_client::Key, kvd_client::Record)>| -> Vec<String> {
        rows.into_iter().map(|(key, _)| String::from_utf8(key.as_bytes().to_vec()).unwrap()).collect()
    };
    assert_eq!(scanned(client.scan_all().collect().await.unwrap()), keys);
    let within: Vec<_> = keys.iter().filter(|key| key.starts_with("a/")).cloned().collect();
    assert_eq!(scanned(client.scan_prefix("a/").collect().await.unwrap()), within);
    assert_eq!(scanned(client.scan("a/010".."a/013").collect().await.unwrap()), within[10..13]);
    assert_eq!(scanned(client.scan("a/010"..="a/013").collect().await.unwrap()), within[10..=13]);
    assert_eq!(scanned(client.scan_prefix("a/").limit(41).collect().await.unwrap()), within[..41]);
    assert_eq!(scanned(client.scan("b".."a").collect().await.unwrap()), [""; 0]);
    assert_eq!(scanned(client.scan_prefix("z").collect().await.unwrap()), [""; 0]);

    let mut rows = client.scan_all().stream();
    assert_eq!(rows.try_next().await.unwrap().unwrap().0.as_bytes(), b"a");
}

#[tokio::test]
async fn the_cluster_is_described() {
    let (fake, client) = cluster(3, 4).await;
    let status = client.status().await.unwrap();
    assert_eq!((status.topology.nodes.len(), status.topology.shards.len()), (3, 4));
    assert_eq!(client.status_of(NodeId(2)).await.unwrap().node, NodeId(2));
    assert_eq!(client.status_of(NodeId(9)).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(client.locate("a").await.unwrap().shard.id, fake.shard_of("a"));
    assert_eq!(client.move_leader(ShardId(1), NodeId(3)).await.unwrap(), NodeId(3));
    assert_eq!(fake.world.lock().leaders[&ShardId(1)], 2);
}

#[tokio::test]
async fn concurrent_requests_travel_together_and_share_one_session() {
    let (fake, client) = cluster(1, 1).await;
    let puts = (0..10_000).map(|number| client.put(format!("key-{number}"), "v").into_future());
    try_join_all(puts).await.unwrap();
    assert_eq!(fake.applied_once(), 10_000);
    let world = fake.world.lock();
    assert_eq!(world.sessions_opened, 1);
    assert!(world.frames_of_many > 0);
}

#[tokio::test]
async fn closing_closes_the_sessions() {
    let (fake, client) = cluster(2, 4).await;
    try_join_all((0..100).map(|number| client.put(format!("key-{number}"), "v").into_future()))
        .await
        .unwrap();
    let clone = client.clone();
    client.close().await;
    let sessions = |world: &crate::fake::World| (world.sessions_opened, world.sessions_closed);
    assert_eq!(sessions(&fake.world.lock()), (4, 4));
    assert_eq!(clone.get("a").await.unwrap_err().kind, ErrorKind::FailedPrecondition);
}
