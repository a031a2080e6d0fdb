//! Pairs of keys that always change together, a third key on another shard that follows them, and somebody who reads all of them
//! as of one moment.
//!
//! The third key tells the revision of the pair that it follows, so that each snapshot is judged by itself as soon as it is there:
//! halves are equal, and what follows is never ahead, for a write gets a later revision than all that its client has seen.
//! In the end the judge of versions goes over all of them again, with what was finished before each was asked for and the order
//! of keys.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::TryStreamExt as _;
use kvd_client::{Client, Key, Record, Result, Revision, TxnOp};
use kvd_testkit::{
    check::versions::{Level, Read},
    history::Process,
};
use rand::{RngExt as _, rngs::StdRng};

use super::{Worker, book::Book};

/// What is counted.
pub(super) const SNAPSHOTS: &str = "snapshots";
const PAST: &str = "snapshots of the past";
/// Entries of a chapter of the book.
pub(super) const CHAPTER_ENTRIES: usize = 1500;
/// One snapshot in so many is of a moment that was looked at before.
const PAST_IN: u32 = 5;
/// One snapshot in so many may be served by any replica.
const ANY_REPLICA_IN: u32 = 3;

/// Writes pairs, and what follows them.
pub(super) struct Pairs {
    book: Arc<Book>,
    client: Client,
    process: Process,
    written: u64,
}

impl Pairs {
    pub(super) fn new(book: &Arc<Book>, client: Client, process: Process) -> Self {
        Self { book: Arc::clone(book), client, process, written: 0 }
    }
}

impl Worker for Pairs {
    const PAUSE_MAX: Duration = Duration::from_millis(400);

    async fn turn(&mut self, random: &mut StdRng) -> Result<()> {
        let Self { book, client, process, .. } = self;
        let tags = &book.common.tags;
        let place = random.random_range(0..tags.len());
        let ((shard, tag), (other_shard, other_tag)) = (&tags[place], &tags[(place + 1) % tags.len()]);
        let chapter = book.chapter();
        let prefix = book.prefix(chapter);
        self.written += 1;
        let number = Bytes::from(self.written.to_string());
        let halves =
            [Key::new(format!("{prefix}{tag}a{process}"))?, Key::new(format!("{prefix}{tag}b{process}"))?];
        let changes = halves.iter().map(|key| (key.clone(), Some(number.clone()))).collect();
        let writing = book.write((chapter, *shard), *process, changes);
        let put = |txn: kvd_client::Txn, key| txn.then(TxnOp::put(key, number.clone()));
        let done = halves.iter().fold(client.txn(), put).await.map(|outcome| Some(outcome.revision));
        writing.complete(&done);
        let Some(revision) = done? else { return Ok(()) };
        let follower = Key::new(format!("{prefix}{other_tag}c{process}"))?;
        let value = Bytes::from(format!("{} {}", halves[0], revision.get()));
        let writing =
            book.write((chapter, *other_shard), *process, vec![(follower.clone(), Some(value.clone()))]);
        let done = client.put(&follower, value).await.map(|put| Some(put.revision));
        writing.complete(&done);
        done.map(drop)
    }
}

/// Takes snapshots.
pub(super) struct Photographer {
    book: Arc<Book>,
    client: Client,
    process: Process,
    /// The chapter and revision of the last one.
    last: Option<(usize, Revision)>,
}

impl Photographer {
    pub(super) fn new(book: &Arc<Book>, client: Client, process: Process) -> Self {
        Self { book: Arc::clone(book), client, process, last: None }
    }
}

impl Worker for Photographer {
    const PAUSE_MAX: Duration = Duration::from_millis(500);

