//! Holders of locks, who write while they hold them, and after.
//!
//! Each process has two contenders. A holder may give its lock back, forget it (and its lease runs out), or be the one that
//! was paused: it writes long after, with the fence that it had.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_client::{Client, Compare, Lock, Record, Result, Revision, TxnOp, TxnResult};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::Workload;
use crate::{
    check::locks::{Fenced, Hold},
    history::RecordingClient,
    sim::records::Records,
};

const LOCKS: u64 = 2;
const TTL: Duration = Duration::from_secs(2);
/// How long a contender waits for a lock.
const PATIENCE: Duration = Duration::from_secs(4);
const WRITES_MAX: u32 = 4;
const PAUSE_MAX: Duration = Duration::from_millis(300);
/// Fences that a contender keeps beyond their time.
const OLD_FENCES_MAX: usize = 4;

pub(crate) struct Locks {
    contenders: [Contender; 2],
}

struct Contender {
    records: Arc<Records>,
    /// Of locks that were held once: name, token and fence.
    old: Vec<(String, Revision, Compare)>,
}

impl Locks {
    pub(crate) fn new(records: &Arc<Records>) -> Self {
        let contender = || Contender { records: Arc::clone(records), old: Vec::new() };
        Self { contenders: [contender(), contender()] }
    }

    async fn act(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        let [one, other] = &mut self.contenders;
        let (mut chance, mut others_chance) =
            (StdRng::seed_from_u64(rng.random()), StdRng::seed_from_u64(rng.random()));
        let (one, other) =
            futures::join!(one.act(client, &mut chance), other.act(client, &mut others_chance));
        one.or(other)
    }
}

impl Contender {
    async fn act(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        if !self.old.is_empty() && rng.random_bool(0.3) {
            let (name, token, fence) = self.old.swap_remove(rng.random_range(0..self.old.len()));
            self.records.count("writes with an old fence");
            return self.write(client, &name, token, fence).await;
        }
        let name = format!("lock-{}", rng.random_range(0..LOCKS));
        let patience = PATIENCE.mul_f64(rng.random_range(0.0..1.0));
        let Some(lock) = client.lock(&name, TTL).within(patience).await? else { return Ok(()) };
        self.records.count("locks");
        let token = lock.token();
        let from = self.records.moment();
        for _ in 0..rng.random_range(1..=WRITES_MAX) {
            self.write(client, &name, token, lock.fence()).await?;
            tokio::time::sleep(PAUSE_MAX.mul_f64(rng.random_range(0.0..1.0))).await;
            self.look(&name, &lock, from);
        }
        if self.old.len() < OLD_FENCES_MAX {
            self.old.push((name, token, lock.fence()));
        }
        if rng.random_bool(0.7) {
            lock.unlock().await?;
        }
        Ok(())
    }

    /// Takes note if the lock is held for sure.
    fn look(&self, name: &str, lock: &Lock, from: crate::history::Moment) {
        if lock.is_held() {
            let until = self.records.moment();
            self.records.lock(name, |record| record.holds.push(Hold { token: lock.token(), from, until }));
        }
    }

    /// Writes the token, if the fence holds.
    async fn write(&self, client: &Client, name: &str, token: Revision, fence: Compare) -> Result<()> {
        let register = format!("{{kvd-lock:{name}}}register");
        let put = TxnOp::put(&register, token.get().to_string()).return_previous();
        let outcome = client.txn().when(fence).then(put).await?;
        if !outcome.succeeded {
            self.records.count("fenced writes that were refused");
            return Ok(());
        }
        let Some(TxnResult::Put { previous, .. }) = outcome.results.first() else {
            self.records.violated(format!("a fenced write gives {:?}", outcome.results));
            return Ok(());
        };
        let previous = previous.as_ref().map(|record| (record.revision, written(record)));
        let fenced = Fenced { token, revision: outcome.revision, previous };
        self.records.count("fenced writes");
        self.records.lock(name, |record| record.writes.push(fenced));
        Ok(())
    }
}

/// The token in a register.
fn written(record: &Record) -> Revision {
    Revision(String::from_utf8_lossy(&record.value).parse().unwrap_or(u64::MAX))
}

impl Workload for Locks {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        self.act(client.client(), rng).boxed()
    }
}
