//! Which nodes there will be, and with which arguments: worked out before anything is touched.

use std::{
    ffi::{OsStr, OsString},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    num::NonZeroUsize,
    path::{Path, PathBuf},
};

use kvd_types::limits::SHARDS_DEFAULT;

use super::{Error, NODES_DEFAULT, NODES_MAX, Options};

/// From one node's ports to the next one's.
const PORTS_PER_NODE: u16 = 10;
/// From a node's first port to its last one.
const PORTS_ABOVE: u16 = 2;

/// The nodes of a local cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In order, from node 1.
    pub nodes: Vec<NodePlan>,
    /// Start a child again that has died.
    pub restart: bool,
}

/// One node of a local cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodePlan {
    /// Its number, from 1.
    pub number: u16,
    /// Where its data, log and pid file are.
    pub dir: PathBuf,
    /// gRPC for clients.
    pub client: SocketAddr,
    /// Between nodes.
    pub peer: SocketAddr,
    /// REST, health and metrics.
    pub http: SocketAddr,
    /// The arguments of its process, `serve` first.
    pub args: Vec<OsString>,
}

impl NodePlan {
    /// The node's data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// What the node says.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.dir.join("kvd.log")
    }

    /// Its process id, while it runs.
    #[must_use]
    pub fn pid_path(&self) -> PathBuf {
        self.dir.join("pid")
    }
}

/// What of this machine each of its nodes gets.
///
/// Nodes that share a machine do all of each other's work: each entry of a shard is written and applied on all of them. So
/// the nodes together, not each of them, have as many threads for clients as there are cores, and as many for the rest; and
/// there are as few shards as keep all cores busy and give each node as many leaders as the next, for the work that an entry is,
/// whatever is in it, falls on the same cores for each shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    shards: u32,
    threads: u32,
}

impl Share {
    fn of(nodes: u16, cores: NonZeroUsize) -> Self {
        let nodes = u32::from(nodes.max(1));
        let cores = u32::try_from(cores.get()).unwrap_or(u32::MAX);
        let shards = cores.div_ceil(nodes).saturating_mul(nodes);
        let most = SHARDS_DEFAULT.max(nodes);
        Self { shards: shards.min(most - most % nodes), threads: (cores / nodes).max(1) }
    }
}

impl Plan {
    /// The nodes to start on a directory that has so many already.
    ///
    /// # Errors
    /// A number of nodes or a port that can't be.
    pub fn new(options: &Options, dir: &Path, existing: u16) -> Result<Self, Error> {
        let nodes = options.nodes.unwrap_or(if existing > 0 { existing } else { NODES_DEFAULT });
        if !(1..=NODES_MAX).contains(&nodes) {
            return Err(Error::Nodes(nodes));
        }
        if nodes < existing {
            return Err(Error::FewerNodes { dir: dir.display().to_string(), existing });
        }
        let base_port = options.base_port;
        let above = PORTS_PER_NODE * (nodes - 1) + PORTS_ABOVE;
        if base_port == 0 || base_port.checked_add(above).is_none() {
            return Err(Error::Ports { base_port, nodes, above });
        }
        let address = |node: u16, offset: u16| {
            SocketAddr::from((Ipv4Addr::LOCALHOST, base_port + PORTS_PER_NODE * (node - 1) + offset))
        };
        let share = Share::of(nodes, options.cores);
        let seeds: Vec<String> = (1..=nodes).map(|node| address(node, 1).to_string()).collect();
        let plan_of = |number: u16| {
            let dir = dir.join(format!("node-{number}"));
            let (client, peer, http) = (address(number, 0), address(number, 1), address(number, 2));
            let mut args: Vec<OsString> = vec!["serve".into()];
            let mut data_dir = OsString::from("--data-dir=");
            data_dir.push(dir.join("data"));
            args.push(data_dir);
            // Advertised addresses, too: a variable in the environment must not give all nodes one address.
            let more = [
                ("node-name", format!("node-{number}")),
                ("seeds", seeds.join(",")),
                ("listen-client", client.to_string()),
                ("listen-peer", peer.to_string()),
                ("listen-http", http.to_string()),
                ("advertise-client", client.to_string()),
                ("advertise-peer", peer.to_string()),
                ("advertise-http", http.to_string()),
                ("cluster-initial-nodes", nodes.to_string()),
            ];
            args.extend(more.map(|(flag, value)| format!("--{flag}={value}").into()));
            args.push(format!("--cluster-shards={}", options.shards.unwrap_or(share.shards)).into());
            args.push(format!("--limits-threads={}", share.threads).into());
            let factor = options.replication_factor;
            args.extend(factor.map(|factor| format!("--cluster-replication-factor={factor}").into()));
            NodePlan { number, dir, client, peer, http, args }
        };
        Ok(Self { nodes: (1..=nodes).map(plan_of).collect(), restart: options.restart })
    }

    /// Checks that every port is to be had just now.
    ///
    /// # Errors
    /// The first one that isn't.
    pub fn check_ports(&self) -> Result<(), Error> {
        for node in &self.nodes {
            for address in [node.client, node.peer, node.http] {
                if let Err(error) = TcpListener::bind(address) {
                    return Err(Error::Port { port: address.port(), node: node.number, error });
                }
            }
        }
        Ok(())
    }

    /// What is said when the cluster is ready: one line for scripts, then what to try.
    pub(super) fn welcome(&self, dir: &Path) -> String {
        let endpoints: Vec<String> = self.nodes.iter().map(|node| node.client.to_string()).collect();
        let endpoints = endpoints.join(",");
        let http = self.nodes.first().map_or_else(String::new, |node| node.http.to_string());
        format!(
            "ready: {count} nodes, endpoints {endpoints}\n\
             \n\
             Try:\n\
             \x20 curl -X PUT http://{http}/store -d '{{\"key\":\"user:123\",\"value\":\"John Doe\"}}'\n\
             \x20 curl http://{http}/store/user:123\n\
             \x20 kvctl --endpoints {endpoints} get user:123\n\
             \x20 kvctl --endpoints {endpoints} status\n\
             \n\
             Data and logs are in {dir}/node-*. Ctrl-C stops the nodes; the same command starts them again.\n",
            count = self.nodes.len(),
            dir = dir.display()
        )
    }
}

/// A command line that a shell reads as this program with these arguments.
#[must_use]
pub fn command_text(program: &Path, args: &[OsString]) -> String {
    let words = std::iter::once(program.as_os_str()).chain(args.iter().map(OsString::as_os_str));
    words.map(quoted).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &OsStr) -> String {
    let word = word.to_string_lossy();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.into_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}
