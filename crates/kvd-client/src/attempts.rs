//! One request, tried until it is answered or its deadline has passed.
//!
//! # The approach
//! A request goes to the shard's leader, as far as known. What happens then decides where the next try goes and when:
//!
//! | what happened | where next | when |
//! |---|---|---|
//! | the window to the node is full | the same | after a pause |
//! | the node can't be reached, the stream broke, no answer in time | another holder of the shard | at once |
//! | redirected | where the hint says, else another holder | at once, twice; then after a pause |
//! | no leader, starting, draining; outcome unknown to the server | another holder | after a pause, or when a leader is heard of |
//! | overloaded | the same | after the pause it asks for, in turn ([`crate::throttle`]); refused if too many wait |
//! | wrong shard | as the new ring says | after the new ring is here |
//! | anything else | nowhere: the caller is told | |
//!
//! Once all nodes have been tried, the round begins anew after a pause. Pauses are drawn with full jitter.
//!
//! # Invariants
//! - `undecided` is set as soon as one try of a write may have been applied, and never cleared: from then on a failure says
//!   that the outcome is unknown, whatever the later tries came to.
//! - All tries of a write carry one session and one sequence number. A new number is taken only while no try may have
//!   been applied.

use std::{sync::Arc, time::Duration};

use kvd_placement::Ring;
use kvd_proto::operation::{reply_from_wire, request_to_wire};
use kvd_types::{
    Error, ErrorKind, Key, Outcome, Result, Revision, RingEpoch, ShardId, Write, WriteOp,
    limits::VALUE_BYTES_MAX,
    operation::{Ack, Reply, Request, Response, WriteOptions},
};
use tokio::time::{Instant, sleep_until};

use crate::{
    backoff::Backoff,
    core::{Core, try_until},
    pipeline::{CROWDED_RETRY_AFTER, Failure},
    session::{OpenSequence, Session},
    throttle::Turn,
};

/// Redirects that are followed at once: more in a row mean that the nodes don't agree, and need a moment.
const REDIRECTS_AT_ONCE: u32 = 2;

/// One request's tries.
pub(crate) struct Attempts<'a> {
    core: &'a Core,
    started: Instant,
    deadline: Instant,
    /// Nodes that have failed in this round.
    avoid: Vec<Arc<str>>,
    backoff: Backoff,
    redirects: u32,
    is_write: bool,
    /// It goes before others, and is not refused for want of room.
    is_vital: bool,
    /// An earlier try of a write may have been applied.
    undecided: bool,
    last_error: Option<Error>,
}

/// What the next try waits for.
enum Pause {
    None,
    /// A drawn pause, or a change of leader.
    Leader,
    /// At least this long.
    AtLeast(Duration),
}

impl<'a> Attempts<'a> {
    pub(crate) fn new(core: &'a Core, deadline: Duration) -> Self {
        let started = Instant::now();
        Self {
            core,
            started,
            deadline: started + deadline,
            avoid: Vec::new(),
            backoff: Backoff::default(),
            redirects: 0,
            is_write: false,
            is_vital: false,
            undecided: false,
            last_error: None,
        }
    }

    /// What its caller loses something by if it comes late.
    pub(crate) const fn vital(mut self) -> Self {
        self.is_vital = true;
        self
    }

    /// A request about a key that changes nothing, as it is made to the key's shard.
    pub(crate) async fn read(&mut self, key: &Key, request: impl Fn(ShardId) -> Request) -> Result<Reply> {
        self.routed(|ring| ring.shard_of(key), request).await
    }

    /// A request that may be made more than once, to the shard that the ring says.
    pub(crate) async fn routed(
        &mut self,
        shard_of: impl Fn(&Ring) -> ShardId,
        request: impl Fn(ShardId) -> Request,
    ) -> Result<Reply> {
        loop {
            let shard = shard_of(&*self.ring().await?);
            let turn = self.turn(shard).await?;
            if let Some(reply) = self.step(shard, turn, request(shard), None).await? {
                return Ok(reply);
            }
        }
    }

    /// A request to a shard that may be made more than once.
    pub(crate) async fn ask(&mut self, shard: ShardId, request: &Request) -> Result<Reply> {
        loop {
            let turn = self.turn(shard).await?;
            if let Some(reply) = self.step(shard, turn, request.clone(), None).await? {
                return Ok(reply);
            }
        }
    }

