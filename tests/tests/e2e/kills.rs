//! No acknowledged write is lost and none is made twice, whichever processes are killed or held up.

use kvd_client::Client;
use kvd_tests::{Cluster, Record, Writers};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

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
        writers.note(format!("node {victim}, counted from 0, is killed"));
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
        writers.note("all nodes are killed");
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_paused_does_not_answer_from_the_past() {
    const KEYS: usize = 24;
    let cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let record = Record::new();
    let recorded = record.client(&client, 0);
    for number in 0..KEYS {
        recorded.put(format!("key-{number}"), "before").await.unwrap();
    }
    let paused = busiest(&cluster, &client).await;
    cluster.node(paused).pause();
    record.note("a leader is paused");
    // Only others can take these.
    for number in 0..KEYS {
        recorded.put(format!("key-{number}"), "after").await.unwrap();
    }
    // These wait at the paused node, to be served the moment it wakes, when it has heard of nothing yet.
    let mut early = Vec::new();
    for number in 0..KEYS {
        let mut stream = TcpStream::connect(cluster.node(paused).http_address()).await.unwrap();
        let head = format!("GET /store/key-{number} HTTP/1.1\r\nhost: kvd\r\nconnection: close\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        early.push(stream);
    }
    cluster.node(paused).resume();
    let mut answered = 0;
    for mut stream in early {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(!answer.contains("\"before\""), "an answer from the past: {answer}");
        answered += usize::from(answer.contains("\"after\""));
    }
    assert!(answered > 0, "none was answered at all");
    cluster.ready().await;
    recorded.batch_get((0..KEYS).map(|number| format!("key-{number}"))).await.unwrap();
    record.check();
    cluster.agreed(&client).await;
}
