//! A replica's timers, switched off while its group sleeps: the shell of [`crate::sleep`].
//!
//! All switching is done under one lock together with the decision, so that what openraft is told last is what was decided last.
//!
//! Openraft keeps a leader quiet that no majority answers, so that others may take over; but it counts from the last answer,
//! which of one that has slept is long ago. So where groups sleep that is done here, counted from when it woke.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use kvd_proto::peer::v1::{self as p, envelope::Body};
use kvd_types::{GroupId, NodeId, ReplicaId, Term};
use openraft::{
    Instant as _, ServerState,
    async_runtime::WatchReceiver as _,
    errors::{LinearizableReadError, RaftError},
    raft::linearizable_read::LinearizerOption,
};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Raft, Timing, probe_interval};
use crate::{
    calls::call,
    codec,
    observe::Observer,
    pulse::{Era, Pulses, Reliance},
    sleep::{Before, Offer, Options, Sleep, Standing},
    transport::{Lane, Transport},
    types::Metrics,
};

/// A replica that hears no leader asks for one at least so often, in longest election timeouts.
const ASK_INTERVAL_MAX: u32 = 4;

/// How a node's groups sleep.
#[derive(Clone)]
pub struct SleepOptions {
    /// After so long without anything to do.
    pub after: Duration,
    /// What tells whether the leaders' nodes are still there.
    pub pulses: Pulses,
}

/// What a sleeper is made of.
pub(super) struct SleeperParts {
    pub(super) group: GroupId,
    pub(super) replica: ReplicaId,
    pub(super) raft: Raft,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) timing: Timing,
    pub(super) hands_over: Arc<AtomicBool>,
    pub(super) observer: Arc<dyn Observer>,
}

/// Puts a replica to sleep and wakes it; where groups don't sleep it does nothing. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sleeper(Option<Arc<Inner>>);

struct Inner {
    parts: SleeperParts,
    pulses: Pulses,
    shared: Mutex<Shared>,
    /// Something has changed that its task must know of.
    changed: Notify,
    /// Until then it must not stand for election.
    held_until: watch::Sender<Option<Instant>>,
    /// It leads, no majority answers, and it keeps quiet for a while.
    is_quiet: AtomicBool,
}

struct Shared {
    sleep: Sleep,
    /// What it relies on while it follows and sleeps, and the era of that.
    reliance: Option<(Reliance, Era)>,
    /// It has woken as a leader, and is to say so.
    speaks_up: bool,
    /// It has woken as a leader, and no majority has answered since, as far as is known.
    is_unconfirmed: bool,
    /// The term that it leads in, and since when it has had reason to hope for answers.
    led_since: Option<(Term, Instant)>,
}

impl Sleeper {
    pub(super) fn new(options: Option<SleepOptions>, parts: SleeperParts) -> Self {
        Self(options.map(|SleepOptions { after, pulses }| {
            let Timing { heartbeat, election_timeout_max, .. } = parts.timing;
            let options = Options {
                after,
                refusal: heartbeat * 2,
                ask_after: heartbeat * 2,
                ask_interval_max: election_timeout_max * ASK_INTERVAL_MAX,
            };
            let shared = Shared {
                sleep: Sleep::new(options, Instant::now()),
                reliance: None,
                speaks_up: false,
                is_unconfirmed: false,
                led_since: None,
            };
            Arc::new(Inner {
                parts,
                pulses,
                shared: Mutex::new(shared),
                changed: Notify::new(),
                held_until: watch::Sender::default(),
                is_quiet: AtomicBool::new(false),
            })
        }))
    }

    /// Until when it must not stand for election.
    pub(super) fn held_until(&self) -> watch::Receiver<Option<Instant>> {
        let none = || watch::Sender::default().subscribe();
        self.0.as_ref().map_or_else(none, |inner| inner.held_until.subscribe())
    }

