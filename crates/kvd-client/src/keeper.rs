//! Keeps leases alive: one task for all of a client's.
//!
//! # The problem
//! A lease ends when it isn't kept alive. A program may hold thousands, and each must be renewed in time, by as few messages as
//! possible, and its holder must know when it may have ended: also when the cluster can't be reached.
//!
//! # The approach
//! A third of its time to live after a lease's last keep-alive was sent, the next one is due. The task takes all that are due
//! now or soon, sends them at once (so they travel in one frame, and the shard takes them in one log entry), and goes on while
//! the answers come.
//!
//! A lease is held for sure until one time to live after the *sending* of the last keep-alive that was answered: the cluster
//! counts from later on, and only while it has a leader. After that moment, by this process's monotonic clock, it counts as
//! lost, for good, even if a late answer says that it lives.
//!
//! # Bounds
//! [`IN_FLIGHT_MAX`] keep-alives under way; the others wait for their turn, the one that is due first first.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kvd_types::{Error, LeaseId, Result};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use crate::{core::Core, lease::keep_alive_once};

/// Keep-alives under way.
const IN_FLIGHT_MAX: usize = 2048;
/// What is due so soon is sent along.
const ALONG: Duration = Duration::from_millis(200);
/// Parts of a lease's time to live from one keep-alive to the next.
const PARTS: u32 = 3;
/// A keep-alive that failed is tried again after this part of the time to live.
const RETRY_PARTS: u32 = 20;

/// The leases that a client keeps alive.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    kept: HashMap<LeaseId, Weak<Kept>>,
    /// When each is due that isn't under way.
    due: BTreeSet<(Instant, LeaseId)>,
}

/// A lease that is kept alive, as all its holders share it.
#[derive(Debug)]
pub(crate) struct Kept {
    id: LeaseId,
    ttl: Duration,
    hold: watch::Sender<Hold>,
}

#[derive(Clone, Debug)]
pub(crate) struct Hold {
    /// Until when it is held for sure.
    pub(crate) until: Instant,
    /// Why it is lost.
    pub(crate) lost: Option<Error>,
}

impl Kept {
    pub(crate) const fn id(&self) -> LeaseId {
        self.id
    }

    pub(crate) fn hold(&self) -> Hold {
        self.hold.borrow().clone()
    }

    pub(crate) fn is_held(&self) -> bool {
        let hold = self.hold.borrow();
        hold.lost.is_none() && Instant::now() < hold.until
    }

    /// Waits until it is lost.
    pub(crate) async fn lost(&self) -> Error {
        let mut hold = self.hold.subscribe();
        loop {
            let now = hold.borrow_and_update().clone();
            if let Some(error) = now.lost {
                return error;
            }
            tokio::select! {
                () = sleep_until(now.until) => self.expire(Instant::now()),
                changed = hold.changed() => if changed.is_err() { return out_of_time(self.id) },
            }
        }
    }

    /// It is lost if its time is over. Nothing that comes later changes that.
    fn expire(&self, now: Instant) {
        self.hold.send_if_modified(|hold| {
            let over = hold.lost.is_none() && now >= hold.until;
            if over {
                hold.lost = Some(out_of_time(self.id));
            }
            over
        });
    }

    /// Takes the answer to a keep-alive; whether it is still held.
    fn answered(&self, sent: Instant, now: Instant, answer: Result<(), &Error>) -> bool {
        self.expire(now);
        self.hold.send_if_modified(|hold| {
            if hold.lost.is_some() {
                return false;
            }
            match answer {
                Ok(()) => hold.until = hold.until.max(sent + self.ttl),
                Err(error) if is_final(error) => hold.lost = Some(error.clone()),
                Err(_) => return false,
            }
            true
        });
        self.hold.borrow().lost.is_none()
    }
}

fn out_of_time(id: LeaseId) -> Error {
    Error::unavailable(format!(
        "lease {id} could not be kept alive for its time to live: it may have ended, and so may others hold what it held"
    ))
}

