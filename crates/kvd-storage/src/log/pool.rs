//! Segment files, made ready before they are needed.
//!
//! `fdatasync` of blocks that were written before touches no metadata and takes little more than half the time, so a
//! segment is filled with zeros once, and used again when nothing in it is needed any more. Both happen ahead of the
//! writer, on a thread of their own: always one segment is ready while another is being written. A file gets its
//! next name, which is its next sequence number, while it is being made ready, and the directory is synced then: the
//! writer does neither.
//!
//! Beyond the next one, a few files are kept as a reserve, made while there is room. When the disk is full, so that the
//! reserve can't be kept up, the observer is told, and what grows is refused from then on; deletes, votes, changes of
//! members and starts go on, in the rest of the current segment, in the next one, and in the reserve. Making files is
//! tried again every second. Only a writer that needs a segment when all of that is used up fails, and with it the log.
//! Any other failure is final at once.
//!
//! Which files may be used again is the writer's business: see [`super::writer`].

use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use super::{Observer, queue::Failure};
use crate::disk::{Disk, File};

/// Suffix of a segment's file name; before it stands the sequence number in 16 hexadecimal digits.
const SUFFIX: &str = ".kvdlog";
/// The name under which a new segment is filled with zeros.
pub(super) const UNFINISHED: &str = "unfinished.tmp";
const FILL_BYTES: usize = 1 << 20;
/// So much is filled between two syncs, so that the writer's own syncs never queue behind a whole segment.
const FILL_SYNC_BYTES: u64 = 8 << 20;
/// Files that are kept to be used again; more of them are removed. What a checkpoint lets go of is needed until the next one:
/// a log that is written to all the time would else spend as much on filling new files as on what it is for.
pub(super) const SPARE_MAX: usize = 16;
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The path of a segment.
pub(super) fn segment_path(dir: &Path, sequence: u64) -> PathBuf {
    dir.join(format!("{sequence:016x}{SUFFIX}"))
}

/// The sequence number in a segment's file name.
pub(super) fn sequence_of(path: &Path) -> Option<u64> {
    let digits = path.file_name()?.to_str()?.strip_suffix(SUFFIX)?;
    (digits.len() == 16).then(|| u64::from_str_radix(digits, 16).ok())?
}

/// A file that is ready to become a segment.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) sequence: u64,
    pub(super) file: Arc<dyn File>,
}

/// How long a file is, and how many are kept in reserve.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) segment_bytes: u64,
    pub(super) reserve: usize,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pool {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    segment_bytes: u64,
    reserve: usize,
    observer: Arc<dyn Observer>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    next_sequence: u64,
    free: BTreeSet<u64>,
    ready: Option<Prepared>,
    /// Counts the failed attempts.
    failures: u64,
    failure: Option<Failure>,
    /// No use in trying again.
    dead: bool,
    hurry: bool,
    /// The reserve could not be kept up, and the observer was told.
    short: bool,
    threaded: bool,
    stopped: bool,
}

impl Pool {
    pub(super) fn new(
        disk: Arc<dyn Disk>,
        dir: &Path,
        sizes: Sizes,
        observer: Arc<dyn Observer>,
        next_sequence: u64,
        free: BTreeSet<u64>,
    ) -> Self {
        let state = State {
            next_sequence,
            free,
            ready: None,
            failures: 0,
            failure: None,
            dead: false,
            hurry: false,
            short: false,
            threaded: false,
            stopped: false,
        };
        let state = Mutex::new(state);
        let Sizes { segment_bytes, reserve } = sizes;
        Self { disk, dir: dir.to_owned(), segment_bytes, reserve, observer, state, changed: Condvar::new() }
    }

    /// A file for the next segment. With a helper thread it usually is ready; without one it is made now.
    pub(super) fn take(&self) -> io::Result<Prepared> {
        let mut state = self.state.lock();
        if !state.threaded {
            drop(state);
            self.remove_surplus();
            let prepared = self.prepare()?;
            // A full disk is told to the observer, and no failure yet.
            return self.replenish().map(|_| prepared);
        }
        let failures = state.failures;
        state.hurry = true;
        self.changed.notify_all();
        loop {
            if let Some(prepared) = state.ready.take() {
                state.hurry = false;
                self.changed.notify_all();
                return Ok(prepared);
            }
            if let Some(failure) = &state.failure
                && (state.dead || state.failures > failures)
            {
                return Err(failure.error());
            }
            if state.stopped {
                return Err(Failure::closed().error());
            }
            self.changed.wait(&mut state);
        }
    }

