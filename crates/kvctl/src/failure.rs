//! Errors as messages and exit codes: the one place where they are mapped.

use std::{io, process::ExitCode};

use kvd_client::{Error, ErrorKind};

pub(crate) type Result<T> = std::result::Result<T, Failure>;

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
    /// An import stopped at a line.
    Import {
        /// Where, why, and what is in.
        message: String,
        /// What stopped it.
        cause: Box<Self>,
    },
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
            | Self::Import { message, .. } => Some(message.clone()),
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
            Self::Import { cause, .. } => match cause.code() {
                // What stands in a line is no matter of how the command is used, and lines before it are written.
                2 => 1,
                code => code,
            },
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
        | ErrorKind::FailedPrecondition
        | ErrorKind::Corruption
        | ErrorKind::Internal => 1,
    }
}

fn hint(kind: &ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Unavailable => {
            Some("Is the cluster up, and are the --endpoints its nodes' client addresses? See kvctl status.")
        }
        ErrorKind::Overloaded { .. } => {
            Some("The cluster has more to do than it can: try again, or with less at a time.")
        }
        ErrorKind::OutcomeUnknown => Some("It may have been applied: read before you write again."),
        ErrorKind::Corruption => Some("A node's stored data failed its checks: look at that node's log."),
        _ => None,
    }
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
            (
                Failure::Import {
                    message: "line 3".into(),
                    cause: Box::new(request(ErrorKind::OutcomeUnknown)),
                },
                6,
            ),
            (
                Failure::Import {
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
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!((failure.code(), failure.message()), (0, None));
    }
}
