//! One simulated node: what outlives its process (disk, engine, clock), and the platform that it stands on.

use std::{
    any::Any,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, future::BoxFuture};
use kvd_proto::net::{Dialer, Listen};
use kvd_raft::{blocking::Blocking, clock::Clock, observe::Observer};
use kvd_server::{config::Config, metrics::Metrics, node, platform::Platform};
use kvd_storage::{
    disk::{self, Crash, Disk, SimDisk},
    engine::{Engine, MemoryEngine},
    log::{Driver, Writer},
};
use parking_lot::Mutex;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{
    network::card::{Card, CardDial, CardPort},
    process,
    witness::Witness,
};

/// Where a node's data directory is on its disk.
const DATA_DIR: &str = "/data";
/// How often the log tries again to make the files that a full disk had no room for.
const LOG_RETRY_INTERVAL: Duration = Duration::from_secs(1);
/// The time of day at which simulations begin: 2026-01-01, in milliseconds since the Unix epoch.
pub(crate) const EPOCH_MS: u64 = 1_767_225_600_000;

/// A node of a simulation, through all its starts.
pub(crate) struct NodeCell {
    pub(crate) name: Arc<str>,
    pub(crate) index: usize,
    pub(crate) config: Config,
    /// Its machine's.
    pub(crate) card: Arc<Card>,
    pub(crate) state: Mutex<NodeState>,
    witness: Arc<Witness>,
}

/// What faults change.
pub(crate) struct NodeState {
    pub(crate) disk: SimDisk,
    pub(crate) engine: Arc<MemoryEngine>,
    /// Counts the empty disks that the node was given.
    pub(crate) generation: u64,
    /// Counts the boots of its machine.
    boot: u64,
    /// What is wrong with its clock, in milliseconds.
    pub(crate) clock_offset_ms: i64,
    /// How long a sync of the log takes, at least and at most, in microseconds.
    pub(crate) sync_us: (u64, u64),
    stop: CancellationToken,
    is_running: bool,
    /// The last process ended in good order, and nothing has happened since.
    has_closed: bool,
    /// Why the last process ended by itself, if it failed.
    failed: Option<String>,
    /// The runtime of its process.
    runtime: Option<tokio::runtime::Id>,
    /// Crash when this failpoint is passed.
    pub(crate) crash_at: Option<&'static str>,
    /// It was passed: the disk is dead, and the process must be gone before the next tick.
    has_crashed: bool,
    /// The disk was told to lie, and may have done so since.
    lies_armed: bool,
    /// The number of the disk's operation behind the last one that it is to lie about.
    lies_until: u64,
    /// This disk was told to lie at some time.
    is_liar: bool,
    /// Whether the process is to be started when it has ended.
    pub(crate) is_wanted: bool,
    rng: StdRng,
}