    /// Nothing in those segments is needed any more.
    pub(super) fn free(&self, sequences: impl IntoIterator<Item = u64>) {
        let mut state = self.state.lock();
        state.free.extend(sequences);
        let is_over = state.short && !state.threaded && state.free.len() >= self.reserve;
        state.short &= !is_over;
        drop(state);
        if is_over {
            self.observer.next_segment(None);
        }
        self.changed.notify_all();
    }

    /// Without a helper thread: one more attempt at what a full disk had no room for.
    pub(super) fn retry(&self) {
        let is_wanted = {
            let state = self.state.lock();
            state.short && !state.threaded
        };
        if is_wanted && let Err(error) = self.replenish() {
            // Whoever takes a segment next meets it too, and the log dies of it there.
            tracing::error!(dir = %self.dir.display(), %error, "cannot keep log segments in reserve");
        }
    }

    /// How many segments can still be begun without any room on the disk.
    pub(super) fn spares(&self) -> usize {
        let state = self.state.lock();
        state.free.len() + usize::from(state.ready.is_some())
    }

    /// Whether a file is ready for the next segment.
    pub(super) fn is_ready(&self) -> bool {
        self.state.lock().ready.is_some()
    }

    /// From now on a thread runs [`Pool::run`].
    pub(super) fn expect_thread(&self) {
        self.state.lock().threaded = true;
    }

