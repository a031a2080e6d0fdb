//! Goes through histories and everything that can go wrong with them, until enough was tried.
//!
//! A case is named by where it is, and everything that is left to chance in it comes from the seed and that name: so one
//! case can be tried again alone.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, Instant},
};

use super::{
    crashes::{self, Cut, PATTERNS},
    failures::{self, FAULTS},
    rot,
    summary::Summary,
};
use kvd_storage::disk::chance::Chance;

/// Flips on one stopped store.
const FLIPS_PER_HISTORY: u64 = 250;
/// Failures and lies are tried at every so many operations of a history, each time others.
const FAULT_STRIDE: u64 = 5;

/// How much is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// From which everything is derived.
    pub seed: u64,
    /// Power cuts.
    pub points: u64,
    /// Changes of a stopped store's bytes.
    pub flips: u64,
    /// When to stop although there was not enough.
    pub time_limit: Option<Duration>,
}

/// One case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Case {
    /// The power goes out.
    Cut {
        /// Which history.
        history: u64,
        /// At which operation.
        operation: u64,
        /// In the middle of it, rather than before.
        in_the_middle: bool,
        /// Which way of survival.
        pattern: usize,
    },
    /// An operation goes wrong.
    Fault {
        /// Which history.
        history: u64,
        /// Which operation.
        operation: u64,
        /// Which way of going wrong.
        fault: usize,
    },
    /// Bytes of a stopped store change.
    Rot {
        /// Which history.
        history: u64,
        /// The number of the change.
        number: u64,
    },
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cut { history, operation, in_the_middle, pattern } => {
                let moment = if *in_the_middle { "in" } else { "before" };
                write!(f, "cut/{history}/{operation}/{moment}/{pattern}")
            }
            Self::Fault { history, operation, fault } => write!(f, "fault/{history}/{operation}/{fault}"),
            Self::Rot { history, number } => write!(f, "rot/{history}/{number}"),
        }
    }
}

impl FromStr for Case {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} names no case: they look like cut/3/57/in/2, fault/3/57/1 or rot/3/99");
        let number = |text: &str| text.parse::<u64>().map_err(|_| wrong());
        let small = |text: &str| text.parse::<usize>().map_err(|_| wrong());
        match text.split('/').collect::<Vec<_>>().as_slice() {
            ["cut", history, operation, moment @ ("in" | "before"), pattern] => Ok(Self::Cut {
                history: number(history)?,
                operation: number(operation)?,
                in_the_middle: *moment == "in",
                pattern: small(pattern)?,
            }),
            ["fault", history, operation, fault] => Ok(Self::Fault {
                history: number(history)?,
                operation: number(operation)?,
                fault: small(fault)?,
            }),
            ["rot", history, at] => Ok(Self::Rot { history: number(history)?, number: number(at)? }),
            _ => Err(wrong()),
        }
    }
}

/// A violation, and the case that shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// What to replay.
    pub case: Case,
    /// What is wrong.
    pub what: String,
}

/// Told now and then how far it is.
pub trait Progress {
    /// After each history.
    fn histories(&mut self, histories: u64, summary: &Summary);
}

/// Tries until there was enough, or the first violation. The summary is of all that was tried.
pub fn run(wanted: &Wanted, progress: &mut dyn Progress) -> (Summary, Result<(), Failed>) {
    let began = Instant::now();
    let mut summary = Summary { seed: wanted.seed, ..Summary::default() };
    let is_over = || wanted.time_limit.is_some_and(|limit| began.elapsed() >= limit);
    let mut result = Ok(());
    for history in 0.. {
        if (summary.crash_points >= wanted.points && summary.bit_flips >= wanted.flips) || is_over() {
            break;
        }
        result = one_history(wanted, history, &is_over, &mut summary);
        if result.is_err() {
            summary.violations += 1;
            break;
        }
        progress.histories(history + 1, &summary);
    }
    summary.elapsed_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    (summary, result)
}

fn one_history(
    wanted: &Wanted,
    history: u64,
    is_over: &dyn Fn() -> bool,
    summary: &mut Summary,
) -> Result<(), Failed> {
    let seed = wanted.seed;
    let at_start = Case::Cut { history, operation: u64::MAX, in_the_middle: false, pattern: 0 };
    let operations = crashes::operations(seed, history)
        .map_err(|error| Failed { case: at_start, what: format!("undisturbed: {error}") })?;
    if summary.crash_points < wanted.points {
        for operation in 0..operations {
            for in_the_middle in [false, true] {
                if is_over() {
                    return Ok(());
                }
                cut(seed, Cut { history, operation, in_the_middle }, None, summary)?;
            }
        }
        for operation in
            (history % FAULT_STRIDE..operations).step_by(usize::try_from(FAULT_STRIDE).unwrap_or(usize::MAX))
        {
            for fault in 0..FAULTS.len() {
                replay(seed, Case::Fault { history, operation, fault }, summary)?;
            }
        }
    }
    let end = (wanted.flips.saturating_sub(summary.bit_flips)).min(FLIPS_PER_HISTORY);
    if end > 0 {
        let stopped = rot::stopped(seed, history)
            .map_err(|error| Failed { case: at_start, what: format!("undisturbed: {error}") })?;
        for number in 0..end {
            let mut chance = Chance::of(&[seed, history, number, 0x707]);
            rot::explore(&stopped, &mut chance, summary)
                .map_err(|what| Failed { case: Case::Rot { history, number }, what })?;
        }
    }
    Ok(())
}

fn cut(seed: u64, cut: Cut, only: Option<usize>, summary: &mut Summary) -> Result<(), Failed> {
    crashes::explore(seed, cut, only, summary).map_err(|(pattern, what)| {
        let Cut { history, operation, in_the_middle } = cut;
        Failed { case: Case::Cut { history, operation, in_the_middle, pattern }, what }
    })
}

/// Tries one case.
///
/// # Errors
/// What is wrong with it.
pub fn replay(seed: u64, case: Case, summary: &mut Summary) -> Result<(), Failed> {
    let failed = |what| Failed { case, what };
    match case {
        Case::Cut { history, operation, in_the_middle, pattern } => {
            let only = Some(pattern).filter(|pattern| *pattern < PATTERNS.len());
            cut(seed, Cut { history, operation, in_the_middle }, only, summary)
        }
        Case::Fault { history, operation, fault } => {
            failures::explore(seed, history, operation, fault, summary).map_err(failed)
        }
        Case::Rot { history, number } => {
            let stopped = rot::stopped(seed, history).map_err(|error| failed(error.to_string()))?;
            let mut chance = Chance::of(&[seed, history, number, 0x707]);
            rot::explore(&stopped, &mut chance, summary).map_err(failed)
        }
    }
}
