//! The verbs that read, write and watch keys.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use kvd_client::{Filter, LeaseId, Revision};

use super::value::{lease_id, positive_duration};

/// Which keys.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Selector {
    /// The key, or the first key of a range
    #[arg(value_name = "KEY", required_unless_present = "all", allow_negative_numbers = true)]
    pub(crate) key: Option<OsString>,
    /// The end of the range: the first key that is not in it
    #[arg(value_name = "RANGE_END", conflicts_with_all = ["prefix", "from_key"], allow_negative_numbers = true)]
    pub(crate) range_end: Option<OsString>,
    /// All keys that begin with KEY
    #[arg(long, conflicts_with = "from_key")]
    pub(crate) prefix: bool,
    /// All keys from KEY on
    #[arg(long)]
    pub(crate) from_key: bool,
    /// All keys
    #[arg(long, conflicts_with_all = ["key", "range_end", "prefix", "from_key"])]
    pub(crate) all: bool,
}

/// What to show of which versions.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct ReadArgs {
    /// Read what was there at this revision, which an earlier answer told; 0: now
    #[arg(long, value_name = "REVISION", conflicts_with = "resume")]
    pub(crate) rev: Option<u64>,
    /// At most so many keys; 0: all
    #[arg(long, default_value_t = 0, value_name = "KEYS")]
    pub(crate) limit: usize,
    /// The order of the keys
    #[arg(long, value_enum, ignore_case = true, default_value_t = Order::Ascend)]
    pub(crate) order: Order,
    /// Print the keys alone
    #[arg(long)]
    pub(crate) keys_only: bool,
    /// Print how many keys there are, whatever the limit
    #[arg(long, alias = "count", conflicts_with_all = ["keys_only", "print_value_only"])]
    pub(crate) count_only: bool,
    /// Print the values alone
    #[arg(long, conflicts_with = "keys_only")]
    pub(crate) print_value_only: bool,
    /// Only keys written last at this revision or later
    #[arg(long, value_name = "REVISION")]
    pub(crate) min_mod_rev: Option<u64>,
    /// Only keys written last at this revision or before
    #[arg(long, value_name = "REVISION")]
    pub(crate) max_mod_rev: Option<u64>,
    /// Only keys that came into being at this revision or later
    #[arg(long, value_name = "REVISION")]
    pub(crate) min_create_rev: Option<u64>,
    /// Only keys that came into being at this revision or before
    #[arg(long, value_name = "REVISION")]
    pub(crate) max_create_rev: Option<u64>,
    /// Go on where an earlier run with the same keys and options has stopped, as of the same moment
    #[arg(long, value_name = "TOKEN")]
    pub(crate) resume: Option<String>,
}

impl ReadArgs {
    /// Which versions are of interest.
    pub(crate) fn filter(&self) -> Filter {
        let revision = |bound: Option<u64>| bound.map(Revision);
        Filter {
            revision_min: revision(self.min_mod_rev),
            revision_max: revision(self.max_mod_rev),
            create_revision_min: revision(self.min_create_rev),
            create_revision_max: revision(self.max_create_rev),
        }
    }

    /// As of when, if not now.
    pub(crate) fn at(&self) -> Option<Revision> {
        self.rev.filter(|&revision| revision > 0).map(Revision)
    }
}

/// The order of keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Order {
    /// From the first to the last
    #[default]
    Ascend,
    /// From the last to the first
    Descend,
}

/// `get`.
#[derive(Args, Debug)]
#[command(override_usage = "kvctl get [OPTIONS] KEY [RANGE_END]\n       \
                      kvctl get [OPTIONS] KEY --prefix|--from-key\n       \
                      kvctl get [OPTIONS] --all")]
