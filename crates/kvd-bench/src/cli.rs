//! The verbs and flags.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Parser, Subcommand, ValueEnum};
use kvd_client::{Client, Config};

use crate::target::{Reach, Target};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "kvd-bench", version, about = "A load generator for kvd")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Make requests from many clients at once, and say how many were answered and how fast
    Run(Run),
    /// Start kvd and its peers on this machine, make the same requests of each in turn, and say how they compare
    Compare(Compare),
    /// Write without pause, and say how long no write was acknowledged
    Gap(Gap),
    /// Scan what `run` has written, and say how fast the rows come
    Scan(Scan),
    /// Watch what is written from many clients, and say how fast the watchers are told
    Watch(Watch),
    /// Let many keys expire at the same moment, and say how long it takes, and what writers feel of it
    Expiry(Expiry),
    /// Draw what `run` and `compare` have said with `--output json`, as an SVG on standard output
    Plot(Plot),
    /// Serve what `--target echo` is made against, for a run over a real network
    Echo(Echo),
}

/// Flags that don't go together, as only the verb can tell.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Misuse(pub(crate) String);

/// Where a cluster is if nobody says otherwise.
pub(crate) const ENDPOINTS: &str = "127.0.0.1:7400";

/// Flags of all verbs.
#[derive(Args, Debug)]
pub(crate) struct Common {
    /// Addresses of one or more nodes, separated by commas [default: 127.0.0.1:7400]
    #[arg(long, value_name = "HOST:PORT,...")]
    pub(crate) endpoints: Option<String>,
    /// Clients that make requests at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) clients: u32,
    /// Connections, each with its own sessions, that the clients share
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) connections: u32,
    /// Bytes of a value
    #[arg(long, default_value_t = 128)]
    pub(crate) value_bytes: usize,
    /// How long each request is tried, in milliseconds
    #[arg(long, default_value_t = 5000)]
    pub(crate) timeout_ms: u64,
    /// How the figures look
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

impl Common {
    /// Connections to kvd.
    pub(crate) async fn connect(&self) -> anyhow::Result<Vec<Client>> {
        let endpoints = self.endpoints.as_deref().unwrap_or(ENDPOINTS);
        let mut clients = Vec::new();
        for _ in 0..self.connections {
            let config = Config::from(endpoints).deadline(self.timeout());
            clients.push(Client::connect(config).await?);
        }
        Ok(clients)
    }

    /// How any target is reached.
    pub(crate) const fn reach<'a>(&self, endpoints: &'a str, data_dir: &'a Path) -> Reach<'a> {
        Reach { endpoints, connections: self.connections, timeout: self.timeout(), data_dir }
    }

