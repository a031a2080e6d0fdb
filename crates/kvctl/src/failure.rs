//! Errors as messages and exit codes: the one place where they are mapped.

use std::{borrow::Cow, io, process::ExitCode};

use kvd_client::{Error, ErrorKind};

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

/// Why a verb failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A request failed.
    Request(Error),
    /// Reading a file or writing the output failed.
    Io(io::Error),
    /// A key does not exist. Already said, where there is more to say.
    NotFound(String),
    /// A condition did not hold.
    ConditionFailed(String),
    /// The input is wrong.
    Input(String),
    /// Something long stopped on its way.
    Stopped {
        /// Where, why, and what is done.
        message: String,
        /// What stopped it.
        cause: Box<Self>,
    },
    /// A lock or a leadership was lost while it was held.
    Lost(String),
    /// A command could not be run.
    Command {
        /// Which, and why.
        message: String,
        /// What a shell would end with.
        code: u8,
    },
    /// All is said: what a command ended with, or a signal.
    Exit(u8),
}

impl Failure {
    /// What to tell; `None`: nothing, as nobody reads any more.
    pub(crate) fn message(&self) -> Option<String> {
        match self {
            Self::Request(error) => Some(match hint(&error.kind) {
                Some(hint) => format!("{error}\n  {hint}"),
                None => error.to_string(),
            }),
            Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            Self::Io(error) => Some(error.to_string()),
            Self::NotFound(message)
            | Self::ConditionFailed(message)
            | Self::Input(message)
            | Self::Stopped { message, .. }
            | Self::Lost(message)
            | Self::Command { message, .. } => Some(message.clone()),
            Self::Exit(_) => None,
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code())
    }

    fn code(&self) -> u8 {
        match self {
            Self::Request(error) => code_of(&error.kind),
            Self::Io(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
            Self::Io(_) => 1,
            Self::Input(_) => 2,
            Self::NotFound(_) => 3,
            Self::ConditionFailed(_) => 4,
            Self::Stopped { cause, .. } => match cause.code() {
                // What stands in a line is no matter of how the command is used, and a part is done.
                2 => 1,
                code => code,
            },
            Self::Lost(_) => 1,
            Self::Command { code, .. } | Self::Exit(code) => *code,
        }
    }
}

fn code_of(kind: &ErrorKind) -> u8 {
    match kind {
        ErrorKind::InvalidArgument => 2,
        ErrorKind::NotFound => 3,
        ErrorKind::NotLeader(_)
        | ErrorKind::Unavailable
        | ErrorKind::WrongShard(_)
        | ErrorKind::Overloaded { .. }
        | ErrorKind::DeadlineExceeded => 5,
        ErrorKind::OutcomeUnknown => 6,
        ErrorKind::Unauthenticated | ErrorKind::PermissionDenied => 7,
        ErrorKind::SessionUnknown
        | ErrorKind::Compacted { .. }
        | ErrorKind::FailedPrecondition
        | ErrorKind::Corruption
        | ErrorKind::Internal => 1,
    }
}

fn hint(kind: &ErrorKind) -> Option<Cow<'static, str>> {
    let hint = match kind {
        ErrorKind::Unavailable => {
            "Is the cluster up, and are the --endpoints its nodes' client addresses? See kvctl status."
        }
        ErrorKind::Overloaded { .. } => {
            "The cluster has more to do than it can: try again, or with less at a time."
        }
        ErrorKind::OutcomeUnknown => "It may have been applied: read before you write again.",
        ErrorKind::Corruption => "A node's stored data failed its checks: look at that node's log.",
        ErrorKind::Compacted { oldest } => {
            return Some(
                format!(
                    "The oldest revision that is still kept is {oldest}: read, or begin anew, at that or a later one."
                )
                .into(),
            );
        }
        _ => return None,
    };
    Some(hint.into())
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Request(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use kvd_client::Revision;

    use super::*;

    #[test]
    fn exit_codes() {
        let request = |kind| Failure::Request(Error::new(kind, "what"));
        for (failure, code) in [
            (request(ErrorKind::InvalidArgument), 2),
            (request(ErrorKind::NotFound), 3),
            (request(ErrorKind::Unavailable), 5),
            (request(ErrorKind::NotLeader(None)), 5),
            (request(ErrorKind::Overloaded { retry_after: Duration::ZERO }), 5),
            (request(ErrorKind::DeadlineExceeded), 5),
            (request(ErrorKind::OutcomeUnknown), 6),
            (request(ErrorKind::Unauthenticated), 7),
            (request(ErrorKind::PermissionDenied), 7),
            (request(ErrorKind::Corruption), 1),
            (request(ErrorKind::Internal), 1),
            (Failure::NotFound("k".into()), 3),
            (Failure::ConditionFailed("k".into()), 4),
            (Failure::Input("k".into()), 2),
            (Failure::Io(io::ErrorKind::StorageFull.into()), 1),
            (request(ErrorKind::Compacted { oldest: Revision(7) }), 1),
            (Failure::Lost("k".into()), 1),
            (Failure::Command { message: "no such command".into(), code: 127 }, 127),
            (
                Failure::Stopped {
                    message: "line 3".into(),
                    cause: Box::new(request(ErrorKind::OutcomeUnknown)),
                },
                6,
            ),
            (
                Failure::Stopped {
                    message: "line 3".into(),
                    cause: Box::new(Failure::Input("no JSON".into())),
                },
                1,
            ),
        ] {
            assert_eq!(failure.code(), code, "{failure:?}");
            assert!(failure.message().is_some());
        }
    }

    #[test]
    fn what_was_forgotten_is_said_with_the_oldest_that_is_not() {
        let failure = Failure::Request(Error::compacted(Revision(5), Revision(7)));
        let message = failure.message().unwrap();
        assert!(message.ends_with("is 7: read, or begin anew, at that or a later one."), "{message}");
    }

    #[test]
    fn what_a_command_ended_with_is_passed_on_without_a_word() {
        let failure = Failure::Exit(42);
        assert_eq!((failure.code(), failure.message()), (42, None));
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.code(), failure.message()), (0, None));
    }
}
