//! Ranges that are filled and deleted, by one process each: what was there at the beginning must go, all of it and nothing beside,
//! and be counted right.

use std::{collections::BTreeSet, sync::Arc};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_client::{Client, Key, Result};
use rand::{RngExt as _, rngs::StdRng};

use super::Workload;
use crate::{
    history::{Process, RecordingClient},
    sim::records::Records,
};

const KEYS_MAX: u64 = 12;

pub(crate) struct Ranges {
    records: Arc<Records>,
    process: Process,
    filled: Option<Filled>,
}

/// A range with keys. All its keys begin with its name and a slash.
struct Filled {
    name: String,
    /// Keys that are there.
    there: BTreeSet<Key>,
    /// Keys that may be there, or come.
    may_be: BTreeSet<Key>,
    /// Keys just beside it.
    beside: BTreeSet<Key>,
}

impl Ranges {
    pub(crate) const fn new(records: Arc<Records>, process: Process) -> Self {
        Self { records, process, filled: None }
    }

    async fn act(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        let Some(filled) = &mut self.filled else {
            let name = format!("range/{}/{:x}", self.process, rng.random::<u64>());
            self.filled = Some(Filled {
                name,
                there: BTreeSet::new(),
                may_be: BTreeSet::new(),
                beside: BTreeSet::new(),
            });
            return Ok(());
        };
        if rng.random_bool(0.9) {
            return filled.put(client, rng).await;
        }
        let Some(filled) = self.filled.take() else { return Ok(()) };
        self.delete(client, filled).await
    }

    async fn delete(&self, client: &Client, filled: Filled) -> Result<()> {
        let Filled { name, there, may_be, beside } = filled;
        let prefix = format!("{name}/");
        let deleted = match client.delete_prefix(&prefix).await {
            Ok(deleted) => deleted,
            Err(error) => {
                let most = there.len() + may_be.len();
                if usize::try_from(error.deleted).is_ok_and(|deleted| deleted > most) {
                    self.records.violated(format!(
                        "of at most {most} keys below {prefix} some were deleted: {error}"
                    ));
                }
                return Err(error.error);
            }
        };
        self.records.count("ranges deleted");
        let counts = there.len()..=there.len() + may_be.len();
        if !usize::try_from(deleted).is_ok_and(|deleted| counts.contains(&deleted)) {
            self.records.violated(format!("of {counts:?} keys below {prefix} {deleted} were deleted"));
        }
        let rows = client.scan_prefix(&name).collect().await?;
        let left: BTreeSet<Key> = rows.into_iter().map(|(key, _)| key).collect();
        if let Some(key) = left.iter().find(|key| there.contains(*key)) {
            self.records.violated(format!("key {key} is left of the range {prefix}, which was deleted"));
        }
        if let Some(key) = beside.iter().find(|key| !left.contains(*key)) {
            self.records.violated(format!("key {key} went along with the range {prefix}"));
        }
        Ok(())
    }
}

impl Filled {
    /// Puts a key into the range, or just beside it.
    async fn put(&mut self, client: &Client, rng: &mut StdRng) -> Result<()> {
        let number = rng.random_range(0..KEYS_MAX);
        // A dot comes just before the slash, a zero just after it.
        let (key, is_within) = match rng.random_range(0..8) {
            0 => (format!("{}.{number}", self.name), false),
            1 => (format!("{}0{number}", self.name), false),
            _ => (format!("{}/{number}", self.name), true),
        };
        let key = Key::new(key)?;
        let put = client.put(&key, "x").await;
        match (&put, is_within) {
            (Ok(_), true) => {
                self.may_be.remove(&key);
                self.there.insert(key);
            }
            (Ok(_), false) => {
                self.beside.insert(key);
            }
            (Err(error), true) if error.outcome_unknown() && !self.there.contains(&key) => {
                self.may_be.insert(key);
            }
            _ => {}
        }
        put.map(drop)
    }
}

impl Workload for Ranges {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        self.act(client.client(), rng).boxed()
    }
}
