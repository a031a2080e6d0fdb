//! What clients did beside reading and writing single keys, and what came of it: for the judges of [`crate::check`] at the end
//! of a run, and for whoever goes on where a client that died has left off.
//!
//! What has one owner is judged by it on the spot: it knows what must be there. What many touch is recorded here and judged
//! once all is known. Records outlive the hosts of clients.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use kvd_client::{Key, Record, Result, Revision, Token};
use kvd_placement::Ring;
use kvd_types::cluster::RingSpec;
use parking_lot::Mutex;

use super::witness::Witness;
use crate::{
    check::{
        locks,
        transactions::{self, Transaction},
        versions::{self, Account, End},
    },
    history::{Moment, Process, Recorder},
};

/// Everything that is recorded.
pub(crate) struct Records {
    recorder: Recorder,
    witness: Arc<Witness>,
    /// How long history is kept.
    pub(crate) retention: Duration,
    /// Reads by the leader's lease are allowed.
    pub(crate) lease_reads: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    account: Account,
    /// Where the watches of the account stand, by process.
    watching: BTreeMap<Process, Watching>,
    transactions: Vec<Transaction>,
    locks: BTreeMap<String, locks::Lock>,
    leftovers: Leftovers,
    clients: u64,
    done: BTreeMap<&'static str, u64>,
}

/// A watch that may be gone on with.
#[derive(Clone)]
pub(crate) struct Watching {
    /// Its place in the account.
    pub(crate) place: usize,
    pub(crate) token: Option<Token>,
}

/// What must be left of keys that were to lapse.
#[derive(Default)]
struct Leftovers {
    /// These must be there, with these values.
    stay: BTreeMap<Key, Bytes>,
    /// These may be there: it can't be told.
    may_stay: BTreeSet<Key>,
}

/// Keys that all have a lifetime begin so.
pub(crate) const LAPSING: &str = "lapse/";

/// A write under way. Never completed, it is unknown.
pub(crate) struct Writing {
    records: Arc<Records>,
    place: usize,
}

impl Records {
    pub(crate) fn new(
        recorder: Recorder,
        witness: Arc<Witness>,
        retention: Duration,
        lease_reads: bool,
    ) -> Arc<Self> {
        Arc::new(Self { recorder, witness, retention, lease_reads, state: Mutex::default() })
    }

    /// Something can't have been right.
    pub(crate) fn violated(&self, what: String) {
        self.witness.violated(what);
    }

    pub(crate) fn moment(&self) -> Moment {
        self.recorder.moment()
    }

    /// A number for a client that begins.
    pub(crate) fn new_client(&self) -> u64 {
        let mut state = self.state.lock();
        state.clients += 1;
        state.clients
    }

    /// Counts something that was done, for the report.
    pub(crate) fn count(&self, what: &'static str) {
        *self.state.lock().done.entry(what).or_default() += 1;
    }

    pub(crate) fn counts(&self) -> BTreeMap<String, u64> {
        self.state.lock().done.iter().map(|(what, count)| ((*what).to_owned(), *count)).collect()
    }

    /// A write of the account begins.
    pub(crate) fn write(
        self: &Arc<Self>,
        process: Process,
        client: u64,
        changes: Vec<(Key, Option<Bytes>)>,
    ) -> Writing {
        let invoked = self.moment();
        let mut state = self.state.lock();
        let place = state.account.writes.len();
        let end = End::Unknown;
        state.account.writes.push(versions::Write {
            process,
            client,
            invoked,
            completed: None,
            end,
            changes,
        });
        Writing { records: Arc::clone(self), place }
    }

    pub(crate) fn read(&self, read: versions::Read) {
        self.state.lock().account.reads.push(read);
    }

    /// A watch of the account begins.
    pub(crate) fn watch(&self, watch: versions::Watch) -> Watching {
        let mut state = self.state.lock();
        let watching = Watching { place: state.account.watches.len(), token: None };
        state.watching.insert(watch.process, watching.clone());
        state.account.watches.push(watch);
        watching
    }

