//! What writes do, one rule at a time.

use bytes::Bytes;
use kvd_types::{
    Command, Condition, Outcome, Record, Revision, SessionId,
    limits::{
        OUTCOME_BYTES, SESSION_CLOCK_STEP_MAX, SESSION_IDLE_MAX, SESSION_OUTCOME_BYTES_MAX,
        SESSION_OUTCOMES_MAX, SESSIONS_EXPIRED_PER_ENTRY_MAX, SESSIONS_MAX, SHARD_OUTCOME_BYTES_MAX,
        VALUE_BYTES_MAX,
    },
    outcome::Refusal,
};

use super::{NOW_MS, Replica, SHARD, delete, in_session, key, once, only_if, put, quietly, revision_of};
use crate::shard::CLOCK_MAX;

const UNKNOWN: Outcome = Outcome::Refused(Refusal::SessionUnknown);
const ACKNOWLEDGED: Outcome = Outcome::Refused(Refusal::SequenceAcknowledged);
const FULL: Outcome = Outcome::Refused(Refusal::SessionFull);

fn record(value: &'static str, create_revision: Revision, revision: Revision, version: u64) -> Record {
    Record {
        value: Bytes::from_static(value.as_bytes()),
        create_revision,
        revision,
        version,
        lease: None,
        expires_at_age_ms: None,
    }
}

#[test]
fn a_key_has_the_life_that_etcd_would_give_it() {
    let first = Revision::from_unix_ms(NOW_MS);
    let (second, third) = (first.next(), first.next().next());
    let mut replica = Replica::new(SHARD);
    let reader = replica.shard().reader();
    let outcomes = replica.apply_at(
        NOW_MS,
        vec![
            once(put("k", "a")),
            once(put("k", "b")),
            once(delete("k")),
            once(delete("k")),
            once(put("k", "c")),
        ],
    );
    let fourth = third.next();
    assert_eq!(
        outcomes,
        [
            Outcome::Put { revision: first, create_revision: first, version: 1, previous: None },
            Outcome::Put {
                revision: second,
                create_revision: first,
                version: 2,
                previous: Some(record("a", first, first, 1)),
            },
            Outcome::Deleted { revision: third, previous: Some(record("b", first, second, 2)) },
            Outcome::NotFound,
            Outcome::Put { revision: fourth, create_revision: fourth, version: 1, previous: None },
        ]
    );
    assert_eq!(reader.get(&key("k")).unwrap(), Some(record("c", fourth, fourth, 1)));
    assert_eq!(reader.get(&key("other")).unwrap(), None);
}

#[test]
fn previous_versions_come_only_when_asked_for() {
    let mut replica = Replica::new(SHARD);
    replica.apply(once(put("k", "a")));
    let Outcome::Put { previous: None, .. } = replica.apply(once(quietly(put("k", "b")))) else { panic!() };
    let failed = replica.apply(once(quietly(only_if(Condition::Absent, put("k", "c")))));
    let Outcome::ConditionFailed { current: Some(current) } = failed else { panic!("{failed:?}") };
    assert_eq!((current.value.len(), current.version), (0, 2));
    let failed = replica.apply(once(only_if(Condition::Absent, put("k", "c"))));
    let Outcome::ConditionFailed { current: Some(current) } = failed else { panic!("{failed:?}") };
    assert_eq!(current.value, "b");
    let Outcome::Deleted { previous: None, .. } = replica.apply(once(quietly(delete("k")))) else { panic!() };
}

#[test]
fn conditions_decide() {
    let absent = Condition::Absent;
    let is = Condition::RevisionIs;
    let mut replica = Replica::new(SHARD);
    let revision = revision_of(&replica.apply(once(put("k", "a"))));
    let current = Some(record("a", revision, revision, 1));
    let failed = Outcome::ConditionFailed { current };
    let missing = Outcome::ConditionFailed { current: None };
    let wrong = is(revision.next());
    let rows = replica.rows();
    for (op, expected) in [
        (only_if(absent, put("k", "b")), &failed),
        (only_if(absent, delete("k")), &failed),
        (only_if(absent, delete("none")), &Outcome::NotFound),
        (only_if(wrong, put("k", "b")), &failed),
        (only_if(wrong, delete("k")), &failed),
        (only_if(is(Revision::ZERO), put("none", "b")), &missing),
        (only_if(is(Revision::ZERO), delete("none")), &missing),
    ] {
        assert_eq!(replica.apply(once(op)), *expected);
    }
    let same_but_for_the_books: Vec<_> = replica.rows().split_off(1);
    assert_eq!(same_but_for_the_books, rows[1..]);
    let next = revision_of(&replica.apply(once(only_if(is(revision), put("k", "b")))));
    assert_eq!(next, revision.next(), "what changed nothing took no revision");
    revision_of(&replica.apply(once(only_if(absent, put("new", "b")))));
    revision_of(&replica.apply(once(only_if(is(next), delete("k")))));
}

