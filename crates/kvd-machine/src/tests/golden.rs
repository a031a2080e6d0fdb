//! Golden scripts: one text file per claim, with what is done to a shard and, beneath, what comes of it.
//!
//! A file is a list of blocks with empty lines between them. A block of lines that start with `#` is prose. Any other one is
//! what is done, a line of dashes, and what came of it. The first line says what is done: `entry` with its time, then one
//! command per line; or something that is no entry, such as `get`. [`Shard::run`] and [`command`] have the words.
//!
//! A revision is written as the milliseconds since the scripts' beginning, a dot, and its counter: `5.0` is the first one of
//! the fifth millisecond. With `KVD_GOLDEN=rewrite` in the environment the files are written anew: read the difference.

use std::{collections::BTreeMap, fmt::Write as _, fs, path::Path, str::FromStr};

use bytes::Bytes;
use kvd_types::{
    Command, Compare, Condition, Event, LeaseCommand, LeaseId, Lifetime, LogIndex, Outcome, Proposal, Read,
    Record, Relation, Revision, SequenceNumber, SessionId, SessionPosition, ShardId, Subject, Term, Txn,
    TxnOp, TxnResult, Write, WriteOp,
    operation::{ChangesPage, Content, Filter, ScanPage},
};

use super::{NOW_MS, Replica, SHARD, key};
use crate::{AsOf, Position};

#[test]
fn scripts_come_out_as_they_are_written() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/tests/golden");
    let mut files: Vec<_> = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 12, "there were {} scripts", files.len());
    let is_rewriting = std::env::var("KVD_GOLDEN").is_ok_and(|word| word == "rewrite");
    for file in files {
        let written = fs::read_to_string(&file).unwrap();
        let found = played(&written);
        if is_rewriting {
            fs::write(&file, found).unwrap();
        } else {
            let first = written.lines().zip(found.lines()).find(|(written, found)| written != found);
            assert!(
                written == found,
                "{} is not what comes of it. The first difference is {first:?}.\n\
                 If that is meant: KVD_GOLDEN=rewrite cargo test -p kvd-machine scripts\n\n{found}",
                file.display()
            );
        }
    }
}

/// A script with what comes of it now.
fn played(script: &str) -> String {
    let mut shard = Shard { replica: Replica::new(SHARD), term: 1, age_ms: 0, sessions: Vec::new() };
    let blocks = script.trim_end().split("\n\n").map(|block| {
        if block.starts_with('#') {
            return block.to_owned();
        }
        let done = block.split("\n---").next().unwrap();
        let came = shard.run(done);
        format!("{done}\n---\n{}", came.trim_end()).trim_end().to_owned()
    });
    blocks.collect::<Vec<_>>().join("\n\n") + "\n"
}

struct Shard {
    replica: Replica,
    term: u64,
    age_ms: u64,
    sessions: Vec<SessionId>,
}

/// What follows the first word of a line: words, and words with a value (`limit=2`).
struct Words<'a> {
    plain: Vec<&'a str>,
    named: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let (named, plain) = line.split_whitespace().skip(1).partition(|word| word.contains('='));
        let _: &Vec<&str> = &named;
        Self { plain, named: named.into_iter().filter_map(|word| word.split_once('=')).collect() }
    }

    fn has(&self, word: &str) -> bool {
        self.plain.contains(&word)
    }

    fn value<T: FromStr>(&self, name: &str) -> Option<T> {
        self.named.get(name).map(|value| number(value))
    }

    fn revision(&self, name: &str) -> Option<Revision> {
        self.named.get(name).map(|value| revision(value))
    }

    fn bytes(&self, name: &str) -> Bytes {
        Bytes::from(self.named.get(name).unwrap_or(&"").replace("\\0", "\0"))
    }
}

fn number<T: FromStr>(word: &str) -> T {
    word.parse().unwrap_or_else(|_| panic!("{word:?} is no number"))
}

fn revision(word: &str) -> Revision {
    let (ms, count) = word.split_once('.').unwrap_or_else(|| panic!("{word:?} is no revision"));
    Revision(Revision::from_unix_ms(NOW_MS + number::<u64>(ms)).get() + number::<u64>(count))
}

