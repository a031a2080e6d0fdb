//! Three nodes in one process, over real sockets and disks.

use std::{net::SocketAddr, path::Path};

use kvd_types::{Condition, Incarnation, Outcome, Write, WriteOp, operation::Response};
use tempfile::TempDir;

use super::*;
use crate::{config, metrics::Metrics};

/// Long enough for anything on a busy machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

struct TestNode {
    node: Arc<Node>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<anyhow::Result<()>>,
}

struct Cluster {
    dir: TempDir,
    configs: Vec<Config>,
    nodes: Vec<TestNode>,
}

impl Cluster {
    fn new(count: usize) -> Self {
        // `RUST_LOG=kvd=debug cargo test … -- --nocapture` tells the story of a failure.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        drop(tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init());
        let dir = tempfile::tempdir().unwrap();
        let ports: Vec<[SocketAddr; 3]> = (0..count).map(|_| std::array::from_fn(|_| free_port())).collect();
        let seeds: Vec<String> = ports.iter().map(|[_, peer, _]| peer.to_string()).collect();
        let configs =
            ports.iter().enumerate().map(|(i, ports)| config(dir.path(), i, ports, &seeds)).collect();
        Self { dir, configs, nodes: Vec::new() }
    }

    fn start(&mut self, index: usize) {
        let config = self.configs[index].clone();
        let listeners = listen::Listeners::bind(&config).unwrap();
        let stop = CancellationToken::new();
        let node = Arc::new(Node::new(config, stop.clone(), Arc::new(Metrics::new("test"))));
        let running = Arc::clone(&node);
        let task = tokio::spawn(async move { running.run(listeners).await });
        self.nodes.insert(index, TestNode { node, stop, task });
    }

    async fn ready(&self) {
        for node in &self.nodes {
            until(|| node.node.reasons_not_ready()).await;
        }
    }