#[test]
fn revisions_grow_whatever_the_clock_does() {
    let mut replica = Replica::new(SHARD);
    let year_ms = 365 * 24 * 3600 * 1000;
    let mut last = Revision::ZERO;
    for unix_ms in [0, NOW_MS, NOW_MS + year_ms, NOW_MS, 0, u64::MAX, NOW_MS, u64::MAX, NOW_MS] {
        for outcome in replica.apply_at(unix_ms, vec![once(put("k", "v")), once(put("k", "v"))]) {
            let revision = revision_of(&outcome);
            assert!(revision > last, "{revision} after {last}");
            assert!(revision.unix_ms() >= unix_ms.min(CLOCK_MAX.unix_ms()));
            last = revision;
        }
    }
    assert_eq!(replica.shard().reader().stats().last_revision, last);
    assert!(last.get() - CLOCK_MAX.get() < 100, "half of all revisions are left");
}

#[test]
fn a_retry_gets_the_first_outcome_and_writes_nothing() {
    let mut replica = Replica::new(SHARD);
    let session = replica.open_session();
    let first = replica.apply(in_session(session, 1, 1, put("k", "a")));
    let failed = replica.apply(in_session(session, 2, 1, only_if(Condition::Absent, put("k", "b"))));
    let missing = replica.apply(in_session(session, 3, 1, delete("none")));
    let gone = replica.apply(in_session(session, 4, 1, delete("k")));
    replica.apply(once(put("none", "now it is there")));
    let digest = replica.machine.digest();
    for (sequence, outcome) in [(1, first), (2, failed), (3, missing), (4, gone)] {
        // A retry says the same but for the oldest number that is open; what it says is not looked at.
        assert_eq!(replica.apply(in_session(session, sequence, 1, put("k", "retried"))), outcome);
    }
    assert_eq!(replica.machine.digest(), digest);
}

#[test]
fn acknowledged_outcomes_are_forgotten_and_their_numbers_refused() {
    let mut replica = Replica::new(SHARD);
    let session = replica.open_session();
    let outcomes: Vec<_> =
        (1..=200).map(|number| replica.apply(in_session(session, number, 1, put("k", "v")))).collect();
    let digest = replica.machine.digest();
    assert_eq!(replica.apply(in_session(session, 130, 130, delete("k"))), outcomes[129]);
    assert_eq!(replica.apply(in_session(session, 129, 1, delete("k"))), ACKNOWLEDGED);
    assert_eq!(
        replica.apply(in_session(session, 130, 1, delete("k"))),
        outcomes[129],
        "the floor never goes back"
    );
    assert_eq!(replica.apply(in_session(session, 5, u64::MAX, delete("k"))), ACKNOWLEDGED);
    assert_eq!(replica.apply(in_session(session, 200, 1, delete("k"))), ACKNOWLEDGED);
    assert_eq!(replica.machine.digest(), digest);
    revision_of(&replica.apply(in_session(session, u64::MAX, u64::MAX, delete("k"))));
    replica.save();
    let mut replica = replica.crash();
    let Outcome::Deleted { .. } = replica.apply(in_session(session, u64::MAX, u64::MAX, put("k", "v")))
    else {
        panic!("the last number of all is forgotten")
    };
}

#[test]
fn numbers_may_come_in_any_order() {
    let mut replica = Replica::new(SHARD);
    let session = replica.open_session();
    let third = replica.apply(in_session(session, 3, 1, put("k", "3")));
    let first = replica.apply(in_session(session, 1, 1, put("k", "1")));
    assert!(revision_of(&first) > revision_of(&third));
    assert_eq!(replica.apply(in_session(session, 3, 1, put("k", "x"))), third);
}

