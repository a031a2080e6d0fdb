//! Reads that ask for less than the latest, and get what they ask for: in a session, bounded, from any replica as it is; and
//! reads that ask for the latest of whoever has it: a follower, or a leader that trusts its lease. A few of them follow each other
//! on the same key: what one has shown the next may not take back.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_client::{Client, Consistency, Get, Key, Result};
use rand::{RngExt as _, rngs::StdRng};

use super::{
    Workload,
    moments::{self, Writer},
};
use crate::{
    check::versions::{Level, Read},
    history::{Process, RecordingClient},
    sim::records::Records,
};

/// How often it writes: seldom, so that what its session has seen is mostly what others have written.
const WRITES: f64 = 0.1;
/// How often a key is read in a row, at most.
const READS_IN_A_ROW_MAX: usize = 4;
/// The bound of a bounded read.
const BOUNDS_MS: [u64; 4] = [0, 200, 1000, 3000];

pub(crate) struct Stale {
    writer: Writer,
}

impl Stale {
    pub(crate) const fn new(records: Arc<Records>, process: Process, client: u64) -> Self {
        Self { writer: Writer::new(records, process, client) }
    }

    async fn act(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        if rng.random_bool(WRITES) {
            return self.writer.write(client, rng).await;
        }
        let key = moments::any(rng)?;
        for _ in 0..rng.random_range(1..=READS_IN_A_ROW_MAX) {
            self.read(client, key.clone(), rng).await?;
        }
        Ok(())
    }

    async fn read(&self, client: &Client, key: Key, rng: &mut StdRng) -> Result<()> {
        let bound = Duration::from_millis(
            BOUNDS_MS.get(rng.random_range(0..BOUNDS_MS.len())).copied().unwrap_or_default(),
        );
        let get = client.get(&key);
        let (get, level, what) = match rng.random_range(0..10) {
            0..3 => (get.session(), Level::Session, "session reads"),
            3..6 => (get.bounded_staleness(bound), Level::Bounded(bound), "bounded reads"),
            6 => (get.local(), Level::Local, "local reads"),
            7 if self.writer.records.lease_reads => {
                (get.consistency(Consistency::Lease), Level::Current, "reads by a leader's lease")
            }
            7 => (get, Level::Current, "gets"),
            _ => (get.from_any_replica(), Level::Current, "linearizable reads by any replica"),
        };
        recorded(&self.writer, what, key, get, level).await
    }
}

/// Has a read made, and records what it showed, to be judged with all that was written.
pub(super) async fn recorded(
    by: &Writer,
    what: &'static str,
    key: Key,
    get: Get,
    level: Level,
) -> Result<()> {
    let Writer { records, process, client: number, .. } = by;
    let invoked = records.moment();
    let found = get.with_served().await?;
    let completed = records.moment();
    if let Some(record) = found.record.as_ref().filter(|record| record.revision > found.served.revision) {
        let (revision, served) = (record.revision, found.served.revision);
        records.violated(format!("key {key} is shown as of {revision} by a replica that has had {served}"));
    }
    records.count(what);
    records.read(Read {
        process: *process,
        client: *number,
        invoked,
        known: completed,
        completed,
        level,
        start: key.bytes().clone(),
        end: kvd_placement::route::after_key(key.as_bytes()),
        rows: found.record.map(|record| (key, record)).into_iter().collect(),
        descending: false,
    });
    Ok(())
}

impl Workload for Stale {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        self.act(client.client(), rng).boxed()
    }
}
