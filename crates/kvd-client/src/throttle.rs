//! How many requests of this client a shard is asked at a time, once it has said that it has too much to do.
//!
//! # The problem
//! A shard that has more to do than it can refuses some requests. If whoever is refused asks again after a pause, while others
//! go on asking, then soon most of what all sides do is to ask and to refuse, and little is left for the work itself.
//!
//! # The approach
//! What TCP does for a network. Nothing is held back until a shard refuses. Then no more requests may be under way there than
//! a part of those that were; with each answer a little more may be, about a twentieth more each time that all have been
//! answered; and with the next refusal less again (additive increase and multiplicative decrease; Chiu and Jain, 1989, and as
//! there the refusals of one round count as one). So few requests are refused, and the shard is never idle.
//!
//! As many as may be under way may wait here for their turn, which so takes about as long as an answer; beyond that a
//! request is refused here, at once, and with the pause that the shard has asked for; so is one that the shard has refused, if
//! there is no room for it. Only a write that may have been applied goes first and always may wait, as its caller wants to know,
//! and so does a keep-alive, which has until its lease ends.
//!
//! # What it deliberately does not do
//! No clock and no chance: only answers count. It doesn't share a shard's time among clients; that is left to what each of
//! them is refused.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use kvd_types::{Error, Result, ShardId, limits::PIPELINE_WINDOW_MAX};
use parking_lot::Mutex;
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

/// A limit is counted in these parts of a request: each answer adds one.
const PARTS: usize = 20;
/// Fewer under way than this would not be worth the name of load.
const LIMIT_MIN: usize = 8;
/// Beyond this nothing is held back any more: connections and sessions have bounds of their own.
const LIMIT_MAX: usize = 2 * PIPELINE_WINDOW_MAX;
/// So many may always wait.
const WAITING_MIN: usize = 64;

/// How many may be under way.
#[derive(Debug, Default)]
struct Limit {
    /// In [`PARTS`]; none: any number.
    parts: Option<usize>,
    under_way: usize,
    /// Counts decreases. What began before the last one says nothing about it.
    round: u64,
}

impl Limit {
    fn has_room(&self) -> bool {
        self.parts.is_none_or(|parts| self.under_way * PARTS < parts)
    }

    fn waiting_max(&self) -> usize {
        self.parts.map_or(0, |parts| parts / PARTS).max(WAITING_MIN)
    }

    /// One is under way; gives its round.
    const fn begin(&mut self) -> u64 {
        self.under_way += 1;
        self.round
    }

    /// One has ended without telling anything.
    const fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    /// One that is under way was answered.
    fn answered(&mut self) {
        // A limit that isn't used must not grow: nobody would know whether it holds.
        if let Some(parts) = self.parts.filter(|parts| self.under_way * PARTS >= parts / 2) {
            self.parts = Some(parts + 1).filter(|parts| *parts < LIMIT_MAX * PARTS);
        }
    }

    /// One that is under way, and began in a round, was refused.
    fn refused(&mut self, round: u64) {
        if round != self.round {
            return;
        }
        let before = self.parts.unwrap_or(self.under_way * PARTS);
        // Seven tenths are left.
        self.parts = Some((before / 10 * 7).max(LIMIT_MIN * PARTS));
        self.round += 1;
    }
}

/// The requests of one client to one shard.
#[derive(Debug)]
pub(crate) struct Throttle {
    shard: ShardId,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limit: Limit,
    waiting: VecDeque<oneshot::Sender<Turn>>,
    /// The pause that the shard has asked for last.
    retry_after: Duration,
}

impl State {
    fn is_full(&mut self) -> bool {
        let waiting_max = self.limit.waiting_max();
        if self.waiting.len() >= waiting_max {
            // Those that have gone away don't count.
            self.waiting.retain(|waiting| !waiting.is_closed());
        }
        self.waiting.len() >= waiting_max
    }
}

