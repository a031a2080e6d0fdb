//! Transactions.

use std::time::Duration;

use kvd_client::{Client, Compare, ErrorKind, Revision, TxnOp, TxnResult};

use crate::fake::{Fake, Fault};

async fn cluster(shards: u32) -> (Fake, Client) {
    let fake = Fake::new(2, shards);
    let client = Client::connect(fake.endpoints()).await.unwrap();
    (fake, client)
}

#[tokio::test]
async fn a_transaction_does_one_thing_or_the_other() {
    let (_fake, client) = cluster(4).await;
    let put = client.put("{t}a", "1").await.unwrap();
    let done = client
        .txn()
        .when(Compare::value("{t}a").equal("1"))
        .when(Compare::revision("{t}a").equal(put.revision))
        .when(Compare::create_revision("{t}a").less(put.revision.next()))
        .when(Compare::version("{t}a").greater(0_u64))
        .when(Compare::lease("{t}a").equal(0))
        .when(Compare::value("{t}a").not_equal("2"))
        .when(Compare::exists("{t}a"))
        .when(Compare::absent("{t}b"))
        .then(TxnOp::put("{t}a", "2").return_previous())
        .then(TxnOp::put("{t}b", "3").ttl(Duration::from_secs(9)))
        .then(TxnOp::get("{t}b"))
        .or_else(TxnOp::delete("{t}a"))
        .await
        .unwrap();
    assert!(done.succeeded);
    let [
        TxnResult::Put { previous: Some(previous), version: 2, .. },
        TxnResult::Put { .. },
        TxnResult::Got(Some(got)),
    ] = &done.results[..]
    else {
        panic!("{:?}", done.results);
    };
    assert_eq!((&previous.value[..], &got.value[..], got.revision), (&b"1"[..], &b"3"[..], done.revision));
    assert!(got.expires_at_age_ms.is_some());

    let not = client
        .txn()
        .when(Compare::absent("{t}b"))
        .then(TxnOp::put("{t}b", "4"))
        .or_else(TxnOp::delete("{t}b").return_previous())
        .await
        .unwrap();
    assert!(!not.succeeded);
    assert!(matches!(&not.results[..], [TxnResult::Deleted { existed: true, previous: Some(_) }]));
    assert_eq!(client.get("{t}b").await.unwrap(), None);
}

#[tokio::test]
async fn a_wrong_transaction_fails_without_being_sent() {
    let (fake, client) = cluster(4).await;
    let far =
        (0..).map(|number| format!("far-{number}")).find(|key| fake.shard_of(key) != fake.shard_of("a"));
    let far = far.unwrap();
    let apart = client.txn().then(TxnOp::put("a", "1")).then(TxnOp::get(&far)).await.unwrap_err();
    assert_eq!(apart.kind, ErrorKind::InvalidArgument);
    assert!(apart.message.contains(&far) && apart.message.contains("hash tag"), "{apart}");
    for error in [
        client.txn().await.unwrap_err(),
        client.txn().when(Compare::exists("")).then(TxnOp::get("a")).await.unwrap_err(),
        client.txn().then(TxnOp::put("a", "1")).then(TxnOp::delete("a")).await.unwrap_err(),
        client.txn().then(TxnOp::put("a", vec![0; 2 << 20])).await.unwrap_err(),
    ] {
        assert_eq!(error.kind, ErrorKind::InvalidArgument, "{error}");
    }
    assert_eq!(fake.world.lock().asked, [0, 0]);
}

#[tokio::test]
async fn a_transaction_whose_answer_was_lost_happens_once() {
    let (fake, client) = cluster(1).await;
    client.put("warm", "up").await.unwrap();
    fake.inject([Fault::BreakAfter, Fault::BreakBefore]);
    let add = client.txn().when(Compare::absent("a")).then(TxnOp::put("a", "1")).await.unwrap();
    assert!(add.succeeded, "the retry gets the first outcome");
    assert!(add.revision > Revision::ZERO);
    assert_eq!(fake.applied_once(), 2);
}
