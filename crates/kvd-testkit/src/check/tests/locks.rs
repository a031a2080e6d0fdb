use std::collections::BTreeMap;

use super::*;
use crate::check::locks::{Fenced, Hold, Lock, check};

/// A write: its token, its revision, and what stood there before: a token and a revision.
type Write = (u64, u64, Option<(u64, u64)>);

fn found(writes: &[Write], holds: &[(u64, u64, u64)]) -> usize {
    let at_ms = |ms: u64| Moment { sequence: ms, time_ns: ms * 1_000_000 };
    let writes = writes.iter().map(|&(token, revision, previous)| Fenced {
        token: Revision(token),
        revision: Revision(revision),
        previous: previous.map(|(revision, token)| (Revision(revision), Revision(token))),
    });
    let holds = holds.iter().map(|&(token, from, until)| Hold {
        token: Revision(token),
        from: at_ms(from),
        until: at_ms(until),
    });
    let lock = Lock { writes: writes.collect(), holds: holds.collect() };
    check(&BTreeMap::from([("a".to_owned(), lock)])).len()
}

#[test]
fn holders_one_after_the_other_are_accepted_and_so_is_a_write_that_nobody_was_told_of() {
    let writes = [(1, 10, None), (1, 11, Some((10, 1))), (5, 14, Some((13, 5)))];
    assert_eq!(found(&writes, &[(1, 0, 100), (1, 0, 200), (5, 190, 300)]), 0, "clocks have a grain");
}

#[test]
fn an_old_holder_that_writes_is_found() {
    assert_eq!(found(&[(5, 10, None), (1, 11, Some((10, 5)))], &[]), 1);
    // Nobody was told of the later holder's write; it was seen.
    assert_eq!(found(&[(1, 11, Some((10, 5)))], &[]), 1);
}

#[test]
fn what_was_in_the_register_before_must_be_what_was() {
    assert_eq!(found(&[(1, 10, None), (1, 12, None)], &[]), 1);
    assert_eq!(
        found(&[(1, 10, Some((10, 5)))], &[]),
        2,
        "two tokens at one revision, and it is its own predecessor"
    );
}

#[test]
fn two_that_are_sure_at_the_same_time_are_found() {
    assert_eq!(found(&[], &[(1, 0, 300), (5, 200, 400)]), 1);
    assert_eq!(found(&[], &[(1, 0, 900), (1, 100, 200), (5, 300, 400)]), 1, "the longest counts");
}
