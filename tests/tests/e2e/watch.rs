//! Whoever watches is told each change once and in order, whatever dies: nodes, or the watcher itself.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream};
use kvd_client::{Client, Revision, Token, WatchItem};
use kvd_tests::{Cluster, until};
use tokio::task::JoinHandle;

const KEYS: usize = 500;
const WRITES_IN_FLIGHT: usize = 128;
/// Long enough for anything on a busy machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(300);

/// How many writes go on; `KVD_TEST_WRITES` says otherwise.
fn writes() -> usize {
    std::env::var("KVD_TEST_WRITES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000)
}

/// What was told, by key in the order of telling, and where to go on.
#[derive(Default)]
struct Told {
    by_key: BTreeMap<String, Vec<Revision>>,
    events: usize,
    progress: usize,
    token: Option<Token>,
}

impl Told {
    fn take(&mut self, item: WatchItem) {
        self.events += item.events.len();
        self.progress += usize::from(item.progress);
        for event in item.events {
            self.by_key.entry(event.key.to_string()).or_default().push(event.revision);
        }
        self.token = Some(item.token);
    }
}

/// A watcher, from where the one before was killed.
async fn watch(cluster: &Cluster, told: &Arc<Mutex<Told>>) -> JoinHandle<()> {
    let client = cluster.client().await;
    let mut watch = client.watch_prefix("w/").progress_every(Duration::from_millis(200));
    if let Some(token) = told.lock().unwrap().token.clone() {
        watch = watch.resume(token);
    }
    let mut items = watch.stream();
    items.started().await.unwrap();
    let told = Arc::clone(told);
    tokio::spawn(async move {
        while let Some(item) = items.next().await {
            // What it was told and where to go on it notes together, as whoever resumes must.
            told.lock().unwrap().take(item.unwrap());
        }
    })
}

/// Puts keys again and again; gives the revisions of each key's acknowledged writes.
async fn write(client: Client, count: usize, written: Arc<AtomicUsize>) -> BTreeMap<String, Vec<Revision>> {
    let puts = stream::iter(0..count).map(|number| {
        let (client, written) = (client.clone(), Arc::clone(&written));
        async move {
            let key = format!("w/{:03}", number * 7 % KEYS);
            let put = client.put(&key, number.to_string()).await.unwrap();
            written.fetch_add(1, Ordering::Relaxed);
            (key, put.revision)
        }
    });
    let mut by_key: BTreeMap<String, Vec<Revision>> = BTreeMap::new();
    let mut puts = puts.buffer_unordered(WRITES_IN_FLIGHT);
    while let Some((key, revision)) = puts.next().await {
        by_key.entry(key).or_default().push(revision);
    }
    by_key.values_mut().for_each(|revisions| revisions.sort_unstable());
    by_key
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watcher_that_is_killed_twice_while_nodes_are_is_told_each_change_once() {
    let count = writes();
    let mut cluster = Cluster::of(3).start().await;
    let told = Arc::new(Mutex::new(Told::default()));
    let mut watcher = watch(&cluster, &told).await;
    let written = Arc::new(AtomicUsize::new(0));
    let client = cluster.client_with_deadline(Duration::from_secs(60)).await;
    let writer = tokio::spawn(write(client, count, Arc::clone(&written)));
    let reached = async |part: usize| {
        let wanted = count * part / 10;
        until("so much is written", async || {
            let written = written.load(Ordering::Relaxed);
            if written >= wanted { Ok(()) } else { Err(format!("{written} of {wanted}")) }
        })
        .await;
    };
    for (part, victim) in [(2, 0), (4, 1), (6, 2)] {
        reached(part).await;
        cluster.node_mut(victim).kill();
        if part < 6 {
            watcher.abort();
            assert!(watcher.await.unwrap_err().is_cancelled());
            watcher = watch(&cluster, &told).await;
        }
        reached(part + 1).await;
        cluster.node_mut(victim).start();
        cluster.ready().await;
    }
    let expected = tokio::time::timeout(PATIENCE, writer).await.expect("all is written").unwrap();
    until("all is told", async || {
        let events = told.lock().unwrap().events;
        if events >= count { Ok(()) } else { Err(format!("{events} of {count}")) }
    })
    .await;
    // And nothing more comes, by the word of all leaders.
    let before = told.lock().unwrap().progress;
    until("it is told that this is all", async || {
        let progress = told.lock().unwrap().progress;
        if progress > before + 1 { Ok(()) } else { Err(format!("{progress} marks")) }
    })
    .await;
    watcher.abort();
    assert_eq!(told.lock().unwrap().by_key, expected);
}
