//! Keys that lapse: by a time to live, or with a lease. Each process has keys and leases of its own, and so it knows at any time
//! what must be there.
//!
//! # What must be there
//! A time to live is counted from when the shard takes the write, and so from after it was sent; a lease's from after its last
//! keep-alive was sent, if that was answered. Until then by this process's clock the key must be there, whatever happens to the
//! cluster. When it goes after that is judged at the end, when all has healed: then everything has to go, and what was put
//! again without a lifetime has to stay.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use kvd_client::{Client, Error, ErrorKind, Key, LeaseId, Result, TxnOp};
use rand::{RngExt as _, rngs::StdRng};
use tokio::time::Instant;

use super::Workload;
use crate::{
    history::{Process, RecordingClient},
    sim::records::{LAPSING, Records},
};

/// What is not relied on of a lifetime: clocks are read at the ticks of the simulation.
const MARGIN: Duration = Duration::from_millis(30);
/// Keys that a process has at a time.
const KEYS_MAX: usize = 6;
/// The time to live of leases, in milliseconds.
const LEASE_TTL_MS: std::ops::Range<u64> = 2000..5000;
const KEY_TTL_MS: std::ops::Range<u64> = 100..4000;

pub(crate) struct Lapsing {
    records: Arc<Records>,
    process: Process,
    keys: Vec<Lasting>,
    lease: Option<Leased>,
    written: u64,
}

/// A key that must be there for a while.
struct Lasting {
    key: Key,
    value: Bytes,
    /// Until when at least, if it has a time to live.
    until: Option<Instant>,
    /// The lease that it is attached to.
    lease: Option<LeaseId>,
}

/// A lease that is held.
struct Leased {
    id: LeaseId,
    ttl: Duration,
    /// Until when at least it lives.
    until: Instant,
    /// Whether it is kept alive, or left to itself.
    is_kept: bool,
}

impl Lapsing {
    pub(crate) const fn new(records: Arc<Records>, process: Process) -> Self {
        Self { records, process, keys: Vec::new(), lease: None, written: 0 }
    }

    async fn act(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        self.forget();
        match rng.random_range(0..100) {
            0..15 if self.keys.len() < KEYS_MAX => self.put_with_ttl(client, rng).await,
            15..45 => self.use_lease(client, rng).await,
            45..50 => self.keep_for_ever(client, rng).await,
            50..55 => self.look_at_lease(client).await,
            _ => self.look(client, rng).await,
        }
    }

    /// Forgets keys that may have lapsed.
    fn forget(&mut self) {
        let now = Instant::now();
        if self.lease.as_ref().is_some_and(|lease| lease.until <= now) {
            self.lease = None;
        }
        let lease = self.lease.as_ref().map(|lease| lease.id);
        self.keys.retain(|key| match (key.until, key.lease) {
            (Some(until), _) => until > now,
            (None, Some(of)) => lease == Some(of),
            (None, None) => true,
        });
    }

    fn fresh(&mut self, rng: &mut StdRng) -> Result<(Key, Bytes)> {
        self.written += 1;
        let nonce: u64 = rng.random();
        let name = format!("{LAPSING}{}/{nonce:x}", self.process);
        Ok((Key::new(name)?, format!("{}.{}", self.process, self.written).into()))
    }

    async fn put_with_ttl(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        let (key, value) = self.fresh(rng)?;
        let ttl = Duration::from_millis(rng.random_range(KEY_TTL_MS));
        let until = Some(Instant::now() + ttl);
        let put = client.put(&key, value.clone());
        if rng.random_bool(0.7) {
            put.ttl(ttl).await?;
        } else {
            client.txn().then(TxnOp::put(&key, value.clone()).ttl(ttl)).await?;
        }
        self.records.count("keys with a time to live");
        self.keys.push(Lasting { key, value, until, lease: None });
        Ok(())
    }

