//! The table of settings: each one's path, flag, meaning, and what a value of it may look like by itself.

use std::{net::SocketAddr, ops::RangeInclusive};

use kvd_types::limits::{
    ENTRY_BYTES_TARGET, HISTORY_BYTES_MAX_RANGE, HISTORY_RETENTION_RANGE_MS, KEY_BYTES_MAX, LABEL_BYTES_MAX,
    NODES_MAX, SHARDS_MAX, VALUE_BYTES_MAX, WEIGHT_RANGE,
};
use toml::Value;

/// A setting.
#[derive(Debug)]
pub struct Setting {
    /// Its path in the file, such as `raft.heartbeat_ms`.
    pub path: &'static str,
    /// Its flag, without the dashes: the path with dashes for dots and underscores. Secrets have none, because a
    /// process's arguments are there for everybody to see.
    pub flag: Option<&'static str>,
    /// What it means, for `--help`.
    pub help: &'static str,
    /// What its values look like.
    pub kind: Kind,
}

impl Setting {
    /// Its environment variable: the path in capitals with underscores for dots.
    #[must_use]
    pub fn variable(&self) -> String {
        format!("KVD_{}", self.path.replace('.', "_").to_uppercase())
    }

    /// Whether its value must not be shown.
    #[must_use]
    pub const fn is_secret(&self) -> bool {
        matches!(self.kind, Kind::Secret)
    }
}

/// What a setting's values look like.
#[derive(Debug)]
pub enum Kind {
    /// Text of at most so many bytes, without control characters.
    Text(usize),
    /// Text that is not shown.
    Secret,
    /// A path.
    Path,
    /// A whole number.
    Integer(RangeInclusive<u64>),
    /// A number of bytes, or text such as `64MiB`.
    Bytes(RangeInclusive<u64>),
    /// An IP address and port to listen on.
    Listen,
    /// A host and port that others reach; empty: derived.
    Advertise,
    /// Hosts and ports.
    Peers,
    /// One of these words.
    Word(&'static [&'static str]),
    /// A filter of log lines.
    Filter,
}

macro_rules! setting {
    ($path:literal, $flag:expr, $kind:expr, $help:literal) => {
        Setting { path: $path, flag: $flag, help: $help, kind: $kind }
    };
}

/// A quarter of the room for rows at most: a drain has to begin long before that is full, as rows keep coming.
const DRAIN_ROWS_RANGE: RangeInclusive<u64> = 1..=128 << 10;
const MILLISECONDS: RangeInclusive<u64> = 1..=600_000;
const DISK_BYTES: RangeInclusive<u64> = (1 << 20)..=(1 << 40);
/// A log entry takes at most half a segment, and the longest holds a batch of the usual size and one largest command more.
const SEGMENT_BYTES: RangeInclusive<u64> = (8 << 20)..=(1 << 30);
const CHECKPOINT_BYTES: RangeInclusive<u64> = (64 << 10)..=(1 << 40);
const _: () =
    assert!((ENTRY_BYTES_TARGET + VALUE_BYTES_MAX + 2 * KEY_BYTES_MAX) as u64 * 2 < *SEGMENT_BYTES.start());

