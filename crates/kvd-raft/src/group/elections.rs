//! Elections that find no winner.
//!
//! # The problem
//! Replicas that stand for election at about the same time split the votes, and stand again after about the same time. On a
//! machine that is short of processor or disk an election takes longer than the times at which replicas stand lie apart, and
//! none ever wins: a term follows on the other, and the group has no leader until the machine has nothing else to do.
//!
//! # The approach
//! As on a shared wire (binary exponential back-off, Metcalfe and Boggs, Ethernet, 1976): a replica that has stood and not
//! won waits for a time by chance before it may stand again, from a range that doubles with each failure. It goes on voting for
//! others meanwhile. The first try is never held back, so that a leader that dies is replaced as fast as ever, and once
//! anybody leads all is forgotten.
//!
//! # What it deliberately does not do
//! It has no clock and no chance of its own.

use std::time::Duration;

use kvd_types::Term;

/// The longest range, as a multiple of the longest election timeout.
const RANGE_MAX: u32 = 8;

/// How a replica's elections have gone since somebody led.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Elections {
    /// The last term in which it stood.
    stood_in: Option<Term>,
    /// How often it stood.
    stood: u32,
}

impl Elections {
    /// Takes note of where the replica stands. If it has just stood again in vain: the longest time that it is to wait
    /// before it stands once more, of which it takes a part by chance.
    pub(super) fn look(
        &mut self,
        term: Term,
        is_candidate: bool,
        has_leader: bool,
        timeout_max: Duration,
    ) -> Option<Duration> {
        if has_leader {
            *self = Self::default();
            return None;
        }
        if !is_candidate || self.stood_in >= Some(term) {
            return None;
        }
        self.stood_in = Some(term);
        self.stood = self.stood.saturating_add(1);
        let failures = self.stood.saturating_sub(1);
        (failures > 0).then(|| timeout_max * (1 << failures.min(8)).min(RANGE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(600);

    #[test]
    fn the_range_doubles_with_each_failure_up_to_a_bound() {
        let mut elections = Elections::default();
        let ranges: Vec<_> = (1..7)
            .map(|term| elections.look(Term(term), true, false, TIMEOUT).map(|range| range / 600))
            .collect();
        let ms = |count| Some(Duration::from_millis(count));
        assert_eq!(ranges, [None, ms(2), ms(4), ms(8), ms(8), ms(8)]);
    }

    #[test]
    fn a_leader_makes_all_be_forgotten() {
        let mut elections = Elections::default();
        assert_eq!(elections.look(Term(1), true, false, TIMEOUT), None);
        assert!(elections.look(Term(2), true, false, TIMEOUT).is_some());
        assert_eq!(elections.look(Term(3), false, true, TIMEOUT), None);
        assert_eq!(elections.look(Term(4), true, false, TIMEOUT), None, "the first try is not held back");
    }

    #[test]
    fn an_election_counts_once_and_others_candidatures_not_at_all() {
        let mut elections = Elections::default();
        assert_eq!(elections.look(Term(1), true, false, TIMEOUT), None);
        assert_eq!(elections.look(Term(1), true, false, TIMEOUT), None);
        assert_eq!(elections.look(Term(5), false, false, TIMEOUT), None);
        assert!(elections.look(Term(6), true, false, TIMEOUT).is_some());
    }
}
