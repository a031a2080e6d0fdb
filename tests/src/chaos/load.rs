//! Clients at work all the time, and a record of all that they were told.
//!
//! # The approach
//! Each shard has workers of its own, so that those of a shard that doesn't answer don't leave the others without work,
//! and each shard's silence can be told. A worker puts values that nobody else puts, reads, deletes, puts on conditions,
//! and increases a counter by compare-and-set. Besides, there are readers of all shards at once, and for each machine a reader
//! that asks nobody but its node, whatever state that is in: a node that answers from the past shows there.
//!
//! Keys are used for a few hundred operations and then left for new ones: judging a key's history is a search, and a long
//! one with many clients has no end.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use kvd_client::{Client, Error, ErrorKind, Revision, ShardId};
use kvd_testkit::history::{Action, Answer, Completion, Process, Recorder, RecordingClient, Version};
use kvd_types::Key;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use reqwest::Method;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{pulse::Pulse, world::World};
use crate::http;

/// What refusals because of stored data are counted as.
pub(crate) const CORRUPTION_ANSWERS: &str = "corruption answers";
/// Workers per shard.
const WORKERS_PER_SHARD: usize = 3;
/// Readers of all shards.
const ROAMERS: usize = 2;
/// How long each request is tried.
const DEADLINE: Duration = Duration::from_secs(3);
/// Keys of a shard in use at a time.
const KEYS: u64 = 4;
/// Operations on a shard until its keys are changed for new ones.
const OPERATIONS_PER_GENERATION: u64 = 600;
/// Between two operations of a worker, at most: enough load to have something under way at every moment, and too little to
/// be a fault of its own on a small machine.
const PAUSE_MAX: Duration = Duration::from_millis(16);
/// After one that failed, and between two of a reader.
const PAUSE_LONG: Duration = Duration::from_millis(50);
/// One value in so many is long.
const LONG_VALUE_IN: u32 = 16;
const LONG_VALUE_BYTES: usize = 4096;
/// Keys that are read at once in the end.
const LAST_READS_AT_ONCE: usize = 200;
const LAST_READ_DEADLINE: Duration = Duration::from_secs(30);

/// One shard's part of the load.
#[derive(Debug)]
struct Group {
    shard: ShardId,
    /// What its keys begin with; puts them into the shard.
    tag: String,
    operations: AtomicU64,
}

impl Group {
    fn generation(&self) -> u64 {
        self.operations.load(Ordering::Relaxed) / OPERATIONS_PER_GENERATION
    }

    fn key(&self, number: u64) -> String {
        format!("{}/{}/{number}", self.tag, self.generation())
    }

    fn counter(&self) -> String {
        format!("{}/{}/counter", self.tag, self.generation())
    }
}

/// All clients.
#[derive(Debug)]
pub(crate) struct Load {
    groups: Vec<Arc<Group>>,
    recorder: Recorder,
    clients: Vec<Client>,
    stop: Arc<AtomicBool>,
    tasks: JoinSet<()>,
    /// When each shard's writes were acknowledged.
    pub(crate) pulse: Arc<Pulse>,
}

impl Load {
    /// Starts it, against a healthy cluster.
    pub(crate) async fn start(world: &Arc<World>, recorder: &Recorder, seed: u64) -> Result<Self> {
        let mut load = Self {
            groups: Vec::new(),
            recorder: recorder.clone(),
            clients: Vec::new(),
            stop: Arc::default(),
            tasks: JoinSet::new(),
            pulse: Arc::default(),
        };
        for _ in 0..WORKERS_PER_SHARD {
            load.clients.push(world.client(|config| config.deadline(DEADLINE)).await?);
        }
        load.groups = groups(&load.clients[0]).await?;
        let mut process = 0;
        let mut next = || {
            process += 1;
            (Process(process), StdRng::seed_from_u64(seed.wrapping_add(u64::from(process))))
        };
        for group in &load.groups {
            for client in &load.clients {
                let (process, random) = next();
                let worker = Worker {
                    client: RecordingClient::new(client.clone(), recorder.clone(), process),
                    process,
                    group: Arc::clone(group),
                    world: Arc::clone(world),
                    pulse: Arc::clone(&load.pulse),
                    stop: Arc::clone(&load.stop),
                    random,
                    seen: BTreeMap::new(),
                    writes: 0,
                };
                load.tasks.spawn(worker.work());
            }
        }
        for client in load.clients.iter().cycle().take(ROAMERS) {
            let (process, random) = next();
            let client = RecordingClient::new(client.clone(), recorder.clone(), process);
            load.tasks.spawn(roam(client, load.groups.clone(), Arc::clone(&load.stop), random));
        }
        for machine in &world.machines {
            let (process, random) = next();
            let resident = Resident { address: machine.http_address(), recorder: recorder.clone(), process };
            load.tasks.spawn(resident.read(load.groups.clone(), Arc::clone(&load.stop), random));
        }
        Ok(load)
    }