impl Shard {
    /// Does what the lines of a block say.
    fn run(&mut self, lines: &str) -> String {
        let first = lines.lines().next().unwrap();
        let words = Words::of(first);
        let reader = self.replica.shard().reader();
        let mut came = String::new();
        match first.split_whitespace().next().unwrap() {
            "entry" => return self.entry(&words, lines),
            "restart" => {
                self.replica.save();
                let replica = std::mem::replace(&mut self.replica, Replica::new(SHARD));
                self.replica = replica.crash();
            }
            "get" => {
                let key = key(words.plain[0]);
                let found = match words.revision("at") {
                    Some(at) => reader.get_as_of(&key, at).unwrap(),
                    None => AsOf::Known(reader.get(&key).unwrap()),
                };
                came = or_compacted(found, |record| maybe(record.as_ref()));
            }
            "scan" => {
                let page = reader.page(&scan_page(&words)).unwrap();
                came = or_compacted(page, |page| {
                    let mut came = String::new();
                    for (name, record) in &page.rows {
                        writeln!(came, "{name} = {}", shown(record)).unwrap();
                    }
                    write!(came, "{} keys", page.count).unwrap();
                    page.next.map_or(came.clone(), |next| format!("{came}, next {}", bound(&next)))
                });
            }
            "changes" => {
                let asked = ChangesPage {
                    after: words.revision("after").unwrap_or_default(),
                    start: words.bytes("start"),
                    end: words.bytes("end"),
                    limit: words.value("limit").unwrap_or(0),
                    want_previous: words.has("previous"),
                    ..ChangesPage::default()
                };
                came = or_compacted(reader.events(&asked).unwrap(), |changes| {
                    let events: String = changes.events.iter().map(event).collect();
                    let more = if changes.more { ", and there is more" } else { "" };
                    format!("{events}complete up to {}{more}", at(changes.upto))
                });
            }
            "lease" => {
                came = format!("{:?}", reader.lease(LeaseId(number(words.plain[0]))).unwrap());
            }
            "stats" => {
                let stats = reader.stats();
                let (keys, due) = (stats.keys, stats.next_due_ms);
                let history = if stats.history_bytes == 0 { "no history" } else { "history" };
                came = format!(
                    "{keys} keys, {history}, next due {due:?}, last revision {}",
                    at(stats.last_revision)
                );
            }
            other => panic!("{other:?} is nothing that can be done"),
        }
        came
    }

    fn entry(&mut self, words: &Words<'_>, lines: &str) -> String {
        self.term = words.value("term").unwrap_or(self.term);
        self.age_ms = words.value("age").unwrap_or(self.age_ms);
        let position = Position { index: LogIndex(self.replica.next_index()), term: Term(self.term) };
        let proposal = Proposal {
            clock: Revision::from_unix_ms(NOW_MS + words.value("clock").unwrap_or(0)),
            age_ms: self.age_ms,
            ceiling: words.revision("ceiling").unwrap_or_default(),
            compacted: words.revision("compacted").unwrap_or_default(),
            commands: lines.lines().skip(1).map(|line| command(line.trim(), &self.sessions)).collect(),
        };
        let outcomes = self.replica.machine.apply(position, &proposal).unwrap();
        let mut came = String::new();
        for outcome in &outcomes {
            if let Outcome::SessionOpened(session) = outcome {
                self.sessions.push(*session);
                writeln!(came, "session {}", self.sessions.len()).unwrap();
            } else {
                writeln!(came, "{}", outcome_shown(outcome)).unwrap();
            }
        }
        came
    }
}

fn scan_page(words: &Words<'_>) -> ScanPage {
    ScanPage {
        start: words.bytes("start"),
        end: words.bytes("end"),
        limit: words.value("limit").unwrap_or(0),
        descending: words.has("descending"),
        content: match (words.has("keys"), words.has("count")) {
            (true, _) => Content::KeysOnly,
            (_, true) => Content::CountOnly,
            _ => Content::All,
        },
        filter: Filter {
            revision_min: words.revision("min"),
            revision_max: words.revision("max"),
            create_revision_min: words.revision("created_min"),
            create_revision_max: words.revision("created_max"),
        },
        read: Read { at: words.revision("at"), ..Read::default() },
        ..ScanPage::default()
    }
}

