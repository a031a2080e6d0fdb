//! The limit that a disk sets: everything is appended to one file, and synced once for all that waits.
//!
//! One thread takes what waits, writes it in one go, syncs, and answers: what any store has to do that loses nothing, and
//! nothing else.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use super::Failure;

/// Appends that wait, at most.
const WAITING_MAX: usize = 65_536;

/// Where appends go. The file goes with the last one.
#[derive(Clone)]
pub(crate) struct Appender {
    waiting: mpsc::Sender<Append>,
    _file: Arc<Removed>,
}

struct Append {
    bytes: Bytes,
    written: oneshot::Sender<io::Result<()>>,
}

struct Removed(PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            drop(writeln!(io::stderr(), "kvd-bench: {} is left: {error}", self.0.display()));
        }
    }
}

impl Appender {
    /// Appends to a new file in a directory.
    pub(crate) fn open(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join(format!("kvd-bench-log-{}", std::process::id()));
        let create = || {
            fs::create_dir_all(dir)?;
            File::create_new(&path)
        };
        let file = create().with_context(|| format!("{} can't be written", path.display()))?;
        let removed = Arc::new(Removed(path));
        let (waiting, receiver) = mpsc::channel(WAITING_MAX);
        std::thread::Builder::new().name("raw-log".to_owned()).spawn(move || write_all(file, receiver))?;
        Ok(Self { waiting, _file: removed })
    }

    /// Appends, and waits until it is on the disk.
    pub(crate) async fn append(&self, bytes: Bytes) -> Result<(), Failure> {
        let (written, outcome) = oneshot::channel();
        let ended = || "the log has ended".to_owned();
        self.waiting.send(Append { bytes, written }).await.map_err(|_closed| ended())?;
        outcome.await.map_err(|_dropped| ended())?.map_err(|error| error.kind().to_string())
    }
}

fn write_all(mut file: File, mut waiting: mpsc::Receiver<Append>) {
    let mut group = Vec::new();
    let mut bytes = Vec::new();
    while waiting.blocking_recv_many(&mut group, WAITING_MAX) > 0 {
        bytes.clear();
        for append in &group {
            bytes.extend_from_slice(&append.bytes);
        }
        let written = file.write_all(&bytes).and_then(|()| file.sync_data());
        for append in group.drain(..) {
            let outcome = match &written {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::from(error.kind())),
            };
            // Whoever has gone away needs no answer.
            drop(append.written.send(outcome));
        }
    }
}