    pub(super) fn sleeps(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.shared.lock().sleep.sleeps())
    }

    /// Whether a member counts as alive although it answers no heartbeats, because there are none: its node asks for the
    /// pulse of this one.
    pub(super) fn has_asleep(&self, node: NodeId) -> bool {
        let Some(inner) = &self.0 else { return false };
        let moment = inner.parts.timing.election_timeout_max;
        let has_just_led = inner.shared.lock().sleep.has_just_led(Instant::now(), moment);
        has_just_led && inner.pulses.was_asked_by(node, moment)
    }

    /// Another replica's core speaks to this one's.
    pub(super) fn spoken_to(&self) {
        if let Some(inner) = &self.0 {
            inner.wake(Sleep::wake);
        }
    }

    /// A leader has spoken.
    pub(super) fn heard(&self) {
        if let Some(inner) = &self.0 {
            inner.shared.lock().sleep.heard(Instant::now());
        }
    }

    /// Another replica asks for its vote: whether that is refused.
    pub(super) fn refuses_vote(&self) -> bool {
        let Some(inner) = &self.0 else { return false };
        let mut shared = inner.shared.lock();
        if shared.reliance.as_ref().is_some_and(|(reliance, era)| !reliance.beat().lasts(*era)) {
            // It has reason to believe its leader gone, and was about to wake.
            inner.wake_locked(&mut shared, Sleep::wake);
            return false;
        }
        let mut refuses = false;
        inner.wake_locked(&mut shared, |sleep, now| {
            let (before, refused) = sleep.refuses_vote(now);
            refuses = refused;
            before
        });
        refuses
    }

    /// Another replica asks who leads.
    pub(super) fn asked_who_leads(&self) {
        if let Some(inner) = &self.0 {
            inner.wake(Sleep::busy);
        }
    }

    /// It leads, and no majority answers.
    pub(crate) fn is_quiet(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.is_quiet.load(Ordering::SeqCst))
    }

    /// There is something to do that needs a leader who is awake.
    pub(crate) fn busy(&self) {
        if let Some(inner) = &self.0 {
            inner.wake(Sleep::busy);
        }
    }

    /// The same, and waits until a majority has answered it if it slept, for openraft lets no other leader write. If none does
    /// that is for openraft to say.
    pub(crate) async fn ready(&self) {
        let Some(inner) = &self.0 else { return };
        inner.wake(Sleep::busy);
        if inner.shared.lock().is_unconfirmed && !self.is_quiet() {
            inner.confirm().await;
        }
    }

    /// Takes up a leader's offer, or doesn't.
    pub(super) fn take_up(&self, request: &p::SleepRequest) -> bool {
        let (Some(inner), Some(last)) = (&self.0, request.last_log) else { return false };
        let offer = Offer {
            term: Term(request.term),
            leader: ReplicaId(request.leader),
            last: codec::log_id_from_wire(last),
            number: request.number,
            era: Era::from_wire(request.era),
        };
        inner.take_up(offer, NodeId(request.node))
    }

    /// Looks and acts until cancelled.
    pub(super) async fn run(self, cancelled: CancellationToken) {
        let Some(inner) = self.0 else { return };
        cancelled.run_until_cancelled(inner.look_and_act()).await;
        let mut shared = inner.shared.lock();
        shared.reliance = None;
        if shared.sleep.has_offered() {
            inner.pulses.begin_era();
        }
    }
}

impl Inner {
    fn wake(&self, wake: impl FnOnce(&mut Sleep, Instant) -> Before) {
        self.wake_locked(&mut self.shared.lock(), wake);
    }

    /// Has it woken, and switches its timers on.
    fn wake_locked(&self, shared: &mut Shared, wake: impl FnOnce(&mut Sleep, Instant) -> Before) {
        let now = Instant::now();
        let timers = self.parts.raft.runtime_config();
        match wake(&mut shared.sleep, now) {
            Before::Awake => return,
            Before::Followed => {
                let Timing { election_timeout_min, election_timeout_max, .. } = self.parts.timing;
                let gone = shared.reliance.take().is_some_and(|(reliance, era)| !reliance.beat().lasts(era));
                let pause = if gone {
                    election_timeout_min.mul_f64(rand::random_range(0.0..1.0))
                } else {
                    election_timeout_max
                };
                timers.elect(false);
                self.held_until.send_replace(Some(now + pause));
                timers.tick(true);
            }
            Before::Offered | Before::Led => {
                timers.heartbeat(true);
                timers.tick(true);
                shared.speaks_up = true;
                shared.is_unconfirmed = true;
                shared.led_since = shared.led_since.map(|(term, _)| (term, now));
                // Whoever watches over its core looks after it more often again.
                self.held_until.send_replace(None);
            }
        }
        self.changed.notify_one();
    }

    async fn look_and_act(&self) {
        let interval = self.parts.timing.heartbeat * 2;
        loop {
            if self.shared.lock().sleep.sleeps() {
                self.rest().await;
            } else {
                tokio::select! {
                    () = self.changed.notified() => {}
                    () = sleep(interval) => {}
                }
            }
            let speaks_up = std::mem::take(&mut self.shared.lock().speaks_up);
            if speaks_up {
                // Without an answer it is tried again with each heartbeat.
                let spoken =
                    call(&self.parts.raft, |raft| async move { raft.trigger().heartbeat().await }).await;
                if spoken.is_err() {
                    return;
                }
            }
            self.look().await;
        }
    }

