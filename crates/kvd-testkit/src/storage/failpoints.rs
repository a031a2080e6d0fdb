//! The node stops at each failpoint of the storage: `cargo test -p kvd-testkit --features failpoints`.
//!
//! The registry of failpoints is the whole process's, so each test holds a scenario, which admits one at a time; other
//! tests of this crate that run beside it use the storage only in ways that no callback here minds.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
};

use fail::FailScenario;
use kvd_storage::disk::chance::Chance;
use kvd_storage::failpoints::ALL;

use super::{
    check::no_panic,
    crashes::{PATTERNS, STEPS, recovered, whole},
    summary::Summary,
    workload::Work,
};

const SEED: u64 = 11;
/// Histories in which every place is met.
const HISTORIES: u64 = 6;

#[test]
fn every_place_that_has_a_name_is_met() {
    let scenario = FailScenario::setup();
    let counts: Vec<_> = ALL.iter().map(|name| (*name, Arc::new(AtomicU64::new(0)))).collect();
    for (name, count) in &counts {
        let count = Arc::clone(count);
        let counted = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        fail::cfg_callback(*name, counted).unwrap();
    }
    for history in 0..HISTORIES {
        whole(SEED, history).unwrap_or_else(|error| panic!("history {history} of seed {SEED}: {error}"));
    }
    let missed: Vec<_> = counts
        .iter()
        .filter(|(_, count)| count.load(Ordering::Relaxed) == 0)
        .map(|(name, _)| *name)
        .collect();
    scenario.teardown();
    assert_eq!(missed, [""; 0], "never met in {HISTORIES} histories of seed {SEED}");
}

#[test]
fn a_node_that_stops_at_any_of_them_comes_back_whole() {
    let scenario = FailScenario::setup();
    let mut stopped = 0;
    for name in ALL {
        for nth in [0, 1, 2, 5, 11, 17] {
            for history in 0..3 {
                stopped += u64::from(stops_at(name, nth, history));
            }
        }
    }
    scenario.teardown();
    assert!(stopped > ALL.len() as u64 * 6, "only {stopped} stops");
}

/// Stops a history when that place is met for the nth time; says whether it was.
fn stops_at(name: &'static str, nth: u64, history: u64) -> bool {
    let seed = Chance::of(&[SEED, history]).next();
    let mut work = Work::new(seed);
    let engine_then = Arc::new(Mutex::new(None));
    let (disk, engine, then) = (work.disk.clone(), Arc::clone(&work.engine), Arc::clone(&engine_then));
    let met = AtomicU64::new(0);
    let this_thread = std::thread::current().id();
    fail::cfg_callback(name, move || {
        // Other tests may be using the storage meanwhile, on threads of their own.
        if std::thread::current().id() != this_thread || met.fetch_add(1, Ordering::Relaxed) != nth {
            return;
        }
        *then.lock().unwrap() = Some((engine.copy(), engine.after_crash()));
        disk.cut_power_at(disk.operations());
        panic!("the node stops here");
    })
    .unwrap();
    let ended = no_panic(|| work.run(STEPS));
    fail::remove(name);
    work.node = None;
    let Some((all, flushed)) = engine_then.lock().unwrap().take() else {
        ended.unwrap_or_else(|error| panic!("{name}, never met {nth} times, history {history}: {error}"));
        return false;
    };
    work.model.start_was_cut_short();
    work.model.logs.settle();
    for (at, crash) in PATTERNS.into_iter().enumerate() {
        for engine in [&all, &flushed] {
            work.engine = Arc::new(engine.copy());
            let chance = Chance::of(&[seed, nth, at as u64]);
            let mut summary = Summary::default();
            recovered(&work, crash, chance, &mut summary).unwrap_or_else(|what| {
                panic!("stopped at {name}, time {nth}, history {history} of seed {SEED}, {crash:?}: {what}")
            });
        }
    }
    true
}
