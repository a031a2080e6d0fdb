//! Judging transactions that span keys.
//!
//! # The problem
//! A transaction reads and writes several keys, and all of that at one moment: that is strict serializability. The searches for
//! single keys don't extend to it, for the question is then about all keys at once.
//!
//! # The approach
//! Adya's ("Weak Consistency", 1999), as Kingsbury and Alvaro made it work from outside ("Elle", VLDB 2020): transactions
//! depend on one another by what they read and wrote, and a cycle of dependencies is an anomaly with a name. The crate
//! [`adya`] does that; this module gives it our transactions and takes back what it found. Appends to lists tell most, for a list that
//! was read shows the order of all appends before it; for plain registers it also goes by time.
//!
//! # What it deliberately does not do
//! There is no file format: simulations record transactions and judge them in one process. Whether the right branch of a
//! transaction was done is for whoever asked for it: it knows the compares.

use std::collections::BTreeMap;

use adya::{
    Opts, Valid, Workload,
    history::{History, Interner, Mop, Op, OpType, ReadValue, Scalar},
};
use kvd_types::Key;

use crate::history::Moment;

/// One thing that a transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Appended to the list of a key. No two append the same value to the same key.
    Append(Key, u32),
    /// Read the list of a key; of no interest unless the transaction was committed.
    ReadList(Key, Vec<u32>),
    /// Set a key. No two set the same key to the same value.
    Write(Key, u32),
    /// Read a key, `None`: it was absent; of no interest unless the transaction was committed.
    Read(Key, Option<u32>),
}

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was made.
    Committed,
    /// It certainly was not made and never will be.
    Aborted,
    /// It can't be told.
    Unknown,
}

/// A transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// When, at the latest, it had not been sent yet.
    pub invoked: Moment,
    /// When the client was told what became of it; `None`: it never was.
    pub completed: Option<Moment>,
    /// What became of it.
    pub end: End,
    /// What it did, in its order.
    pub steps: Vec<Step>,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// The names of the anomalies that strict serializability forbids, or that follow from them, each with what it is, in words.
    pub anomalies: BTreeMap<String, Vec<String>>,
    /// Nothing wrong was found, but not because all was looked at: there was nothing to go by, or the time ran out.
    pub is_undecided: bool,
}

/// Lists and registers can't be judged together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the transactions both append to lists and write registers: check them apart")]
pub struct Mixed;

/// Judges transactions by strict serializability.
///
/// # Errors
/// Some work on lists and some on registers.
pub fn check(transactions: &[Transaction]) -> Result<Findings, Mixed> {
    let steps = || transactions.iter().flat_map(|transaction| &transaction.steps);
    let is_list = |step: &Step| matches!(step, Step::Append(..) | Step::ReadList(..));
    let workload = match (steps().any(is_list), steps().any(|step| !is_list(step))) {
        (true, true) => return Err(Mixed),
        (true, false) => Workload::ListAppend,
        (false, _) => Workload::RwRegister,
    };
    // What is strictly serializable has linearizable keys, and a transaction that reads a key before it writes it has
    // replaced what it read.
    let options = Opts { wfr_keys: true, linearizable_keys: true, ..Opts::default() };
    let report = adya::check(&history(transactions), workload, &options);
    let mut findings = Findings::default();
    match report.valid {
        Valid::True => {}
        Valid::Unknown => findings.is_undecided = true,
        Valid::False => {
            for (name, anomalies) in report.anomalies {
                findings.anomalies.insert(name, anomalies.into_iter().map(|it| it.explanation).collect());
            }
        }
    }
    Ok(findings)
}

/// The transactions in the words of the crate.
fn history(transactions: &[Transaction]) -> History {
    let mut interner = Interner::default();
    let mut events: Vec<(Moment, Op)> = Vec::with_capacity(transactions.len() * 2);
    for (number, transaction) in (0..).zip(transactions) {
        let mut add = |at: Moment, kind: OpType| {
            let steps = transaction.steps.iter();
            let value = steps.map(|step| micro_operation(step, kind, &mut interner)).collect();
            let time = i64::try_from(at.time_ns).ok();
            // Invocations and completions are paired by their process: each transaction is one of its own.
            events.push((at, Op { index: at.sequence, kind, process: Some(number), value, time }));
        };
        add(transaction.invoked, OpType::Invoke);
        if let Some(completed) = transaction.completed {
            add(
                completed,
                match transaction.end {
                    End::Committed => OpType::Ok,
                    End::Aborted => OpType::Fail,
                    End::Unknown => OpType::Info,
                },
            );
        }
    }
    events.sort_by_key(|(at, _)| at.sequence);
    History::from_ops(events.into_iter().map(|(_, event)| event).collect(), interner)
}

fn micro_operation(step: &Step, kind: OpType, interner: &mut Interner) -> Mop {
    let is_read = kind == OpType::Ok;
    let key = |key: &Key, interner: &mut Interner| {
        interner.intern(Scalar::Str(key.as_bytes().escape_ascii().to_string()))
    };
    let number = |value: u32, interner: &mut Interner| interner.intern(Scalar::Int(value.into()));
    match step {
        Step::Append(of, value) => Mop::Append { key: key(of, interner), value: number(*value, interner) },
        Step::Write(of, value) => Mop::Write { key: key(of, interner), value: number(*value, interner) },
        Step::ReadList(of, values) => {
            let value = if is_read {
                ReadValue::List(values.iter().map(|&value| number(value, interner)).collect())
            } else {
                ReadValue::Nil
            };
            Mop::Read { value, key: key(of, interner) }
        }
        Step::Read(of, value) => {
            let value = value.filter(|_| is_read).map(|value| number(value, interner));
            Mop::Read { value: value.map_or(ReadValue::Nil, ReadValue::Scalar), key: key(of, interner) }
        }
    }
}