    /// The watch that a process has left, for the one after it.
    pub(crate) fn watch_of(&self, process: Process) -> Option<Watching> {
        self.state.lock().watching.get(&process).cloned()
    }

    /// Changes the record of a watch.
    pub(crate) fn watched<T>(
        &self,
        watching: &Watching,
        change: impl FnOnce(&mut versions::Watch) -> T,
    ) -> Option<T> {
        self.state.lock().account.watches.get_mut(watching.place).map(change)
    }

    /// A watch was told up to a token.
    pub(crate) fn told(&self, process: Process, watching: &mut Watching, token: Token) {
        watching.token = Some(token);
        self.state.lock().watching.insert(process, watching.clone());
    }

    /// A watch has come to its end.
    pub(crate) fn unwatch(&self, process: Process) {
        self.state.lock().watching.remove(&process);
    }

    /// What was acknowledged and a watch has not told of yet.
    pub(crate) fn lacks(&self, watching: &Watching) -> Option<String> {
        let state = self.state.lock();
        let watch = state.account.watches.get(watching.place)?;
        state.account.lacking(watch).into_iter().next()
    }

    pub(crate) fn transaction(&self, transaction: Transaction) {
        self.state.lock().transactions.push(transaction);
    }

    /// Changes the record of a lock.
    pub(crate) fn lock(&self, name: &str, change: impl FnOnce(&mut locks::Lock)) {
        change(self.state.lock().locks.entry(name.to_owned()).or_default());
    }

    /// A key that was to lapse must stay after all.
    pub(crate) fn stays(&self, key: Key, value: Bytes) {
        let mut state = self.state.lock();
        state.leftovers.may_stay.remove(&key);
        state.leftovers.stay.insert(key, value);
    }

    /// It can't be told whether a key that was to lapse stays.
    pub(crate) fn may_stay(&self, key: Key) {
        let mut state = self.state.lock();
        state.leftovers.stay.remove(&key);
        state.leftovers.may_stay.insert(key);
    }

    /// What is wrong about what is left of keys that were to lapse.
    pub(crate) fn not_as_left(&self, rows: &[(Key, Record)]) -> Option<String> {
        let state = self.state.lock();
        let Leftovers { stay, may_stay } = &state.leftovers;
        let rows: BTreeMap<&Key, &Record> = rows.iter().map(|(key, record)| (key, record)).collect();
        if let Some((key, _)) =
            stay.iter().find(|(key, value)| rows.get(key).map(|row| &row.value) != Some(*value))
        {
            return Some(format!("key {key} was to stay and is {:?}", rows.get(key)));
        }
        let lingering = rows.iter().find(|(key, _)| !stay.contains_key(**key) && !may_stay.contains(**key));
        lingering.map(|(key, record)| format!("key {key} was to lapse and is {record:?}"))
    }

    /// What the judges find.
    pub(crate) fn judge(&self, ring: Option<&RingSpec>) -> Vec<String> {
        let mut state = self.state.lock();
        let ring = ring.and_then(|spec| Ring::build(spec).ok());
        let account = &mut state.account;
        let keys = account.writes.iter().flat_map(|write| &write.changes).map(|(key, _)| key);
        let shards =
            ring.iter().flat_map(|ring| keys.clone().map(|key| (key.clone(), ring.shard_of(key)))).collect();
        account.shards = shards;
        let mut found = versions::check(account);
        found.extend(locks::check(&state.locks));
        match transactions::check(&state.transactions) {
            Ok(findings) => {
                for (name, explanations) in findings.anomalies {
                    let explanation = explanations.into_iter().next().unwrap_or_default();
                    found.push(format!("transactions: {name}: {explanation}"));
                }
            }
            Err(mixed) => found.push(mixed.to_string()),
        }
        found
    }
}

impl Writing {
    /// It was answered: made at a revision, or nothing changed; or it failed.
    pub(crate) fn complete(self, result: &Result<Option<Revision>>) {
        let completed = self.records.moment();
        if let Some(write) = self.records.state.lock().account.writes.get_mut(self.place) {
            write.completed = Some(completed);
            write.end = End::of(result);
        }
    }
}