#[test]
fn an_unknown_or_closed_session_is_refused() {
    let mut replica = Replica::new(SHARD);
    assert_eq!(replica.apply(in_session(SessionId(1), 1, 1, put("k", "v"))), UNKNOWN);
    let session = replica.open_session();
    revision_of(&replica.apply(in_session(session, 1, 1, put("k", "v"))));
    assert_eq!(replica.apply(Command::CloseSession(session)), Outcome::SessionClosed);
    assert_eq!(replica.apply(Command::CloseSession(session)), Outcome::SessionClosed);
    assert_eq!(replica.apply(in_session(session, 1, 1, put("k", "v"))), UNKNOWN);
    assert_eq!(replica.apply(in_session(session, 2, 1, put("k", "v"))), UNKNOWN);
}

#[test]
fn session_ids_are_never_minted_twice() {
    let mut replica = Replica::new(SHARD);
    let mut last = SessionId(0);
    for unix_ms in [NOW_MS, NOW_MS, 0, u64::MAX, NOW_MS, u64::MAX] {
        let opened = replica.apply_at(unix_ms, vec![Command::OpenSession]);
        let [Outcome::SessionOpened(session)] = opened[..] else { panic!("{opened:?}") };
        assert!(session > last);
        last = session;
        replica.apply(Command::CloseSession(session));
        replica.save();
        replica = replica.crash();
    }
}

#[test]
fn a_session_with_too_many_open_outcomes_is_full_until_some_are_acknowledged() {
    let mut replica = Replica::new(SHARD);
    let session = replica.open_session();
    let max = u64::try_from(SESSION_OUTCOMES_MAX).unwrap();
    replica
        .apply_at(NOW_MS, (1..=max).map(|number| in_session(session, number, 1, delete("none"))).collect());
    let digest = replica.machine.digest();
    assert_eq!(replica.apply(in_session(session, max + 1, 1, put("k", "v"))), FULL);
    assert_eq!(replica.machine.digest(), digest);
    assert_eq!(
        replica.apply(in_session(session, max, 1, put("k", "v"))),
        Outcome::NotFound,
        "retries still work"
    );
    revision_of(&replica.apply(in_session(session, max + 1, 2, put("k", "v"))));
    assert_eq!(replica.apply(in_session(session, max + 2, 2, put("k", "v"))), FULL);
}

#[test]
fn large_previous_values_fill_a_session_and_then_the_shard() {
    let per_session = u64::try_from(SESSION_OUTCOME_BYTES_MAX / VALUE_BYTES_MAX).unwrap();
    let mut replica = Replica::new(SHARD);
    replica.apply(once(put("k", vec![0; VALUE_BYTES_MAX])));
    // Each outcome carries the value, and all of them share its memory.
    let failing = || only_if(Condition::Absent, put("k", "v"));
    let mut remembered_bytes = 0;
    let mut sessions = Vec::new();
    let full_one = loop {
        let session = replica.open_session();
        sessions.push(session);
        for number in 1..=per_session {
            let outcome = replica.apply(in_session(session, number, 1, failing()));
            if outcome == FULL {
                break;
            }
            remembered_bytes += VALUE_BYTES_MAX + OUTCOME_BYTES;
        }
        if remembered_bytes + VALUE_BYTES_MAX + OUTCOME_BYTES > SHARD_OUTCOME_BYTES_MAX {
            break session;
        }
        assert_eq!(replica.apply(in_session(session, per_session + 1, 1, failing())), FULL);
        let Outcome::ConditionFailed { .. } =
            replica.apply(in_session(session, per_session + 1, 1, quietly(failing())))
        else {
            panic!("an outcome without the value is small")
        };
        remembered_bytes += OUTCOME_BYTES;
    };
    assert!(sessions.len() > 1);
    assert_eq!(replica.apply(in_session(full_one, 999, 1, failing())), FULL);
    let digest = replica.machine.digest();
    assert_eq!(
        replica.apply(in_session(full_one, 999, 1, put("k", "v"))),
        FULL,
        "its outcome would hold the value"
    );
    assert_eq!(replica.machine.digest(), digest, "so it was not made");

    replica.save();
    let mut replica = replica.crash();
    assert_eq!(
        replica.apply(in_session(full_one, 999, 1, failing())),
        FULL,
        "the sums are the same after a restart"
    );
    replica.apply(Command::CloseSession(sessions[0]));
    let Outcome::ConditionFailed { .. } = replica.apply(in_session(full_one, 999, 1, failing())) else {
        panic!("there is room again")
    };
}

