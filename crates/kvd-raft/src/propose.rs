//! Writes on their way into a group's log.
//!
//! What waits becomes one entry: a single task takes up to [`ENTRY_COMMANDS_MAX`] commands or [`ENTRY_BYTES_TARGET`]
//! bytes and proposes them as one log entry. What comes while an entry is under way waits for it, unless
//! [`ENTRY_COMMANDS_MIN`] have come: then up to [`ENTRIES_IN_FLIGHT_MAX`] are under way at once. There is no timer: under
//! light load a command goes at once, under heavy load entries grow by themselves. An entry costs each replica about as much
//! as some dozens of commands, so many small ones at once would be slower for everybody.
//!
//! Who proposes more than the engine takes would find no memory left in the end, and everybody would have to wait until there
//! is. So there is a pause after each entry once rows that wait to be drained take much of their room ([`pause`]), and a long
//! one before it is taken, as an engine may have little of the machine while it is flushed and checkpoints are written.
//!
//! How many commands may wait, [`crate::admission`] says. A command whose caller has gone away is still proposed: it may be
//! one of a batch.
//!
//! Each entry says what its leader knows of time (see [`crate::pace`]); where something is due, or is to be forgotten, an
//! entry without commands says it, at a pace that leaves room for the writes. A reader that wants the shard as of a revision
//! asks here, because here is known what is in flight: what was proposed before may still get that revision, so it is waited
//! for.
//!
//! Only openraft's "forward to leader" says that an entry was not appended. After every other failure the outcome is
//! unknown, and the caller is told so.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use kvd_machine::{ShardReader, ShardStats};
use kvd_proto::log::encode_proposal;
use kvd_types::{
    Command, Error, ErrorKind, GroupId, Outcome, Proposal, Result, Revision, Term,
    limits::{
        ENTRIES_IN_FLIGHT_MAX, ENTRY_BYTES_TARGET, ENTRY_COMMANDS_MAX, ENTRY_COMMANDS_MIN,
        PROPOSAL_QUEUE_MAX, READ_QUEUE_MAX,
    },
};
use openraft::{errors::ClientWriteError, impls::OneshotResponder};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use crate::{
    admission::Admission,
    calls::call,
    clock::Clock,
    group::{Leadership, Raft, sleeper::Sleeper},
    pace::{HistoryOptions, Pace, Pins, Reading, Stamp},
    state::ReplicaState,
    types::{EncodedProposal, TypeConfig},
};

/// How long a refused caller should wait: about what a full queue takes to drain.
const RETRY_AFTER: Duration = Duration::from_millis(50);
/// After an entry that was made because the time had come there is no other such one for so many times as long as that took:
/// longer while others write, so that what expires, or is to be forgotten, leaves room for them.
const TICK_REST_FACTOR: u32 = 8;
/// The shortest such rest, and the longest.
pub(crate) const TICK_REST: RangeInclusive<Duration> = Duration::from_millis(50)..=Duration::from_millis(250);

/// What may be taken of the room for rows in memory, in percent, without a pause after an entry…
const ROOM_FREE_PERCENT: usize = 40;
/// …and the pause when nothing is left, growing with the square of what is taken beyond.
const ROOM_PAUSE_MAX: Duration = Duration::from_secs(2);

/// Where a group's commands wait.
#[derive(Clone, Debug)]
pub(crate) struct ProposalQueue {
    group: GroupId,
    waiting: mpsc::Sender<Waiting>,
    /// So many wait that they are worth an entry beside the one in flight.
    many_wait: Arc<Notify>,
    admission: Arc<Admission>,
    proposed: Arc<AtomicU64>,
    pins: Arc<Mutex<Pins>>,
    /// What its monotonic clock counts from.
    started: Instant,
}

/// What a proposer is made of.
pub(crate) struct ProposerParts {
    pub(crate) group: GroupId,
    pub(crate) raft: Raft,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// What is applied; none for the meta group, which has no revisions.
    pub(crate) reader: Option<ShardReader>,
    pub(crate) history: HistoryOptions,
    pub(crate) sleeper: Sleeper,
    pub(crate) state: Arc<ReplicaState>,
}

/// What waits.
#[expect(clippy::large_enum_variant, reason = "nearly all are commands")]
enum Waiting {
    Command(Submitted),
    Show(Shown),
}

/// A command that waits, and who waits for it.
struct Submitted {
    command: Command,
    /// Whoever waits has seen this revision.
    after: Revision,
    size_bytes: usize,
    since: Instant,
    caller: oneshot::Sender<Result<Outcome>>,
}

