//! Rot on one node's disk is found, told and mended, and nothing wrong is ever served.
//!
//! Each test lets a disk rot while the cluster is stopped, starts it, makes the node with that disk lead all shards, and
//! reads everything through it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use kvd_client::Client;
use kvd_tests::{Cluster, Record, until};
use kvd_types::ReplicaId;

const KEYS: usize = 3000;
const PAGE_BYTES: usize = 4096;
/// The node whose disk rots.
const ROTTEN: usize = 1;

fn key(number: usize) -> String {
    format!("key-{number}")
}

/// Long enough that all together fill some checkpoints.
fn value(number: usize) -> String {
    format!("{number}-").repeat(300)
}

/// The files below a directory.
fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.push(entry.path());
        }
    }
    found
}

/// Flips one bit in the middle of what a file holds, zeros at its end not counted. Says whether it holds anything.
fn flip_in_the_middle(path: &Path) -> bool {
    let mut bytes = fs::read(path).unwrap();
    let Some(last) = bytes.iter().rposition(|&byte| byte != 0) else { return false };
    bytes[last / 2] ^= 0x10;
    fs::write(path, bytes).unwrap();
    true
}

/// Flips one bit in each page of a file.
fn flip_in_each_page(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes.chunks_mut(PAGE_BYTES).for_each(|page| {
        let middle = page.len() / 2;
        page[middle] ^= 0x10;
    });
    fs::write(path, bytes).unwrap();
}

/// A cluster that holds all keys and some checkpoints, stopped.
async fn stopped_cluster() -> (Cluster, Client, Record) {
    let mut cluster =
        Cluster::of(3).set("cluster-shards", "2").set("storage-checkpoint-log-bytes", "1MiB").start().await;
    let client = cluster.client().await;
    let record = Record::new();
    let recorded = record.client(&client, 0);
    let writes = (0..KEYS).map(|number| recorded.put(key(number), value(number)));
    futures::future::try_join_all(writes).await.unwrap();
    until("a checkpoint of each shard", async || {
        let status = cluster.status(&client, ROTTEN).await?;
        let mut shards = status.replicas.iter().filter(|replica| replica.group.shard().is_some());
        if shards.all(|replica| replica.checkpoint_index.get() > 0) {
            Ok(())
        } else {
            Err(format!("{status:?}"))
        }
    })
    .await;
    cluster.agreed(&client).await;
    cluster.stop_all().await;
    (cluster, client, record)
}

/// The replicas that the cluster has placed on the rotten node.
async fn placed(cluster: &Cluster, client: &Client) -> BTreeSet<ReplicaId> {
    let id = cluster.id(client, ROTTEN).await;
    let shards = client.status().await.unwrap().topology.shards;
    let replicas = shards.iter().flat_map(|shard| &shard.replicas);
    replicas.filter(|replica| replica.node == id).map(|replica| replica.id).collect()
}

