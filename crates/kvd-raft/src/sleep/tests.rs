//! What a replica does about its timer, case by case, and a group of replicas under messages that are lost, late and repeated.

use proptest::prelude::*;

use super::*;
use crate::codec;

const OPTIONS: Options = Options {
    after: Duration::from_secs(3),
    refusal: Duration::from_millis(240),
    ask_after: Duration::from_millis(240),
    ask_interval_max: Duration::from_secs(2),
};
const MS: Duration = Duration::from_millis(1);

fn leads(term: u64, index: u64) -> Standing {
    Standing {
        term: Term(term),
        leader: Some(ReplicaId(1)),
        leads: true,
        follows: false,
        complete: Some(codec::log_id(term, index)),
        is_settled: true,
    }
}

fn follows(term: u64, index: u64) -> Standing {
    Standing { leads: false, follows: true, is_settled: false, ..leads(term, index) }
}

fn offer(term: u64, index: u64, number: u64) -> Offer {
    Offer {
        term: Term(term),
        leader: ReplicaId(1),
        last: codec::log_id(term, index),
        number,
        era: Era::default(),
    }
}

fn offers(sleep: &mut Sleep, now: Instant, standing: Standing) -> Option<Offer> {
    sleep.offers(now, standing, ReplicaId(1), Era::default())
}

#[test]
fn a_leader_offers_sleep_after_a_while_of_nothing_and_sleeps_once_all_have_agreed() {
    let start = Instant::now();
    let mut sleep = Sleep::new(OPTIONS, start);
    assert_eq!(offers(&mut sleep, start + 2999 * MS, leads(4, 9)), None);
    assert_eq!(sleep.busy(start + 2999 * MS), Before::Awake);
    assert_eq!(offers(&mut sleep, start + 5998 * MS, leads(4, 9)), None);
    for standing in [
        follows(4, 9),
        Standing { complete: None, ..leads(4, 9) },
        Standing { is_settled: false, ..leads(4, 9) },
    ] {
        assert_eq!(offers(&mut sleep, start + 9000 * MS, standing), None, "{standing:?}");
    }
    assert_eq!(offers(&mut sleep, start + 9000 * MS, leads(4, 9)), Some(offer(4, 9, 1)));
    assert!(!sleep.sleeps());
    assert!(sleep.offered(start + 9001 * MS, leads(4, 9), true) && sleep.sleeps());
    assert_eq!(sleep.busy(start + 9002 * MS), Before::Led);
    assert!(!sleep.sleeps());

    let mut follower = Sleep::new(OPTIONS, start);
    assert!(follower.agrees(offer(4, 9, 1), follows(4, 9)));
    assert_eq!(follower.busy(start), Before::Awake);
    assert!(follower.sleeps(), "it has nothing to write");
}

#[test]
fn a_leader_that_has_something_to_do_meanwhile_or_is_refused_does_not_sleep() {
    let start = Instant::now();
    let at = start + OPTIONS.after;
    let began = |sleep: &mut Sleep| offers(sleep, at, leads(4, 9)).unwrap();
    let mut sleep = Sleep::new(OPTIONS, start);
    began(&mut sleep);
    assert!(!sleep.offered(at, leads(4, 9), false));
    assert_eq!(offers(&mut sleep, at + 2999 * MS, leads(4, 9)), None, "it rests before it tries again");

    let mut sleep = Sleep::new(OPTIONS, start);
    began(&mut sleep);
    assert_eq!(sleep.busy(at), Before::Offered);
    assert!(!sleep.offered(at, leads(4, 9), true));

    let mut sleep = Sleep::new(OPTIONS, start);
    began(&mut sleep);
    assert!(!sleep.offered(at, leads(4, 10), true), "its log has gone on");
}

