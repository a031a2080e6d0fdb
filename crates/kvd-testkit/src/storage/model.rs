//! What a node's disk should hold, kept next to what it does hold.
//!
//! Of the log the model knows what is *settled* (answered, so never to be lost) and what is *pending* behind it (asked
//! for, so allowed to be there, each record only after the one before). A log that is in none of the states from the
//! settled one on has lost or invented something: that one rule holds all of it, votes and truncations included.
//!
//! Of a replica's state it knows every change that was ever committed, by index, which gives the rows at any index; and
//! how far the engine's rows and the checkpoints must reach, and may.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use kvd_storage::log::{Entry, EntryId, Observer, Recovery, ReplicaLog};
use kvd_types::{LogIndex, ReplicaId, Term};

use super::node::{Failure, Watch};

/// The row that says what was applied last.
pub(super) const APPLIED_KEY: &[u8] = b"\0applied";

/// One record's worth of change to one replica's log.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Append(Vec<Entry>),
    Vote(Bytes),
    Committed(Bytes),
    Truncate(Option<EntryId>),
    Purge(EntryId),
    Remove,
}

/// What one replica's log should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct LogModel {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<EntryId>,
    pub(super) entries: BTreeMap<u64, Entry>,
}

/// All replicas of a log that have any record.
pub(super) type Logs = BTreeMap<ReplicaId, LogModel>;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct LogsModel {
    pub(super) settled: Logs,
    /// Single records, oldest first.
    pending: VecDeque<(ReplicaId, Step)>,
    /// What was settled before the last answer, and the records since: only a disk that loses what it has synced may
    /// go back there.
    before: Logs,
    last: Vec<(ReplicaId, Step)>,
    /// Records answered since they were last settled.
    answered: Arc<AtomicUsize>,
}

/// A change to a replica's rows: what an entry's payload says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) key: Bytes,
    pub(super) value: Option<Bytes>,
}

/// What one replica should hold beside its log.
#[derive(Clone, Debug, Default)]
pub(super) struct ReplicaModel {
    /// Whatever was committed, by index. Never changes.
    pub(super) history: BTreeMap<u64, (Term, Change)>,
    /// Applied, in memory at least.
    pub(super) applied: Option<EntryId>,
    /// The engine has promised to hold at least that.
    pub(super) flushed: Option<EntryId>,
    /// The newest checkpoint that was acknowledged.
    pub(super) checkpoint: Option<EntryId>,
    /// One that may be there or not.
    pub(super) checkpoint_under_way: Option<EntryId>,
    /// Committed on this very node, or told by a checkpoint that it has acknowledged: never to be taken back.
    pub(super) promised: Option<EntryId>,
    /// It is being retired: everything of it may be gone.
    pub(super) retiring: bool,
}

/// What the identity file should say.
#[derive(Clone, Debug, Default)]
pub(super) struct IdentityModel {
    /// Incarnation of the last identity whose storing was acknowledged.
    pub(super) acknowledged: u64,
    /// The highest that was ever tried.
    pub(super) tried: u64,
}

/// What a node's disk should hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    pub(super) logs: LogsModel,
    pub(super) replicas: BTreeMap<ReplicaId, ReplicaModel>,
    pub(super) identity: IdentityModel,
    pub(super) told: Arc<Told>,
}

/// Whether the log has ever said that it can't keep its reserve.
#[derive(Debug, Default)]
pub(super) struct Told(AtomicBool);

