//! A node that starts with another engine than before.

use super::*;

async fn put_values(cluster: &Cluster, range: std::ops::Range<usize>) {
    for i in range {
        let written = execute(&cluster.nodes[0].node, put(&format!("key-{i}"), &format!("value-{i}"))).await;
        assert!(matches!(written, Ok(Response::Put(Outcome::Put { .. }))), "{written:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_keeps_its_data_through_changes_of_engine() {
    use config::Engine::{Fjall, Sled};
    let mut cluster = Cluster::new(1);
    let note = cluster.configs[0].data_dir.join("state/ENGINE");
    // The last start is with the engine of the one before, and finds its rows.
    for (round, (engine, word)) in
        [(Sled, "sled 2"), (Fjall, "fjall"), (Sled, "sled 2"), (Fjall, "fjall"), (Fjall, "fjall")]
            .into_iter()
            .enumerate()
    {
        cluster.configs[0].storage.engine = engine;
        cluster.start(0).await;
        cluster.ready().await;
        assert_eq!(std::fs::read_to_string(&note).unwrap(), word);
        cluster.check_values(round * 20).await;
        put_values(&cluster, round * 20..(round + 1) * 20).await;
        cluster.check_values((round + 1) * 20).await;
        cluster.stop(0).await;
    }
}