/// A request that may be under way.
#[derive(Debug)]
pub(crate) struct Turn {
    throttle: Arc<Throttle>,
    round: u64,
    end: End,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Nothing is known, or nothing that matters here.
    Untold,
    Answered,
    /// There was too much to do, and the shard asks for a pause.
    Refused(Duration),
}

impl Throttle {
    pub(crate) fn new(shard: ShardId) -> Self {
        Self { shard, state: Mutex::default() }
    }

    /// Waits for a turn. `first`: before all others, however many there are.
    ///
    /// # Errors
    /// Overloaded, if too many wait already, or at the deadline.
    pub(crate) async fn turn(self: &Arc<Self>, first: bool, deadline: Instant) -> Result<Turn> {
        let granted = {
            let mut state = self.state.lock();
            if state.waiting.is_empty() && state.limit.has_room() {
                return Ok(self.granted(&mut state.limit));
            }
            if !first && state.is_full() {
                return Err(self.overloaded(&state));
            }
            let (waiting, granted) = oneshot::channel();
            if first {
                state.waiting.push_front(waiting);
            } else {
                state.waiting.push_back(waiting);
            }
            granted
        };
        // Whoever had a turn when this one came to wait passes it on.
        match timeout_at(deadline, granted).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) | Err(_) => Err(self.overloaded(&self.state.lock())),
        }
    }

    /// Whether whoever comes now would be refused.
    pub(crate) fn is_full(&self) -> bool {
        self.state.lock().is_full()
    }

    fn granted(self: &Arc<Self>, limit: &mut Limit) -> Turn {
        Turn { throttle: Arc::clone(self), round: limit.begin(), end: End::Untold }
    }

    /// Changes the limit, and lets in who may come then.
    fn change(self: &Arc<Self>, change: impl FnOnce(&mut State)) {
        let mut let_in = Vec::new();
        {
            let mut state = self.state.lock();
            change(&mut state);
            while state.limit.has_room() {
                let Some(waiting) = state.waiting.pop_front() else { break };
                if !waiting.is_closed() {
                    let_in.push((waiting, self.granted(&mut state.limit)));
                }
            }
        }
        for (waiting, turn) in let_in {
            // Somebody who has left meanwhile leaves the turn to the next.
            drop(waiting.send(turn));
        }
    }

    fn overloaded(&self, state: &State) -> Error {
        Error::overloaded(
            state.retry_after,
            format!(
                "shard {} has too much to do: {} requests of this client are under way there and {} wait; retry later",
                self.shard,
                state.limit.under_way,
                state.waiting.len()
            ),
        )
    }
}

impl Turn {
    /// The request was answered.
    pub(crate) fn answered(mut self) {
        self.end = End::Answered;
    }