    /// Ends [`Pool::run`].
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.changed.notify_all();
    }

    /// The helper thread: keeps one segment ready and removes files that nobody needs.
    pub(super) fn run(&self) {
        loop {
            let mut state = self.state.lock();
            if state.stopped {
                return;
            }
            if state.ready.is_some() || state.dead {
                if state.free.len() > self.spare_max() {
                    drop(state);
                    self.remove_surplus();
                } else if !state.dead && (state.short || state.free.len() < self.reserve) {
                    drop(state);
                    self.keep_up_reserve();
                } else {
                    self.changed.wait(&mut state);
                }
                continue;
            }
            if state.failure.is_some() && !state.hurry {
                self.changed.wait_for(&mut state, RETRY_DELAY);
                if state.stopped {
                    return;
                }
            }
            state.hurry = false;
            drop(state);
            let prepared = self.prepare();
            // Of a reserve that was drawn on there is news only when it was seen whether it can be kept up.
            let whole = {
                let state = self.state.lock();
                !state.short && state.free.len() >= self.reserve
            };
            if prepared.is_err() || whole {
                self.observer.next_segment(prepared.as_ref().err());
            }
            let mut state = self.state.lock();
            match prepared {
                Ok(prepared) => {
                    state.ready = Some(prepared);
                    state.failure = None;
                }
                Err(error) => {
                    tracing::error!(dir = %self.dir.display(), %error, "cannot make the next log segment ready");
                    state.failures += 1;
                    state.dead = error.kind() != io::ErrorKind::StorageFull;
                    state.failure = Some(Failure::new(&error));
                }
            }
            drop(state);
            self.changed.notify_all();
        }
    }

    /// One attempt to make the reserve whole, and a pause if the disk is full.
    fn keep_up_reserve(&self) {
        match self.replenish() {
            Ok(true) => {}
            Ok(false) => {
                let mut state = self.state.lock();
                if !state.stopped && state.ready.is_some() {
                    self.changed.wait_for(&mut state, RETRY_DELAY);
                }
            }
            Err(error) => {
                tracing::error!(dir = %self.dir.display(), %error, "cannot keep log segments in reserve");
                let mut state = self.state.lock();
                state.failures += 1;
                state.dead = true;
                state.failure = Some(Failure::new(&error));
                drop(state);
                self.changed.notify_all();
            }
        }
    }

    /// Makes files until the reserve is whole, and tells the observer if it was not so before. Says whether it is; not: the disk is
    /// full.
    fn replenish(&self) -> io::Result<bool> {
        let mut was_made = false;
        loop {
            let sequence = {
                let mut state = self.state.lock();
                if state.stopped || state.free.len() >= self.reserve {
                    was_made |= std::mem::take(&mut state.short);
                    break;
                }
                let sequence = state.next_sequence;
                state.next_sequence += 1;
                sequence
            };
            match self.make(sequence) {
                Ok(_) => {
                    was_made = true;
                    self.state.lock().free.insert(sequence);
                }
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                    self.state.lock().short = true;
                    self.observer.next_segment(Some(&error));
                    return Ok(false);
                }
                Err(error) => return Err(error),
            }
        }
        if was_made {
            self.observer.next_segment(None);
        }
        Ok(true)
    }

    fn spare_max(&self) -> usize {
        self.reserve.max(SPARE_MAX)
    }

    /// Makes one file ready: an old one under a new name, or a new one full of zeros.
    pub(super) fn prepare(&self) -> io::Result<Prepared> {
        let (sequence, free) = {
            let mut state = self.state.lock();
            let sequence = state.next_sequence;
            // A name is never tried twice: after a failure nobody knows what it stands for.
            state.next_sequence += 1;
            (sequence, state.free.pop_last())
        };
        let path = segment_path(&self.dir, sequence);
        if let Some(free) = free {
            let old = segment_path(&self.dir, free);
            if self.disk.open(&old)?.size_bytes()? == self.segment_bytes {
                fail::fail_point!(crate::failpoints::SEGMENT_BEFORE_RECYCLE);
                self.disk.rename(&old, &path)?;
                fail::fail_point!(crate::failpoints::SEGMENT_AFTER_RECYCLE);
                self.disk.sync_dir(&self.dir)?;
                return Ok(Prepared { sequence, file: Arc::from(self.disk.open(&path)?) });
            }
            self.disk.remove(&old)?;
        }
        let file = self.make(sequence)?;
        Ok(Prepared { sequence, file })
    }

    /// Makes a new file, full of zeros.
    fn make(&self, sequence: u64) -> io::Result<Arc<dyn File>> {
        let path = segment_path(&self.dir, sequence);
        let unfinished = self.dir.join(UNFINISHED);
        let file = match self.fill(&unfinished) {
            Ok(file) => file,
            Err(error) => {
                // Its blocks are what a full disk needs most. If even this fails, the next start does it.
                if let Err(error) = self.disk.remove(&unfinished) {
                    tracing::warn!(path = %unfinished.display(), %error, "cannot remove an unfinished log segment");
                }
                return Err(error);
            }
        };
        fail::fail_point!(crate::failpoints::SEGMENT_BEFORE_PUBLISH);
        self.disk.rename(&unfinished, &path)?;
        self.disk.sync_dir(&self.dir)?;
        Ok(file)
    }

    fn fill(&self, path: &Path) -> io::Result<Arc<dyn File>> {
        if self.disk.list(&self.dir)?.iter().any(|there| there == path) {
            self.disk.remove(path)?;
        }
        let file = self.disk.create(path)?;
        let zeros = vec![0; FILL_BYTES];
        let mut offset = 0;
        while offset < self.segment_bytes {
            let chunk = usize::try_from(self.segment_bytes - offset).unwrap_or(FILL_BYTES).min(FILL_BYTES);
            file.write_all_at(zeros.get(..chunk).unwrap_or(&zeros), offset)?;
            offset += chunk as u64;
            if offset.is_multiple_of(FILL_SYNC_BYTES) {
                file.sync_data()?;
            }
        }
        file.sync_data()?;
        Ok(Arc::from(file))
    }

    fn remove_surplus(&self) {
        loop {
            let surplus = {
                let mut state = self.state.lock();
                if state.free.len() > self.spare_max() { state.free.pop_first() } else { None }
            };
            let Some(sequence) = surplus else { return };
            let path = segment_path(&self.dir, sequence);
            if let Err(error) = self.disk.remove(&path) {
                tracing::warn!(path = %path.display(), %error, "cannot remove an unused log segment");
            }
        }
    }
}
