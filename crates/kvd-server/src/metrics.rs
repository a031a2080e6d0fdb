//! What a node counts and measures, for Prometheus.
//!
//! One [`Metrics`] per node, made before anything runs and shared by all. Whoever measures has a method to call, and
//! knows neither names nor labels; the names are here alone, and dashboards and alerts rely on them.
//!
//! # Invariants
//! - Labels have few values: groups of this node, methods, error codes, listeners. Never keys, addresses or clients.
//! - Units are seconds and bytes, last in the name.
//! - Measuring never waits for anything longer than a short lock.

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use kvd_types::{Error, ErrorKind, GroupId, LogIndex, Term};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

/// The content type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Everything that a node counts and measures.
pub struct Metrics {
    registry: Registry,
    has_leader: Family<GroupLabel, Gauge>,
    is_leader: Family<GroupLabel, Gauge>,
    term: Family<GroupLabel, Gauge>,
    proposals: Family<GroupLabel, Counter>,
    applied_index: Family<GroupLabel, Gauge>,
    shard_keys: Family<GroupLabel, Gauge>,
    shard_history_bytes: Family<GroupLabel, Gauge>,
    shard_leases: Family<GroupLabel, Gauge>,
    watchers: Gauge,
    groups_asleep: Gauge,
    log_sync_seconds: Histogram,
    log_sync_bytes: Counter,
    apply_seconds: Histogram,
    request_seconds: Family<RequestLabel, Histogram, fn() -> Histogram>,
    connections: Family<ListenerLabel, Gauge>,
    connections_refused: Family<ListenerLabel, Counter>,
}

