//! Three nodes in one process, over real sockets and disks.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, sync::atomic::AtomicU32};

use kvd_proto::{
    log::{meta_command_to_wire, meta_outcome_from_wire},
    peer::v1 as p,
};
use kvd_types::{
    Condition, Incarnation, Lifetime, Outcome, Write, WriteOp,
    cluster::{Addresses, NodeProfile},
    operation::Response,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::*;
use crate::{config, metrics::Metrics};

mod data;
mod engines;
mod full_disk;
mod replicas;
mod routes;

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
    /// The runtime for clients of the nodes that are started; none: the test's.
    clients: Option<Handle>,
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
        Self { dir, configs, nodes: Vec::new(), clients: None }
    }

    /// Three nodes that are ready.
    async fn of_three() -> Self {
        let mut cluster = Self::new(3);
        for index in 0..3 {
            cluster.start(index).await;
        }
        cluster.ready().await;
        cluster
    }

    async fn start(&mut self, index: usize) {
        let config = self.configs[index].clone();
        let system = Arc::new(System { clients: self.clients.clone() });
        let listeners = listen::Listeners::bind(system.as_ref(), &config).await.unwrap();
        let stop = CancellationToken::new();
        let node = Arc::new(Node::new(system, config, stop.clone(), Arc::new(Metrics::new("test"))));
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

/// A port below those that the system gives to connections by itself: else one of them could take it before the node does.
fn free_port() -> SocketAddr {
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 10_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let offset = std::process::id().wrapping_mul(97).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = u16::try_from(FIRST + offset % COUNT).unwrap();
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
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
        lifetime: Lifetime::Forever,
        condition: Condition::Always,
        want_previous: false,
    };
    Request::write(Write { session: None, op })
}

async fn execute(node: &Node, request: Request) -> Result<Response> {
    node.execute(request, Instant::now() + Duration::from_secs(10)).await.map(|reply| reply.response)
}

