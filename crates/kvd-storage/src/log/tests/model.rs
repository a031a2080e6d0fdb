//! The naive model of a log, and random histories compared with it.

use proptest::prelude::*;

use super::*;

/// What one replica's log should hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) vote: Option<Bytes>,
    pub(super) committed: Option<Bytes>,
    pub(super) purged: Option<EntryId>,
    pub(super) entries: BTreeMap<u64, Entry>,
}

pub(super) type Models = BTreeMap<ReplicaId, Model>;

/// One call. Positions are relative to what the log holds then, so that any sequence of calls makes sense.
#[derive(Clone, Debug)]
pub(super) enum Call {
    Append {
        entries: u64,
        payload_bytes: usize,
    },
    Vote(u32),
    Committed(u32),
    /// Keep all but so many.
    Truncate(u64),
    /// Drop so many, perhaps more than there are.
    Purge(u64),
    Remove,
}

/// A call, made definite.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Append(Vec<Entry>),
    Vote(Bytes),
    Committed(Bytes),
    Truncate(Option<EntryId>),
    Purge(EntryId),
    Remove,
}

impl Model {
    pub(super) fn last(&self) -> Option<EntryId> {
        self.entries
            .values()
            .next_back()
            .map(|entry| EntryId { index: entry.index, term: entry.term })
            .or(self.purged)
    }

    /// `salt` makes each step's content its own.
    pub(super) fn step(&self, call: &Call, salt: u64) -> Step {
        let last = self.last();
        let next = last.map_or(0, |last| last.index.get() + 1);
        // Terms grow, as they do in Raft.
        let term = last.map_or(1, |last| last.term.get()).max(1 + salt / 8);
        match *call {
            Call::Append { entries, payload_bytes } => Step::Append(
                (next..next + entries)
                    .map(|index| {
                        let fill = format!("{salt}/{index}/");
                        entry(index, term, &fill.repeat(payload_bytes / fill.len() + 1))
                    })
                    .collect(),
            ),
            Call::Vote(vote) => Step::Vote(Bytes::from(format!("vote {vote} {salt}"))),
            Call::Committed(committed) => {
                Step::Committed(Bytes::from(format!("committed {committed} {salt}")))
            }
            Call::Truncate(drop) => {
                let kept = next.checked_sub(1 + drop).and_then(|kept| self.entries.get(&kept));
                Step::Truncate(
                    kept.map(|entry| EntryId { index: entry.index, term: entry.term }).or(self.purged),
                )
            }
            Call::Purge(drop) => {
                let upto = self.purged.map_or(0, |purged| purged.index.get() + 1) + drop;
                Step::Purge(id(upto, self.entries.get(&upto).map_or(term, |entry| entry.term.get())))
            }
            Call::Remove => Step::Remove,
        }
    }

    pub(super) fn apply(&mut self, step: &Step) {
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
                self.purged = Some(*upto);
                self.entries.retain(|index, _| *index > upto.index.get());
            }
            Step::Remove => {}
        }
    }

    /// What a log really holds.
    pub(super) fn of(replica: &ReplicaLog) -> Result<Self, Error> {
        let state = replica.state();
        let mut entries = BTreeMap::new();
        if let Some(first) = replica.first() {
            let end = LogIndex(first.get() + replica.entries() as u64);
            for entry in replica.read(first..end, usize::MAX)? {
                entries.insert(entry.index.get(), entry);
            }
            assert_eq!(entries.len(), replica.entries());
        }
        let model = Self { vote: state.vote, committed: state.committed, purged: state.purged, entries };
        assert_eq!(model.last(), state.last);
        Ok(model)
    }
}

/// What all replicas of a log really hold. Those without a record don't count.
pub(super) fn models(log: &Log) -> Models {
    log.replicas()
        .into_iter()
        .map(|(group, id)| (id, Model::of(&log.replica(group, id).unwrap()).unwrap()))
        .filter(|(_, model)| *model != Model::default())
        .collect()
}