pub(crate) struct Get {
    #[command(flatten)]
    pub(crate) keys: Selector,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

/// `mget`.
#[derive(Args, Debug)]
pub(crate) struct Mget {
    /// The keys
    #[arg(required = true, value_name = "KEY")]
    pub(crate) keys: Vec<OsString>,
    /// Print the values alone
    #[arg(long)]
    pub(crate) print_value_only: bool,
    /// Read what was there at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) rev: Option<u64>,
}

/// `scan`.
#[derive(Args, Debug)]
#[command(override_usage = "kvctl scan [OPTIONS] START [END]\n       \
                      kvctl scan [OPTIONS] PREFIX --prefix\n       \
                      kvctl scan [OPTIONS] --all")]
pub(crate) struct Scan {
    #[command(flatten)]
    pub(crate) keys: Selector,
    #[command(flatten)]
    pub(crate) read: ReadArgs,
}

/// `put`.
#[derive(Args, Debug)]
pub(crate) struct Put {
    /// The key
    pub(crate) key: OsString,
    /// The value; absent or -: standard input
    #[arg(conflicts_with = "file", allow_negative_numbers = true)]
    pub(crate) value: Option<OsString>,
    /// Take the value from a file
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// The key lapses after this long, unless it is written again before
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub(crate) ttl: Option<Duration>,
    /// The key goes when this lease ends, unless it is written again before
    #[arg(long, value_name = "ID", value_parser = lease_id, conflicts_with = "ttl")]
    pub(crate) lease: Option<LeaseId>,
    /// Show the version that is replaced
    #[arg(long)]
    pub(crate) prev_kv: bool,
    /// Only if the key does not exist
    #[arg(long, conflicts_with = "if_revision")]
    pub(crate) if_absent: bool,
    /// Only if the key's current version was written at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) if_revision: Option<u64>,
    /// Who must have it on disk before it counts as done
    #[arg(long, value_enum, default_value_t = AckBy::Majority)]
    pub(crate) ack: AckBy,
}

/// Who must have a write on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum AckBy {
    /// A majority of the shard's replicas
    #[default]
    Majority,
    /// All of them
    All,
}

/// `del`.
#[derive(Args, Debug)]
#[command(override_usage = "kvctl del [OPTIONS] KEY [RANGE_END]\n       \
                      kvctl del [OPTIONS] KEY --prefix|--from-key\n       \
                      kvctl del [OPTIONS] --all")]
pub(crate) struct Del {
    #[command(flatten)]
    pub(crate) keys: Selector,
    /// Show the version that is removed; of a single key
    #[arg(long, conflicts_with_all = ["range_end", "prefix", "from_key", "all"])]
    pub(crate) prev_kv: bool,
    /// Only if the key's current version was written at this revision; of a single key
    #[arg(long, value_name = "REVISION", conflicts_with_all = ["range_end", "prefix", "from_key", "all"])]
    pub(crate) if_revision: Option<u64>,
}

/// `txn`.
#[derive(Args, Debug)]
pub(crate) struct TxnArgs {
    /// The file with the transaction; absent or -: standard input
    #[arg(value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Ask for each part; wrong lines may be written anew
    #[arg(short, long, conflicts_with = "file")]
    pub(crate) interactive: bool,
    /// The transaction is in JSON
    #[arg(long, conflicts_with = "interactive")]
    pub(crate) json: bool,
    /// End with exit code 4 if a compare did not hold
    #[arg(long)]
    pub(crate) check: bool,
    /// Who must have it on disk before it counts as done
    #[arg(long, value_enum, default_value_t = AckBy::Majority)]
    pub(crate) ack: AckBy,
}

/// `watch`.
#[derive(Args, Debug)]
#[command(override_usage = "kvctl watch [OPTIONS] KEY [RANGE_END] [-- COMMAND...]\n       \
                      kvctl watch [OPTIONS] KEY --prefix|--from-key [-- COMMAND...]\n       \
                      kvctl watch [OPTIONS] --all [-- COMMAND...]")]
pub(crate) struct Watch {
    #[command(flatten)]
    pub(crate) keys: Selector,
    /// Begin with the changes at this revision; absent or 0: with what changes from now on
    #[arg(long, value_name = "REVISION", conflicts_with = "resume")]
    pub(crate) rev: Option<u64>,
    /// Go on after what an earlier watch of the same keys has told
    #[arg(long, value_name = "TOKEN")]
    pub(crate) resume: Option<String>,
    /// Show the versions that were replaced or deleted
    #[arg(long)]
    pub(crate) prev_kv: bool,
    /// Leave out these changes
    #[arg(long, value_enum, value_name = "KIND")]
    pub(crate) filter: Vec<Kind>,
    /// Tell this often that nothing was missed, at least 100ms
    #[arg(long, value_name = "DURATION", value_parser = positive_duration)]
    pub(crate) progress: Option<Duration>,
    /// Stop after so many changes
    #[arg(long, value_name = "CHANGES", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Run this for each change, one after the other
    #[arg(last = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

/// A kind of change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// A key was set
    Put,
    /// A key was removed, or has lapsed
    Delete,
}
