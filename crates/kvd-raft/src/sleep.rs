//! Groups that have nothing to do sleep.
//!
//! # The problem
//! A leader speaks up several times within an election timeout, and each replica's timer ticks several times between. With
//! hundreds of groups on a node that is most of a processor, for nothing: an idle group's followers only need to know that
//! their leader's process is still there, which is the same for all of them.
//!
//! # The approach
//! As hibernating regions (TiKV) and quiescent ranges (`CockroachDB`). A leader that has had nothing to do for a while, whose
//! members all have, have applied and know to be committed all of its log, stops its heartbeats and *offers* each of them to
//! sleep. One that follows it in this term, and whose log ends at the same entry, agrees: it stops its timer and relies on the
//! pulse of the leader's node instead (see [`crate::pulse`]). Once all have agreed the leader stops its own timer. If one of
//! them doesn't agree the leader goes on as before, and its next heartbeat wakes those that have.
//!
//! Everything wakes a replica: whatever another replica's core says to it; and a leader, what it is to write, lease or change.
//! The first thing that a leader does is speak up, and it writes once a majority has answered, as openraft wants it.
//!
//! # Why nobody sleeps for ever
//! - A follower that sleeps wakes when the leader's node is silent, or names another era than that of the offer: it has
//!   started anew, or has closed a replica that may have had others sleep. It may stand for election after a short time by
//!   chance, so that hundreds of groups don't at one moment.
//! - A leader that wakes speaks up like any other until it is heard, which wakes its followers. If no majority answers it, it
//!   keeps quiet for a while, as openraft has it, and its node begins another era, so that they stand.
//! - A leader that is deposed was told so by a message, which woke it: it has a timer again and stands if nobody else leads.
//! - A follower that is awake while its leader sleeps (it was started again, say, or only the two of them were cut off from
//!   each other) asks all members who leads: a leader that is there wakes and speaks up. If there is none, it stands.
//!
//! An offer that comes late is refused if it is not the latest of its term that was heard, or of an era that is over. One that
//! is agreed to wrongly all the same costs nothing: either the leader is awake, and its next heartbeat wakes the follower, or
//! it is not there, and its node's pulse tells.
//!
//! # Elections
//! A replica that is asked for its vote while it sleeps has no reason to believe its leader gone: it wakes, and refuses for a
//! moment, in which the leader can be heard. After that openraft's own rules hold again. So a replica that has been cut off
//! from the leader alone deposes nobody.
//!
//! # What it deliberately does not do
//! Safety never depends on it: it switches timers, and refuses votes. No promise is made or renewed: to a leader that wakes, its
//! lease is over until a majority has answered it anew. Nothing sleeps while something in the shard has a lifetime (its age is
//! then committed about once a second), nor while a member can't be reached.

use std::time::Duration;

use kvd_types::{ReplicaId, Term};
use tokio::time::Instant;

use crate::{pulse::Era, types::LogId};

/// When a replica sleeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    /// A leader that has had nothing to do for so long offers sleep.
    pub(crate) after: Duration,
    /// Votes are refused for so long after one that came while it slept.
    pub(crate) refusal: Duration,
    /// A replica that hears no leader asks for one after so long…
    pub(crate) ask_after: Duration,
    /// …and then at longer and longer intervals, up to this.
    pub(crate) ask_interval_max: Duration,
}

/// Where a replica stands, as its core says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) term: Term,
    pub(crate) leader: Option<ReplicaId>,
    /// It leads, as far as it knows.
    pub(crate) leads: bool,
    /// It follows, with or without a vote.
    pub(crate) follows: bool,
    /// The last entry of its log, if it knows that to be committed and has applied it.
    pub(crate) complete: Option<LogId>,
    /// Of a leader: that entry is of its term, all members have it and answer, and none of them is being changed.
    pub(crate) is_settled: bool,
}

impl Standing {
    /// Whether the core has not gone on. Who has answered lately doesn't matter once heartbeats have ceased.
    fn is_as_before(self, standing: Self) -> bool {
        self == Self { is_settled: self.is_settled, ..standing }
    }
}

/// What a leader says to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Offer {
    pub(crate) term: Term,
    pub(crate) leader: ReplicaId,
    pub(crate) last: LogId,
    pub(crate) number: u64,
    pub(crate) era: Era,
}

/// What a replica does about its timer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Awake,
    /// It leads, and has offered sleep.
    Offers(Standing),
    /// It leads, and its members sleep.
    Leads(Standing),
    /// It follows, and relies on the leader's node.
    Follows(Standing),
}

/// What a replica was before it was woken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Before {
    /// As it is.
    Awake,
    /// It was about to sleep.
    Offered,
    /// It led, and slept.
    Led,
    /// It followed, and slept.
    Followed,
}

