//! One small history per thing that can go wrong, and who must see it.

use std::{collections::BTreeSet, num::NonZeroUsize};

use super::*;
use crate::check::{Anomaly, check, linearizability, witness};

const STATES_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();

/// A history that is wrong.
struct Plant {
    name: &'static str,
    play: fn(&mut Script),
    /// What the witness must say, and nothing else.
    witness: &'static [Anomaly],
    /// Whether values and conditions alone show it.
    shows_without_revisions: bool,
}

/// One that both checkers must see.
const fn plain(name: &'static str, witness: &'static [Anomaly], play: fn(&mut Script)) -> Plant {
    Plant { name, play, witness, shows_without_revisions: true }
}

/// One that only revisions and versions show.
const fn subtle(name: &'static str, witness: &'static [Anomaly], play: fn(&mut Script)) -> Plant {
    Plant { name, play, witness, shows_without_revisions: false }
}

const PLANTS: &[Plant] = &[
    plain("a read of the version before an acknowledged write", &[Anomaly::StaleRead], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(put("b"), made(2, 1, 2));
        it.run(get(), got("a", 1, 1, 1));
        it.run(get(), got("b", 2, 1, 2));
    }),
    plain("an absence read after an acknowledged write that is there again", &[Anomaly::StaleRead], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(get(), NOTHING);
        it.run(get(), got("a", 1, 1, 1));
    }),
    plain("a failed condition that tells of an old version", &[Anomaly::StaleRead], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(put("b"), made(2, 1, 2));
        let action = Action::Put { value: "c".into(), condition: Condition::Absent, want_previous: true };
        it.run(action, Answer::ConditionFailed { current: seen("a", 1, 1, 1) });
    }),
    plain(
        "two reads during a write, the later one of the version before",
        &[Anomaly::NonMonotonicRead],
        |it| {
            it.run(put("a"), made(1, 1, 1));
            let write = it.begin(put("b"));
            it.run(get(), got("b", 2, 1, 2));
            it.run(get(), got("a", 1, 1, 1));
            it.end(write, made(2, 1, 2));
        },
    ),
    plain("a read of what is written later", &[Anomaly::FutureRead], |it| {
        it.run(get(), got("a", 1, 1, 1));
        it.run(put("a"), made(1, 1, 1));
    }),
    plain("a read of what is written later, with an unknown outcome", &[Anomaly::FutureRead], |it| {
        it.run(get(), got("a", 1, 1, 1));
        it.unknown(put("a"));
    }),
    subtle("a version that counts an unknown write before it was asked for", &[Anomaly::FutureRead], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(put("b"), made(3, 1, 3));
        it.unknown(put("c"));
    }),
    plain("a read of a write that was refused", &[Anomaly::DirtyRead], |it| {
        it.fail(put("a"));
        it.run(get(), got("a", 1, 1, 1));
    }),
    plain("a read of a write whose condition failed", &[Anomaly::DirtyRead], |it| {
        it.run(put("a"), made(1, 1, 1));
        let failed =
            Answer::ConditionFailed { current: seen("a", 1, 1, 1).map(|it| Version { value: None, ..it }) };
        it.run(put_if("b", Condition::Absent), failed);
        it.run(get(), got("b", 2, 1, 2));
    }),
    plain("a read of what nobody wrote", &[Anomaly::InventedValue], |it| {
        it.run(get(), got("a", 1, 1, 1));
    }),
    plain("an acknowledged write that is gone", &[Anomaly::LostWrite], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(get(), NOTHING);
    }),
    plain("a delete that finds nothing after an acknowledged write", &[Anomaly::LostWrite], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(delete(), Answer::NotFound);
    }),
    plain(
        "an acknowledged write that is gone, before somebody asks for a delete",
        &[Anomaly::LostWrite],
        |it| {
            it.run(put("a"), made(1, 1, 1));
            it.run(get(), NOTHING);
            it.unknown(delete());
        },
    ),
    subtle("an acknowledged write that the next one does not count", &[Anomaly::LostWrite], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(put("b"), made(2, 1, 2));
        it.run(put("c"), made(3, 1, 2));
    }),
    subtle("a key that begins anew though nobody deleted it", &[Anomaly::LostWrite], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(put("b"), made(2, 2, 1));
    }),
    plain("two writes on the same version", &[Anomaly::LostUpdate, Anomaly::LostWrite], |it| {
        it.run(put("0"), made(1, 1, 1));
        it.run(put_if("a", at(1)), made(2, 1, 2));
        it.run(put_if("b", at(1)), made(3, 1, 2));
    }),
    plain(
        "two writes on the same version, of which one is unknown and was seen",
        &[Anomaly::LostUpdate],
        |it| {
            it.run(put("0"), made(1, 1, 1));
            it.unknown(put_if("a", at(1)));
            it.run(get(), got("a", 2, 1, 2));
            it.run(put_if("b", at(1)), made(3, 1, 3));
        },
    ),
    plain("a value that comes back", &[Anomaly::DoubleApply], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.unknown(put("b"));
        it.run(get(), got("b", 2, 1, 2));
        it.run(put("c"), made(3, 1, 3));
        it.run(get(), got("b", 4, 1, 4));
    }),
    plain("an acknowledged write that happens again", &[Anomaly::DoubleApply], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(put("b"), made(2, 1, 2));
        it.run(get(), got("a", 3, 1, 3));
    }),
    subtle("a version that counts more writes than there were", &[Anomaly::DoubleApply], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(put("b"), made(3, 1, 3));
    }),
    plain("two deletes of one version", &[Anomaly::DoubleApply], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(delete(), deleted(2));
        it.run(delete(), deleted(3));
    }),
    plain("what was deleted is read again", &[Anomaly::ResurrectedKey], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(delete(), deleted(2));
        it.run(get(), got("a", 1, 1, 1));
    }),
    plain("what was seen to be deleted is read again", &[Anomaly::ResurrectedKey], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.unknown(delete());
        it.run(get(), NOTHING);
        it.run(get(), got("a", 1, 1, 1));
    }),
    subtle("a key that goes on after its delete", &[Anomaly::ResurrectedKey], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(delete(), deleted(2));
        it.run(put("b"), made(3, 1, 2));
    }),
    subtle("two writes at one revision", &[Anomaly::RevisionReuse], |it| {
        let first = it.begin(put("a"));
        let second = it.begin(put("b"));
        it.end(first, made(1, 1, 1));
        it.end(second, made(1, 1, 1));
    }),
    plain("a revision that is read with another value", &[Anomaly::RevisionReuse], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.fail(put("b"));
        it.run(get(), got("b", 1, 1, 1));
    }),
    subtle("two keys of a shard at one revision", &[Anomaly::RevisionReuse], |it| {
        let (one, two) = (it.begin_on("k", put("a")), it.begin_on("l", put("b")));
        it.end(one, made(1, 1, 1));
        it.end(two, made(1, 1, 1));
        for key in ["k", "l"] {
            it.history.shards.insert(Key::try_from(key).unwrap(), ShardId(1));
        }
    }),
    subtle("a version that is read with another number", &[Anomaly::WrongMetadata], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(get(), got("a", 1, 1, 2));
    }),
    subtle("a version that is since later than its revision", &[Anomaly::WrongMetadata], |it| {
        it.run(put("a"), made(1, 2, 1));
    }),
    subtle("a creation revision that changes", &[Anomaly::WrongMetadata], |it| {
        it.run(put("a"), made(5, 5, 1));
        it.run(put("b"), made(6, 4, 2));
    }),
    plain("a put of an absent key that is there", &[Anomaly::ConditionWronglyHeld], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(put_if("b", Condition::Absent), made(2, 1, 2));
    }),
    plain(
        "a put of an absent key that is there, and says it was not",
        &[Anomaly::ConditionWronglyHeld],
        |it| {
            it.run(put("a"), made(1, 1, 1));
            it.run(put_if("b", Condition::Absent), made(2, 2, 1));
        },
    ),
    plain("a put on a version that is gone", &[Anomaly::ConditionWronglyHeld], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(put("b"), made(2, 1, 2));
        it.run(put_if("c", at(1)), made(3, 1, 3));
    }),
    plain("a put on a version that there never was", &[Anomaly::ConditionWronglyHeld], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(put_if("c", at(7)), made(8, 1, 2));
    }),
    plain("a condition that holds and is said not to", &[Anomaly::ConditionWronglyFailed], |it| {
        it.run(put("a"), made(1, 1, 1));
        let current = seen("a", 1, 1, 1).map(|it| Version { value: None, ..it });
        it.run(put_if("b", at(1)), Answer::ConditionFailed { current });
    }),
    plain("a delete that names a version before the last", &[Anomaly::WrongPrevious], |it| {
        it.run(put("a"), made(1, 1, 1));
        it.run(put("b"), made(2, 1, 2));
        let action = Action::Delete { condition: Condition::Always, want_previous: true };
        it.run(action, Answer::Deleted { revision: Revision(3), previous: seen("a", 1, 1, 1) });
    }),
    plain("a put that says there was nothing before", &[Anomaly::WrongPrevious], |it| {
        it.run(put("a"), made(1, 1, 1));
        let action = Action::Put { value: "b".into(), condition: Condition::Always, want_previous: true };
        it.run(action, made(2, 1, 2));
    }),
    subtle("a write that gets a revision below that of one before", &[Anomaly::WriteOrder], |it| {
        it.run(put("b"), made(2, 1, 2));
        it.run(put("a"), made(1, 1, 1));
    }),
    subtle("a write that gets a revision below that of another key", &[Anomaly::ShardOrder], |it| {
        it.run_on("k", 1, put("a"), made(5, 5, 1));
        it.run_on("l", 1, put("b"), made(4, 4, 1));
    }),
    plain("a get that is told of a put", &[Anomaly::ImpossibleAnswer], |it| {
        it.run(get(), made(1, 1, 1));
        // What makes no sense is left out by the search, so here is something for it.
        it.run(get(), got("x", 1, 1, 1));
    }),
];