/// A reader who wants the shard as of a revision.
struct Shown {
    at: Revision,
    is_vouched_for: bool,
    caller: oneshot::Sender<Result<()>>,
}

/// Takes commands out of the queue and into the log.
pub(crate) struct Proposer {
    parts: ProposerParts,
    waiting: mpsc::Receiver<Waiting>,
    /// Taken out of the queue, and to be served next.
    held: Option<Waiting>,
    many_wait: Arc<Notify>,
    admission: Arc<Admission>,
    proposed: Arc<AtomicU64>,
    pins: Arc<Mutex<Pins>>,
    /// What its monotonic clock counts from.
    started: Instant,
    /// The term that it leads in, and its account of time.
    pace: Option<(Term, Pace)>,
    entries: Entries,
}

/// The entries in flight.
#[derive(Default)]
struct Entries {
    /// How many there were.
    count: u64,
    /// The numbers of those whose outcome is not known yet.
    open: BTreeSet<u64>,
    /// The first one that has the ceiling as it stands.
    with_ceiling: u64,
    /// The one that was made because the time had come.
    tick: Option<(u64, Instant)>,
    /// Until then there is to be no other one.
    rests_until: Option<Instant>,
    /// Until then there is to be no entry at all: the engine has to catch up.
    pauses_until: Option<Instant>,
    /// Readers: each waits for all entries up to a number.
    readers: VecDeque<(u64, oneshot::Sender<Result<()>>)>,
}

/// An entry that has come to its end: its number, and how.
type Ended = (u64, Result<()>);

impl ProposalQueue {
    /// A queue, and the task that empties it.
    pub(crate) fn new(parts: ProposerParts) -> (Self, Proposer) {
        let (sender, receiver) = mpsc::channel(PROPOSAL_QUEUE_MAX);
        let many_wait = Arc::new(Notify::new());
        let admission = Arc::<Admission>::default();
        let proposed = Arc::new(AtomicU64::new(0));
        let (pins, started) = (Arc::<Mutex<Pins>>::default(), Instant::now());
        let queue = Self {
            group: parts.group,
            waiting: sender,
            many_wait: Arc::clone(&many_wait),
            admission: Arc::clone(&admission),
            proposed: Arc::clone(&proposed),
            pins: Arc::clone(&pins),
            started,
        };
        let proposer = Proposer {
            parts,
            waiting: receiver,
            held: None,
            many_wait,
            admission,
            proposed,
            pins,
            started,
            pace: None,
            entries: Entries::default(),
        };
        (queue, proposer)
    }

    /// Proposes a command and waits for its outcome.
    pub(crate) async fn propose(&self, command: Command, after: Revision) -> Result<Outcome> {
        let size_bytes = command.size_bytes();
        let (caller, outcome) = oneshot::channel();
        let is_vital = matches!(command, Command::Lease(_) | Command::Meta(_));
        let admitted = self.admission.admit(size_bytes, self.waiting(), is_vital);
        admitted.map_err(|what| self.overloaded(&what))?;
        let submitted = Submitted { command, after, size_bytes, since: Instant::now(), caller };
        if let Err(error) = self.send(Waiting::Command(submitted)) {
            self.admission.left(size_bytes);
            return Err(error);
        }
        outcome.await.unwrap_or_else(|_dropped| {
            Err(Error::unknown(format!("group {} stopped before the write's outcome was known", self.group)))
        })
    }

    /// Keeps what was at a revision, and what came after it, for a while.
    pub(crate) fn pin(&self, at: Revision) {
        self.pins.lock().pin(at, monotonic_ms(self.started));
    }

    /// Waits until no write can get a revision up to this any more.
    pub(crate) async fn show(&self, at: Revision, is_vouched_for: bool) -> Result<()> {
        let (caller, shown) = oneshot::channel();
        self.send(Waiting::Show(Shown { at, is_vouched_for, caller }))?;
        shown.await.unwrap_or_else(|_dropped| Err(self.stopped()))
    }

    fn send(&self, waiting: Waiting) -> Result<()> {
        self.waiting.try_send(waiting).map_err(|refused| match refused {
            mpsc::error::TrySendError::Full(_) => self.overloaded(&format!("{PROPOSAL_QUEUE_MAX} requests")),
            mpsc::error::TrySendError::Closed(_) => self.stopped(),
        })?;
        if self.waiting() >= ENTRY_COMMANDS_MIN {
            self.many_wait.notify_one();
        }
        Ok(())
    }

    fn waiting(&self) -> usize {
        self.waiting.max_capacity() - self.waiting.capacity()
    }

    /// How many commands were proposed since this was last asked.
    pub(crate) fn take_proposed(&self) -> u64 {
        self.proposed.swap(0, Ordering::Relaxed)
    }