    const fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// `run`.
#[derive(Args, Debug)]
pub(crate) struct Run {
    #[command(flatten)]
    pub(crate) common: Common,
    /// What the requests are made of. For echo and redis a server is started, unless --endpoints has one
    #[arg(long, value_enum, default_value_t = Target::Kvd)]
    pub(crate) target: Target,
    /// What the clients ask for
    #[arg(long, value_enum, default_value_t = Workload::Put)]
    pub(crate) workload: Workload,
    /// Requests that are due each second, whether or not earlier ones have been answered; their times count from then. Without
    /// this each client waits for its answer
    #[arg(long, conflicts_with = "clients", value_name = "PER_SECOND", value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rate: Option<u32>,
    /// With --rate: requests under way, at most. Those that are due beyond are not made, and counted as refused by the
    /// generator
    #[arg(long, requires = "rate", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) outstanding: u32,
    /// How many of 100 requests of the workloads mixed and batch are gets
    #[arg(long, default_value_t = 50, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) reads: u8,
    /// Keys of a request of the workload batch
    #[arg(long, default_value_t = 100, value_name = "KEYS", value_parser = clap::value_parser!(u8).range(1..=128))]
    pub(crate) batch: u8,
    /// Rows that a request of the workload scan reads, at most
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rows: u32,
    /// How recent gets must be
    #[arg(long, value_enum, default_value_t = Level::Linearizable)]
    pub(crate) consistency: Level,
    /// With `--consistency bounded`: how old what they see may be, in milliseconds
    #[arg(long, default_value_t = 1000)]
    pub(crate) bound_ms: u64,
    /// Keys
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// How keys are drawn [default: zipf for YCSB's workloads, else even]
    #[arg(long, value_enum)]
    pub(crate) choice: Option<Choice>,
    /// Write each key once before a workload that reads, outside the figures
    #[arg(long)]
    pub(crate) fill: bool,
    /// Time to live of what is filled in or put, in milliseconds; none: for ever
    #[arg(long)]
    pub(crate) ttl_ms: Option<u64>,
    /// Seconds to run for
    #[arg(long, default_value_t = 10, conflicts_with = "operations")]
    pub(crate) duration: u64,
    /// Requests to make in place of a duration
    #[arg(long)]
    pub(crate) operations: Option<u64>,
    /// The process ids of the servers, if they are on this machine: what they use is told too
    #[arg(long, value_name = "PID,...", value_delimiter = ',')]
    pub(crate) processes: Vec<u32>,
    /// Where the data of targets goes that are started for the run. The writes of the disk that it is on are counted
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The `redis-server` to start
    #[arg(long, value_name = "FILE", default_value = "redis-server")]
    pub(crate) redis: PathBuf,
}

/// `plot`.
#[derive(Args, Debug)]
pub(crate) struct Plot {
    /// The JSON of a run or a comparison each
    #[arg(required = true, value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// `echo`.
#[derive(Args, Debug)]
pub(crate) struct Echo {
    /// Where to listen
    #[arg(long, default_value = "127.0.0.1:7500", value_name = "IP:PORT")]
    pub(crate) listen: SocketAddr,
}

/// `compare`.
#[derive(Args, Clone, Debug)]
pub(crate) struct Compare {
    /// Keys, drawn evenly
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// Bytes of a value
    #[arg(long, default_value_t = 256)]
    pub(crate) value_bytes: usize,
    /// How often everything is measured, kvd and its peers in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) duration: u64,
    /// The short form, to see that it works: less of everything, so its figures say little
    #[arg(long, conflicts_with_all = ["keys", "rounds", "duration"])]
    pub(crate) short: bool,
    /// Then also what kvd alone is tried with: leaders killed and moved, idle nodes, twice the load that it serves, a hundred times
    /// as many keys, and values of five times the memory. It takes half an hour, and 20 GB of disk
    #[arg(long, conflicts_with = "sweep")]
    pub(crate) all: bool,
    /// With --all: at last so many minutes of 1,000 requests/s on a cluster of its own, and what its nodes hold of memory and disk
    #[arg(long, requires = "all", value_name = "MINUTES", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) soak_minutes: Option<u32>,
    /// Puts and gets alone, with other numbers of this one after the other: what `plot` draws
    #[arg(long, value_enum)]
    pub(crate) sweep: Option<Sweep>,
    /// With --sweep: which numbers, in place of the usual ones
    #[arg(long, requires = "sweep", value_delimiter = ',', value_name = "COUNT,...", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) values: Vec<u64>,
    /// Nodes of kvd and of etcd
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) nodes: u16,
    /// Shards of kvd [default: 1 on fewer cores than nodes, else as many as `kvd local` makes]
    #[arg(long)]
    pub(crate) shards: Option<u32>,
    /// Connections that the clients share
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) connections: u32,
    /// The `kvd` to start: the one beside this program, unless it is named
    #[arg(long, value_name = "FILE")]
    pub(crate) kvd: Option<PathBuf>,
    /// The `etcd` to start
    #[arg(long, value_name = "FILE", default_value = "etcd")]
    pub(crate) etcd: PathBuf,
    /// The `redis-server` to start, a single instance that syncs each write
    #[arg(long, value_name = "FILE", default_value = "redis-server")]
    pub(crate) redis: PathBuf,
    /// Where all data goes for as long as this takes. It must be on the disk that is to be measured
    #[arg(long, default_value = ".", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// How the figures look
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
}

/// What there are other numbers of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Sweep {
    /// Clients: 1 to 4096
    Clients,
    /// Keys: 10,000 to 10,000,000, on clusters of their own
    Keys,
    /// Shards of kvd, on clusters of their own
    Shards,
    /// Nodes, in clusters of their own
    Nodes,
}

/// `gap`.
#[derive(Args, Debug)]
pub(crate) struct Gap {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Seconds to run for
    #[arg(long, default_value_t = 30)]
    pub(crate) duration: u64,
}