    /// How many tasks there are.
    pub(crate) fn tasks(&self) -> usize {
        self.tasks.len()
    }

    /// Each shard, and what keys that are to be in it have in them.
    pub(crate) fn tags(&self) -> Vec<(ShardId, String)> {
        self.groups.iter().map(|group| (group.shard, group.tag.clone())).collect()
    }

    /// Stops all after what they have under way.
    pub(crate) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no client panics");
        }
    }

    /// Reads every key that was ever used: what was acknowledged is there. Part of the history.
    pub(crate) async fn read_all(&self) -> Result<()> {
        let history = self.recorder.history();
        let mut keys: Vec<Key> = history.operations.iter().map(|operation| operation.key.clone()).collect();
        keys.sort();
        keys.dedup();
        for key in &keys {
            let of = |group: &&Arc<Group>| key.bytes().starts_with(group.tag.as_bytes());
            let group = self.groups.iter().find(of).context("a key that belongs to no group")?;
            self.recorder.set_shard(key.clone(), group.shard);
        }
        let client = self.clients.first().context("there are no clients")?;
        for part in keys.chunks(LAST_READS_AT_ONCE) {
            let invocations: Vec<_> =
                part.iter().map(|key| self.recorder.invoke(Process(0), key.clone(), Action::Get)).collect();
            let found = client.batch_get(part).deadline(LAST_READ_DEADLINE).await?;
            for (invocation, found) in invocations.into_iter().zip(&found) {
                invocation.ok(Answer::got(found.as_ref()));
            }
        }
        Ok(())
    }
}

/// A group for each shard: tags are tried until each shard has one.
async fn groups(client: &Client) -> Result<Vec<Arc<Group>>> {
    let shards = client.status().await?.topology.shards.len();
    let mut tags = BTreeMap::new();
    for number in 0.. {
        let tag = format!("{{g{number}}}");
        tags.entry(client.locate(&tag).await?.shard.id).or_insert(tag);
        if tags.len() == shards {
            break;
        }
    }
    let group = |(shard, tag)| Arc::new(Group { shard, tag, operations: AtomicU64::new(0) });
    Ok(tags.into_iter().map(group).collect())
}

/// A client of one shard.
struct Worker {
    client: RecordingClient,
    process: Process,
    group: Arc<Group>,
    world: Arc<World>,
    pulse: Arc<Pulse>,
    stop: Arc<AtomicBool>,
    random: StdRng,
    /// The newest revisions that it was told of keys.
    seen: BTreeMap<String, Revision>,
    writes: u64,
}

impl Worker {
    async fn work(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let done = self.operate().await;
            self.group.operations.fetch_add(1, Ordering::Relaxed);
            match done {
                Ok(()) => sleep(PAUSE_MAX.mul_f64(self.random.random_range(0.0..=1.0))).await,
                Err(error) => {
                    judge_failure(&self.world, &error);
                    sleep(PAUSE_LONG).await;
                }
            }
        }
    }

    /// Does one thing or another.
    async fn operate(&mut self) -> Result<(), Error> {
        let key = self.group.key(self.random.random_range(0..KEYS));
        let choice = self.random.random_range(0..100);
        let value = self.value();
        let revision = self.seen.get(&key).copied();
        match (choice, revision) {
            (0..30, _) => {
                let found = self.client.get(&key).await?;
                self.saw(key, found.map(|record| record.revision));
            }
            (30..60, _) => {
                let put = self.client.put(&key, value).await?;
                self.wrote(key, Some(put.revision));
            }
            (60..70, _) => {
                let deleted = self.client.delete(&key).await?;
                self.wrote(key, None);
                drop(deleted);
            }
            (70..80, _) => {
                let put = self.client.put_if_absent(&key, value).await?;
                let revision = put.done().map(|put| put.revision);
                self.wrote(key, revision);
            }
            (80..90, Some(revision)) => {
                let put = self.client.put_if_revision(&key, value, revision).await?;
                let revision = put.done().map(|put| put.revision);
                self.wrote(key, revision);
            }
            (90..95, Some(revision)) => {
                let deleted = self.client.delete_if_revision(&key, revision).await?;
                self.wrote(key, None);
                drop(deleted);
            }
            _ => self.increase().await?,
        }
        Ok(())
    }

    /// Increases the shard's counter by one, if nobody else does meanwhile.
    async fn increase(&mut self) -> Result<(), Error> {
        let counter = self.group.counter();
        let current = self.client.get(&counter).await?;
        let number =
            current.as_ref().and_then(|record| std::str::from_utf8(&record.value).ok()?.parse().ok());
        let next = (number.unwrap_or(0_u64) + 1).to_string();
        let put = match &current {
            None => self.client.put_if_absent(&counter, next).await?,
            Some(record) => self.client.put_if_revision(&counter, next, record.revision).await?,
        };
        if put.is_done() {
            self.beat();
        }
        Ok(())
    }

    /// A value that nobody else puts.
    fn value(&mut self) -> String {
        self.writes += 1;
        let mut value = format!("{}.{}", self.process, self.writes);
        if self.random.random_ratio(1, LONG_VALUE_IN) {
            let bytes = self.random.random_range(0..LONG_VALUE_BYTES);
            value.push('.');
            value.extend(std::iter::repeat_n('x', bytes));
        }
        value
    }

    fn saw(&mut self, key: String, revision: Option<Revision>) {
        match revision {
            Some(revision) => self.seen.insert(key, revision),
            None => self.seen.remove(&key),
        };
    }

    fn wrote(&mut self, key: String, revision: Option<Revision>) {
        self.saw(key, revision);
        self.beat();
    }

    fn beat(&self) {
        self.pulse.beat(self.group.shard, self.world.now_ms());
    }
}

