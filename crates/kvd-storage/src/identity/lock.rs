//! One process per data directory.
//!
//! An advisory lock of the operating system, gone with the process however it ends, so that nobody ever has to remove a
//! file after a crash. Real file systems only: it is about processes, which a simulation does not have.

use std::{
    fs, io,
    io::{Read, Seek, Write},
    path::Path,
};

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

const FILE: &str = "LOCK";
/// Longest process id that is read from the file, in bytes.
const PID_BYTES_MAX: u64 = 20;

/// The right to use a data directory, for as long as it lives.
#[derive(Debug)]
pub struct DirLock {
    _file: fs::File,
}

impl DirLock {
    /// Takes the right to use a data directory, making the directory if there is none.
    ///
    /// # Errors
    /// [`Error::Locked`] if another process has it; [`Error::Io`].
    pub fn acquire(data_dir: &Path) -> Result<Self> {
        fs::create_dir_all(data_dir).map_err(Error::io("make the directory", data_dir))?;
        let path = data_dir.join(FILE);
        let opened = fs::File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = opened.map_err(Error::io("open", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(error) if error == rustix::io::Errno::WOULDBLOCK => {
                return Err(Error::Locked { path: data_dir.to_owned(), pid: read_pid(&file) });
            }
            Err(error) => return Err(Error::io("lock", &path)(error.into())),
        }
        // Only to be told in the other process's error: it need not be durable, and a full disk needn't take it.
        match write_pid(&mut file) {
            Err(error) if error.kind() != io::ErrorKind::StorageFull => Err(Error::io("write", &path)(error)),
            _ => Ok(Self { _file: file }),
        }
    }
}

fn read_pid(file: &fs::File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut fs::File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}
