//! The verbs and flags.
//!
//! Names and forms follow etcdctl's where the two can do the same. What stands on the command line is checked here as far as
//! it can be without a cluster; what is wrong ends the program with exit code 2 before anything is sent.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

mod check;
mod coordination;
mod data;
mod text;
mod value;

pub(crate) use check::{CheckPerf, CheckVerb, Load};
pub(crate) use coordination::{Elect, LeaseVerb, Lock, Ttl};
pub(crate) use data::{AckBy, Del, Get, Kind, Mget, Order, Put, ReadArgs, Scan, Selector, TxnArgs, Watch};
pub(crate) use value::{Level, duration, lease_id, positive_duration};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "kvctl", version, about = "The command line of kvd, a distributed key-value store")]
#[command(long_about = text::ABOUT, after_long_help = text::AFTER)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrongly used, 3 not found, 4 a condition failed, \
                        5 unavailable, 6 outcome unknown, 7 denied. More: kvctl --help, kvctl VERB --help.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags of all verbs.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Addresses of one or more nodes, separated by commas
    #[arg(
        long,
        global = true,
        env = "KVCTL_ENDPOINTS",
        default_value = "127.0.0.1:7400",
        value_name = "HOST:PORT,..."
    )]
    pub(crate) endpoints: String,
    /// How results look
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub(crate) output: Format,
    /// How long each request is tried, at most 60s: as 500ms, 5s or 1m
    #[arg(long, global = true, default_value = "5s", value_parser = duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,
    /// Put this before all keys, and show only keys that begin so, without it
    #[arg(long, global = true, env = "KVCTL_NAMESPACE", value_name = "PREFIX", hide_short_help = true)]
    pub(crate) namespace: Option<OsString>,
    /// How recent a read must be: linearizable, lease, session, bounded:DURATION or local
    #[arg(long, global = true, default_value = "linearizable", value_name = "LEVEL", long_help = text::CONSISTENCY, hide_short_help = true)]
    pub(crate) consistency: Level,
    /// Reads may be served by any replica, not only by the one that leads
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) any_replica: bool,
    /// The failure domain that this machine stands in: replicas there are asked first
    #[arg(long, global = true, env = "KVCTL_ZONE", value_name = "ZONE", hide_short_help = true)]
    pub(crate) zone: Option<String>,
    /// With --consistency session: see at least what the printer of this token has seen
    #[arg(long, global = true, value_name = "TOKEN", hide_short_help = true)]
    pub(crate) session_token: Option<String>,
    /// At the end, print on standard error what this run has seen, for --session-token
    #[arg(long, global = true, hide_short_help = true)]
    pub(crate) print_session_token: bool,
}

/// How results look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    #[default]
    Table,
    /// For programs
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Read a key, or the keys of a range
    #[command(after_long_help = text::GET)]
    Get(Get),
    /// Read several keys, each by itself
    #[command(after_long_help = text::MGET)]
    Mget(Mget),
    /// Read the keys of a range, in order, as of one moment
    #[command(after_long_help = text::SCAN)]
    Scan(Scan),
    /// Set a key
    #[command(after_long_help = text::PUT)]
    Put(Put),
    /// Remove a key, or the keys of a range
    #[command(after_long_help = text::DEL)]
    Del(Del),
    /// Compare, then read and change keys of one shard, all at once
    #[command(after_long_help = text::TXN)]
    Txn(TxnArgs),
    /// Tell what changes, as it happens
    #[command(after_long_help = text::WATCH)]
    Watch(Watch),
    /// Leases: what keys can be attached to, so that they go when nobody keeps it alive
    #[command(subcommand, after_long_help = text::LEASE)]
    Lease(LeaseVerb),
    /// Show how long a key is there still
    #[command(after_long_help = text::TTL)]
    Ttl(Ttl),
    /// Hold a lock, while a command runs or until Ctrl-C
    #[command(after_long_help = text::LOCK)]
    Lock(Lock),
    /// Stand for election and lead until Ctrl-C, or tell who leads
    #[command(after_long_help = text::ELECT)]
    Elect(Elect),
    /// Set the keys of a file of JSON lines: {"key": ..., "value": ...}, or key_base64 and value_base64
    #[command(after_long_help = text::IMPORT)]
    Import(Import),
    /// Write all keys and values as JSON lines, in key order
    #[command(after_long_help = text::EXPORT)]
    Export(Export),
    /// Show the cluster: its nodes, its shards, who leads
    Status,
    /// Check whether the cluster is as it should be
    #[command(subcommand)]
    Check(CheckVerb),
    /// The cluster's shards
    #[command(subcommand)]
    Shard(ShardVerb),
    /// The cluster's nodes
    #[command(subcommand)]
    Node(NodeVerb),
    /// Print a shell's completion script
    #[command(after_long_help = text::COMPLETION)]
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

/// `import`.
#[derive(Args, Debug)]
pub(crate) struct Import {
    /// The file; -: standard input
    pub(crate) file: PathBuf,
    /// Writes under way at a time
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub(crate) concurrency: u16,
}

/// `export`.
#[derive(Args, Debug)]
pub(crate) struct Export {
    /// Only keys that begin so
    #[arg(long, default_value = "", hide_default_value = true)]
    pub(crate) prefix: OsString,
}

/// `shard ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum ShardVerb {
    /// List the shards
    List,
    /// Show the shard of a key
    Locate {
        /// The key
        key: OsString,
    },
    /// Make a shard be led from a node
    MoveLeader {
        /// The shard's id
        shard: u32,
        /// The node's id
        #[arg(long, value_name = "NODE")]
        to: u64,
    },
}

/// `node ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeVerb {
    /// List the nodes
    List,
}

#[cfg(test)]
mod tests;
