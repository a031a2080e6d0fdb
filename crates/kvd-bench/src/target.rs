//! What a load is made against: kvd, its peers etcd and Redis, and the limits that the disk and the RPC layer set.
//!
//! Each takes the same requests: the same keys, the same values, as many at a time, over as many connections. What a target
//! can't do is refused before the run begins, not counted as an error.

use std::{path::Path, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use clap::ValueEnum;
use kvd_client::{Client, Compare, Config, Consistency, LeaseId, TxnOp};
use tonic::transport::{Channel, Endpoint};

use crate::{
    cli::{self, Level, Workload},
    load::{PREFIX, key},
};

mod echo;
mod etcd;
mod log;
mod redis;
mod unary;

/// What the load is made against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Target {
    /// kvd, through its client library
    Kvd,
    /// kvd, over gRPC: one call for each request, each connection to another node, as any language can do it
    KvdUnary,
    /// etcd, over gRPC: one call for each request, to the leader
    Etcd,
    /// Redis, a single instance: nothing is replicated, and reads are not synced with anything
    Redis,
    /// The frames of kvd's client library, to a server that only answers them: the limit of the RPC layer
    Echo,
    /// No server at all: a file in the data directory that everything is appended to, synced once for all that waits
    Log,
}

/// A connection to a target. Cheap to clone.
#[derive(Clone)]
pub(crate) enum Connection {
    Kvd(Client),
    KvdUnary(unary::Connection),
    Etcd(etcd::Connection),
    Redis(redis::Connection),
    Echo(echo::Connection),
    Log(log::Appender),
}

/// The kind of a failure, for counting: without times and keys.
pub(crate) type Failure = String;

/// The kind of failure of a target that has too much to do, as kvd's client library calls it.
pub(crate) const OVERLOADED: &str = "Overloaded";

impl Target {
    /// What it is called in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Kvd => "kvd",
            Self::KvdUnary => "kvd-unary",
            Self::Etcd => "etcd",
            Self::Redis => "redis",
            Self::Echo => "echo",
            Self::Log => "log",
        }
    }

    /// Whether it has such requests.
    pub(crate) fn serves(self, workload: Workload) -> bool {
        match self {
            Self::Kvd => true,
            Self::Etcd if workload == Workload::Scan => true,
            Self::KvdUnary | Self::Etcd | Self::Redis | Self::Echo => match workload {
                Workload::Put | Workload::Get | Workload::Mixed => true,
                Workload::YcsbA | Workload::YcsbB | Workload::YcsbC | Workload::YcsbF => true,
                Workload::Batch | Workload::Scan | Workload::Txn | Workload::KeepAlive => false,
            },
            Self::Log => workload == Workload::Put,
        }
    }

    /// Whether it has such reads.
    pub(crate) fn reads(self, level: Level) -> bool {
        match self {
            Self::Kvd => true,
            // What a client has seen is for the client to remember.
            Self::KvdUnary => level != Level::Session,
            Self::Etcd => matches!(level, Level::Linearizable | Level::Local),
            Self::Redis | Self::Echo | Self::Log => level == Level::Linearizable,
        }
    }

    /// Where it is if nobody says otherwise; none, for what is started for the load.
    pub(crate) const fn usual_endpoints(self) -> Option<&'static str> {
        match self {
            Self::Kvd | Self::KvdUnary => Some(cli::ENDPOINTS),
            Self::Etcd => Some("127.0.0.1:2379"),
            Self::Redis | Self::Echo | Self::Log => None,
        }
    }

    /// Opens connections.
    pub(crate) async fn connect(self, reach: &Reach<'_>) -> anyhow::Result<Vec<Connection>> {
        let Reach { endpoints, connections: count, timeout, data_dir } = *reach;
        let mut connections = Vec::new();
        match self {
            Self::Kvd => {
                for _ in 0..count {
                    let config = Config::from(endpoints).deadline(timeout);
                    connections.push(Connection::Kvd(Client::connect(config).await?));
                }
            }
            Self::KvdUnary => {
                for (_, address) in (0..count).zip(endpoints.split(',').cycle()) {
                    connections.push(Connection::KvdUnary(unary::Connection::open(address, timeout).await?));
                }
            }
            Self::Redis => {
                for _ in 0..count {
                    connections.push(Connection::Redis(redis::Connection::open(endpoints, timeout).await?));
                }
            }
            Self::Echo => {
                for _ in 0..count {
                    connections.push(Connection::Echo(echo::Connection::open(endpoints, timeout).await?));
                }
            }
            Self::Etcd => {
                let leader = etcd::leader(endpoints, timeout).await?;
                for _ in 0..count {
                    connections.push(Connection::Etcd(etcd::Connection::open(&leader, timeout).await?));
                }
            }
            Self::Log => connections.push(Connection::Log(log::Appender::open(data_dir)?)),
        }
        Ok(connections)
    }
}

/// How a target is reached.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reach<'a> {
    /// Addresses of its nodes, separated by commas.
    pub(crate) endpoints: &'a str,
    pub(crate) connections: u32,
    /// How long each request is tried.
    pub(crate) timeout: Duration,
    /// For the log.
    pub(crate) data_dir: &'a Path,
}

/// How gets are to be served.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reads {
    pub(crate) level: Level,
    /// For the level that has one.
    pub(crate) bound: Duration,
}

impl Reads {
    pub(crate) const LINEARIZABLE: Self = Self { level: Level::Linearizable, bound: Duration::ZERO };
}

/// A read of kvd that is to be served so. Gets and batches have the same methods, and nothing that names them both.
macro_rules! at_level {
    ($get:expr, $reads:expr) => {
        match $reads.level {
            Level::Linearizable => $get,
            Level::Lease => $get.consistency(Consistency::Lease),
            Level::Session => $get.session(),
            Level::Bounded => $get.bounded_staleness($reads.bound),
            Level::Local => $get.local(),
        }
    };
}

