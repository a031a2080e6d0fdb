use std::sync::atomic::{AtomicU64, Ordering};

use kvd_types::ErrorKind;

use super::*;

fn key(text: &str) -> Key {
    Key::try_from(text).unwrap()
}

fn sample() -> History {
    let time_ns = AtomicU64::new(0);
    let recorder = Recorder::with_clock(move || time_ns.fetch_add(1000, Ordering::Relaxed));
    let binary = Bytes::from_static(b"\x00\xff");
    let conditional =
        Action::Put { value: binary.clone(), condition: Condition::Absent, want_previous: true };
    let first = recorder.invoke(Process(1), key("a"), conditional);
    let second = recorder.invoke(Process(2), Key::new(binary.clone()).unwrap(), Action::Get);
    recorder.note("node 2 was killed");
    let current = Version {
        value: Some(binary),
        revision: Revision(u64::MAX),
        create_revision: Revision(7),
        version: 3,
    };
    first.ok(Answer::ConditionFailed { current: Some(current.clone()) });
    let condition = Condition::RevisionIs(Revision(u64::MAX));
    let dropped = recorder.invoke(Process(3), key("a"), Action::Delete { condition, want_previous: false });
    drop(dropped);
    second.complete(Completion::Fail("no".to_owned()));
    recorder.invoke(Process(1), key("b"), Action::Get).ok(Answer::Got(None));
    recorder.invoke(Process(1), key("a"), Action::Get).ok(Answer::Got(Some(current)));
    drop(recorder.invoke(
        Process(1),
        key("c"),
        Action::Put { value: "x".into(), condition: Condition::Always, want_previous: false },
    ));
    recorder.set_shard(key("a"), ShardId(4));
    recorder.history()
}

#[test]
fn what_is_written_is_what_is_read() {
    let history = sample();
    let mut text = Vec::new();
    history.write_to(&mut text).unwrap();
    assert_eq!(History::read_from(text.as_slice()).unwrap(), history);
    let lines = String::from_utf8(text).unwrap();
    assert_eq!(lines.lines().count(), 2 * history.operations.len() + history.notes.len() + 1, "{lines}");
}

#[test]
fn whoever_gives_up_does_not_know() {
    let history = sample();
    let dropped = &history.operations[2];
    assert!(dropped.is_unknown() && dropped.completed.is_some(), "{dropped}");
    assert_eq!(dropped.done_by(), u64::MAX);
}

#[test]
fn operations_under_way_are_unknown() {
    let recorder = Recorder::real_time();
    let invocation = recorder.invoke(Process(0), key("a"), Action::Get);
    let history = recorder.history();
    assert!(history.operations[0].is_unknown() && history.operations[0].completed.is_none());
    let mut text = Vec::new();
    history.write_to(&mut text).unwrap();
    assert!(History::read_from(text.as_slice()).unwrap().operations[0].is_unknown());
    invocation.ok(Answer::Got(None));
    assert_eq!(recorder.history().operations[0].answer(), Some(&Answer::Got(None)));
}

#[test]
fn events_are_in_one_order_whatever_the_clock_says() {
    let recorder = Recorder::with_clock(|| 5);
    std::thread::scope(|scope| {
        for process in 0..4 {
            let recorder = &recorder;
            scope.spawn(move || {
                for _ in 0..100 {
                    recorder.invoke(Process(process), key("a"), Action::Get).ok(Answer::Got(None));
                }
            });
        }
    });
    let history = recorder.history();
    let mut sequences: Vec<u64> = history
        .operations
        .iter()
        .flat_map(|operation| [operation.invoked.sequence, operation.completed.unwrap().sequence])
        .collect();
    assert!(history.operations.iter().all(|it| it.invoked.sequence < it.done_by()));
    assert!(history.operations.is_sorted_by_key(|it| it.invoked.sequence));
    sequences.sort_unstable();
    assert_eq!(sequences, (0..800).collect::<Vec<u64>>());
}

#[test]
fn only_a_write_can_be_unknown() {
    let put = Action::Put { value: Bytes::new(), condition: Condition::Always, want_previous: false };
    let unknown = kvd_types::Error::unknown("?");
    let refused = kvd_types::Error::new(ErrorKind::Unavailable, "!");
    assert_eq!(Completion::of_error(&put, &unknown), Completion::Unknown("?".to_owned()));
    assert_eq!(Completion::of_error(&Action::Get, &unknown), Completion::Fail("?".to_owned()));
    assert_eq!(Completion::of_error(&put, &refused), Completion::Fail("!".to_owned()));
}

#[test]
fn files_that_cant_be_are_refused_with_the_line() {
    let invoke =
        r#"{"event":"invoke","sequence":5,"time_ns":0,"operation":0,"process":3,"key":"a","action":"get"}"#;
    let complete = |sequence: u64| {
        format!(
            r#"{{"event":"complete","sequence":{sequence},"time_ns":0,"operation":0,"completion":{{"ok":{{"got":null}}}}}}"#
        )
    };
    assert!(History::read_from(format!("{invoke}\n\n{}\n", complete(6)).as_bytes()).is_ok());
    for (lines, line, why) in [
        (format!("{invoke}\n{invoke}"), 2, "sequence number 5"),
        (format!("{invoke}\n{}", complete(4)), 2, "before it is invoked"),
        (format!("{invoke}\n{}\n{}", complete(6), complete(7)), 3, "a second time"),
        (complete(6), 1, "not invoked"),
        (format!("{invoke}\nnonsense"), 2, "expected"),
        (invoke.replace(r#""a""#, r#"{"hex":"0"}"#), 1, "odd number"),
        (invoke.replace(r#""a""#, r#"{"hex":"0x"}"#), 1, "not hexadecimal"),
    ] {
        let error = History::read_from(lines.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(&format!("line {line} ")) && error.contains(why), "{error}");
    }
}

#[test]
fn answers_that_no_store_can_give() {
    let version = Version { value: None, revision: Revision(1), create_revision: Revision(1), version: 1 };
    let put = |condition| Action::Put { value: Bytes::new(), condition, want_previous: false };
    let failed = Answer::ConditionFailed { current: Some(version.clone()) };
    assert!(fits(&put(Condition::Absent), &failed));
    assert!(!fits(&put(Condition::Always), &failed), "what condition?");
    assert!(!fits(&Action::Get, &Answer::NotFound));
    assert!(!fits(&Action::Get, &Answer::Got(Some(version))), "a get tells the value");
    let delete = |condition| Action::Delete { condition, want_previous: false };
    assert!(fits(&delete(Condition::Absent), &Answer::NotFound));
    assert!(!fits(&delete(Condition::RevisionIs(Revision(1))), &Answer::NotFound), "the condition failed");
    let deleted = Answer::Deleted { revision: Revision(2), previous: None };
    assert!(!fits(&delete(Condition::Absent), &deleted), "there was nothing to delete");
}
