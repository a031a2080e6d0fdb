//! The directory of a local cluster: made, locked and found writable before anything is started.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
};

use kvd_storage::identity::DirLock;

use super::{Error, NODES_MAX, NodePlan};

/// A local cluster's directory, locked for as long as this lives.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: File,
}

impl Directory {
    /// Makes the directory if need be, and locks it.
    ///
    /// # Errors
    /// It can't be made or written, or another process has it.
    pub fn lock(dir: &Path) -> Result<Self, Error> {
        let path = std::path::absolute(dir).map_err(|error| failed("find", dir, error))?;
        fs::create_dir_all(&path).map_err(|error| failed("make", &path, error))?;
        let lock_path = path.join("local.lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path);
        let lock = lock.map_err(|error| failed("write", &lock_path, error))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => Err(Error::Running(path.display().to_string())),
            Err(TryLockError::Error(error)) => Err(failed("lock", &lock_path, error)),
        }
    }

    /// Where it is, from the root.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How many nodes have been started here: the highest number of a node's directory.
    #[must_use]
    pub fn existing_nodes(&self) -> u16 {
        (1..=NODES_MAX)
            .rev()
            .find(|number| self.path.join(format!("node-{number}/data")).exists())
            .unwrap_or(0)
    }

    /// The process that uses a node's data, if there is one: a child of an earlier start that is still stopping, or a node
    /// that was started by hand. The outer `Some` says that there is one, the inner its process id, where known.
    pub(super) fn user(node: &NodePlan) -> Result<Option<Option<u32>>, Error> {
        if !node.data_dir().exists() {
            return Ok(None);
        }
        match DirLock::acquire(&node.data_dir()) {
            Ok(_released_at_once) => Ok(None),
            Err(kvd_storage::Error::Locked { pid, .. }) => Ok(Some(pid)),
            Err(error) => Err(failed("use", &node.data_dir(), io::Error::other(error))),
        }
    }

    /// Makes a node's directory and finds out whether its log can be written.
    pub(super) fn prepare(&self, node: &NodePlan) -> Result<(), Error> {
        fs::create_dir_all(&node.dir).map_err(|error| failed("make", &node.dir, error))?;
        let log = node.log_path();
        open_log(node).map(drop).map_err(|error| failed("write", &log, error))
    }
}

/// A node's log, to be added to.
pub(super) fn open_log(node: &NodePlan) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(node.log_path())
}

fn failed(what: &'static str, path: &Path, error: io::Error) -> Error {
    Error::Directory { what, path: path.display().to_string(), error }
}
