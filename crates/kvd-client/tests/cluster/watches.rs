//! Watches: each change once, whatever breaks.

use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use kvd_client::{Client, ErrorKind, Event, Revision, Token, WatchStream};

use crate::fake::Fake;

async fn cluster() -> (Fake, Client) {
    let fake = Fake::new(3, 3);
    let client = Client::connect(fake.endpoints()).await.unwrap();
    (fake, client)
}

/// The next so many events.
async fn events(changes: &mut WatchStream, count: usize) -> Vec<Event> {
    let mut events = Vec::new();
    while events.len() < count {
        let item = tokio::time::timeout(Duration::from_secs(20), changes.try_next()).await.unwrap();
        events.extend(item.unwrap().unwrap().events);
    }
    events
}

fn told(events: &[Event]) -> Vec<(String, Option<String>)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    events
        .iter()
        .map(|event| (text(event.key.as_bytes()), event.record.as_ref().map(|record| text(&record.value))))
        .collect()
}

#[tokio::test]
async fn what_happens_after_the_start_is_told() {
    let (_fake, client) = cluster().await;
    client.put("a/1", "before").await.unwrap();
    let mut changes = client.watch_prefix("a/").stream();
    changes.started().await.unwrap();
    client.put("a/1", "x").await.unwrap();
    client.put("b", "elsewhere").await.unwrap();
    client.delete("a/1").await.unwrap();
    let some = |key: &str, value: &str| (key.to_owned(), Some(value.to_owned()));
    assert_eq!(told(&events(&mut changes, 2).await), [some("a/1", "x"), ("a/1".into(), None)]);

    let mut puts = client.watch_key("b").after(Revision::ZERO).no_deletes().stream();
    client.delete("b").await.unwrap();
    client.put("b", "again").await.unwrap();
    assert_eq!(told(&events(&mut puts, 2).await), [some("b", "elsewhere"), some("b", "again")]);
}

#[tokio::test]
async fn each_change_is_told_once_though_connections_break() {
    let (fake, client) = cluster().await;
    fake.world.lock().watch_answers_max = 5;
    let mut changes = client.watch_prefix("").stream();
    changes.started().await.unwrap();
    let writer = tokio::spawn({
        let client = client.clone();
        async move {
            for number in 0..200 {
                client.put("k", number.to_string()).await.unwrap();
            }
        }
    });
    // Rounds of five events or more never get their token through, so the answers must grow for the last ones.
    let world = fake.world.clone();
    let widen = tokio::spawn(async move {
        writer.await.unwrap();
        world.lock().watch_answers_max = 1000;
    });
    let values: Vec<_> = told(&events(&mut changes, 200).await).into_iter().map(|(_, value)| value).collect();
    let expected: Vec<_> = (0..200).map(|number| Some(number.to_string())).collect();
    assert_eq!(values, expected);
    widen.await.unwrap();
    assert!(fake.world.lock().watches > 1);
}

#[tokio::test]
async fn a_watch_goes_on_with_a_token() {
    let (_fake, client) = cluster().await;
    let mut changes = client.watch_prefix("a").stream();
    changes.started().await.unwrap();
    client.put("a", "1").await.unwrap();
    let item = loop {
        let item = changes.try_next().await.unwrap().unwrap();
        if !item.events.is_empty() {
            break item;
        }
    };
    drop(changes);
    client.put("a", "2").await.unwrap();
    let token: Token = item.token.to_string().parse().unwrap();
    let mut changes = client.watch_prefix("a").resume(token.clone()).stream();
    assert_eq!(told(&events(&mut changes, 1).await), [("a".into(), Some("2".into()))]);
    let error = client.watch_prefix("b").resume(token).stream().try_next().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn what_can_not_be_told_ends_the_watch() {
    let (fake, client) = cluster().await;
    fake.world.lock().store.compacted = Revision(7);
    let mut changes = client.watch_prefix("a").after(Revision(3)).stream();
    let error = changes.next().await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Compacted { oldest: Revision(7) });
    assert!(changes.next().await.is_none());
    assert_eq!(changes.started().await.unwrap_err().kind, ErrorKind::FailedPrecondition);
    let error = client.watch("b".."a").stream().next().await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::InvalidArgument);
}

#[tokio::test]
async fn a_node_that_dies_is_left() {
    let (mut fake, client) = cluster().await;
    let mut changes = client.watch_key("a").stream();
    changes.started().await.unwrap();
    for (number, node) in [0, 1].into_iter().enumerate() {
        fake.kill(node);
        client.put("a", number.to_string()).await.unwrap();
        assert_eq!(told(&events(&mut changes, 1).await), [("a".into(), Some(number.to_string()))]);
    }
}

#[tokio::test]
async fn a_silent_node_is_left() {
    let (fake, client) = cluster().await;
    // The fake tells no progress by itself.
    let mut changes = client.watch_key("a").progress_every(Duration::from_millis(100)).stream();
    changes.started().await.unwrap();
    changes.next().await.unwrap().unwrap();
    changes.next().await.unwrap().unwrap();
    assert!(fake.world.lock().watches >= 2);
}

#[tokio::test]
async fn a_watch_may_give_up() {
    let (mut fake, client) = cluster().await;
    for node in 0..3 {
        fake.kill(node);
    }
    let patience = Duration::from_millis(300);
    let error = client.watch_key("a").give_up_after(patience).stream().next().await.unwrap().unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
}

#[tokio::test]
async fn before_it_gives_up_a_watch_tries_another_node() {
    let (fake, client) = cluster().await;
    let mut changes = client.watch_key("a").give_up_after(Duration::from_secs(4)).stream();
    changes.started().await.unwrap();
    // The fake is silent until something happens: each node is left, but as the next one answers, none of that is given up.
    while fake.world.lock().watches < 4 {
        changes.next().await.unwrap().unwrap();
    }
}
