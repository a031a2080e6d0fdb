//! How settings stand to each other.
//!
//! Each value is good by itself when it gets here. What is checked is what would otherwise fail later and less clearly:
//! elections that never settle, replicas that have no node, an address that nobody can reach.

use std::{collections::BTreeSet, fmt::Display, net::SocketAddr};

use kvd_types::limits::{NODES_MAX, REPLICATION_FACTORS};

use super::{Config, Problem, Source, Sources, settings::host_and_port};

/// Heartbeats that must fit into the shortest election timeout, so that one or two lost ones depose nobody.
const HEARTBEATS_PER_ELECTION: u64 = 3;

/// Everything that doesn't fit together.
pub(super) fn relations(config: &Config, sources: &Sources) -> Vec<Problem> {
    let mut found = Found { sources, problems: Vec::new() };
    found.timing(config);
    found.cluster(config);
    found.addresses(config);
    found.problems
}

/// What works but should be known.
pub(super) fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    if config.cluster_token.is_empty() && !config.listen_peer.ip().is_loopback() {
        warnings.push(format!(
            "cluster_token is empty while listen_peer = {} is open to other hosts: whoever reaches it can join; set \
             KVD_CLUSTER_TOKEN to one secret on all nodes",
            config.listen_peer
        ));
    }
    warnings
}

struct Found<'a> {
    sources: &'a Sources,
    problems: Vec<Problem>,
}

impl Found<'_> {
    fn add(&mut self, setting: &'static str, value: &dyn Display, message: String) {
        let source = self.sources.get(setting).cloned().unwrap_or(Source::Default);
        self.problems.push(Problem {
            setting: setting.to_owned(),
            value: Some(value.to_string()),
            source,
            message,
        });
    }

    fn timing(&mut self, config: &Config) {
        let raft = &config.raft;
        let (heartbeat, min, max) =
            (raft.heartbeat_ms, raft.election_timeout_min_ms, raft.election_timeout_max_ms);
        if heartbeat.saturating_mul(HEARTBEATS_PER_ELECTION) > min {
            self.add("raft.heartbeat_ms",
                &heartbeat,
                format!(
                    "{HEARTBEATS_PER_ELECTION} heartbeats must fit into raft.election_timeout_min_ms = {min}; lower it to {} \
                     or raise the timeout to {}",
                    min / HEARTBEATS_PER_ELECTION,
                    heartbeat.saturating_mul(HEARTBEATS_PER_ELECTION)
                ),
            );
        }
        if min >= max {
            self.add("raft.election_timeout_min_ms",
                &min,
                format!(
                    "must be below raft.election_timeout_max_ms = {max}, or nodes stand for election at one moment; \
                     twice the least is a good most"
                ),
            );
        }
    }

    fn cluster(&mut self, config: &Config) {
        let (factor, nodes) = (config.cluster.replication_factor, config.cluster.initial_nodes);
        if !REPLICATION_FACTORS.contains(&factor) {
            self.add("cluster.replication_factor", &factor, "must be 1, 3 or 5".to_owned());
        } else if factor > nodes {
            self.add("cluster.replication_factor",
                &factor,
                format!(
                    "each replica of a shard needs a node of its own, but cluster.initial_nodes = {nodes} (the number of \
                     seeds, unless set); name more seeds, or lower it"
                ),
            );
        }
        if config.seeds.len() > NODES_MAX {
            let message =
                format!("there are {} of them; a cluster has at most {NODES_MAX} nodes", config.seeds.len());
            self.add("seeds", &"[…]", message);
        }
        let mut seen = BTreeSet::new();
        for seed in config.seeds.iter().filter(|seed| !seen.insert(seed.as_str())) {
            self.add(
                "seeds",
                &format_args!("{:?}", config.seeds),
                format!("names {seed} twice; each node has an address of its own"),
            );
        }
    }

    fn addresses(&mut self, config: &Config) {
        if config.data_dir.as_os_str().is_empty() {
            self.add(
                "data_dir",
                &"\"\"",
                "is empty; name the directory that shall hold the node's data".to_owned(),
            );
        }
        let listens = [
            ("listen_client", config.listen_client),
            ("listen_peer", config.listen_peer),
            ("listen_http", config.listen_http),
        ];
        for (index, (setting, address)) in listens.iter().enumerate() {
            if address.port() == 0 {
                self.add(setting, &address, "needs a port from 1 to 65535".to_owned());
            }
            for (other, taken) in listens.iter().take(index).filter(|(_, taken)| clash(*taken, *address)) {
                self.add(
                    setting,
                    &address,
                    format!("has the port of {other} = {taken}; give each a port of its own"),
                );
            }
        }
        let advertised = [
            ("advertise_client", &config.advertise_client, "listen_client", config.listen_client),
            ("advertise_peer", &config.advertise_peer, "listen_peer", config.listen_peer),
            ("advertise_http", &config.advertise_http, "listen_http", config.listen_http),
        ];
        for (setting, address, listen, at) in advertised {
            if address.is_empty() {
                self.add(setting, &"\"\"", format!("is needed because {listen} = {at} is a wildcard; name the host:port that others reach"));
            } else {
                self.advertise(setting, address);
            }
        }
    }

    fn advertise(&mut self, setting: &'static str, address: &str) {
        match host_and_port(address) {
            Err(message) => self.add(setting, &address, message),
            Ok((host, _)) if host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_unspecified()) => {
                self.add(
                    setting,
                    &address,
                    "is a wildcard, which nobody can connect to; name a host or an IP address".to_owned(),
                );
            }
            Ok(_) => {}
        }
    }
}

/// Whether two listeners can't both be had.
fn clash(one: SocketAddr, other: SocketAddr) -> bool {
    let same_host = one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() == other.port() && one.port() != 0 && same_host
}
