//! Scans and deletions over many shards.

use futures::{StreamExt as _, TryStreamExt as _, future::try_join_all};
use kvd_client::{Client, ErrorKind, Filter, Key, Record, Revision, Token};

use crate::fake::{Fake, Fault, PAGE_ROWS};

async fn filled(shards: u32, keys: usize) -> (Fake, Client, Vec<String>) {
    let fake = Fake::new(2, shards);
    let client = Client::connect(fake.endpoints()).await.unwrap();
    let keys: Vec<String> = (0..keys).map(|number| format!("a/{number:03}")).collect();
    try_join_all(keys.iter().map(|key| client.put(key, "v").into_future())).await.unwrap();
    (fake, client, keys)
}

fn names(rows: &[(Key, Record)]) -> Vec<String> {
    rows.iter().map(|(key, _)| String::from_utf8(key.as_bytes().to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn a_scan_is_of_one_moment() {
    let (_fake, client, keys) = filled(5, 100).await;
    let mut rows = client.scan_prefix("a/").stream();
    assert_eq!(rows.revision(), None);
    let first = rows.try_next().await.unwrap().unwrap();
    let revision = rows.revision().unwrap();
    // Whatever happens now, it is not seen.
    client.delete_prefix("a/05").await.unwrap();
    client.put("a/070", "new").await.unwrap();
    client.put("a/zzz", "new").await.unwrap();
    let mut all = vec![first];
    all.extend(rows.try_collect::<Vec<_>>().await.unwrap());
    assert_eq!(names(&all), keys);
    assert!(all.iter().all(|(_, record)| record.value == "v"));
    let again = client.scan_prefix("a/").at(revision).collect().await.unwrap();
    assert_eq!(again, all);
    assert_eq!(client.scan_prefix("a/").count().await.unwrap(), 91);
    assert_eq!(client.scan_prefix("a/").at(revision).count().await.unwrap(), 100);
}

#[tokio::test]
async fn a_scan_goes_down_filters_and_leaves_out_values() {
    let (_fake, client, keys) = filled(4, 50).await;
    let mut reversed = keys.clone();
    reversed.reverse();
    let down = client.scan_all().descending().keys_only().collect().await.unwrap();
    assert_eq!(names(&down), reversed);
    assert!(down.iter().all(|(_, record)| record.value.is_empty()));
    assert_eq!(
        names(&client.scan("a/010".."a/020").descending().limit(3).collect().await.unwrap()),
        ["a/019", "a/018", "a/017"]
    );

    let put = client.put("a/025", "new").await.unwrap();
    let filter = Filter { revision_min: Some(put.revision), ..Filter::default() };
    assert_eq!(names(&client.scan_all().filter(filter).collect().await.unwrap()), ["a/025"]);
    assert_eq!(client.scan_all().filter(filter).count().await.unwrap(), 1);
    let filter = Filter { create_revision_min: Some(put.revision), ..Filter::default() };
    assert_eq!(client.scan_all().filter(filter).count().await.unwrap(), 0);
}

#[tokio::test]
async fn a_scan_goes_on_where_another_one_stopped() {
    let (_fake, client, keys) = filled(3, 40).await;
    for descending in [false, true] {
        let scan =
            || if descending { client.scan_prefix("a/").descending() } else { client.scan_prefix("a/") };
        let mut rows = scan().stream();
        let mut all = Vec::new();
        for _ in 0..7 {
            all.push(rows.try_next().await.unwrap().unwrap());
        }
        let token = rows.token().unwrap().to_string();
        drop(rows);
        client.put("a/020", "later").await.unwrap();
        let mut rows = scan().resume(token.parse::<Token>().unwrap()).limit(5).stream();
        let part: Vec<_> = rows.by_ref().try_collect().await.unwrap();
        assert_eq!(part.len(), 5);
        all.extend(part);
        let mut rest = scan().resume(rows.token().unwrap()).stream();
        all.extend(rest.by_ref().try_collect::<Vec<_>>().await.unwrap());
        let end = scan().resume(rest.token().unwrap()).collect().await.unwrap();
        assert_eq!(end, []);
        let mut expected = keys.clone();
        if descending {
            expected.reverse();
        }
        assert_eq!(names(&all), expected);
        let other = client.scan_prefix("a").resume(token.parse().unwrap()).collect().await.unwrap_err();
        assert!(other.message.contains("another request"), "{other}");
    }
    let error = client.scan_all().resume(Token::new("nonsense")).collect().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_scan_of_shards_that_were_never_written_is_of_one_moment_too() {
    let (_fake, client, _) = filled(2, 0).await;
    let mut rows = client.scan_all().stream();
    assert!(rows.next().await.is_none());
    client.put("a", "1").await.unwrap();
    assert_eq!(client.scan_all().at(rows.revision().unwrap()).count().await.unwrap(), 0);
    assert_eq!(client.get("a").at(Revision::ZERO).await.unwrap(), None);
}

#[tokio::test]
async fn an_empty_range_is_empty() {
    let (_fake, client, _) = filled(3, 3).await;
    let mut rows = client.scan("b".."a").stream();
    assert!(rows.next().await.is_none());
    assert!(rows.revision().unwrap() > Revision::ZERO);
    assert_eq!(client.scan("b".."a").count().await.unwrap(), 0);
    assert_eq!(client.delete_range("b".."a").await.unwrap(), 0);
}

#[tokio::test]
async fn a_range_is_deleted_step_by_step() {
    let (fake, client, _) = filled(3, 60).await;
    client.put("b", "stays").await.unwrap();
    let steps: Vec<u64> = client.delete_prefix("a/").stream().try_collect().await.unwrap();
    assert!(steps.len() >= 60 / PAGE_ROWS && steps.is_sorted(), "{steps:?}");
    assert_eq!(steps.last(), Some(&60));
    assert_eq!(names(&client.scan_all().collect().await.unwrap()), ["b"]);
    assert_eq!(client.delete_prefix("a/").await.unwrap(), 0);
    assert_eq!(client.delete_range("a".."c").await.unwrap(), 1);
    fake.applied_once();
}

#[tokio::test]
async fn a_deletion_that_fails_says_how_far_it_came() {
    let (fake, client, _) = filled(1, 20).await;
    let denied = kvd_client::Error::new(ErrorKind::PermissionDenied, "no");
    fake.inject([Fault::Nothing, Fault::BreakAfter, Fault::Nothing, Fault::Refuse(denied)]);
    let error = client.delete_prefix("a/").await.unwrap_err();
    assert_eq!(error.error.kind, ErrorKind::PermissionDenied);
    assert_eq!(error.deleted, 2 * PAGE_ROWS as u64, "the step whose answer was lost counts once");
    assert_eq!(client.delete_prefix("a/").await.unwrap(), 20 - error.deleted);
}