/// `scan`.
#[derive(Args, Debug)]
pub(crate) struct Scan {
    #[command(flatten)]
    pub(crate) common: Common,
    /// How often
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// Without the values
    #[arg(long)]
    pub(crate) keys_only: bool,
}

/// `watch`.
#[derive(Args, Debug)]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Watchers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) watchers: u32,
    /// Each watcher watches a key of its own, and those are the keys that are written; without this each watches all keys
    #[arg(long, conflicts_with = "keys")]
    pub(crate) apart: bool,
    /// Keys, drawn evenly
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// Seconds to run for
    #[arg(long, default_value_t = 10)]
    pub(crate) duration: u64,
}

/// `expiry`.
#[derive(Args, Debug)]
pub(crate) struct Expiry {
    #[command(flatten)]
    pub(crate) common: Common,
    /// Keys that expire
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) keys: u64,
    /// Each key has a time to live of its own, all of them up at the same moment; without this all hang on one lease
    #[arg(long)]
    pub(crate) each: bool,
    /// Time to live of the lease, in milliseconds; with `--each`, of the first key: it must outlast the writing of all
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u64).range(1000..))]
    pub(crate) ttl_ms: u64,
    /// Seconds of writing before the lease is let go, or before the keys are written
    #[arg(long, default_value_t = 10)]
    pub(crate) quiet: u64,
}

/// What the clients ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Workload {
    /// Puts
    Put,
    /// Gets
    Get,
    /// Gets and puts: see --reads
    Mixed,
    /// YCSB's A: half gets, half puts
    YcsbA,
    /// YCSB's B: gets, and 5 puts in 100 requests
    YcsbB,
    /// YCSB's C: gets
    YcsbC,
    /// YCSB's F: half gets, half a get and then a put of the same key
    YcsbF,
    /// Many keys in one request: gets of any keys, and puts of keys of one shard, as only those can go together. See --batch
    /// and --reads
    Batch,
    /// Short ranges of up to --rows rows, from a key on
    Scan,
    /// Transactions: one compare, and two puts of keys of one shard
    Txn,
    /// Keep-alives of leases, as many as there are keys
    KeepAlive,
}

impl Workload {
    /// What it is called in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Mixed => "mixed",
            Self::YcsbA => "ycsb-a",
            Self::YcsbB => "ycsb-b",
            Self::YcsbC => "ycsb-c",
            Self::YcsbF => "ycsb-f",
            Self::Batch => "batch",
            Self::Scan => "scan",
            Self::Txn => "txn",
            Self::KeepAlive => "keep-alive",
        }
    }

    /// How its keys are drawn, unless somebody says otherwise.
    pub(crate) const fn choice(self) -> Choice {
        match self {
            Self::YcsbA | Self::YcsbB | Self::YcsbC | Self::YcsbF => Choice::Zipf,
            _ => Choice::Even,
        }
    }
}

/// How keys are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Choice {
    /// All as often as each other
    Even,
    /// A few far more often than the rest: YCSB's scrambled zipfian, theta 0.99
    Zipf,
}

impl Choice {
    /// What it is called in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Even => "even",
            Self::Zipf => "zipf",
        }
    }
}

/// How recent gets must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// They see every write that was finished before
    Linearizable,
    /// The same, as long as clocks run no faster than the cluster allows for
    Lease,
    /// They see what their connection has seen, from any replica
    Session,
    /// They miss nothing that was finished --bound-ms ago, from any replica
    Bounded,
    /// They see whatever the replica has; of etcd: serializable
    Local,
}

impl Level {
    /// What it is called in reports.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Linearizable => "linearizable",
            Self::Lease => "lease",
            Self::Session => "session",
            Self::Bounded => "bounded",
            Self::Local => "local",
        }
    }
}

/// How the figures look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_makes_sense() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        for wrong in [
            "run --rate 10 --clients 5",
            "run --outstanding 5",
            "run --rate 0",
            "run --duration 5 --operations 5",
            "run --reads 101",
            "run --batch 129",
            "run --choice some",
            "run --consistency eventual",
            "compare --short --rounds 2",
            "compare --values 1,2",
            "compare --sweep clients --values 0",
            "compare --nodes 0",
            "plot",
            "watch --apart --keys 5",
        ] {
            let words = ["kvd-bench"].into_iter().chain(wrong.split(' '));
            assert!(Cli::try_parse_from(words).is_err(), "{wrong}");
        }
    }
}