/// Whether a replica sleeps.
#[derive(Debug)]
pub(crate) struct Sleep {
    options: Options,
    state: State,
    /// When there was something to do last.
    busy_at: Instant,
    /// When a leader was heard last, or asked for.
    heard_at: Instant,
    /// How often it was asked for since it was heard.
    asked: u32,
    woken_at: Option<Instant>,
    refuses_until: Option<Instant>,
    /// The number of its last offer.
    number: u64,
    /// The last offer that it has heard.
    heard_offer: Option<(Term, u64)>,
}

impl Sleep {
    pub(crate) fn new(options: Options, now: Instant) -> Self {
        Self {
            options,
            state: State::Awake,
            busy_at: now,
            heard_at: now,
            asked: 0,
            woken_at: None,
            refuses_until: None,
            number: 0,
            heard_offer: None,
        }
    }

    /// Whether its timer is off.
    pub(crate) const fn sleeps(&self) -> bool {
        matches!(self.state, State::Leads(_) | State::Follows(_))
    }

    /// Whether it sleeps and leads, or did until a moment ago.
    pub(crate) fn has_just_led(&self, now: Instant, moment: Duration) -> bool {
        matches!(self.state, State::Leads(_)) || self.woken_at.is_some_and(|woken| now < woken + moment)
    }

    /// Whether it has ever had others sleep.
    pub(crate) const fn has_offered(&self) -> bool {
        self.number > 0
    }

    /// There is something to do for one that leads. One that follows is left as it is: it can do nothing.
    pub(crate) fn busy(&mut self, now: Instant) -> Before {
        self.busy_at = now;
        if matches!(self.state, State::Follows(_)) { Before::Awake } else { self.wake(now) }
    }

    /// Wakes it.
    pub(crate) fn wake(&mut self, now: Instant) -> Before {
        let before = match self.state {
            State::Awake => return Before::Awake,
            State::Offers(_) => Before::Offered,
            State::Leads(_) => Before::Led,
            State::Follows(_) => Before::Followed,
        };
        self.state = State::Awake;
        self.busy_at = now;
        self.heard_at = now;
        self.woken_at = Some(now);
        before
    }

    /// A leader has spoken.
    pub(crate) const fn heard(&mut self, now: Instant) {
        self.heard_at = now;
        self.asked = 0;
    }

    /// Whether a leader is to be asked for now.
    pub(crate) fn asks(&mut self, now: Instant, leads: bool) -> bool {
        if leads || self.sleeps() {
            self.heard(now);
            return false;
        }
        let interval = self.options.ask_after.saturating_mul(1 << self.asked.min(8));
        if now < self.heard_at + interval.min(self.options.ask_interval_max) {
            return false;
        }
        self.heard_at = now;
        self.asked = self.asked.saturating_add(1);
        true
    }

    /// Whether a vote is refused, by one that slept when it was asked for it. Wakes it.
    pub(crate) fn refuses_vote(&mut self, now: Instant) -> (Before, bool) {
        if self.sleeps() {
            self.refuses_until = Some(now + self.options.refusal);
        }
        (self.wake(now), self.refuses_until.is_some_and(|until| now < until))
    }

    /// Whether this leader is to offer sleep; if so it has begun to.
    pub(crate) fn offers(
        &mut self,
        now: Instant,
        standing: Standing,
        own: ReplicaId,
        era: Era,
    ) -> Option<Offer> {
        let is_idle = self.state == State::Awake && now >= self.busy_at + self.options.after;
        let last = standing.complete.filter(|_| is_idle && standing.leads && standing.is_settled)?;
        self.number += 1;
        self.state = State::Offers(standing);
        Some(Offer { term: standing.term, leader: own, last, number: self.number, era })
    }

    /// What became of the offer. Whether the replica sleeps now.
    pub(crate) fn offered(&mut self, now: Instant, standing: Standing, all_agreed: bool) -> bool {
        match self.state {
            State::Offers(began) if all_agreed && began.is_as_before(standing) => {
                self.state = State::Leads(began);
                true
            }
            State::Offers(_) => {
                self.wake(now);
                false
            }
            // Something has come up meanwhile.
            State::Awake | State::Leads(_) | State::Follows(_) => false,
        }
    }

    /// Takes up an offer, or doesn't. Whether the replica sleeps now.
    pub(crate) fn agrees(&mut self, offer: Offer, standing: Standing) -> bool {
        let is_latest = self.heard_offer.is_none_or(|heard| heard < (offer.term, offer.number));
        if is_latest {
            self.heard_offer = Some((offer.term, offer.number));
        }
        let agrees = is_latest
            && self.state == State::Awake
            && standing.follows
            && standing.term == offer.term
            && standing.leader == Some(offer.leader)
            && standing.complete == Some(offer.last);
        if agrees {
            self.state = State::Follows(standing);
        }
        agrees
    }

    /// Whether the core has gone on while it slept.
    pub(crate) fn is_overtaken(&self, standing: Standing) -> bool {
        match self.state {
            State::Leads(slept) | State::Follows(slept) => !slept.is_as_before(standing),
            State::Awake | State::Offers(_) => false,
        }
    }
}

#[cfg(test)]
mod tests;