#[test]
fn a_shard_remembers_so_many_sessions() {
    let mut replica = Replica::new(SHARD);
    let opened = replica.apply_at(NOW_MS, vec![Command::OpenSession; SESSIONS_MAX + 1]);
    let Outcome::SessionOpened(first) = opened[0] else { panic!() };
    assert_eq!(opened.last(), Some(&Outcome::Refused(Refusal::TooManySessions)));
    assert_eq!(replica.shard().reader().stats().sessions, SESSIONS_MAX);
    replica.apply(Command::CloseSession(first));
    replica.open_session();
    assert_eq!(replica.apply(Command::OpenSession), Outcome::Refused(Refusal::TooManySessions));
}

/// Lets the sessions' time pass by a duration, in entries that are near enough to each other to count in full.
fn wait(replica: &mut Replica, from_ms: u64, wait_ms: u64) -> u64 {
    let step_ms = u64::try_from(SESSION_CLOCK_STEP_MAX.as_millis()).unwrap();
    let mut left_ms = wait_ms;
    let mut now_ms = from_ms;
    while left_ms > 0 {
        let step_ms = step_ms.min(left_ms);
        left_ms -= step_ms;
        now_ms += step_ms;
        replica.apply_at(now_ms, Vec::new());
    }
    now_ms
}

fn idle_max_ms() -> u64 {
    u64::try_from(SESSION_IDLE_MAX.as_millis()).unwrap()
}

#[test]
fn an_idle_session_expires_and_a_used_one_does_not() {
    let mut replica = Replica::new(SHARD);
    replica.apply_at(NOW_MS, Vec::new());
    let (idle, used) = (replica.open_session(), replica.open_session());
    let now_ms = wait(&mut replica, NOW_MS, idle_max_ms() - 1000);
    let outcome = replica.apply_at(now_ms, vec![in_session(used, 1, 1, put("k", "v"))]).remove(0);
    revision_of(&outcome);
    replica.save();
    replica = replica.crash();
    assert_eq!(replica.shard().reader().stats().sessions, 2);
    let now_ms = wait(&mut replica, now_ms, 1000);
    assert_eq!(replica.shard().reader().stats().sessions, 1);
    let late = vec![in_session(idle, 1, 1, put("k", "w")), in_session(used, 1, 1, put("k", "w"))];
    assert_eq!(replica.apply_at(now_ms, late), [UNKNOWN, outcome]);
}

#[test]
fn a_clock_that_jumps_costs_a_session_in_use_nothing() {
    let mut replica = Replica::new(SHARD);
    replica.apply_at(NOW_MS, Vec::new());
    let session = replica.open_session();
    let mut number = 0;
    for unix_ms in [NOW_MS * 2, NOW_MS, u64::MAX, 0, NOW_MS, NOW_MS / 2, NOW_MS] {
        number += 1;
        let outcome =
            replica.apply_at(unix_ms, vec![in_session(session, number, 1, put("k", "v"))]).remove(0);
        revision_of(&outcome);
    }
    // Time goes on from wherever the clock is.
    wait(&mut replica, NOW_MS, idle_max_ms());
    assert_eq!(replica.shard().reader().stats().sessions, 0);
}

#[test]
fn sessions_expire_a_few_per_entry_the_longest_idle_first() {
    let mut replica = Replica::new(SHARD);
    replica.apply_at(NOW_MS, vec![Command::OpenSession; SESSIONS_EXPIRED_PER_ENTRY_MAX]);
    let later_ms = NOW_MS + 5000;
    replica.apply_at(later_ms, vec![Command::OpenSession; SESSIONS_EXPIRED_PER_ENTRY_MAX]);
    let reader = replica.shard().reader();
    let now_ms = wait(&mut replica, later_ms, idle_max_ms());
    assert_eq!(reader.stats().sessions, SESSIONS_EXPIRED_PER_ENTRY_MAX);
    replica.apply_at(now_ms, Vec::new());
    assert_eq!(reader.stats().sessions, 0);
    replica.apply_at(now_ms, Vec::new());
    assert_eq!(reader.stats().sessions, 0);
}