impl Told {
    pub(super) fn was_full(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Observer for Told {
    fn next_segment(&self, error: Option<&io::Error>) {
        self.0.fetch_or(error.is_some(), Ordering::Relaxed);
    }
}

impl Model {
    /// A start did not come to its end. It may have begun to rebuild rows, from the newest checkpoint that is there.
    pub(super) fn start_was_cut_short(&mut self) {
        for known in self.replicas.values_mut() {
            known.flushed = known.flushed.min(known.checkpoint);
            known.applied = known.applied.max(known.checkpoint).max(known.checkpoint_under_way);
        }
    }
}

impl Change {
    pub(super) fn encode(&self, padding: usize) -> Bytes {
        let mut text = vec![u8::from(self.value.is_some())];
        text.extend((self.key.len() as u64).to_le_bytes());
        text.extend(&self.key);
        let value = self.value.clone().unwrap_or_default();
        text.extend((value.len() as u64).to_le_bytes());
        text.extend(value);
        // Bytes that aren't all the same, so that a piece out of place shows.
        text.extend((0..padding).map(|at| (at as u64).wrapping_mul(0x9e37_79b9).to_le_bytes()[1]));
        Bytes::from(text)
    }

    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let (is_put, rest) = payload.split_first()?;
        let (key, rest) = field(rest)?;
        let (value, _) = field(rest)?;
        Some(Self { key, value: (*is_put == 1).then_some(value) })
    }
}

fn field(bytes: &[u8]) -> Option<(Bytes, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (field, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    Some((Bytes::copy_from_slice(field), rest))
}

/// The value of the row that says what was applied last.
pub(super) fn encode_id(id: EntryId) -> Bytes {
    Bytes::from([id.index.get().to_le_bytes(), id.term.get().to_le_bytes()].concat())
}

pub(super) fn decode_id(bytes: &[u8]) -> Option<EntryId> {
    let (index, term) = bytes.split_first_chunk::<8>()?;
    let term = term.first_chunk::<8>()?;
    Some(EntryId { index: LogIndex(u64::from_le_bytes(*index)), term: Term(u64::from_le_bytes(*term)) })
}

impl LogModel {
    pub(super) fn last(&self) -> Option<EntryId> {
        let last = self.entries.values().next_back();
        last.map(|entry| EntryId { index: entry.index, term: entry.term }).or(self.purged)
    }

    pub(super) fn next_index(&self) -> u64 {
        self.last().map_or(0, |last| last.index.get() + 1)
    }

    pub(super) fn id(&self, index: u64) -> Option<EntryId> {
        let purged = self.purged.filter(|purged| purged.index.get() == index);
        self.entries.get(&index).map(|entry| EntryId { index: entry.index, term: entry.term }).or(purged)
    }

    fn brief(&self) -> String {
        let vote = self.vote.as_deref().map(String::from_utf8_lossy);
        let committed = self.committed.as_deref().and_then(decode_id).map(|id| id.index);
        format!(
            "vote {vote:?} committed {committed:?} purged {:?} entries {:?}",
            self.purged,
            self.entries.values().map(|entry| (entry.index.get(), entry.term.get())).collect::<Vec<_>>()
        )
    }

    fn apply(&mut self, step: &Step) {
        match step {
            Step::Append(entries) => {
                self.entries.extend(entries.iter().map(|entry| (entry.index.get(), entry.clone())));
            }
            Step::Vote(vote) => self.vote = Some(vote.clone()),
            Step::Committed(committed) => self.committed = Some(committed.clone()),
            Step::Truncate(kept) => {
                self.entries.retain(|index, _| kept.is_some_and(|kept| *index <= kept.index.get()));
            }
            Step::Purge(upto) => {
                if self.purged.is_none_or(|purged| purged.index < upto.index) {
                    self.purged = Some(*upto);
                    self.entries.retain(|index, _| *index > upto.index.get());
                }
            }
            Step::Remove => {}
        }
    }

    /// What a log really holds, read from the disk where it has to be.
    pub(super) fn of(replica: &ReplicaLog) -> Result<Self, kvd_storage::log::Error> {
        let state = replica.state();
        let mut entries = BTreeMap::new();
        if let Some(first) = replica.first() {
            let end = LogIndex(first.get() + replica.entries() as u64);
            let read = replica.read(first..end, usize::MAX)?;
            entries.extend(read.into_iter().map(|entry| (entry.index.get(), entry)));
        }
        Ok(Self { vote: state.vote, committed: state.committed, purged: state.purged, entries })
    }
}

fn apply(logs: &mut Logs, replica: ReplicaId, step: &Step) {
    if matches!(step, Step::Remove) {
        logs.remove(&replica);
    } else {
        logs.entry(replica).or_default().apply(step);
    }
}

impl LogsModel {
    /// The logs as their callers see them now.
    pub(super) fn now(&self) -> Logs {
        let mut now = self.settled.clone();
        for (replica, step) in &self.pending {
            apply(&mut now, *replica, step);
        }
        now
    }

    /// Notes a call before it is made. What its callback must do: [`LogsModel::answer`] with the number returned.
    pub(super) fn submit(&mut self, replica: ReplicaId, step: &Step) -> usize {
        if let Step::Append(entries) = step {
            let single = entries.iter().map(|entry| (replica, Step::Append(vec![entry.clone()])));
            self.pending.extend(single);
        } else {
            self.pending.push_back((replica, step.clone()));
        }
        self.pending.len()
    }

    /// Where callbacks note how many of the pending records are answered.
    pub(super) fn answers(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.answered)
    }

    /// Makes what was answered settled.
    pub(super) fn settle(&mut self) {
        let answered = self.answered.swap(0, Ordering::Relaxed).min(self.pending.len());
        if answered == 0 {
            return;
        }
        self.before = self.settled.clone();
        self.last = self.pending.drain(..answered).collect();
        for (replica, step) in &self.last {
            apply(&mut self.settled, *replica, step);
        }
    }

    /// Makes everything settled, as closing the log does. That it was closed is told by a last record of a few bytes,
    /// in the sector of the last write, perhaps: they can be lost together.
    pub(super) fn settle_all(&mut self) {
        self.answered.store(0, Ordering::Relaxed);
        for (replica, step) in self.pending.drain(..) {
            apply(&mut self.settled, replica, &step);
            self.last.push((replica, step));
        }
    }

    /// Whether the logs may be in that state after a crash.
    pub(super) fn allows(&self, found: &Logs) -> bool {
        reaches(self.settled.clone(), self.pending.iter(), found, &BTreeSet::new())
    }

    /// As [`LogsModel::allows`], of all replicas but those.
    pub(super) fn allows_of_others(&self, found: &Logs, but: &BTreeSet<ReplicaId>) -> bool {
        reaches(self.settled.clone(), self.pending.iter(), found, but)
    }

    /// Whether all replicas but those may be in that state if the last write that was answered is lost in part.
    pub(super) fn allows_without_last(&self, found: &Logs, but: &BTreeSet<ReplicaId>) -> bool {
        reaches(self.before.clone(), self.last.iter(), found, but)
    }

    /// What is different from what was settled, for whoever reads of a failure.
    pub(super) fn explain(&self, found: &Logs) -> String {
        let now = self.now();
        let ids = found.keys().chain(self.settled.keys()).chain(now.keys());
        let differs = ids.copied().collect::<BTreeSet<_>>().into_iter().filter_map(|id| {
            let brief = |logs: &Logs| logs.get(&id).map_or_else(|| "nothing".to_owned(), LogModel::brief);
            (found.get(&id) != self.settled.get(&id)).then(|| {
                format!(
                    "replica {id} has {}, settled is {}, asked for {}",
                    brief(found),
                    brief(&self.settled),
                    brief(&now)
                )
            })
        });
        differs.collect::<Vec<_>>().join("; ")
    }

    /// From now on that state is the settled one.
    pub(super) fn rebase(&mut self, found: Logs) {
        *self = Self { before: found.clone(), settled: found, ..Self::default() };
    }
}

fn reaches<'a>(
    mut from: Logs,
    steps: impl Iterator<Item = &'a (ReplicaId, Step)>,
    found: &Logs,
    but: &BTreeSet<ReplicaId>,
) -> bool {
    let none = LogModel::default();
    let is = |state: &Logs| {
        let mut ids = state.keys().chain(found.keys()).filter(|id| !but.contains(id));
        ids.all(|id| state.get(id).unwrap_or(&none) == found.get(id).unwrap_or(&none))
    };
    if is(&from) {
        return true;
    }
    for (replica, step) in steps {
        apply(&mut from, *replica, step);
        if is(&from) {
            return true;
        }
    }
    false
}