async fn check_value(node: &Node, key: &str, value: &str) {
    let got = execute(node, Request::get(Key::try_from(key).unwrap())).await.unwrap();
    let Response::Got(Some((_, record))) = got else { panic!("{key} is missing: {got:?}") };
    assert_eq!(record.value, value, "{key}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_form_a_cluster_that_keeps_what_it_was_given() {
    let mut cluster = Cluster::of_three().await;

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
    for index in 0..3 {
        cluster.start(index).await;
    }
    cluster.ready().await;
    for i in 0..50 {
        check_value(&cluster.nodes[i % 3].node, &format!("key-{i}"), &format!("value-{i}")).await;
    }
    assert!(cluster.dir.path().join("node-0/IDENTITY").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_power_cut_the_engine_is_not_believed() {
    let mut cluster = Cluster::new(1);
    cluster.start(0).await;
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

    cluster.start(0).await;
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
async fn clients_that_take_all_their_threads_leave_the_nodes_theirs() {
    let clients = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let mut cluster = Cluster::new(3);
    cluster.clients = Some(clients.handle().clone());
    for index in 0..3 {
        cluster.start(index).await;
    }
    cluster.ready().await;

    let (blocked, is_blocked) = tokio::sync::oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let busy = clients.spawn(async move {
        blocked.send(()).unwrap();
        released.recv().unwrap();
    });
    is_blocked.await.unwrap();
    let asked = tokio::spawn(ask_whether_it_lives(cluster.configs[0].listen_http));

    for i in 0..100 {
        let (name, node) = (format!("key-{i}"), &cluster.nodes[i % 3].node);
        execute(node, put(&name, "value")).await.unwrap();
        check_value(node, &name, "value").await;
    }
    assert!(!asked.is_finished(), "a client was answered by threads that nodes need among themselves");

    release.send(()).unwrap();
    busy.await.unwrap();
    let answer = tokio::time::timeout(PATIENCE, asked).await.expect("clients are served again").unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for _ in 0..3 {
        cluster.stop(0).await;
    }
    clients.shutdown_background();
}

async fn ask_whether_it_lives(address: SocketAddr) -> String {
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.write_all(b"GET /livez HTTP/1.1\r\nhost: kvd\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    answer
}

impl Cluster {
    fn id(&self, index: usize) -> NodeId {
        self.nodes[index].node.joined().unwrap().node
    }

    /// Waits until every group's replicas are on exactly the nodes that run, nothing is left of others, and the groups'
    /// own leaders have made it so.
    async fn settled(&self) {
        let ids: BTreeSet<NodeId> = (0..self.nodes.len()).map(|index| self.id(index)).collect();
        let missing = || {
            let state = self.nodes[0].node.meta();
            let mut missing = Vec::new();
            if state.nodes.keys().copied().collect::<BTreeSet<_>>() != ids {
                missing.push(format!("the nodes are {:?}, not {ids:?}", state.nodes.keys()));
            }
            for placement in state.placements.values() {
                let group = placement.group;
                let on: BTreeSet<NodeId> = placement.voters.iter().map(|voter| voter.node).collect();
                if on != ids || !placement.learners.is_empty() || !placement.retiring.is_empty() {
                    missing.push(format!("{placement:?} is not yet on {ids:?}"));
                }
                let voters: BTreeSet<ReplicaId> = placement.voters.iter().map(|voter| voter.id).collect();
                let led = self.nodes.iter().any(|running| {
                    let open = running.node.replicas().ok().and_then(|replicas| replicas.group(group));
                    open.is_some_and(|open| {
                        let members = open.members();
                        open.leadership().is_self
                            && members.changing_to.is_none()
                            && members.learners.is_empty()
                            && members.voters.keys().copied().collect::<BTreeSet<_>>() == voters
                    })
                });
                if !led {
                    missing.push(format!("group {group} has not these voters: {voters:?}"));
                }
            }
            missing
        };
        until(missing).await;
    }

    async fn check_values(&self, count: usize) {
        for i in 0..count {
            let node = &self.nodes[i % self.nodes.len()].node;
            check_value(node, &format!("key-{i}"), &format!("value-{i}")).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_its_disk_takes_its_own_old_place() {
    let mut cluster = Cluster::of_three().await;
    for i in 0..50 {
        execute(&cluster.nodes[i % 3].node, put(&format!("key-{i}"), &format!("value-{i}"))).await.unwrap();
    }

    // One after the other loses its disk, the founder too: in the end nothing is left of the first three.
    for lost in 0..3 {
        let old = cluster.id(lost);
        cluster.stop(lost).await;
        let dir = cluster.configs[lost].data_dir.clone();
        std::fs::rename(&dir, dir.with_extension("lost")).unwrap();
        cluster.start(lost).await;
        cluster.ready().await;
        cluster.settled().await;
        assert_eq!(cluster.id(lost), NodeId(4 + u64::try_from(lost).unwrap()));
        for other in &cluster.nodes {
            assert_eq!(other.node.addresses.get(old), None, "nobody calls it any more");
        }
        cluster.check_values(50).await;
    }

    // The disk is found again: whoever still has it is told that its place is taken.
    let mut found = cluster.configs[1].clone();
    found.data_dir = found.data_dir.with_extension("lost");
    [found.listen_client, found.listen_peer, found.listen_http] = std::array::from_fn(|_| free_port());
    let metrics = Arc::new(Metrics::new("test"));
    let refused = run(found, Handle::current(), CancellationToken::new(), metrics);
    let refused = tokio::time::timeout(PATIENCE, refused);
    let refused = refused.await.expect("it stops by itself").unwrap_err().to_string();
    assert!(refused.contains("was replaced by node 5"), "{refused}");

    // Any two of the new nodes have a quorum of everything.
    cluster.stop(0).await;
    cluster.check_values(50).await;
    execute(&cluster.nodes[0].node, put("key-0", "value-0")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_is_taken_over_only_by_who_answers_there() {
    let mut cluster = Cluster::new(1);
    cluster.start(0).await;
    cluster.ready().await;
    let node = Arc::clone(&cluster.nodes[0].node);
    let peers = Peers(Arc::clone(&node));
    let join = async |start_nonce: u128, replaces: Option<NodeId>, profile: NodeProfile| {
        let caller = Handshake { to: NodeId(1), start_nonce, ..stranger() };
        let command = MetaCommand::RegisterNode { join_nonce: start_nonce, profile, replaces };
        let request = p::ProposeMetaRequest { command: Some(meta_command_to_wire(command)) };
        let response = kvd_raft::peer::PeerHandler::propose_meta(&peers, caller, request).await.unwrap();
        meta_outcome_from_wire(response.outcome.unwrap()).unwrap()
    };
    let theirs = |outcome| if let MetaOutcome::Refused(why) = outcome { why } else { panic!("{outcome:?}") };

    // The node of that address is there itself.
    let why = theirs(join(5, Some(NodeId(1)), node.config.profile()).await);
    assert!(why.contains("is that of node 1, and node 1 answers there"), "{why}");
    // A node at an address of its own, where nobody has to answer; what it says of whom it replaces is not believed.
    let mut elsewhere = node.config.profile();
    let free = || free_port().to_string();
    elsewhere.addresses = Addresses { client: free(), peer: free(), http: free() };
    let joined = join(6, Some(NodeId(1)), elsewhere.clone()).await;
    assert!(matches!(joined, MetaOutcome::NodeRegistered { node: NodeId(2), .. }), "{joined:?}");
    assert_eq!(node.meta().nodes.len(), 2, "node 1 is still there");
    // Asked again: it need not be reachable for the same answer.
    assert_eq!(join(6, None, elsewhere.clone()).await, joined);
    // Another one at that address, where nobody answers.
    let why = theirs(join(7, Some(NodeId(2)), elsewhere).await);
    assert!(why.contains("is that of node 2, and this node can't be reached there"), "{why}");
    cluster.stop(0).await;
}

fn stranger() -> Handshake {
    Handshake {
        cluster: None,
        token: String::new(),
        from: NodeId(0),
        to: NodeId(0),
        incarnation: Incarnation(1),
        start_nonce: 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_a_running_node_is_turned_away() {
    let mut cluster = Cluster::new(1);
    cluster.start(0).await;
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
    let guessing = admit(&Handshake { token: "guess".into(), ..caller(5, 103) }).unwrap_err();
    assert_eq!(guessing.kind, ErrorKind::PermissionDenied);

    // An earlier start of the node itself, which announces itself, is told so in a way that makes it stop.
    let earlier = Handshake { from: joined.node, incarnation: Incarnation(0), ..caller(0, 99) };
    let announce = MetaCommand::AnnounceStart {
        node: joined.node,
        incarnation: Incarnation(1),
        start_nonce: 99,
        profile: node.config.profile(),
    };
    let request = p::ProposeMetaRequest { command: Some(meta_command_to_wire(announce)) };
    let response = kvd_raft::peer::PeerHandler::propose_meta(&peers, earlier, request).await.unwrap();
    let outcome = meta_outcome_from_wire(response.outcome.unwrap()).unwrap();
    assert!(matches!(&outcome, MetaOutcome::Refused(why) if why.contains("known already")), "{outcome:?}");
    cluster.stop(0).await;
}

/// The node that looks after its groups sees what is preferred, too: each move is made by whoever is first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_moved_from_several_sides_at_once_is_moved() {
    const MOVES: usize = 6;
    const SIDES: usize = 4;
    let mut cluster = Cluster::of_three().await;
    cluster.settled().await;
    let shard = ShardId(1);
    let leads = |node: &TestNode| {
        let group = node.node.replicas().unwrap().group(shard.into());
        group.filter(|group| group.leadership().is_self)
    };
    for _ in 0..MOVES {
        let find = || cluster.nodes.iter().find_map(|node| Some((&node.node, leads(node)?)));
        until(|| if find().is_some() { Vec::new() } else { vec!["nobody leads".to_owned()] }).await;
        let (node, group) = find().expect("it leads");
        let placement = &node.meta().placements[&group.id()];
        let other = placement.voters.iter().find(|voter| voter.id != group.replica()).unwrap().node;
        let moves = (0..SIDES).map(|_| node.move_leader_to(shard, other));
        for moved in futures::future::join_all(moves).await {
            assert_eq!(moved, Ok(other));
        }
    }
    for _ in 0..3 {
        cluster.stop(0).await;
    }
}