/// Makes the rotten node lead all shards, and reads everything.
async fn check_through_the_rotten_node(cluster: &Cluster, client: &Client, record: &Record) {
    let id = cluster.id(client, ROTTEN).await;
    let shards: Vec<_> =
        client.status().await.unwrap().topology.shards.iter().map(|shard| shard.id).collect();
    for shard in shards {
        until("the rotten node to lead", async || {
            client.move_leader(shard, id).await.map_err(|error| error.to_string())
        })
        .await;
    }
    // Reading may find more, and then it is mended while others lead.
    let recorded = record.client(client, 1);
    let found = until("all to be read", async || {
        recorded.batch_get((0..KEYS).map(key)).await.map_err(|error| error.to_string())
    })
    .await;
    for (number, record) in found.iter().enumerate() {
        let record = record.as_ref().unwrap_or_else(|| panic!("{} is gone", key(number)));
        assert!(record.value == value(number), "{} has a wrong value", key(number));
    }
    record.check();
    cluster.agreed(client).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_bit_in_the_log_is_found_and_mended() {
    let (mut cluster, client, record) = stopped_cluster().await;
    let mut segments = files(&cluster.node(ROTTEN).data_dir().join("log"));
    segments.sort();
    let flipped = segments.iter().filter(|segment| flip_in_the_middle(segment)).count();
    assert!(flipped > 0, "{segments:?}");

    cluster.start_all();
    cluster.node(ROTTEN).says("damaged", 0).await;
    cluster.ready().await;
    check_through_the_rotten_node(&cluster, &client, &record).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_whose_checkpoints_and_rows_are_damaged_are_replaced() {
    let (mut cluster, client, record) = stopped_cluster().await;
    cluster.start_all();
    cluster.ready().await;
    let before = placed(&cluster, &client).await;
    cluster.stop_all().await;
    // Without rows the checkpoints are needed.
    let data_dir = cluster.node(ROTTEN).data_dir();
    fs::remove_dir_all(data_dir.join("state")).unwrap();
    let checkpoints = files(&data_dir.join("checkpoints"));
    assert!(checkpoints.iter().filter(|checkpoint| flip_in_the_middle(checkpoint)).count() > 1);

    cluster.start_all();
    cluster.node(ROTTEN).says("is lost and must be replaced from its peers", 0).await;
    cluster.ready().await;
    until("all replicas to be replaced", async || {
        let after = placed(&cluster, &client).await;
        if after.len() == before.len() && after.is_disjoint(&before) {
            Ok(())
        } else {
            Err(format!("{after:?}"))
        }
    })
    .await;
    check_through_the_rotten_node(&cluster, &client, &record).await;
}

/// Lets some of the engine's files rot, starts all nodes, and gives which they are and a client.
async fn rot_of_the_engine(rots: impl Fn(&Path) -> bool) -> (Cluster, Client, Record) {
    let (mut cluster, client, record) = stopped_cluster().await;
    let all = files(&cluster.node(ROTTEN).data_dir().join("state"));
    let rotten: Vec<_> =
        all.iter().filter(|path| fs::metadata(path).unwrap().len() > 0 && rots(path)).collect();
    assert!(!rotten.is_empty(), "{all:?}");
    rotten.into_iter().for_each(|file| flip_in_each_page(file));
    cluster.start_all();
    (cluster, client, record)
}

fn is_in(path: &Path, dir: &str) -> bool {
    path.parent().is_some_and(|parent| parent.ends_with(dir))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reads_rotten_rows_stops_and_rebuilds_them_when_started_again() {
    // Of a size that only leaves full of our values have, so that the engine opens well.
    let holds_leaves = |path: &Path| {
        let size = path.file_name().and_then(|name| name.to_str()?.parse::<usize>().ok());
        is_in(path, "slabs") && size.is_some_and(|size| size >= PAGE_BYTES)
    };
    let (mut cluster, client, record) = rot_of_the_engine(holds_leaves).await;
    // Some are read as the replicas are opened, the others when somebody asks for them.
    until("the rot to be met", async || {
        let found = client.batch_get((0..KEYS).map(key)).await.unwrap();
        assert!((0..KEYS).all(|number| found[number].as_ref().is_some_and(|it| it.value == value(number))));
        if !cluster.node_mut(ROTTEN).runs() {
            return Ok(());
        }
        let id = cluster.id(&client, ROTTEN).await;
        let shards: Vec<_> = client.topology().shards.iter().map(|shard| shard.id).collect();
        for shard in shards {
            client.move_leader(shard, id).await.map_err(|error| error.to_string())?;
        }
        Err("it runs".to_owned())
    })
    .await;
    assert_eq!(cluster.node_mut(ROTTEN).wait().await.code(), Some(1));
    cluster.node(ROTTEN).says("the engine's files are damaged", 0).await;

    cluster.start_all();
    cluster.node(ROTTEN).says("it is put aside and rebuilt", 0).await;
    cluster.ready().await;
    check_through_the_rotten_node(&cluster, &client, &record).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_in_all_that_the_engine_reads_at_the_start_is_found_and_mended() {
    let (cluster, client, record) = rot_of_the_engine(|path| is_in(path, "slabs")).await;
    cluster.node(ROTTEN).says("it is put aside and rebuilt", 0).await;
    cluster.ready().await;
    check_through_the_rotten_node(&cluster, &client, &record).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rot_in_what_points_to_rows_is_survived() {
    // To the engine it may look like an early end, which is no damage: then the log brings the rows up to date.
    let (cluster, client, record) = rot_of_the_engine(|path| is_in(path, "metadata")).await;
    cluster.ready().await;
    check_through_the_rotten_node(&cluster, &client, &record).await;
}