impl Watch for Model {
    fn incarnation(&mut self, incarnation: u64, stored: bool) {
        if stored {
            self.identity.acknowledged = incarnation;
        } else {
            self.identity.tried = self.identity.tried.max(incarnation);
        }
    }

    fn log_opened(&mut self, logs: Logs, recovery: &Recovery) -> Result<(), Failure> {
        if !recovery.damaged.is_empty() || recovery.unattributed.is_some() {
            return Err(Failure::Differs(format!("the log is called damaged: {recovery:?}")));
        }
        if !self.logs.allows(&logs) {
            return Err(Failure::Differs(format!(
                "the log is in no state that it may be in: {}",
                self.logs.explain(&logs)
            )));
        }
        self.logs.rebase(logs);
        Ok(())
    }

    fn observer(&self) -> Arc<dyn Observer> {
        Arc::<Told>::clone(&self.told)
    }

    fn log_step(&mut self, replica: ReplicaId, step: &Step) {
        self.logs.submit(replica, step);
    }
}

impl ReplicaModel {
    /// The rows once everything up to that entry is applied.
    pub(super) fn rows_at(&self, applied: Option<EntryId>) -> BTreeMap<Bytes, Bytes> {
        let mut rows = BTreeMap::new();
        let Some(applied) = applied else { return rows };
        for (_, change) in self.history.range(..=applied.index.get()).map(|(_, known)| known) {
            match &change.value {
                Some(value) => drop(rows.insert(change.key.clone(), value.clone())),
                None => drop(rows.remove(&change.key)),
            }
        }
        rows.insert(Bytes::from_static(APPLIED_KEY), encode_id(applied));
        rows
    }

    /// The entry with that index, if it was ever committed.
    pub(super) fn committed_id(&self, index: u64) -> Option<EntryId> {
        self.history.get(&index).map(|(term, _)| EntryId { index: LogIndex(index), term: *term })
    }

    /// The last entry that was ever committed.
    pub(super) fn committed(&self) -> Option<EntryId> {
        let (index, (term, _)) = self.history.last_key_value()?;
        Some(EntryId { index: LogIndex(*index), term: *term })
    }
}
