//! Histories of a store that is right are accepted, and what is spoiled in them is judged alike.

use std::num::NonZeroUsize;

use proptest::{collection::vec, prelude::*};

use super::{
    register::{Manner, play},
    *,
};
use crate::check::{Anomaly, Report, STATES_MAX_DEFAULT, check, linearizability, witness};

const STATES_MAX: NonZeroUsize = STATES_MAX_DEFAULT;

fn any_manner() -> impl Strategy<Value = Manner> {
    (any::<bool>(), any::<bool>())
        .prop_map(|(unique_values, gives_up_conditional)| Manner { unique_values, gives_up_conditional })
}

/// Text that shows the whole history.
fn shown(history: &History) -> String {
    let mut text = Vec::new();
    history.write_to(&mut text).unwrap();
    String::from_utf8(text).unwrap()
}

/// Spoils one thing. Says whether there was one to spoil.
fn spoil(history: &mut History, how: u32, which: usize) -> bool {
    let donors: Vec<(Key, Version)> = history
        .operations
        .iter()
        .filter_map(|it| match it.answer() {
            Some(Answer::Got(Some(version))) => Some((it.key.clone(), version.clone())),
            _ => None,
        })
        .collect();
    let is_wanted = |operation: &Operation| match (how, operation.answer()) {
        (0, Some(Answer::Got(found))) => {
            donors.iter().any(|(key, version)| *key == operation.key && found.as_ref() != Some(version))
        }
        (1, Some(Answer::Got(found))) => found.is_some(),
        (2, Some(Answer::Put { .. } | Answer::Deleted { .. })) => true,
        (3, Some(answer)) => operation.action.is_write() && *answer != Answer::NotFound,
        (4, Some(Answer::ConditionFailed { .. })) => true,
        (5, Some(Answer::Got(_))) => true,
        _ => false,
    };
    let wanted: Vec<usize> =
        (0..history.operations.len()).filter(|&it| is_wanted(&history.operations[it])).collect();
    let Some(&place) = wanted.get(which % wanted.len().max(1)) else { return false };
    let last = history.operations.iter().filter_map(|it| it.completed).map(|it| it.sequence).max();
    let operation = &mut history.operations[place];
    match (how, &mut operation.completion) {
        // Another version is read.
        (0, Completion::Ok(Answer::Got(found))) => {
            let others: Vec<_> = donors
                .iter()
                .filter(|(key, version)| *key == operation.key && found.as_ref() != Some(version))
                .collect();
            *found = Some(others[which % others.len()].1.clone());
        }
        // Nothing is read.
        (1, Completion::Ok(Answer::Got(found))) => *found = None,
        // A write is said not to have happened.
        (2, completion) => *completion = Completion::Fail("spoiled".to_owned()),
        // A write is nowhere.
        (3, _) => {
            history.operations.remove(place);
        }
        // A condition is said to have found nothing.
        (4, Completion::Ok(Answer::ConditionFailed { current })) => *current = None,
        // A read is said to have happened after all else.
        (5, _) => {
            let sequence = last.unwrap() + 1;
            operation.invoked = Moment { sequence, time_ns: 0 };
            operation.completed = Some(Moment { sequence: sequence + 1, time_ns: 0 });
            history.operations.sort_by_key(|it| it.invoked.sequence);
        }
        _ => unreachable!(),
    }
    true
}

fn judge(history: &History) -> (Report, Report) {
    (witness::check(history), linearizability::check(history, STATES_MAX))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_that_is_right_is_accepted(choices in vec(any::<u32>(), 1..400), manner in any_manner()) {
        let history = play(&choices, manner);
        let report = check(&history);
        prop_assert!(report.is_ok(), "{report}\n{}", shown(&history));
    }
}

/// Where the search finds no order there is none, and the witness must have seen that as well; it also sees what only
/// revisions show. Not in all histories that there can be, since it is known to be lenient with equal values and with
/// unknown writes that nobody saw; but in these, which are always the same.
#[test]
fn much_of_what_is_spoiled_is_found() {
    let mut spoiled = [0; 6];
    let (mut by_witness, mut by_search) = ([0; 6], [0; 6]);
    let mut random = 1_u64;
    let mut next = || {
        // Knuth's linear congruential generator: the same histories each time.
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(random >> 32).unwrap()
    };
    for how in 0..6 {
        for _ in 0..200 {
            let choices: Vec<u32> = (0..150).map(|_| next()).collect();
            let manner = Manner { unique_values: true, gives_up_conditional: false };
            let mut history = play(&choices, manner);
            if !spoil(&mut history, how, next() as usize) {
                continue;
            }
            let (witness, search) = judge(&history);
            assert!(
                search.is_ok() || !witness.is_ok(),
                "only the search found it:\n{search}\n{}",
                shown(&history)
            );
            spoiled[how as usize] += 1;
            by_witness[how as usize] += usize::from(!witness.is_ok());
            by_search[how as usize] += usize::from(search.anomalies().contains(&Anomaly::NotLinearizable));
        }
    }
    // The rest is harmless: a refused write that nobody missed, a read that could have been so as well.
    for how in 0..6 {
        let counts = (spoiled[how], by_witness[how], by_search[how]);
        assert!(spoiled[how] >= 160 && by_witness[how] >= 40 && by_search[how] >= 40, "{how}: {counts:?}");
    }
}