    /// The request was refused: there was too much to do.
    pub(crate) fn refused(mut self, retry_after: Duration) {
        self.end = End::Refused(retry_after);
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let (round, end) = (self.round, self.end);
        self.throttle.change(|state| {
            match end {
                End::Untold => {}
                End::Answered => state.limit.answered(),
                End::Refused(retry_after) => {
                    state.retry_after = retry_after;
                    state.limit.refused(round);
                }
            }
            state.limit.end();
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server that answers `capacity` of them in a round, and refuses the others, makes of a thousand rounds in each of
    /// which as many are asked as may be: how many were answered in the last hundred rounds, and how many refused.
    fn rounds(capacity: usize, asked_for: usize) -> (usize, usize) {
        let (mut limit, mut answered, mut refused) = (Limit::default(), 0, 0);
        for round in 0..1000 {
            let mut begun = Vec::new();
            while begun.len() < asked_for && limit.has_room() {
                begun.push(limit.begin());
            }
            for (place, began) in begun.into_iter().enumerate() {
                if place < capacity {
                    limit.answered();
                } else {
                    limit.refused(began);
                }
                limit.end();
                let counted = usize::from(round >= 900);
                if place < capacity { answered += counted } else { refused += counted }
            }
        }
        (answered, refused)
    }

    #[test]
    fn nothing_is_held_back_until_something_is_refused() {
        assert_eq!(rounds(5000, 5000), (500_000, 0));
    }

    #[test]
    fn a_shard_is_kept_busy_and_refuses_little() {
        for capacity in [20, 100, 1000, 3000] {
            let (answered, refused) = rounds(capacity, 2 * capacity);
            let possible = 100 * capacity;
            assert!(answered * 10 > possible * 8, "{answered} of {possible}");
            assert!(refused * 20 < possible, "{refused} refused of {possible}");
        }
    }

    #[test]
    fn the_refusals_of_one_round_count_as_one() {
        let mut limit = Limit::default();
        let begun: Vec<u64> = (0..100).map(|_| limit.begin()).collect();
        begun.into_iter().for_each(|round| limit.refused(round));
        assert_eq!(limit.parts, Some(70 * PARTS));
    }

    #[test]
    fn a_limit_that_is_not_used_does_not_grow() {
        let mut limit = Limit { parts: Some(10 * PARTS), under_way: 4, round: 0 };
        limit.answered();
        assert_eq!(limit.parts, Some(10 * PARTS));
        limit.under_way = 5;
        limit.answered();
        assert_eq!(limit.parts, Some(10 * PARTS + 1));
    }

    #[test]
    fn a_limit_beyond_all_others_is_none() {
        let mut limit = Limit { parts: Some(LIMIT_MAX * PARTS - 1), under_way: LIMIT_MAX - 1, round: 0 };
        limit.answered();
        assert_eq!(limit.parts, None);
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    async fn throttled() -> Arc<Throttle> {
        let throttle = Arc::new(Throttle::new(ShardId(1)));
        throttle.turn(false, soon()).await.unwrap().refused(Duration::from_millis(70));
        throttle
    }

    #[tokio::test(start_paused = true)]
    async fn those_beyond_the_limit_wait_their_turn_and_those_beyond_that_are_refused_at_once() {
        let throttle = throttled().await;
        let mut turns = Vec::new();
        for _ in 0..LIMIT_MIN {
            turns.push(throttle.turn(false, soon()).await.unwrap());
        }
        let waiting: Vec<_> = (0..WAITING_MIN)
            .map(|_| {
                let throttle = Arc::clone(&throttle);
                tokio::spawn(async move { throttle.turn(false, soon()).await.map(drop) })
            })
            .collect();
        while throttle.state.lock().waiting.len() < WAITING_MIN {
            tokio::task::yield_now().await;
        }
        let began = Instant::now();
        let refused = throttle.turn(false, soon()).await.unwrap_err();
        assert_eq!(refused, Error::overloaded(Duration::from_millis(70), refused.message.clone()));
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(turns);
        for waiting in waiting {
            waiting.await.unwrap().unwrap();
        }
        assert_eq!(throttle.state.lock().limit.under_way, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_must_be_decided_goes_first() {
        let throttle = throttled().await;
        let mut turns = Vec::new();
        for _ in 0..LIMIT_MIN {
            turns.push(throttle.turn(false, soon()).await.unwrap());
        }
        let mut new = Box::pin(throttle.turn(false, soon()));
        let mut first = Box::pin(throttle.turn(true, soon()));
        assert!(futures::poll!(&mut new).is_pending());
        assert!(futures::poll!(&mut first).is_pending());
        turns.pop();
        assert!(futures::poll!(&mut new).is_pending());
        assert!(futures::poll!(&mut first).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_leaves_the_queue_leaves_the_turn_to_the_next() {
        let throttle = throttled().await;
        let mut turns = Vec::new();
        for _ in 0..LIMIT_MIN {
            turns.push(throttle.turn(false, soon()).await.unwrap());
        }
        let (mut first, mut second) =
            (Box::pin(throttle.turn(false, soon())), Box::pin(throttle.turn(false, soon())));
        assert!(futures::poll!(&mut first).is_pending());
        assert!(futures::poll!(&mut second).is_pending());
        turns.pop();
        drop(first);
        let _second = second.await.unwrap();
        let late = throttle.turn(true, soon()).await;
        assert!(late.is_err(), "nobody gives up a turn until the deadline");
    }
}