/// The label is called `shard` because that is what people look for; the meta group is shard 0 there.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabel {
    shard: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabel {
    method: &'static str,
    code: &'static str,
    transport: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ListenerLabel {
    listener: &'static str,
}

/// A connection that is counted for as long as this lives.
#[derive(Debug)]
pub struct ConnectionCount(Gauge);

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// The handles of one group's metrics, to be kept by whoever updates them often.
#[derive(Clone, Debug)]
pub struct GroupMetrics {
    has_leader: Gauge,
    is_leader: Gauge,
    term: Gauge,
    proposals: Counter,
    applied_index: Gauge,
    keys: Gauge,
    history_bytes: Gauge,
    leases: Gauge,
}

impl GroupMetrics {
    /// The group's term as far as this node knows, whether somebody leads in it, and whether it is this node's replica.
    pub fn set_leader(&self, term: Term, has_leader: bool, is_leader: bool) {
        self.term.set(gauge(term.get()));
        self.has_leader.set(i64::from(has_leader));
        self.is_leader.set(i64::from(is_leader));
    }

    /// More commands were proposed here.
    pub fn add_proposals(&self, commands: u64) {
        self.proposals.inc_by(commands);
    }

    /// The last log entry that this replica has applied.
    pub fn set_applied(&self, index: LogIndex) {
        self.applied_index.set(gauge(index.get()));
    }

    /// What the shard holds here: keys, bytes of history, and leases whose home it is.
    pub fn set_contents(&self, keys: u64, history_bytes: u64, leases: u64) {
        self.keys.set(gauge(keys));
        self.history_bytes.set(gauge(history_bytes));
        self.leases.set(gauge(leases));
    }
}

fn gauge(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// From 50 microseconds to 26 seconds, each twice the one before.
fn latency_histogram() -> Histogram {
    Histogram::new(exponential_buckets(0.000_05, 2.0, 20))
}

impl Metrics {
    /// Nothing counted yet; the process's start time is now.
    #[must_use]
    pub fn new(version: &'static str) -> Self {
        let metrics = Self {
            registry: Registry::default(),
            has_leader: Family::default(),
            is_leader: Family::default(),
            term: Family::default(),
            proposals: Family::default(),
            applied_index: Family::default(),
            shard_keys: Family::default(),
            shard_history_bytes: Family::default(),
            shard_leases: Family::default(),
            watchers: Gauge::default(),
            groups_asleep: Gauge::default(),
            log_sync_seconds: latency_histogram(),
            log_sync_bytes: Counter::default(),
            apply_seconds: latency_histogram(),
            request_seconds: Family::new_with_constructor(latency_histogram),
            connections: Family::default(),
            connections_refused: Family::default(),
        };
        metrics.registered(version)
    }

    fn registered(mut self, version: &'static str) -> Self {
        let started = Gauge::<f64, AtomicU64>::default();
        started.set(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        let registry = &mut self.registry;
        // Counters get their `_total` and the build its `_info` from the encoder.
        registry.register("kvd_build", "The running version", Info::new(vec![("version", version)]));
        registry.register("process_start_time_seconds", "When the process started, in Unix time", started);
        registry.register(
            "kvd_has_leader",
            "1 if the group has a leader as far as this node knows, else 0 (shard 0: the meta group)",
            self.has_leader.clone(),
        );
        registry.register("kvd_is_leader", "1 if this node leads the group, else 0", self.is_leader.clone());
        registry.register(
            "kvd_term",
            "The group's term as far as this node knows: it grows whenever another leader is wanted",
            self.term.clone(),
        );
        registry.register(
            "kvd_proposals",
            "Commands proposed by this node as a leader",
            self.proposals.clone(),
        );
        registry.register("kvd_applied_index", "The last log entry applied here", self.applied_index.clone());
        registry.register("kvd_shard_keys", "Keys of the shard, as applied here", self.shard_keys.clone());
        registry.register(
            "kvd_shard_history_bytes",
            "Bytes of what was replaced or deleted and is kept",
            self.shard_history_bytes.clone(),
        );
        registry.register("kvd_shard_leases", "Leases whose home the shard is", self.shard_leases.clone());
        registry.register("kvd_watchers", "Watchers that this node serves", self.watchers.clone());
        registry.register(
            "kvd_groups_asleep",
            "Groups whose replicas here have nothing to do and send no heartbeats",
            self.groups_asleep.clone(),
        );
        registry.register(
            "kvd_log_sync_seconds",
            "Time of a write and sync of the log",
            self.log_sync_seconds.clone(),
        );
        registry.register(
            "kvd_log_sync_bytes",
            "Bytes written to the log and synced",
            self.log_sync_bytes.clone(),
        );
        registry.register(
            "kvd_apply_seconds",
            "Time to apply a batch of log entries",
            self.apply_seconds.clone(),
        );
        registry.register(
            "kvd_request_seconds",
            "Time from a client's request to its answer, by method, outcome and transport",
            self.request_seconds.clone(),
        );
        registry.register("kvd_connections", "Open connections", self.connections.clone());
        registry.register(
            "kvd_connections_refused",
            "Connections closed at once because there were limits.connections_max of them",
            self.connections_refused.clone(),
        );
        self
    }

    /// The handles of a group that this node has a replica of.
    #[must_use]
    pub fn group(&self, group: GroupId) -> GroupMetrics {
        let label = GroupLabel { shard: group.get() };
        GroupMetrics {
            has_leader: self.has_leader.get_or_create_owned(&label),
            is_leader: self.is_leader.get_or_create_owned(&label),
            term: self.term.get_or_create_owned(&label),
            proposals: self.proposals.get_or_create_owned(&label),
            applied_index: self.applied_index.get_or_create_owned(&label),
            keys: self.shard_keys.get_or_create_owned(&label),
            history_bytes: self.shard_history_bytes.get_or_create_owned(&label),
            leases: self.shard_leases.get_or_create_owned(&label),
        }
    }

    /// This node has no replica of the group any more. Handles that are still around count for nobody.
    pub fn forget_group(&self, group: GroupId) {
        let label = GroupLabel { shard: group.get() };
        self.has_leader.remove(&label);
        self.is_leader.remove(&label);
        self.term.remove(&label);
        self.proposals.remove(&label);
        self.applied_index.remove(&label);
        self.shard_keys.remove(&label);
        self.shard_history_bytes.remove(&label);
        self.shard_leases.remove(&label);
    }

    /// So many watchers are served.
    pub fn set_watchers(&self, watchers: usize) {
        self.watchers.set(i64::try_from(watchers).unwrap_or(i64::MAX));
    }

    /// So many of this node's replicas sleep.
    pub fn set_asleep(&self, groups: usize) {
        self.groups_asleep.set(i64::try_from(groups).unwrap_or(i64::MAX));
    }

    /// The log was written and synced.
    pub fn log_synced(&self, took: Duration, bytes: u64) {
        self.log_sync_seconds.observe(took.as_secs_f64());
        self.log_sync_bytes.inc_by(bytes);
    }

    /// A batch of log entries was applied.
    pub fn applied(&self, took: Duration) {
        self.apply_seconds.observe(took.as_secs_f64());
    }

    /// A client's request was answered.
    pub fn answered(
        &self,
        method: &'static str,
        transport: &'static str,
        code: &'static str,
        took: Duration,
    ) {
        let label = RequestLabel { method, code, transport };
        self.request_seconds.get_or_create(&label).observe(took.as_secs_f64());
    }

    /// Counts a connection for as long as the answer lives.
    #[must_use]
    pub fn connected(&self, listener: &'static str) -> ConnectionCount {
        let gauge = self.connections.get_or_create_owned(&ListenerLabel { listener });
        gauge.inc();
        ConnectionCount(gauge)
    }

    /// A connection was closed at once because there were too many.
    pub fn connection_refused(&self, listener: &'static str) {
        self.connections_refused.get_or_create(&ListenerLabel { listener }).inc();
    }

    /// All of it, in the OpenMetrics text format.
    ///
    /// # Errors
    /// None in practice: text is written to memory.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Metrics as they are shared.
pub type SharedMetrics = Arc<Metrics>;

/// What a failure is called in metrics and in JSON.
#[must_use]
pub const fn code_of(error: &Error) -> &'static str {
    match error.kind {
        ErrorKind::InvalidArgument => "invalid_argument",
        ErrorKind::NotLeader(_) => "not_leader",
        ErrorKind::Unavailable => "unavailable",
        ErrorKind::WrongShard(_) => "wrong_shard",
        ErrorKind::Overloaded { .. } => "overloaded",
        ErrorKind::DeadlineExceeded => "deadline_exceeded",
        ErrorKind::OutcomeUnknown => "outcome_unknown",
        ErrorKind::SessionUnknown => "session_unknown",
        ErrorKind::Compacted { .. } => "compacted",
        ErrorKind::NotFound => "not_found",
        ErrorKind::FailedPrecondition => "failed_precondition",
        ErrorKind::Unauthenticated => "unauthenticated",
        ErrorKind::PermissionDenied => "permission_denied",
        ErrorKind::Corruption => "corruption",
        ErrorKind::Internal => "internal",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_has_the_name_that_dashboards_use() {
        let metrics = Metrics::new("1.2.3");
        let group = metrics.group(GroupId(7));
        group.set_leader(Term(3), true, false);
        group.add_proposals(5);
        group.set_applied(LogIndex(41));
        group.set_contents(3, 700, 2);
        metrics.set_watchers(12);
        metrics.set_asleep(4);
        metrics.log_synced(Duration::from_millis(2), 4096);
        metrics.applied(Duration::from_millis(1));
        metrics.answered("put", "grpc", "ok", Duration::from_millis(3));
        let count = metrics.connected("client");
        metrics.connection_refused("http");
        let text = metrics.encode().unwrap();
        for line in [
            "kvd_build_info{version=\"1.2.3\"} 1",
            "kvd_has_leader{shard=\"7\"} 1",
            "kvd_is_leader{shard=\"7\"} 0",
            "kvd_term{shard=\"7\"} 3",
            "kvd_proposals_total{shard=\"7\"} 5",
            "kvd_applied_index{shard=\"7\"} 41",
            "kvd_shard_keys{shard=\"7\"} 3",
            "kvd_shard_history_bytes{shard=\"7\"} 700",
            "kvd_shard_leases{shard=\"7\"} 2",
            "kvd_watchers 12",
            "kvd_groups_asleep 4",
            "kvd_log_sync_seconds_count 1",
            "kvd_log_sync_bytes_total 4096",
            "kvd_apply_seconds_count 1",
            "kvd_request_seconds_count{method=\"put\",code=\"ok\",transport=\"grpc\"} 1",
            "kvd_connections{listener=\"client\"} 1",
            "kvd_connections_refused_total{listener=\"http\"} 1",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing from:\n{text}");
        }
        assert!(text.contains("process_start_time_seconds 1"), "{text}");

        drop(count);
        metrics.forget_group(GroupId(7));
        let text = metrics.encode().unwrap();
        assert!(text.contains("kvd_connections{listener=\"client\"} 0"));
        assert!(!text.contains("shard=\"7\""), "{text}");
    }
}
