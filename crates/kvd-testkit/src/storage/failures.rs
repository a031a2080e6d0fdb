//! An operation of the disk fails, or the disk lies about it.
//!
//! A failure must be reported, and whatever was not acknowledged before it must not be acknowledged by a store that can't
//! know what is durable; what was acknowledged is there, for a process that starts again at once and after a power cut.
//! A lie (a write or a sync that was reported done) can only be found out later: see [`super::judge`].

use std::io;

use kvd_storage::disk::{Crash, Fault, Operation, chance::Chance};

use super::{
    check::no_panic,
    crashes::{STEPS, crashed},
    judge::{Verdict, judge},
    node::Failure,
    summary::Summary,
    workload::Work,
};

/// What goes wrong.
pub(super) const FAULTS: [Fault; 4] = [
    Fault::Fail(io::ErrorKind::Other),
    Fault::Fail(io::ErrorKind::StorageFull),
    Fault::Vanish,
    Fault::Misdirect,
];

/// Lets one operation of one history go wrong. An error is a violation.
pub(super) fn explore(
    seed: u64,
    history: u64,
    operation: u64,
    fault: usize,
    summary: &mut Summary,
) -> Result<(), String> {
    let mut work = Work::new(Chance::of(&[seed, history]).next());
    let Some(&kind) = FAULTS.get(fault) else { return Ok(()) };
    work.disk.fault_at(operation, kind);
    let mut chance = Chance::of(&[seed, history, operation, 100 + fault as u64]);
    let ended = no_panic(|| work.run(STEPS));
    let met = work.disk.faults_met();
    let Some((met, _)) = met.first().copied() else {
        // It doesn't fit that operation.
        return ended.map_err(|error| error.to_string());
    };
    if matches!(kind, Fault::Fail(_)) {
        failed(&mut work, met, &ended, &mut chance, summary)
    } else {
        lied(&mut work, ended, summary)
    }
}

fn failed(
    work: &mut Work,
    met: Operation,
    ended: &Result<(), Failure>,
    chance: &mut Chance,
    summary: &mut Summary,
) -> Result<(), String> {
    summary.failures += 1;
    match ended {
        Err(failure) => {
            if let Some(what) = failure.violation() {
                return Err(what.to_owned());
            }
            summary.stopped += 1;
        }
        // What can't be removed is left for later, and that's all.
        Ok(()) if work.reported.is_empty() && !work.model.told.was_full() && met != Operation::Remove => {
            return Err(format!("a failed {met:?} was not reported"));
        }
        Ok(()) => {}
    }
    if ended.is_ok() {
        no_panic(|| work.close().and_then(|()| work.reopen(true)))
            .map_err(|error| format!("closing after a failed {met:?}: {error}"))?;
    }
    for crash in [Crash::Killed, Crash::Synced, Crash::Torn { block_bytes: 512 }] {
        let mut now = crashed(work, crash, chance);
        no_panic(|| now.reopen(crash == Crash::Killed))
            .map_err(|error| format!("{crash:?} after a failed {met:?}: {error}"))?;
        now.node = None;
        // A start after a failed sync must not believe the page cache.
        let mut now = crashed(&now, Crash::Synced, chance);
        no_panic(|| now.reopen(false))
            .map_err(|error| format!("a power cut after {crash:?} after a failed {met:?}: {error}"))?;
    }
    Ok(())
}

fn lied(work: &mut Work, ended: Result<(), Failure>, summary: &mut Summary) -> Result<(), String> {
    summary.lies += 1;
    // Reading back what it has just written, a store may find out at once.
    let verdict = match ended.and_then(|()| no_panic(|| work.close())) {
        Err(Failure::Wrong(what)) => return Err(what),
        // A start within the history has found that something is not as it must be. Was it said?
        Err(Failure::Differs(_)) => {
            work.node = None;
            judge(&work.disk.crash_seeded(Crash::Killed, 1), work.engine.copy(), &work.model)?
        }
        Err(_) => Verdict::Detected,
        Ok(()) => judge(&work.disk.crash_seeded(Crash::Synced, 1), work.engine.after_crash(), &work.model)?,
    };
    summary.count(verdict);
    Ok(())
}
