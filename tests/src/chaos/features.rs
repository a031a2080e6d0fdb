//! Clients that use what the store does beside reading and writing single keys, while the faults are at work: watches, snapshots,
//! locks, and reads from any replica.
//!
//! # The approach
//! Four workloads of a few tasks each run beside the [`load`], at a rate that leaves its character to the run.
//! Each has keys of its own and a judge: what was seen of many keys at many revisions goes into a [`book`] and
//! to [`kvd_testkit::check::versions`], what holders of a lock did goes to [`kvd_testkit::check::locks`]; what one task
//! knows by itself it judges on the spot. All use one recorder's moments, so that "before" and "after" mean the same to all.
//!
//! # Invariants
//! - An error of the kinds that faults cause is none of a judge's business; a write that failed so may have been made or
//!   not, as it says.
//! - A turn that has not ended after three minutes is a violation: every request has a deadline.
//! - A run in which a judge had nothing to judge is a violation.
//!
//! # What it deliberately does not do
//! It doesn't judge how soon a watcher is told, who gets a lock next, or how recent a snapshot is beyond what was finished before.

mod book;
mod locks;
mod sessions;
mod snapshots;
mod watches;

use std::{
    collections::BTreeMap,
    fs,
    future::Future,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result};
use kvd_client::{Client, Error, ShardId};
use kvd_testkit::history::{Moment, Process, Recorder};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use self::{
    book::Book,
    locks::{Contender, Register},
    sessions::Session,
    snapshots::{Pairs, Photographer},
    watches::{Author, Watcher},
};
use super::{load, log::say, world::World};

/// How long each request is tried.
const DEADLINE: Duration = Duration::from_secs(3);
/// After a request that failed.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(200);
/// A turn is a few requests, each with a deadline of a few seconds; a slow machine is no violation.
const TURN_MAX: Duration = Duration::from_secs(180);
/// These clients' processes begin here, far from those of the load.
const FIRST_PROCESS: u32 = 500;
/// What the judges went by, for whoever looks into a violation.
const EVIDENCE: &str = "features.txt";
const AUTHORS: usize = 2;
const PAIR_WRITERS: usize = 2;
const SESSIONS: usize = 2;
const CONTENDERS: usize = 3;
/// What must have been counted in a run that is worth anything.
const NEEDED: &[&str] = &[
    watches::TOLD,
    snapshots::SNAPSHOTS,
    locks::FENCED,
    locks::OLD_FENCES,
    locks::REFUSED,
    sessions::BY_FOLLOWERS,
];
/// How long a healthy cluster may take for that.
const NEEDED_WITHIN: Duration = Duration::from_secs(60);

/// What all of them share.
pub(super) struct Common {
    world: Arc<World>,
    recorder: Recorder,
    /// A tag of each shard's, in its braces: keys that contain it are in there.
    tags: Vec<(ShardId, String)>,
    stop: AtomicBool,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl Common {
    fn moment(&self) -> Moment {
        self.recorder.moment()
    }

    fn count(&self, what: &'static str) {
        *self.counts.lock().unwrap().entry(what).or_default() += 1;
    }

    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Any shard and its tag.
    fn any_tag(&self, random: &mut StdRng) -> (ShardId, &str) {
        let (shard, tag) = &self.tags[random.random_range(0..self.tags.len())];
        (*shard, tag)
    }
}

/// A client that does one thing after the other.
trait Worker: Send + 'static {
    /// Between two turns, at most.
    const PAUSE_MAX: Duration;

    /// Does something, by chance.
    fn turn(&mut self, random: &mut StdRng) -> impl Future<Output = Result<(), Error>> + Send;
}

async fn work<W: Worker>(common: Arc<Common>, mut worker: W, mut random: StdRng) {
    while !common.is_over() {
        match timeout(TURN_MAX, worker.turn(&mut random)).await {
            Ok(Ok(())) => sleep(W::PAUSE_MAX.mul_f64(random.random_range(0.0..=1.0))).await,
            Ok(Err(error)) => {
                load::judge_failure(&common.world, &error);
                sleep(PAUSE_AFTER_FAILURE).await;
            }
            Err(_elapsed) => {
                let who = std::any::type_name::<W>();
                common.world.violation(format!("a turn of {who} has not ended after {TURN_MAX:?}"));
            }
        }
    }
}

/// All of these clients.
pub(crate) struct Features {
    common: Arc<Common>,
    watched: Arc<Book>,
    snapshots: Arc<Book>,
    sessions: Arc<Book>,
    register: Arc<Register>,
    tasks: JoinSet<()>,
    watcher: Option<JoinHandle<Watcher>>,
    client: Client,
    has_finished: bool,
}

