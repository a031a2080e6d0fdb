//! Transactions on several keys of one shard: lists are read and appended to, on the condition that they are as they were
//! when they were looked at before.
//!
//! Each transaction reads, first of all, every key that it compares. So whatever branch was done, it is known what the compares
//! were about, and which branch it had to be.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_client::{Client, Compare, Key, Record, Result, Revision, TxnOp, TxnResult};
use rand::{RngExt as _, rngs::StdRng};

use super::{Workload, age};
use crate::{
    check::transactions::{End, Step, Transaction},
    history::RecordingClient,
    sim::records::Records,
};

const GROUPS: u64 = 3;
const GROUP_KEYS: u64 = 3;
const KEY_LASTS: Duration = Duration::from_secs(6);

/// No two appends have the same number.
static APPENDED: AtomicU32 = AtomicU32::new(1);

pub(crate) struct Transactions {
    records: Arc<Records>,
}

/// What is compared of a key, with what.
#[derive(Clone, Debug)]
enum Compared {
    Value(Relation, String),
    Version(Relation, u64),
    Revision(Relation, u64),
    CreateRevision(Relation, u64),
}

#[derive(Clone, Copy, Debug)]
enum Relation {
    Equal,
    NotEqual,
    Less,
    Greater,
}

impl Relation {
    fn draw(rng: &mut StdRng) -> Self {
        match rng.random_range(0..12) {
            0 => Self::NotEqual,
            1 => Self::Less,
            2 => Self::Greater,
            _ => Self::Equal,
        }
    }

    fn holds<T: Ord + ?Sized>(self, a: &T, b: &T) -> bool {
        match self {
            Self::Equal => a == b,
            Self::NotEqual => a != b,
            Self::Less => a < b,
            Self::Greater => a > b,
        }
    }
}

macro_rules! related {
    ($compare:expr, $relation:expr, $with:expr) => {
        match $relation {
            Relation::Equal => $compare.equal($with),
            Relation::NotEqual => $compare.not_equal($with),
            Relation::Less => $compare.less($with),
            Relation::Greater => $compare.greater($with),
        }
    };
}

impl Compared {
    /// Something that is so, most of the time, if the key is still as it was.
    fn draw(seen: Option<&Record>, rng: &mut StdRng) -> Self {
        let relation = Relation::draw(rng);
        match (rng.random_range(0..6), seen) {
            (0, Some(record)) => Self::Value(relation, String::from_utf8_lossy(&record.value).into_owned()),
            (1, _) => Self::Version(relation, seen.map_or(0, |record| record.version)),
            (2, _) => Self::CreateRevision(relation, seen.map_or(0, |record| record.create_revision.get())),
            _ => Self::Revision(relation, seen.map_or(0, |record| record.revision.get())),
        }
    }

    fn asked(&self, key: &Key) -> Compare {
        match self {
            Self::Value(relation, value) => related!(Compare::value(key), relation, value),
            Self::Version(relation, version) => related!(Compare::version(key), relation, *version),
            Self::Revision(relation, revision) => {
                related!(Compare::revision(key), relation, Revision(*revision))
            }
            Self::CreateRevision(relation, revision) => {
                related!(Compare::create_revision(key), relation, Revision(*revision))
            }
        }
    }

    /// Whether it holds of a version. There is no value of a key that isn't there.
    fn holds(&self, of: Option<&Record>) -> bool {
        match self {
            Self::Value(relation, value) => of.is_some_and(|of| relation.holds(&*of.value, value.as_bytes())),
            Self::Version(relation, version) => relation.holds(&of.map_or(0, |of| of.version), version),
            Self::Revision(relation, revision) => {
                relation.holds(&of.map_or(0, |of| of.revision.get()), revision)
            }
            Self::CreateRevision(relation, revision) => {
                relation.holds(&of.map_or(0, |of| of.create_revision.get()), revision)
            }
        }
    }

    /// Whether it pins down the version that was seen, so that an append to what was seen is one to what is there.
    const fn pins(&self) -> bool {
        matches!(self, Self::Revision(Relation::Equal, _) | Self::Value(Relation::Equal, _))
    }
}

impl Transactions {
    pub(crate) const fn new(records: Arc<Records>) -> Self {
        Self { records }
    }

