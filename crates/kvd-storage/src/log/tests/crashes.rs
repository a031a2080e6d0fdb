//! The power goes out at every single operation.
//!
//! A history of calls is run against the model first, which yields every state that the log goes through, record by
//! record. After a crash, the log must be in one of the states from the last answered call on: that one rule holds all
//! of it (nothing answered is lost, no vote goes back, nothing truncated reappears, each replica has a prefix).

use super::{
    model::{Call, Model, Models, Step, models, submit},
    *,
};

/// Calls of several replicas, each with the states of the whole log after each of its records.
pub(super) struct History {
    /// A burst reaches the writer as one batch, but for its first call.
    pub(super) bursts: Vec<Vec<(ReplicaId, Step)>>,
    pub(super) states: Vec<Models>,
}

pub(super) fn history(seed: u64, calls: u64) -> History {
    let mut bursts: Vec<Vec<(ReplicaId, Step)>> = Vec::new();
    let mut now = Models::new();
    let mut states = vec![now.clone()];
    let mut removed = 0;
    let mut random = seed;
    let mut chance = |most: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % most
    };
    for salt in 0..calls {
        let mut replica = ReplicaId(1 + chance(3));
        let call = match chance(20) {
            0..9 => {
                Call::Append { entries: chance(4), payload_bytes: usize::try_from(chance(2500)).unwrap() }
            }
            9..12 => Call::Vote(u32::try_from(salt).unwrap()),
            12..14 => Call::Committed(u32::try_from(salt).unwrap()),
            14..16 => Call::Truncate(chance(4)),
            16..19 => Call::Purge(chance(12)),
            _ => {
                // Ids are never used again: a short life of its own.
                replica = ReplicaId(100 + removed);
                removed += u64::from(now.contains_key(&replica));
                if now.contains_key(&replica) { Call::Remove } else { Call::Vote(0) }
            }
        };
        let model = now.entry(replica).or_default();
        let step = model.step(&call, salt);
        match &step {
            Step::Append(entries) => {
                for entry in entries {
                    now.entry(replica).or_default().apply(&Step::Append(vec![entry.clone()]));
                    states.push(now.clone());
                }
            }
            Step::Remove => {
                now.remove(&replica);
                states.push(now.clone());
            }
            step => {
                model.apply(step);
                states.push(now.clone());
            }
        }
        if chance(3) == 0 || bursts.is_empty() {
            bursts.push(Vec::new());
        }
        bursts.last_mut().unwrap().push((replica, step));
    }
    for state in &mut states {
        state.retain(|_, model| *model != Model::default());
    }
    History { bursts, states }
}

impl Step {
    fn records(&self) -> usize {
        match self {
            Self::Append(entries) => entries.len(),
            _ => 1,
        }
    }
}

/// Runs a history and says how many of its states were answered for.
pub(super) fn run(log: &Arc<Log>, history: &History) -> usize {
    let answered = Arc::new(Mutex::new(0));
    let mut at = 0;
    for burst in &history.bursts {
        let mut calls = Vec::new();
        for (replica, step) in burst {
            at += step.records();
            let (at, answered) = (at, Arc::clone(&answered));
            let done: Done = Box::new(move |result| {
                if result.is_ok() {
                    let mut answered = answered.lock();
                    assert!(*answered <= at, "answered out of order");
                    *answered = at;
                }
            });
            calls.push((*replica, step.clone(), done));
        }
        if calls.len() == 1 {
            // Without a sync of its own, so that unsynced writes follow on each other.
            for (replica, step, done) in calls {
                submit(log, GroupId(1), replica, &step, done);
            }
        } else {
            // What a callback submits waits until it has returned, and so becomes one batch.
            let weak = Arc::downgrade(log);
            log.replica(GroupId(9), ReplicaId(999)).unwrap().append(
                Vec::new(),
                Box::new(move |_| {
                    let log = weak.upgrade().unwrap();
                    for (replica, step, done) in calls {
                        submit(&log, GroupId(1), replica, &step, done);
                    }
                }),
            );
        }
        if log.failure().is_some() {
            break;
        }
    }
    *answered.lock()
}

