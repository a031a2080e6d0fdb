//! No acknowledged write is lost and none is made twice, whichever processes are killed.

use kvd_client::Client;
use kvd_tests::{Cluster, Writers};

/// Writers at a time: several per shard, so that proposals travel together.
const WRITERS: usize = 8;

/// The node that leads the most shards: killing it hurts most.
async fn busiest(cluster: &Cluster, client: &Client) -> usize {
    let topology = client.status().await.unwrap().topology;
    let mut led = Vec::new();
    for index in 0..cluster.nodes().len() {
        let id = cluster.id(client, index).await;
        led.push((topology.shards.iter().filter(|shard| shard.leader == Some(id)).count(), index));
    }
    led.into_iter().max().unwrap().1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_outlive_the_kill_of_any_node() {
    let mut cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let mut writers = Writers::start(&client, WRITERS);
    writers.progress(20).await;

    // First whoever leads most, then each in turn.
    let victims = [busiest(&cluster, &client).await, 0, 1, 2];
    for victim in victims {
        cluster.node_mut(victim).kill();
        // The other two go on alone.
        writers.progress(20).await;
        cluster.node_mut(victim).start();
        cluster.ready().await;
        writers.progress(20).await;
    }
    let ledger = writers.stop().await;
    ledger.check(&client).await;
    cluster.agreed(&client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_writes_outlive_the_kill_of_all_nodes_at_once() {
    let mut cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let mut writers = Writers::start(&client, WRITERS);
    for _ in 0..3 {
        writers.progress(50).await;
        cluster.kill_all();
        cluster.start_all();
        cluster.ready().await;
    }
    writers.progress(20).await;
    let ledger = writers.stop().await;
    ledger.check(&client).await;
    cluster.agreed(&client).await;

    // And what was checked was not only in memory.
    cluster.kill_all();
    cluster.start_all();
    cluster.ready().await;
    ledger.check(&cluster.client().await).await;
}
