//! Writes on their way into a group's log.
//!
//! What waits becomes one entry: a single task takes up to [`ENTRY_COMMANDS_MAX`] commands or [`ENTRY_BYTES_TARGET`]
//! bytes, proposes them as one log entry, and goes on while up to [`ENTRIES_IN_FLIGHT_MAX`] entries are under way. There
//! is no timer: under light load a command goes at once, under heavy load entries grow by themselves.
//!
//! At the bound ([`PROPOSAL_QUEUE_MAX`] commands or [`PROPOSAL_QUEUE_BYTES_MAX`] bytes waiting) a command is refused as
//! overloaded, at once and unapplied. A command whose caller has gone away is still proposed: it may be one of a batch.
//!
//! Only openraft's "forward to leader" says that an entry was not appended. After every other failure the outcome is
//! unknown, and the caller is told so.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use kvd_proto::log::encode_proposal;
use kvd_types::{
    Command, Error, ErrorKind, GroupId, Outcome, Proposal, Result, Revision,
    limits::{
        ENTRIES_IN_FLIGHT_MAX, ENTRY_BYTES_TARGET, ENTRY_COMMANDS_MAX, PROPOSAL_QUEUE_BYTES_MAX,
        PROPOSAL_QUEUE_MAX,
    },
};
use openraft::{errors::ClientWriteError, impls::OneshotResponder};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    clock::Clock,
    group::Raft,
    types::{EncodedProposal, TypeConfig},
};

/// How long a refused caller should wait: about what a full queue takes to drain.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// Where a group's commands wait.
#[derive(Clone, Debug)]
pub(crate) struct ProposalQueue {
    group: GroupId,
    commands: mpsc::Sender<Waiting>,
    waiting_bytes: Arc<AtomicUsize>,
    proposed: Arc<AtomicU64>,
}

/// A command that waits, and who waits for it.
struct Waiting {
    command: Command,
    size_bytes: usize,
    caller: oneshot::Sender<Result<Outcome>>,
}

/// Takes commands out of the queue and into the log.
pub(crate) struct Proposer {
    pub(crate) raft: Raft,
    pub(crate) clock: Arc<dyn Clock>,
    commands: mpsc::Receiver<Waiting>,
    waiting_bytes: Arc<AtomicUsize>,
    proposed: Arc<AtomicU64>,
}

impl ProposalQueue {
    /// A queue, and the task that empties it.
    pub(crate) fn new(group: GroupId, raft: Raft, clock: Arc<dyn Clock>) -> (Self, Proposer) {
        let (sender, receiver) = mpsc::channel(PROPOSAL_QUEUE_MAX);
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let proposed = Arc::new(AtomicU64::new(0));
        let proposer = Proposer {
            raft,
            clock,
            commands: receiver,
            waiting_bytes: Arc::clone(&waiting_bytes),
            proposed: Arc::clone(&proposed),
        };
        (Self { group, commands: sender, waiting_bytes, proposed }, proposer)
    }

    /// Proposes a command and waits for its outcome.
    pub(crate) async fn propose(&self, command: Command) -> Result<Outcome> {
        let size_bytes = command.size_bytes();
        let (caller, outcome) = oneshot::channel();
        let before = self.waiting_bytes.fetch_add(size_bytes, Ordering::Relaxed);
        if before + size_bytes > PROPOSAL_QUEUE_BYTES_MAX {
            self.waiting_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            return Err(self.overloaded(&format!("{before} bytes")));
        }
        if let Err(refused) = self.commands.try_send(Waiting { command, size_bytes, caller }) {
            self.waiting_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
            return Err(match refused {
                mpsc::error::TrySendError::Full(_) => {
                    self.overloaded(&format!("{PROPOSAL_QUEUE_MAX} writes"))
                }
                mpsc::error::TrySendError::Closed(_) => self.stopped(),
            });
        }
        outcome.await.unwrap_or_else(|_dropped| {
            Err(Error::unknown(format!("group {} stopped before the write's outcome was known", self.group)))
        })
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
        let mut in_flight: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        loop {
            let room = in_flight.len() < ENTRIES_IN_FLIGHT_MAX;
            tokio::select! {
                biased;
                () = cancelled.cancelled() => break,
                Some(()) = in_flight.next() => {}
                first = self.commands.recv(), if room => match first {
                    Some(first) => in_flight.push(self.propose(first)),
                    None => break,
                },
            }
        }
        self.commands.close();
        while let Ok(waiting) = self.commands.try_recv() {
            answer(waiting.caller, Err(Error::unavailable("the group is stopping on this node")));
        }
        while in_flight.next().await.is_some() {}
    }

    /// Makes an entry of a command and what waits behind it.
    fn propose(&mut self, first: Waiting) -> BoxFuture<'static, ()> {
        let mut commands = Vec::new();
        let mut callers = Vec::new();
        let mut size_bytes = 0;
        let mut next = Some(first);
        while let Some(waiting) = next {
            size_bytes += waiting.size_bytes;
            commands.push(waiting.command);
            callers.push(waiting.caller);
            let full = commands.len() >= ENTRY_COMMANDS_MAX || size_bytes >= ENTRY_BYTES_TARGET;
            next = if full { None } else { self.commands.try_recv().ok() };
        }
        self.waiting_bytes.fetch_sub(size_bytes, Ordering::Relaxed);
        self.proposed.fetch_add(commands.len() as u64, Ordering::Relaxed);

        let clock = Revision::from_unix_ms(self.clock.unix_ms());
        let entry = EncodedProposal(encode_proposal(Proposal { clock, commands }));
        let raft = self.raft.clone();
        async move {
            let outcomes = write(&raft, entry).await;
            give_out(outcomes, callers);
        }
        .boxed()
    }
}

/// Writes an entry and waits for its outcomes.
async fn write(raft: &Raft, entry: EncodedProposal) -> Result<Vec<Outcome>> {
    let (responder, written) = OneshotResponder::<TypeConfig, _>::new_pair();
    let unknown = |what: &str| Error::unknown(format!("whether the write was applied can't be told: {what}"));
    raft.client_write_ff(entry, Some(responder)).await.map_err(|fatal| unknown(&fatal.to_string()))?;
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

fn answer(caller: oneshot::Sender<Result<Outcome>>, outcome: Result<Outcome>) {
    if caller.send(outcome).is_err() {
        tracing::trace!("a write's caller has gone away");
    }
}