fn play(plant: &Plant) -> History {
    let mut script = Script::default();
    (plant.play)(&mut script);
    script.history
}

#[test]
fn each_planted_anomaly_is_found_by_who_must() {
    for plant in PLANTS {
        let history = play(plant);
        let found = witness::check(&history);
        let mut expected: BTreeSet<Anomaly> = plant.witness.iter().copied().collect();
        if expected.contains(&Anomaly::ImpossibleAnswer) {
            expected.insert(Anomaly::InventedValue);
        }
        assert_eq!(found.anomalies(), expected, "{}:\n{found}", plant.name);
        let searched = linearizability::check(&history, STATES_MAX);
        assert_eq!(
            searched.anomalies().contains(&Anomaly::NotLinearizable),
            plant.shows_without_revisions,
            "{}:\n{searched}",
            plant.name
        );
        assert!(searched.undecided.is_empty(), "{}:\n{searched}", plant.name);
    }
}

#[test]
fn each_kind_of_anomaly_is_planted() {
    let found: BTreeSet<Anomaly> = PLANTS.iter().flat_map(|plant| check(&play(plant)).anomalies()).collect();
    let missing: Vec<_> = Anomaly::ALL.iter().filter(|anomaly| !found.contains(anomaly)).collect();
    assert!(missing.is_empty(), "no test plants {missing:?}");
}

