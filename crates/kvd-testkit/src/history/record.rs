//! Operations in words, and whether an answer is one to the question.

use std::fmt;

use bytes::Bytes;
use kvd_types::Condition;

use super::{Action, Answer, Completion, Moment, Operation, Version};

/// Bytes of a value that are shown.
const SHOWN_BYTES: usize = 40;

/// Whether an answer is one that the action can have at all, whatever the store holds.
#[must_use]
pub fn fits(action: &Action, answer: &Answer) -> bool {
    let told = |version: &Option<Version>, wanted: bool| match version {
        Some(version) => version.value.is_some() == wanted,
        None => true,
    };
    match (action, answer) {
        (Action::Get, Answer::Got(found)) => told(found, true),
        (Action::Put { want_previous, .. }, Answer::Put { previous, .. }) => {
            *want_previous && told(previous, true) || previous.is_none()
        }
        (Action::Delete { condition, want_previous }, Answer::Deleted { previous, .. }) => {
            // A delete that was made has removed something.
            *condition != Condition::Absent && previous.is_some() == *want_previous && told(previous, true)
        }
        (Action::Delete { condition, .. }, Answer::NotFound) => {
            !matches!(condition, Condition::RevisionIs(_))
        }
        (
            Action::Put { condition, want_previous, .. } | Action::Delete { condition, want_previous },
            Answer::ConditionFailed { current },
        ) => *condition != Condition::Always && told(current, *want_previous),
        _ => false,
    }
}

struct Shown<'a>(&'a Bytes);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.get(..SHOWN_BYTES).unwrap_or(self.0);
        let rest = if shown.len() < self.0.len() { "…" } else { "" };
        write!(f, "\"{}{rest}\"", shown.escape_ascii())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get => f.write_str("get")?,
            Self::Put { value, .. } => write!(f, "put {}", Shown(value))?,
            Self::Delete { .. } => f.write_str("delete")?,
        }
        match self.condition() {
            Condition::Always => Ok(()),
            Condition::Absent => f.write_str(" if absent"),
            Condition::RevisionIs(revision) => write!(f, " if at revision {revision}"),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(value) = &self.value {
            write!(f, "{} ", Shown(value))?;
        }
        write!(f, "at revision {} (version {} since {})", self.revision, self.version, self.create_revision)
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let was = |f: &mut fmt::Formatter<'_>, previous: &Option<Version>| match previous {
            Some(previous) => write!(f, ", was {previous}"),
            None => Ok(()),
        };
        match self {
            Self::Got(Some(version)) => version.fmt(f),
            Self::Got(None) | Self::NotFound => f.write_str("no such key"),
            Self::Put { revision, create_revision, version, previous } => {
                write!(f, "made at revision {revision} (version {version} since {create_revision})")?;
                was(f, previous)
            }
            Self::Deleted { revision, previous } => {
                write!(f, "deleted at revision {revision}")?;
                was(f, previous)
            }
            Self::ConditionFailed { current: Some(version) } => write!(f, "condition failed: {version}"),
            Self::ConditionFailed { current: None } => f.write_str("condition failed: no such key"),
        }
    }
}

impl fmt::Display for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(answer) => answer.fmt(f),
            Self::Fail(why) => write!(f, "not applied: {why}"),
            Self::Unknown(why) => write!(f, "unknown: {why}"),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const NS_PER_S: u64 = 1_000_000_000;
        const NS_PER_US: u64 = 1000;
        write!(f, "{}.{:06}s/{}", self.time_ns / NS_PER_S, self.time_ns % NS_PER_S / NS_PER_US, self.sequence)
    }
}

/// One line: when from and until when (seconds of the clock, and the place among all events), who, what, and the answer.
impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} - ", self.invoked)?;
        match self.completed {
            Some(completed) => write!(f, "{completed}]")?,
            None => f.write_str("?]")?,
        }
        write!(f, " {} {}: {} -> {}", self.process, self.key, self.action, self.completion)
    }
}
