use super::*;
use crate::check::transactions::{End, Findings, Mixed, Step, Transaction, check};

/// Transactions one after the other, or all at once.
fn transactions(ends: &[(End, Vec<Step>)], at_once: bool) -> Vec<Transaction> {
    let count = ends.len() as u64;
    (0..)
        .zip(ends)
        .map(|(number, (end, steps))| {
            let (invoked, completed) =
                if at_once { (number, count + number) } else { (2 * number, 2 * number + 1) };
            let moment = |sequence| Moment { sequence, time_ns: sequence };
            Transaction {
                invoked: moment(invoked),
                completed: Some(moment(completed)),
                end: *end,
                steps: steps.clone(),
            }
        })
        .collect()
}

fn key(text: &str) -> Key {
    Key::try_from(text).unwrap()
}

fn append(of: &str, value: u32) -> Step {
    Step::Append(key(of), value)
}

fn list(of: &str, values: &[u32]) -> Step {
    Step::ReadList(key(of), values.to_vec())
}

fn write(of: &str, value: u32) -> Step {
    Step::Write(key(of), value)
}

fn read(of: &str, value: Option<u32>) -> Step {
    Step::Read(key(of), value)
}

fn found(ends: &[(End, Vec<Step>)], at_once: bool) -> Findings {
    check(&transactions(ends, at_once)).unwrap()
}

#[test]
fn what_is_in_order_is_accepted() {
    let lists = [
        (End::Committed, vec![append("x", 1), append("y", 1)]),
        (End::Aborted, vec![append("x", 2)]),
        (End::Unknown, vec![append("x", 3), append("y", 3)]),
        (End::Committed, vec![list("x", &[1, 3]), list("y", &[1, 3])]),
    ];
    assert_eq!(found(&lists, false), Findings::default());
    let registers = [
        (End::Committed, vec![read("x", None), write("x", 1), write("y", 1)]),
        (End::Committed, vec![read("x", Some(1)), write("x", 2)]),
        (End::Committed, vec![read("x", Some(2)), read("y", Some(1))]),
    ];
    assert_eq!(found(&registers, false), Findings::default());
}

#[test]
fn planted_anomalies_of_transactions_are_found() {
    use End::{Aborted, Committed};
    for (name, ends) in [
        // Two writes in both orders at once.
        (
            "G0",
            vec![
                (Committed, vec![append("x", 1), append("y", 1)]),
                (Committed, vec![append("x", 2), append("y", 2)]),
                (Committed, vec![list("x", &[1, 2]), list("y", &[2, 1])]),
            ],
        ),
        // A read of what was undone.
        ("G1a", vec![(Aborted, vec![append("x", 1)]), (Committed, vec![list("x", &[1])])]),
        // A read from the middle of a transaction.
        (
            "G1b",
            vec![
                (Committed, vec![append("x", 1), append("x", 2)]),
                (Committed, vec![list("x", &[1])]),
                (Committed, vec![list("x", &[1, 2])]),
            ],
        ),
        // Each saw the other's write.
        (
            "G1c",
            vec![
                (Committed, vec![append("x", 1), list("y", &[1])]),
                (Committed, vec![append("y", 1), list("x", &[1])]),
            ],
        ),
        // Half of a transaction was seen.
        (
            "G-single-item",
            vec![
                (Committed, vec![append("x", 1), append("y", 1)]),
                (Committed, vec![list("x", &[]), list("y", &[1])]),
                (Committed, vec![list("x", &[1])]),
            ],
        ),
        // Write skew.
        (
            "G2-item",
            vec![
                (Committed, vec![list("x", &[]), append("y", 1)]),
                (Committed, vec![list("y", &[]), append("x", 1)]),
                (Committed, vec![list("x", &[1]), list("y", &[1])]),
            ],
        ),
        // Both replaced the same version.
        (
            "lost-update",
            vec![
                (Committed, vec![read("x", None), write("x", 1)]),
                (Committed, vec![read("x", None), write("x", 2)]),
            ],
        ),
        ("internal", vec![(Committed, vec![write("x", 1), read("x", Some(2))])]),
    ] {
        let findings = found(&ends, true);
        assert!(findings.anomalies.contains_key(name), "{name} is not in {findings:#?}");
        assert!(findings.anomalies.values().flatten().all(|words| !words.is_empty()), "{findings:#?}");
    }
}

#[test]
fn a_stale_read_of_a_transaction_is_found() {
    use End::Committed;
    let ends = [
        (Committed, vec![append("x", 1)]),
        (Committed, vec![list("x", &[])]),
        (Committed, vec![list("x", &[1])]),
    ];
    assert_eq!(found(&ends, true), Findings::default(), "at once it may be");
    let findings = found(&ends, false);
    assert!(findings.anomalies.keys().any(|name| name.ends_with("-realtime")), "{findings:#?}");
}

#[test]
fn nothing_to_go_by_is_no_verdict() {
    assert!(check(&[]).unwrap().is_undecided);
    let mixed = transactions(&[(End::Committed, vec![append("x", 1), write("x", 1)])], false);
    assert_eq!(check(&mixed), Err(Mixed));
}