#[test]
fn what_unknown_writes_explain_is_accepted() {
    let histories: [fn(&mut Script); 9] = [
        |it| {
            // It happens long after its client has given up.
            it.run(put("a"), made(1, 1, 1));
            it.unknown(put("b"));
            it.run(get(), got("a", 1, 1, 1));
            it.run(get(), got("b", 2, 1, 2));
        },
        |it| {
            // Nobody saw it, but it counts.
            it.run(put("a"), made(1, 1, 1));
            it.unknown(put("b"));
            it.run(put("c"), made(3, 1, 3));
        },
        |it| {
            // An unknown delete, and one that nobody saw before the key began anew.
            it.run(put("a"), made(1, 1, 1));
            it.unknown(delete());
            it.run(put("b"), made(3, 3, 1));
            it.unknown(delete());
            it.run(get(), NOTHING);
        },
        |it| {
            // The unknown put made the key that was deleted.
            it.unknown(put("a"));
            it.run(delete(), deleted(2));
            it.run(get(), NOTHING);
        },
        |it| {
            // It explains why the key was not absent.
            it.unknown(put("a"));
            let current = seen("a", 1, 1, 1).map(|it| Version { value: None, ..it });
            it.run(put_if("b", Condition::Absent), Answer::ConditionFailed { current });
        },
        |it| {
            // A key that was made by one unknown put and counts another.
            it.unknown(put("a"));
            it.unknown(put("b"));
            it.run(put("c"), made(3, 1, 3));
        },
        |it| {
            // Reads during a write may see either, in their order.
            it.run(put("a"), made(1, 1, 1));
            let write = it.begin(put("b"));
            let early = it.begin(get());
            it.run(get(), got("b", 2, 1, 2));
            it.end(early, got("a", 1, 1, 1));
            it.end(write, made(2, 1, 2));
        },
        |it| {
            // Equal values of unknown puts: one each.
            it.run(put("0"), made(1, 1, 1));
            it.unknown(put("a"));
            it.unknown(put("a"));
            it.run(get(), got("a", 2, 1, 2));
            it.run(put("b"), made(3, 1, 3));
            it.run(get(), got("a", 4, 1, 4));
        },
        |it| {
            // A condition on the revision of an unknown write.
            it.run(put("0"), made(1, 1, 1));
            it.unknown(put_if("a", at(1)));
            it.run(get(), got("a", 2, 1, 2));
            it.run(put_if("b", at(2)), made(3, 1, 3));
            let current = seen("b", 3, 1, 3).map(|it| Version { value: None, ..it });
            it.run(put_if("c", at(2)), Answer::ConditionFailed { current });
        },
    ];
    for (number, play) in histories.iter().enumerate() {
        let mut script = Script::default();
        play(&mut script);
        let report = check(&script.history);
        assert!(report.is_ok(), "history {number}:\n{report}");
    }
}

#[test]
fn a_search_that_gives_up_says_so() {
    let mut script = Script::default();
    // Many at once, and then something that none of their orders explains.
    let values = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let writes: Vec<usize> = values.iter().map(|value| script.begin(put(value))).collect();
    for (revision, write) in (1..).zip(writes) {
        script.end(write, made(revision, 1, revision));
    }
    script.run(get(), NOTHING);
    let few = linearizability::check(&script.history, NonZeroUsize::new(20).unwrap());
    assert!(!few.is_ok() && few.violations.is_empty() && few.undecided.len() == 1, "{few}");
    let enough = linearizability::check(&script.history, STATES_MAX);
    assert_eq!(enough.anomalies(), BTreeSet::from([Anomaly::NotLinearizable]), "{enough}");
}

#[test]
fn a_report_shows_what_happened() {
    let history = play(&PLANTS[0]);
    let report = witness::check(&history).to_string();
    for part in
        ["StaleRead of key k", "> [", "get -> \"a\" at revision 1", "4 operations on 1 keys: 1 violations"]
    {
        assert!(report.contains(part), "{part} is not in\n{report}");
    }
}
