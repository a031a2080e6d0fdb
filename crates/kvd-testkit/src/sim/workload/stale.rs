//! Reads that ask for less than the latest, and get what they ask for: in a session, bounded, from any replica as it is; and
//! reads that ask for the latest of whoever has it: a follower, or a leader that trusts its lease. A few of them follow each other
//! on the same key: what one has shown the next may not take back.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_client::{Client, Consistency, Key, Result};
use rand::{RngExt as _, rngs::StdRng};

use super::{
    Workload,
    moments::{self, User},
};
use crate::{
    check::versions::Level,
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
    user: User,
}

impl Stale {
    pub(crate) const fn new(records: Arc<Records>, process: Process, client: u64) -> Self {
        Self { user: User::new(records, process, client) }
    }

    async fn act(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        if rng.random_bool(WRITES) {
            return self.user.write(client, rng).await;
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
            7 if self.user.records.lease_reads => {
                (get.consistency(Consistency::Lease), Level::Current, "reads by a leader's lease")
            }
            7 => (get, Level::Current, "gets"),
            _ => (get.from_any_replica(), Level::Current, "linearizable reads by any replica"),
        };
        self.user.read(what, key, get, level).await
    }
}

impl Workload for Stale {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        self.act(client.client(), rng).boxed()
    }
}