/// Whether a correct request may fail so; notes it if not.
pub(crate) fn judge_failure(world: &World, error: &Error) {
    if error.kind == ErrorKind::Corruption {
        world.count(CORRUPTION_ANSWERS, 1);
    }
    if !is_expected(&error.kind, world.is_any_disk_bad()) {
        world.violation(format!("a client was told {:?}: {error}", error.kind));
    }
}

/// Whether a correct request may fail so when machines, networks and disks do. Anything else is a mistake of somebody's.
const fn is_expected(kind: &ErrorKind, is_any_disk_bad: bool) -> bool {
    match kind {
        ErrorKind::NotLeader(_)
        | ErrorKind::Unavailable
        | ErrorKind::WrongShard(_)
        | ErrorKind::Overloaded { .. }
        | ErrorKind::DeadlineExceeded
        | ErrorKind::OutcomeUnknown
        | ErrorKind::SessionUnknown => true,
        ErrorKind::Corruption => is_any_disk_bad,
        ErrorKind::InvalidArgument
        | ErrorKind::Compacted { .. }
        | ErrorKind::NotFound
        | ErrorKind::FailedPrecondition
        | ErrorKind::Unauthenticated
        | ErrorKind::PermissionDenied
        | ErrorKind::Internal => false,
    }
}

/// Reads keys of all shards at once.
async fn roam(client: RecordingClient, groups: Vec<Arc<Group>>, stop: Arc<AtomicBool>, mut random: StdRng) {
    while !stop.load(Ordering::Relaxed) {
        let keys: Vec<String> = groups.iter().map(|group| group.key(random.random_range(0..KEYS))).collect();
        // What came of it is in the history.
        drop(client.batch_get(keys).await);
        sleep(PAUSE_LONG).await;
    }
}

/// Reads through one node alone.
struct Resident {
    address: SocketAddr,
    recorder: Recorder,
    process: Process,
}

impl Resident {
    async fn read(self, groups: Vec<Arc<Group>>, stop: Arc<AtomicBool>, mut random: StdRng) {
        while !stop.load(Ordering::Relaxed) {
            let group = &groups[random.random_range(0..groups.len())];
            let key = group.key(random.random_range(0..KEYS));
            let asked = Key::new(key.clone()).expect("short enough");
            let invocation = self.recorder.invoke(self.process, asked, Action::Get);
            invocation.complete(match timeout(DEADLINE, self.get(&key)).await {
                Ok(Ok(found)) => Completion::Ok(Answer::Got(found)),
                Ok(Err(error)) => Completion::Fail(format!("{error:#}")),
                Err(_elapsed) => Completion::Fail("no answer in time".to_owned()),
            });
            sleep(PAUSE_LONG).await;
        }
    }

    async fn get(&self, key: &str) -> Result<Option<Version>> {
        let key = key.replace('{', "%7B").replace('}', "%7D").replace('/', "%2F");
        let path = format!("/store/{key}?timeout_ms={}", DEADLINE.as_millis());
        let answer = http::request(Method::GET, self.address, &path, "").await?;
        match answer.status {
            200 => version(&answer.body).map(Some),
            404 => Ok(None),
            status => anyhow::bail!("{status}: {}", answer.body),
        }
    }
}

/// The record in an answer over HTTP.
fn version(body: &str) -> Result<Version> {
    let body: serde_json::Value = serde_json::from_str(body)?;
    let text = |name: &str| body[name].as_str().with_context(|| format!("no {name} in {body}"));
    Ok(Version {
        value: Some(text("value")?.to_owned().into()),
        revision: Revision(text("revision")?.parse()?),
        create_revision: Revision(text("create_revision")?.parse()?),
        version: text("version")?.parse()?,
    })
}
