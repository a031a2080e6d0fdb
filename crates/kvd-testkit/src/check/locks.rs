//! Judging locks: by what their holders wrote, fenced, and by when they were sure to hold them.
//!
//! # The approach
//! Holders of a lock write their fencing token into a register, on the condition that they hold it still. So the tokens in the register,
//! in the order of its revisions, never go back: once a later holder has written, no earlier one can. And since a holder that is
//! sure of its lock by its own clock does hold it, two of them are never sure at the same time.
//!
//! # What it deliberately does not do
//! Who gets a lock next is not judged, nor how soon.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use kvd_types::Revision;

use crate::history::Moment;

/// Two clocks may tell a moment's time so far apart.
const CLOCK_GRAIN: Duration = Duration::from_millis(20);

/// A token that stood in a register since a revision of its.
pub type Entry = (Revision, Revision);

/// A fenced write that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fenced {
    /// The token that it wrote.
    pub token: Revision,
    /// Its revision.
    pub revision: Revision,
    /// What was in the register before: the revision, and the token.
    pub previous: Option<Entry>,
}

/// A while for which a holder was sure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Its token.
    pub token: Revision,
    /// When it was told that it had the lock.
    pub from: Moment,
    /// When it last looked, and was sure.
    pub until: Moment,
}

/// All that happened to a lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    /// Writes that were made.
    pub writes: Vec<Fenced>,
    /// Whiles for which it was held.
    pub holds: Vec<Hold>,
}

/// Says what can't have been right, in words.
#[must_use]
pub fn check(locks: &BTreeMap<String, Lock>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, lock) in locks {
        check_register(name, lock, &mut found);
        check_holds(name, lock, &mut found);
    }
    found
}

fn check_register(name: &str, lock: &Lock, found: &mut Vec<String>) {
    let mut register: BTreeSet<Entry> = BTreeSet::new();
    for Fenced { token, revision, previous } in &lock.writes {
        register.insert((*revision, *token));
        register.extend(previous);
    }
    let entries: Vec<Entry> = register.iter().copied().collect();
    for pair in entries.windows(2) {
        let [(at, token), (later, next)] = pair else { continue };
        if at == later {
            found.push(format!("lock {name}: its register had two tokens at {at}: {token} and {next}"));
        } else if next < token {
            found.push(format!("lock {name}: holder {next} wrote at {later}, after holder {token} at {at}"));
        }
    }
    for write in &lock.writes {
        let before = register.range(..(write.revision, Revision::ZERO)).next_back().copied();
        if before != write.previous {
            found.push(format!("lock {name}: before {write:?} there was {before:?}"));
        }
    }
}

fn check_holds(name: &str, lock: &Lock, found: &mut Vec<String>) {
    let mut holds = lock.holds.clone();
    holds.sort_by_key(|hold| hold.from.time_ns);
    let grain_ns = u64::try_from(CLOCK_GRAIN.as_nanos()).unwrap_or(u64::MAX);
    let mut longest: Option<Hold> = None;
    for hold in holds {
        if let Some(before) = longest
            && before.token != hold.token
            && hold.from.time_ns.saturating_add(grain_ns) < before.until.time_ns
        {
            found.push(format!("lock {name}: {before:?} and {hold:?} were both sure to hold it"));
        }
        if longest.is_none_or(|before| before.until.time_ns < hold.until.time_ns) {
            longest = Some(hold);
        }
    }
}
