//! An open loop: requests are due at a fixed rate, whether or not earlier ones have been answered.
//!
//! A request's time is counted from when it was due, not from when it was made: whoever had wanted it then would have waited
//! since. So a stall of the target falls on all requests that were due in it, and one of the generator on those that it made
//! late (the omission of those is what makes closed loops look better than they are).
//!
//! What is under way is bounded. A request that is due when that much is under way is not made, and counted as refused by the
//! generator: if there are any, the times of the others say too little, and the target can't keep up with the rate.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rand::{SeedableRng as _, rngs::SmallRng};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, TryAcquireError},
};

use super::work::{Until, Work};
use crate::target::Connection;

/// An open loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Open {
    /// Requests that are due each second.
    pub(crate) rate: u32,
    /// Requests under way, at most.
    pub(crate) outstanding_max: u32,
}

/// Ends the pacing when it is dropped: on the way out as well as when whoever waits has been interrupted.
struct Ending(Arc<Semaphore>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Makes requests when they are due until the end, and waits for their answers. Gives how many were not made.
pub(super) async fn open(
    work: &Arc<Work>,
    connections: &[Connection],
    open: Open,
    started: Instant,
    until: &Until,
) -> anyhow::Result<u64> {
    let room = Arc::new(Semaphore::new(usize::try_from(open.outstanding_max)?));
    let ending = Ending(Arc::clone(&room));
    let pace = Pace {
        work: Arc::clone(work),
        connections: connections.to_vec(),
        room: Arc::clone(&room),
        rate: open.rate,
        started,
        until: until.clone(),
    };
    let runtime = Handle::current();
    let refused = tokio::task::spawn_blocking(move || pace.keep(&runtime)).await?;
    let _answered = room.acquire_many(open.outstanding_max).await?;
    drop(ending);
    Ok(refused)
}

struct Pace {
    work: Arc<Work>,
    connections: Vec<Connection>,
    room: Arc<Semaphore>,
    rate: u32,
    started: Instant,
    until: Until,
}

impl Pace {
    /// On a thread of its own: tasks are woken by the millisecond, in which many requests may be due.
    fn keep(self, runtime: &Handle) -> u64 {
        let mut random = SmallRng::seed_from_u64(0);
        let mut refused = 0;
        for (place, connection) in self.connections.iter().cycle().enumerate() {
            let due = self.started + since_start(place, self.rate);
            if !self.until.more(due) {
                break;
            }
            thread::sleep(due.saturating_duration_since(Instant::now()));
            let request = self.work.draw(place, &mut random);
            let room = match Arc::clone(&self.room).try_acquire_owned() {
                Ok(room) => room,
                Err(TryAcquireError::NoPermits) => {
                    refused += 1;
                    continue;
                }
                Err(TryAcquireError::Closed) => break,
            };
            let (work, connection) = (Arc::clone(&self.work), connection.clone());
            runtime.spawn(async move {
                let outcome = work.ask(&connection, &request).await;
                work.book.note(request.maker, request.kind, due.elapsed(), outcome);
                drop(room);
            });
        }
        refused
    }
}

/// When a request is due, after the start.
fn since_start(place: usize, rate: u32) -> Duration {
    const SECOND_NANOS: u128 = 1_000_000_000;
    let nanos = (place as u128).saturating_mul(SECOND_NANOS) / u128::from(rate.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::Workload,
        load::{Kind, Load, Stop, measure},
        target::{Reach, Target},
    };

    #[test]
    fn requests_are_due_evenly() {
        assert_eq!(since_start(0, 3), Duration::ZERO);
        assert_eq!(since_start(1, 3), Duration::from_nanos(333_333_333));
        assert_eq!(since_start(3_000_000_000, 3), Duration::from_secs(1_000_000_000));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_due_is_made_or_counted_as_refused() {
        let dir = tempfile::tempdir().unwrap();
        let timeout = Duration::from_secs(1);
        let reach = Reach { endpoints: "", connections: 1, timeout, data_dir: dir.path() };
        let connections = Target::Log.connect(&reach).await.unwrap();
        for (outstanding_max, all_made) in [(10_000, true), (1, false)] {
            let load = Load {
                open: Some(Open { rate: 1_000_000, outstanding_max }),
                stop: Stop::Operations(2000),
                ..Load::of(Workload::Put)
            };
            let report = measure(&connections, &load).await.unwrap();
            let made = report.times[&Kind::Put].0.len();
            assert_eq!(made + report.refused, 2000);
            assert_eq!(report.refused == 0, all_made, "{outstanding_max}");
        }
    }
}
