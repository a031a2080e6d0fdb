//! The power goes out: right before each operation of the disk, or in the middle of it, with each way in which bytes and
//! names may survive. What is left is opened (now and then the power goes out once more while that is under way), held
//! against the model, worked with, closed, and opened again.

use std::sync::Arc;

use kvd_storage::{
    disk::{Crash, SimDisk, chance::Chance},
    engine::MemoryEngine,
};

use super::{check::no_panic, node::Failure, summary::Summary, workload::Work};

/// Steps of one history.
pub(super) const STEPS: u64 = 60;
/// Steps that are done with what a crash has left.
const STEPS_AFTER: u64 = 6;
/// Crashes while a node starts, in a row.
const NESTED_MAX: u64 = 2;

/// The ways in which a power cut leaves things.
pub(super) const PATTERNS: [Crash; 4] =
    [Crash::Synced, Crash::Killed, Crash::Torn { block_bytes: 512 }, Crash::Torn { block_bytes: 4096 }];

/// One power cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    /// Which history.
    pub(super) history: u64,
    /// Before or in that operation.
    pub(super) operation: u64,
    /// In the middle of it.
    pub(super) in_the_middle: bool,
}

/// A history that was not disturbed, up to its end.
pub(super) fn whole(seed: u64, history: u64) -> Result<Work, Failure> {
    let mut work = Work::new(Chance::of(&[seed, history]).next());
    no_panic(|| work.run(STEPS))?;
    Ok(work)
}

/// How many operations a history has.
pub(super) fn operations(seed: u64, history: u64) -> Result<u64, Failure> {
    Ok(whole(seed, history)?.disk.operations())
}

/// Cuts the power, and tries the patterns, or one of them. An error is a violation: the pattern, and what is wrong.
pub(super) fn explore(
    seed: u64,
    cut: Cut,
    only: Option<usize>,
    summary: &mut Summary,
) -> Result<(), (usize, String)> {
    let mut work = Work::new(Chance::of(&[seed, cut.history]).next());
    if cut.in_the_middle {
        work.disk.cut_power_in(cut.operation);
    } else {
        work.disk.cut_power_at(cut.operation);
    }
    let ended = no_panic(|| work.run(STEPS));
    if let Some(what) = ended.as_ref().err().and_then(Failure::violation) {
        return Err((0, what.to_owned()));
    }
    for (at, crash) in PATTERNS.into_iter().enumerate().filter(|(at, _)| only.is_none_or(|only| only == *at))
    {
        let chance = Chance::of(&[seed, cut.history, cut.operation, u64::from(cut.in_the_middle), at as u64]);
        recovered(&work, crash, chance, summary).map_err(|what| (at, what))?;
        summary.crash_points += 1;
    }
    Ok(())
}

/// One survival of one power cut.
pub(super) fn recovered(
    work: &Work,
    crash: Crash,
    mut chance: Chance,
    summary: &mut Summary,
) -> Result<(), String> {
    let mut now = crashed(work, crash, &mut chance);
    for _ in 0..chance.below(NESTED_MAX + 1) {
        let operation = chance.below(24);
        if chance.one_in(2) {
            now.disk.cut_power_at(operation);
        } else {
            now.disk.cut_power_in(operation);
        }
        let trust = is_trusted(crash, &mut chance);
        // The power stays on if the start needs fewer operations.
        let started = no_panic(|| now.reopen(trust));
        if let Some(what) = started.as_ref().err().and_then(Failure::violation) {
            return Err(format!("while starting after {crash:?}: {what}"));
        }
        let again = PATTERNS.get(usize::try_from(chance.below(4)).unwrap_or(0)).copied().unwrap_or(crash);
        now.node = None;
        now = crashed(&now, again, &mut chance);
        summary.nested_crashes += 1;
    }
    let trust = is_trusted(crash, &mut chance);
    no_panic(|| now.reopen(trust)).map_err(|error| format!("after {crash:?}: {error}"))?;
    if chance.one_in(2) {
        now.node = None;
        // What one opening has seen, the next one sees as well.
        now = crashed(&now, Crash::Synced, &mut chance);
        no_panic(|| now.reopen(trust)).map_err(|error| format!("opened again after {crash:?}: {error}"))?;
    }
    no_panic(|| now.run(STEPS_AFTER)).map_err(|error| format!("going on after {crash:?}: {error}"))?;
    no_panic(|| now.close().and_then(|()| now.reopen(true)))
        .map_err(|error| format!("at the end, after {crash:?}: {error}"))
}

/// After a kill the engine's word holds. After a power cut a node doesn't take it; that it would hold is tried too.
fn is_trusted(crash: Crash, chance: &mut Chance) -> bool {
    crash == Crash::Killed || chance.one_in(2)
}

/// What is left: of the disk by the pattern, of the engine what was flushed or what was applied.
pub(super) fn crashed(work: &Work, crash: Crash, chance: &mut Chance) -> Work {
    let disk: SimDisk = work.disk.crash_seeded(crash, chance.next());
    let engine: MemoryEngine = if chance.one_in(2) { work.engine.after_crash() } else { work.engine.copy() };
    work.after_crash(disk, Arc::new(engine), Chance::of(&[chance.next()]))
}