impl Features {
    /// Starts them, against a healthy cluster.
    pub(crate) async fn start(
        world: &Arc<World>,
        recorder: &Recorder,
        tags: Vec<(ShardId, String)>,
        seed: u64,
    ) -> Result<Self> {
        let common = Arc::new(Common {
            world: Arc::clone(world),
            recorder: recorder.clone(),
            tags,
            stop: AtomicBool::new(false),
            counts: Mutex::default(),
        });
        let client = connect(world).await?;
        let mut features = Self {
            watched: Book::new(&common, "watched", usize::MAX),
            snapshots: Book::new(&common, "snapshots", snapshots::CHAPTER_ENTRIES),
            sessions: Book::new(&common, "sessions", sessions::CHAPTER_ENTRIES),
            register: Arc::default(),
            tasks: JoinSet::new(),
            watcher: None,
            client: client.clone(),
            has_finished: false,
            common,
        };
        let mut process = FIRST_PROCESS;
        let mut next = || {
            process += 1;
            (Process(process), StdRng::seed_from_u64(seed.wrapping_add(u64::from(process))))
        };
        let (watching, random) = next();
        let clients = [client.clone(), connect(world).await?];
        let watcher = Watcher::begin(&features.watched, clients, watching).await;
        let watcher = watcher.context("a watch of a healthy cluster doesn't begin")?;
        features.watcher = Some(tokio::spawn(watcher.watch(random)));
        for _ in 0..AUTHORS {
            let (process, random) = next();
            features.spawn(Author::new(&features.watched, client.clone(), process), random);
        }
        for _ in 0..PAIR_WRITERS {
            let (process, random) = next();
            features.spawn(Pairs::new(&features.snapshots, connect(world).await?, process), random);
        }
        let (process, random) = next();
        features.spawn(Photographer::new(&features.snapshots, client, process), random);
        for _ in 0..SESSIONS {
            let (process, random) = next();
            features.spawn(Session::new(&features.sessions, connect(world).await?, process), random);
        }
        for _ in 0..CONTENDERS {
            let (_, random) = next();
            let contender = Contender::new(&features.common, &features.register, connect(world).await?);
            features.spawn(contender, random);
        }
        Ok(features)
    }

    fn spawn(&mut self, worker: impl Worker, random: StdRng) {
        self.tasks.spawn(work(Arc::clone(&self.common), worker, random));
    }

    /// How many tasks there are.
    pub(crate) fn tasks(&self) -> usize {
        self.tasks.len() + usize::from(self.watcher.is_some())
    }

    /// Stops all after what they have under way; of a cluster that is healthy, not before there is something to judge.
    pub(crate) async fn stop(&mut self, is_healthy: bool) {
        let until = Instant::now() + NEEDED_WITHIN;
        while is_healthy && self.missing().is_some() && Instant::now() < until {
            sleep(PAUSE_AFTER_FAILURE).await;
        }
        self.common.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no client panics");
        }
    }

    /// Is told the rest, of a healthy cluster, and reads what is left.
    pub(crate) async fn finish(&mut self) -> Result<()> {
        if let Some(watcher) = self.watcher.take() {
            watcher.await.context("the watcher")?.finish().await;
        }
        self.register.finish(&self.client).await.context("in the end a lock's register can't be read")?;
        self.has_finished = true;
        Ok(())
    }

    /// Judges what they were told. What the judges go by is written to a file in this directory if anything was wrong in the run.
    pub(crate) fn judge(&self, dir: &Path) -> Result<()> {
        let world = &self.common.world;
        let books = [&self.watched, &self.snapshots, &self.sessions];
        for violation in books.iter().flat_map(|book| book.judge()).chain(self.register.judge()) {
            world.violation(violation);
        }
        if let Some(missing) = self.missing()
            && self.has_finished
            && world.violations().is_empty()
        {
            world.violation(format!("there was nothing to judge: no {missing}"));
        }
        // Some was found on the spot, while they were at work.
        if !world.violations().is_empty() {
            let text: String = books.map(ToString::to_string).concat();
            fs::write(dir.join(EVIDENCE), format!("{text}{}", self.register))?;
            say(&format!("what the judges of features went by is beside the history, in {EVIDENCE}"));
        }
        Ok(())
    }

    /// Something without which there is nothing to judge.
    fn missing(&self) -> Option<&'static str> {
        let counts = self.common.counts.lock().unwrap();
        NEEDED.iter().copied().find(|needed| !counts.contains_key(needed))
    }

    /// What was done, and judged.
    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.common.counts.lock().unwrap().clone()
    }
}

async fn connect(world: &World) -> Result<Client> {
    world.client(|config| config.deadline(DEADLINE)).await
}