    fn overloaded(&self, what: &str) -> Error {
        Error::overloaded(
            RETRY_AFTER,
            format!("{what} wait already for the leader of group {}; retry later", self.group),
        )
    }

    fn stopped(&self) -> Error {
        Error::unavailable(format!("group {} has stopped on this node", self.group))
    }
}

impl Proposer {
    /// Proposes what waits, until cancelled; what waits then is refused, unapplied.
    pub(crate) async fn run(mut self, cancelled: CancellationToken) {
        let mut in_flight: FuturesUnordered<BoxFuture<'static, Ended>> = FuturesUnordered::new();
        let mut leadership = self.parts.leadership.clone();
        loop {
            if let Some(held) = self.held.take() {
                in_flight.extend(self.serve(held));
                continue;
            }
            let pauses_until = self.entries.pauses_until.filter(|until| *until > Instant::now());
            let room = pauses_until.is_none() && begins(in_flight.len(), self.waiting.len());
            let tick = self.next_tick().filter(|_| room);
            tokio::select! {
                biased;
                () = cancelled.cancelled() => break,
                Some((number, outcome)) = in_flight.next() => self.entries.ended(number, outcome),
                () = sleep_until(pauses_until.unwrap_or_else(Instant::now)), if pauses_until.is_some() => {}
                () = self.many_wait.notified(), if pauses_until.is_none() && !room => {}
                waiting = self.waiting.recv(), if room => match waiting {
                    Some(waiting) => {
                        // Whoever is about to ask, on a busy machine, is let in: an entry's price is for all.
                        tokio::task::yield_now().await;
                        self.parts.sleeper.ready().await;
                        in_flight.extend(self.serve(waiting));
                    }
                    None => break,
                },
                () = sleep_until(tick.unwrap_or_else(Instant::now)), if tick.is_some() => {
                    self.parts.sleeper.ready().await;
                    let number = self.entries.begin();
                    self.entries.tick = Some((number, Instant::now()));
                    in_flight.push(self.entry(number, Vec::new(), Vec::new()));
                }
                Ok(()) = leadership.changed() => {}
            }
        }
        self.waiting.close();
        let stopping = || Error::unavailable("the group is stopping on this node");
        while let Ok(waiting) = self.waiting.try_recv() {
            match waiting {
                Waiting::Command(submitted) => answer(submitted.caller, Err(stopping())),
                Waiting::Show(shown) => answer(shown.caller, Err(stopping())),
            }
        }
        while in_flight.next().await.is_some() {}
    }

