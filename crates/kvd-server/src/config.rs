//! A node's configuration: one [`Config`], whole and checked before a port is opened.
//!
//! # Where a setting comes from
//! Each setting has one path, such as `raft.heartbeat_ms`, and with it one flag (`--raft-heartbeat-ms`), one environment
//! variable (`KVD_RAFT_HEARTBEAT_MS`) and one place in the TOML file named by `--config` or `KVD_CONFIG`. A flag beats the
//! environment, which beats the file, which beats the default. [`settings`] is the table of them all; [`load`] merges the
//! layers and remembers which one each value came from; [`check`] looks at how the values stand to each other.
//!
//! # What is refused, and what is only warned of
//! An unknown key in the file or an unknown flag is an error. Of environment variables that begin with `KVD_`,
//! - those that Kubernetes puts into every pod beside a Service named `kvd` or `kvd-…` (`KVD_PORT`, `KVD_SERVICE_HOST`,
//!   `KVD_PORT_7400_TCP_ADDR` and the like) are passed over in silence: they are not meant for us;
//! - one that is nearly the name of a setting is an error, being a slip of the pen;
//! - any other is a warning: `kvctl` and people's own scripts use the prefix too.
//!
//! Every problem that can be found is reported at once, each with the setting, its value, its source and the way out.
//!
//! # Parsing a pod's arguments
//! [`Config::from_args_and_env`] reads no file, variable or argument of its own accord, so a test can hand it what a
//! manifest says: the container's `args` after `serve`, its `env` as pairs, and a function that reads its files.
//!
//! # What is deliberately absent
//! No reloading while running, no tokio, no look at the machine (its memory, host name or interfaces): the same inputs
//! make the same configuration everywhere.

use std::{fmt, net::SocketAddr, path::PathBuf, time::Duration};

use kvd_types::{
    cluster::{self, Addresses, NodeProfile},
    limits::{
        HISTORY_BYTES_MAX_DEFAULT, HISTORY_RETENTION_DEFAULT_MS, SHARDS_DEFAULT, VALUE_BYTES_MAX,
        WEIGHT_DEFAULT,
    },
};
use serde::{Deserialize, Serialize};

mod check;
mod load;
mod problem;
pub mod settings;

pub use load::{LoadError, Loaded, flags, from_matches};
pub use problem::{Problem, Problems, Source, Sources};

/// Everything that an operator can set. What is empty or zero in [`Config::default`] is derived by [`Config::resolve`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The directory that holds the node's identity and data, for its whole life.
    pub data_dir: PathBuf,
    /// What the node is called in logs. Derived: its advertised peer address.
    pub node_name: String,
    /// The failure domain that the node stands in; empty: none.
    pub zone: String,
    /// The node's share of replicas and leaders, relative to the other nodes'.
    pub weight: u32,
    /// The secret that nodes of one cluster share; empty: none.
    pub cluster_token: Token,
    /// Peer addresses, `host:port`, of nodes through which this one finds its cluster. It may be among them itself.
    pub seeds: Vec<String>,
    /// Where to listen for clients' gRPC.
    pub listen_client: SocketAddr,
    /// Where to listen for other nodes.
    pub listen_peer: SocketAddr,
    /// Where to listen for HTTP: REST, health and metrics.
    pub listen_http: SocketAddr,
    /// Where clients reach this node's gRPC, `host:port`. Derived: where it listens, unless that is a wildcard.
    pub advertise_client: String,
    /// Where other nodes reach this one, `host:port`. Derived likewise.
    pub advertise_peer: String,
    /// Where this node's HTTP is reached, `host:port`. Derived likewise.
    pub advertise_http: String,
    /// What is decided when the cluster is created; of no effect later.
    pub cluster: Cluster,
    /// Raft's timing.
    pub raft: Raft,
    /// How data rests on the disk.
    pub storage: Storage,
    /// What a node takes on.
    pub limits: Limits,
    /// How a node stops.
    pub shutdown: Shutdown,
    /// What a node says.
    pub log: Log,
}

/// What is decided when the cluster is created; of no effect later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Shards that the keyspace is split into.
    pub shards: u32,
    /// Replicas of each shard. Derived: 1 in a cluster of one node, else 3.
    pub replication_factor: u32,
    /// Shards are placed once so many nodes have joined. Derived: the number of seeds, or 1.
    pub initial_nodes: u32,
    /// What was replaced or deleted can be read for so long, in milliseconds.
    pub history_retention_ms: u64,
    /// More bytes of it than this are not kept that long by a shard.
    pub history_bytes_max: u64,
    /// Whether reads may rely on a leader's lease.
    pub lease_reads: Switch,
}