/// One command of an entry.
fn command(line: &str, sessions: &[SessionId]) -> Command {
    let words = Words::of(line);
    let lease = || LeaseId(number(words.plain[0]));
    let lease_command = match line.split_whitespace().next().unwrap() {
        "open_session" => return Command::OpenSession,
        "close_session" => return Command::CloseSession(sessions[number::<usize>(words.plain[0]) - 1]),
        "keep_alive" => LeaseCommand::KeepAlive(lease()),
        "expect" => LeaseCommand::Expect { lease: lease(), shard: ShardId(number(words.plain[1])) },
        "attach" => LeaseCommand::Attach { lease: lease(), not_after_ms: words.value("not_after").unwrap() },
        "detach" => LeaseCommand::Detach { lease: lease(), limit: words.value("limit").unwrap() },
        "detached" => LeaseCommand::Detached { lease: lease(), shard: ShardId(number(words.plain[1])) },
        _ => {
            let session = words.value::<usize>("session").map(|session| {
                let sequence = SequenceNumber(words.value("number").unwrap());
                let oldest_open = SequenceNumber(words.value("open").unwrap_or(1));
                SessionPosition { session: sessions[session - 1], sequence, oldest_open }
            });
            return Command::Write(Write { session, op: write_op(line, &words) });
        }
    };
    Command::Lease(lease_command)
}

fn write_op(line: &str, words: &Words<'_>) -> WriteOp {
    let condition = match words.revision("if") {
        Some(revision) => Condition::RevisionIs(revision),
        None if words.has("absent") => Condition::Absent,
        None => Condition::Always,
    };
    let want_previous = words.has("previous");
    let bytes = |index: usize| Bytes::copy_from_slice(words.plain[index].as_bytes());
    match line.split_whitespace().next().unwrap() {
        "put" => WriteOp::Put {
            key: key(words.plain[0]),
            value: bytes(1),
            lifetime: lifetime(words),
            condition,
            want_previous,
        },
        "delete" => WriteOp::Delete { key: key(words.plain[0]), condition, want_previous },
        "delete_range" => WriteOp::DeleteRange {
            shard: SHARD.shard().unwrap(),
            start: words.bytes("start"),
            end: words.bytes("end"),
            limit: words.value("limit").unwrap(),
        },
        "txn" => WriteOp::Txn(txn(line)),
        "grant" => WriteOp::GrantLease {
            lease: LeaseId(number(words.plain[0])),
            ttl_ms: words.value("ttl").unwrap(),
        },
        "revoke" => WriteOp::RevokeLease(LeaseId(number(words.plain[0]))),
        other => panic!("{other:?} is no command"),
    }
}

fn lifetime(words: &Words<'_>) -> Lifetime {
    match (words.value("ttl"), words.value("lease")) {
        (Some(ttl_ms), _) => Lifetime::Ttl(ttl_ms),
        (_, Some(lease)) => Lifetime::Lease(LeaseId(lease)),
        _ => Lifetime::Forever,
    }
}

/// `txn`, then any of `if COMPARE, …`, `then OPERATION, …` and `else OPERATION, …`.
fn txn(line: &str) -> Txn {
    // Options such as those of a session stand before.
    let part = |word: &str| {
        let rest = line.split_once(&format!(" {word} ")).map_or("", |(_, rest)| rest);
        let upto = [" then ", " else "].iter().filter_map(|next| rest.find(next)).min().unwrap_or(rest.len());
        rest[..upto].split(", ").map(str::trim).filter(|item| !item.is_empty()).collect::<Vec<_>>()
    };
    Txn {
        compares: part("if").into_iter().map(compare).collect(),
        then: part("then").into_iter().map(operation).collect(),
        otherwise: part("else").into_iter().map(operation).collect(),
    }
}

/// `version KEY = 1`, and the like.
fn compare(text: &str) -> Compare {
    let words: Vec<&str> = text.split_whitespace().collect();
    let [subject, name, relation, with] = words[..] else { panic!("{text:?} is no compare") };
    Compare {
        key: key(name),
        subject: match subject {
            "version" => Subject::Version(number(with)),
            "revision" => Subject::Revision(revision(with)),
            "created" => Subject::CreateRevision(revision(with)),
            "lease" => Subject::Lease(LeaseId(number(with))),
            "value" => Subject::Value(Bytes::copy_from_slice(with.as_bytes())),
            other => panic!("{other:?} is nothing that is compared"),
        },
        relation: match relation {
            "=" => Relation::Equal,
            "!=" => Relation::NotEqual,
            "<" => Relation::Less,
            ">" => Relation::Greater,
            other => panic!("{other:?} is no relation"),
        },
    }
}