    /// Waits until something wakes it.
    async fn rest(&self) {
        let mut metrics = self.parts.raft.metrics();
        let mut beat = self.shared.lock().reliance.as_ref().map(|(reliance, _)| reliance.watch());
        loop {
            let standing = self.standing(&metrics.borrow_and_update());
            {
                let mut shared = self.shared.lock();
                let lasts = |(reliance, era): &(Reliance, Era)| reliance.beat().lasts(*era);
                if shared.sleep.is_overtaken(standing) || !shared.reliance.as_ref().is_none_or(lasts) {
                    self.wake_locked(&mut shared, Sleep::wake);
                }
                if !shared.sleep.sleeps() {
                    return;
                }
            }
            let beats = async {
                if let Some(beat) = &mut beat
                    && beat.changed().await.is_ok()
                {
                    return;
                }
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = beats => {}
                changed = metrics.changed() => if changed.is_err() {
                    // The core has ended; whoever watches over it says so.
                    return std::future::pending().await;
                },
            }
        }
    }

    async fn look(&self) {
        let (standing, members) = {
            let metrics = self.parts.raft.metrics();
            let seen = metrics.borrow_watched();
            self.keep_quiet(&seen);
            let membership = seen.membership_config.membership();
            let members: BTreeMap<ReplicaId, NodeId> = membership
                .nodes()
                .filter(|(replica, _)| **replica != self.parts.replica)
                .map(|(&replica, &node)| (replica, node))
                .collect();
            (self.standing(&seen), members)
        };
        let era = self.pulses.era();
        let (offer, asks) = {
            let (mut shared, now) = (self.shared.lock(), Instant::now());
            let offer = shared.sleep.offers(now, standing, self.parts.replica, era);
            if offer.is_some() {
                self.parts.raft.runtime_config().heartbeat(false);
            }
            (offer, shared.sleep.asks(now, standing.leads))
        };
        if let Some(offer) = offer {
            self.offer(offer, &members).await;
        } else if asks {
            self.say(&members, || Body::Wake(p::WakeRequest {})).await;
        }
    }

    /// Offers sleep to all members, and sleeps if they do.
    async fn offer(&self, offer: Offer, members: &BTreeMap<ReplicaId, NodeId>) {
        // What is on its way already would wake them again.
        sleep(self.parts.timing.heartbeat / 4).await;
        let request = || {
            Body::Sleep(p::SleepRequest {
                term: offer.term.get(),
                leader: offer.leader.get(),
                node: self.pulses.node().get(),
                last_log: Some(codec::log_id_to_wire(&offer.last)),
                number: offer.number,
                era: Some(offer.era.to_wire()),
            })
        };
        let answers = self.say(members, request).await;
        let sleeps = |answer: &Option<Body>| {
            matches!(answer, Some(Body::SleepResponse(p::SleepResponse { sleeps: true })))
        };
        let all_agreed = answers.iter().all(sleeps);
        let standing = self.standing(&self.parts.raft.metrics().borrow_watched());
        let mut shared = self.shared.lock();
        let timers = self.parts.raft.runtime_config();
        if shared.sleep.offered(Instant::now(), standing, all_agreed) {
            timers.tick(false);
            self.parts.observer.slept(self.parts.group, self.parts.replica);
        } else {
            timers.heartbeat(true);
        }
    }

    /// Says something to all members; gives their answers.
    async fn say(&self, members: &BTreeMap<ReplicaId, NodeId>, what: impl Fn() -> Body) -> Vec<Option<Body>> {
        let SleeperParts { group, replica, timing, .. } = &self.parts;
        let said = members.iter().map(|(to, &node)| {
            let message = p::Envelope {
                call: 0,
                group: group.get(),
                from_replica: replica.get(),
                to_replica: to.get(),
                body: Some(what()),
            };
            self.parts.transport.call(node, Lane::Control, message, timing.heartbeat * 2)
        });
        join_all(said).await.into_iter().map(|answer| answer.ok().and_then(|answer| answer.body)).collect()
    }

    fn take_up(&self, offer: Offer, node: NodeId) -> bool {
        let standing = self.standing(&self.parts.raft.metrics().borrow_watched());
        let reliance = self.pulses.rely_on(node);
        let mut shared = self.shared.lock();
        if !reliance.beat().lasts(offer.era) || !shared.sleep.agrees(offer, standing) {
            return false;
        }
        shared.reliance = Some((reliance, offer.era));
        self.parts.raft.runtime_config().tick(false);
        self.parts.observer.slept(self.parts.group, self.parts.replica);
        drop(shared);
        self.changed.notify_one();
        true
    }

