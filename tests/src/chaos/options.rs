//! What the command line says, and what it comes to.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Kills, pauses, cuts and damages a cluster of real processes while clients work, and checks all that they were told.
#[derive(Debug, Parser)]
#[command(name = "kvd-chaos", args_conflicts_with_subcommands = true)]
pub struct Options {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) run: RunOptions,
}

/// What else this program does.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Delays the packets of the kernel's queue on this machine.
    #[command(hide = true)]
    Delay {
        /// Each packet, by so many milliseconds.
        delay_ms: u64,
        /// And by up to so many more.
        jitter_ms: u64,
    },
}

/// How a run is to be.
#[derive(Clone, Debug, Args)]
pub(crate) struct RunOptions {
    /// How long new faults begin, in seconds; the last ones end, and the checks come, after that.
    #[arg(long, default_value_t = 300)]
    pub(crate) seconds: u64,
    /// What the plan is computed from; chosen, and told, if not given.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Only these faults, by their names.
    #[arg(long, value_delimiter = ',', value_name = "NAME,…")]
    pub(crate) faults: Vec<String>,
    /// Nodes of the cluster: 3 to 9.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(3..=9))]
    pub(crate) nodes: u8,
    /// The engine of all nodes, as the setting `storage.engine` names it; the default one, if not given.
    #[arg(long, value_name = "ENGINE")]
    pub(crate) engine: Option<String>,
    /// A fixed mix of about two and a half minutes.
    #[arg(long, conflicts_with_all = ["seconds", "faults", "power_cuts"])]
    pub(crate) short: bool,
    /// Nothing but power cuts, as fast as the cluster recovers, until so many machines have had one.
    #[arg(long, value_name = "COUNT", conflicts_with_all = ["seconds", "faults"])]
    pub(crate) power_cuts: Option<u64>,
    /// Leave out the faults that this machine doesn't permit, rather than refuse to begin.
    #[arg(long)]
    pub(crate) skip_missing: bool,
    /// Keep the directory with disks, logs and history also when nothing was wrong.
    #[arg(long)]
    pub(crate) keep: bool,
    /// Write what came of it to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub(crate) summary: Option<PathBuf>,
    /// A library that all nodes are started with: one that sabotages them, to see that this is found.
    #[arg(long, hide = true, value_name = "LIBRARY")]
    pub(crate) preload: Option<String>,
    /// Only list the faults, and what each demands of a store.
    #[arg(long)]
    pub(crate) list: bool,
}

impl RunOptions {
    /// The command that does the same again.
    pub(crate) fn command(&self, seed: u64) -> String {
        let mut command = format!("cargo xtask chaos --seed {seed}");
        if self.short {
            command.push_str(" --short");
        } else if let Some(cuts) = self.power_cuts {
            command.push_str(&format!(" --power-cuts {cuts}"));
        } else {
            command.push_str(&format!(" --seconds {}", self.seconds));
        }
        if !self.faults.is_empty() {
            command.push_str(&format!(" --faults {}", self.faults.join(",")));
        }
        if let Some(library) = &self.preload {
            command.push_str(&format!(" --preload {library}"));
        }
        if let Some(engine) = &self.engine {
            command.push_str(&format!(" --engine {engine}"));
        }
        if self.nodes != 5 {
            command.push_str(&format!(" --nodes {}", self.nodes));
        }
        command
    }
}