    /// A write, once.
    pub(crate) async fn write(&mut self, op: WriteOp, ack: Ack) -> Result<Reply> {
        // Sent, it could break the stream, and with it whatever else is in flight.
        op.check(VALUE_BYTES_MAX)?;
        self.is_write = true;
        let mut held: Option<Arc<OpenSequence>> = None;
        loop {
            let ring = self.ring().await?;
            let shard = ring.shard_of_write(&op).map_err(|error| self.give_up(error))?;
            let (turn, sequence) = match held.take_if(|held| held.shard() == shard) {
                Some(sequence) => (self.turn(shard).await?, sequence),
                None if self.undecided => {
                    let error = Error::unavailable("the key has moved to another shard");
                    return Err(self.give_up(error));
                }
                None => self.begin(shard).await?,
            };
            let write = Write { session: Some(sequence.position()), op: op.clone() };
            let options = WriteOptions { ack, after: self.core.seen.latest() };
            match self.step(shard, turn, Request::Write(write, options), Some(&sequence)).await {
                Ok(Some(reply)) => {
                    sequence.settle();
                    return Ok(reply);
                }
                Ok(None) => held = Some(sequence),
                Err(error) if error.kind == ErrorKind::SessionUnknown => {
                    // No try was applied, or the outcome would be unknown by now: a new session is as good as the old.
                    self.core.session_cell(shard).forget(sequence.session());
                    self.pause(error, Pause::AtLeast(Duration::ZERO)).await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until the shard may be asked.
    async fn turn(&self, shard: ShardId) -> Result<Turn> {
        let goes_first = self.undecided || self.is_vital;
        let turn = self.core.throttle(shard).turn(goes_first, self.deadline).await;
        turn.map_err(|error| self.give_up(error))
    }

    /// One try. `None`: go on.
    async fn step(
        &mut self,
        shard: ShardId,
        turn: Turn,
        request: Request,
        sequence: Option<&Arc<OpenSequence>>,
    ) -> Result<Option<Reply>> {
        let chosen = if request.is_for_any_replica() {
            self.core.choose_holder(shard, &self.avoid)
        } else {
            self.core.choose(Some(shard), &self.avoid)
        };
        let Some(address) = chosen else {
            self.avoid.clear();
            let error = self.last_error.take().unwrap_or_else(|| Error::unavailable("no node is known"));
            self.pause(error, Pause::Leader).await?;
            return Ok(None);
        };
        match self.try_at(&address, request, sequence).await {
            Ok(reply) => {
                turn.answered();
                self.learn(shard, &reply);
                Ok(Some(reply))
            }
            Err(failure) => {
                match &failure {
                    Failure::Refused(Error { kind: ErrorKind::Overloaded { retry_after }, .. }) => {
                        turn.refused(*retry_after);
                    }
                    Failure::Refused(_) | Failure::Crowded(_) | Failure::NotSent(_) | Failure::Lost(_) => {
                        drop(turn);
                    }
                }
                self.recover(shard, address, failure, sequence.is_some()).await?;
                Ok(None)
            }
        }
    }

    async fn try_at(
        &self,
        address: &Arc<str>,
        request: Request,
        sequence: Option<&Arc<OpenSequence>>,
    ) -> Result<Reply, Failure> {
        self.core.check_open().map_err(Failure::NotSent)?;
        let peer = self.core.peer(address).map_err(Failure::NotSent)?;
        let until = try_until(&self.core.config, self.deadline);
        let pipeline = peer.pipeline(until).await.map_err(Failure::NotSent)?;
        let answer = pipeline.call(request_to_wire(request), sequence, until, self.deadline).await;
        if let Err(Failure::Lost(error)) = &answer {
            peer.shun(error);
        } else if answer.is_ok() {
            peer.well();
        }
        reply_from_wire(answer?).map_err(Failure::Refused)
    }

    fn learn(&self, shard: ShardId, reply: &Reply) {
        let served = &reply.served;
        if served.shard == shard {
            self.core.router.learn_leader(shard, &served.leader_address);
        }
        let written = match &reply.response {
            Response::Put(outcome)
            | Response::Deleted(outcome)
            | Response::RangeDeleted(outcome)
            | Response::Txn(outcome) => revision_of(outcome),
            _ => Revision::ZERO,
        };
        self.core.seen.raise(served.shard, served.revision.max(written));
    }

    /// After a failed try: tells the caller, or waits until the next one may begin.
    async fn recover(
        &mut self,
        shard: ShardId,
        address: Arc<str>,
        failure: Failure,
        is_write: bool,
    ) -> Result<()> {
        let router = &self.core.router;
        let error = match failure {
            Failure::NotSent(error) | Failure::Crowded(error) | Failure::Lost(error)
                if self.core.check_open().is_err() =>
            {
                return Err(self.give_up(error));
            }
            // Nothing is wrong with the node: there are more callers than the window has room for.
            Failure::NotSent(error) if matches!(error.kind, ErrorKind::Overloaded { .. }) => {
                return self.pause(error, Pause::AtLeast(Duration::ZERO)).await;
            }
            Failure::Crowded(error) if !self.undecided && !self.is_vital => {
                return Err(self.give_up(error));
            }
            Failure::Crowded(error) => {
                return self.pause(error, Pause::AtLeast(CROWDED_RETRY_AFTER)).await;
            }
            Failure::NotSent(error) => {
                router.forget_leader(shard, &address);
                self.avoid.push(address);
                return self.pause(error, Pause::None).await;
            }
            Failure::Lost(error) => {
                self.undecided |= is_write;
                router.forget_leader(shard, &address);
                let error = Error::unavailable(format!("node {address}: {error}"));
                self.avoid.push(address);
                return self.pause(error, Pause::None).await;
            }
            Failure::Refused(error) => error,
        };
        let pause = match &error.kind {
            ErrorKind::NotLeader(hint) => {
                self.redirects += 1;
                router.forget_leader(shard, &address);
                let elsewhere = hint.as_ref().filter(|hint| {
                    hint.address != *address && !self.avoid.iter().any(|avoided| **avoided == *hint.address)
                });
                if let Some(hint) = elsewhere {
                    router.learn_leader(shard, &hint.address);
                }
                self.avoid.push(address);
                if self.redirects <= REDIRECTS_AT_ONCE { Pause::None } else { Pause::Leader }
            }
            ErrorKind::Unavailable | ErrorKind::DeadlineExceeded => {
                self.avoid.push(address);
                Pause::Leader
            }
            ErrorKind::OutcomeUnknown => {
                self.undecided |= is_write;
                self.avoid.push(address);
                Pause::Leader
            }
            ErrorKind::Overloaded { .. }
                if !self.undecided && !self.is_vital && self.core.throttle(shard).is_full() =>
            {
                return Err(self.give_up(error));
            }
            ErrorKind::Overloaded { retry_after } => Pause::AtLeast(*retry_after),
            ErrorKind::WrongShard(epoch) => {
                self.core.refresh(*epoch, self.deadline).await;
                Pause::AtLeast(Duration::ZERO)
            }
            // Only where no try was applied: the write goes on in a new session.
            ErrorKind::SessionUnknown if is_write && !self.undecided => return Err(error),
            _ => return Err(self.give_up(error)),
        };
        self.pause(error, pause).await
    }

    /// Waits until the next try may begin.
    ///
    /// # Errors
    /// The deadline has passed, or would.
    async fn pause(&mut self, error: Error, pause: Pause) -> Result<()> {
        let now = Instant::now();
        let drawn = match pause {
            Pause::None => Duration::ZERO,
            Pause::Leader | Pause::AtLeast(_) => self.backoff.pause(),
        };
        match pause {
            Pause::AtLeast(pause) if now + pause >= self.deadline => return Err(self.give_up(error)),
            Pause::None => {}
            Pause::AtLeast(pause) => sleep_until(self.deadline.min(now + pause.max(drawn))).await,
            Pause::Leader => self.await_leader(self.deadline.min(now + drawn)).await,
        }
        if Instant::now() >= self.deadline {
            return Err(self.give_up(error));
        }
        self.last_error = Some(error);
        Ok(())
    }

    /// Waits until then, or until the ring or a leader has changed: the nodes that failed may then do better.
    async fn await_leader(&mut self, until: Instant) {
        let mut changes = self.core.changes();
        tokio::select! {
            () = sleep_until(until) => {}
            Ok(()) = changes.changed() => self.avoid.clear(),
        }
    }

    /// The ring, as soon as it is known.
    pub(crate) async fn ring(&mut self) -> Result<Arc<Ring>> {
        loop {
            if let Some(ring) = self.core.router.ring() {
                return Ok(ring);
            }
            self.core.check_open()?;
            self.core.refresh(RingEpoch(0), self.deadline).await;
            if self.core.router.ring().is_none() {
                let error =
                    Error::unavailable("the cluster has no shards yet: it waits for more nodes to join");
                self.pause(error, Pause::Leader).await?;
            }
        }
    }

    /// The next number in this client's session with a shard, and the turn to use it; opens the session if there is none.
    async fn begin(&mut self, shard: ShardId) -> Result<(Turn, Arc<OpenSequence>)> {
        let session = self.session(shard).await?;
        // In this order: a number that waits for its turn would make all later ones wait.
        let turn = self.turn(shard).await?;
        match session.begin(self.deadline).await {
            Some(sequence) => Ok((turn, sequence)),
            None => Err(self.give_up(Error::overloaded(
                Duration::ZERO,
                format!(
                    "shard {shard}: as many writes as a session may have wait for the oldest one's outcome"
                ),
            ))),
        }
    }

    async fn session(&mut self, shard: ShardId) -> Result<Arc<Session>> {
        let cell = self.core.session_cell(shard);
        if let Some(session) = cell.current() {
            return Ok(session);
        }
        let Ok(_opening) = tokio::time::timeout_at(self.deadline, cell.opening.lock()).await else {
            return Err(
                self.give_up(Error::unavailable(format!("shard {shard}: no session could be opened")))
            );
        };
        if let Some(session) = cell.current() {
            return Ok(session);
        }
        match self.ask(shard, &Request::OpenSession(shard)).await?.response {
            Response::Session(Outcome::SessionOpened(id)) => {
                let session = Arc::new(Session::new(shard, id));
                cell.set(Arc::clone(&session));
                Ok(session)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The error that the caller gets: it says whether the request may have been applied.
    fn give_up(&self, error: Error) -> Error {
        let tried = Instant::now().saturating_duration_since(self.started);
        if self.undecided {
            return Error::unknown(format!(
                "the write's outcome is unknown after {tried:.1?}: an earlier try may have been applied; last: {error}"
            ));
        }
        match error.kind {
            ErrorKind::NotLeader(_)
            | ErrorKind::Unavailable
            | ErrorKind::WrongShard(_)
            | ErrorKind::Overloaded { .. }
            | ErrorKind::OutcomeUnknown
            | ErrorKind::SessionUnknown
            | ErrorKind::DeadlineExceeded => {
                let not_applied = if self.is_write { "the write was not applied: " } else { "" };
                let message = format!("{not_applied}gave up after {tried:.1?}; last: {}", error.message);
                match error.kind {
                    kind @ (ErrorKind::Overloaded { .. } | ErrorKind::DeadlineExceeded) => {
                        Error::new(kind, message)
                    }
                    // One node's view means nothing to the caller.
                    _ => Error::unavailable(message),
                }
            }
            _ => error,
        }
    }
}

/// The revision of what was written.
const fn revision_of(outcome: &Outcome) -> Revision {
    match outcome {
        Outcome::Put { revision, .. }
        | Outcome::Deleted { revision, .. }
        | Outcome::RangeDeleted { revision, .. }
        | Outcome::Txn { revision, .. } => *revision,
        _ => Revision::ZERO,
    }
}

/// A reply of the wrong kind: a bug of the server's.
pub(crate) fn unexpected(response: &Response) -> Error {
    let kind = match response {
        Response::Got(_) => "a get",
        Response::GotBatch(_) => "a batch-get",
        Response::Put(_) => "a put",
        Response::Deleted(_) => "a delete",
        Response::RangeDeleted(_) => "the deletion of a range",
        Response::Txn(_) => "a transaction",
        Response::Lease(_) => "a change of a lease",
        Response::LeaseKept(_) => "a keep-alive of a lease",
        Response::Session(_) => "a session request",
        Response::Told { .. } => "a word about a lease",
        Response::LeaseInfo(_) | Response::Leases(_) | Response::LeaseKeys(_) => "a look at leases",
        Response::Page(_) => "a scan",
        Response::Snapshot(_) => "a snapshot",
        Response::ReadPoint { .. } => "a read point",
        Response::Changes(_) => "a look at changes",
    };
    Error::internal(format!("the server answered with the reply to {kind}, which was not asked"))
}