#[test]
fn a_follower_agrees_to_what_it_knows_itself_and_to_each_offer_once() {
    let start = Instant::now();
    let agrees = |offer, standing| Sleep::new(OPTIONS, start).agrees(offer, standing);
    assert!(agrees(offer(4, 9, 1), follows(4, 9)));
    for standing in [
        follows(5, 9),
        follows(4, 8),
        follows(4, 10),
        Standing { leader: Some(ReplicaId(2)), ..follows(4, 9) },
        Standing { leader: None, ..follows(4, 9) },
        Standing { follows: false, ..follows(4, 9) },
        Standing { complete: None, ..follows(4, 9) },
    ] {
        assert!(!agrees(offer(4, 9, 1), standing), "{standing:?}");
    }
    let mut sleep = Sleep::new(OPTIONS, start);
    assert!(sleep.agrees(offer(4, 9, 7), follows(4, 9)));
    assert_eq!(sleep.wake(start), Before::Followed);
    for late in [offer(4, 9, 7), offer(4, 9, 6), offer(3, 9, 8)] {
        assert!(!sleep.agrees(late, follows(4, 9)), "{late:?}");
    }
    assert!(sleep.agrees(offer(4, 9, 8), follows(4, 9)));
}

#[test]
fn one_that_is_asked_for_its_vote_while_it_sleeps_wakes_and_refuses_for_a_moment() {
    let start = Instant::now();
    let mut sleep = Sleep::new(OPTIONS, start);
    assert_eq!(sleep.refuses_vote(start), (Before::Awake, false));
    assert!(sleep.agrees(offer(4, 9, 1), follows(4, 9)));
    assert_eq!(sleep.refuses_vote(start + MS), (Before::Followed, true));
    assert_eq!(sleep.refuses_vote(start + 240 * MS), (Before::Awake, true));
    assert_eq!(sleep.refuses_vote(start + 241 * MS), (Before::Awake, false));
}

#[test]
fn one_that_hears_no_leader_asks_for_it_less_and_less_often() {
    let start = Instant::now();
    let mut sleep = Sleep::new(OPTIONS, start);
    let asked: Vec<_> = (0..10_000).filter(|&ms| sleep.asks(start + ms * MS, false)).collect();
    assert_eq!(asked, [240, 720, 1680, 3600, 5600, 7600, 9600]);
    sleep.heard(start + 10_000 * MS);
    assert!(!sleep.asks(start + 10_239 * MS, false) && sleep.asks(start + 10_240 * MS, false));
    assert!((0..10_000).all(|ms| !sleep.asks(start + (20_000 + ms) * MS, true)), "it leads");
}

#[test]
fn whatever_its_core_does_meanwhile_is_noticed() {
    let start = Instant::now();
    let mut sleep = Sleep::new(OPTIONS, start);
    assert!(sleep.agrees(offer(4, 9, 1), follows(4, 9)));
    assert!(!sleep.is_overtaken(follows(4, 9)));
    for standing in [follows(5, 9), follows(4, 10), leads(4, 9), Standing { leader: None, ..follows(4, 9) }] {
        assert!(sleep.is_overtaken(standing), "{standing:?}");
    }
}

/// What is on its way.
#[derive(Clone, Copy, Debug)]
enum Message {
    Offer(Offer),
    Heartbeat,
    Question,
}

/// What happens in a group.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// So many milliseconds pass, in which the leader speaks if it is awake, and offers sleep if it is time.
    Pass(u64),
    /// A message arrives; it may arrive again.
    Arrives { place: usize, again: bool },
    /// A message is lost.
    Lost(usize),
    /// The leader has something to write.
    Write,
    /// A follower wakes: it was started again, or has missed pulses.
    Wakes(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1_u64..4000).prop_map(Step::Pass),
        8 => (any::<usize>(), any::<bool>()).prop_map(|(place, again)| Step::Arrives { place, again }),
        2 => any::<usize>().prop_map(Step::Lost),
        1 => Just(Step::Write),
        1 => (0_usize..2).prop_map(Step::Wakes),
    ]
}