    async fn stop(&mut self, index: usize) {
        let node = self.nodes.remove(index);
        node.stop.cancel();
        tokio::time::timeout(PATIENCE, node.task).await.expect("the node stops").unwrap().unwrap();
    }
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

fn config(dir: &Path, index: usize, ports: &[SocketAddr; 3], seeds: &[String]) -> Config {
    let [listen_client, listen_peer, listen_http] = *ports;
    let mut config = Config {
        data_dir: dir.join(format!("node-{index}")),
        listen_client,
        listen_peer,
        listen_http,
        seeds: seeds.to_vec(),
        ..Config::default()
    };
    config.cluster.shards = 4;
    config.storage.log_segment_bytes = 8 << 20;
    config.storage.engine = config::Engine::Sled;
    config.resolve().unwrap()
}

/// Waits until nothing is missing any more.
async fn until(missing: impl Fn() -> Vec<String>) {
    let waited = async {
        while !missing().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waited).await.unwrap_or_else(|_| panic!("not in time: {:?}", missing()));
}

fn put(key: &str, value: &str) -> Request {
    let op = WriteOp::Put {
        key: Key::try_from(key).unwrap(),
        value: value.to_owned().into(),
        condition: Condition::Always,
        want_previous: false,
    };
    Request::Write(Write { session: None, op })
}

async fn execute(node: &Node, request: Request) -> Result<Response> {
    node.execute(request, Instant::now() + Duration::from_secs(10)).await.map(|reply| reply.response)
}

async fn check_value(node: &Node, key: &str, value: &str) {
    let got = execute(node, Request::Get(Key::try_from(key).unwrap())).await.unwrap();
    let Response::Got(Some((_, record))) = got else { panic!("{key} is missing: {got:?}") };
    assert_eq!(record.value, value, "{key}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_cluster_that_keeps_what_it_was_given() {
    let mut cluster = Cluster::new(3);
    (0..3).for_each(|index| cluster.start(index));
    cluster.ready().await;

    for i in 0..50 {
        let written =
            execute(&cluster.nodes[i % 3].node, put(&format!("key-{i}"), &format!("value-{i}"))).await;
        assert!(matches!(written, Ok(Response::Put(Outcome::Put { .. }))), "{written:?}");
    }
    for i in 0..50 {
        check_value(&cluster.nodes[(i + 1) % 3].node, &format!("key-{i}"), &format!("value-{i}")).await;
    }

    // All stop and start again, in another order.
    for _ in 0..3 {
        cluster.stop(0).await;
    }
    (0..3).for_each(|index| cluster.start(index));
    cluster.ready().await;
    for i in 0..50 {
        check_value(&cluster.nodes[i % 3].node, &format!("key-{i}"), &format!("value-{i}")).await;
    }
    assert!(cluster.dir.path().join("node-0/IDENTITY").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_power_cut_the_engine_is_not_believed() {
    let mut cluster = Cluster::new(1);
    cluster.start(0);
    cluster.ready().await;
    for i in 0..20 {
        execute(&cluster.nodes[0].node, put(&format!("key-{i}"), &format!("value-{i}"))).await.unwrap();
    }
    cluster.stop(0).await;

    // The machine went down with the node, and what the engine held is gone: nothing but the log is left.
    let dir = cluster.configs[0].data_dir.clone();
    let disk = kvd_storage::disk::RealDisk;
    let mut identity = kvd_storage::identity::Identity::load(&disk, &dir).unwrap().unwrap();
    assert!(identity.clean_stop);
    identity.clean_stop = false;
    identity.boot_id = "another-boot".to_owned();
    identity.store(&disk, &dir).unwrap();
    std::fs::remove_dir_all(dir.join("state")).unwrap();

    cluster.start(0);
    cluster.ready().await;
    for i in 0..20 {
        check_value(&cluster.nodes[0].node, &format!("key-{i}"), &format!("value-{i}")).await;
    }
    let disk = cluster.nodes[0].node.disk().unwrap();
    assert!(disk.distrusts_state());
    tokio::time::timeout(PATIENCE, async {
        while disk.awaits_rebuild() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("once all is rebuilt, the engine is believed again");
    cluster.stop(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_running_node_is_turned_away() {
    let mut cluster = Cluster::new(1);
    cluster.start(0);
    cluster.ready().await;
    let node = Arc::clone(&cluster.nodes[0].node);
    let joined = node.joined().unwrap();
    let peers = Peers(Arc::clone(&node));
    let caller = |incarnation: u64, start_nonce: u128| Handshake {
        cluster: Some(joined.cluster),
        token: String::new(),
        from: NodeId(7),
        to: joined.node,
        incarnation: Incarnation(incarnation),
        start_nonce,
    };
    let admit = |handshake: &Handshake| kvd_raft::peer::PeerHandler::admit(&peers, handshake);
    admit(&caller(3, 100)).unwrap();
    admit(&caller(3, 100)).expect("the same start, again");
    let cloned = admit(&caller(3, 101)).unwrap_err();
    assert!(cloned.message.contains("copies of one data directory"), "{cloned}");
    let old = admit(&caller(2, 99)).unwrap_err();
    assert!(old.message.contains("old copy"), "{old}");
    admit(&caller(4, 102)).expect("a later start");

    let elsewhere = admit(&Handshake { cluster: Some(ClusterId(1)), ..caller(5, 103) }).unwrap_err();
    assert!(elsewhere.message.contains("belongs to cluster"), "{elsewhere}");
    let mistaken = admit(&Handshake { to: NodeId(9), ..caller(5, 103) }).unwrap_err();
    assert!(mistaken.message.contains("not node 9"), "{mistaken}");
    let stranger = admit(&Handshake { token: "guess".into(), ..caller(5, 103) }).unwrap_err();
    assert_eq!(stranger.kind, ErrorKind::PermissionDenied);
    cluster.stop(0).await;
}
