//! Nodes that belong together.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use kvd_client::{Client, Config, NodeId, ReplicaStatus, Status};
use kvd_types::GroupId;
use rustix::process::Signal;
use tempfile::TempDir;

use crate::{node::Node, turn::Turn, wait::until};

/// How long a test's client tries, unless the test says otherwise.
const CLIENT_DEADLINE: Duration = Duration::from_secs(20);
/// Shards, unless a test says otherwise: enough that each node leads some.
const SHARDS: &str = "6";

/// How a cluster is to be.
#[derive(Debug)]
pub struct Builder {
    nodes: usize,
    flags: Vec<(String, String)>,
    variables: Vec<(String, String)>,
    turn: Option<Arc<Turn>>,
}

impl Builder {
    /// Sets a setting of all nodes by its flag, without the dashes.
    #[must_use]
    pub fn set(mut self, flag: &str, value: &str) -> Self {
        self.flags.push((flag.to_owned(), value.to_owned()));
        self
    }

    /// Sets an environment variable of all nodes.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs beside another cluster, of the same test.
    #[must_use]
    pub fn beside(mut self, other: &Cluster) -> Self {
        self.turn = Some(Arc::clone(&other.turn));
        self
    }

    /// Makes the nodes, without starting them.
    ///
    /// # Panics
    /// There is no place for them.
    pub async fn make(self) -> Cluster {
        let turn = match self.turn {
            Some(turn) => turn,
            None => Arc::new(Turn::take().await),
        };
        let dir = tempfile::tempdir().expect("a directory can be made");
        let nodes: Vec<Node> =
            (1..=self.nodes).map(|number| Node::new(format!("node-{number}"), dir.path())).collect();
        let seeds: Vec<String> = nodes.iter().map(|node| node.peer_address().to_string()).collect();
        let mut cluster = Cluster {
            nodes,
            dir,
            flags: self.flags,
            variables: self.variables,
            seeds: seeds.join(","),
            turn,
        };
        let mut nodes = std::mem::take(&mut cluster.nodes);
        nodes.iter_mut().for_each(|node| cluster.set_up(node));
        cluster.nodes = nodes;
        cluster
    }

    /// Makes the nodes, starts them, and waits until they are ready.
    pub async fn start(self) -> Cluster {
        let mut cluster = self.make().await;
        cluster.start_all();
        cluster.ready().await;
        cluster
    }
}

/// A cluster of processes. Its nodes are counted from zero.
#[derive(Debug)]
pub struct Cluster {
    nodes: Vec<Node>,
    dir: TempDir,
    flags: Vec<(String, String)>,
    variables: Vec<(String, String)>,
    seeds: String,
    turn: Arc<Turn>,
}

impl Cluster {
    /// A cluster of so many nodes, to be refined and started.
    #[must_use]
    pub const fn of(nodes: usize) -> Builder {
        Builder { nodes, flags: Vec::new(), variables: Vec::new(), turn: None }
    }

    /// The nodes.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node.
    #[must_use]
    pub fn node(&self, index: usize) -> &Node {
        &self.nodes[index]
    }

    /// A node, to be started or ended.
    pub fn node_mut(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// A node with the settings of the others, on ports and a directory of its own. Not started, and not counted.
    #[must_use]
    pub fn another(&self, name: &str) -> Node {
        let mut node = Node::new(name, self.dir.path());
        self.set_up(&mut node);
        node
    }

    fn set_up(&self, node: &mut Node) {
        node.set("cluster-shards", SHARDS);
        node.set("seeds", &self.seeds);
        self.flags.iter().for_each(|(flag, value)| node.set(flag, value));
        self.variables.iter().for_each(|(name, value)| node.set_variable(name, value));
    }

    /// A directory that ends with the cluster.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts all that don't run.
    pub fn start_all(&mut self) {
        self.nodes.iter_mut().filter(|node| !node.is_started()).for_each(Node::start);
    }

    /// Asks all that run to stop, at once, and waits until they have.
    ///
    /// # Panics
    /// One doesn't stop, or not well.
    pub async fn stop_all(&mut self) {
        for node in self.nodes.iter().filter(|node| node.is_started()) {
            node.process().signal(Signal::TERM);
        }
        for node in self.nodes.iter_mut().filter(|node| node.is_started()) {
            let status = node.wait().await;
            assert!(status.success(), "{status}:\n{}", node.log());
        }
    }

    /// Kills all at once.
    pub fn kill_all(&mut self) {
        self.nodes.iter_mut().filter(|node| node.is_started()).for_each(Node::kill);
    }

    /// Waits until all that have been started are ready.
    pub async fn ready(&self) {
        futures::future::join_all(self.nodes.iter().filter(|node| node.is_started()).map(Node::ready)).await;
    }

    /// The client addresses of all nodes, separated by commas.
    #[must_use]
    pub fn endpoints(&self) -> String {
        let endpoints: Vec<String> =
            self.nodes.iter().map(|node| node.client_address().to_string()).collect();
        endpoints.join(",")
    }

    /// A patient client.
    pub async fn client(&self) -> Client {
        self.client_with_deadline(CLIENT_DEADLINE).await
    }

    /// A client whose requests are tried for so long.
    pub async fn client_with_deadline(&self, deadline: Duration) -> Client {
        let config = Config::from(self.endpoints().as_str()).deadline(deadline);
        until("a client to find the cluster", async || {
            Client::connect(config.clone()).await.map_err(|error| error.to_string())
        })
        .await
    }

    /// A node's id.
    ///
    /// # Panics
    /// It has none: it has never been part of the cluster.
    pub async fn id(&self, client: &Client, index: usize) -> NodeId {
        let address = self.nodes[index].client_address().to_string();
        until("a node to be known", async || {
            let topology = client.status().await.map_err(|error| error.to_string())?.topology;
            let node = topology.nodes.iter().find(|node| node.client_address == address);
            node.map(|node| node.id).ok_or_else(|| format!("{address} is not in {:?}", topology.nodes))
        })
        .await
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// It doesn't answer.
    pub async fn status(&self, client: &Client, index: usize) -> Result<Status, String> {
        let id = self.id(client, index).await;
        client.status_of(id).await.map_err(|error| error.to_string())
    }

    /// Waits until all replicas of all groups, on the nodes that have been started, have applied the same and hold the
    /// same. Nobody may be writing.
    pub async fn agreed(&self, client: &Client) {
        until("all replicas to agree", async || self.agree(client).await).await;
    }

    async fn agree(&self, client: &Client) -> Result<(), String> {
        let mut groups: BTreeMap<GroupId, Vec<ReplicaStatus>> = BTreeMap::new();
        for index in (0..self.nodes.len()).filter(|&index| self.nodes[index].is_started()) {
            for replica in self.status(client, index).await?.replicas {
                groups.entry(replica.group).or_default().push(replica);
            }
        }
        let nodes = self.nodes.iter().filter(|node| node.is_started()).count();
        for (group, replicas) in &groups {
            let holds: BTreeSet<_> =
                replicas.iter().map(|replica| (replica.applied_index, replica.digest)).collect();
            if holds.len() != 1 || replicas.len() != nodes {
                return Err(format!("group {group}: {replicas:?}"));
            }
        }
        if groups.is_empty() { Err("there are no groups".to_owned()) } else { Ok(()) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What is left of a failure is kept for whoever wants to look into it.
        if std::thread::panicking() && std::env::var_os("KVD_TESTS_KEEP").is_some() {
            self.dir.disable_cleanup(true);
            eprintln!("the nodes' directories are kept in {}", self.dir.path().display());
        }
    }
}