/// Every setting there is.
pub static SETTINGS: &[Setting] = &[
    setting!("data_dir", Some("data-dir"), Kind::Path, "Directory of the node's identity and data"),
    setting!("node_name", Some("node-name"), Kind::Text(LABEL_BYTES_MAX), "What the node is called in logs"),
    setting!("zone", Some("zone"), Kind::Text(LABEL_BYTES_MAX), "Failure domain that the node stands in"),
    setting!(
        "weight",
        Some("weight"),
        Kind::Integer(*WEIGHT_RANGE.start() as u64..=*WEIGHT_RANGE.end() as u64),
        "The node's share of replicas and leaders, relative to other nodes' (100 is usual)"
    ),
    setting!("cluster_token", None, Kind::Secret, "Secret that the nodes of one cluster share"),
    setting!(
        "seeds",
        Some("seeds"),
        Kind::Peers,
        "Peer addresses through which to find the cluster, with commas between"
    ),
    setting!("listen_client", Some("listen-client"), Kind::Listen, "Where to listen for clients' gRPC"),
    setting!("listen_peer", Some("listen-peer"), Kind::Listen, "Where to listen for other nodes"),
    setting!(
        "listen_http",
        Some("listen-http"),
        Kind::Listen,
        "Where to listen for HTTP: REST, health and metrics"
    ),
    setting!(
        "advertise_client",
        Some("advertise-client"),
        Kind::Advertise,
        "Where clients reach this node, host:port"
    ),
    setting!(
        "advertise_peer",
        Some("advertise-peer"),
        Kind::Advertise,
        "Where other nodes reach this one, host:port"
    ),
    setting!(
        "advertise_http",
        Some("advertise-http"),
        Kind::Advertise,
        "Where this node's HTTP is reached, host:port"
    ),
    setting!(
        "cluster.shards",
        Some("cluster-shards"),
        Kind::Integer(1..=SHARDS_MAX as u64),
        "Shards of a new cluster; of no effect later"
    ),
    setting!(
        "cluster.replication_factor",
        Some("cluster-replication-factor"),
        Kind::Integer(1..=5),
        "Replicas of each shard of a new cluster: 1, 3 or 5; of no effect later"
    ),
    setting!(
        "cluster.initial_nodes",
        Some("cluster-initial-nodes"),
        Kind::Integer(1..=NODES_MAX as u64),
        "Nodes that must have joined before shards are placed; of no effect later"
    ),
    setting!(
        "cluster.history_retention_ms",
        Some("cluster-history-retention-ms"),
        Kind::Integer(HISTORY_RETENTION_RANGE_MS),
        "How long a new cluster keeps what was replaced or deleted, in milliseconds; of no effect later"
    ),
    setting!(
        "cluster.history_bytes_max",
        Some("cluster-history-bytes-max"),
        Kind::Bytes(HISTORY_BYTES_MAX_RANGE),
        "Bytes of it that each shard of a new cluster keeps; of no effect later"
    ),
    setting!(
        "cluster.lease_reads",
        Some("cluster-lease-reads"),
        Kind::Word(&["off", "on"]),
        "Whether a new cluster allows reads by a leader's lease; of no effect later"
    ),
    setting!(
        "raft.heartbeat_ms",
        Some("raft-heartbeat-ms"),
        Kind::Integer(MILLISECONDS),
        "How often a leader speaks up, in milliseconds"
    ),
    setting!(
        "raft.election_timeout_min_ms",
        Some("raft-election-timeout-min-ms"),
        Kind::Integer(MILLISECONDS),
        "Least silence before an election, in milliseconds"
    ),
    setting!(
        "raft.election_timeout_max_ms",
        Some("raft-election-timeout-max-ms"),
        Kind::Integer(MILLISECONDS),
        "Most silence before an election, in milliseconds"
    ),
    setting!(
        "raft.sleep_after_ms",
        Some("raft-sleep-after-ms"),
        Kind::Integer(0..=*MILLISECONDS.end()),
        "A shard with nothing to do for so long sends no heartbeats, in milliseconds; 0: all always do"
    ),
    setting!(
        "storage.engine",
        Some("storage-engine"),
        Kind::Word(&["sled", "fjall", "memory"]),
        "What holds the applied state: fjall if it is larger than memory; another one than before is rebuilt at the start"
    ),
    setting!(
        "storage.log_segment_bytes",
        Some("storage-log-segment-bytes"),
        Kind::Bytes(SEGMENT_BYTES),
        "Size of a file of the log"
    ),
    setting!(
        "storage.checkpoint_log_bytes",
        Some("storage-checkpoint-log-bytes"),
        Kind::Bytes(CHECKPOINT_BYTES),
        "Growth of a shard's log between two checkpoints, at least"
    ),
    setting!(
        "storage.flush_interval_ms",
        Some("storage-flush-interval-ms"),
        Kind::Integer(MILLISECONDS),
        "How often the engine writes what it holds back, in milliseconds"
    ),
    setting!(
        "storage.drain_rows",
        Some("storage-drain-rows"),
        Kind::Integer(DRAIN_ROWS_RANGE),
        "Applied rows of a shard that go to the engine at once"
    ),
    setting!(
        "storage.drain_interval_ms",
        Some("storage-drain-interval-ms"),
        Kind::Integer(1..=10_000),
        "How long applied rows stay in memory alone, in milliseconds"
    ),
    setting!(
        "storage.cache_bytes",
        Some("storage-cache-bytes"),
        Kind::Bytes(DISK_BYTES),
        "What the engine may keep in memory"
    ),
    setting!(
        "storage.at_hand_bytes",
        Some("storage-at-hand-bytes"),
        Kind::Bytes(DISK_BYTES),
        "What shards may keep in memory of the versions that writes will replace"
    ),
    setting!(
        "limits.value_bytes_max",
        Some("limits-value-bytes-max"),
        Kind::Bytes(1..=VALUE_BYTES_MAX as u64),
        "Largest value that this node takes"
    ),
    setting!(
        "limits.connections_max",
        Some("limits-connections-max"),
        Kind::Integer(1..=1_000_000),
        "Most connections on each of the client and the HTTP port"
    ),
    setting!(
        "limits.threads",
        Some("limits-threads"),
        Kind::Integer(0..=1024),
        "Threads that serve clients, and as many for the rest, but for disks'; 0: as many as cores"
    ),
    setting!(
        "shutdown.grace_ms",
        Some("shutdown-grace-ms"),
        Kind::Integer(0..=600_000),
        "How long requests may take to end and leaders to move, in milliseconds"
    ),
    setting!("log.format", Some("log-format"), Kind::Word(&["text", "json"]), "How log lines look"),
    setting!(
        "log.filter",
        Some("log-filter"),
        Kind::Filter,
        "Which log lines there are, such as warn,kvd_raft=debug"
    ),
];

