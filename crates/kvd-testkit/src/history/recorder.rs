//! Recording, from many tasks or one simulation.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use kvd_types::{Key, ShardId};

use super::{Action, Answer, Completion, History, Moment, Note, Operation, Process};

/// What an operation has come to as long as nothing else is known.
const UNDER_WAY: &str = "still under way";

/// Records a history. Cheap to clone; all clones record the same one.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    history: History,
    next_sequence: u64,
}

/// An operation that is under way. Dropped before it is completed, as when its task is aborted, what came of it is unknown.
#[derive(Debug)]
#[must_use = "an operation that is dropped is recorded as unknown"]
pub struct Invocation {
    recorder: Recorder,
    place: usize,
    is_complete: bool,
}

impl Recorder {
    /// Records by a clock that gives nanoseconds since a beginning of its own. It is asked under a lock: it must not record.
    pub fn with_clock(clock: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self { shared: Arc::new(Shared { clock: Box::new(clock), state: Mutex::default() }) }
    }

    /// Records by this machine's monotonic clock, from now on.
    #[must_use]
    pub fn real_time() -> Self {
        let start = Instant::now();
        Self::with_clock(move || u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    /// An operation begins. To be called before its request is sent.
    pub fn invoke(&self, process: Process, key: Key, action: Action) -> Invocation {
        let mut state = self.state();
        let invoked = self.now(&mut state);
        let completion = Completion::Unknown(UNDER_WAY.to_owned());
        let place = state.history.operations.len();
        state.history.operations.push(Operation {
            process,
            key,
            action,
            invoked,
            completed: None,
            completion,
        });
        drop(state);
        Invocation { recorder: self.clone(), place, is_complete: false }
    }

    /// A point in the order of events, for what is recorded elsewhere.
    #[must_use]
    pub fn moment(&self) -> Moment {
        self.now(&mut self.state())
    }

    /// Notes what happens to the store, for people.
    pub fn note(&self, text: impl Into<String>) {
        let mut state = self.state();
        let at = self.now(&mut state);
        state.history.notes.push(Note { at, text: text.into() });
    }

    /// Tells the shard of a key, for checks across the keys of a shard. Only where keys stay in their shards.
    pub fn set_shard(&self, key: Key, shard: ShardId) {
        self.state().history.shards.insert(key, shard);
    }

    /// What has been recorded up to now. Operations under way are unknown in it.
    #[must_use]
    pub fn history(&self) -> History {
        self.state().history.clone()
    }

    fn now(&self, state: &mut State) -> Moment {
        let sequence = state.next_sequence;
        state.next_sequence += 1;
        Moment { sequence, time_ns: (self.shared.clock)() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What a test's panic leaves behind is what was recorded, and is wanted all the more.
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Invocation {
    /// It is over. To be called after the answer is there.
    pub fn complete(mut self, completion: Completion) {
        self.end(completion);
    }

    /// It was answered.
    pub fn ok(self, answer: Answer) {
        self.complete(Completion::Ok(answer));
    }

    fn end(&mut self, completion: Completion) {
        self.is_complete = true;
        let mut state = self.recorder.state();
        let now = self.recorder.now(&mut state);
        if let Some(operation) = state.history.operations.get_mut(self.place) {
            operation.completed = Some(now);
            operation.completion = completion;
        }
    }
}

impl Drop for Invocation {
    fn drop(&mut self) {
        if !self.is_complete {
            self.end(Completion::Unknown("nobody waited for the answer".to_owned()));
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recorder").field("operations", &self.state().history.operations.len()).finish()
    }
}