    /// Puts a key again, without a lifetime: what was said of it before counts no more.
    async fn keep_for_ever(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let Lasting { key, .. } = self.keys.swap_remove(rng.random_range(0..self.keys.len()));
        self.written += 1;
        let value = Bytes::from(format!("{}.{}.stays", self.process, self.written));
        self.records.may_stay(key.clone());
        match client.put(&key, value.clone()).await {
            Ok(_) => {
                self.records.count("keys that stay");
                self.records.stays(key.clone(), value.clone());
                if self.keys.iter().filter(|key| key.until.is_none() && key.lease.is_none()).count() < 2 {
                    self.keys.push(Lasting { key, value, until: None, lease: None });
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    async fn use_lease(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        let Some(Leased { id, until, is_kept, .. }) = self.lease else {
            return self.grant(client, rng).await;
        };
        match rng.random_range(0..10) {
            0..4 if is_kept => {
                let sent = Instant::now();
                let kept = client.keep_lease_alive(id).await;
                if let Err(Error { kind: ErrorKind::NotFound, .. }) = &kept {
                    self.ended_early("is not found to be kept alive", until);
                    self.lease = None;
                    return Ok(());
                }
                let kept_until = sent + kept? - MARGIN;
                if let Some(lease) = &mut self.lease {
                    lease.until = lease.until.max(kept_until);
                }
                self.records.count("keep-alives");
                Ok(())
            }
            0..8 if self.keys.len() < KEYS_MAX => {
                let (key, value) = self.fresh(rng)?;
                let put = client.put(&key, value.clone()).lease(id).await;
                if let Err(Error { kind: ErrorKind::NotFound | ErrorKind::FailedPrecondition, .. }) = &put {
                    self.ended_early("takes no keys", until);
                    return Ok(());
                }
                put?;
                self.records.count("keys with a lease");
                self.keys.push(Lasting { key, value, until: None, lease: Some(id) });
                Ok(())
            }
            8 => {
                // Whatever comes of it, nothing of it is relied on any more.
                self.lease = None;
                self.forget();
                client.revoke_lease(id).await.map(drop)
            }
            9 => {
                if let Some(lease) = &mut self.lease {
                    lease.is_kept = false;
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn grant(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        let ttl = Duration::from_millis(rng.random_range(LEASE_TTL_MS));
        let id = LeaseId(rng.random_range(1..1 << 63));
        let sent = Instant::now();
        let granted = client.grant_lease(ttl).id(id).await?;
        self.records.count("leases");
        let until = sent + granted.ttl() - MARGIN;
        self.lease = Some(Leased { id, ttl, until, is_kept: true });
        Ok(())
    }

    /// A lease has ended, and may not yet.
    fn ended_early(&self, what: &str, until: Instant) {
        let now = Instant::now();
        if now < until {
            let left = until - now;
            self.records
                .violated(format!("a lease of {} {what}, and lives for {left:?} still", self.process));
        }
    }

    /// The cluster knows of the lease, of its keys, and of no more time than there is.
    async fn look_at_lease(&self, client: &Client) -> Result<()> {
        let Some(Leased { id, ttl, until, .. }) = self.lease else { return Ok(()) };
        let Some(status) = client.time_to_live(id).await? else {
            self.ended_early("is not known", until);
            return Ok(());
        };
        if status.remaining > ttl {
            self.records.violated(format!("lease {id} of {ttl:?} lasts for {:?} still", status.remaining));
        }
        let keys = client.lease_keys(id).await?;
        let missing = self.keys.iter().find(|key| key.lease == Some(id) && !keys.contains(&key.key));
        if let Some(Lasting { key, .. }) = missing {
            self.ended_early(&format!("does not know its key {key}"), until);
        }
        self.records.count("looks at leases");
        Ok(())
    }

    /// One of the keys is there.
    async fn look(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        let Some(Lasting { key, value, until, lease }) =
            self.keys.get(rng.random_range(0..self.keys.len().max(1)))
        else {
            return Ok(());
        };
        let found = client.get(key).with_served().await?;
        let now = Instant::now();
        let until = match (until, lease) {
            (Some(until), _) => Some(*until - MARGIN),
            (None, Some(_)) => self.lease.as_ref().map(|lease| lease.until),
            (None, None) => None,
        };
        let must_be_there = until.is_none_or(|until| now < until);
        if must_be_there && found.record.as_ref().map(|record| &record.value) != Some(value) {
            let left = until.map(|until| until - now);
            let found = found.record;
            self.records
                .violated(format!("key {key} is {found:?} and must be {value:?}, for {left:?} still"));
        }
        self.records.count("looks at keys that lapse");
        Ok(())
    }
}

impl Workload for Lapsing {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        self.act(client.client(), rng).boxed()
    }
}
