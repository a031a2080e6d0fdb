//! `scan`: how fast the rows of what `run` has written come, over all shards.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures::TryStreamExt as _;

use crate::{cli::Scan, load::PREFIX};

/// One scan.
#[derive(Debug)]
pub(crate) struct Round {
    pub(crate) rows: u64,
    pub(crate) value_bytes: u64,
    pub(crate) elapsed: Duration,
    /// Until the first row came.
    pub(crate) first_row: Duration,
}

/// Scans.
pub(crate) async fn run(arguments: &Scan) -> anyhow::Result<Vec<Round>> {
    let connections = arguments.common.connect().await?;
    let client = connections.first().context("there is no connection")?;
    let mut rounds = Vec::new();
    for _ in 0..arguments.rounds {
        let started = Instant::now();
        let scan = client.scan_prefix(PREFIX);
        let mut rows = if arguments.keys_only { scan.keys_only() } else { scan }.stream();
        let mut round = Round { rows: 0, value_bytes: 0, elapsed: Duration::ZERO, first_row: Duration::ZERO };
        while let Some((_, record)) = rows.try_next().await? {
            if round.rows == 0 {
                round.first_row = started.elapsed();
            }
            round.rows += 1;
            round.value_bytes += u64::try_from(record.value.len())?;
        }
        round.elapsed = started.elapsed();
        rounds.push(round);
    }
    Ok(rounds)
}