    /// Serves what waited; gives the entry that it makes, if any.
    fn serve(&mut self, waiting: Waiting) -> Option<BoxFuture<'static, Ended>> {
        match waiting {
            Waiting::Command(first) => Some(self.propose(first)),
            Waiting::Show(shown) => self.show(shown),
        }
    }

    /// Makes an entry of a command and what waits behind it.
    fn propose(&mut self, first: Submitted) -> BoxFuture<'static, Ended> {
        let mut commands = Vec::new();
        let mut callers = Vec::new();
        let mut size_bytes = 0;
        let mut after = Revision::ZERO;
        self.admission.waited(first.since.elapsed());
        // Whoever comes to one that doesn't lead is to be told so at once.
        let leads = self.parts.leadership.borrow().is_self;
        let pause = pause_of(&self.parts.state);
        self.entries.pauses_until = (leads && !pause.is_zero()).then(|| Instant::now() + pause);
        let mut next = Some(first);
        while let Some(submitted) = next.take() {
            size_bytes += submitted.size_bytes;
            after = after.max(submitted.after);
            commands.push(submitted.command);
            callers.push(submitted.caller);
            if commands.len() >= ENTRY_COMMANDS_MAX || size_bytes >= ENTRY_BYTES_TARGET {
                break;
            }
            match self.waiting.try_recv() {
                Ok(Waiting::Command(submitted)) => next = Some(submitted),
                Ok(other) => self.held = Some(other),
                Err(_nothing_waits) => {}
            }
        }
        self.admission.left(size_bytes);
        self.proposed.fetch_add(commands.len() as u64, Ordering::Relaxed);
        let now = self.now();
        if let Some((pace, stats)) = self.leading(now) {
            pace.see(after, &stats, now);
        }
        let number = self.entries.begin();
        self.entry(number, commands, callers)
    }

    /// Sees to it that the shard can be read as of a revision; gives the entry that this takes, if any.
    fn show(&mut self, shown: Shown) -> Option<BoxFuture<'static, Ended>> {
        let Shown { at, is_vouched_for, caller } = shown;
        let now = self.now();
        let Some((pace, stats)) = self.leading(now) else {
            let error = Error::new(ErrorKind::NotLeader(None), "this replica does not lead");
            answer(caller, Err(error));
            return None;
        };
        let before = pace.ceiling();
        let needs_ceiling = match pace.show(at, is_vouched_for, &stats, now) {
            Ok(needs_ceiling) => needs_ceiling,
            Err(error) => {
                answer(caller, Err(error));
                return None;
            }
        };
        let is_raised = pace.ceiling() > before;
        if self.entries.readers.len() >= READ_QUEUE_MAX {
            let what =
                format!("{READ_QUEUE_MAX} reads wait already for the leader of group {}", self.parts.group);
            answer(caller, Err(Error::overloaded(RETRY_AFTER, what)));
            return None;
        }
        let ceiling_is_on_its_way = self.entries.open.contains(&self.entries.with_ceiling);
        let entry = (needs_ceiling && (is_raised || !ceiling_is_on_its_way)).then(|| {
            let number = self.entries.begin();
            self.entries.with_ceiling = number;
            self.entry(number, Vec::new(), Vec::new())
        });
        self.entries.wait(caller);
        entry
    }

    /// An entry under way.
    fn entry(
        &mut self,
        number: u64,
        commands: Vec<Command>,
        callers: Vec<oneshot::Sender<Result<Outcome>>>,
    ) -> BoxFuture<'static, Ended> {
        let now = self.now();
        let pinned = self.pins.lock().oldest(now.monotonic_ms);
        let stamp = match self.leading(now) {
            Some((pace, stats)) => pace.stamp(now, &stats, pinned),
            None => Stamp { clock: Revision::from_unix_ms(now.unix_ms), ..Stamp::default() },
        };
        let Stamp { clock, age_ms, ceiling, compacted } = stamp;
        let entry =
            EncodedProposal(encode_proposal(Proposal { clock, age_ms, ceiling, compacted, commands }));
        let raft = self.parts.raft.clone();
        async move {
            let outcomes = write(&raft, entry).await;
            let ended = outcomes.as_ref().map(drop).map_err(Clone::clone);
            give_out(outcomes, callers);
            (number, ended)
        }
        .boxed()
    }

    /// The account of time in the term in which this replica leads, if it does, and what it has applied.
    fn leading(&mut self, now: Reading) -> Option<(&mut Pace, ShardStats)> {
        let leadership = *self.parts.leadership.borrow();
        let stats = self.parts.reader.as_ref()?.stats();
        if !leadership.is_self {
            self.pace = None;
            return None;
        }
        let is_known = self.pace.as_ref().is_some_and(|(term, _)| *term == leadership.term);
        if !is_known {
            self.pace = None;
        }
        let history = self.parts.history;
        let (_, pace) = self.pace.get_or_insert_with(|| (leadership.term, Pace::lead(&stats, now, history)));
        Some((pace, stats))
    }

    /// When an entry is to be made although nobody has a command.
    fn next_tick(&mut self) -> Option<Instant> {
        if self.entries.tick.is_some() {
            return None;
        }
        let now = self.now();
        let (pace, stats) = self.leading(now)?;
        let wait_ms = pace.next_tick_ms(&stats)?.saturating_sub(pace.age_ms(now));
        let wanted = Instant::now() + Duration::from_millis(wait_ms);
        Some(self.entries.rests_until.map_or(wanted, |rests_until| wanted.max(rests_until)))
    }

    fn now(&self) -> Reading {
        Reading { unix_ms: self.parts.clock.unix_ms(), monotonic_ms: monotonic_ms(self.started) }
    }
}

impl Entries {
    fn begin(&mut self) -> u64 {
        self.count += 1;
        self.open.insert(self.count);
        self.count
    }

    /// Has a reader wait for all that is in flight.
    fn wait(&mut self, caller: oneshot::Sender<Result<()>>) {
        if self.open.is_empty() {
            return answer(caller, Ok(()));
        }
        self.readers.push_back((self.count, caller));
    }

    fn ended(&mut self, number: u64, outcome: Result<()>) {
        self.open.remove(&number);
        if let Some((_, began)) = self.tick.take_if(|(tick, _)| *tick == number) {
            let rest = (began.elapsed() * TICK_REST_FACTOR).clamp(*TICK_REST.start(), *TICK_REST.end());
            self.rests_until = Some(Instant::now() + rest);
        }
        if let Err(error) = outcome {
            // Leadership is lost, most likely, and what will become of the others can't be told.
            for (_, caller) in std::mem::take(&mut self.readers) {
                answer(caller, Err(unavailable(&error)));
            }
            return;
        }
        let oldest = self.open.first().copied().unwrap_or(u64::MAX);
        while let Some((_, caller)) = self.readers.pop_front_if(|(upto, _)| *upto < oldest) {
            answer(caller, Ok(()));
        }
    }
}