impl NodeCell {
    pub(crate) fn new(index: usize, config: Config, seed: u64, witness: Arc<Witness>) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = new_disk(&mut rng);
        let state = NodeState {
            disk,
            engine: Arc::default(),
            generation: 0,
            boot: 0,
            clock_offset_ms: 0,
            sync_us: (50, 2000),
            stop: CancellationToken::new(),
            is_running: false,
            has_closed: false,
            failed: None,
            runtime: None,
            crash_at: None,
            has_crashed: false,
            lies_armed: false,
            lies_until: 0,
            is_liar: false,
            is_wanted: true,
            rng,
        };
        Self {
            name: name(index).into(),
            index,
            config,
            card: Arc::default(),
            state: Mutex::new(state),
            witness,
        }
    }

    /// One process of the node, from start to end.
    pub(crate) async fn run(self: Arc<Self>) {
        let stop = CancellationToken::new();
        {
            let mut state = self.state.lock();
            state.stop = stop.clone();
            state.is_running = true;
            state.has_closed = false;
            state.failed = None;
            state.runtime = Some(tokio::runtime::Handle::current().id());
            if std::mem::take(&mut state.lies_armed) {
                // What it was told of lies it forgets, so that none befalls a file of the node's identity as it starts.
                state.disk = state.disk.crash(Crash::Killed);
            }
        }
        let (generation, disk) = {
            let state = self.state.lock();
            (state.generation, state.disk.clone())
        };
        self.witness.started(self.index);
        let platform = SimPlatform {
            observer: self.witness.observer(self.index, generation, disk, Path::new(DATA_DIR)),
            cell: Arc::clone(&self),
            log_work: Arc::default(),
        };
        let metrics = Arc::new(Metrics::new("simulation"));
        let ended = node::run_on(Arc::new(platform), self.config.clone(), stop, metrics).await;
        let mut state = self.state.lock();
        state.is_running = false;
        state.has_closed = ended.is_ok();
        state.failed = ended.err().map(|error| format!("{error:#}"));
        if let Some(why) = &state.failed {
            tracing::info!(node = %self.name, why, "a node has stopped by itself");
        }
    }

    /// Whether it has yet to be started for the first time.
    pub(crate) fn never_ran(&self) -> bool {
        self.state.lock().runtime.is_none()
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state.lock().is_running
    }

    /// Whether the last process ended in good order, and nothing has happened since.
    pub(crate) fn has_closed(&self) -> bool {
        self.state.lock().has_closed
    }

    /// Why the node ended by itself; forgotten with this.
    pub(crate) fn take_failure(&self) -> Option<String> {
        self.state.lock().failed.take()
    }

    pub(crate) fn runs_on(&self, runtime: tokio::runtime::Id) -> bool {
        // Passed under the state's own lock, a failpoint is passed by nobody.
        self.state.try_lock().is_some_and(|state| state.runtime == Some(runtime))
    }

    /// A failpoint is passed.
    pub(crate) fn pass(&self, name: &'static str) {
        let Some(mut state) = self.state.try_lock() else { return };
        if state.crash_at == Some(name) {
            state.crash_at = None;
            state.has_crashed = true;
            // From the next operation on.
            let next = state.disk.operations();
            state.disk.cut_power_at(next);
        }
    }

    /// Whether the process has crashed at a failpoint; forgotten with this.
    pub(crate) fn take_crash(&self) -> bool {
        std::mem::take(&mut self.state.lock().has_crashed)
    }

    /// Tells the process to stop in good order.
    pub(crate) fn stop(&self) {
        self.state.lock().stop.cancel();
    }

    /// So many operations on the disk from one on will be reported done and not be, as far as they can be.
    pub(crate) fn lie(&self, lie: disk::Fault, after: u64, count: u64) {
        let mut state = self.state.lock();
        let first = state.disk.operations() + after;
        // A write and its sync.
        let until = first + 2 * count;
        (first..until).for_each(|operation| state.disk.fault_at(operation, lie));
        state.lies_until = until;
        state.lies_armed = true;
        state.is_liar = true;
    }

    /// Whether the disk may lie yet.
    pub(crate) fn is_to_be_lied_to(&self) -> bool {
        let state = self.state.lock();
        state.lies_armed && state.disk.operations() < state.lies_until
    }

    /// Whether the disk has lied to the process that runs or ran last.
    pub(crate) fn was_lied_to(&self) -> bool {
        self.state.lock().was_lied_to()
    }

    /// Whether the process ended for an identity that a lie has damaged as the one before stopped, which is for a person to judge.
    pub(crate) fn has_lost_identity(&self, why: &str) -> bool {
        self.state.lock().is_liar && why.contains("damaged data in /data/IDENTITY")
    }

    /// What the end of the process leaves: to be called before it is ended. With a power cut the machine boots anew. A disk that
    /// has lied is not believed after an end like this.
    pub(crate) fn crash(&self, crash: Crash) {
        if self.was_lied_to() {
            return self.lose_disk();
        }
        let mut state = self.state.lock();
        state.lies_armed = false;
        state.disk = state.disk.crash(crash);
        state.engine = Arc::new(state.engine.after_crash());
        if crash != Crash::Killed {
            state.boot += 1;
        }
        state.is_running = false;
        state.has_closed = false;
    }

    /// The disk is lost, and a new one is put in.
    pub(crate) fn lose_disk(&self) {
        let mut state = self.state.lock();
        state.disk = new_disk(&mut state.rng);
        state.lies_armed = false;
        state.is_liar = false;
        state.engine = Arc::default();
        state.generation += 1;
        state.boot += 1;
        state.is_running = false;
        state.has_closed = false;
    }
}