    /// Waits until a majority has answered.
    async fn confirm(&self) {
        let answered = call(&self.parts.raft, |raft| async move {
            raft.get_read_linearizer(LinearizerOption::new(None, true)).await
        });
        let answered = timeout(self.parts.timing.election_timeout_max, answered).await;
        let is_over = match answered {
            // One that does not lead needs no answers.
            Ok(Ok(_)) | Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(_)))) => true,
            Ok(Err(_)) | Err(_) => false,
        };
        if is_over {
            self.shared.lock().is_unconfirmed = false;
        }
    }

    /// Has a leader that no majority answers keep quiet for a while, and then try again for as long.
    fn keep_quiet(&self, metrics: &Metrics) {
        let now = Instant::now();
        let mut shared = self.shared.lock();
        if metrics.state != ServerState::Leader {
            shared.led_since = None;
            self.is_quiet.store(false, Ordering::SeqCst);
            return;
        }
        let term = Term(metrics.current_term);
        let led_since = shared.led_since.filter(|(known, _)| *known == term).map_or(now, |(_, since)| since);
        shared.led_since = Some((term, led_since));
        let unanswered = metrics.last_quorum_acked.as_ref().map(|acked| acked.elapsed());
        let since = now.saturating_duration_since(led_since);
        let waited = unanswered.map_or(since, |unanswered| unanswered.min(since));
        let leads_alone = metrics.membership_config.membership().voter_ids().count() == 1;
        let is_quiet = !leads_alone && is_to_keep_quiet(waited, self.parts.timing);
        if self.is_quiet.swap(is_quiet, Ordering::SeqCst) != is_quiet {
            self.parts.raft.runtime_config().heartbeat(!is_quiet);
            if is_quiet && shared.sleep.has_offered() {
                // Whoever still sleeps by its word is to stand now, and its node's pulse says nothing of that.
                self.pulses.begin_era();
            }
        }
    }

    fn standing(&self, metrics: &Metrics) -> Standing {
        let leads = metrics.state == ServerState::Leader;
        let applied = metrics.last_applied.filter(|applied| {
            metrics.last_log_index == Some(applied.index()) && metrics.local_committed == Some(*applied)
        });
        Standing {
            term: Term(metrics.current_term),
            leader: metrics.current_leader,
            leads,
            follows: matches!(metrics.state, ServerState::Follower | ServerState::Learner),
            complete: applied,
            is_settled: leads && self.is_settled(metrics),
        }
    }

    /// Whether all members of a leader's group have its log, which it began itself, and answer.
    fn is_settled(&self, metrics: &Metrics) -> bool {
        let Some(applied) = metrics.last_applied else { return false };
        let membership = metrics.membership_config.membership();
        let patience = self.parts.timing.election_timeout_max;
        let (Some(matching), Some(acked)) = (&metrics.replication, &metrics.heartbeat) else { return false };
        let has_all = |replica: &ReplicaId| matching.get(replica).copied().flatten() == Some(applied);
        let answers = |replica: &ReplicaId| {
            acked.get(replica).is_some_and(|acked| acked.as_ref().is_some_and(|at| at.elapsed() <= patience))
        };
        applied.committed_leader_id().term == metrics.current_term
            && membership.get_joint_config().len() == 1
            && metrics.membership_config.log_id().is_some_and(|decided| decided <= applied)
            && !self.parts.hands_over.load(Ordering::SeqCst)
            && membership
                .nodes()
                .map(|(replica, _)| replica)
                .filter(|replica| **replica != self.parts.replica)
                .all(|replica| has_all(replica) && answers(replica))
            && membership.nodes().any(|(replica, _)| *replica == self.parts.replica)
    }
}

/// Whether a leader that has waited so long for a majority's answer keeps quiet: not while its lease may hold, and then by
/// turns, so that others can be elected, and it can be heard again if nobody is.
fn is_to_keep_quiet(waited: Duration, timing: Timing) -> bool {
    let Some(over) = waited.checked_sub(timing.election_timeout_max) else { return false };
    let turns = over.as_millis() / probe_interval(timing).as_millis().max(1);
    turns.is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leader_that_nobody_answers_is_quiet_and_speaks_by_turns() {
        let timing = Timing::default();
        for (waited_ms, is_quiet) in [
            (0, false),
            (599, false),
            (600, true),
            (6599, true),
            (6600, false),
            (12_599, false),
            (12_600, true),
        ] {
            let waited = Duration::from_millis(waited_ms);
            assert_eq!(is_to_keep_quiet(waited, timing), is_quiet, "{waited_ms} ms");
        }
    }
}