/// A leader and two followers, whose cores agree on everything: only who sleeps is in question.
struct Three {
    now: Instant,
    index: u64,
    leader: Sleep,
    followers: [Sleep; 2],
    /// Each with the follower that it is to, or from.
    messages: Vec<(usize, Message)>,
    /// Which followers have agreed to the offer that is open, and its number.
    agreed: (u64, [bool; 2]),
}

impl Three {
    fn new() -> Self {
        let now = Instant::now();
        let sleep = || Sleep::new(OPTIONS, now);
        Self {
            now,
            index: 1,
            leader: sleep(),
            followers: [sleep(), sleep()],
            messages: Vec::new(),
            agreed: (0, [false; 2]),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now += u32::try_from(ms).unwrap() * MS;
        if let Some(offer) = offers(&mut self.leader, self.now, leads(4, self.index)) {
            self.agreed = (offer.number, [false; 2]);
            self.messages.extend([0, 1].map(|to| (to, Message::Offer(offer))));
        } else if !self.leader.sleeps() {
            self.messages.extend([0, 1].map(|to| (to, Message::Heartbeat)));
        }
        for (from, follower) in self.followers.iter_mut().enumerate() {
            if follower.asks(self.now, false) {
                self.messages.push((from, Message::Question));
            }
        }
    }

    fn arrives(&mut self, (place, message): (usize, Message)) {
        let follower = &mut self.followers[place];
        match message {
            Message::Heartbeat => {
                follower.wake(self.now);
                follower.heard(self.now);
            }
            Message::Question => {
                self.leader.busy(self.now);
            }
            Message::Offer(offer) => {
                if follower.agrees(offer, follows(4, self.index)) && offer.number == self.agreed.0 {
                    self.agreed.1[place] = true;
                }
                let (number, agreed) = self.agreed;
                if agreed == [true; 2] {
                    self.agreed.1 = [false; 2];
                    let sleeps = self.leader.offered(self.now, leads(4, self.index), true);
                    // Whoever sleeps has been told of everything.
                    assert!(!sleeps || number > 0);
                }
            }
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Pass(ms) => self.pass(ms),
            Step::Arrives { place, again } if !self.messages.is_empty() => {
                let place = place % self.messages.len();
                let message = if again { self.messages[place] } else { self.messages.swap_remove(place) };
                self.arrives(message);
            }
            Step::Lost(place) if !self.messages.is_empty() => {
                self.messages.swap_remove(place % self.messages.len());
            }
            Step::Arrives { .. } | Step::Lost(_) => {}
            Step::Write => {
                self.index += 1;
                self.leader.busy(self.now);
            }
            Step::Wakes(which) => {
                self.followers[which].wake(self.now);
            }
        }
    }
}

proptest! {
    /// However messages were lost, late and repeated: once they arrive, a follower that is awake is heard of by its leader
    /// and hears it, a write reaches everybody, and at last all sleep again.
    #[test]
    fn nobody_is_left_behind(steps in prop::collection::vec(step(), 0..120), writes: bool) {
        let mut three = Three::new();
        for step in steps {
            three.take(step);
        }
        // What is on its way arrives, in whatever order; an offer that was broken off has come to its end.
        let settle = |three: &mut Three, ms: u64| {
            three.leader.offered(three.now, leads(4, three.index), false);
            three.pass(ms);
            for message in std::mem::take(&mut three.messages) {
                three.arrives(message);
            }
        };
        if writes {
            three.take(Step::Write);
            settle(&mut three, 100);
            settle(&mut three, 100);
            prop_assert!(three.followers.iter().all(|follower| !follower.sleeps()), "a write wakes them");
        } else if three.followers.iter().any(|follower| !follower.sleeps()) {
            for _ in 0..40 {
                settle(&mut three, 100);
            }
        }
        for _ in 0..100 {
            settle(&mut three, 100);
        }
        let asleep = three.leader.sleeps() && three.followers.iter().all(Sleep::sleeps);
        prop_assert!(asleep, "{:?} {:?}", three.leader, three.followers);
    }
}