/// The setting at a path.
#[must_use]
pub fn find(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.path == path)
}

impl Kind {
    /// The value that a text from a flag or variable stands for.
    ///
    /// # Errors
    /// What is wrong with it and what it should look like.
    pub fn parse(&self, text: &str) -> Result<Value, String> {
        let value = match self {
            Self::Integer(_) => Value::Integer(text.trim().parse().map_err(|_| self.wanted())?),
            Self::Peers => {
                let peers = text.split(',').map(str::trim).filter(|peer| !peer.is_empty());
                Value::Array(peers.map(|peer| Value::String(peer.to_owned())).collect())
            }
            _ => Value::String(text.to_owned()),
        };
        self.accept(value)
    }

    /// The value in the form that [`super::Config`] takes.
    ///
    /// # Errors
    /// What is wrong with it and what it should look like.
    pub fn accept(&self, value: Value) -> Result<Value, String> {
        match (self, value) {
            (Self::Integer(range), Value::Integer(number)) => {
                in_range(number, range).ok_or_else(|| self.wanted())
            }
            (Self::Bytes(range), Value::Integer(number)) => {
                in_range(number, range).ok_or_else(|| self.wanted())
            }
            (Self::Bytes(range), Value::String(text)) => {
                parse_bytes(&text).and_then(|number| in_range(number, range)).ok_or_else(|| self.wanted())
            }
            (Self::Peers, Value::Array(peers)) => {
                for peer in &peers {
                    host_and_port(peer.as_str().ok_or_else(|| self.wanted())?)?;
                }
                Ok(Value::Array(peers))
            }
            (_, Value::String(text)) => self.check_text(&text).map(|()| Value::String(text)),
            _ => Err(self.wanted()),
        }
    }

    fn check_text(&self, text: &str) -> Result<(), String> {
        let good = match self {
            Self::Text(bytes_max) => text.len() <= *bytes_max && !text.contains(char::is_control),
            Self::Secret => text.len() <= SECRET_BYTES_MAX && !text.contains(char::is_control),
            Self::Path => !text.contains('\0'),
            Self::Listen => text.parse::<SocketAddr>().is_ok(),
            Self::Word(words) => words.contains(&text),
            Self::Filter => tracing_subscriber::EnvFilter::try_new(text).is_ok(),
            Self::Advertise if text.is_empty() => true,
            Self::Advertise => return host_and_port(text).map(|_| ()),
            Self::Integer(_) | Self::Bytes(_) | Self::Peers => false,
        };
        if good { Ok(()) } else { Err(self.wanted()) }
    }

    /// What a value should look like.
    fn wanted(&self) -> String {
        match self {
            Self::Text(bytes_max) => {
                format!("must be text of at most {bytes_max} bytes without control characters")
            }
            Self::Secret => {
                format!("must be text of at most {SECRET_BYTES_MAX} bytes without control characters")
            }
            Self::Path => "must be a path, as text".to_owned(),
            Self::Integer(range) => {
                format!("must be a whole number from {} to {}", range.start(), range.end())
            }
            Self::Bytes(range) => format!(
                "must be a number of bytes from {} to {}, or text such as \"64MiB\" (KiB, MiB, GiB)",
                range.start(),
                range.end()
            ),
            Self::Listen => {
                "must be an IP address and a port, such as \"0.0.0.0:7400\" or \"[::]:7400\"".to_owned()
            }
            Self::Advertise => {
                "must be a host and a port as text, such as \"node-1.example:7400\"".to_owned()
            }
            Self::Peers => "must be a list of hosts and ports, such as [\"node-1.example:7401\"]".to_owned(),
            Self::Word(words) => format!("must be one of: {}", words.join(", ")),
            Self::Filter => "must be a filter such as \"info\" or \"warn,kvd_raft=debug\"".to_owned(),
        }
    }
}

const SECRET_BYTES_MAX: usize = 1024;

fn in_range(number: i64, range: &RangeInclusive<u64>) -> Option<Value> {
    let inside = u64::try_from(number).is_ok_and(|number| range.contains(&number));
    inside.then_some(Value::Integer(number))
}

fn parse_bytes(text: &str) -> Option<i64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: i64 = number.replace('_', "").parse().ok()?;
    let unit: i64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The host and the port of `host:port` or `[v6]:port`.
///
/// # Errors
/// What is wrong and what it should look like.
pub fn host_and_port(text: &str) -> Result<(&str, u16), String> {
    let wanted = || format!("\"{text}\" must be host:port, such as node-1.example:7401 or [::1]:7401");
    let (host, port) = text.rsplit_once(':').ok_or_else(wanted)?;
    let port: u16 = port.parse().map_err(|_| wanted())?;
    let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let good = match bracketed {
        Some(host) => host.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            !host.is_empty() && host.chars().all(allowed)
        }
    };
    if good && port != 0 && text.len() <= LABEL_BYTES_MAX {
        Ok((bracketed.unwrap_or(host), port))
    } else {
        Err(wanted())
    }
}
