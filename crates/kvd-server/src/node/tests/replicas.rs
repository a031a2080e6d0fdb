//! Replicas that can't be rebuilt from what is on a node's disk.

use std::os::unix::fs::FileExt as _;

use kvd_types::cluster::MetaCommand;

use super::*;

/// Inside the first record of a segment of the log, where it says whose it is.
const FIRST_RECORD_AT: u64 = 8192 + 40;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_replica_that_the_log_never_knew_is_forgotten_once_it_is_replaced() {
    let mut cluster = Cluster::of_three().await;
    let node = cluster.id(2);
    let log = cluster.configs[2].data_dir.join("log");
    cluster.stop(2).await;

    // A record of nobody knows whom is lost, and meanwhile the node is given a replica: for all it knows, that was its.
    let segment = std::fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path()).min().unwrap();
    let segment = std::fs::File::options().read(true).write(true).open(segment).unwrap();
    let mut byte = [0];
    segment.read_exact_at(&mut byte, FIRST_RECORD_AT).unwrap();
    segment.write_all_at(&[byte[0] ^ 1], FIRST_RECORD_AT).unwrap();
    let placed = |cluster: &Cluster| {
        let state = cluster.nodes[0].node.meta();
        let (group, placement) = state.placements.iter().find(|(group, _)| **group != GroupId::META).unwrap();
        (*group, placement.on_node(node).unwrap().id)
    };
    let (group, old) = placed(&cluster);
    cluster.nodes[0].node.change(MetaCommand::ReplaceReplica { group, lost: old, node }).await.unwrap();
    until(|| if placed(&cluster).1 == old { vec!["a successor".to_owned()] } else { Vec::new() }).await;
    let (_, unknown) = placed(&cluster);

    cluster.start(2).await;
    cluster.ready().await;
    cluster.settled().await;
    assert_ne!(placed(&cluster).1, unknown, "it was believed");
    let running = &cluster.nodes[2].node;
    until(|| running.replicas().unwrap().lost().into_iter().map(|(_, _, why)| why).collect()).await;
    let status = running.make_status();
    assert!(status.replicas.iter().all(|replica| replica.role != "failed"), "{status:?}");
    assert_eq!(status.replicas.len(), running.meta().placements.len());
}
