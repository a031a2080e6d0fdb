//! A steady load for long, and what the nodes hold meanwhile. Memory must not grow once history is as long as it gets, nor
//! what is on the disk once the log is as long as it may get: what a checkpoint is due after, or four times all checkpoints.

use std::time::Duration;

use anyhow::Context as _;

use super::{Trial, held, load, on_cluster, setup};
use crate::{
    cli::{self, Workload},
    compare::{Contender, Errors, add_failed, say},
    load::{Load, Open},
    target::Target,
};

/// Requests under way, at most.
const OUTSTANDING_MAX: u32 = 10_000;

/// A load that any machine serves all the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Soak {
    /// Requests a second, half of them puts.
    pub(super) rate: u32,
    pub(super) lasts: Duration,
}

impl Soak {
    /// Makes the load.
    pub(super) async fn run(self, arguments: &cli::Compare, errors: &mut Errors) -> anyhow::Result<Trial> {
        let Self { rate, lasts } = self;
        let name = format!("{rate} requests/s, half of them puts, for {} s", lasts.as_secs());
        say(format_args!("{name}"));
        let open = Some(Open { rate, outstanding_max: OUTSTANDING_MAX });
        let load = Load { open, ..load(arguments, Workload::Mixed, 1, lasts) };
        let setup = setup(arguments, arguments.nodes, arguments.shards);
        let figures = on_cluster(arguments, setup, async |cluster, dir| {
            let contender = Contender::of(Target::Kvd, Some(cluster), arguments, dir).await?;
            contender.fill(&load).await?;
            let ((measured, failed), mut told) = held::during(&contender, &load, lasts, cluster, dir).await?;
            for name in ["operations_per_second", "p99_ms", "max_ms"] {
                told.insert(name, *measured.get(name).context("a figure is missing")?);
            }
            add_failed(errors, Target::Kvd, failed);
            contender.close().await;
            Ok(told)
        })
        .await?;
        Ok(Trial::of(&name, figures))
    }
}
