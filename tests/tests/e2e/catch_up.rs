//! A node that was away for long gets what it missed.

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kvd_testkit::history::RecordingClient;
use kvd_tests::{Cluster, Record};

const KEYS: u32 = 100_000;
/// Writes under way at a time. Few, so that log entries are small and many: what a follower lacks must be more than the
/// entries that are kept for late ones.
const IN_FLIGHT: usize = 24;
/// Some of each value's bytes, so that the log outgrows the bound at which checkpoints are taken.
const PADDING: usize = 48;

fn value(number: u32) -> String {
    format!("{number}{:PADDING$}", "")
}

async fn write_all(client: &RecordingClient) {
    let writes = stream::iter(0..KEYS)
        .map(|number| client.put(format!("key-{number:06}"), value(number)))
        .buffer_unordered(IN_FLIGHT);
    writes.try_for_each(|_| async { Ok(()) }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_missed_100_000_writes_catches_up_by_checkpoint() {
    let mut cluster = Cluster::of(3)
        .set("cluster-shards", "2")
        .set("storage-log-segment-bytes", "8MiB")
        .set("storage-checkpoint-log-bytes", "1MiB")
        .start()
        .await;
    let client = cluster.client().await;
    cluster.node_mut(2).kill();
    let record = Record::new();
    let recorded = record.client(&client, 0);
    write_all(&recorded).await;

    cluster.node_mut(2).start();
    cluster.ready().await;
    // The log that it lacks is gone, on both others, in both shards.
    cluster.node(2).says("a checkpoint was installed", 1).await;
    cluster.agreed(&client).await;

    // What it has got is what was written: the others go on leading nothing, and it serves.
    cluster.node_mut(0).kill();
    let rows: Vec<_> = client.scan_all().stream().try_collect().await.unwrap();
    assert_eq!(rows.len(), KEYS as usize);
    for (number, (key, stored)) in (0..).zip(&rows) {
        assert_eq!(key.as_bytes(), format!("key-{number:06}").as_bytes());
        assert_eq!(stored.value, value(number));
    }
    recorded.batch_get((0..KEYS).map(|number| format!("key-{number:06}"))).await.unwrap();
    record.check();
}