/// Whether no later keep-alive can do better.
const fn is_final(error: &Error) -> bool {
    use kvd_types::ErrorKind::{
        FailedPrecondition, InvalidArgument, NotFound, PermissionDenied, Unauthenticated,
    };
    matches!(error.kind, NotFound | InvalidArgument | PermissionDenied | Unauthenticated | FailedPrecondition)
}

impl Keeper {
    /// Keeps a lease alive, whose last keep-alive was sent then, as long as somebody holds what this gives.
    pub(crate) fn keep(&self, id: LeaseId, ttl: Duration, sent: Instant) -> Arc<Kept> {
        let mut state = self.state.lock();
        if let Some(kept) = state.kept.get(&id).and_then(Weak::upgrade)
            && kept.hold.borrow().lost.is_none()
        {
            return kept;
        }
        let hold = Hold { until: sent + ttl, lost: None };
        let kept = Arc::new(Kept { id, ttl, hold: watch::Sender::new(hold) });
        state.kept.insert(id, Arc::downgrade(&kept));
        state.due.retain(|&(_, due)| due != id);
        state.due.insert((sent + ttl / PARTS, id));
        drop(state);
        self.changed.notify_one();
        kept
    }

    /// When the next one is due.
    fn next_due(&self) -> Option<Instant> {
        self.state.lock().due.first().map(|&(due, _)| due)
    }

    /// Takes the leases that are due by then, at most so many, the first ones first.
    fn take_due(&self, by: Instant, most: usize) -> Vec<Arc<Kept>> {
        let mut state = self.state.lock();
        let mut taken = Vec::new();
        while taken.len() < most
            && let Some(&(due, id)) = state.due.first()
            && due <= by
        {
            state.due.pop_first();
            match state.kept.get(&id).and_then(Weak::upgrade) {
                Some(kept) => taken.push(kept),
                None => {
                    state.kept.remove(&id);
                }
            }
        }
        taken
    }

    /// A keep-alive has ended: the next one is due then.
    fn put_back(&self, kept: &Arc<Kept>, due: Option<Instant>) {
        let mut state = self.state.lock();
        let is_current = state.kept.get(&kept.id).is_some_and(|known| known.as_ptr() == Arc::as_ptr(kept));
        match due {
            Some(due) if is_current => {
                state.due.insert((due, kept.id));
            }
            None if is_current => {
                state.kept.remove(&kept.id);
            }
            _ => {}
        }
    }
}

/// Runs as long as the client.
pub(crate) async fn keep_leases_alive(core: Arc<Core>) {
    let mut under_way = FuturesUnordered::new();
    loop {
        let room = IN_FLIGHT_MAX - under_way.len();
        for kept in core.keeper.take_due(Instant::now() + ALONG, room) {
            under_way.push(renew(&core, kept));
        }
        let room = under_way.len() < IN_FLIGHT_MAX;
        let due = core.keeper.next_due().filter(|_| room);
        tokio::select! {
            Some(()) = under_way.next() => {}
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {}
            () = core.keeper.changed.notified() => {}
        }
    }
}

/// Sends one keep-alive, and says when the next one is due.
async fn renew(core: &Core, kept: Arc<Kept>) {
    let sent = Instant::now();
    let answer = keep_alive_once(core, kept.id, kept.ttl / PARTS).await;
    if let Err(error) = &answer {
        tracing::debug!(lease = %kept.id, %error, "the lease was not kept alive");
    }
    let pause = if answer.is_ok() { kept.ttl / PARTS } else { kept.ttl / RETRY_PARTS };
    let now = Instant::now();
    let from = if answer.is_ok() { sent } else { now };
    let held = kept.answered(sent, now, answer.as_ref().map(|_ttl| ()));
    core.keeper.put_back(&kept, held.then(|| from + pause));
}

#[cfg(test)]
mod tests;