/// On or off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Off.
    #[default]
    Off,
    /// On.
    On,
}

/// Raft's timing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Raft {
    /// How often a leader speaks up, in milliseconds.
    pub heartbeat_ms: u64,
    /// The least silence after which a follower stands for election, in milliseconds.
    pub election_timeout_min_ms: u64,
    /// The most silence after which a follower stands for election, in milliseconds.
    pub election_timeout_max_ms: u64,
    /// A group that has had nothing to do for so long, in milliseconds, sleeps: it sends no heartbeats. 0: none ever does.
    pub sleep_after_ms: u64,
}

/// How data rests on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Storage {
    /// What holds the applied state. It never holds the only copy of anything.
    pub engine: Engine,
    /// Size of a file of the log, in bytes.
    pub log_segment_bytes: u64,
    /// A shard makes a checkpoint once its log has grown by so many bytes since the last one, or by as many as that one takes
    /// if these are more, but no more than eight times this. Or once it keeps more of the node's log from being used again than
    /// four times all checkpoints of the node, but not less than this.
    pub checkpoint_log_bytes: u64,
    /// How often the engine is made to write what it holds back, in milliseconds; down to a twentieth as often
    /// while that takes long or the engine lags behind what is written.
    pub flush_interval_ms: u64,
    /// A shard's applied rows go from memory to the engine once there are so many.
    pub drain_rows: u32,
    /// A shard's applied rows go from memory to the engine after so many milliseconds.
    pub drain_interval_ms: u64,
    /// What the engine may keep in memory, in bytes.
    pub cache_bytes: u64,
    /// What shards may keep in memory of the versions that writes will replace, in bytes.
    pub at_hand_bytes: u64,
}

/// What holds the applied state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// sled, on the disk: for a state that fits in memory.
    Sled,
    /// fjall, on the disk: for a state that is larger.
    Fjall,
    /// Memory: rebuilt from checkpoint and log at each start.
    Memory,
}

/// What a node takes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Largest value that this node takes, in bytes.
    pub value_bytes_max: usize,
    /// Most connections on each of the client and the HTTP port; those beyond are closed at once.
    pub connections_max: u32,
    /// Threads that serve clients, and as many again that do the rest, but for disks' work; zero: as many as the machine has
    /// cores.
    pub threads: u32,
}

/// How a node stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// How long requests may take to end and leaders to move, in milliseconds.
    pub grace_ms: u64,
}

/// What a node says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// How lines look.
    pub format: LogFormat,
    /// Which lines there are, in the words of tracing's `EnvFilter`: `warn,kvd_raft=debug`.
    pub filter: String,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// A secret: it is never shown, in logs or elsewhere.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Token(String);

/// What is shown in place of a secret.
pub const REDACTED: &str = "(redacted)";

impl Token {
    /// A token of this text.
    #[must_use]
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The secret itself, for comparing and sending.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    const fn shown(&self) -> &'static str {
        if self.is_empty() { "" } else { REDACTED }
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.shown())
    }
}

impl Serialize for Token {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.shown())
    }
}

impl Default for Config {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from(([127, 0, 0, 1], port));
        Self {
            data_dir: PathBuf::from("/var/lib/kvd"),
            node_name: String::new(),
            zone: String::new(),
            weight: WEIGHT_DEFAULT,
            cluster_token: Token::default(),
            seeds: Vec::new(),
            listen_client: loopback(7400),
            listen_peer: loopback(7401),
            listen_http: loopback(7402),
            advertise_client: String::new(),
            advertise_peer: String::new(),
            advertise_http: String::new(),
            cluster: Cluster {
                shards: SHARDS_DEFAULT,
                replication_factor: 0,
                initial_nodes: 0,
                history_retention_ms: HISTORY_RETENTION_DEFAULT_MS,
                history_bytes_max: HISTORY_BYTES_MAX_DEFAULT,
                lease_reads: Switch::Off,
            },
            raft: Raft {
                heartbeat_ms: 120,
                election_timeout_min_ms: 400,
                election_timeout_max_ms: 600,
                sleep_after_ms: 3000,
            },
            storage: Storage {
                engine: Engine::Sled,
                log_segment_bytes: 64 << 20,
                checkpoint_log_bytes: 256 << 20,
                flush_interval_ms: 30_000,
                drain_rows: 100_000,
                drain_interval_ms: 3000,
                cache_bytes: 64 << 20,
                at_hand_bytes: 64 << 20,
            },
            limits: Limits { value_bytes_max: VALUE_BYTES_MAX, connections_max: 4096, threads: 0 },
            shutdown: Shutdown { grace_ms: 20_000 },
            log: Log {
                format: LogFormat::Text,
                filter: "info,openraft=error,openraft::core::heartbeat=off".to_owned(),
            },
        }
    }
}