/// Which state, from the last answered one on, the log on a disk is in. Nothing may be called damaged.
pub(super) fn state_after(disk: &SimDisk, history: &History, answered: usize) -> usize {
    let (log, recovery) = open(disk).unwrap();
    assert!(recovery.damaged.is_empty() && recovery.unattributed.is_none(), "{recovery:?}");
    let found = models(&log);
    let states = history.states.get(answered..).unwrap();
    match states.iter().position(|state| *state == found) {
        Some(at) => answered + at,
        None => panic!("the log is in no state from {answered} on: {found:#?}"),
    }
}

const CRASHES: [Crash; 4] =
    [Crash::Synced, Crash::Killed, Crash::Torn { block_bytes: 512 }, Crash::Torn { block_bytes: 4096 }];

#[test]
fn whatever_was_answered_survives_a_crash_at_every_operation() {
    let history = history(3, 250);
    let disk = sim_disk(1);
    let (log, _) = open(&disk).unwrap();
    let log = Arc::new(log);
    assert_eq!(run(&log, &history), history.states.len() - 1);
    drop(log);
    let operations = disk.operations();
    assert!(operations > 100, "{operations}");
    let mut torn = 0;
    for at in 0..operations {
        let disk = sim_disk(at);
        disk.cut_power_at(at);
        let answered = match open(&disk) {
            Ok((log, _)) => run(&Arc::new(log), &history),
            Err(_) => 0,
        };
        for crash in CRASHES {
            let after = disk.crash(crash);
            torn += usize::from(open(&after.crash(Crash::Killed)).unwrap().1.torn_tail.is_some());
            let state = state_after(&after, &history, answered);
            // What one opening has seen, the next one sees as well, whatever happens in between.
            assert_eq!(state_after(&after.crash(Crash::Synced), &history, state), state);
        }
    }
    assert!(torn > 10, "only {torn} torn tails were met");
}

#[test]
fn a_crash_while_opening_changes_nothing() {
    let history = history(5, 40);
    let base = sim_disk(2);
    let (log, _) = open(&base).unwrap();
    let cut = base.operations() + 37;
    base.cut_power_at(cut);
    let answered = run(&Arc::new(log), &history);
    assert!(answered > 0);
    for crash in CRASHES {
        let crashed = base.crash(crash);
        let whole = crashed.crash(Crash::Killed);
        open(&whole).unwrap();
        for at in 0..whole.operations() {
            let disk = crashed.crash(Crash::Killed);
            disk.cut_power_at(at);
            drop(open(&disk));
            for again in CRASHES {
                let disk = disk.crash(again);
                disk.cut_power_at(at / 2);
                drop(open(&disk));
                state_after(&disk.crash(again), &history, answered);
            }
        }
    }
}

/// A node that fails to start for some other reason, and is started again for ever.
#[test]
fn openings_of_which_nothing_comes_need_no_more_room_each_time() {
    let history = history(7, 60);
    let mut disk = sim_disk(3);
    let (log, _) = open(&disk).unwrap();
    let log = Arc::new(log);
    let answered = run(&log, &history);
    let needed_bytes = log.size_bytes();
    drop(log);
    for opening in 0..40 {
        if opening % 3 > 0 {
            disk = disk.crash(if opening % 3 == 1 { Crash::Synced } else { Crash::Killed });
        }
        state_after(&disk, &history, answered);
        let (log, _) = open(&disk).unwrap();
        assert!(log.size_bytes() <= needed_bytes + (32 << 10), "{} of {needed_bytes}", log.size_bytes());
        let files = disk.list(Path::new(DIR)).unwrap().len() as u64;
        assert!(files * (32 << 10) <= needed_bytes + 3 * (32 << 10), "{files} files");
    }
}

