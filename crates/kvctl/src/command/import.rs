//! `import`: sets the keys of a file of JSON lines, many at a time.
//!
//! Lines are written concurrently, but two lines with the same key one after the other, so that the later one wins as
//! in the file. At the first error no more lines are begun, and those under way are waited for: what is said then is
//! exact. Lines whose outcome is unknown, or that failed, are not counted.

use std::{
    collections::{BTreeSet, HashSet},
    future::IntoFuture as _,
    io::{self, BufRead, BufReader, Read as _},
    path::Path,
};

use futures::{FutureExt as _, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use kvd_client::{Client, Key};
use tokio::sync::mpsc;

use super::{Stdout, open, progress::Progress};
use crate::{
    cli::{Format, Import},
    failure::{Failure, Result},
    line::{LINE_BYTES_MAX, parse},
};

/// Lines that are read ahead.
const LINES_AHEAD: usize = 64;

/// A line of the input.
struct Read {
    number: u64,
    text: Vec<u8>,
}

/// A line that is done with.
struct Done {
    number: u64,
    bytes: u64,
    key: Key,
    result: kvd_client::Result<()>,
}

type Failed = (u64, Failure);

pub(super) async fn import(
    client: &Client,
    arguments: &Import,
    output: &mut Stdout,
    format: Format,
) -> Result<()> {
    let (lines, total_bytes) = read(&arguments.file)?;
    let mut importer = Importer {
        client,
        progress: Progress::begin("lines", total_bytes),
        under_way: FuturesUnordered::new(),
        keys: HashSet::new(),
        written: Written::default(),
        failed: None,
    };
    importer.run(lines, usize::from(arguments.concurrency)).await;
    importer.progress.end();
    let Importer { progress, written, failed, .. } = importer;
    if format == Format::Json {
        output.imported(progress.done)?;
    }
    match failed {
        None => Ok(()),
        Some((number, cause)) => {
            let why = cause.message().unwrap_or_default();
            let message = format!(
                "line {number}: {why}\n  {} lines were written; {} certainly in. Import again from there, or all: \
                 a line that is in already does no harm.",
                progress.done,
                match written.through {
                    0 => "none from the first one on is".to_owned(),
                    through => format!("lines 1 to {through} are"),
                }
            );
            Err(Failure::Stopped { message, cause: Box::new(cause) })
        }
    }
}

/// Reads lines ahead on a thread of its own, as files and standard input block.
fn read(path: &Path) -> Result<(mpsc::Receiver<io::Result<Read>>, Option<u64>)> {
    let (input, bytes): (Box<dyn BufRead + Send>, _) = if path == Path::new("-") {
        (Box::new(BufReader::new(io::stdin())), None)
    } else {
        let file = open(path)?;
        let metadata = file.metadata()?;
        (Box::new(BufReader::new(file)), metadata.is_file().then_some(metadata.len()))
    };
    let (sender, lines) = mpsc::channel(LINES_AHEAD);
    tokio::task::spawn_blocking(move || read_lines(input, &sender));
    Ok((lines, bytes))
}

fn read_lines(mut input: impl BufRead, lines: &mpsc::Sender<io::Result<Read>>) {
    for number in 1.. {
        let mut text = Vec::new();
        // One byte more than a line may have, so that a longer one is seen as such.
        let read = input.by_ref().take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut text);
        let line = match read {
            Ok(0) => return,
            Ok(_) if text.len() > LINE_BYTES_MAX => Err(io::Error::other(format!(
                "longer than {LINE_BYTES_MAX} bytes, more than a key and a value need"
            ))),
            Ok(_) => Ok(Read { number, text }),
            Err(error) => Err(error),
        };
        let is_end = line.is_err();
        // The receiver is gone: the import has stopped.
        if lines.blocking_send(line).is_err() || is_end {
            return;
        }
    }
}

