//! A node is what its disk says it is, and no disk is believed that can't be right.

use std::{fs, path::Path};

use kvd_testkit::history::RecordingClient;
use kvd_tests::{Cluster, Node, Record, run};

/// Copies a directory with all that is in it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Waits for a node to end by itself, with a message that has all these parts.
async fn refused(node: &mut Node, parts: &[&str]) {
    let status = node.wait().await;
    assert_eq!(status.code(), Some(1), "{}", node.log());
    let log = node.log();
    let told = log.lines().any(|line| line.contains("ERROR") && parts.iter().all(|part| line.contains(part)));
    assert!(told, "no error with {parts:?} in:\n{log}");
}

async fn write(client: &RecordingClient, value: &str) {
    for number in 0..20 {
        client.put(format!("key-{number}"), value).await.unwrap();
    }
}

async fn check(client: &RecordingClient, value: &str) {
    for number in 0..20 {
        assert_eq!(client.get(format!("key-{number}")).await.unwrap().unwrap().value, value);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_log_is_gone_is_refused_and_comes_back_with_an_empty_directory() {
    let mut cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let record = Record::new();
    let recorded = record.client(&client, 0);
    write(&recorded, "value").await;
    assert!(cluster.node_mut(2).stop().await.success());
    let data_dir = cluster.node(2).data_dir();
    fs::remove_dir_all(data_dir.join("log")).unwrap();
    cluster.node_mut(2).start();
    refused(
        cluster.node_mut(2),
        &["its log is gone", "remove the directory", &data_dir.display().to_string()],
    )
    .await;

    // As it says. The others have served all the while.
    write(&recorded, "more").await;
    let lost = cluster.id(&client, 2).await;
    fs::remove_dir_all(&data_dir).unwrap();
    cluster.node_mut(2).start();
    cluster.ready().await;
    cluster.agreed(&client).await;
    check(&recorded, "more").await;
    let nodes = client.status().await.unwrap().topology.nodes;
    assert!(nodes.len() == 3 && nodes.iter().all(|node| node.id != lost), "it is a new node: {nodes:?}");
    record.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_identity_is_gone_is_refused() {
    let mut cluster = Cluster::of(1).start().await;
    assert!(cluster.node_mut(0).stop().await.success());
    let path = cluster.node(0).data_dir().join("IDENTITY");
    let identity = fs::read_to_string(&path).unwrap();
    fs::remove_file(&path).unwrap();
    cluster.node_mut(0).start();
    refused(cluster.node_mut(0), &["no IDENTITY"]).await;

    // A damaged one, and one of a later version.
    fs::write(&path, identity.replace("incarnation=1", "incarnation=2")).unwrap();
    cluster.node_mut(0).start();
    refused(cluster.node_mut(0), &["IDENTITY", "checksum"]).await;
    fs::write(&path, identity.replace("format=1", "format=2")).unwrap();
    cluster.node_mut(0).start();
    refused(cluster.node_mut(0), &["IDENTITY", "has format 2", "start a newer one"]).await;

    fs::write(&path, identity).unwrap();
    cluster.start_all();
    cluster.ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_clusters_disk_is_refused_by_the_peers() {
    let mut cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let record = Record::new();
    let recorded = record.client(&client, 0);
    write(&recorded, "ours").await;
    let mut strangers = Cluster::of(3).beside(&cluster).start().await;
    let theirs = strangers.client().await;
    let their_record = Record::new();
    write(&their_record.client(&theirs, 0), "theirs").await;
    theirs.close().await;
    strangers.stop_all().await;

    // A disk is put into the wrong machine.
    assert!(cluster.node_mut(2).stop().await.success());
    let stranger = strangers.node(2).data_dir().display().to_string();
    let ours = cluster.node(2).data_dir().display().to_string();
    cluster.node_mut(2).set("data-dir", stranger);
    cluster.node_mut(2).start();
    cluster.node(2).says("belongs to another cluster", 0).await;
    write(&recorded, "ours still").await;
    check(&recorded, "ours still").await;
    let answer = cluster.node(2).get("/readyz").await.unwrap();
    assert_eq!(answer.status, 503, "{answer:?}");
    assert!(cluster.node_mut(2).stop().await.success());

    // Both go on with the right ones.
    cluster.node_mut(2).set("data-dir", ours);
    cluster.node_mut(2).start();
    cluster.ready().await;
    cluster.agreed(&client).await;
    strangers.start_all();
    strangers.ready().await;
    check(&their_record.client(&strangers.client().await, 1), "theirs").await;
    their_record.check();
    record.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_with_a_wrong_token_never_joins() {
    let cluster = Cluster::of(3).variable("KVD_CLUSTER_TOKEN", "right").start().await;
    let client = cluster.client().await;
    let record = Record::new();
    let recorded = record.client(&client, 0);
    let mut stranger = cluster.another("stranger");
    stranger.set_variable("KVD_CLUSTER_TOKEN", "wrong");
    stranger.start();
    stranger.says("token is not this cluster's", 0).await;
    // It goes on asking, and is not let in, nor does it found a cluster of its own.
    let answer = stranger.get("/readyz").await.unwrap();
    assert_eq!((answer.status, answer.body.contains("in no cluster")), (503, true), "{answer:?}");
    write(&recorded, "value").await;
    assert_eq!(client.status().await.unwrap().topology.nodes.len(), 3);
    assert!(!stranger.log().contains("wrong"), "a secret is in the log");

    // With the right one it does join.
    assert!(stranger.stop().await.success());
    stranger.set_variable("KVD_CLUSTER_TOKEN", "right");
    stranger.start();
    stranger.ready().await;
    stranger.says("joined the cluster", 0).await;
    record.check();
}

/// A start that fails because of the configuration, with a message that has all these parts.
async fn check_refused(node: &Node, parts: &[&str]) {
    let ended = run(node.command()).await;
    assert_eq!(ended.status.code(), Some(2));
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(parts.iter().all(|part| said.contains(part)), "{parts:?} in {said}");
    assert!(!node.data_dir().exists(), "nothing was touched");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_cant_be_is_refused_with_everything_that_is_wrong() {
    let cluster = Cluster::of(1).make().await;
    let mut node = cluster.another("node");
    // By themselves, and then in how they stand to each other.
    node.set("zone", "a\nb");
    node.set("storage-log-segment-bytes", "64 elephants");
    check_refused(&node, &["zone", "storage.log_segment_bytes", "elephants"]).await;
    let mut node = cluster.another("other");
    node.set("raft-heartbeat-ms", "5000");
    node.set("cluster-replication-factor", "3");
    check_refused(&node, &["raft.heartbeat_ms", "cluster.replication_factor"]).await;

    let mut command = cluster.another("typo").command();
    command.arg("--sead=127.0.0.1:7401");
    let ended = run(command).await;
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(2), "{said}");
    assert!(said.contains("--sead") && said.contains("--seeds"), "it guesses what was meant: {said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloned_disk_is_refused_and_the_healthy_node_goes_on() {
    let mut cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let record = Record::new();
    let recorded = record.client(&client, 0);
    write(&recorded, "before").await;
    assert!(cluster.node_mut(1).stop().await.success());
    let mut clone = cluster.another("clone");
    copy(&cluster.node(1).data_dir(), &clone.data_dir());
    cluster.node_mut(1).start();
    cluster.ready().await;
    cluster.node(1).says("announced to the cluster", 1).await;

    clone.start();
    refused(&mut clone, &["copy of this data directory", "Leave the other one running"]).await;
    write(&recorded, "after").await;
    check(&recorded, "after").await;
    assert!(cluster.node_mut(1).runs(), "the healthy one goes on");
    cluster.agreed(&client).await;
    record.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_copy_of_a_disk_is_refused() {
    let mut cluster = Cluster::of(3).start().await;
    let client = cluster.client().await;
    let record = Record::new();
    let recorded = record.client(&client, 0);
    assert!(cluster.node_mut(1).stop().await.success());
    let data_dir = cluster.node(1).data_dir();
    let old = cluster.dir().join("old");
    copy(&data_dir, &old);
    for _ in 0..2 {
        cluster.node_mut(1).start();
        cluster.ready().await;
        write(&recorded, "value").await;
        cluster.agreed(&client).await;
        assert!(cluster.node_mut(1).stop().await.success());
    }

    let newest = cluster.dir().join("newest");
    fs::rename(&data_dir, &newest).unwrap();
    fs::rename(&old, &data_dir).unwrap();
    cluster.node_mut(1).start();
    refused(cluster.node_mut(1), &["old copy was put back"]).await;
    check(&recorded, "value").await;

    // The right one is still welcome.
    fs::remove_dir_all(&data_dir).unwrap();
    fs::rename(&newest, &data_dir).unwrap();
    cluster.node_mut(1).start();
    cluster.ready().await;
    cluster.agreed(&client).await;
    check(&recorded, "value").await;
    record.check();
}