/// Whether another entry is worth its price: so many are under way, and so many commands wait.
const fn begins(in_flight: usize, waiting: usize) -> bool {
    match in_flight {
        0 => true,
        1..ENTRIES_IN_FLIGHT_MAX => waiting >= ENTRY_COMMANDS_MIN,
        _ => false,
    }
}

/// The pause after an entry, as many rows of the replica as there are wait for the engine.
pub(crate) fn pause_of(state: &ReplicaState) -> Duration {
    pause(state.room_taken_percent())
}

/// The pause after an entry, while rows that wait for the engine take so much of their room.
fn pause(room_taken_percent: usize) -> Duration {
    let taken = u32::try_from(room_taken_percent.saturating_sub(ROOM_FREE_PERCENT)).unwrap_or(u32::MAX);
    let most = u32::try_from(100 - ROOM_FREE_PERCENT).unwrap_or(u32::MAX);
    ROOM_PAUSE_MAX * taken.min(most).pow(2) / most.pow(2)
}

fn monotonic_ms(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// The error of a reader whose entry has failed: reads change nothing, so nothing is unknown.
fn unavailable(error: &Error) -> Error {
    match error.kind {
        ErrorKind::NotLeader(_) => error.clone(),
        _ => Error::unavailable(format!("the shard can't be read as of that revision yet: {error}")),
    }
}

/// Writes an entry and waits for its outcomes.
async fn write(raft: &Raft, entry: EncodedProposal) -> Result<Vec<Outcome>> {
    let (responder, written) = OneshotResponder::<TypeConfig, _>::new_pair();
    let unknown = |what: &str| Error::unknown(format!("whether the write was applied can't be told: {what}"));
    let handed_over = call(raft, |raft| async move { raft.client_write_ff(entry, Some(responder)).await });
    handed_over.await.map_err(|fatal| unknown(&fatal.to_string()))?;
    match written.await {
        Ok(Ok(response)) => Ok(response.data.0),
        Ok(Err(ClientWriteError::ForwardToLeader(forward))) => {
            Err(Error::new(ErrorKind::NotLeader(None), format!("this replica does not lead: {forward}")))
        }
        Ok(Err(other)) => Err(unknown(&other.to_string())),
        Err(_dropped) => Err(unknown("the replica stopped")),
    }
}

/// Gives each caller its outcome, or all the same error.
fn give_out(outcomes: Result<Vec<Outcome>>, callers: Vec<oneshot::Sender<Result<Outcome>>>) {
    match outcomes {
        Ok(outcomes) if outcomes.len() == callers.len() => {
            for (caller, outcome) in callers.into_iter().zip(outcomes) {
                answer(caller, Ok(outcome));
            }
        }
        Ok(outcomes) => {
            let error =
                Error::internal(format!("{} commands had {} outcomes", callers.len(), outcomes.len()));
            callers.into_iter().for_each(|caller| answer(caller, Err(error.clone())));
        }
        Err(error) => callers.into_iter().for_each(|caller| answer(caller, Err(error.clone()))),
    }
}

fn answer<T>(caller: oneshot::Sender<Result<T>>, outcome: Result<T>) {
    if caller.send(outcome).is_err() {
        tracing::trace!("a caller has gone away");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_goes_alone_at_once_and_beside_others_only_if_it_is_worth_it() {
        assert!(begins(0, 0));
        for others in 1..ENTRIES_IN_FLIGHT_MAX {
            assert!(!begins(others, ENTRY_COMMANDS_MIN - 1));
            assert!(begins(others, ENTRY_COMMANDS_MIN));
        }
        assert!(!begins(ENTRIES_IN_FLIGHT_MAX, PROPOSAL_QUEUE_MAX));
    }

    #[test]
    fn the_pause_grows_faster_the_less_room_is_left() {
        let pauses: Vec<_> = (ROOM_FREE_PERCENT..=100).map(pause).collect();
        assert_eq!((pauses.first(), pauses.last()), (Some(&Duration::ZERO), Some(&ROOM_PAUSE_MAX)));
        let steps: Vec<_> = pauses.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(steps.is_sorted() && !steps[0].is_zero(), "{steps:?}");
        assert_eq!((pause(0), pause(usize::MAX)), (Duration::ZERO, ROOM_PAUSE_MAX));
    }
}
