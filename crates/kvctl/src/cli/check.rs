//! The verbs that check a cluster.

use clap::{Args, Subcommand, ValueEnum};

use super::text;

/// `check ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum CheckVerb {
    /// Put load on the cluster for some seconds, and say whether it is fast enough
    #[command(after_long_help = text::CHECK_PERF)]
    Perf(CheckPerf),
}

/// `check perf`.
#[derive(Args, Debug)]
pub(crate) struct CheckPerf {
    /// How much load
    #[arg(long, value_enum, ignore_case = true, default_value_t = Load::S)]
    pub(crate) load: Load,
}

/// How much load.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Load {
    /// Values of 128 bytes, 2 seconds of writes and 2 of reads
    #[default]
    S,
    /// Values of 1 KiB, 5 seconds each
    M,
    /// Values of 16 KiB, 15 seconds each
    L,
}

impl Load {
    /// What it is called.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::S => "s",
            Self::M => "m",
            Self::L => "l",
        }
    }
}