/// How large a cluster of kvd is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TopologySize {
    pub(crate) nodes: usize,
    pub(crate) shards: usize,
}

impl Connection {
    /// How large the cluster is, where that is known.
    pub(crate) fn topology(&self) -> Option<TopologySize> {
        let Self::Kvd(client) = self else { return None };
        let topology = client.topology();
        Some(TopologySize { nodes: topology.nodes.len(), shards: topology.shards.len() })
    }

    /// Writes a key.
    pub(crate) async fn put(&self, number: u64, value: &Bytes, ttl: Option<Duration>) -> Result<(), Failure> {
        match self {
            Self::Kvd(client) => {
                let put = client.put(key(number), value);
                let put = match ttl {
                    Some(ttl) => put.ttl(ttl),
                    None => put,
                };
                put.await.map(drop).map_err(|error| kind(&error))
            }
            Self::KvdUnary(connection) => connection.put(key(number), value, ttl).await,
            Self::Etcd(connection) => connection.put(key(number), value).await,
            Self::Redis(connection) => connection.put(key(number), value).await,
            Self::Echo(connection) => connection.put(key(number), value).await,
            Self::Log(appender) => appender.append(value.clone()).await,
        }
    }

    /// Reads a key.
    pub(crate) async fn get(&self, number: u64, reads: Reads) -> Result<(), Failure> {
        match self {
            Self::Kvd(client) => {
                let get = at_level!(client.get(key(number)), reads);
                get.await.map(drop).map_err(|error| kind(&error))
            }
            Self::KvdUnary(connection) => connection.get(key(number), reads).await,
            Self::Etcd(connection) => connection.get(key(number), reads.level == Level::Local).await,
            Self::Redis(connection) => connection.get(key(number)).await,
            Self::Echo(connection) => connection.get(key(number)).await,
            Self::Log(_) => Err("a log is not read".to_owned()),
        }
    }

    /// Reads many keys. Gives how many there are.
    pub(crate) async fn batch_get(&self, numbers: &[u64], reads: Reads) -> Result<u64, Failure> {
        let Self::Kvd(client) = self else { return Err("there are no batches".to_owned()) };
        let get = at_level!(client.batch_get(numbers.iter().map(|&number| key(number))), reads);
        let found = get.await.map_err(|error| kind(&error))?;
        Ok(found.iter().flatten().count() as u64)
    }

    /// Writes many keys of one shard. Gives how many.
    pub(crate) async fn batch_put(&self, number: u64, keys: u8, value: &Bytes) -> Result<u64, Failure> {
        let Self::Kvd(client) = self else { return Err("there are no batches".to_owned()) };
        let puts = (0..keys).map(|key| TxnOp::put(format!("{PREFIX}{{{number:012}}}{key:03}"), value));
        let txn = puts.fold(client.txn(), kvd_client::Txn::then);
        txn.await.map(|_| keys.into()).map_err(|error| kind(&error))
    }

    /// Reads rows from a key on. Gives how many there were.
    pub(crate) async fn scan(&self, from: u64, rows: u32) -> Result<u64, Failure> {
        match self {
            Self::Kvd(client) => {
                let limit = usize::try_from(rows).unwrap_or(usize::MAX);
                let found = client.scan(key(from)..).limit(limit).collect().await;
                found.map(|found| found.len() as u64).map_err(|error| kind(&error))
            }
            Self::Etcd(connection) => connection.scan(key(from), rows).await,
            _ => Err("there are no scans".to_owned()),
        }
    }

    /// Writes two keys, if one is what it surely is.
    pub(crate) async fn transact(&self, number: u64, value: &Bytes) -> Result<(), Failure> {
        let Self::Kvd(client) = self else { return Err("there are no transactions".to_owned()) };
        let [one, other] = ["a", "b"].map(|end| format!("{PREFIX}{{{number:012}}}{end}"));
        let txn = client.txn().when(Compare::version(&one).less(u64::MAX));
        let txn = txn.then(TxnOp::put(&one, value)).then(TxnOp::put(&other, value));
        txn.await.map(drop).map_err(|error| kind(&error))
    }

    /// Keeps a lease alive.
    pub(crate) async fn keep_alive(&self, lease: LeaseId) -> Result<(), Failure> {
        let Self::Kvd(client) = self else { return Err("there are no leases".to_owned()) };
        client.keep_lease_alive(lease).await.map(drop).map_err(|error| kind(&error))
    }

    /// A lease that lasts for the run.
    pub(crate) async fn grant(&self) -> Result<LeaseId, Failure> {
        const TTL: Duration = Duration::from_secs(3600);
        let Self::Kvd(client) = self else { return Err("there are no leases".to_owned()) };
        client.grant_lease(TTL).await.map(|lease| lease.id()).map_err(|error| kind(&error))
    }

    /// Closes it.
    pub(crate) async fn close(self) {
        if let Self::Kvd(client) = self {
            client.close().await;
        }
    }
}

/// A gRPC channel to a server, for targets that take a call for each request.
async fn channel(server: &str, address: &str, timeout: Duration) -> anyhow::Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))?
        .connect_timeout(timeout)
        .timeout(timeout)
        .tcp_nodelay(true);
    endpoint.connect().await.with_context(|| format!("no {server} answers at {address}"))
}

/// The kind of an error: messages have times and keys in them, and would each count alone.
pub(crate) fn kind(error: &kvd_client::Error) -> Failure {
    let kind = format!("{:?}", error.kind);
    kind.split(['(', ' ']).next().unwrap_or_default().to_owned()
}