pub(super) fn submit(log: &Log, group: GroupId, replica: ReplicaId, step: &Step, done: Done) {
    if let Step::Remove = step {
        return log.remove(replica, done);
    }
    let replica = log.replica(group, replica).unwrap();
    match step {
        Step::Append(entries) => replica.append(entries.clone(), done),
        Step::Vote(vote) => replica.save_vote(vote.clone(), done),
        // Nobody is told when these are durable.
        Step::Committed(committed) => drop(replica.save_committed(committed.clone())),
        Step::Truncate(kept) => drop(replica.truncate_after(*kept)),
        Step::Purge(upto) => drop(replica.purge(*upto)),
        Step::Remove => {}
    }
}

fn call() -> impl Strategy<Value = Call> {
    prop_oneof![
        6 => (0..6_u64, 0..3000_usize)
            .prop_map(|(entries, payload_bytes)| Call::Append { entries, payload_bytes }),
        2 => any::<u32>().prop_map(Call::Vote),
        2 => any::<u32>().prop_map(Call::Committed),
        2 => (0..8_u64).prop_map(Call::Truncate),
        3 => (0..12_u64).prop_map(Call::Purge),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_the_model_through_restarts(
        calls in prop::collection::vec((1..4_u64, call(), prop::bool::weighted(0.1)), 1..80),
    ) {
        let disk = sim_disk(1);
        let (mut log, _) = open(&disk).unwrap();
        let mut expected = Models::new();
        for (salt, (replica, call, reopen)) in (0..).zip(&calls) {
            let replica = ReplicaId(*replica);
            let model = expected.entry(replica).or_default();
            let step = model.step(call, salt);
            model.apply(&step);
            let (done, waiting) = waiter();
            submit(&log, GroupId(1), replica, &step, done);
            if let Ok(result) = waiting.try_recv() {
                result.unwrap();
            }
            prop_assert_eq!(&Model::of(&log.replica(GroupId(1), replica).unwrap()).unwrap(), &*model);
            if *reopen {
                log.close().unwrap();
                let (reopened, recovery) = open(&disk).unwrap();
                log = reopened;
                let clean = recovery.torn_tail.is_none() && recovery.unattributed.is_none();
                prop_assert!(clean && recovery.damaged.is_empty() && recovery.bad_headers.is_empty(), "{recovery:?}");
                expected.retain(|_, model| *model != Model::default());
                prop_assert_eq!(&models(&log), &expected);
            }
        }
    }
}

#[test]
fn reads_stop_at_the_byte_limit_but_return_at_least_one_entry() {
    let (log, _) = open(&sim_disk(1)).unwrap();
    let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
    append(&replica, (5..25).map(|index| entry(index, 1, &"x".repeat(1000))).collect()).unwrap();
    assert!(log.shared.replicas.lock().known[&ReplicaId(1)].memory.lock().cached_bytes() <= 2000);
    let lengths = |from, to, bytes| replica.read(LogIndex(from)..LogIndex(to), bytes).unwrap().len();
    assert_eq!(lengths(5, 25, 0), 1);
    assert_eq!(lengths(5, 25, 3500), 3);
    assert_eq!(lengths(20, 99, usize::MAX), 5);
    assert_eq!(lengths(4, 25, usize::MAX), 0);
    assert_eq!(lengths(25, 26, usize::MAX), 0);
    assert_eq!(lengths(9, 9, usize::MAX), 0);
    assert_eq!(replica.retained_bytes(), 20 * (72 + 1000));
    replica.purge(id(14, 1)).unwrap();
    assert_eq!(replica.retained_bytes(), 10 * (72 + 1000));
    assert_eq!(replica.first(), Some(LogIndex(15)));
    assert_eq!((replica.id(LogIndex(14)), replica.id(LogIndex(13))), (Some(id(14, 1)), None));
}

#[test]
fn entries_that_do_not_follow_are_refused_and_change_nothing() {
    let (log, _) = open(&sim_disk(1)).unwrap();
    let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
    append(&replica, vec![entry(0, 1, "a"), entry(1, 1, "b")]).unwrap();
    for entries in
        [vec![entry(3, 1, "gap")], vec![entry(1, 2, "again")], vec![entry(2, 1, "c"), entry(4, 1, "gap")]]
    {
        assert_eq!(append(&replica, entries).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
    let long = "x".repeat(log.entry_bytes_max() + 1);
    assert_eq!(append(&replica, vec![entry(2, 1, &long)]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    append(&replica, vec![entry(2, 1, &long[1..])]).unwrap();
    replica.purge(id(100, 3)).unwrap();
    assert_eq!(replica.state().last, Some(id(100, 3)));
    append(&replica, vec![entry(101, 3, "d")]).unwrap();
    assert_eq!(replica.entries(), 1);
}

#[test]
fn a_removed_replica_stays_removed() {
    let disk = sim_disk(1);
    let (log, _) = open(&disk).unwrap();
    let replica = log.create(GroupId(1), ReplicaId(1)).unwrap();
    vote(&replica, "v").unwrap();
    assert!(matches!(log.create(GroupId(1), ReplicaId(1)), Err(Error::Exists(_))));
    assert!(matches!(log.replica(GroupId(2), ReplicaId(1)), Err(Error::WrongGroup { .. })));
    let (done, waiting) = waiter();
    log.remove(ReplicaId(1), done);
    waiting.recv().unwrap().unwrap();
    assert_eq!(vote(&replica, "w").unwrap_err().kind(), io::ErrorKind::NotFound);
    assert!(matches!(log.replica(GroupId(1), ReplicaId(1)), Err(Error::Removed(_))));
    drop(log);
    let (log, _) = open(&disk.crash(Crash::Synced)).unwrap();
    assert_eq!(log.replicas(), []);
}

#[test]
fn segments_are_used_again_once_everyone_has_purged() {
    let disk = sim_disk(1);
    let (log, _) = open(&disk).unwrap();
    let idle = log.replica(GroupId(1), ReplicaId(1)).unwrap();
    let busy = log.replica(GroupId(2), ReplicaId(2)).unwrap();
    append(&idle, vec![entry(0, 1, "i")]).unwrap();
    assert_eq!(idle.pinned_bytes(), 0, "nothing would be free without it");
    let fill = |from: u64| {
        for index in from..from + 100 {
            append(&busy, vec![entry(index, 1, &"x".repeat(3000))]).unwrap();
            busy.purge(id(index, 1)).unwrap();
        }
    };
    for from in [0, 100, 200] {
        fill(from);
    }
    // One idle entry holds everything behind it, but for what is being written.
    assert!(idle.pinned_bytes() > 27 * (32 << 10), "{}", idle.pinned_bytes());
    assert_eq!(log.size_bytes(), idle.pinned_bytes() + (32 << 10));
    idle.purge(id(0, 1)).unwrap();
    assert_eq!(idle.pinned_bytes(), 0);
    fill(300);
    assert!(log.size_bytes() <= 2 * (32 << 10), "{}", log.size_bytes());
    let files = disk.list(Path::new(DIR)).unwrap();
    assert!(files.len() <= pool::SPARE_MAX + 4, "{files:?}");
    let highest = files.iter().filter_map(|path| pool::sequence_of(path)).max().unwrap();
    assert!(highest > 38, "{highest}");
    drop(log);
    let (log, recovery) = open(&disk.crash(Crash::Synced)).unwrap();
    assert!(recovery.damaged.is_empty(), "{recovery:?}");
    assert_eq!(log.replica(GroupId(2), ReplicaId(2)).unwrap().state().last, Some(id(399, 1)));
}
