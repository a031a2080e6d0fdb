//! The storage layer's failures, split by what the caller must do.
//!
//! - [`Error::Fatal`]: nothing is known any more of what is durable. The process stops; it never retries and never
//!   acknowledges. [`Error::is_fatal`] is the one test for it.
//! - [`Error::Corruption`], [`Error::NewerFormat`]: stored bytes can't be believed or understood. The replica (or, for
//!   the log and the identity, the node) stops serving from them; what can be rebuilt is rebuilt.
//! - [`Error::Io`], [`Error::Engine`]: the operation failed, and what was durable before still is.
//! - [`Error::Refused`], [`Error::Locked`]: the data directory must not be used as it is; a person decides.
//! - [`Error::Misuse`]: the caller broke the contract of a function, or a peer that of a stream.

use std::{
    io,
    path::{Path, PathBuf},
};

/// A result whose failure is a storage [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong on the disk.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An operation on a file failed; what was durable before still is.
    #[error("can't {context} {path}: {source}")]
    Io {
        /// What was being done, to be read as "can't …".
        context: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the file system says.
        #[source]
        source: io::Error,
    },
    /// The engine failed to read or to take a batch.
    #[error("the engine can't {context}: {source}")]
    Engine {
        /// What was being done, to be read as "can't …".
        context: &'static str,
        /// What the engine says.
        #[source]
        source: io::Error,
    },
    /// A sync or flush failed: nothing is known of what is durable. Stop the process.
    #[error(
        "can't {context} {path}, so nothing is known of what is durable there and the process must stop: {source}"
    )]
    Fatal {
        /// What was being done, to be read as "can't …".
        context: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the file system or the engine says.
        #[source]
        source: io::Error,
    },
    /// Stored bytes fail their checks.
    #[error("damaged data in {place}: {what}")]
    Corruption {
        /// Where: file and offset, or tree and key.
        place: String,
        /// Which check failed.
        what: String,
    },
    /// Stored bytes are of a format that this version doesn't know.
    #[error(
        "{path} has format {found}, but this version of kvd reads formats up to {supported}: start a newer one"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// The format found.
        found: u32,
        /// The newest format that this version reads.
        supported: u32,
    },
    /// The data directory must not be used as it is.
    #[error("refused to use {path}: {reason}")]
    Refused {
        /// The data directory.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// Another process uses the data directory.
    #[error("{path} is in use by another process ({}): stop it, or give this one a directory of its own", owner(*.pid))]
    Locked {
        /// The data directory.
        path: PathBuf,
        /// The other process's id, if it can be told.
        pid: Option<u32>,
    },
    /// The caller, or a peer whose bytes were passed on, broke a contract.
    #[error("{0}")]
    Misuse(String),
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "process id unknown".to_owned(), |pid| format!("process id {pid}"))
}

impl Error {
    /// Whether the process must stop because nothing is known of what is durable.
    #[must_use]
    pub const fn is_fatal(&self) -> bool {
        matches!(self, Self::Fatal { .. })
    }

    /// Whether stored bytes can't be believed.
    #[must_use]
    pub const fn is_corruption(&self) -> bool {
        matches!(self, Self::Corruption { .. })
    }

    /// Turns a file system's error into an [`Error::Io`], for `map_err`.
    pub fn io(context: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { context, path: path.to_owned(), source }
    }

    /// Turns a failed sync into an [`Error::Fatal`], for `map_err`.
    pub fn fatal(context: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Fatal { context, path: path.to_owned(), source }
    }

    /// An [`Error::Corruption`].
    pub fn corruption(place: impl Into<String>, what: impl Into<String>) -> Self {
        Self::Corruption { place: place.into(), what: what.into() }
    }
}
