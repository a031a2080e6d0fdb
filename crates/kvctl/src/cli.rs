//! The verbs and flags.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(name = "kvctl", version, about = "The command line of kvd, a distributed key-value store")]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 wrongly used, 3 not found, 4 a condition failed, \
                        5 unavailable, 6 outcome unknown, 7 denied.")]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// Flags of all verbs.
#[derive(Args, Debug)]
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
    /// How long each request is tried: a number with ms, s or m
    #[arg(long, global = true, default_value = "5s", value_parser = duration)]
    pub(crate) timeout: Duration,
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
    /// Set a key
    Put(Put),
    /// Read keys
    Get(Get),
    /// Remove a key
    Del(Del),
    /// Set the keys of a file of JSON lines: {"key": ..., "value": ...}, or key_base64 and value_base64
    Import(Import),
    /// Write all keys and values as JSON lines, in key order
    Export(Export),
    /// Show the cluster: its nodes, its shards, who leads
    Status,
    /// The cluster's shards
    #[command(subcommand)]
    Shard(ShardVerb),
    /// The cluster's nodes
    #[command(subcommand)]
    Node(NodeVerb),
    /// Print a shell's completion script
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the version
    Version,
}

/// `put`.
#[derive(Args, Debug)]
pub(crate) struct Put {
    /// The key
    pub(crate) key: OsString,
    /// The value; absent or -: standard input
    #[arg(conflicts_with = "file")]
    pub(crate) value: Option<OsString>,
    /// Take the value from a file
    #[arg(long, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// Show the version that is replaced
    #[arg(long)]
    pub(crate) prev_kv: bool,
    /// Only if the key does not exist
    #[arg(long, conflicts_with = "if_revision")]
    pub(crate) if_absent: bool,
    /// Only if the key's current version was written at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) if_revision: Option<u64>,
}

/// `get`.
#[derive(Args, Debug)]
pub(crate) struct Get {
    /// The keys
    #[arg(required = true)]
    pub(crate) keys: Vec<OsString>,
    /// Print the values alone
    #[arg(long)]
    pub(crate) print_value_only: bool,
}

/// `del`.
#[derive(Args, Debug)]
pub(crate) struct Del {
    /// The key
    pub(crate) key: OsString,
    /// Show the version that is removed
    #[arg(long)]
    pub(crate) prev_kv: bool,
    /// Only if the key's current version was written at this revision
    #[arg(long, value_name = "REVISION")]
    pub(crate) if_revision: Option<u64>,
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
    #[arg(long, default_value = "")]
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

/// A duration as people write it.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "write a whole number and ms, s or m, as in 500ms")?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" | "" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(format!("{unit} is no unit of time here; use ms, s or m")),
    }
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
    fn durations() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("3"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for wrong in ["", "s", "1h", "-1s", "1.5s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn flags_may_follow_the_verb() {
        let cli =
            Cli::try_parse_from(["kvctl", "get", "a", "b", "-o", "json", "--endpoints", "x:1"]).unwrap();
        assert_eq!(cli.global.output, Format::Json);
        assert_eq!(cli.global.endpoints, "x:1");
        for wrong in [
            &["kvctl", "put", "k", "v", "--if-absent", "--if-revision", "1"][..],
            &["kvctl", "put", "k", "v", "--file", "f"],
            &["kvctl", "get"],
            &["kvctl", "import", "f", "--concurrency", "0"],
        ] {
            assert!(Cli::try_parse_from(wrong).is_err(), "{wrong:?}");
        }
    }
}