struct Importer<'a> {
    client: &'a Client,
    progress: Progress,
    under_way: FuturesUnordered<BoxFuture<'static, Done>>,
    /// The keys of the lines under way.
    keys: HashSet<Key>,
    written: Written,
    failed: Option<Failed>,
}

impl Importer<'_> {
    async fn run(&mut self, mut lines: mpsc::Receiver<io::Result<Read>>, concurrency: usize) {
        let mut read = 0;
        while self.failed.is_none() {
            tokio::select! {
                biased;
                Some(done) = self.under_way.next() => self.done(done),
                line = lines.recv(), if self.under_way.len() < concurrency => match line {
                    Some(Ok(line)) => {
                        read = line.number;
                        self.begin(line).await;
                    }
                    Some(Err(error)) => self.fail(read + 1, error.into()),
                    None => break,
                },
            }
        }
        while let Some(done) = self.under_way.next().await {
            self.done(done);
        }
    }

    async fn begin(&mut self, line: Read) {
        let number = line.number;
        let bytes = line.text.len() as u64;
        if line.text.trim_ascii().is_empty() {
            self.written.add(number);
            return;
        }
        let (key, value) = match parse(&line.text) {
            Ok(row) => row,
            Err(message) => return self.fail(number, Failure::Input(message)),
        };
        while self.keys.contains(&key) {
            match self.under_way.next().await {
                Some(done) => self.done(done),
                None => break,
            }
        }
        if self.failed.is_some() {
            return;
        }
        self.keys.insert(key.clone());
        let put = self.client.put(&key, value).into_future();
        self.under_way
            .push(put.map(move |result| Done { number, bytes, key, result: result.map(drop) }).boxed());
    }

    fn done(&mut self, done: Done) {
        self.keys.remove(&done.key);
        match done.result {
            Ok(()) => {
                self.written.add(done.number);
                self.progress.advance(done.bytes);
            }
            Err(error) => self.fail(done.number, error.into()),
        }
    }

    /// The lowest line that failed is the one to tell.
    fn fail(&mut self, number: u64, failure: Failure) {
        if self.failed.as_ref().is_none_or(|&(lowest, _)| number < lowest) {
            self.failed = Some((number, failure));
        }
    }
}

/// Up to which line all are written.
#[derive(Debug, Default)]
struct Written {
    /// All lines up to this one.
    through: u64,
    /// Lines beyond.
    beyond: BTreeSet<u64>,
}

impl Written {
    fn add(&mut self, number: u64) {
        self.beyond.insert(number);
        while self.beyond.remove(&(self.through + 1)) {
            self.through += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_in_up_to_the_first_gap() {
        let mut written = Written::default();
        for (number, through) in [(2, 0), (3, 0), (1, 3), (6, 3), (4, 4), (5, 6)] {
            written.add(number);
            assert_eq!(written.through, through, "after line {number}");
        }
        assert!(written.beyond.is_empty());
    }

    #[tokio::test]
    async fn lines_are_numbered_and_the_last_needs_no_end() {
        let (sender, mut lines) = mpsc::channel(8);
        tokio::task::spawn_blocking(move || read_lines(&b"a\n\nc"[..], &sender));
        let mut read = Vec::new();
        while let Some(line) = lines.recv().await {
            let line = line.unwrap();
            read.push((line.number, String::from_utf8(line.text).unwrap()));
        }
        assert_eq!(read, [(1, "a\n".into()), (2, "\n".into()), (3, "c".into())]);
    }

    #[tokio::test]
    async fn a_line_without_end_is_refused() {
        let (sender, mut lines) = mpsc::channel(8);
        tokio::task::spawn_blocking(move || read_lines(BufReader::new(io::repeat(b'x')), &sender));
        let error = lines.recv().await.unwrap().map(|line| line.number).unwrap_err();
        assert!(error.to_string().starts_with("longer than"), "{error}");
        assert!(lines.recv().await.is_none());
    }
}
