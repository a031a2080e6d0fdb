//! Clients that read from any replica what they have written and seen, or something newer.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use kvd_client::{Client, Key, Result};
use kvd_testkit::{
    check::versions::{Level, Read},
    history::Process,
};
use rand::{RngExt as _, rngs::StdRng};

use super::{Worker, book::Book};

/// What is counted.
const READS: &str = "session reads";
pub(super) const BY_FOLLOWERS: &str = "session reads by followers";
/// Entries of a chapter of the book.
pub(super) const CHAPTER_ENTRIES: usize = 2000;
/// One turn in so many writes.
const WRITES_IN: u32 = 3;

/// A client with a session of its own: nothing else goes through it.
pub(super) struct Session {
    book: Arc<Book>,
    client: Client,
    process: Process,
    written: u64,
}

impl Session {
    pub(super) fn new(book: &Arc<Book>, client: Client, process: Process) -> Self {
        Self { book: Arc::clone(book), client, process, written: 0 }
    }

    async fn write(&mut self, random: &mut StdRng) -> Result<()> {
        let (shard, tag) = self.book.common.any_tag(random);
        let chapter = self.book.chapter();
        let key = Key::new(format!("{}{tag}", self.book.prefix(chapter)))?;
        self.written += 1;
        let value = Bytes::from(format!("{}.{}", self.process, self.written));
        let changes = vec![(key.clone(), Some(value.clone()))];
        let writing = self.book.write((chapter, shard), self.process, changes);
        let done = self.client.put(&key, value).await.map(|put| Some(put.revision));
        writing.complete(&done);
        done.map(drop)
    }
}

impl Worker for Session {
    const PAUSE_MAX: Duration = Duration::from_millis(150);

    async fn turn(&mut self, random: &mut StdRng) -> Result<()> {
        if random.random_ratio(1, WRITES_IN) {
            return self.write(random).await;
        }
        let common = &self.book.common;
        let (_, tag) = common.any_tag(random);
        let chapter = self.book.chapter();
        let key = Key::new(format!("{}{tag}", self.book.prefix(chapter)))?;
        let invoked = common.moment();
        let found = self.client.get(&key).session().with_served().await?;
        let completed = common.moment();
        if let Some(record) = found.record.as_ref().filter(|record| record.revision > found.served.revision) {
            let (shown, had) = (record.revision, found.served.revision);
            common.world.violation(format!("{key} is shown as of {shown} by a replica that has had {had}"));
        }
        common.count(READS);
        if !found.served.leader_address.is_empty() {
            common.count(BY_FOLLOWERS);
        }
        let mut after = key.as_bytes().to_vec();
        after.push(0);
        let read = Read {
            process: self.process,
            client: u64::from(self.process.0),
            invoked,
            known: completed,
            completed,
            level: Level::Session,
            start: key.bytes().clone(),
            end: after.into(),
            rows: found.record.map(|record| (key, record)).into_iter().collect(),
            descending: false,
        };
        self.book.read(chapter, read);
        Ok(())
    }
}