    async fn act(&self, client: &Client, rng: &mut StdRng) -> Result<()> {
        let group = rng.random_range(0..GROUPS);
        let age = age(KEY_LASTS);
        let mut keys: Vec<Key> = Vec::new();
        for number in 0..GROUP_KEYS {
            if keys.is_empty() || rng.random_bool(0.6) {
                keys.push(Key::new(format!("{{list{group}}}/{age}/{number}"))?);
            }
        }
        if rng.random_bool(0.3) {
            return self.transact(client, &keys, &[], &[]).await;
        }
        let seen = client.batch_get(&keys).await?;
        let compares: Vec<(usize, Compared)> =
            seen.iter().map(|seen| Compared::draw(seen.as_ref(), rng)).enumerate().collect();
        let appends: Vec<(usize, u32, String)> = compares
            .iter()
            .filter(|(_, compared)| compared.pins())
            .map(|(place, _)| {
                let number = APPENDED.fetch_add(1, Ordering::Relaxed);
                let list = seen
                    .get(*place)
                    .and_then(Option::as_ref)
                    .map(|seen| String::from_utf8_lossy(&seen.value));
                let list = list.map_or_else(|| number.to_string(), |list| format!("{list},{number}"));
                (*place, number, list)
            })
            .collect();
        self.transact(client, &keys, &compares, &appends).await
    }

    /// Reads these keys, compares some, and then writes some, or reads these keys backwards.
    async fn transact(
        &self,
        client: &Client,
        keys: &[Key],
        compares: &[(usize, Compared)],
        appends: &[(usize, u32, String)],
    ) -> Result<()> {
        let mut txn = client.txn();
        for (place, compared) in compares {
            if let Some(key) = keys.get(*place) {
                txn = txn.when(compared.asked(key));
            }
        }
        for key in keys {
            txn = txn.then(TxnOp::get(key)).or_else(TxnOp::get(key));
        }
        let mut steps = Vec::new();
        for (place, number, list) in appends {
            if let Some(key) = keys.get(*place) {
                txn = txn.then(TxnOp::put(key, list.clone()));
                steps.push(Step::Append(key.clone(), *number));
            }
        }
        let invoked = self.records.moment();
        let done = txn.await;
        let completed = Some(self.records.moment());
        let (end, steps) = match &done {
            Err(error) if error.outcome_unknown() => (End::Unknown, steps),
            Err(_) => (End::Aborted, steps),
            Ok(outcome) => {
                let found = self.found(keys, &outcome.results);
                self.check_branch(keys, compares, &found, outcome.succeeded);
                let reads = keys
                    .iter()
                    .zip(&found)
                    .map(|(key, found)| Step::ReadList(key.clone(), list(found.as_ref())));
                let steps = reads.chain(steps.into_iter().filter(|_| outcome.succeeded)).collect();
                (End::Committed, steps)
            }
        };
        self.records.count(match &done {
            Ok(outcome) if compares.is_empty() || outcome.succeeded => "transactions",
            Ok(_) => "transactions that were done otherwise",
            Err(_) => "transactions that failed",
        });
        self.records.transaction(Transaction { invoked, completed, end, steps });
        done.map(drop)
    }

    /// What the reads at the beginning found.
    fn found(&self, keys: &[Key], results: &[TxnResult]) -> Vec<Option<Record>> {
        let found: Vec<_> = results
            .iter()
            .map_while(|result| match result {
                TxnResult::Got(found) => Some(found.clone()),
                _ => None,
            })
            .collect();
        if found.len() != keys.len() {
            self.records.violated(format!("a transaction that reads {keys:?} gives {results:?}"));
        }
        found
    }

    fn check_branch(
        &self,
        keys: &[Key],
        compares: &[(usize, Compared)],
        found: &[Option<Record>],
        succeeded: bool,
    ) {
        let holds = |(place, compared): &(usize, Compared)| {
            compared.holds(found.get(*place).and_then(Option::as_ref))
        };
        if compares.iter().all(holds) != succeeded {
            self.records.violated(format!(
                "a transaction with the compares {compares:?} of {keys:?} found {found:?} and says {succeeded}"
            ));
        }
    }
}

/// The numbers in a list.
fn list(found: Option<&Record>) -> Vec<u32> {
    let Some(record) = found else { return Vec::new() };
    let text = String::from_utf8_lossy(&record.value);
    text.split(',').map(|number| number.parse().unwrap_or(u32::MAX)).collect()
}

impl Workload for Transactions {
    fn turn<'a>(&'a mut self, client: &'a RecordingClient, rng: &'a mut StdRng) -> BoxFuture<'a, Result<()>> {
        self.act(client.client(), rng).boxed()
    }
}