impl NodeState {
    fn was_lied_to(&self) -> bool {
        self.lies_armed && !self.disk.faults_met().is_empty()
    }
}

pub(crate) fn name(index: usize) -> String {
    format!("node-{}", index + 1)
}

fn new_disk(rng: &mut StdRng) -> SimDisk {
    SimDisk::with_dir(rng.random(), Path::new(DATA_DIR))
}

/// What a simulated node's process stands on.
struct SimPlatform {
    cell: Arc<NodeCell>,
    observer: Arc<dyn Observer>,
    log_work: Arc<Notify>,
}

impl std::fmt::Debug for SimPlatform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimPlatform({})", self.cell.name)
    }
}

impl Platform for SimPlatform {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Listen>>> {
        CardPort::bind(&self.cell.card, (Ipv4Addr::UNSPECIFIED, address.port()).into()).boxed()
    }

    fn dialer(&self) -> Dialer {
        Dialer::new(Arc::new(CardDial(Arc::clone(&self.cell.card))))
    }

    fn disk(&self) -> Arc<dyn Disk> {
        Arc::new(self.cell.state.lock().disk.clone())
    }

    fn lock(&self, _dir: &Path) -> kvd_storage::Result<Box<dyn Any + Send + Sync>> {
        Ok(Box::new(()))
    }

    fn boot_id(&self) -> String {
        self.cell.state.lock().boot.to_string()
    }

    fn engine(&self) -> Option<Arc<dyn Engine>> {
        Some(Arc::clone(&self.cell.state.lock().engine) as _)
    }

    fn clock(&self) -> Arc<dyn Clock> {
        Arc::new(SimClock(Arc::clone(&self.cell)))
    }

    fn blocking(&self) -> Blocking {
        Blocking::Inline
    }

    fn log_writer(&self) -> Writer {
        Writer::Driven
    }

    fn log_opened(&self, driver: Driver) {
        let (cell, work) = (Arc::clone(&self.cell), Arc::clone(&self.log_work));
        // Ends with the process.
        tokio::spawn(async move {
            let mut retry = tokio::time::interval(LOG_RETRY_INTERVAL);
            loop {
                tokio::select! {
                    () = work.notified() => {}
                    _ = retry.tick() => {
                        driver.replenish();
                        continue;
                    }
                }
                let took = {
                    let mut state = cell.state.lock();
                    let (least, most) = state.sync_us;
                    Duration::from_micros(state.rng.random_range(least..=most))
                };
                tokio::time::sleep(took).await;
                driver.write();
            }
        });
    }

    fn log_has_work(&self) {
        self.log_work.notify_one();
    }

    fn random(&self) -> u128 {
        self.cell.state.lock().rng.random()
    }

    fn observer(&self) -> Option<Arc<dyn Observer>> {
        Some(Arc::clone(&self.observer))
    }
}

/// A node's time of day: the simulation's, and what is wrong with it.
struct SimClock(Arc<NodeCell>);

impl Clock for SimClock {
    fn unix_ms(&self) -> u64 {
        let elapsed = process::elapsed();
        let now_ms = EPOCH_MS.saturating_add(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        now_ms.saturating_add_signed(self.0.state.lock().clock_offset_ms)
    }
}
