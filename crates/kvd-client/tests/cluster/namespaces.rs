//! Namespaces: a client that sees a part of the keys as if it were all.

use futures::TryStreamExt as _;
use kvd_client::{Client, Compare, TxnOp, TxnResult};

use crate::fake::Fake;

#[tokio::test]
async fn a_namespace_is_a_world_of_its_own() {
    let fake = Fake::new(2, 3);
    let client = Client::connect(fake.endpoints()).await.unwrap();
    let app = client.namespace("app/");
    let inner = app.namespace("x/");
    for key in ["app", "app/", "app/a", "app/x/b", "app/{t}1", "app0", "b"] {
        client.put(key, key).await.unwrap();
    }
    let names = async |client: &Client| -> Vec<String> {
        let rows = client.scan_all().collect().await.unwrap();
        rows.into_iter().map(|(key, _)| String::from_utf8(key.as_bytes().to_vec()).unwrap()).collect()
    };
    assert_eq!(names(&app).await, ["a", "x/b", "{t}1"]);
    assert_eq!(names(&inner).await, ["b"]);
    assert_eq!(app.get("a").await.unwrap().unwrap().value, "app/a");
    assert_eq!(app.batch_get(["x/b", "b"]).await.unwrap().iter().flatten().count(), 1);
    assert!(app.get("").await.is_err(), "no key is empty");

    let mut changes = inner.watch_prefix("").stream();
    changes.started().await.unwrap();
    let done = app
        .txn()
        .when(Compare::exists("{t}1"))
        .then(TxnOp::get("{t}1"))
        .then(TxnOp::delete("{t}1"))
        .await
        .unwrap();
    assert!(done.succeeded);
    assert!(matches!(&done.results[..], [TxnResult::Got(Some(_)), TxnResult::Deleted { existed: true, .. }]));
    app.delete("x/b").await.unwrap();
    let event = loop {
        if let Some(event) = changes.try_next().await.unwrap().unwrap().events.pop() {
            break event;
        }
    };
    assert_eq!((event.key.as_bytes(), event.record), (&b"b"[..], None));

    let lease = app.grant_lease(std::time::Duration::from_secs(9)).await.unwrap();
    app.put("leased", "").lease(lease.id()).await.unwrap();
    client.put("leased", "").lease(lease.id()).await.unwrap();
    assert_eq!(app.lease_keys(lease.id()).await.unwrap().len(), 1);
    assert_eq!(client.lease_keys(lease.id()).await.unwrap().len(), 2);

    assert_eq!(app.delete_prefix("").await.unwrap(), 2);
    assert_eq!(names(&client).await, ["app", "app/", "app0", "b", "leased"]);
}
