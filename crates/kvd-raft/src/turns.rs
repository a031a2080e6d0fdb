//! Which replicas of a node move rows to the engine now.
//!
//! # The problem
//! All replicas of a node have rows to move at about the same time, as all are written to. On a machine that is busy each of
//! these threads gets little of it, and so each takes long: and while an engine takes a batch, nobody may be able to read some
//! of what it has. A node with a dozen shards would stand still with all of them.
//!
//! # The approach
//! They take turns: at most half as many are at it as the node has cores, one at least. Each is done soon, and whoever keeps
//! the cluster together has fewer threads beside it to share a core with. A checkpoint doesn't wait for a turn: it has rows moved
//! once, and its replica's others wait for it.
//!
//! # What is deliberately absent
//! No order by need: whoever has waited longest is next, however much he has. Who has much makes his own writers pause
//! (`propose`), and wait in the end ([`crate::MemoryOptions::rows_max`]).

use std::{num::NonZeroUsize, sync::Arc, thread};

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::blocking::Blocking;

/// The turns of a node's replicas. Cheap to clone.
#[derive(Clone, Debug)]
pub struct DrainTurns(Arc<Semaphore>);

impl DrainTurns {
    /// Those of a node whose work that waits is done there.
    #[must_use]
    pub fn new(blocking: Blocking) -> Self {
        let at_once = match blocking {
            Blocking::Pool => thread::available_parallelism().map_or(1, NonZeroUsize::get) / 2,
            // It has one thread, and nothing may depend on the machine.
            Blocking::Inline => 1,
        };
        Self(Arc::new(Semaphore::new(at_once.clamp(1, Semaphore::MAX_PERMITS))))
    }

    /// A turn, as long as what this gives is kept; none: there are none any more.
    pub(crate) async fn next(&self) -> Option<SemaphorePermit<'_>> {
        self.0.acquire().await.ok()
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn whoever_is_beyond_the_bound_waits_until_another_is_done() {
        let turns = DrainTurns::new(Blocking::Inline);
        let first = turns.next().await;
        let mut second = Box::pin(turns.next());
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        assert!(second.now_or_never().flatten().is_some());
    }
}
