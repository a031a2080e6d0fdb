//! What was written to some keys and seen of them, for the judge of versions.
//!
//! A book has chapters, each with keys of its own: judging takes the square of a chapter's length.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use kvd_client::{Key, Result, Revision, ShardId};
use kvd_testkit::{
    check::versions::{self, Account, End, Read, Watch},
    history::Process,
};

use super::Common;

/// See the module.
pub(super) struct Book {
    pub(super) common: Arc<Common>,
    name: &'static str,
    entries_max: usize,
    chapters: Mutex<Vec<Account>>,
}

/// A write under way. Never completed, it is unknown.
pub(super) struct Writing<'a> {
    book: &'a Book,
    chapter: usize,
    place: usize,
}

impl Book {
    /// A book whose chapters have so many entries at most, and some that come while others do.
    pub(super) fn new(common: &Arc<Common>, name: &'static str, entries_max: usize) -> Arc<Self> {
        let chapters = Mutex::new(vec![Account::default()]);
        Arc::new(Self { common: Arc::clone(common), name, entries_max, chapters })
    }

    /// The chapter to write into now.
    pub(super) fn chapter(&self) -> usize {
        let mut chapters = self.chapters.lock().unwrap();
        let is_full = |last: &Account| last.writes.len() + last.reads.len() >= self.entries_max;
        if chapters.last().is_some_and(is_full) {
            chapters.push(Account::default());
        }
        chapters.len() - 1
    }

    /// What the keys of a chapter begin with.
    pub(super) fn prefix(&self, chapter: usize) -> String {
        format!("{}/{chapter}/", self.name)
    }

    /// The bounds of all keys of a chapter.
    pub(super) fn bounds(&self, chapter: usize) -> (Bytes, Bytes) {
        let prefix = self.prefix(chapter);
        // After the slash comes the zero.
        let end = format!("{}0", prefix.trim_end_matches('/'));
        (prefix.into(), end.into())
    }

    /// A write begins.
    pub(super) fn write(
        &self,
        (chapter, shard): (usize, ShardId),
        process: Process,
        changes: Vec<(Key, Option<Bytes>)>,
    ) -> Writing<'_> {
        let invoked = self.common.moment();
        let mut chapters = self.chapters.lock().unwrap();
        let account = &mut chapters[chapter];
        account.shards.extend(changes.iter().map(|(key, _)| (key.clone(), shard)));
        let place = account.writes.len();
        account.writes.push(versions::Write {
            process,
            client: u64::from(process.0),
            invoked,
            completed: None,
            end: End::Unknown,
            changes,
        });
        Writing { book: self, chapter, place }
    }

    /// Something was read.
    pub(super) fn read(&self, chapter: usize, read: Read) {
        self.chapters.lock().unwrap()[chapter].reads.push(read);
    }

    /// A watch of the first chapter begins: the only one.
    pub(super) fn watch(&self, watch: Watch) {
        self.chapters.lock().unwrap()[0].watches.push(watch);
    }

    /// Looks at the first chapter, or at what its watch was told.
    pub(super) fn watched<T>(&self, with: impl FnOnce(&mut Account) -> T) -> T {
        with(&mut self.chapters.lock().unwrap()[0])
    }

    /// What can't have been right.
    pub(super) fn judge(&self) -> Vec<String> {
        let chapters = self.chapters.lock().unwrap();
        let found = chapters.iter().flat_map(versions::check);
        found.map(|what| format!("{}: {what}", self.name)).collect()
    }
}

impl Writing<'_> {
    /// It was answered: made at a revision, or nothing changed; or it failed.
    pub(super) fn complete(self, result: &Result<Option<Revision>>) {
        let completed = self.book.common.moment();
        let write = &mut self.book.chapters.lock().unwrap()[self.chapter].writes[self.place];
        write.completed = Some(completed);
        write.end = End::of(result);
    }
}

/// An entry a line.
impl fmt::Display for Book {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, chapter) in self.chapters.lock().unwrap().iter().enumerate() {
            writeln!(f, "---- {}, chapter {number}", self.name)?;
            chapter.writes.iter().try_for_each(|write| writeln!(f, "{write:?}"))?;
            chapter.reads.iter().try_for_each(|read| writeln!(f, "{read:?}"))?;
            for Watch { process, from, items, .. } in &chapter.watches {
                writeln!(f, "the watch of {process} from {from:?}")?;
                items.iter().try_for_each(|item| writeln!(f, "{item:?}"))?;
            }
        }
        Ok(())
    }
}
