//! Where a node looks for a leader that its own replicas don't know.

use futures::future::poll_immediate;

use super::*;

/// Whoever asks may give up before a connection to a silent machine does, and the next one must not ask there again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guess_is_doubted_before_a_connection_is_waited_for() {
    let mut cluster = Cluster::of_three().await;
    let silent = cluster.id(1);
    for _ in 0..3 {
        cluster.stop(0).await;
    }
    // They take connections, and say nothing.
    let _silent: Vec<_> = cluster.configs[1..]
        .iter()
        .map(|config| std::net::TcpListener::bind(config.listen_peer).unwrap())
        .collect();
    cluster.start(0).await;
    let node = Arc::clone(&cluster.nodes[0].node);
    until(|| node.routing().err().map(|error| error.message).into_iter().collect()).await;
    let routing = node.routing().unwrap();
    let key = Key::try_from("key").unwrap();
    let shard = routing.ring.shard_of(&key);
    until(|| {
        let group = node.replicas().ok().and_then(|replicas| replicas.group(shard.into()));
        if group.is_some() { Vec::new() } else { vec![format!("the replica of shard {shard}")] }
    })
    .await;

    routing.saw_leader(shard, silent);
    let asked = Box::pin(execute(&node, Request::get(key)));
    assert!(poll_immediate(asked).await.is_none(), "nobody has answered yet");
    assert_ne!(routing.guess(shard), Some(silent), "whoever comes next asks another one");
}