impl Config {
    /// Derives what was left open, then checks how the settings stand to each other. For configurations made in code;
    /// the others have been through it.
    ///
    /// # Errors
    /// Every problem found.
    pub fn resolve(mut self) -> Result<Self, Problems> {
        self.derive();
        let problems = check::relations(&self, &Sources::default());
        if problems.is_empty() { Ok(self) } else { Err(Problems(problems)) }
    }

    /// Where the node can be reached.
    #[must_use]
    pub fn addresses(&self) -> Addresses {
        Addresses {
            client: self.advertise_client.clone(),
            peer: self.advertise_peer.clone(),
            http: self.advertise_http.clone(),
        }
    }

    /// What the node says of itself when it joins or starts.
    #[must_use]
    pub fn profile(&self) -> NodeProfile {
        NodeProfile { addresses: self.addresses(), zone: self.zone.clone(), weight: self.weight }
    }

    /// The whole as TOML, secrets redacted.
    ///
    /// # Errors
    /// A setting that TOML can't express, such as a path that isn't UTF-8.
    pub fn to_toml(&self) -> Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    fn derive(&mut self) {
        let derive = |advertise: &mut String, listen: SocketAddr| {
            if advertise.is_empty() && !listen.ip().is_unspecified() {
                *advertise = listen.to_string();
            }
        };
        derive(&mut self.advertise_client, self.listen_client);
        derive(&mut self.advertise_peer, self.listen_peer);
        derive(&mut self.advertise_http, self.listen_http);
        if self.node_name.is_empty() {
            self.node_name.clone_from(&self.advertise_peer);
        }
        if self.cluster.initial_nodes == 0 {
            self.cluster.initial_nodes = u32::try_from(self.seeds.len()).unwrap_or(u32::MAX).max(1);
        }
        if self.cluster.replication_factor == 0 {
            self.cluster.replication_factor = if self.cluster.initial_nodes == 1 { 1 } else { 3 };
        }
    }
}

impl Cluster {
    /// As the meta group stores it.
    #[must_use]
    pub const fn settings(&self) -> cluster::Settings {
        cluster::Settings {
            replication_factor: self.replication_factor,
            shards: self.shards,
            initial_nodes: self.initial_nodes,
            data: cluster::DataSettings {
                history_retention_ms: self.history_retention_ms,
                history_bytes_max: self.history_bytes_max,
                lease_reads: matches!(self.lease_reads, Switch::On),
            },
        }
    }
}

impl Raft {
    /// How often a leader speaks up.
    #[must_use]
    pub const fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms)
    }

    /// After how long without anything to do a group sleeps, if any does.
    #[must_use]
    pub fn sleep_after(&self) -> Option<Duration> {
        (self.sleep_after_ms > 0).then(|| Duration::from_millis(self.sleep_after_ms))
    }

    /// The silence after which a follower stands for election: at least, and at most.
    #[must_use]
    pub const fn election_timeout(&self) -> (Duration, Duration) {
        (
            Duration::from_millis(self.election_timeout_min_ms),
            Duration::from_millis(self.election_timeout_max_ms),
        )
    }
}

impl Storage {
    /// How often the engine is made to write what it holds back.
    #[must_use]
    pub const fn flush_interval(&self) -> Duration {
        Duration::from_millis(self.flush_interval_ms)
    }

    /// How long a shard's applied rows stay in memory alone.
    #[must_use]
    pub const fn drain_interval(&self) -> Duration {
        Duration::from_millis(self.drain_interval_ms)
    }
}

impl Shutdown {
    /// How long requests may take to end and leaders to move.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }
}

#[cfg(test)]
mod tests;
