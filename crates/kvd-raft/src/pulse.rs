//! Whether other nodes are still there, asked once for all groups.
//!
//! # The problem
//! A group that sleeps (see [`crate::sleep`]) has no heartbeats of its own. Its followers must notice all the same when their
//! leader is gone.
//!
//! # The approach
//! A node that has followers asleep asks the nodes of their leaders, each once in [`HEARTBEATS`] heartbeat intervals, however
//! many groups that concerns: these questions are most of what an idle node says. The answer names the *era* of the node that
//! answers: its incarnation, which changes with each start, and a generation, which it raises whenever it closes a replica that
//! has had others sleep, or such a one begins to keep quiet because no majority answers it. Whoever sleeps remembers the era in
//! which it was asked to. It wakes when the node names another one, or is *silent*: it has left [`Options::misses_max`] questions
//! in a row unanswered.
//!
//! Questions are counted and not seconds, so that a process that was stopped, or whose clock has jumped, does not take
//! everybody else for dead when it goes on.
//!
//! # What it deliberately does not do
//! It promises nothing: it renews no lease, and who may lead is decided by votes alone. Who is asked says nothing of single
//! groups; a leader that is there but not heard by its followers makes itself heard.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use kvd_proto::peer::v1::{self as p, envelope::Body};
use kvd_types::{Incarnation, NodeId};
use parking_lot::Mutex;
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use crate::{
    group::Timing,
    transport::{Lane, Transport},
};

/// How many heartbeat intervals there are between two questions.
const HEARTBEATS: u32 = 2;
/// Nodes that are remembered to have asked, at most.
const ASKED_MAX: usize = 1024;

/// A life of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Era {
    incarnation: Incarnation,
    generation: u64,
}

impl Era {
    pub(crate) const fn to_wire(self) -> p::Era {
        p::Era { incarnation: self.incarnation.get(), generation: self.generation }
    }

    pub(crate) fn from_wire(wire: Option<p::Era>) -> Self {
        let wire = wire.unwrap_or_default();
        Self { incarnation: Incarnation(wire.incarnation), generation: wire.generation }
    }
}

/// What is known of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Beat {
    /// The era that it named last.
    pub(crate) era: Option<Era>,
    /// It doesn't answer any more.
    pub(crate) is_silent: bool,
}

impl Beat {
    /// Whether the node still is what it was in an era, as far as is known.
    pub(crate) fn lasts(self, era: Era) -> bool {
        !self.is_silent && self.era.is_none_or(|named| named == era)
    }
}

/// How a node is asked.
#[derive(Clone, Copy, Debug)]
struct Options {
    /// The time between two questions.
    interval: Duration,
    /// So many unanswered ones in a row are silence.
    misses_max: u32,
}

impl Options {
    /// Those with which a node falls silent no sooner than a leader does to a follower that is awake: see [`Timing`].
    fn fitting(timing: Timing) -> Self {
        let interval = (timing.heartbeat * HEARTBEATS).max(Duration::from_millis(1));
        let patience = timing.election_timeout_max + timing.election_timeout_min;
        let misses_max = patience.as_millis().div_ceil(interval.as_millis().max(1));
        Self { interval, misses_max: u32::try_from(misses_max).unwrap_or(u32::MAX).max(2) }
    }
}

/// What a node's answers amount to.
#[derive(Clone, Copy, Debug, Default)]
struct Pulse {
    misses: u32,
    beat: Beat,
}

impl Pulse {
    /// A question is about to be asked.
    fn ask(&mut self, options: Options) {
        self.beat.is_silent |= self.misses >= options.misses_max;
        self.misses = self.misses.saturating_add(1);
    }

    /// A question was answered.
    fn answered(&mut self, era: Era) {
        // An answer that was overtaken says nothing new.
        if self.beat.era <= Some(era) {
            *self = Self { misses: 0, beat: Beat { era: Some(era), is_silent: false } };
        }
    }
}

/// The pulses of the nodes that this one relies on, and its own. Cheap to clone.
#[derive(Clone)]
pub struct Pulses(Arc<Inner>);

struct Inner {
    node: NodeId,
    incarnation: Incarnation,
    transport: Arc<dyn Transport>,
    options: Options,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    generation: u64,
    relied_on: BTreeMap<NodeId, ReliedOn>,
    /// When which node has asked last.
    asked: BTreeMap<NodeId, Instant>,
}

struct ReliedOn {
    /// So many rely on it.
    reliances: usize,
    pulse: Pulse,
    seen: watch::Sender<Beat>,
}

/// A node is relied on as long as this lives.
pub(crate) struct Reliance {
    pulses: Pulses,
    node: NodeId,
    seen: watch::Receiver<Beat>,
}

impl Drop for Reliance {
    fn drop(&mut self) {
        if let Some(relied_on) = self.pulses.0.state.lock().relied_on.get_mut(&self.node) {
            relied_on.reliances = relied_on.reliances.saturating_sub(1);
        }
    }
}

impl Reliance {
    /// What is known of the node.
    pub(crate) fn beat(&self) -> Beat {
        *self.seen.borrow()
    }

    /// Changes when the node falls silent or names another era.
    pub(crate) fn watch(&self) -> watch::Receiver<Beat> {
        self.seen.clone()
    }
}

impl Pulses {
    /// The pulses of a node in one of its starts.
    #[must_use]
    pub fn new(
        node: NodeId,
        incarnation: Incarnation,
        transport: Arc<dyn Transport>,
        timing: Timing,
    ) -> Self {
        let options = Options::fitting(timing);
        Self(Arc::new(Inner { node, incarnation, transport, options, state: Mutex::default() }))
    }