fn operation(text: &str) -> TxnOp {
    if let Some(name) = text.strip_prefix("get ") {
        return TxnOp::Get(key(name));
    }
    match write_op(text, &Words::of(text)) {
        WriteOp::Put { key, value, lifetime, want_previous, .. } => {
            TxnOp::Put { key, value, lifetime, want_previous }
        }
        WriteOp::Delete { key, want_previous, .. } => TxnOp::Delete { key, want_previous },
        other => panic!("{other:?} is no operation of a transaction"),
    }
}

/// As [`Words::bytes`] reads it.
fn bound(key: &[u8]) -> String {
    key.escape_ascii().to_string().replace("\\x00", "\\0")
}

fn at(revision: Revision) -> String {
    match revision.unix_ms().checked_sub(NOW_MS) {
        Some(ms) => format!("{ms}.{}", revision.get() - Revision::from_unix_ms(revision.unix_ms()).get()),
        None => "the beginning".to_owned(),
    }
}

fn shown(record: &Record) -> String {
    let mut text = format!("\"{}\" at {}", record.value.escape_ascii(), at(record.revision));
    write!(text, ", created {}, version {}", at(record.create_revision), record.version).unwrap();
    record.lease.inspect(|lease| write!(text, ", lease {lease}").unwrap());
    record.expires_at_age_ms.inspect(|age_ms| write!(text, ", until age {age_ms}").unwrap());
    text
}

fn maybe(record: Option<&Record>) -> String {
    record.map_or_else(|| "nothing".to_owned(), shown)
}

/// What was replaced, if it is told.
fn previously(record: Option<&Record>) -> String {
    record.map_or_else(String::new, |record| format!(" (was {})", shown(record)))
}

fn event(Event { key: name, revision, record, previous }: &Event) -> String {
    let what = record.as_ref().map_or_else(|| "gone".to_owned(), shown);
    format!("{}: {name} = {what}{}\n", at(*revision), previously(previous.as_ref()))
}

fn or_compacted<T>(found: AsOf<T>, show: impl FnOnce(T) -> String) -> String {
    match found {
        AsOf::Known(found) => show(found),
        AsOf::Compacted { oldest } => format!("compacted: the oldest is {}", at(oldest)),
    }
}

fn outcome_shown(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Put { revision, create_revision, version, previous } => {
            let (put, created) = (at(*revision), at(*create_revision));
            format!("put at {put}, created {created}, version {version}{}", previously(previous.as_ref()))
        }
        Outcome::Deleted { revision, previous } => {
            format!("deleted at {}{}", at(*revision), previously(previous.as_ref()))
        }
        Outcome::NotFound => "not found".to_owned(),
        Outcome::ConditionFailed { current } => format!("condition failed: {}", maybe(current.as_ref())),
        Outcome::RangeDeleted { revision, deleted, next } => {
            let next = next.as_ref().map_or_else(String::new, |next| format!(", next {}", bound(next)));
            format!("deleted {deleted} keys at {}{next}", at(*revision))
        }
        Outcome::Txn { succeeded, revision, results } => {
            let branch = if *succeeded { "then" } else { "else" };
            let results: String =
                results.iter().map(|result| format!("\n  {}", result_shown(result))).collect();
            format!("{branch} at {}{results}", at(*revision))
        }
        Outcome::Lease(outcome) => format!("lease: {outcome:?}"),
        Outcome::SessionClosed => "session closed".to_owned(),
        Outcome::Refused(refusal) => format!("refused: {refusal:?}"),
        Outcome::SessionOpened(_) | Outcome::Meta(_) => panic!("{outcome:?}"),
    }
}

fn result_shown(result: &TxnResult) -> String {
    match result {
        TxnResult::Got(record) => format!("got {}", maybe(record.as_ref())),
        TxnResult::Put { create_revision, version, previous } => {
            let created = at(*create_revision);
            format!("put, created {created}, version {version}{}", previously(previous.as_ref()))
        }
        TxnResult::Deleted { existed, previous } => {
            let what = if *existed { "deleted" } else { "not found" };
            format!("{what}{}", previously(previous.as_ref()))
        }
    }
}