/// The last segment is bare, and so it is given up by the opening that is cut short. Where everything was purged it is the
/// only one, and all that says how the replicas have voted.
#[test]
fn a_crash_while_a_bare_segment_is_given_up_changes_nothing() {
    for purged in [false, true] {
        let base = sim_disk(4);
        let (log, _) = open(&base).unwrap();
        let log = Arc::new(log);
        run(&log, &history(9, 60));
        for (group, replica) in log.replicas() {
            let replica = log.replica(group, replica).unwrap();
            if let Some(last) = replica.state().last.filter(|_| purged) {
                replica.purge(last).unwrap();
            }
            vote(&replica, "the last").unwrap();
        }
        let expected = models(&log);
        drop(log);
        for _ in 0..2 {
            let (log, _) = open(&base).unwrap();
            assert_eq!(log.size_bytes() == 32 << 10, purged, "{}", log.size_bytes());
            drop(log);
            let whole = base.crash(Crash::Killed);
            open(&whole).unwrap();
            for at in 0..whole.operations() {
                for crash in CRASHES {
                    let disk = base.crash(Crash::Killed);
                    disk.cut_power_at(at);
                    drop(open(&disk));
                    let (log, recovery) = open(&disk.crash(crash)).unwrap();
                    assert!(recovery.damaged.is_empty() && recovery.unattributed.is_none(), "{recovery:?}");
                    assert_eq!(models(&log), expected, "cut at operation {at}, {crash:?}");
                }
            }
        }
    }
}

#[test]
fn a_log_that_goes_on_after_a_crash_survives_the_next_one() {
    let history = history(11, 40);
    for at in (0..200).step_by(7) {
        let disk = sim_disk(at);
        disk.cut_power_at(at);
        if let Ok((log, _)) = open(&disk) {
            run(&Arc::new(log), &history);
        }
        let disk = disk.crash(Crash::Torn { block_bytes: 512 });
        let (log, _) = open(&disk).unwrap();
        let replica = log.replica(GroupId(1), ReplicaId(1)).unwrap();
        let next = replica.state().last.map_or(0, |last| last.index.get() + 1);
        append(&replica, vec![entry(next, 90, "after")]).unwrap();
        vote(&replica, "after").unwrap();
        let expected = models(&log);
        drop(log);
        let (log, recovery) = open(&disk.crash(Crash::Synced)).unwrap();
        assert!(recovery.damaged.is_empty() && recovery.torn_tail.is_none(), "{recovery:?}");
        assert_eq!(models(&log), expected);
    }
}

/// A disk whose directories are never synced.
#[derive(Debug)]
struct NoDirSync(SimDisk);

impl Disk for NoDirSync {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        self.0.create_dir_all(dir)
    }
    fn create(&self, path: &Path) -> io::Result<Box<dyn crate::disk::File>> {
        self.0.create(path)
    }
    fn open(&self, path: &Path) -> io::Result<Box<dyn crate::disk::File>> {
        self.0.open(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<PathBuf>> {
        self.0.list(dir)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.remove(path)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        self.0.remove_dir(dir)
    }
    fn sync_dir(&self, _: &Path) -> io::Result<()> {
        Ok(())
    }
    fn available_bytes(&self, dir: &Path) -> io::Result<u64> {
        self.0.available_bytes(dir)
    }
}

#[test]
fn without_directory_syncs_these_tests_would_fail() {
    let disk = SimDisk::with_dir(1, Path::new(DIR));
    let (log, _) = Log::open(Arc::new(NoDirSync(disk.clone())), Path::new(DIR), small()).unwrap();
    vote(&log.replica(GroupId(1), ReplicaId(1)).unwrap(), "v").unwrap();
    let (log, _) = open(&disk.crash(Crash::Synced)).unwrap();
    assert_eq!(log.replicas(), []);
}