    async fn turn(&mut self, random: &mut StdRng) -> Result<()> {
        let past = self.last.filter(|_| random.random_ratio(1, PAST_IN));
        let chapter = past.map_or_else(|| self.book.chapter(), |(chapter, _)| chapter);
        let common = &self.book.common;
        let mut scan = self.client.scan_prefix(self.book.prefix(chapter));
        if random.random_ratio(1, ANY_REPLICA_IN) {
            scan = scan.from_any_replica();
        }
        if let Some((_, at)) = past {
            scan = scan.at(at);
        }
        let invoked = common.moment();
        let mut stream = scan.stream();
        let mut rows: Vec<(Key, Record)> = stream.try_next().await?.into_iter().collect();
        // As of when it reads is known from its first row on.
        let known = common.moment();
        while let Some(row) = stream.try_next().await? {
            rows.push(row);
        }
        let completed = common.moment();
        let Some(revision) = stream.revision() else {
            common.world.violation("a scan has ended and tells no revision");
            return Ok(());
        };
        common.count(if past.is_some() { PAST } else { SNAPSHOTS });
        for wrong in judge(&rows) {
            common.world.violation(format!("snapshots: as of {revision}: {wrong}"));
        }
        let level = if past.is_some() { Level::At(revision) } else { Level::Snapshot(revision) };
        let (start, end) = self.book.bounds(chapter);
        let (process, client) = (self.process, u64::from(self.process.0));
        let descending = false;
        let read = Read { process, client, invoked, known, completed, level, start, end, rows, descending };
        self.book.read(chapter, read);
        self.last = Some((chapter, revision));
        Ok(())
    }
}

/// What can't be so in one snapshot.
fn judge(rows: &[(Key, Record)]) -> Vec<String> {
    let shown: BTreeMap<String, &Record> =
        rows.iter().map(|(key, record)| (key.to_string(), record)).collect();
    let mut wrong = Vec::new();
    for (key, record) in &shown {
        // The letter stands between the tag's brace and the writer's name.
        let Some((before, after)) = key.split_once('}') else { continue };
        let half_of = |letter: char, other: char| {
            let writer = after.strip_prefix(letter)?;
            Some(format!("{before}}}{other}{writer}"))
        };
        if let Some(other) = half_of('a', 'b').or_else(|| half_of('b', 'a')) {
            let there = shown.get(&other).map(|half| (&half.value, half.revision));
            if there != Some((&record.value, record.revision)) {
                wrong.push(format!("{key} is {record:?} and {other} is {there:?}"));
            }
        } else {
            let text = String::from_utf8_lossy(&record.value);
            let followed = text.split_once(' ').and_then(|(key, at)| Some((key, Revision(at.parse().ok()?))));
            let is_there =
                followed.is_some_and(|(half, at)| shown.get(half).is_some_and(|half| half.revision >= at));
            if !is_there {
                wrong.push(format!("{key} follows {text}, which is not there"));
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(key: &str, value: &'static str, revision: u64) -> (Key, Record) {
        let revision = Revision(revision);
        (Key::new(key.to_owned()).unwrap(), Record { value: value.into(), revision, ..Record::default() })
    }

    #[test]
    fn pairs_are_whole_and_nothing_is_ahead_of_what_it_follows() {
        let [a, b] = [row("s/0/{g1}a7", "4", 9), row("s/0/{g1}b7", "4", 9)];
        let follower = row("s/0/{g2}c7", "s/0/{g1}a7 9", 10);
        assert!(judge(&[]).is_empty());
        assert!(judge(&[a.clone(), b.clone()]).is_empty());
        assert!(judge(&[a.clone(), b.clone(), follower.clone()]).is_empty());
        // Half of a pair, twice.
        assert_eq!(judge(std::slice::from_ref(&a)).len(), 1);
        assert_eq!(judge(&[a.clone(), row("s/0/{g1}b7", "3", 8)]).len(), 2);
        // The pair, as it was before it was followed; and no pair.
        assert_eq!(judge(&[row("s/0/{g1}a7", "3", 8), row("s/0/{g1}b7", "3", 8), follower.clone()]).len(), 1);
        assert_eq!(judge(&[follower]).len(), 1);
    }
}