    /// Answers another node's question.
    #[must_use]
    pub fn answer(&self, request: &p::PulseRequest) -> p::PulseResponse {
        let mut state = self.0.state.lock();
        let asker = NodeId(request.node);
        if state.asked.len() < ASKED_MAX || state.asked.contains_key(&asker) {
            state.asked.insert(asker, Instant::now());
        }
        drop(state);
        p::PulseResponse { era: Some(self.era().to_wire()) }
    }

    /// The node that this is.
    pub(crate) fn node(&self) -> NodeId {
        self.0.node
    }

    /// The era as of now.
    pub(crate) fn era(&self) -> Era {
        Era { incarnation: self.0.incarnation, generation: self.0.state.lock().generation }
    }

    /// Begins another era: whoever sleeps by the word of this one wakes.
    pub(crate) fn begin_era(&self) {
        let mut state = self.0.state.lock();
        state.generation = state.generation.saturating_add(1);
    }

    /// Whether a node has asked within a time.
    pub(crate) fn was_asked_by(&self, node: NodeId, within: Duration) -> bool {
        self.0.state.lock().asked.get(&node).is_some_and(|asked| asked.elapsed() <= within)
    }

    /// Relies on a node, which is asked from now on.
    pub(crate) fn rely_on(&self, node: NodeId) -> Reliance {
        let mut state = self.0.state.lock();
        let relied_on = state.relied_on.entry(node).or_insert_with(|| {
            tokio::spawn(ask(Arc::downgrade(&self.0), node));
            ReliedOn { reliances: 0, pulse: Pulse::default(), seen: watch::Sender::default() }
        });
        if relied_on.reliances == 0 {
            relied_on.pulse = Pulse::default();
            relied_on.seen.send_replace(Beat::default());
        }
        relied_on.reliances += 1;
        let seen = relied_on.seen.subscribe();
        drop(state);
        Reliance { pulses: self.clone(), node, seen }
    }
}

impl Inner {
    /// Begins a question, unless nobody relies on the node any more.
    fn begin(&self, node: NodeId) -> bool {
        let mut state = self.state.lock();
        let Some(relied_on) = state.relied_on.get_mut(&node) else { return false };
        if relied_on.reliances == 0 {
            state.relied_on.remove(&node);
            return false;
        }
        relied_on.pulse.ask(self.options);
        relied_on.publish();
        true
    }

    fn end(&self, node: NodeId, answer: Option<Era>) {
        if let Some(era) = answer
            && let Some(relied_on) = self.state.lock().relied_on.get_mut(&node)
        {
            relied_on.pulse.answered(era);
            relied_on.publish();
        }
    }
}

impl ReliedOn {
    fn publish(&self) {
        let beat = self.pulse.beat;
        self.seen.send_if_modified(|known| std::mem::replace(known, beat) != beat);
    }
}

/// Asks a node as long as anybody relies on it.
async fn ask(pulses: Weak<Inner>, node: NodeId) {
    let mut questions = FuturesUnordered::new();
    loop {
        let Some(inner) = pulses.upgrade() else { return };
        if !inner.begin(node) {
            return;
        }
        let interval = inner.options.interval;
        let question = p::Envelope {
            body: Some(Body::Pulse(p::PulseRequest { node: inner.node.get() })),
            ..p::Envelope::default()
        };
        // Not longer: an old answer is none, and so there are never more than a few questions at once.
        questions.push(inner.transport.call(node, Lane::Control, question, interval * 2));
        drop(inner);
        let next = sleep(interval);
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = &mut next => break,
                Some(answer) = questions.next() => {
                    let era = match answer.map(|envelope| envelope.body) {
                        Ok(Some(Body::PulseResponse(response))) => Some(Era::from_wire(response.era)),
                        _ => None,
                    };
                    let Some(inner) = pulses.upgrade() else { return };
                    inner.end(node, era);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: Options = Options { interval: Duration::from_millis(100), misses_max: 3 };

    const fn era(incarnation: u64, generation: u64) -> Era {
        Era { incarnation: Incarnation(incarnation), generation }
    }

    #[test]
    fn a_node_falls_silent_no_sooner_than_a_leader_that_is_awake() {
        let timing = Timing::default();
        let Options { interval, misses_max } = Options::fitting(timing);
        let silent_after = interval * misses_max;
        let patience = timing.election_timeout_max + timing.election_timeout_min;
        assert!((patience..patience + interval).contains(&silent_after), "{silent_after:?}");
    }

    #[test]
    fn a_node_is_silent_after_so_many_unanswered_questions_in_a_row() {
        let mut pulse = Pulse::default();
        for _ in 0..10 {
            for _ in 0..3 {
                pulse.ask(OPTIONS);
                assert!(pulse.beat.lasts(era(1, 1)));
            }
            pulse.answered(era(1, 1));
        }
        for _ in 0..4 {
            assert!(!pulse.beat.is_silent);
            pulse.ask(OPTIONS);
        }
        assert!(pulse.beat.is_silent && !pulse.beat.lasts(era(1, 1)));
        pulse.answered(era(1, 1));
        assert!(pulse.beat.lasts(era(1, 1)), "it is heard again");
    }

    #[test]
    fn another_era_ends_the_one_before_and_an_answer_that_was_overtaken_does_not_bring_it_back() {
        for later in [era(1, 2), era(2, 0)] {
            let mut pulse = Pulse::default();
            pulse.answered(era(1, 1));
            assert!(pulse.beat.lasts(era(1, 1)));
            pulse.answered(later);
            pulse.answered(era(1, 1));
            assert!(pulse.beat.lasts(later) && !pulse.beat.lasts(era(1, 1)));
        }
    }
}
